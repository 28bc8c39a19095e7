"""Who waits for a conversation holds none that comes behind it, so that no two wait in a ring."""

import asyncio
from typing import Any

import psycopg
import pytest

from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_MESSAGE_DELETED,
    EVENT_KIND_REACTION,
    EVENT_KIND_READ,
    Event,
    MessageRef,
    ReactionDetail,
    ReadDetail,
)
from pagewire_store.ingest import Ingestor
from tests.support.deliveries import (
    Database,
    about,
    at,
    database,
    delivery,
    ingestor,
    message,
    pools,
)
from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database", "database_url", "ingestor", "migrated_template", "pools", "postgres_server"]


def of_the_first(kind: int, key: str, **detail: Any) -> Event:
    return about(kind, key, 50, person_id="1", lane="person:1", **detail)


QUIET = {
    "read": of_the_first(EVENT_KIND_READ, "read:1", read=ReadDetail(watermark=at(50))),
    "reaction": of_the_first(EVENT_KIND_REACTION, "reaction", reaction=ReactionDetail(mid="m_1")),
    "unsend": of_the_first(
        EVENT_KIND_MESSAGE_DELETED, "deleted:m_1", message_deleted=MessageRef(mid="m_1")
    ),
}


async def somebody_waits(database: Database) -> None:
    async with asyncio.timeout(5):
        while not await database.value("select count(*) from pg_locks where not granted"):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("event", QUIET.values(), ids=QUIET)
async def test_a_batch_locks_conversations_in_order_whatever_it_says_of_them(
    ingestor: Ingestor, database: Database, database_url: str, event: Event
) -> None:
    await ingestor.ingest([delivery(message("m_1", person="1"), message("m_2", person="2"))])

    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("select from conversation where participant_id = '1' for update")
        storing = asyncio.create_task(
            ingestor.ingest([delivery(message("m_3", 9, person="2"), event)])
        )
        await somebody_waits(database)
        found = await database.values(
            "select participant_id from conversation for update skip locked"
        )
    await storing

    assert found == ["2"]
