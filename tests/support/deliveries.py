"""Deliveries and events by hand: one line each, on a page that is connected."""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.ingest_service_pb2 import Delivery
from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_COMMENT,
    EVENT_KIND_ECHO,
    EVENT_KIND_MESSAGE,
    ID_SPACE_COMMENTER,
    ID_SPACE_MESSAGING,
    SOURCE_LIVE,
    TRIGGER_COMMENT,
    TRIGGER_MESSAGE,
    CommentDetail,
    Event,
    MessageDetail,
)
from pagewire_store.database import Pools, open_pools
from pagewire_store.echoes import Bound
from pagewire_store.ingest import Ingestor
from pagewire_store.trips import Said
from pagewire_store.waking import Waking

PAGE = "1001"
OTHER_PAGE = "1002"
PERSON = "2001"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> Timestamp:
    """So many seconds after noon."""
    time = Timestamp()
    time.FromDatetime(NOON + timedelta(seconds=seconds))
    return time


def delivery(*events: Event, **fields: Any) -> Delivery:
    fields.setdefault("delivery_id", str(uuid.uuid4()))
    fields.setdefault("body", b'{"object":"page"}')
    fields.setdefault("signed_by", "app")
    return Delivery(receive_time=at(100), events=events, **fields)


def message(
    mid: str = "m_1",
    seconds: float = 0,
    *,
    person: str = PERSON,
    text: str = "hello",
    **fields: Any,
) -> Event:
    values: dict[str, Any] = {
        "page_id": PAGE,
        "kind": EVENT_KIND_MESSAGE,
        "trigger": TRIGGER_MESSAGE,
        "source": SOURCE_LIVE,
        "key": f"message:{mid}",
        "lane": f"person:{person}",
        "person_id": person,
        "id_space": ID_SPACE_MESSAGING,
        "event_time": at(seconds),
        "message": MessageDetail(mid=mid, text=text),
    }
    return Event(**(values | fields))


def about(kind: int, key: str, seconds: float = 0, **fields: Any) -> Event:
    """An event of the person that no rule may answer."""
    values: dict[str, Any] = {
        "page_id": PAGE,
        "kind": kind,
        "source": SOURCE_LIVE,
        "key": key,
        "lane": f"person:{PERSON}",
        "person_id": PERSON,
        "id_space": ID_SPACE_MESSAGING,
        "event_time": at(seconds),
    }
    return Event(**(values | fields))


def echo(mid: str, seconds: float = 0, text: str = "we answer", **fields: Any) -> Event:
    detail = MessageDetail(mid=mid, text=text, app_id="77")
    fields.setdefault("message", detail)
    return about(EVENT_KIND_ECHO, f"echo:{mid}", seconds, is_own=True, **fields)


def comment(
    comment_id: str = "c_1", seconds: float = 0, text: str = "price?", **fields: Any
) -> Event:
    values: dict[str, Any] = {
        "kind": EVENT_KIND_COMMENT,
        "key": f"comment:{comment_id}:add",
        "seconds": seconds,
        "trigger": TRIGGER_COMMENT,
        "lane": f"comment:{comment_id}",
        "id_space": ID_SPACE_COMMENTER,
        "person_name": "Someone",
        "comment": CommentDetail(comment_id=comment_id, post_id="p_1", text=text),
    }
    return about(**(values | fields))


class Nudges:
    """Counts what would wake waiting claims."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


class Binder:
    """Keeps what it was given to bind."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(
        self,
        connection: psycopg.AsyncConnection[Any],
        events: Sequence[Event],
        *,
        first: Sequence[Said],
    ) -> Bound:
        self.events.extend(events)
        return Bound([*first], freed=False)


class Database:
    """One plain connection to look, and to arrange, with; each statement is its own transaction."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection

    async def rows(self, query: str, *parameters: Any) -> list[Any]:
        cursor = await self.connection.execute(query.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []

    async def values(self, query: str, *parameters: Any) -> list[Any]:
        """The first column."""
        return [row[0] for row in await self.rows(query, *parameters)]

    async def value(self, query: str, *parameters: Any) -> Any:
        """The one value."""
        (row,) = await self.rows(query, *parameters)
        return row[0]

    async def connect_page(self, page_id: str = PAGE, platform: str = "messenger") -> None:
        await self.rows(
            "insert into page (page_id, platform, login, name, state, connected, connected_at)"
            " values (%s, %s, 'facebook', 'A page', 'healthy', true, now())"
            " on conflict (page_id) do update set connected = true",
            page_id,
            platform,
        )

    async def disconnect_page(self, page_id: str = PAGE) -> None:
        await self.rows("update page set connected = false where page_id = %s", page_id)


@pytest.fixture
async def pools(database_url: str) -> AsyncIterator[Pools]:
    opened = open_pools(database_url, 13)
    yield opened
    await opened.dispose()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The database, with one page connected."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        opened = Database(connection)
        await opened.connect_page()
        yield opened


def make_ingestor(pools: Pools, **others: Any) -> Ingestor:
    """One that binds and wakes nothing unless told to."""
    values: dict[str, Any] = {
        "wake": Nudges(),
        "outbox": Waking(""),
        "bind_echoes": Binder(),
        "bind_comments": Binder(),
    }
    values |= others
    return Ingestor(pools.ingest, **values)


@pytest.fixture
async def ingestor(pools: Pools, database: Database) -> AsyncIterator[Ingestor]:
    made = make_ingestor(pools)
    yield made
    await made.close()
