"""Whose an echo is, or a comment of the page's own: a reply of ours, a person's, or another app's.

Called inside the ingest's transaction, after the rows of conversations, messages and comments were
written: so both sides of a reply, its echo and its answer, meet under the conversation's lock.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import namedtuple_row

from pagewire.type.v1.event_pb2 import Event
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire_runtime import metrics
from pagewire_store import settling
from pagewire_store.outbox import TAG
from pagewire_store.settling import META_INBOX_APP_ID, Connection, Ending, Reply, text_of
from pagewire_store.transitions import Signal

# Facebook gives a comment's time in whole seconds, by its own clock.
BEFORE_ATTEMPT = timedelta(seconds=5)

_echoes = metrics.counter("pagewire_echoes_total", "Echoes, by whose they are.", ["whose"])

# Replies that have the mid already: their answer came first. `limit`: one by one, by the index.
_BY_MID = """
select n.page_id, n.mid, o.reply_id
from unnest(%(pages)s::text[], %(mids)s::text[]) as n (page_id, mid)
cross join lateral (
    select reply_id from outbox o where o.page_id = n.page_id and o.mid = n.mid limit 1) o
"""

_JOIN_MESSAGE = """
update message set reply_id = %(reply_id)s
where page_id = %(page_id)s and mid = %(mid)s and reply_id is null
"""

_JOIN_COMMENT = """
update comment set reply_id = %(reply_id)s, is_own = true
where page_id = %(page_id)s and comment_id = %(mid)s and reply_id is null
"""

_INSTAGRAM = """
select page_id from page where page_id = any(%(pages)s::text[]) and platform = 'instagram'
"""

# Whose echo may still turn out to be a reply's that is in flight.
_AWAITED = """
select distinct n.page_id, n.person_id
from unnest(%(pages)s::text[], %(persons)s::text[]) as n (page_id, person_id)
join outbox o on o.page_id = n.page_id and o.state in ('sending', 'uncertain')
    and o.kind in ('message', 'private_reply') and o.person_id = n.person_id
"""

# A private reply whose person is not known yet may be to anybody. No conversation keeps its end
# away, so its row does: who ends it will find those that waited.
_AWAITED_BY_ALL = """
select page_id from outbox
where page_id = any(%(pages)s::text[]) and state in ('sending', 'uncertain')
    and kind = 'private_reply' and person_id is null
order by page_id, reply_id for share
"""

_PAUSE = """
update conversation
set automation_paused_until = greatest(automation_paused_until, %(until)s::timestamptz)
where page_id = %(page_id)s and participant_id = %(person_id)s
"""

_COMMENT_REPLIES = """
select o.page_id, o.reply_id, o.lane, o.tag, o.content, a.started_at
from unnest(%(pages)s::text[], %(lanes)s::text[]) as n (page_id, lane)
join outbox o on o.page_id = n.page_id and o.lane = n.lane
    and o.state in ('sending', 'uncertain') and o.kind = 'comment_reply'
join attempt a on a.page_id = o.page_id and a.tag = o.tag
"""


async def bind(connection: Connection, events: Sequence[Event], *, person_pause: timedelta) -> None:
    """Joins new echoes to the replies that they are of; what a person wrote pauses automation.

    By tag, whatever app id it names, else by mid. What neither explains is a person's where Meta's
    inbox sent it, or on Instagram nobody is named: there it waits while a reply is in flight.
    """
    tagged = await _by_tag(connection, events)
    bound = await _by_mid(connection, events)
    endings, written = [], []
    for event in events:
        ours = tagged.get(event.message.metadata)
        if ours is not None and ours.page_id == event.page_id:
            endings.append(_accepted(event, ours.reply_id))
            _echoes.labels("reply").inc()
        elif (number := bound.get((event.page_id, event.message.mid))) is not None:
            await connection.execute(_JOIN_MESSAGE, _joined(event, event.message.mid, number))
            _echoes.labels("reply").inc()
        elif event.message.metadata.startswith(TAG):
            # Ours, but of another page or forgotten: a row, and nothing that a person wrote.
            _echoes.labels("foreign_tag" if ours is not None else "unknown_tag").inc()
        else:
            written.append(event)
    await settling.settle(connection, endings, person_pause=person_pause, known=tagged.values())
    await _pause(connection, written, person_pause)


async def bind_comments(
    connection: Connection, events: Sequence[Event], *, person_pause: timedelta
) -> None:
    """Joins the page's own new comments to the replies that they are of: by id, else by their text.

    A reply in flight in the same lane that says the same, and was not begun after the comment was
    written, is it: only one can be.
    """
    named = [(event.page_id, event.comment.comment_id) for event in events]
    bound = await _bound(connection, named)
    in_flight = await _comment_replies(connection, events)
    endings = []
    for event in events:
        number = bound.get((event.page_id, event.comment.comment_id))
        reply = in_flight.get((event.page_id, event.lane))
        if number is not None:
            values = _joined(event, event.comment.comment_id, number)
            await connection.execute(_JOIN_COMMENT, values)
        elif reply is not None and _is_of(event, reply):
            del in_flight[event.page_id, event.lane]
            endings.append(
                Ending(
                    event.page_id,
                    reply.reply_id,
                    reply.tag,
                    Signal.ACCEPTED,
                    via="webhook",
                    mid=event.comment.comment_id,
                    at=_time(event),
                )
            )
    await settling.settle(connection, endings, person_pause=person_pause)


def _accepted(event: Event, number: int) -> Ending:
    return Ending(
        event.page_id,
        number,
        event.message.metadata,
        Signal.ACCEPTED,
        via="echo",
        mid=event.message.mid,
        recipient_id=event.person_id,
        at=_time(event),
    )


async def _by_tag(connection: Connection, events: Iterable[Event]) -> dict[str, Reply]:
    tags = [e.message.metadata for e in events if e.message.metadata.startswith(TAG)]
    return await settling.of_attempts(connection, tags) if tags else {}


async def _by_mid(connection: Connection, events: Iterable[Event]) -> dict[tuple[str, str], int]:
    return await _bound(connection, [(e.page_id, e.message.mid) for e in events if e.message.mid])


async def _bound(
    connection: Connection, named: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    if not named:
        return {}
    values = {"pages": [page for page, _ in named], "mids": [mid for _, mid in named]}
    rows = await _rows(connection, _BY_MID, values)
    return {(row.page_id, row.mid): row.reply_id for row in rows}


async def _pause(connection: Connection, events: Sequence[Event], pause: timedelta) -> None:
    """Rests automation where a person wrote, from the echo's own time."""
    instagram = await _instagram(connection, [e for e in events if not e.message.app_id])
    nameless = [e for e in events if not e.message.app_id and e.page_id in instagram]
    awaited = await _awaited(connection, nameless)
    rests = []
    for event in events:
        if event.message.app_id == META_INBOX_APP_ID:
            whose = "person"
        elif event.message.app_id or event.page_id not in instagram:
            whose = "other_app"
        else:
            waits = (event.page_id, event.person_id) in awaited
            whose = "waits" if waits else "person"
        _echoes.labels(whose).inc()
        if whose == "person":
            rests.append((event.page_id, event.person_id, _time(event) + pause))
    for page_id, person_id, until in sorted(rests):
        values = {"page_id": page_id, "person_id": person_id, "until": until}
        await connection.execute(_PAUSE, values)


async def _instagram(connection: Connection, events: Iterable[Event]) -> set[str]:
    pages = sorted({event.page_id for event in events})
    if not pages:
        return set()
    return {row.page_id for row in await _rows(connection, _INSTAGRAM, {"pages": pages})}


async def _awaited(connection: Connection, events: Sequence[Event]) -> set[tuple[str, str]]:
    if not events:
        return set()
    values = {"pages": [e.page_id for e in events], "persons": [e.person_id for e in events]}
    rows = await _rows(connection, _AWAITED, values)
    by_all = {row.page_id for row in await _rows(connection, _AWAITED_BY_ALL, values)}
    return {(row.page_id, row.person_id) for row in rows} | {
        (event.page_id, event.person_id) for event in events if event.page_id in by_all
    }


async def _comment_replies(
    connection: Connection, events: Sequence[Event]
) -> dict[tuple[str, str], Any]:
    if not events:
        return {}
    values = {"pages": [e.page_id for e in events], "lanes": [e.lane for e in events]}
    rows = await _rows(connection, _COMMENT_REPLIES, values)
    return {(row.page_id, row.lane): row for row in rows}


def _is_of(event: Event, reply: Any) -> bool:
    said = text_of(ReplyContent.FromString(reply.content))
    not_before = reply.started_at - BEFORE_ATTEMPT
    return _plain(event.comment.text) == _plain(said) and _time(event) >= not_before


def _plain(text: str) -> str:
    """The text as it survives Graph: composed, white space collapsed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _joined(event: Event, mid: str, number: int) -> dict[str, Any]:
    return {"page_id": event.page_id, "mid": mid, "reply_id": number}


def _time(event: Event) -> datetime:
    return event.event_time.ToDatetime(UTC)


async def _rows(connection: Connection, statement: str, values: Any) -> list[Any]:
    async with connection.cursor(row_factory=namedtuple_row) as cursor:
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchall()
