"""Committing decisions: marks, decision, outbox rows and the event's end, in one transaction.

The lane's lock and its epoch make a lane's events happen one at a time; what was decided once is
answered again. Locks: lane, then all marks; decisions and outbox rows are new ones.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pagewire.store.v1.lane_service_pb2 import (
    COMMIT_STATE_COMMITTED,
    COMMIT_STATE_FENCED,
    CommitDecisionsRequest,
    CommitDecisionsResponse,
    EventDecision,
    LaneDecisions,
    LaneResult,
)
from pagewire.type.v1.decision_pb2 import (
    OUTCOME_ANSWERED,
    OUTCOME_DECLINED,
    OUTCOME_FAILED,
    Decision,
    Outcome,
)
from pagewire.type.v1.event_pb2 import ID_SPACE_MESSAGING, Event
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.rule_pb2 import RuleVerdict
from pagewire_runtime import metrics
from pagewire_runtime.errors import InvalidArgument
from pagewire_runtime.logs import get_logger
from pagewire_store import deciding, ids, marks
from pagewire_store.arrivals import Lane
from pagewire_store.columns import BIGINT, BOOL, BYTES, INT, SMALLINT, TEXT, TIME, Bulk, micros
from pagewire_store.connections import Connections, Driver
from pagewire_store.database import in_live_transaction
from pagewire_store.deciding import SENDING_KINDS, Facts, Plan, PlannedReply
from pagewire_store.trips import Said, ended, within

REPLIES_A_MINUTE = 30

log = get_logger(__name__)

_decided = metrics.counter(
    "pagewire_decisions_total", "Events decided, by outcome and reason.", ["outcome", "reason"]
)
_failures = metrics.counter(
    "pagewire_event_failures_total",
    "Evaluations that failed on an event, by whether it was parked for it.",
    ["parked"],
)
_fenced = metrics.counter(
    "pagewire_lanes_fenced_total",
    "Lanes whose decisions came too late: another dispatcher had claimed the lane meanwhile.",
)

_LOCK = Bulk(
    """
    select l.page_id, l.lane, l.epoch, l.last_ordinal,
        case when l.lease_until is null then l.blocked_until end as resting_until
    from {rows} join lane l on l.page_id = n.page_id and l.lane = n.lane
    order by l.page_id, l.lane for update of l
    """,
    page_id=TEXT,
    lane=TEXT,
)

_DECIDED = Bulk(
    """
    select d.page_id, d.event_id, d.trigger, d.outcome, d.reason, d.verdicts, d.book_version,
        d.received_at, d.stored_at, d.decided_at,
        array(select o.reply_id from outbox o
            where o.page_id = d.page_id and o.event_id = d.event_id order by o.ordinal) as replies,
        (select min(o.sending_at) from outbox o
            where o.page_id = d.page_id and o.event_id = d.event_id) as sent_at
    from {rows} join decision d on d.page_id = n.page_id and d.event_id = n.event_id
    """,
    page_id=TEXT,
    event_id=BIGINT,
)

# The lanes' first pending events, as many as are decided.
_PENDING = Bulk(
    """
    select e.page_id, e.lane, e.event_id, e.event_key, e.trigger, e.attempts, e.first_failed_at,
        e.received_at, e.stored_at, e.detail, clock_timestamp() as now
    from {rows} cross join lateral (
        select * from event
        where event.page_id = n.page_id and event.lane = n.lane and event.state = 'pending'
        order by event.number limit n.named
    ) e
    order by n.ord, e.number
    """,
    page_id=TEXT,
    lane=TEXT,
    named=INT,
)

_FACTS = Bulk(
    """
    select n.ord, p.platform, p.connected, c.automation_paused_until,
        coalesce(m.is_deleted, k.is_deleted, false) as removed,
        coalesce(
            (select true from page q where q.page_id = n.person_id and q.connected limit 1),
            (select true from page q
                where q.facebook_page_id = n.person_id and q.connected limit 1),
            false) as other_is_page
    from {rows} join page p on p.page_id = n.page_id
    left join conversation c
        on c.page_id = n.page_id and c.participant_id = n.person_id and not n.is_comment
    left join message m on m.page_id = n.page_id and m.mid = n.mid
    left join comment k on k.page_id = n.page_id and k.comment_id = n.comment_id
    """,
    page_id=TEXT,
    person_id=TEXT,
    is_comment=BOOL,
    mid=TEXT,
    comment_id=TEXT,
)

_AUTOMATIC = "o.origin = 'rule' and o.kind in ('message', 'private_reply', 'comment_reply')"

# And fresh numbers for the replies of a lane. What goes to a person counts together, by whatever
# lane it was decided; to whom Facebook's private replies go is known once they are sent.
_RATES = Bulk(
    f"""
    select n.page_id, n.lane,
        array(select nextval('reply_number') from generate_series(1, n.actions)) as numbers,
    greatest((
        select count(*) from (
            select o.created_at from outbox o
            where o.page_id = n.page_id and o.lane = n.lane and {_AUTOMATIC}
            order by o.ordinal desc limit n.at_most
        ) o where o.created_at > clock_timestamp() - interval '1 minute'
    ), (
        select count(*) from (
            select o.created_at from outbox o
            where o.page_id = n.page_id and o.person_id = n.person_id and {_AUTOMATIC}
            order by o.created_at desc limit n.at_most
        ) o where o.created_at > clock_timestamp() - interval '1 minute'
    )) as sent
    from {{rows}}
    """,  # noqa: S608  # a constant
    page_id=TEXT,
    lane=TEXT,
    person_id=TEXT,
    actions=INT,
    at_most=INT,
)

# How many events of a page were answered in the last minute, as far as it matters.
_PAGE_RATES = Bulk(
    """
    select n.page_id, (
        select count(*) from (
            select from decision d
            where d.page_id = n.page_id and d.outcome = 'answered'
                and d.decided_at > clock_timestamp() - interval '1 minute'
            limit n.at_most) d
    ) as answered
    from {rows}
    """,
    page_id=TEXT,
    at_most=INT,
)

_DECIDE = Bulk(
    """
    insert into decision (page_id, event_id, trigger, outcome, reason, verdicts, book_version,
        received_at, stored_at, decided_at, epoch)
    select page_id, event_id, trigger, outcome, reason, verdicts, book_version, received_at,
        stored_at, decided_at, epoch
    from {rows} order by n.ord
    """,
    page_id=TEXT,
    event_id=BIGINT,
    trigger=SMALLINT,
    outcome=TEXT,
    reason=TEXT,
    verdicts=BYTES,
    book_version=BIGINT,
    received_at=TIME,
    stored_at=TIME,
    decided_at=TIME,
    epoch=BIGINT,
)

_FIRE = Bulk(
    """
    insert into fired_rule (page_id, event_id, rule_id, rule_version)
    select page_id, event_id, rule_id, rule_version from {rows}
    """,
    page_id=TEXT,
    event_id=BIGINT,
    rule_id=TEXT,
    rule_version=BIGINT,
)

_ENQUEUE = Bulk(
    """
    insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, event_id, rule_id,
        action_index, person_id, comment_id, content, hidden, label, state, expires_at)
    select page_id, reply_id, lane, ordinal, kind, 'rule', event_id, rule_id, action_index,
        person_id, comment_id, content, hidden, label, 'ready', expires_at
    from {rows}
    """,
    page_id=TEXT,
    reply_id=BIGINT,
    lane=TEXT,
    ordinal=BIGINT,
    kind=TEXT,
    event_id=BIGINT,
    rule_id=TEXT,
    action_index=INT,
    person_id=TEXT,
    comment_id=TEXT,
    content=BYTES,
    hidden=BOOL,
    label=TEXT,
    expires_at=TIME,
)

_END_EVENTS = Bulk(
    """
    update event e set state = n.state, attempts = n.attempts,
        first_failed_at = n.first_failed_at, last_error = coalesce(n.last_error, e.last_error)
    from {rows} where e.page_id = n.page_id and e.event_key = n.event_key
    """,
    page_id=TEXT,
    event_key=TEXT,
    state=TEXT,
    attempts=INT,
    first_failed_at=TIME,
    last_error=TEXT,
)

# A lane's next event is looked for after its decided ones have ended.
_END_LANES = Bulk(
    """
    update lane l set last_ordinal = n.last_ordinal, pending = l.pending - n.ended,
        pending_since = (
            select e.stored_at from event e
            where e.page_id = n.page_id and e.lane = n.lane and e.state = 'pending'
            order by e.number limit 1),
        blocked_until = coalesce(n.blocked_until, l.blocked_until),
        lease_owner = case when not n.release then l.lease_owner end,
        lease_until = case when not n.release then l.lease_until end
    from {rows} where l.page_id = n.page_id and l.lane = n.lane
    returning l.pending > 0 and n.release as waits
    """,
    page_id=TEXT,
    lane=TEXT,
    last_ordinal=BIGINT,
    ended=INT,
    blocked_until=TIME,
    release=BOOL,
)


_WORD = re.compile(r"[a-z0-9_.]{1,64}")


class _Locked(NamedTuple):
    page_id: str
    lane: str
    epoch: int
    last_ordinal: int
    resting_until: datetime | None


class _Pending(NamedTuple):
    page_id: str
    lane: str
    event_id: int
    event_key: str
    trigger: Any
    attempts: int
    first_failed_at: datetime | None
    received_at: Any
    stored_at: Any
    detail: bytes
    now: Any


class _Known(NamedTuple):
    """The facts of an event."""

    ord: int
    platform: str
    connected: bool
    automation_paused_until: datetime | None
    removed: bool
    other_is_page: bool


class _Before(NamedTuple):
    """A decision that there is."""

    page_id: str
    event_id: int
    trigger: Any
    outcome: str
    reason: str
    verdicts: bytes
    book_version: int
    received_at: Any
    stored_at: Any
    decided_at: Any
    replies: list[int]
    sent_at: Any


@dataclass(frozen=True)
class Caps:
    """How much rules may answer in a minute."""

    in_conversation: int = REPLIES_A_MINUTE
    """Replies."""
    on_page: int | None = None
    """Events; None where there is no such cap."""


@dataclass
class _Lane:
    """A lane under commit."""

    asked: LaneDecisions
    events: dict[int, EventDecision]
    """By number, in the order named."""
    last_ordinal: int = 0
    sent: int = 0
    """Automatic replies of the last minute."""
    numbers: Iterator[int] = field(default_factory=lambda: iter(()))
    """For new replies: enough for all that may be made."""
    ended: int = 0
    resting_until: datetime | None = None
    """Of one that was given back with a failure, and is said again: nobody heard the answer."""
    blocked_until: datetime | None = None
    answers: dict[int, Decision] = field(default_factory=dict)
    fenced: bool = False

    @property
    def key(self) -> Lane:
        return self.asked.ref.page_id, self.asked.ref.lane

    @property
    def actions(self) -> int:
        """How many replies there are if every candidate fires."""
        candidates = (one for d in self.events.values() for one in d.evaluation.candidates)
        return sum(len(one.actions) for one in candidates)

    def result(self) -> LaneResult:
        if self.fenced:
            return LaneResult(state=COMMIT_STATE_FENCED)
        answers = [self.answers[number] for number in self.events if number in self.answers]
        return LaneResult(state=COMMIT_STATE_COMMITTED, decisions=answers)


@dataclass
class _Case:
    """A pending event under decision."""

    lane: _Lane
    row: _Pending
    event: Event
    decision: EventDecision
    bar: deciding.Bar | None = None
    plans: list[Plan] = field(default_factory=list)

    @property
    def failure(self) -> str:
        """Why the event itself could not be evaluated, as a stable word; empty where it could."""
        why = self.decision.failure or self.decision.evaluation.error
        return why if not why or _WORD.fullmatch(why) else "evaluation_failed"


@dataclass
class _Writes:
    """The rows to be, for one statement a table."""

    decisions: list[tuple[Any, ...]] = field(default_factory=list)
    fired: list[tuple[Any, ...]] = field(default_factory=list)
    outbox: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def said(self) -> list[Said]:
        steps = (
            (_DECIDE, self.decisions),
            (_FIRE, self.fired),
            (_ENQUEUE, self.outbox),
            (_END_EVENTS, self.events),
        )
        return [statement.over(rows) for statement, rows in steps if rows]


@dataclass(frozen=True)
class _Committed:
    response: CommitDecisionsResponse
    replies: bool
    waiting: bool


async def commit(
    connections: Connections,
    request: CommitDecisionsRequest,
    *,
    wake_outbox: Callable[[], None],
    wake_lanes: Callable[[], None],
    caps: Caps = Caps(),  # frozen
    recovered_fresh: timedelta = deciding.RECOVERED_FRESH,
) -> CommitDecisionsResponse:
    """Commits what was decided, all lanes in one transaction, and answers in the request's order.

    A lane whose epoch has passed is FENCED and left as it is, unless all its events were decided
    before: then the first answers are given again. `wake_outbox` is called where replies were put
    in, `wake_lanes` where a freed lane has events left; both after the commit.

    Raises InvalidArgument where the events are not the first pending ones of their lane, and
    Unavailable.
    """
    lanes_of = _reader(request)

    async def work(connection: Driver) -> _Committed:
        return await _commit(connection, lanes_of(), caps, recovered_fresh)

    committed = await in_live_transaction(
        connections, work, part="store.decide", keys=_named(request)
    )
    if committed.replies:
        wake_outbox()
    if committed.waiting:
        wake_lanes()
    _fenced.inc(sum(each.state == COMMIT_STATE_FENCED for each in committed.response.results))
    return committed.response


def _named(request: CommitDecisionsRequest) -> Iterator[str]:
    for lane in request.lanes:
        yield from (lane.ref.page_id, lane.ref.lane, *(each.event_id for each in lane.events))


def _reader(request: CommitDecisionsRequest) -> Callable[[], list[_Lane]]:
    """Checks the request once; each try of the transaction then starts from it afresh."""

    def read() -> list[_Lane]:
        return [_Lane(asked, _named_events(asked)) for asked in request.lanes]

    keys = [lane.key for lane in read()]
    if len(set(keys)) < len(keys):
        raise InvalidArgument("lanes", "name one lane twice")
    return read


def _named_events(asked: LaneDecisions) -> dict[int, EventDecision]:
    named = {}
    for decision in asked.events:
        match ids.parse_event_id(decision.event_id):
            case (page_id, number) if page_id == asked.ref.page_id and number not in named:
                named[number] = decision
            case _:
                raise InvalidArgument("lanes.events.event_id", "must name events of the lane, once")
        if decision.WhichOneof("result") is None:
            raise InvalidArgument("lanes.events.result", "must be an evaluation or a failure")
    return named


async def _commit(
    connection: Driver, lanes: list[_Lane], caps: Caps, recovered_fresh: timedelta
) -> _Committed:
    if not lanes:
        return _Committed(CommitDecisionsResponse(), replies=False, waiting=False)
    locked, pending = await _look(connection, lanes)
    held = _hold(lanes, locked, await _repeated(connection, lanes, pending))
    cases = _cases(held, pending)
    answered = await _weigh(connection, cases, caps, recovered_fresh)
    reserved = await _reserve(connection, cases)
    writes = _Deciding(caps, reserved, answered).decide(cases)
    said = [*reserved.said(), *writes.said()]
    if held:
        said.append(_END_LANES.over([_lane_row(lane) for lane in held]))
    answers = await ended(connection, *said)
    waiting = bool(held) and any(waits for (waits,) in answers[-1].rows)
    response = CommitDecisionsResponse(results=[lane.result() for lane in lanes])
    return _Committed(response, replies=bool(writes.outbox), waiting=waiting)


async def _look(connection: Driver, lanes: Sequence[_Lane]) -> tuple[list[_Locked], list[_Pending]]:
    """Locks the lanes, then reads what is pending, with a snapshot of its own."""
    said = [_LOCK.over(sorted(lane.key for lane in lanes))]
    if named := [(*lane.key, len(lane.events)) for lane in lanes if lane.events]:
        said.append(_PENDING.over(named))
    locked, *pending = await within(connection, *said)
    return (
        [_Locked(*row) for row in locked.rows],
        [_Pending(*row) for answer in pending for row in answer.rows],
    )


async def _repeated(
    connection: Driver, lanes: Sequence[_Lane], pending: Iterable[_Pending]
) -> list[_Before]:
    """The decisions there are of the events named; one that is pending has none."""
    undecided = {(row.page_id, row.event_id) for row in pending}
    named = {(lane.key[0], number) for lane in lanes for number in lane.events}
    if named <= undecided:
        return []
    (decided,) = await within(connection, _DECIDED.over(sorted(named - undecided)))
    return [_Before(*row) for row in decided.rows]


def _hold(
    lanes: Sequence[_Lane], locked: Sequence[_Locked], decided: Sequence[_Before]
) -> list[_Lane]:
    """Gives first answers again, and returns the lanes that may be written."""
    rows = {(row.page_id, row.lane): row for row in locked}
    before = {(row.page_id, row.event_id): _decision_from(row) for row in decided}
    held = []
    for lane in lanes:
        page_id, row = lane.key[0], rows.get(lane.key)
        lane.answers = {n: before[page_id, n] for n in lane.events if (page_id, n) in before}
        if row is None or row.epoch != lane.asked.ref.epoch:
            lane.fenced = len(lane.answers) < len(lane.events) or not lane.events
        else:
            lane.last_ordinal, lane.resting_until = row.last_ordinal, row.resting_until
            held.append(lane)
    return held


def _cases(held: Sequence[_Lane], pending: Iterable[_Pending]) -> list[_Case]:
    """The events that are to be decided now: their lanes' first pending ones."""
    first: dict[Lane, list[_Pending]] = defaultdict(list)
    for row in pending:
        first[row.page_id, row.lane].append(row)
    cases = []
    for lane in held:
        undecided = [number for number in lane.events if number not in lane.answers]
        rows = first[lane.key][: len(undecided)]
        if undecided != [row.event_id for row in rows]:
            raise InvalidArgument("lanes.events", "must be the first pending ones of their lane")
        cases += [
            _Case(lane, row, Event.FromString(row.detail), lane.events[row.event_id])
            for row in rows
        ]
    return cases


async def _weigh(
    connection: Driver, cases: Sequence[_Case], caps: Caps, recovered_fresh: timedelta
) -> Counter[str]:
    """Loads the facts, and has the pure part say what bars each event and what firing takes.

    How many events of each page were answered in the last minute, where that has a cap.
    """
    if not cases:
        return Counter()
    lanes = {c.lane.key: c.lane for c in cases if c.decision.evaluation.candidates}
    pages = sorted({page_id for page_id, _ in lanes}) if caps.on_page is not None else []
    people = {case.lane.key: _person(case) for case in reversed(cases)}
    rated = [(*key, people[key], lane.actions, caps.in_conversation) for key, lane in lanes.items()]
    said = [_FACTS.over([_sought(case) for case in cases])]
    if rated:
        said.append(_RATES.over(rated))
    if pages:
        said.append(_PAGE_RATES.over([(page_id, caps.on_page) for page_id in pages]))
    facts, *rates = await within(connection, *said)
    for page_id, lane, numbers, sent in rates[0].rows if rated else ():
        lanes[page_id, lane].sent, lanes[page_id, lane].numbers = sent, iter(numbers)
    for row in facts.rows:
        known = _Known(*row)
        _plan(cases[known.ord - 1], known, recovered_fresh)
    return Counter(dict(rates[1].rows) if pages else {})


def _person(case: _Case) -> str | None:
    """To whom one would write who answers it; None where that is not known."""
    return case.event.person_id if case.event.id_space == ID_SPACE_MESSAGING else None


async def _reserve(connection: Driver, cases: Iterable[_Case]) -> marks.Reserved:
    """Waits for all marks that may be taken at once: two lanes may have the same two people."""
    wished = {
        (case.row.page_id, wish.key) for case in cases for plan in case.plans for wish in plan.marks
    }
    if not wished:
        return marks.Reserved()
    return marks.Reserved((await within(connection, *marks.reserve(wished)))[-1])


def _plan(case: _Case, known: _Known, recovered_fresh: timedelta) -> None:
    facts = Facts(
        event=case.event,
        platform=Platform.Value(f"PLATFORM_{known.platform.upper()}"),
        connected=known.connected,
        other_is_page=known.other_is_page,
        removed=known.removed,
        paused_until=known.automation_paused_until,
    )
    case.bar = deciding.bars(facts, case.row.now, recovered_fresh)
    if case.bar is None and not case.failure:
        candidates = case.decision.evaluation.candidates
        case.plans = [deciding.plan(facts, one, case.row.now) for one in candidates]


def _sought(case: _Case) -> tuple[Any, ...]:
    event = case.event
    comment = deciding.is_comment(event)
    mid = event.message.mid or None
    comment_id = event.comment.comment_id or None
    return (event.page_id, event.person_id, comment, mid, comment_id)


@dataclass
class _Deciding:
    """The way through the events, in order: each may leave less to those behind it."""

    caps: Caps
    reserved: marks.Reserved
    answered: Counter[str]
    """Events of a page in the last minute."""
    writes: _Writes = field(default_factory=_Writes)

    def decide(self, cases: Sequence[_Case]) -> _Writes:
        """The rows to be."""
        for case in cases:
            if case.lane.blocked_until is not None:
                continue  # put off, behind the one that failed
            if case.bar is not None:
                _end(case, self.writes, case.bar.outcome, case.bar.reason, [])
            elif case.failure and case.lane.resting_until is not None:
                case.lane.blocked_until = case.lane.resting_until  # it is counted
            elif case.failure:
                _fail(case, self.writes)
            else:
                self._choose(case)
        return self.writes

    def _choose(self, case: _Case) -> None:
        """Fires the first candidate whose marks can be had, and those behind it that it lets."""
        verdicts, replies, done = [], [], False
        for plan in case.plans:
            drawn: list[tuple[int, PlannedReply]] = []
            if done:
                reason = "lower_priority"
            elif (capped := self._capped(case, plan)) is not None:
                reason = capped
            else:
                drawn = [(next(case.lane.numbers), reply) for reply in plan.replies]
                reason = plan.refusal or self._mark(case, plan, drawn) or "fired"
                if reason == "fired":
                    done = not plan.candidate.continues
                    replies.extend(_enqueue(case, plan, drawn, self.writes))
            verdicts.append(_verdict(plan, reason))
        fired = any(verdict.fired for verdict in verdicts)
        self.answered[case.row.page_id] += fired
        outcome = OUTCOME_ANSWERED if fired else OUTCOME_DECLINED
        reason = "fired" if fired else verdicts[0].reason if verdicts else "no_rule_matched"
        verdicts.extend(case.decision.evaluation.misses)
        _end(case, self.writes, outcome, reason, verdicts, replies=replies)

    def _capped(self, case: _Case, plan: Plan) -> str | None:
        if not plan.sending:
            return None
        if case.lane.sent + plan.sending > self.caps.in_conversation:
            return "rate_capped"
        on_page = self.caps.on_page
        if on_page is not None and self.answered[case.row.page_id] >= on_page:
            return "page_rate_capped"
        return None

    def _mark(
        self, case: _Case, plan: Plan, drawn: Sequence[tuple[int, PlannedReply]]
    ) -> str | None:
        """Takes the marks for the plan's first sending reply; the reason where one can't be had."""
        standing = next((number for number, reply in drawn if reply.kind in SENDING_KINDS), None)
        return self.reserved.take(
            case.row.page_id,
            case.row.event_id,
            plan.candidate.rule_id,
            standing,
            plan.marks,
            case.row.now,
        )


def _fail(case: _Case, writes: _Writes) -> None:
    """Counts a failure against the event: it is parked, or its lane rests."""
    now = case.row.now
    failures, first = case.row.attempts + 1, case.row.first_failed_at or now
    parked = deciding.parks(failures, first, now, case.failure)
    _failures.labels(str(parked).lower()).inc()
    if parked:
        log.error("an event is parked", page_id=case.row.page_id, number=case.row.event_id)
        _end(case, writes, OUTCOME_FAILED, "evaluation_failed", [], failed=(failures, first))
        return
    case.lane.blocked_until = now + deciding.block(failures, random.random())  # noqa: S311
    writes.events.append(_event_row(case, "pending", failures, first))


def _enqueue(
    case: _Case, plan: Plan, drawn: Sequence[tuple[int, PlannedReply]], writes: _Writes
) -> list[str]:
    """Puts the plan's replies in, and returns their ids."""
    lane, rule = case.lane, plan.candidate
    page_id, event_id = case.row.page_id, case.row.event_id
    writes.fired.append((page_id, event_id, rule.rule_id, rule.version))
    lane.sent += plan.sending
    for number, reply in drawn:
        lane.last_ordinal += 1
        content = reply.content.SerializeToString() if reply.content is not None else None
        writes.outbox.append(
            (
                *(page_id, number, lane.key[1], lane.last_ordinal, reply.kind),
                *(event_id, rule.rule_id, reply.action_index),
                *(reply.person_id, reply.comment_id, content, reply.hidden, reply.label),
                micros(reply.expires_at),
            )
        )
    return [ids.reply_id(page_id, number) for number, _ in drawn]


def _end(
    case: _Case,
    writes: _Writes,
    outcome: Outcome.ValueType,
    reason: str,
    verdicts: Sequence[RuleVerdict],
    *,
    replies: Sequence[str] = (),
    failed: tuple[int, datetime] | None = None,
) -> None:
    """Ends the event with its decision."""
    row, version = case.row, case.decision.evaluation.book_version
    word = Outcome.Name(outcome).removeprefix("OUTCOME_").lower()
    kept = Decision(rules=verdicts).SerializeToString()
    times = (row.received_at, row.stored_at, row.now)
    writes.decisions.append(
        (
            *(row.page_id, row.event_id, row.trigger, word, reason, kept, version),
            *map(micros, times),
            case.lane.asked.ref.epoch,
        )
    )
    failures, first = failed or (row.attempts, row.first_failed_at)
    state = "parked" if outcome == OUTCOME_FAILED else "done"
    writes.events.append(_event_row(case, state, failures, first))
    case.lane.ended += 1
    case.lane.answers[row.event_id] = Decision(
        event_id=ids.event_id(row.page_id, row.event_id),
        page_id=row.page_id,
        kind=row.trigger,
        outcome=outcome,
        reason=reason,
        rules=verdicts,
        book_version=version,
        receive_time=row.received_at,
        store_time=row.stored_at,
        decide_time=row.now,
        reply_ids=replies,
    )
    _decided.labels(word, reason).inc()


def _event_row(case: _Case, state: str, failures: int, first: datetime | None) -> tuple[Any, ...]:
    error = case.failure or None
    return (case.row.page_id, case.row.event_key, state, failures, micros(first), error)


def _verdict(plan: Plan, reason: str) -> RuleVerdict:
    rule = plan.candidate
    return RuleVerdict(
        rule_id=rule.rule_id,
        version=rule.version,
        name=rule.name,
        fired=reason == "fired",
        reason=reason,
        span=rule.span if rule.HasField("span") else None,
        left_out=plan.left_out if reason in ("fired", plan.refusal) else (),
    )


def _lane_row(lane: _Lane) -> tuple[Any, ...]:
    blocked = micros(lane.blocked_until)
    release = lane.asked.release or blocked is not None
    return (*lane.key, lane.last_ordinal, lane.ended, blocked, release)


def _decision_from(row: _Before) -> Decision:
    return Decision(
        event_id=ids.event_id(row.page_id, row.event_id),
        page_id=row.page_id,
        kind=row.trigger,
        outcome=Outcome.Value(f"OUTCOME_{row.outcome.upper()}"),
        reason=row.reason,
        rules=Decision.FromString(row.verdicts).rules,
        book_version=row.book_version,
        receive_time=row.received_at,
        store_time=row.stored_at,
        decide_time=row.decided_at,
        sent_time=row.sent_at,
        reply_ids=[ids.reply_id(row.page_id, number) for number in row.replies],
    )
