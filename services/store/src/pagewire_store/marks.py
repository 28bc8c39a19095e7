"""Marks: what keeps a rule from answering one person more often than its limits allow.

A mark is a row whose key is the limit; the unique key is the guard. A released one (its reply
failed or expired) and one past its time are free for the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import psycopg

from pagewire_store.deciding import MarkWish

Connection = psycopg.AsyncConnection[Any]

# Takes a mark that is not there, or is free; no row where somebody holds it.
_TAKE = """
insert into mark as m (page_id, mark_key, event_id, rule_id, reply_id, until)
values (%(page_id)s, %(key)s, %(event_id)s, %(rule_id)s, %(reply_id)s, %(until)s)
on conflict (page_id, mark_key) do update
set event_id = excluded.event_id, rule_id = excluded.rule_id, reply_id = excluded.reply_id,
    until = excluded.until, released = false
where m.released or m.until <= %(now)s
returning mark_key
"""

# The slots of a day that are held. `~` sorts behind every digit.
_HELD = """
select mark_key from mark
where page_id = %(page_id)s and mark_key > %(key)s || ':' and mark_key < %(key)s || ':~'
  and not released
"""

# One that is not there yet has no row to lock; whoever may insert it holds its key.
_HOLD_KEYS = """
select pg_advisory_xact_lock(key)
from (
    select distinct hashtextextended(page_id || ':' || mark_key, 0) as key
    from unnest(%(pages)s::text[], %(keys)s::text[]) as n (page_id, mark_key) order by key
) k
"""

# In the same order as `_LOCK`. The slots of a day are behind its key.
_LOCK_WISHED = """
select 1 from unnest(%(pages)s::text[], %(keys)s::text[]) as n (page_id, mark_key)
join mark m on m.page_id = n.page_id
    and m.mark_key >= n.mark_key and m.mark_key < n.mark_key || ':~'
    and (m.mark_key = n.mark_key or m.mark_key > n.mark_key || ':')
order by m.page_id, m.mark_key for update of m
"""

_LOCK = """
select 1 from mark
where (page_id, reply_id) in (select * from unnest(%(pages)s::text[], %(replies)s::bigint[]))
order by page_id, mark_key for update
"""

# Marks taken over meanwhile name another reply, so that they are left alone.
_SET = """
update mark set released = %(released)s
where (page_id, reply_id) in (select * from unnest(%(pages)s::text[], %(replies)s::bigint[]))
  and released <> %(released)s
"""


async def reserve(connection: Connection, wished: Iterable[tuple[str, str]]) -> None:
    """Locks the marks of these pages and keys, there or not, so that `take` need not wait.

    For all that a transaction may take, at once: in their one order no two wait in a ring.
    """
    pairs = sorted(wished)
    named = {"pages": [page for page, _ in pairs], "keys": [key for _, key in pairs]}
    async with connection.pipeline():
        await connection.execute(_HOLD_KEYS, named)
        await connection.execute(_LOCK_WISHED, named)


async def take(
    connection: Connection,
    page_id: str,
    event_id: int,
    rule_id: str,
    reply_id: int | None,
    wishes: Sequence[MarkWish],
    now: datetime,
) -> str | None:
    """Takes every mark wished for and returns None, or takes none and returns the reason.

    `now` is the database's clock, `reply_id` the reply that the marks stand for.
    """
    named = {"page_id": page_id, "event_id": event_id, "rule_id": rule_id, "reply_id": reply_id}
    missing = None
    async with connection.transaction() as savepoint:
        for wish in wishes:
            if not await _take(connection, {**named, "now": now, "until": wish.until}, wish):
                missing = wish.reason
                raise psycopg.Rollback(savepoint)
    return missing


async def lock(connection: Connection, replies: Iterable[tuple[str, int]]) -> None:
    """Locks the marks that stand for these replies, in the one order."""
    await connection.execute(_LOCK, _named(replies))


async def release(connection: Connection, replies: Iterable[tuple[str, int]]) -> None:
    """Frees the marks that stand for these replies: they came to nothing."""
    await connection.execute(_SET, {**_named(replies), "released": True})


async def take_back(connection: Connection, replies: Iterable[tuple[str, int]]) -> None:
    """Takes back those freed marks that nobody took: the replies were accepted after all."""
    await connection.execute(_SET, {**_named(replies), "released": False})


async def _take(connection: Connection, named: dict[str, Any], wish: MarkWish) -> bool:
    if not wish.slots:
        return await _inserted(connection, {**named, "key": wish.key})
    held = await connection.execute(_HELD, {**named, "key": wish.key})
    taken = {row[0] for row in await held.fetchall()}
    for slot in range(1, wish.slots + 1):
        key = f"{wish.key}:{slot}"
        if key not in taken and await _inserted(connection, {**named, "key": key}):
            return True
    return False


async def _inserted(connection: Connection, values: dict[str, Any]) -> bool:
    cursor = await connection.execute(_TAKE, values)
    return await cursor.fetchone() is not None


def _named(replies: Iterable[tuple[str, int]]) -> dict[str, Any]:
    pairs = list(replies)
    return {"pages": [page for page, _ in pairs], "replies": [reply for _, reply in pairs]}
