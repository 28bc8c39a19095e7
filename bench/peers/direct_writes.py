"""The rows that Ingest writes for a message, written without it: a transaction a webhook, or bare.

`Transactions` are what most receivers do, by a statement a table or by as few as go.
`BareCoalescer` is the limit: the same rows of all that wait in one statement that checks nothing,
so that nothing in Python can be quicker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import psycopg

from pagewire.store.v1.ingest_service_pb2 import Delivery
from pagewire_runtime.coalescing import Coalescer

_DELIVERY = b"""
insert into delivery (delivery_id, received_at, signed_by, body, events, outcome)
values (%(delivery_id)s, %(received_at)s, 'app', %(body)s, 1, 'parsed')
"""
_LANE = b"""
insert into lane as l (page_id, lane, pending, pending_since)
values (%(page_id)s, %(lane)s, 1, clock_timestamp())
on conflict (page_id, lane) do update set pending = l.pending + 1
"""
_EVENT = b"""
insert into event (
    page_id, event_key, event_id, number, lane, kind, trigger, source, person_id, event_time,
    received_at, delivery_id, state, detail)
select %(page_id)s, %(event_key)s, n, n, %(lane)s, 1, 1, 1, %(person_id)s, %(event_time)s,
    %(received_at)s, %(delivery_id)s, 'pending', %(detail)s
from nextval('event_number') n
on conflict (page_id, event_key) do nothing
"""
_ARRIVAL = b"with d as (" + _DELIVERY + b"), l as (" + _LANE + b")" + _EVENT
_CONVERSATION = b"""
insert into conversation as c
    (page_id, participant_id, updated_at, snippet, unread_count, last_inbound_at)
values (%(page_id)s, %(person_id)s, %(event_time)s, %(text)s, 1, %(event_time)s)
on conflict (page_id, participant_id) do update set
    updated_at = greatest(c.updated_at, excluded.updated_at), snippet = excluded.snippet,
    unread_count = c.unread_count + 1,
    last_inbound_at = greatest(c.last_inbound_at, excluded.last_inbound_at)
"""
_MESSAGE = b"""
insert into message (page_id, mid, participant_id, direction, kind, text, created_at)
values (%(page_id)s, %(mid)s, %(person_id)s, 'inbound', 'message', %(text)s, %(event_time)s)
on conflict (page_id, mid) do nothing
"""

_ALL = b"""
with i as materialized (
    select * from unnest(
        %s::uuid[], %s::timestamptz[], %s::bytea[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::timestamptz[], %s::bytea[], %s::text[], %s::text[]
    ) as i(delivery_id, received_at, body, page_id, lane, event_key, person_id, event_time, detail,
        mid, text)
), d as (
    insert into delivery (delivery_id, received_at, signed_by, body, events, outcome)
    select delivery_id, received_at, 'app', body, 1, 'parsed' from i
), l as (
    insert into lane as l (page_id, lane, pending, pending_since)
    select page_id, lane, count(*), clock_timestamp() from i group by 1, 2 order by 1, 2
    on conflict (page_id, lane) do update set pending = l.pending + excluded.pending
), e as (
    insert into event (
        page_id, event_key, event_id, number, lane, kind, trigger, source, person_id, event_time,
        received_at, delivery_id, state, detail)
    select page_id, event_key, nextval('event_number'), nextval('event_number'), lane, 1, 1, 1,
        person_id, event_time, received_at, delivery_id, 'pending', detail from i
    on conflict (page_id, event_key) do nothing
), c as (
    insert into conversation as c
        (page_id, participant_id, updated_at, snippet, unread_count, last_inbound_at)
    select page_id, person_id, max(event_time), max(text), count(*), max(event_time)
    from i group by 1, 2 order by 1, 2
    on conflict (page_id, participant_id) do update set
        updated_at = greatest(c.updated_at, excluded.updated_at), snippet = excluded.snippet,
        unread_count = c.unread_count + excluded.unread_count,
        last_inbound_at = greatest(c.last_inbound_at, excluded.last_inbound_at)
)
insert into message (page_id, mid, participant_id, direction, kind, text, created_at)
select page_id, mid, person_id, 'inbound', 'message', text, event_time from i
on conflict (page_id, mid) do nothing
"""


@dataclass(frozen=True)
class Row:
    """A delivery of one message, as the statements take it."""

    delivery_id: str
    received_at: datetime
    body: bytes
    page_id: str
    lane: str
    event_key: str
    person_id: str
    event_time: datetime
    detail: bytes
    mid: str
    text: str

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        (event,) = delivery.events
        return cls(
            delivery.delivery_id,
            delivery.receive_time.ToDatetime(),
            delivery.body,
            event.page_id,
            event.lane,
            event.key,
            event.person_id,
            event.event_time.ToDatetime(),
            event.SerializeToString(),
            event.message.mid,
            event.message.text,
        )


A_TABLE = (_DELIVERY, _LANE, _EVENT, _CONVERSATION, _MESSAGE)
"""A statement a table, in the order in which the tables need each other."""
THREE = (_ARRIVAL, _CONVERSATION, _MESSAGE)
"""The same with what can be merged merged."""


class Transactions:
    """A transaction of some statements a webhook, over a pool of connections."""

    def __init__(
        self, connections: Sequence[psycopg.AsyncConnection[Any]], statements: Sequence[bytes]
    ) -> None:
        self._free = list(connections)
        self._turn = asyncio.Semaphore(len(connections))  # who waits longest comes next
        self._statements = statements

    async def store(self, delivery: Delivery) -> None:
        row = vars(Row.of(delivery))
        async with self._turn:
            connection = self._free.pop()
            try:
                async with connection.transaction():
                    for statement in self._statements:
                        await connection.execute(statement, row)
            finally:
                self._free.append(connection)


class BareCoalescer:
    """All that waits in one statement, on one connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._batches: Coalescer[Row, None] = Coalescer(self._flush, max_items=256)

    async def store(self, delivery: Delivery) -> None:
        await self._batches.submit(Row.of(delivery))

    async def _flush(self, rows: list[Row]) -> list[None]:
        columns = [
            list(column) for column in zip(*(vars(row).values() for row in rows), strict=True)
        ]
        await self._connection.execute(_ALL, columns)
        return [None] * len(rows)
