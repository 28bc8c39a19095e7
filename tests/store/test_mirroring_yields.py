"""Bulk writes are the ones that lose: with the limits that the store really has."""

import asyncio

import psycopg
import pytest

from pagewire_runtime.errors import Unavailable
from pagewire_store import database as pooling
from pagewire_store.database import MIRROR, Pools
from tests.support.deliveries import Database, database, pools
from tests.support.mirror import history, make_mirror, shown, thread
from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database", "database_url", "migrated_template", "pools", "postgres_server"]


@pytest.fixture(autouse=True)
def nothing_gives_up() -> None:
    """Here it does, as it is tested when."""


ROWS = history(conversations=[thread()], messages=[shown("m_1"), shown("m_2")])
CHANGED = history(messages=[shown("m_1", text="new"), shown("m_2", text="new")])


async def test_a_chunk_lets_go_of_its_rows_while_another_holds_one_and_is_stored_afterwards(
    pools: Pools, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "YIELDING_ATTEMPTS", 1_000)
    mirror = make_mirror(pools)
    await mirror.upsert(ROWS)

    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("select from message where mid = 'm_2' for update")
        upserting = asyncio.create_task(mirror.upsert(CHANGED))
        async with asyncio.timeout(30):  # waits for what the chunk holds in the meantime
            await database.rows("select from message where mid = 'm_1' for update")
            while not await database.value("select count(*) from pg_locks where not granted"):
                await asyncio.sleep(0.005)
            await database.rows("update message set recovered = true where mid = 'm_1'")
        await other.rollback()
    answer = await upserting

    assert answer.changed == 2
    assert await database.rows("select text, recovered from message order by mid") == [
        ("new", True),
        ("new", False),
    ]


async def test_rows_that_others_hold_for_good_are_unavailable_and_nothing_of_the_chunk_is_stored(
    pools: Pools, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "YIELDING_ATTEMPTS", 2)
    mirror = make_mirror(pools)
    await mirror.upsert(ROWS)

    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("select from message where mid = 'm_2' for update")
        with pytest.raises(Unavailable):
            await mirror.upsert(CHANGED)

    assert await database.values("select distinct text from message") == ["hello"]


async def test_more_calls_than_connections_wait_for_their_turn(
    pools: Pools, database: Database
) -> None:
    mirror = make_mirror(pools, chunk_rows=1)
    calls = [
        history(conversations=[thread(str(2000 + number)), thread(str(3000 + number))])
        for number in range(20 * MIRROR)
    ]

    answers = await asyncio.gather(*map(mirror.upsert, calls))

    assert all(list(answer.new_conversations) == [0, 1] for answer in answers)
