"""What befalls a reply, and all that hangs on it: one way for answers, echoes, looks and sweeps.

Each caller brings endings; `settle` applies them by the table of `transitions` in the caller's
transaction. Locks are taken in the one order: page, conversation, message and comment, mark,
outbox, attempt; the table is asked once the outbox rows are locked.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row, tuple_row

from pagewire.type.v1.event_pb2 import Attachment, MessageDetail
from pagewire.type.v1.reply_pb2 import MediaType, ReplyContent
from pagewire_runtime import metrics
from pagewire_runtime.logs import get_logger
from pagewire_store import marks, transitions
from pagewire_store.projections import SNIPPET_LENGTH
from pagewire_store.transitions import (
    ATTEMPT_ENDS,
    IN_FLIGHT,
    LOOKS,
    RELEASES_MARKS,
    VERDICTS,
    Signal,
    State,
    backoff,
    clean_look,
    next_look,
)

Connection = psycopg.AsyncConnection[Any]
Key = tuple[str, int]
_Wait = tuple[str, str, datetime]
"""Page, person, and since when an echo may have waited."""

META_INBOX_APP_ID = "263902037430900"
"""The app id that echoes of Meta's own inbox name (Messenger platform, message_echoes)."""

# Meta's clock and ours differ; an echo this much older than its attempt may still be of it.
CLOCKS_DIFFER = timedelta(minutes=2)

log = get_logger(__name__)

_settled = metrics.counter(
    "pagewire_replies_total", "Replies by the state they came to and by what.", ["state", "signal"]
)
_duplicates = metrics.counter(
    "pagewire_reply_duplicates_total",
    "Replies that Graph took twice, or may have: possible or confirmed.",
    ["certainty"],
)
_conflicts = metrics.counter(
    "pagewire_reply_conflicts_total", "Acceptances whose id another reply has already.", ["via"]
)


@dataclass(frozen=True)
class Ending:
    """One thing that befell a reply.

    `tag` names the attempt that it is about (a sweep: the latest one as it saw it, None where there
    was none). `at` is when the request went out, or the echo's own time.
    """

    page_id: str
    reply_id: int
    tag: str | None
    signal: Signal
    reason: str = ""
    via: str | None = None
    mid: str = ""
    recipient_id: str = ""
    at: datetime | None = None
    retry_after: timedelta | None = None
    http_status: int = 0
    code: int = 0
    subcode: int = 0

    @property
    def key(self) -> Key:
        """The reply."""
        return self.page_id, self.reply_id


@dataclass(frozen=True)
class Settled:
    """Where the replies stand now, and whether a lane may go on that could not."""

    states: dict[Key, State]
    freed: bool


@dataclass(frozen=True)
class Reply:
    """What never changes of a reply, and the database's clock when it was read."""

    page_id: str
    reply_id: int
    kind: str
    person_id: str | None
    comment_id: str | None
    content: bytes | None
    hidden: bool | None
    label: str | None
    platform: str
    now: datetime

    @property
    def key(self) -> Key:
        return self.page_id, self.reply_id

    @property
    def is_message(self) -> bool:
        return self.kind in ("message", "private_reply")

    def said(self) -> ReplyContent:
        return ReplyContent.FromString(self.content or b"")


@dataclass
class _Row:
    """What changes of it."""

    page_id: str
    reply_id: int
    state: str
    state_reason: str
    attempt: int
    tag: str | None
    started_at: datetime | None
    person_id: str | None
    not_before: datetime | None
    uncertain_at: datetime | None
    uncertain_before: bool
    clean_looks: int
    look_due_at: datetime | None
    look_lease_until: datetime | None
    mid: str | None
    settled_by: str | None
    sent_at: datetime | None
    ended_at: datetime | None
    followed: bool
    """Others of its lane wait to be sent. What is put in meanwhile wakes the outbox itself."""

    @property
    def key(self) -> Key:
        return self.page_id, self.reply_id


_NAMED = "(select * from unnest(%(pages)s::text[], %(replies)s::bigint[]))"

_REPLY = """
    o.page_id, o.reply_id, o.kind, o.person_id, o.comment_id, o.content, o.hidden, o.label,
    p.platform, clock_timestamp() as now
"""

_READ = f"""
select {_REPLY}
from outbox o join page p using (page_id) where (o.page_id, o.reply_id) in {_NAMED}
"""  # noqa: S608  # a constant

_READ_BY_TAG = f"""
select a.tag, {_REPLY}
from attempt a join outbox o on o.page_id = a.page_id and o.reply_id = a.reply_id
join page p on p.page_id = o.page_id
where a.tag = any(%(tags)s::text[])
"""  # noqa: S608

_LOCK = f"""
select o.page_id, o.reply_id, o.state, o.state_reason, o.attempt, o.tag, a.started_at, o.person_id,
    o.not_before, o.uncertain_at, o.uncertain_before, o.clean_looks, o.look_due_at,
    o.look_lease_until, o.mid, o.settled_by, o.sent_at, o.ended_at,
    exists (
        select from outbox b
        where b.page_id = o.page_id and b.lane = o.lane and b.ordinal <> o.ordinal
            and b.state in ('ready', 'sending', 'uncertain')) as followed
from outbox o left join attempt a on a.page_id = o.page_id and a.tag = o.tag
where (o.page_id, o.reply_id) in {_NAMED}
order by o.page_id, o.reply_id for update of o
"""  # noqa: S608

_WRITE = """
update outbox set state = %(state)s, state_reason = %(state_reason)s, person_id = %(person_id)s,
    not_before = %(not_before)s, uncertain_at = %(uncertain_at)s,
    uncertain_before = %(uncertain_before)s, clean_looks = %(clean_looks)s,
    look_due_at = %(look_due_at)s, look_lease_until = %(look_lease_until)s, mid = %(mid)s,
    settled_by = %(settled_by)s, sent_at = %(sent_at)s, ended_at = %(ended_at)s,
    lease_owner = case when %(state)s = 'sending' then lease_owner end,
    lease_until = case when %(state)s = 'sending' then lease_until end
where page_id = %(page_id)s and reply_id = %(reply_id)s
"""

# An acceptance is final for the attempt too.
_WRITE_ATTEMPT = """
update attempt set ended_at = %(now)s, verdict = %(verdict)s, reason = %(reason)s,
    http_status = nullif(%(http_status)s, 0), code = nullif(%(code)s, 0),
    subcode = nullif(%(subcode)s, 0), mid = coalesce(nullif(%(mid)s, ''), mid),
    settled_by = coalesce(%(via)s, settled_by)
where page_id = %(page_id)s and tag = %(tag)s and verdict is distinct from 'accepted'
"""

# The page that a latest attempt found blocked, unless it has another token since. A check within
# the hour tells whether it still is.
_BLOCK_PAGE = """
update page p set state = 'blocked', state_reason = %(reason)s,
    blocked_at = coalesce(p.blocked_at, clock_timestamp()),
    check_due_at = least(p.check_due_at, clock_timestamp() + interval '1 hour')
from outbox o join attempt a on a.page_id = o.page_id and a.tag = o.tag
where o.page_id = %(page_id)s and o.reply_id = %(reply_id)s and o.tag = %(tag)s
  and o.state in ('sending', 'uncertain')
  and p.page_id = o.page_id and p.connected and p.token_version = a.token_version
  and p.state <> 'blocked'
"""

_LOCK_CONVERSATION = """
select 1 from conversation
where page_id = %(page_id)s and participant_id = %(person_id)s for update
"""

_WROTE_LAST = """
insert into conversation as c (page_id, participant_id, updated_at, snippet, last_outbound_at)
values (%(page_id)s, %(person_id)s, %(at)s, %(snippet)s, %(at)s)
on conflict (page_id, participant_id) do update set
    snippet = case when excluded.updated_at >= c.updated_at
        then excluded.snippet else c.snippet end,
    unread_count = case when c.last_inbound_at > excluded.updated_at
        then c.unread_count else 0 end,
    updated_at = greatest(c.updated_at, excluded.updated_at),
    last_outbound_at = greatest(c.last_outbound_at, excluded.last_outbound_at)
"""

# The message may be there already: its echo came first.
_MESSAGE = """
insert into message as m
    (page_id, mid, participant_id, direction, kind, text, attachments, created_at, reply_id)
values (%(page_id)s, %(mid)s, %(person_id)s, 'outbound', 'message', %(text)s, %(attachments)s,
    %(at)s, %(reply_id)s)
on conflict (page_id, mid) do update set reply_id = coalesce(m.reply_id, excluded.reply_id)
"""

_COMMENT = """
insert into comment as c
    (page_id, comment_id, post_id, parent_id, root_id, from_id, text, created_at, is_own, reply_id)
select %(page_id)s, %(mid)s, p.post_id, %(comment_id)s, coalesce(p.root_id, %(comment_id)s),
    %(page_id)s, %(text)s, %(at)s, true, %(reply_id)s
from (select) one left join comment p on p.page_id = %(page_id)s and p.comment_id = %(comment_id)s
on conflict (page_id, comment_id) do update
set is_own = true, reply_id = coalesce(c.reply_id, excluded.reply_id)
"""

_ANSWERED = """
update comment set answered_at = coalesce(answered_at, %(at)s)
where page_id = %(page_id)s and comment_id = %(comment_id)s
"""

_HIDDEN = """
update comment set is_hidden = %(hidden)s, hidden_at = %(at)s
where page_id = %(page_id)s and comment_id = %(comment_id)s
  and (hidden_at is null or hidden_at <= %(at)s)
"""

_LABEL = """
with known as (
    insert into label (page_id, name) values (%(page_id)s, %(label)s) on conflict do nothing
)
insert into person_label (page_id, person_id, name)
values (%(page_id)s, %(person_id)s, %(label)s) on conflict do nothing
"""

_UNLABEL = """
delete from person_label
where page_id = %(page_id)s and person_id = %(person_id)s and name = %(label)s
"""

# Which of these replies have a mid that another has. `limit`: one by one, by the index.
_BOUND_ELSEWHERE = """
select n.page_id, n.reply_id from unnest(%(pages)s::text[], %(replies)s::bigint[], %(mids)s::text[])
    as n (page_id, reply_id, mid)
cross join lateral (
    select reply_id from outbox o where o.page_id = n.page_id and o.mid = n.mid limit 1) o
where o.reply_id <> n.reply_id
"""

# To whom an echo may have gone that waited for a private reply whose person nobody knows. An echo
# moves its conversation.
_WAITING_FOR_ANYBODY = f"""
select distinct c.page_id, c.participant_id, a.started_at - %(clocks_differ)s
from outbox o join attempt a on a.page_id = o.page_id and a.tag = o.tag
join conversation c on c.page_id = o.page_id
    and c.updated_at >= a.started_at - %(clocks_differ)s
    and c.last_outbound_at >= a.started_at - %(clocks_differ)s
where (o.page_id, o.reply_id) in {_NAMED}
order by 1, 2
"""  # noqa: S608

# Echoes that waited for a reply in flight, and turned out to be none of ours: a person wrote them.
_PAUSE_BY_WAITING_ECHOES = """
update conversation c
set automation_paused_until = greatest(c.automation_paused_until, e.latest + %(pause)s)
from (
    select m.page_id, m.participant_id, max(m.created_at) as latest
    from unnest(%(pages)s::text[], %(persons)s::text[], %(since)s::timestamptz[])
        as n (page_id, participant_id, since)
    join message m on m.page_id = n.page_id and m.participant_id = n.participant_id
        and m.created_at >= n.since
    join event v on v.page_id = m.page_id and v.event_key = 'echo:' || m.mid
    where m.direction = 'outbound' and m.reply_id is null and coalesce(m.app_id, '') = ''
    group by m.page_id, m.participant_id
) e
where c.page_id = e.page_id and c.participant_id = e.participant_id
"""


async def of_attempts(connection: Connection, tags: Iterable[str]) -> dict[str, Reply]:
    """The replies that these attempts are of, by tag; none for a tag that nobody knows."""
    async with connection.pipeline():  # which takes BEGIN along
        found = await connection.execute(_READ_BY_TAG, {"tags": list(tags)})
    return {tag: Reply(*values) for tag, *values in await found.fetchall()}


async def settle(
    connection: Connection,
    endings: Sequence[Ending],
    *,
    person_pause: timedelta,
    known: Iterable[Reply] | None = None,
) -> Settled:
    """Applies endings in order, all in the caller's transaction, and tells where the replies stand.

    `person_pause` is how long automation rests after a person wrote, for echoes that waited;
    `known` are the replies, where the caller has read them in this transaction.
    """
    if not endings:
        return Settled({}, freed=False)
    for ending in sorted(endings, key=lambda ending: ending.key):
        if ending.signal is Signal.BLOCKED:
            await connection.execute(_BLOCK_PAGE, vars(ending))
    if known is None:
        known = await _read(connection, {ending.key for ending in endings})
    ended = {ending.key for ending in endings}
    replies = {reply.key: reply for reply in known if reply.key in ended}
    endings = [ending for ending in endings if ending.key in replies]
    if not endings:
        return Settled({}, freed=False)
    accepted = [ending for ending in endings if ending.signal is Signal.ACCEPTED]
    to_anybody = [reply.key for reply in replies.values() if _is_to_anybody(reply)]
    others = await _waiting_for_anybody(connection, to_anybody)
    async with connection.pipeline():
        shown = [_shown(ending, replies[ending.key]) for ending in accepted]
        await _lock_conversations(connection, replies.values(), shown, others)
        await _show(connection, shown)
        await marks.lock(connection, sorted(replies))
        locked = await _lock(connection, replies)
        bound = await _bound_elsewhere(connection, accepted)
    rows = {row.key: row for row in await locked.fetchall()}
    before = {key: replace(row) for key, row in rows.items()}
    taken = _taken(accepted, await bound.fetchall())
    attempts = _apply_all(endings, replies, rows, taken)
    async with connection.pipeline():
        await _write(connection, rows, before, attempts)
    landed = [row for key, row in rows.items() if _flies(before[key]) and not _flies(row)]
    await _pause_by_waiting_echoes(connection, landed, replies, person_pause)
    return Settled(
        {key: State(row.state) for key, row in rows.items()},
        freed=any(_frees(row) for key, row in rows.items() if row != before[key]),
    )


def text_of(content: ReplyContent) -> str:
    """The text that is said; empty where a medium is."""
    return content.quick_replies.text or content.text


async def _read(connection: Connection, keys: Collection[Key]) -> list[Reply]:
    async with connection.cursor(row_factory=class_row(Reply)) as cursor:
        await cursor.execute(_READ, _named(keys))
        return await cursor.fetchall()


async def _lock(connection: Connection, keys: Collection[Key]) -> psycopg.AsyncCursor[_Row]:
    return await connection.cursor(row_factory=class_row(_Row)).execute(_LOCK, _named(keys))


async def _lock_conversations(
    connection: Connection,
    replies: Iterable[Reply],
    shown: Iterable[Mapping[str, Any]],
    others: Iterable[_Wait],
) -> None:
    """Takes the batch's conversations in one order: where Graph took a message it was written last.

    Those of Instagram are held anyway: no echo comes in while it is found out whose they are.
    """
    steps: list[tuple[LiteralString, Mapping[str, Any]]] = [
        (_LOCK_CONVERSATION, vars(reply))
        for reply in replies
        if reply.platform == "instagram" and reply.person_id
    ]
    steps += [
        (_LOCK_CONVERSATION, {"page_id": page, "person_id": person}) for page, person, _ in others
    ]
    # An echo has moved its conversation itself.
    steps += [(_WROTE_LAST, row) for row in shown if _in_conversation(row) and row["via"] != "echo"]
    for statement, values in sorted(
        steps, key=lambda step: (step[1]["page_id"], step[1]["person_id"])
    ):
        await connection.execute(statement, values)


def _in_conversation(row: Mapping[str, Any]) -> bool:
    return bool(row["is_message"] and row["person_id"])


async def _show(connection: Connection, shown: Sequence[Mapping[str, Any]]) -> None:
    """Shows what Graph took where people look: messages, comments, labels."""
    by_mid = sorted(shown, key=lambda row: (row["page_id"], row["mid"]))
    by_comment = sorted(shown, key=lambda row: (row["page_id"], row["comment_id"] or ""))
    for statement, rows in (
        (_MESSAGE, [row for row in by_mid if _in_conversation(row) and row["mid"]]),
        (_COMMENT, [row for row in by_mid if row["kind"] == "comment_reply" and row["mid"]]),
        (_ANSWERED, [r for r in by_comment if r["kind"] in ("comment_reply", "private_reply")]),
        (_HIDDEN, [row for row in by_comment if row["kind"] == "hide_comment"]),
        (_LABEL, [row for row in shown if row["kind"] == "add_label"]),
        (_UNLABEL, [row for row in shown if row["kind"] == "remove_label"]),
    ):
        if rows:
            await connection.cursor().executemany(statement, rows)


def _shown(ending: Ending, reply: Reply) -> dict[str, Any]:
    content = reply.said()
    text = text_of(content)
    return {
        **vars(reply),
        "is_message": reply.is_message,
        "person_id": reply.person_id or ending.recipient_id,
        "via": ending.via,
        "mid": ending.mid,
        "at": ending.at or reply.now,
        "text": text or None,
        "snippet": text[:SNIPPET_LENGTH],
        "attachments": _attachments(content),
    }


def _attachments(content: ReplyContent) -> bytes | None:
    if not content.HasField("media"):
        return None
    type_ = MediaType.Name(content.media.type).removeprefix("MEDIA_TYPE_").lower()
    sent = Attachment(type=type_, url=content.media.url)
    return MessageDetail(attachments=[sent]).SerializeToString()


async def _bound_elsewhere(
    connection: Connection, accepted: Iterable[Ending]
) -> psycopg.AsyncCursor[tuple[Any, ...]]:
    named = [ending for ending in accepted if ending.mid]
    values = {**_named(e.key for e in named), "mids": [ending.mid for ending in named]}
    return await connection.cursor(row_factory=tuple_row).execute(_BOUND_ELSEWHERE, values)


def _taken(accepted: Iterable[Ending], bound: Iterable[tuple[Any, ...]]) -> set[Key]:
    """The replies whose new mid is another reply's already: a look guessed wrong once."""
    first: dict[tuple[str, str], Key] = {}
    named = [ending for ending in accepted if ending.mid]
    for ending in named:
        first.setdefault((ending.page_id, ending.mid), ending.key)
    beside = {e.key for e in named if first[e.page_id, e.mid] != e.key}
    return beside | {(page_id, reply_id) for page_id, reply_id in bound}


def _apply_all(
    endings: Iterable[Ending],
    replies: Mapping[Key, Reply],
    rows: Mapping[Key, _Row],
    taken: Collection[Key],
) -> list[dict[str, Any]]:
    """Moves the rows, and returns what is to be written of the attempts."""
    attempts = []
    for ending in endings:
        row, reply = rows[ending.key], replies[ending.key]
        moved = _apply(row, reply, ending, bound=ending.key in taken)
        if ending.tag and (moved or ending.signal in VERDICTS):
            attempts.append({**vars(ending), "verdict": ending.signal.value, "now": reply.now})
    return [attempt for attempt in attempts if attempt["signal"] in ATTEMPT_ENDS]


def _apply(row: _Row, reply: Reply, ending: Ending, *, bound: bool) -> bool:
    """Moves one row by the table; False where the ending means nothing to it."""
    latest = ending.tag == row.tag
    if ending.signal is Signal.ACCEPTED:
        _accept(row, reply, ending, latest=latest, bound=bound)
        return True
    signal = transitions.of_kind(ending.signal, reply.kind)
    if signal in LOOKS:
        if row.look_lease_until is None:  # nobody looks: a repeat of what was recorded
            return False
        signal = signal if signal is Signal.FAILED_LOOK else clean_look(row.clean_looks)
    to = transitions.after(State(row.state), signal)
    if not latest or to is None or (to == row.state and to is not State.UNCERTAIN):
        return False
    _move(row, to, signal, ending, reply.now)
    _settled.labels(to.value, signal.value).inc()
    return True


def _accept(row: _Row, reply: Reply, ending: Ending, *, latest: bool, bound: bool) -> None:
    to = transitions.after(State(row.state), Signal.ACCEPTED)
    _count_duplicates(row, ending, latest=latest)
    if bound:
        _conflicts.labels(ending.via).inc()
        log.warning("a mid is bound to another reply already", page_id=row.page_id)
    else:
        row.mid = row.mid or ending.mid or None
    if reply.is_message:
        row.person_id = row.person_id or ending.recipient_id or None
    if to == row.state:
        return
    assert to is not None  # noqa: S101  # every state has a way to SENT
    _land(row, to, "", reply.now)
    row.settled_by, row.sent_at = ending.via, reply.now
    _settled.labels(to.value, Signal.ACCEPTED.value).inc()


def _count_duplicates(row: _Row, ending: Ending, *, latest: bool) -> None:
    certainty = ""
    if row.state == State.SENT and row.mid and ending.mid and row.mid != ending.mid:
        certainty = "confirmed"
    elif not latest and row.state in IN_FLIGHT:
        certainty = "possible"
    if certainty:
        _duplicates.labels(certainty).inc()
        log.warning(
            "a reply was sent twice", page_id=row.page_id, number=row.reply_id, certainty=certainty
        )


def _move(row: _Row, to: State, signal: Signal, ending: Ending, now: datetime) -> None:
    if to is State.UNCERTAIN:
        _doubt(row, signal, ending.reason, now)
    elif to is State.READY:
        _put_back(row, signal, ending, now)
    else:
        _land(row, to, ending.reason, now)


def _doubt(row: _Row, signal: Signal, reason: str, now: datetime) -> None:
    """It is, or stays, uncertain."""
    if row.state == State.SENDING:
        row.state, row.state_reason = State.UNCERTAIN.value, reason
        row.uncertain_at, row.clean_looks = now, 0
    elif signal is Signal.UNKNOWN:  # known to be unknown
        return
    row.clean_looks += signal is Signal.CLEAN_LOOK
    row.look_due_at = next_look(signal, row.started_at or now, now)
    row.look_lease_until = None


def _put_back(row: _Row, signal: Signal, ending: Ending, now: datetime) -> None:
    """It waits for its next attempt."""
    _ground(row, State.READY, ending.reason)
    if signal in (Signal.LAST_CLEAN_LOOK, Signal.NO_ECHO):
        row.uncertain_before = True
    elif signal is not Signal.BLOCKED:
        pause = ending.retry_after or backoff(row.attempt, random.random())  # noqa: S311  # no secret
        row.not_before = now + pause


def _land(row: _Row, to: State, reason: str, now: datetime) -> None:
    """Its way is over."""
    _ground(row, to, reason)
    row.ended_at = now


def _ground(row: _Row, to: State, reason: str) -> None:
    """It is in flight no more."""
    row.state, row.state_reason = to.value, reason
    row.not_before = row.uncertain_at = row.look_due_at = row.look_lease_until = None
    row.clean_looks = 0


async def _write(
    connection: Connection,
    rows: Mapping[Key, _Row],
    before: Mapping[Key, _Row],
    attempts: Sequence[Mapping[str, Any]],
) -> None:
    changed = {key: row for key, row in rows.items() if row != before[key]}
    came_to_nothing = [key for key, row in changed.items() if row.state in RELEASES_MARKS]
    came_after_all = [
        key
        for key, row in changed.items()
        if row.state == State.SENT and before[key].state in RELEASES_MARKS
    ]
    if came_to_nothing:
        await marks.release(connection, came_to_nothing)
    if came_after_all:
        await marks.take_back(connection, came_after_all)
    if changed:
        await connection.cursor().executemany(_WRITE, [vars(row) for row in changed.values()])
    if attempts:
        await connection.cursor().executemany(_WRITE_ATTEMPT, attempts)


async def _pause_by_waiting_echoes(
    connection: Connection,
    landed: Sequence[_Row],
    replies: Mapping[Key, Reply],
    pause: timedelta,
) -> None:
    """Pauses automation where an echo that waited for these replies is none of ours."""
    asked = [row for row in landed if replies[row.key].platform == "instagram"]
    waits = [
        (row.page_id, row.person_id, (row.started_at or replies[row.key].now) - CLOCKS_DIFFER)
        for row in asked
        if row.person_id
    ]
    # Asked again: who came meanwhile saw the reply in flight, and waited too.
    to_anybody = [row.key for row in asked if _is_to_anybody(replies[row.key])]
    waits += await _waiting_for_anybody(connection, to_anybody)
    if not waits:
        return
    pages, persons, since = zip(*waits, strict=True)
    values = {"pages": list(pages), "persons": list(persons), "since": list(since), "pause": pause}
    await connection.execute(_PAUSE_BY_WAITING_ECHOES, values)


def _is_to_anybody(reply: Reply) -> bool:
    """Whether every nameless echo of the page may be of it."""
    return (
        reply.platform == "instagram" and reply.kind == "private_reply" and reply.person_id is None
    )


async def _waiting_for_anybody(connection: Connection, keys: Collection[Key]) -> list[_Wait]:
    if not keys:
        return []
    values = {**_named(keys), "clocks_differ": CLOCKS_DIFFER}
    found = await connection.cursor(row_factory=tuple_row).execute(_WAITING_FOR_ANYBODY, values)
    return [(page, person, since) for page, person, since in await found.fetchall()]


def _flies(row: _Row) -> bool:
    return row.state in IN_FLIGHT


def _frees(row: _Row) -> bool:
    """Whether there is something to send in its lane, now that it is where it is."""
    return row.state == State.READY or (row.followed and not _flies(row))


def _named(keys: Iterable[Key]) -> dict[str, Any]:
    pairs = list(keys)
    return {"pages": [page for page, _ in pairs], "replies": [reply for _, reply in pairs]}
