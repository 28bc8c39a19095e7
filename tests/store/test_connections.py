import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from pagewire_runtime.errors import Unavailable
from pagewire_store.connections import Connections, Driver, NoneFree
from pagewire_store.database import Pools, in_live_transaction
from pagewire_store.trips import BEGIN, COMMIT, Statement, trip, within
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

LABEL = Statement("insert into label (page_id, name) values ('1', 'a')")
FAILS = Statement("select 1 / 0")
SLEEPS = Statement("select pg_sleep(60)")
BACKEND = Statement("select pg_backend_pid()")


@pytest.fixture(autouse=True)
def nothing_gives_up() -> None:
    """Here it does, as it is tested when."""


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Connections]:
    """A pool of a single connection."""
    opened = Connections(database_url, 1, {"application_name": "pagewire"}, seconds=60)
    yield opened
    await opened.close()


async def backend(connections: Connections) -> int:
    async with connections.handed_out() as connection:
        ((pid,),) = (await trip(connection, BACKEND.said()))[0].rows
        return int(pid)


async def labels(rows: Rows) -> int:
    return len(await rows.query("select 1 from label"))


async def test_a_connection_is_used_again(one: Connections) -> None:
    assert await backend(one) == await backend(one)


async def test_what_is_open_at_the_end_is_committed(one: Connections, rows: Rows) -> None:
    async with one.handed_out() as connection:
        await within(connection, LABEL.said())

    assert await labels(rows) == 1


async def test_what_was_committed_by_a_trip_needs_no_other(one: Connections, rows: Rows) -> None:
    async with one.handed_out() as connection:
        await trip(connection, BEGIN, LABEL.said(), COMMIT)

    assert await labels(rows) == 1


async def test_an_error_undoes_what_is_open_and_keeps_the_connection(
    one: Connections, rows: Rows
) -> None:
    pid = await backend(one)

    async def fail() -> None:
        async with one.handed_out() as connection:
            await within(connection, LABEL.said())
            raise ArithmeticError

    async def fail_at_the_server() -> None:
        async with one.handed_out() as connection:
            await within(connection, LABEL.said(), FAILS.said())

    with pytest.raises(ArithmeticError):
        await fail()
    with pytest.raises(psycopg.errors.DivisionByZero):
        await fail_at_the_server()

    assert await labels(rows) == 0
    assert await backend(one) == pid


async def test_who_is_cancelled_in_the_middle_of_a_statement_leaves_a_connection_that_works(
    one: Connections, rows: Rows
) -> None:
    begun = asyncio.Event()

    async def sleep() -> None:
        async with one.handed_out() as connection:
            await within(connection, LABEL.said())
            begun.set()
            await trip(connection, SLEEPS.said())

    sleeping = asyncio.create_task(sleep())
    await begun.wait()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping

    assert await backend(one)
    assert await labels(rows) == 0


async def test_one_lost_connection_ends_the_idle_ones_too(database_url: str, rows: Rows) -> None:
    connections = Connections(database_url, 3, {"application_name": "to be ended"}, seconds=60)
    async with (
        connections.handed_out(),
        connections.handed_out(),
        connections.handed_out(),
    ):
        pass
    await rows.query(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'to be ended'"
    )

    with pytest.raises(psycopg.OperationalError):
        await backend(connections)

    assert await backend(connections)
    await connections.close()


async def test_a_connection_that_fails_to_be_made_holds_no_place() -> None:
    nowhere = Connections("postgresql://nobody@/none?host=/nonexistent", 1, {}, seconds=60)

    for _ in range(3):
        with pytest.raises(psycopg.OperationalError):
            await backend(nowhere)


async def test_after_one_that_failed_no_other_is_tried_for_a_moment() -> None:
    tries = 0

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    async with await asyncio.start_server(refusing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql://a@127.0.0.1:{port}/a?sslmode=disable"
        away = Connections(url, 4, {}, seconds=60, refused_for=60)
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError):
                await backend(away)

    assert tries == 1


async def test_who_finds_none_free_is_told_so_soon(one: Connections) -> None:
    async with one.handed_out():
        with pytest.raises(NoneFree):
            await backend(one)

    assert await backend(one)


async def test_transactions_on_the_driver_are_repeated_as_all_others_are(
    pools: Pools, rows: Rows
) -> None:
    calls = 0

    async def work(connection: Driver) -> str:
        nonlocal calls
        calls += 1
        await within(connection, LABEL.said())
        if calls < 3:
            raise psycopg.errors.SerializationFailure
        return "done"

    assert await in_live_transaction(pools.live, work) == "done"
    assert (calls, await labels(rows)) == (3, 1)


async def test_where_none_is_free_the_database_is_unavailable(one: Connections) -> None:
    calls = 0

    async def work(connection: Driver) -> None:
        nonlocal calls
        calls += 1

    async with one.handed_out():
        with pytest.raises(Unavailable):
            await in_live_transaction(one, work)

    assert calls == 0
