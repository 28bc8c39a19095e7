"""Reading in what came for a page before it was connected: stored whole, answered by no rule."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire.type.v1.event_pb2 import Event
from pagewire_store import projecting, statements
from pagewire_store.connections import Driver
from pagewire_store.database import driver, in_transaction
from pagewire_store.ingest import Bind
from pagewire_store.projections import project
from pagewire_store.trips import within
from pagewire_store.waking import Waking

CHUNK = 200
"""Events a transaction: it holds their lanes, so it must be short."""


class _Waiting(NamedTuple):
    page_id: str
    event_key: str
    lane: str
    trigger: int
    detail: bytes


class UnknownPages:
    """The sweep over events of pages that are connected now."""

    def __init__(
        self, engine: AsyncEngine, *, outbox: Waking, bind_echoes: Bind, bind_comments: Bind
    ) -> None:
        """`outbox` wakes who waits for a reply to send, where an echo frees its lane."""
        self._engine = engine
        self._outbox = outbox
        self._bind_echoes = bind_echoes
        self._bind_comments = bind_comments

    async def read_in(self) -> int:
        """Reads in up to CHUNK events and says how many; 0 when none are left that can be had now.

        Safe to call at any time and from any number of stores. Raises Unavailable.
        """

        async def work(connection: AsyncConnection) -> tuple[int, bool]:
            return await self._read_in(await driver(connection))

        seen = self._outbox.count
        read, freed = await in_transaction(self._engine, work)
        if read:
            self._outbox.wake_freed(seen, freed=freed)
        return read

    async def _read_in(self, connection: Driver) -> tuple[int, bool]:
        lanes = sorted({(event.page_id, event.lane) for event in await _readable(connection)})
        if not lanes:
            return 0, False
        (answer,) = await within(connection, statements.LOCK_LANES.over(lanes))
        locked = set(answer.rows)
        # Read again: now nobody else ends what is in these lanes.
        events = [e for e in await _readable(connection) if (e.page_id, e.lane) in locked]
        freed = bool(events) and await self._write(connection, events)
        return len(events), freed

    async def _write(self, connection: Driver, events: list[_Waiting]) -> bool:
        """Whether joining what came to replies freed a lane of the outbox."""
        rows = project(Event.FromString(event.detail) for event in events)
        said = [statements.READ_IN.over([(e.page_id, e.event_key) for e in events])]
        said += projecting.said(rows)
        if declined := [(e.page_id, e.event_key, "page_unknown") for e in events if e.trigger]:
            said.append(statements.DECLINED.over(declined))
        freed = False
        for bind, written in (
            (self._bind_echoes, rows.echoes),
            (self._bind_comments, rows.own_comments),
        ):
            if written:
                bound = await bind(connection, written, first=said)
                said, freed = [*bound.left], freed or bound.freed
        await within(connection, *said)
        return freed


async def _readable(connection: Driver) -> list[_Waiting]:
    found = await connection.execute(statements.READABLE_EVENTS, (CHUNK,))
    return [_Waiting(*row) for row in await found.fetchall()]
