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
from typing import Any

from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire_runtime import metrics
from pagewire_runtime.logs import get_logger
from pagewire_store import marks, showing, transitions
from pagewire_store.columns import BIGINT, BOOL, INT, TEXT, TIME, Bulk, micros
from pagewire_store.connections import Driver
from pagewire_store.transitions import (
    ATTEMPT_ENDS,
    IN_FLIGHT,
    LOOKS,
    RELEASES_MARKS,
    VERDICTS,
    WAITS,
    Signal,
    State,
    Waits,
    backoff,
    clean_look,
    next_look,
)
from pagewire_store.trips import Answer, Said, within

Key = tuple[str, int]
_Wait = tuple[str, str, datetime]
"""Page, person, and since when an echo may have waited."""

META_INBOX_APP_ID = "263902037430900"
"""The app id that echoes of Meta's own inbox name (Messenger platform, message_echoes)."""

CLOCKS_DIFFER = timedelta(minutes=2)
"""Meta's clock may be behind ours by so much: an echo so much older than an attempt may have waited
for it. Sync's looks reckon with as much."""
_CLOCKS_DIFFER = f"interval '{CLOCKS_DIFFER.total_seconds()} s'"

log = get_logger(__name__)

_settled = metrics.counter(
    "pagewire_replies_total",
    "Replies by the state they came to, by what, and by how that is known.",
    ["state", "signal", "via"],
)
_doubts = metrics.counter(
    "pagewire_uncertain_ends_total",
    "Replies that were uncertain, by what ended it: echo, webhook, readback (a look), late_answer"
    " (whatever it said), resend (it goes once more), parked.",
    ["end"],
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
    looks_before: int | None = None
    """Of a look: how many had ended clean when it was handed out; None where nobody says."""

    @property
    def key(self) -> Key:
        """The reply."""
        return self.page_id, self.reply_id


@dataclass(frozen=True)
class Settled:
    """Where the replies stand now, and whether a lane may go on that could not."""

    states: dict[Key, State]
    freed: bool
    left: list[Said]
    """To be said before the commit, for it to be so."""


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


_REPLY = """
    o.page_id, o.reply_id, o.kind, o.person_id, o.comment_id, o.content, o.hidden, o.label,
    p.platform, clock_timestamp() as now
"""

_READ = Bulk(
    f"""
    select {_REPLY}
    from {{rows}} join outbox o on o.page_id = n.page_id and o.reply_id = n.reply_id
    join page p on p.page_id = o.page_id
    """,  # noqa: S608  # a constant
    page_id=TEXT,
    reply_id=BIGINT,
)

_READ_BY_TAG = Bulk(
    f"""
    select a.tag, {_REPLY}
    from {{rows}} join attempt a on a.tag = n.tag
    join outbox o on o.page_id = a.page_id and o.reply_id = a.reply_id
    join page p on p.page_id = o.page_id
    """,  # noqa: S608
    tag=TEXT,
)

_LOCK = Bulk(
    """
    select o.page_id, o.reply_id, o.state, o.state_reason, o.attempt, o.tag, a.started_at,
        o.person_id, o.not_before, o.uncertain_at, o.uncertain_before, o.clean_looks,
        o.look_due_at, o.look_lease_until, o.mid, o.settled_by, o.sent_at, o.ended_at,
        exists (
            select from outbox b
            where b.page_id = o.page_id and b.lane = o.lane and b.ordinal <> o.ordinal
                and b.state in ('ready', 'sending', 'uncertain')) as followed
    from {rows} join outbox o on o.page_id = n.page_id and o.reply_id = n.reply_id
    left join attempt a on a.page_id = o.page_id and a.reply_id = o.reply_id and a.tag = o.tag
    order by o.page_id, o.reply_id for update of o
    """,
    page_id=TEXT,
    reply_id=BIGINT,
)

_WRITE = Bulk(
    """
    update outbox o set state = n.state, state_reason = n.state_reason, person_id = n.person_id,
        not_before = n.not_before, uncertain_at = n.uncertain_at,
        uncertain_before = n.uncertain_before, clean_looks = n.clean_looks,
        look_due_at = n.look_due_at, look_lease_until = n.look_lease_until, mid = n.mid,
        settled_by = n.settled_by, sent_at = n.sent_at, ended_at = n.ended_at,
        lease_owner = case when n.state = 'sending' then o.lease_owner end,
        lease_until = case when n.state = 'sending' then o.lease_until end
    from {rows} where o.page_id = n.page_id and o.reply_id = n.reply_id
    """,
    page_id=TEXT,
    reply_id=BIGINT,
    state=TEXT,
    state_reason=TEXT,
    person_id=TEXT,
    not_before=TIME,
    uncertain_at=TIME,
    uncertain_before=BOOL,
    clean_looks=INT,
    look_due_at=TIME,
    look_lease_until=TIME,
    mid=TEXT,
    settled_by=TEXT,
    sent_at=TIME,
    ended_at=TIME,
)

# An acceptance is final for the attempt too.
_WRITE_ATTEMPTS = Bulk(
    """
    update attempt a set ended_at = n.ended_at, verdict = n.verdict, reason = n.reason,
        http_status = nullif(n.http_status, 0), code = nullif(n.code, 0),
        subcode = nullif(n.subcode, 0), mid = coalesce(nullif(n.mid, ''), a.mid),
        settled_by = coalesce(n.via, a.settled_by)
    from {rows}
    where a.page_id = n.page_id and a.tag = n.tag and a.verdict is distinct from 'accepted'
    """,
    page_id=TEXT,
    tag=TEXT,
    ended_at=TIME,
    verdict=TEXT,
    reason=TEXT,
    http_status=INT,
    code=INT,
    subcode=INT,
    mid=TEXT,
    via=TEXT,
)

# The page that a latest attempt found blocked, unless it has another token since. A check within
# the hour tells whether it still is.
_BLOCK_PAGES = Bulk(
    """
    update page p set state = 'blocked', state_reason = n.reason,
        blocked_at = coalesce(p.blocked_at, clock_timestamp()),
        check_due_at = least(p.check_due_at, clock_timestamp() + interval '1 hour')
    from {rows} join outbox o on o.page_id = n.page_id and o.reply_id = n.reply_id
        and o.tag = n.tag and o.state in ('sending', 'uncertain')
    join attempt a on a.page_id = o.page_id and a.reply_id = o.reply_id and a.tag = o.tag
    where p.page_id = o.page_id and p.connected and p.token_version = a.token_version
        and p.state <> 'blocked'
    """,
    page_id=TEXT,
    reply_id=BIGINT,
    tag=TEXT,
    reason=TEXT,
)

# Which of these replies have a mid that another has. `limit`: one by one, by the index.
_BOUND_ELSEWHERE = Bulk(
    """
    select n.page_id, n.reply_id from {rows}
    cross join lateral (
        select reply_id from outbox o where o.page_id = n.page_id and o.mid = n.mid limit 1) o
    where o.reply_id <> n.reply_id
    """,
    page_id=TEXT,
    reply_id=BIGINT,
    mid=TEXT,
)

# To whom an echo may have gone that waited for a private reply whose person nobody knows. An echo
# moves its conversation.
_WAITING_FOR_ANYBODY = Bulk(
    f"""
    select distinct c.page_id, c.participant_id, a.started_at - {_CLOCKS_DIFFER}
    from {{rows}} join outbox o on o.page_id = n.page_id and o.reply_id = n.reply_id
    join attempt a on a.page_id = o.page_id and a.reply_id = o.reply_id and a.tag = o.tag
    join conversation c on c.page_id = o.page_id
        and c.updated_at >= a.started_at - {_CLOCKS_DIFFER}
        and c.last_outbound_at >= a.started_at - {_CLOCKS_DIFFER}
    order by 1, 2
    """,  # noqa: S608  # a constant
    page_id=TEXT,
    reply_id=BIGINT,
)

# Echoes that waited for a reply in flight, and turned out to be none of ours: a person wrote them.
_PAUSE_BY_WAITING_ECHOES = Bulk(
    """
    update conversation c
    set automation_paused_until = greatest(
        c.automation_paused_until, e.latest + e.pause * interval '1 microsecond')
    from (
        select m.page_id, m.participant_id, max(m.created_at) as latest, max(n.pause) as pause
        from {rows}
        join message m on m.page_id = n.page_id and m.participant_id = n.participant_id
            and m.created_at >= n.since
        join event v on v.page_id = m.page_id and v.event_key = 'echo:' || m.mid
        where m.direction = 'outbound' and m.reply_id is null and coalesce(m.app_id, '') = ''
        group by m.page_id, m.participant_id
    ) e
    where c.page_id = e.page_id and c.participant_id = e.participant_id
    """,
    page_id=TEXT,
    participant_id=TEXT,
    since=TIME,
    pause=BIGINT,
)


# What ends a doubt without an acceptance. All else that moves an uncertain reply is a late answer.
_LATE = "late_answer"
_UNTOLD = {
    Signal.LAST_CLEAN_LOOK: "resend",
    Signal.NO_ECHO: "resend",
    Signal.GIVEN_UP: "parked",
}


def read_attempts(tags: Iterable[str]) -> Said:
    """Asks for the replies that these attempts are of; `by_attempt` reads the answer."""
    return _READ_BY_TAG.over([(tag,) for tag in tags])


def by_attempt(answer: Answer) -> dict[str, Reply]:
    """The replies by their attempts' tags; none for a tag that nobody knows."""
    return {tag: Reply(*values) for tag, *values in answer.rows}


async def settle(
    connection: Driver,
    endings: Sequence[Ending],
    *,
    person_pause: timedelta,
    waits: Waits = WAITS,
    known: Iterable[Reply] | None = None,
    beside: Collection[Key] = (),
) -> Settled:
    """Applies endings in order, all in the caller's transaction, and tells where the replies stand.

    The caller says what is `left` before it commits. `person_pause` is how long automation rests
    after a person wrote, for echoes that waited; `known` are the replies, where the caller has read
    them in this transaction. Those `beside` only stay as they are until then: they are locked with
    the others, in the one order.
    """
    if blocked := [ending for ending in endings if ending.signal is Signal.BLOCKED]:
        await within(connection, _blocking(blocked))
    if known is None and endings:
        (found,) = await within(connection, _READ.over(_keys(endings)))
        known = [Reply(*row) for row in found.rows]
    ended = {ending.key for ending in endings}
    replies = {reply.key: reply for reply in known or () if reply.key in ended}
    endings = [ending for ending in endings if ending.key in replies]
    if not endings and not beside:
        return Settled({}, freed=False, left=[])
    accepted = [ending for ending in endings if ending.signal is Signal.ACCEPTED]
    rows, taken = await _locked(connection, replies, accepted, beside)
    before = {key: replace(row) for key, row in rows.items()}
    attempts = _apply_all(endings, replies, rows, taken, waits)
    landed = [row for key, row in rows.items() if _flies(before[key]) and not _flies(row)]
    left = _written(rows, before, attempts)
    left += await _pause_by_waiting_echoes(connection, landed, replies, person_pause)
    return Settled(
        {key: State(row.state) for key, row in rows.items()},
        freed=any(_frees(row) for key, row in rows.items() if row != before[key]),
        left=left,
    )


def _blocking(blocked: Iterable[Ending]) -> Said:
    return _BLOCK_PAGES.over(sorted((*e.key, e.tag or "", e.reason) for e in blocked))


async def _locked(
    connection: Driver,
    replies: Mapping[Key, Reply],
    accepted: Sequence[Ending],
    beside: Collection[Key],
) -> tuple[dict[Key, _Row], set[Key]]:
    """Shows what was accepted, and locks all that may change; the outbox rows, and whose mid is
    another reply's already.

    Instagram's conversations are held anyway: no echo comes in while it is found out whose they
    are.
    """
    others = await _waiting_for_anybody(connection, filter(_is_to_anybody, replies.values()))
    held = [
        (reply.page_id, reply.person_id)
        for reply in replies.values()
        if reply.platform == "instagram" and reply.person_id
    ]
    held += [(page, person) for page, person, _ in others]
    named = [ending for ending in accepted if ending.mid]
    said = showing.said([_shown(ending, replies[ending.key]) for ending in accepted], held)
    if replies:
        said.append(marks.lock(sorted(replies)))
    said.append(_LOCK.over(sorted({*replies, *beside})))
    if named:
        said.append(_BOUND_ELSEWHERE.over([(*ending.key, ending.mid) for ending in named]))
    answers = await within(connection, *said)
    bound = answers.pop().rows if named else []
    rows = [_Row(*row) for row in answers[-1].rows]
    return {row.key: row for row in rows}, _taken(named, bound)


def _shown(ending: Ending, reply: Reply) -> showing.Taken:
    return showing.Taken(
        reply.page_id,
        reply.reply_id,
        reply.kind,
        reply.person_id or ending.recipient_id,
        reply.comment_id or "",
        reply.said(),
        reply.hidden,
        reply.label,
        ending.mid,
        ending.at or reply.now,
        echoed=ending.via == "echo",
    )


def _taken(named: Sequence[Ending], bound: Iterable[tuple[Any, ...]]) -> set[Key]:
    """The replies whose new mid is another reply's already: a look guessed wrong once."""
    first: dict[tuple[str, str], Key] = {}
    for ending in named:
        first.setdefault((ending.page_id, ending.mid), ending.key)
    beside = {e.key for e in named if first[e.page_id, e.mid] != e.key}
    return beside | {(page_id, reply_id) for page_id, reply_id in bound}


def _apply_all(
    endings: Iterable[Ending],
    replies: Mapping[Key, Reply],
    rows: Mapping[Key, _Row],
    taken: Collection[Key],
    waits: Waits,
) -> list[tuple[Any, ...]]:
    """Moves the rows, and returns what is to be written of the attempts."""
    attempts: list[Ending] = []
    for ending in endings:
        row, reply = rows[ending.key], replies[ending.key]
        moved = _apply(row, reply, ending, waits, bound=ending.key in taken)
        if ending.tag and (moved or ending.signal in VERDICTS):
            attempts.append(ending)
    return [
        _attempt_row(ending, replies[ending.key].now)
        for ending in attempts
        if ending.signal in ATTEMPT_ENDS
    ]


def _attempt_row(ending: Ending, now: datetime) -> tuple[Any, ...]:
    return (
        *(ending.page_id, ending.tag, micros(now), ending.signal.value, ending.reason),
        *(ending.http_status, ending.code, ending.subcode, ending.mid, ending.via),
    )


def _apply(row: _Row, reply: Reply, ending: Ending, waits: Waits, *, bound: bool) -> bool:
    """Moves one row by the table; False where the ending means nothing to it."""
    latest = ending.tag == row.tag
    if ending.signal is Signal.ACCEPTED:
        _accept(row, reply, ending, latest=latest, bound=bound)
        return True
    signal = transitions.of_kind(ending.signal, reply.kind)
    if signal in LOOKS:
        if row.look_lease_until is None:  # nobody looks: a repeat of what was recorded
            return False
        if ending.looks_before not in (None, row.clean_looks):  # made before the latest clean one
            return False
        signal = signal if signal is Signal.FAILED_LOOK else clean_look(row.clean_looks)
    to = transitions.after(State(row.state), signal)
    if not latest or to is None or (to == row.state and to is not State.UNCERTAIN):
        return False
    _move(row, to, signal, ending, reply.now, waits)
    _settled.labels(to.value, signal.value, ending.via or "none").inc()
    if to is State.PARKED:
        log.error("a reply is parked", page_id=row.page_id, number=row.reply_id)
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
    _count_doubt(row, _LATE if ending.via == "response" else ending.via or "none")
    _land(row, to, "", reply.now)
    row.settled_by, row.sent_at = ending.via, reply.now
    _settled.labels(to.value, Signal.ACCEPTED.value, ending.via or "none").inc()


def _count_doubt(row: _Row, end: str) -> None:
    """Called before the row moves."""
    if row.state == State.UNCERTAIN:
        _doubts.labels(end).inc()


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


def _move(
    row: _Row, to: State, signal: Signal, ending: Ending, now: datetime, waits: Waits
) -> None:
    if to is State.UNCERTAIN:
        _doubt(row, signal, ending.reason, now, waits)
        return
    _count_doubt(row, _UNTOLD.get(signal, _LATE))
    if to is State.READY:
        _put_back(row, signal, ending, now, waits)
    else:
        _land(row, to, ending.reason, now)


def _doubt(row: _Row, signal: Signal, reason: str, now: datetime, waits: Waits) -> None:
    """It is, or stays, uncertain."""
    if row.state == State.SENDING:
        row.state, row.state_reason = State.UNCERTAIN.value, reason
        row.uncertain_at, row.clean_looks = now, 0
    elif signal is Signal.UNKNOWN:  # known to be unknown
        return
    row.clean_looks += signal is Signal.CLEAN_LOOK
    row.look_due_at = next_look(signal, row.started_at or now, now, waits)
    row.look_lease_until = None


def _put_back(row: _Row, signal: Signal, ending: Ending, now: datetime, waits: Waits) -> None:
    """It waits for its next attempt."""
    _ground(row, State.READY, ending.reason)
    if signal in (Signal.LAST_CLEAN_LOOK, Signal.NO_ECHO):
        row.uncertain_before = True
    if signal is not Signal.BLOCKED:
        chance = random.random()  # noqa: S311  # jitter, no secret
        pause = ending.retry_after or backoff(row.attempt, chance, waits.backoff_most)
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


def _written(
    rows: Mapping[Key, _Row], before: Mapping[Key, _Row], attempts: Sequence[tuple[Any, ...]]
) -> list[Said]:
    changed = {key: row for key, row in rows.items() if row != before[key]}
    came_to_nothing = [key for key, row in changed.items() if row.state in RELEASES_MARKS]
    came_after_all = [
        key
        for key, row in changed.items()
        if row.state == State.SENT and before[key].state in RELEASES_MARKS
    ]
    said = []
    if came_to_nothing:
        said.append(marks.release(came_to_nothing))
    if came_after_all:
        said.append(marks.take_back(came_after_all))
    if changed:
        said.append(_WRITE.over([_outbox_row(row) for row in changed.values()]))
    # One after the other, where an attempt ended twice.
    said += [_WRITE_ATTEMPTS.over(once) for once in _apart(attempts)]
    return said


def _outbox_row(row: _Row) -> tuple[Any, ...]:
    return (
        *(row.page_id, row.reply_id, row.state, row.state_reason, row.person_id),
        *(micros(row.not_before), micros(row.uncertain_at), row.uncertain_before),
        *(row.clean_looks, micros(row.look_due_at), micros(row.look_lease_until), row.mid),
        *(row.settled_by, micros(row.sent_at), micros(row.ended_at)),
    )


def _apart(attempts: Iterable[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """The rows in as few lists as hold each attempt but once, in order."""
    lists: list[dict[Any, tuple[Any, ...]]] = []
    for attempt in attempts:
        free = next((one for one in lists if attempt[:2] not in one), None)
        if free is None:
            lists.append(free := {})
        free[attempt[:2]] = attempt
    return [list(one.values()) for one in lists]


async def _pause_by_waiting_echoes(
    connection: Driver,
    landed: Sequence[_Row],
    replies: Mapping[Key, Reply],
    pause: timedelta,
) -> list[Said]:
    """Pauses automation where an echo that waited for these replies is none of ours."""
    asked = [row for row in landed if replies[row.key].platform == "instagram"]
    waits: list[_Wait] = [
        (row.page_id, row.person_id, (row.started_at or replies[row.key].now) - CLOCKS_DIFFER)
        for row in asked
        if row.person_id
    ]
    # Asked again: who came meanwhile saw the reply in flight, and waited too.
    to_anybody = [replies[row.key] for row in asked if _is_to_anybody(replies[row.key])]
    waits += await _waiting_for_anybody(connection, to_anybody)
    if not waits:
        return []
    rest = pause // timedelta(microseconds=1)
    rows = [(page, person, micros(since), rest) for page, person, since in waits]
    return [_PAUSE_BY_WAITING_ECHOES.over(rows)]


def _is_to_anybody(reply: Reply) -> bool:
    """Whether every nameless echo of the page may be of it."""
    return (
        reply.platform == "instagram" and reply.kind == "private_reply" and reply.person_id is None
    )


async def _waiting_for_anybody(connection: Driver, replies: Iterable[Reply]) -> list[_Wait]:
    keys = [reply.key for reply in replies]
    if not keys:
        return []
    (found,) = await within(connection, _WAITING_FOR_ANYBODY.over(keys))
    return [(page, person, since) for page, person, since in found.rows]


def _flies(row: _Row) -> bool:
    return row.state in IN_FLIGHT


def _frees(row: _Row) -> bool:
    """Whether there is something to send in its lane, now that it is where it is."""
    return row.state == State.READY or (row.followed and not _flies(row))


def _keys(endings: Iterable[Ending]) -> list[Key]:
    return sorted({ending.key for ending in endings})
