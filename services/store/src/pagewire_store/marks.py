"""Marks: what keeps a rule from answering one person more often than its limits allow.

A mark is a row whose key is the limit; the unique key is the guard. A released one (its reply
failed or expired) and one past its time are free for the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from pagewire_store.columns import BIGINT, BOOL, TEXT, TIME, Bulk, micros
from pagewire_store.deciding import MarkWish
from pagewire_store.trips import Answer, Said

Key = tuple[str, str]
"""A page, and a limit of one of its rules."""

# One that is not there yet has no row to lock; whoever may insert it holds its key.
_HOLD_KEYS = Bulk(
    """
    select pg_advisory_xact_lock(key)
    from (
        select distinct hashtextextended(n.page_id || ':' || n.mark_key, 0) as key
        from {rows} order by key
    ) k
    """,
    page_id=TEXT,
    mark_key=TEXT,
)

# In the same order as `_LOCK`. The slots of a day are behind its key; `~` sorts behind every digit.
_LOCK_WISHED = Bulk(
    """
    select m.page_id, m.mark_key, m.released, m.until
    from {rows} join mark m on m.page_id = n.page_id
        and m.mark_key >= n.mark_key and m.mark_key < n.mark_key || ':~'
        and (m.mark_key = n.mark_key or m.mark_key > n.mark_key || ':')
    order by m.page_id, m.mark_key for update of m
    """,
    page_id=TEXT,
    mark_key=TEXT,
)

# A row of a mark that was taken stays, free or not.
_TAKE = Bulk(
    """
    insert into mark as m (page_id, mark_key, event_id, rule_id, reply_id, until)
    select page_id, mark_key, event_id, rule_id, reply_id, until from {rows} order by n.ord
    on conflict (page_id, mark_key) do update
    set event_id = excluded.event_id, rule_id = excluded.rule_id, reply_id = excluded.reply_id,
        until = excluded.until, released = false
    """,
    page_id=TEXT,
    mark_key=TEXT,
    event_id=BIGINT,
    rule_id=TEXT,
    reply_id=BIGINT,
    until=TIME,
)

_LOCK = Bulk(
    """
    select from {rows} join mark m on m.page_id = n.page_id and m.reply_id = n.reply_id
    order by m.page_id, m.mark_key for update of m
    """,
    page_id=TEXT,
    reply_id=BIGINT,
)

# Marks taken over meanwhile name another reply, so that they are left alone.
_SET = Bulk(
    """
    update mark m set released = n.released from {rows}
    where m.page_id = n.page_id and m.reply_id = n.reply_id and m.released <> n.released
    """,
    page_id=TEXT,
    reply_id=BIGINT,
    released=BOOL,
)


def reserve(wished: Iterable[Key]) -> list[Said]:
    """Locks the marks of these keys, at least one, there or not; `Reserved` reads the last answer.

    For all that a transaction may take, at once: in their one order no two wait in a ring.
    """
    keys = sorted(wished)
    return [_HOLD_KEYS.over(keys), _LOCK_WISHED.over(keys)]


class Reserved:
    """The marks that a transaction has locked, and takes."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._held = {
            (page_id, mark_key): until
            for page_id, mark_key, released, until in (answer.rows if answer else ())
            if not released
        }
        self._taken: dict[Key, tuple[int, str, int | None, int | None]] = {}

    def take(
        self,
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
        chosen: dict[Key, datetime | None] = {}
        for wish in wishes:
            keys = ((page_id, key) for key in _keys(wish))
            free = next((key for key in keys if self._is_free(key, now)), None)
            if free is None:
                return wish.reason
            chosen[free] = wish.until
        self._held.update(chosen)
        for key, until in chosen.items():
            self._taken[key] = (event_id, rule_id, reply_id, micros(until))
        return None

    def said(self) -> list[Said]:
        """Writes down what was taken."""
        rows = [(*key, *self._taken[key]) for key in sorted(self._taken)]
        return [_TAKE.over(rows)] if rows else []

    def _is_free(self, key: Key, now: datetime) -> bool:
        if key not in self._held:
            return True
        until = self._held[key]
        return until is not None and until <= now


def _keys(wish: MarkWish) -> Iterable[str]:
    if not wish.slots:
        return (wish.key,)
    return (f"{wish.key}:{slot}" for slot in range(1, wish.slots + 1))


def lock(replies: Iterable[tuple[str, int]]) -> Said:
    """Locks the marks that stand for these replies, at least one, in the one order."""
    return _LOCK.over(list(replies))


def release(replies: Iterable[tuple[str, int]]) -> Said:
    """Frees the marks that stand for these replies, at least one: they came to nothing."""
    return _SET.over([(*reply, True) for reply in replies])


def take_back(replies: Iterable[tuple[str, int]]) -> Said:
    """Takes back those freed marks that nobody took: the replies were accepted after all."""
    return _SET.over([(*reply, False) for reply in replies])
