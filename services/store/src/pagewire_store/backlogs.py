"""What a disconnected page left to be done: ended bit by bit, each in a short transaction."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire_store import outbox, runs
from pagewire_store.connections import Driver
from pagewire_store.database import driver

EVENTS_AT_ONCE = 1000
"""Events that one transaction ends: it holds their lanes, so it must be short."""

REASON = "page_disconnected"

_FIRST_LANES = """
select distinct lane from (
    select lane from event where page_id = %(page_id)s and state = 'pending'
    order by lane, number limit %(at_most)s) e
"""

_LOCK_LANES = """
select from lane where page_id = %(page_id)s and lane = any(%(lanes)s::text[])
order by lane for update
"""

_DECLINE = """
with ending as (
    select event_key from event
    where page_id = %(page_id)s and lane = any(%(lanes)s::text[]) and state = 'pending'
    order by lane, number limit %(at_most)s
), ended as (
    update event e set state = 'done' from ending
    where e.page_id = %(page_id)s and e.event_key = ending.event_key
    returning e.*
), declined as (
    insert into decision (page_id, event_id, trigger, outcome, reason, verdicts, book_version,
        received_at, stored_at)
    select page_id, event_id, trigger, 'declined', %(reason)s, '', 0, received_at, stored_at
    from ended on conflict (page_id, event_id) do nothing
)
select lane, count(*) from ended group by lane
"""

# A lane's count may be too high, never too low: where events are left, so is some of it.
_TELL_LANES = """
update lane l set pending_since = rest.received_at,
    pending = case when rest.received_at is null then 0 else greatest(1, l.pending - n.ended) end
from unnest(%(lanes)s::text[], %(ended)s::int[]) as n (lane, ended)
left join lateral (
    select e.received_at from event e
    where e.page_id = %(page_id)s and e.lane = n.lane and e.state = 'pending'
    order by e.number limit 1) rest on true
where l.page_id = %(page_id)s and l.lane = n.lane
"""

_HAS_READY = "select exists (select from outbox where page_id = %(page_id)s and state = 'ready')"


async def end_some(
    connection: AsyncConnection, page_id: str, *, person_pause: timedelta = timedelta()
) -> bool:
    """Ends runs, declines pending events and fails replies that wait, so many of both; False: none
    of them were left.

    For the transaction that holds the row of a page which is not connected. Where it does not end
    all, nobody is handed the rest: claims, the sweep and the page's next connecting end it.
    """
    await runs.end_of_page(connection, page_id)
    raw = await driver(connection)
    declined = await _decline(raw, page_id)
    found = await (await raw.execute(_HAS_READY, {"page_id": page_id})).fetchone()
    waited = bool(found and found[0])
    if waited:
        await outbox.fail_unsent(connection, page_id, person_pause=person_pause)
    return declined or waited


async def _decline(connection: Driver, page_id: str) -> bool:
    values = {"page_id": page_id, "at_most": EVENTS_AT_ONCE, "reason": REASON}
    found = await (await connection.execute(_FIRST_LANES, values)).fetchall()
    if not found:
        return False
    values["lanes"] = [lane for (lane,) in found]
    await connection.execute(_LOCK_LANES, values)
    ended = await (await connection.execute(_DECLINE, values)).fetchall()
    values["lanes"] = [lane for lane, _ in ended]
    values["ended"] = [count for _, count in ended]
    await connection.execute(_TELL_LANES, values)
    return True
