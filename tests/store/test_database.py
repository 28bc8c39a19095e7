import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire_runtime.errors import Unavailable
from pagewire_store.database import (
    Pools,
    driver,
    durability_gaps,
    in_transaction,
    open_pools,
    sqlstate,
)
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

NOWHERE = "postgresql://nobody@/none?host=/nonexistent"


@pytest.fixture(autouse=True)
def nothing_gives_up() -> None:
    """Here it does, as it is tested when."""


def sizes(connections: int) -> list[int]:
    opened = open_pools(NOWHERE, connections)
    engines = (opened.general, opened.upkeep)
    engine_sizes = [engine.pool.size() for engine in engines]  # type: ignore[attr-defined]
    return [opened.ingest.size, opened.live.size, *engine_sizes]


@pytest.mark.parametrize(
    ("connections", "shared"),
    [
        (4, [1, 1, 1, 1]),
        (5, [2, 1, 1, 1]),
        (6, [2, 2, 1, 1]),
        (13, [4, 4, 4, 1]),
        (26, [8, 8, 8, 2]),
    ],
)
def test_connections_are_shared_out_by_purpose(connections: int, shared: list[int]) -> None:
    assert sizes(connections) == shared


@pytest.mark.parametrize("connections", range(4, 60))
def test_no_more_connections_are_used_than_there_may_be(connections: int) -> None:
    assert sum(sizes(connections)) == connections
    assert min(sizes(connections)) >= 1


async def shown(engine: AsyncEngine, name: str) -> str:
    async with engine.connect() as connection:
        value: str = (await connection.exec_driver_sql(f"show {name}")).scalar_one()
        return value


async def test_every_session_has_its_limits(pools: Pools) -> None:
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]

    assert [await shown(pools.general, name) for name in names] == ["1200ms", "1s", "5s"]
    assert await shown(pools.upkeep, "statement_timeout") == "30s"
    assert await shown(pools.general, "search_path") == "public"
    assert await shown(pools.general, "timezone") == "UTC"


async def test_work_is_committed_once_it_returns(pools: Pools, rows: Rows) -> None:
    async def work(connection: AsyncConnection) -> int:
        await connection.execute(text("insert into label (page_id, name) values ('1', 'a')"))
        return 7

    assert await in_transaction(pools.general, work) == 7
    assert len(await rows.query("select 1 from label")) == 1


async def test_work_that_fails_leaves_nothing(pools: Pools, rows: Rows) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("insert into label (page_id, name) values ('1', 'a')"))
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        await in_transaction(pools.general, work)

    assert not await rows.query("select 1 from label")


class Failing:
    """Fails as a server would, so many times, and then returns."""

    def __init__(self, times: int, sqlstate: str) -> None:
        self.times = times
        self.sqlstate = sqlstate
        self.calls = 0

    async def __call__(self, connection: AsyncConnection) -> str:
        self.calls += 1
        if self.calls <= self.times:
            await connection.execute(
                text(f"do $$ begin raise exception using errcode = '{self.sqlstate}'; end $$")
            )
        return "done"


@pytest.mark.parametrize("state", ["40001", "40P01", "57P03", "25006"])
async def test_what_a_repeat_may_mend_is_repeated(pools: Pools, state: str) -> None:
    work = Failing(2, state)

    assert await in_transaction(pools.general, work) == "done"
    assert work.calls == 3


async def test_what_repeats_do_not_mend_is_unavailable(pools: Pools) -> None:
    work = Failing(9, "40001")

    with pytest.raises(Unavailable):
        await in_transaction(pools.general, work)

    assert work.calls == 3


@pytest.mark.parametrize("state", ["55P03", "57014"])
async def test_what_takes_too_long_is_unavailable_at_once(pools: Pools, state: str) -> None:
    work = Failing(9, state)

    with pytest.raises(Unavailable):
        await in_transaction(pools.general, work)

    assert work.calls == 1


async def test_a_mistake_is_not_repeated_and_keeps_its_name(pools: Pools) -> None:
    calls = 0

    async def work(connection: AsyncConnection) -> None:
        nonlocal calls
        calls += 1
        await connection.execute(text("insert into mark (page_id) values ('1')"))

    with pytest.raises(IntegrityError) as failed:
        await in_transaction(pools.general, work)

    assert calls == 1
    assert sqlstate(failed.value) == "23502"


async def test_an_error_of_the_driver_itself_is_repeated_too(pools: Pools) -> None:
    calls = 0

    async def work(connection: AsyncConnection) -> str:
        nonlocal calls
        calls += 1
        raw = await driver(connection)
        if calls == 1:
            await raw.execute("do $$ begin raise exception using errcode = '40001'; end $$")
        return "done"

    assert await in_transaction(pools.general, work) == "done"
    assert calls == 2


async def test_connections_that_the_server_closed_are_made_anew(pools: Pools, rows: Rows) -> None:
    async def work(connection: AsyncConnection) -> int:
        await connection.execute(text("select pg_sleep(0.05)"))
        return 1

    await asyncio.gather(*(in_transaction(pools.general, work) for _ in range(4)))
    await rows.query(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )

    done = await asyncio.gather(*(in_transaction(pools.general, work) for _ in range(4)))

    assert done == [1, 1, 1, 1]


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    opened = open_pools(NOWHERE, 4)

    async def work(connection: AsyncConnection) -> None:
        raise AssertionError("there is nothing to work on")

    with pytest.raises(Unavailable):
        await in_transaction(opened.general, work)
    await opened.dispose()


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[Pools]:
    opened = open_pools(database_url, 4)
    yield opened
    await opened.dispose()


async def test_who_finds_no_connection_free_is_told_so_soon(narrow: Pools) -> None:
    held, done = asyncio.Event(), asyncio.Event()

    async def hold(connection: AsyncConnection) -> None:
        held.set()
        await done.wait()

    async def work(connection: AsyncConnection) -> None:
        raise AssertionError("there is no connection free")

    holding = asyncio.create_task(in_transaction(narrow.general, hold))
    await held.wait()
    with pytest.raises(Unavailable):
        await in_transaction(narrow.general, work)
    done.set()
    await holding


async def test_errors_do_not_show_what_was_written(pools: Pools) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("select cast(:text as int) from nowhere"), {"text": "canary"})

    with pytest.raises(ProgrammingError) as failed:
        await in_transaction(pools.general, work)

    assert "canary" not in str(failed.value)


@pytest.mark.parametrize(("setting", "gaps"), [("on", []), ("off", ["synchronous_commit=off"])])
async def test_a_server_that_may_forget_commits_is_found_out(
    database_url: str, setting: str, gaps: list[str]
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'alter database "{name}" set synchronous_commit = {setting}'.encode())
    opened = open_pools(database_url, 4)

    found = await in_transaction(opened.upkeep, durability_gaps)
    await opened.dispose()

    # The tests' own server is made to forget for speed; what it says of the disk is not asked here.
    assert [gap for gap in found if gap.startswith("synchronous_commit")] == gaps
