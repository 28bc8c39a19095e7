"""Whose an echo is, or a comment of the page's own: a reply of ours, a person's, or another app's.

Called inside the ingest's transaction, after the rows of conversations, messages and comments were
written: so both sides of a reply, its echo and its answer, meet under the conversation's lock.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pagewire.type.v1.event_pb2 import Event
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire_runtime import metrics
from pagewire_store import settling
from pagewire_store.columns import BIGINT, TEXT, TIME, Bulk, micros
from pagewire_store.connections import Driver
from pagewire_store.outbox import TAG
from pagewire_store.settling import META_INBOX_APP_ID, Ending, Key, Reply
from pagewire_store.showing import text_of
from pagewire_store.transitions import IN_FLIGHT, Signal
from pagewire_store.trips import Said, within

BEFORE_ATTEMPT = timedelta(seconds=5)
"""A comment of the reply's text that is older than its attempt by no more is the reply: Facebook
gives whole seconds, by its own clock. Not settling's `CLOCKS_DIFFER`, which may be wide as no more
than a pause hangs on it: here an older comment of the same text would count as the reply, and one
that is missed is found by a look."""

_echoes = metrics.counter("pagewire_echoes_total", "Echoes, by whose they are.", ["whose"])

# Replies that have the mid already: their answer came first. `limit`: one by one, by the index.
_BY_MID = Bulk(
    """
    select n.page_id, n.mid, o.reply_id from {rows}
    cross join lateral (
        select reply_id from outbox o where o.page_id = n.page_id and o.mid = n.mid limit 1) o
    """,
    page_id=TEXT,
    mid=TEXT,
)

_JOIN_MESSAGES = Bulk(
    """
    update message m set reply_id = n.reply_id from {rows}
    where m.page_id = n.page_id and m.mid = n.mid and m.reply_id is null
    """,
    page_id=TEXT,
    mid=TEXT,
    reply_id=BIGINT,
)

_JOIN_COMMENTS = Bulk(
    """
    update comment c set reply_id = n.reply_id, is_own = true from {rows}
    where c.page_id = n.page_id and c.comment_id = n.comment_id and c.reply_id is null
    """,
    page_id=TEXT,
    comment_id=TEXT,
    reply_id=BIGINT,
)

_INSTAGRAM = Bulk(
    """
    select distinct p.page_id
    from {rows} join page p on p.page_id = n.page_id and p.platform = 'instagram'
    """,
    page_id=TEXT,
)

# Whose echo may still turn out to be a reply's that is in flight.
_AWAITED = Bulk(
    """
    select distinct n.page_id, n.person_id
    from {rows} join outbox o on o.page_id = n.page_id and o.state in ('sending', 'uncertain')
        and o.kind in ('message', 'private_reply') and o.person_id = n.person_id
    """,
    page_id=TEXT,
    person_id=TEXT,
)

# A private reply whose person is not known yet may be to anybody. No conversation keeps its end
# away, so its row does, locked by `settle`: who ends it will find those that waited.
_TO_ANYBODY = Bulk(
    """
    select o.page_id, o.reply_id
    from {rows} join outbox o on o.page_id = n.page_id and o.state in ('sending', 'uncertain')
        and o.kind = 'private_reply' and o.person_id is null
    """,
    page_id=TEXT,
)

_PAUSE = Bulk(
    """
    update conversation c
    set automation_paused_until = greatest(c.automation_paused_until, n.until)
    from {rows} where c.page_id = n.page_id and c.participant_id = n.participant_id
    """,
    page_id=TEXT,
    participant_id=TEXT,
    until=TIME,
)

_COMMENT_REPLIES = Bulk(
    """
    select o.page_id, o.reply_id, o.lane, o.tag, o.content, a.started_at
    from {rows} join outbox o on o.page_id = n.page_id and o.lane = n.lane
        and o.state in ('sending', 'uncertain') and o.kind = 'comment_reply'
    join attempt a on a.page_id = o.page_id and a.reply_id = o.reply_id and a.tag = o.tag
    """,
    page_id=TEXT,
    lane=TEXT,
)


class _InFlight(NamedTuple):
    """A comment's reply that may have been written."""

    page_id: str
    reply_id: int
    lane: str
    tag: str
    content: bytes
    started_at: datetime


@dataclass(frozen=True)
class Bound:
    """What binding came to."""

    left: list[Said]
    """To be said before the commit, for it to be so."""
    freed: bool
    """Whether a lane may go on that could not."""


async def bind(
    connection: Driver,
    events: Sequence[Event],
    *,
    person_pause: timedelta,
    first: Sequence[Said] = (),
) -> Bound:
    """Joins new echoes to the replies that they are of; what a person wrote pauses automation.

    By tag, whatever app id it names, else by mid. What neither explains is a person's where Meta's
    inbox sent it, or on Instagram nobody is named: there it waits while a reply is in flight.
    What is to be said `first` goes along.
    """
    tagged, bound = await _found(connection, events, first)
    endings, joined, written = [], [], []
    for event in events:
        ours = tagged.get(event.message.metadata)
        if ours is not None and ours.page_id == event.page_id:
            endings.append(_accepted(event, ours.reply_id))
            _echoes.labels("reply").inc()
        elif (number := bound.get((event.page_id, event.message.mid))) is not None:
            joined.append((event.page_id, event.message.mid, number))
            _echoes.labels("reply").inc()
        elif event.message.metadata.startswith(TAG):
            # Ours, but of another page or forgotten: a row, and nothing that a person wrote.
            _echoes.labels("foreign_tag" if ours is not None else "unknown_tag").inc()
        else:
            written.append(event)
    instagram = await _instagram(connection, written)
    nameless = [e for e in written if not e.message.app_id and e.page_id in instagram]
    to_anybody = await _to_anybody(connection, nameless)
    settled = await settling.settle(
        connection,
        endings,
        person_pause=person_pause,
        known=tagged.values(),
        beside=to_anybody,
    )
    awaited_by_all = {key[0] for key in to_anybody if settled.states.get(key) in IN_FLIGHT}
    awaited = await _awaited(connection, nameless, awaited_by_all)
    left = [_JOIN_MESSAGES.over(joined)] if joined else []
    left += settled.left
    left += _pauses(written, instagram, awaited, person_pause)
    return Bound(left, settled.freed)


async def bind_comments(
    connection: Driver,
    events: Sequence[Event],
    *,
    person_pause: timedelta,
    first: Sequence[Said] = (),
) -> Bound:
    """Joins the page's own new comments to the replies that they are of: by id, else by their text.

    A reply in flight in the same lane that says the same, and was not begun after the comment was
    written, is it: only one can be. What is to be said `first` goes along.
    """
    *_, bound_rows, in_flight_rows = await within(
        connection,
        *first,
        _BY_MID.over([(event.page_id, event.comment.comment_id) for event in events]),
        _COMMENT_REPLIES.over([(event.page_id, event.lane) for event in events]),
    )
    bound = {(page_id, mid): number for page_id, mid, number in bound_rows.rows}
    replies = [_InFlight(*row) for row in in_flight_rows.rows]
    in_flight = {(reply.page_id, reply.lane): reply for reply in replies}
    endings, joined = [], []
    for event in events:
        number = bound.get((event.page_id, event.comment.comment_id))
        reply = in_flight.get((event.page_id, event.lane))
        if number is not None:
            joined.append((event.page_id, event.comment.comment_id, number))
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
    settled = await settling.settle(connection, endings, person_pause=person_pause)
    left = [_JOIN_COMMENTS.over(joined)] if joined else []
    return Bound(left + settled.left, settled.freed)


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


async def _found(
    connection: Driver, events: Iterable[Event], first: Sequence[Said]
) -> tuple[dict[str, Reply], dict[tuple[str, str], int]]:
    """The replies that echoes name by their tag, and the numbers of those that have their mid."""
    tags = [e.message.metadata for e in events if e.message.metadata.startswith(TAG)]
    mids = [(e.page_id, e.message.mid) for e in events if e.message.mid]
    said = [*first]
    if tags:
        said.append(settling.read_attempts(tags))
    if mids:
        said.append(_BY_MID.over(mids))
    if not said:
        return {}, {}
    answers = await within(connection, *said)
    by_mid = answers.pop().rows if mids else []
    by_tag = settling.by_attempt(answers.pop()) if tags else {}
    return by_tag, {(page_id, mid): number for page_id, mid, number in by_mid}


async def _instagram(connection: Driver, events: Iterable[Event]) -> set[str]:
    """Their pages where what nobody signed may be a person's."""
    pages = sorted({event.page_id for event in events if not event.message.app_id})
    if not pages:
        return set()
    (found,) = await within(connection, _INSTAGRAM.over([(page,) for page in pages]))
    return {page_id for (page_id,) in found.rows}


async def _to_anybody(connection: Driver, nameless: Iterable[Event]) -> list[Key]:
    """The replies of which each of them may be the echo."""
    pages = sorted({event.page_id for event in nameless})
    if not pages:
        return []
    (found,) = await within(connection, _TO_ANYBODY.over([(page,) for page in pages]))
    return [(page_id, reply_id) for page_id, reply_id in found.rows]


async def _awaited(
    connection: Driver, nameless: Sequence[Event], by_all: Container[str]
) -> set[tuple[str, str]]:
    """Pages with persons to whom a reply is in flight, now that what was told has landed."""
    to = [(event.page_id, event.person_id) for event in nameless]
    if not to:
        return set()
    (found,) = await within(connection, _AWAITED.over(to))
    by_person = {(page_id, person_id) for page_id, person_id in found.rows}
    return by_person | {(page_id, person_id) for page_id, person_id in to if page_id in by_all}


def _pauses(
    events: Iterable[Event],
    instagram: Container[str],
    awaited: Container[tuple[str, str]],
    pause: timedelta,
) -> list[Said]:
    """Rests automation where a person wrote, from the echo's own time."""
    rests: dict[tuple[str, str], datetime] = {}
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
            key, until = (event.page_id, event.person_id), _time(event) + pause
            rests[key] = max(until, rests.get(key, until))
    if not rests:
        return []
    return [_PAUSE.over([(*key, micros(rests[key])) for key in sorted(rests)])]


def _is_of(event: Event, reply: _InFlight) -> bool:
    said = text_of(ReplyContent.FromString(reply.content))
    not_before = reply.started_at - BEFORE_ATTEMPT
    return _plain(event.comment.text) == _plain(said) and _time(event) >= not_before


def _plain(text: str) -> str:
    """The text as it survives Graph: composed, white space collapsed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _time(event: Event) -> datetime:
    return event.event_time.ToDatetime(UTC)
