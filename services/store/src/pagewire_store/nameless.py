"""People who wrote and whose names nobody told: handed out to be asked for, and written down.

Those alone who have a lane, which events and our own replies make: imported history makes none.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.mirror_service_pb2 import NamelessPerson, PersonName
from pagewire_runtime.errors import InvalidArgument
from pagewire_store.columns import TEXT, Bulk
from pagewire_store.database import driver
from pagewire_store.projecting import LOCK_CONVERSATIONS
from pagewire_store.trips import within

MOST = 1_000
"""People that one call hands out, or names."""

# In the order of an index that holds the nameless alone.
_HAND_OUT = text("""
    with due as materialized (
        select c.page_id, c.participant_id
        from conversation c join page p on p.page_id = c.page_id
        where c.participant_name is null and c.last_inbound_at is not null
            and (c.name_asked_at is null or c.name_asked_at < now() - interval '1 hour')
            and p.connected and p.state <> 'blocked'
            and exists (
                select from lane l
                where l.page_id = c.page_id and l.lane = 'person:' || c.participant_id)
        order by c.name_asked_at nulls first, c.last_inbound_at
        limit :at_most
        for update of c skip locked
    )
    update conversation c set name_asked_at = now() from due
    where c.page_id = due.page_id and c.participant_id = due.participant_id
    returning c.page_id, c.participant_id
""")

# An empty name stands for one that Graph does not tell now: a day later it may.
_NAMED = Bulk(
    """
    update conversation c
    set participant_name = coalesce(nullif(n.name, ''), c.participant_name),
        name_asked_at = case n.name
            when '' then now() + interval '23 hours' else c.name_asked_at end
    from {rows}
    where c.page_id = n.page_id and c.participant_id = n.participant_id
        and c.participant_name is distinct from n.name
        and (n.name <> '' or c.participant_name is null)
    """,
    page_id=TEXT,
    participant_id=TEXT,
    name=TEXT,
)


async def hand_out(connection: AsyncConnection, at_most: int) -> list[NamelessPerson]:
    """Whom to ask Graph about: nobody twice within an hour, nor within a day where Graph told no
    name. Raises InvalidArgument.
    """
    if at_most < 1:
        raise InvalidArgument("max_people", "must be at least 1")
    rows = await connection.execute(_HAND_OUT, {"at_most": min(at_most, MOST)})
    return [NamelessPerson(page_id=row.page_id, participant_id=row.participant_id) for row in rows]


async def record(connection: AsyncConnection, names: Iterable[PersonName]) -> None:
    """Writes names down. Raises InvalidArgument where there are too many."""
    named = {(one.page_id, one.participant_id): one.name for one in names}
    if len(named) > MOST:
        raise InvalidArgument("names", f"must be at most {MOST}")
    if named:
        people = sorted(named)
        rows = [(*person, named[person]) for person in people]
        await within(await driver(connection), LOCK_CONVERSATIONS.over(people), _NAMED.over(rows))
