import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire_store.columns import INT, TEXT, Bulk
from pagewire_store.database import Pools, driver, in_transaction
from pagewire_store.trips import BEGIN, COMMIT, ROLLBACK, Answer, Statement, trip
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

NEW_LABELS = Bulk(
    "insert into label (page_id, name) select n.page_id, n.name from {rows} order by n.ord",
    page_id=TEXT,
    name=TEXT,
)
LABELS = Bulk(
    """
    select n.ord, l.name from {rows}
    join label l on l.page_id = n.page_id and length(l.name) = n.size order by n.ord
    """,
    page_id=TEXT,
    size=INT,
)
TOO_SMALL = Statement("select 1 / $1", [23])


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as opened:
        yield opened


async def labels(rows: Rows) -> list[str]:
    return [row.name for row in await rows.query("select name from label order by name")]


async def test_what_travels_together_is_answered_in_order(
    connection: psycopg.AsyncConnection[Any],
) -> None:
    new = NEW_LABELS.over([("1", "a"), ("1", "bb")])

    answers = await trip(connection, BEGIN, new, LABELS.over([("1", 2), ("1", 1)]), COMMIT)

    assert answers == [
        Answer([], "BEGIN"),
        Answer([], "INSERT 0 2"),
        Answer([(1, "bb"), (2, "a")], "SELECT 2"),
        Answer([], "COMMIT"),
    ]


async def test_what_is_said_outside_of_a_transaction_is_one_of_its_own(
    connection: psycopg.AsyncConnection[Any], rows: Rows
) -> None:
    new = NEW_LABELS.over([("1", "a")])

    with pytest.raises(psycopg.errors.UniqueViolation):
        await trip(connection, new, new)
    nothing = await labels(rows)
    await trip(connection, new)

    assert nothing == []
    assert await labels(rows) == ["a"]


async def test_after_a_failure_the_connection_is_good_again(
    connection: psycopg.AsyncConnection[Any], rows: Rows
) -> None:
    zero = TOO_SMALL.said((0).to_bytes(4))

    with pytest.raises(psycopg.errors.DivisionByZero):
        await trip(connection, BEGIN, zero, NEW_LABELS.over([("1", "a")]), COMMIT)
    await trip(connection, ROLLBACK)
    (one,) = await trip(connection, TOO_SMALL.said((1).to_bytes(4)))

    assert one.rows == [(1,)]
    assert await labels(rows) == []


async def test_more_than_a_socket_holds_goes_both_ways(
    connection: psycopg.AsyncConnection[Any],
) -> None:
    echoed = Bulk("select n.text from {rows} order by n.ord", text=TEXT)
    large = [(letter * 1_000_000,) for letter in "abcdefgh"]

    async with asyncio.timeout(60):
        first, second = await trip(connection, echoed.over(large), echoed.over(large))

    assert first.rows == second.rows == large


async def test_statements_that_the_server_forgot_are_prepared_anew(pools: Pools) -> None:
    async def work(connection: AsyncConnection) -> list[Answer]:
        return await trip(await driver(connection), TOO_SMALL.said((1).to_bytes(4)))

    async def forget(connection: AsyncConnection) -> None:
        await (await driver(connection)).execute("deallocate all")

    await in_transaction(pools.upkeep, work)
    await in_transaction(pools.upkeep, forget)

    (one,) = await in_transaction(pools.upkeep, work)

    assert one.rows == [(1,)]


async def test_a_trip_that_is_cancelled_leaves_a_connection_that_works(
    connection: psycopg.AsyncConnection[Any], rows: Rows
) -> None:
    sleep = Statement("select pg_sleep(60)").said()
    sleeping = asyncio.ensure_future(trip(connection, sleep))
    async with asyncio.timeout(30):
        while not await rows.query("select from pg_stat_activity where wait_event = 'PgSleep'"):
            await asyncio.sleep(0.01)

    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping

    (one,) = await trip(connection, TOO_SMALL.said((1).to_bytes(4)))
    assert one.rows == [(1,)]
