import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from pagewire_store.waking import Waking
from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database_url", "migrated_template", "postgres_server"]

LONG = 30.0
"""Seconds: a test that waits for so long has failed."""


@asynccontextmanager
async def running(*wakings: Waking) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(waking.run()) for waking in wakings]
    try:
        for waking in wakings:
            await asyncio.wait_for(waking.listening.wait(), LONG)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("listen pagewire_lanes")
        yield connection


async def heard(listener: psycopg.AsyncConnection[Any], at_least: int = 0) -> list[psycopg.Notify]:
    """What others have said, until they fall silent."""
    own, found = listener.info.backend_pid, list[psycopg.Notify]()
    async with asyncio.timeout(LONG):
        while True:
            said = [hint async for hint in listener.notifies(timeout=0.3) if hint.pid != own]
            found += said
            if not said and len(found) >= at_least:
                return found


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_waiter_is_woken_without_any_connection() -> None:
    waking = Waking("postgresql:///nowhere")
    waiter = asyncio.ensure_future(waking.wait(waking.count, LONG))
    await asyncio.sleep(0)

    waking.wake()

    assert await waiter


async def test_a_waiter_misses_nothing_that_came_while_it_was_looking() -> None:
    waking = Waking("postgresql:///nowhere")
    seen = waking.count
    waking.wake()

    assert await waking.wait(seen, LONG)
    assert not await waking.wait(waking.count, 0)


async def test_every_waiter_is_woken() -> None:
    waking = Waking("postgresql:///nowhere")
    waiters = [asyncio.ensure_future(waking.wait(waking.count, LONG)) for _ in range(5)]
    await asyncio.sleep(0)

    waking.wake()

    assert await asyncio.gather(*waiters) == [True] * 5


async def test_a_waiter_of_another_store_is_woken(database_url: str) -> None:
    here, there = Waking(database_url), Waking(database_url)

    async with running(here, there):
        waiter = asyncio.ensure_future(there.wait(there.count, LONG))
        await asyncio.sleep(0)
        here.wake()

        assert await waiter


async def test_work_of_one_sort_wakes_nobody_who_waits_for_another(database_url: str) -> None:
    here = Waking(database_url)
    same, other = Waking(database_url), Waking(database_url, "pagewire_outbox")

    async with running(here, same, other):
        before, count = other.count, same.count
        here.wake()
        await same.wait(count, LONG)

        assert other.count == before


async def test_many_wakes_are_few_hints_and_the_last_is_never_lost(database_url: str) -> None:
    waking = Waking(database_url)
    async with running(waking), listening(database_url) as listener:
        await listener.execute("notify pagewire_lanes")
        await heard(listener, at_least=1)  # it knows of the other now
        for _ in range(200):
            waking.wake()
            await asyncio.sleep(0)
        count = waking.count
        hints = await heard(listener, at_least=1)

    assert 1 <= len(hints) <= 10
    assert waking.count == count, "its own hints wake nobody a second time"


async def test_a_store_that_is_alone_sends_no_hints(database_url: str) -> None:
    waking = Waking(database_url)
    async with listening(database_url) as listener, running(waking):
        presence = await heard(listener, at_least=1)
        for _ in range(200):
            waking.wake()
            await asyncio.sleep(0)

        hints = await heard(listener)

    assert len(presence) == 1
    assert hints == []


async def test_a_store_that_comes_is_told_at_once_that_it_is_not_alone(database_url: str) -> None:
    first, second = Waking(database_url), Waking(database_url)
    async with running(first), running(second):
        for waking, other in ((first, second), (second, first)):
            async with asyncio.timeout(LONG):
                seen = other.count
                while other.count == seen:
                    waking.wake()
                    await asyncio.sleep(0.005)


async def test_a_lost_connection_is_made_anew_and_wakes_those_who_may_have_missed_a_hint(
    database_url: str,
) -> None:
    waking = Waking(database_url)
    async with (
        running(waking),
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other,
    ):
        count = waking.count
        await other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        await until(lambda: not waking.listening.is_set())

        await until(waking.listening.is_set)

        assert waking.count > count
