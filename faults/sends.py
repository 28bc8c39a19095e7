"""What Graph took of the replies: how often, in which order, and how what was in doubt ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from faults import model
from faults.evidence import Evidence, Key, Lane, Violation, reply_name
from faults.history import AttemptRow, End, GraphCall, OutboxRow

IN_DOUBT = frozenset({"uncertain", "uncertain_harmless", "lease_lapsed", "lease_lapsed_harmless"})
"""Ends of an attempt after which nobody knew whether Graph had taken it."""
GAVE_UP = "timeout"
"""Why an attempt is in doubt whose sender waited no longer, while Graph still had it in hand."""
UNSETTLED = frozenset({"ready", "sending", "uncertain"})
READ_OFF = 0.01
"""Seconds by which two clocks of one machine are read differently."""
TOLD = frozenset({"normal", "refused"})
"""Answers that said, whole, what had happened."""
CALLS_THAT_SEND = frozenset({"send", "private_reply", "comment_reply"})
_OWN_COMMENT = {"comment_reply": ("comment:{}:add", "igcomment:{}")}
"""Keys of the event by which Meta tells of the comment that a call made."""


@dataclass(frozen=True)
class Duplicate:
    """A reply that Graph took more than once, and what makes that no promise broken.

    `excuse` is empty where there is none: Graph took it, its answer was lost, no echo came, and two
    looks a minute apart found nothing.
    """

    reply: OutboxRow
    calls: Sequence[GraphCall]
    missing: str
    """Which part of that is not so; empty where all is."""


def duplicates(evidence: Evidence) -> list[Duplicate]:
    """Every reply that Graph took more than once."""
    found = []
    for row in evidence.rows.outbox:
        calls = evidence.acceptances.get((row.page_id, row.reply_id), [])
        if len(calls) > 1:
            missing = next(
                filter(None, (_unexcused(evidence, row, *pair) for pair in pairwise(calls))), ""
            )
            found.append(Duplicate(row, calls, missing))
    return found


def _unexcused(evidence: Evidence, row: OutboxRow, first: GraphCall, again: GraphCall) -> str:
    """What of the conjunction that excuses a second send is not there."""
    attempts = evidence.attempts.get((row.page_id, row.reply_id), [])
    attempt = _attempt_of(attempts, first)
    if attempt is None or attempt.verdict not in (*IN_DOUBT, "accepted"):
        return "its first answer was known"
    if attempt.settled_by == "response" and (attempt.ended_at or 0.0) < again.started_at:
        return "its first answer was known"
    looks = _looks(evidence, row, first.started_at, again.started_at)
    if _was_told_back(evidence, first, looks, again.started_at):
        return "it had been told back before"
    if len(looks) < 2:
        return f"it was looked for {len(looks)} times"
    if looks[-1] < attempt.started_at + evidence.bounds.second_look - READ_OFF:
        return "the second look was too early"
    if looks[-1] - looks[0] < evidence.bounds.between_looks - READ_OFF:
        return "the second look was too soon after the first"
    return ""


def _looks(evidence: Evidence, row: OutboxRow, since: float, until: float) -> list[float]:
    """When the place where it would stand was read, and the reading was answered whole."""
    place: tuple[str, str, str | None, str | None]
    if row.kind == "message":
        place = ("conversations", row.page_id, row.person_id, None)
    else:
        place = ("comment_replies", row.page_id, None, row.comment_id)
    return [
        call.started_at
        for call in evidence.history.calls
        if (call.endpoint, call.page_id, call.person_id, call.comment_id) == place
        and call.answer == "normal"
        and since < call.started_at < until
    ]


def _attempt_of(attempts: Sequence[AttemptRow], call: GraphCall) -> AttemptRow | None:
    if call.tag is not None:
        return next((attempt for attempt in attempts if attempt.tag == call.tag), None)
    before = [attempt for attempt in attempts if attempt.started_at <= call.started_at]
    return max(before, key=lambda attempt: attempt.started_at, default=None)


def _was_told_back(
    evidence: Evidence, call: GraphCall, looks: Sequence[float], again: float
) -> bool:
    """Whether we had its echo, with our tag, before it went again, or its comment while we looked.

    On Instagram an echo has no tag, and says no more than a look does.
    """
    by_comment = _OWN_COMMENT.get(call.endpoint, ())
    keys = {(call.page_id, key.format(call.created)) for key in by_comment}
    refs = {
        event.ref
        for event in evidence.history.happened
        if (call.tag is not None and event.tag == call.tag) or (event.page_id, event.key) in keys
    }
    before = max(looks, default=again) if by_comment else again
    return any(
        post.end is End.OK and post.ended_at < before and refs.intersection(post.refs)
        for post in evidence.history.delivered
    )


def wrong_counts(evidence: Evidence) -> Iterator[Violation]:
    """Replies of which Graph took another number than their state says."""
    for row in evidence.rows.outbox:
        if row.kind not in model.SENDING:
            continue
        taken = evidence.acceptances.get((row.page_id, row.reply_id), [])
        if row.state == "sent" and not taken:
            yield Violation("I4", reply_name(row), "is sent, and Graph never took it")
        elif row.state in ("failed", "expired", "ready") and taken:
            yield Violation("I4", reply_name(row), f"is {row.state}, and Graph took it")
        elif row.state == "sent" and row.mid and row.mid not in {call.created for call in taken}:
            yield Violation("I4", reply_name(row), f"has the id {row.mid}, which is another's")
        elif evidence.is_definite and len(taken) > 1:
            yield Violation("I4", reply_name(row), f"was taken {len(taken)} times by Graph")
        elif row.state in ("parked", "uncertain") and (
            evidence.is_definite or not _was_left_in_doubt(evidence, row)
        ):
            yield Violation(
                "I4", reply_name(row), f"is {row.state}, though nothing left it in doubt"
            )


def _was_left_in_doubt(evidence: Evidence, row: OutboxRow) -> bool:
    """Whether an attempt of it ended so, or the last has not ended."""
    attempts = evidence.attempts.get((row.page_id, row.reply_id), [])
    return row.uncertain_before or any(
        attempt.verdict is None or attempt.verdict in IN_DOUBT for attempt in attempts
    )


def wrong_duplicates(evidence: Evidence) -> Iterator[Violation]:
    """Replies that Graph took twice though that could be known."""
    if evidence.is_definite:
        return  # each is one too many
    for twice in duplicates(evidence):
        times = f"was taken {len(twice.calls)} times by Graph"
        if evidence.has_echoes:
            yield Violation("I5", reply_name(twice.reply), f"{times}, though all is told back")
        elif twice.missing:
            yield Violation("I5", reply_name(twice.reply), f"{times}: {twice.missing}")


def wrong_order(evidence: Evidence) -> Iterator[Violation]:
    """Replies of a lane that reached Graph in another order than theirs, or at the same time."""
    lanes: dict[Lane, list[OutboxRow]] = defaultdict(list)
    for row in sorted(evidence.rows.outbox, key=lambda row: row.ordinal):
        lanes[row.page_id, row.lane].append(row)
    for lane, rows in lanes.items():
        first = [
            (row, taken[0].accepted_order or 0)
            for row in rows
            if (taken := evidence.acceptances.get((row.page_id, row.reply_id)))
        ]
        for (before, its_order), (after, order) in pairwise(first):
            if its_order > order:
                why = f"reached Graph before {reply_name(before)} of the same lane"
                yield Violation("I6", reply_name(after), why)
        for earlier, later in pairwise(_by_event(evidence, rows)):
            if earlier.ordinal > later.ordinal:
                why = f"stands before the answers to an earlier event of {'/'.join(lane)}"
                yield Violation("I6", reply_name(later), why)
    yield from _overlaps(evidence)


def _by_event(evidence: Evidence, rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    numbered = [
        (event.number, row.ordinal, row)
        for row in rows
        if row.event_id is not None and (event := evidence.events.get((row.page_id, row.event_id)))
    ]
    return [row for *_, row in sorted(numbered, key=lambda each: each[:2])]


def _overlaps(evidence: Evidence) -> Iterator[Violation]:
    """Of a lane, a call that began while one went on to whose answer somebody listened."""
    by_tag = {row.tag: (row.page_id, row.reply_id) for row in evidence.rows.attempts}
    lane_of: dict[Key, Lane] = {
        (row.page_id, row.reply_id): (row.page_id, row.lane) for row in evidence.rows.outbox
    }
    for key, calls in evidence.acceptances.items():
        by_tag |= {f"#{call.serial}": key for call in calls}
    latest: dict[Lane, tuple[GraphCall, AttemptRow | None]] = {}
    for call in evidence.history.calls:
        of = by_tag.get(call.tag or f"#{call.serial}")
        if call.endpoint not in CALLS_THAT_SEND or of is None or of not in lane_of:
            continue
        lane = lane_of[of]
        if lane in latest and _is_listened_to(*latest[lane], call.started_at):
            before, _ = latest[lane]
            why = f"two calls of it were under way at once, {before.serial} and {call.serial}"
            yield Violation("I6", f"lane {'/'.join(lane)}", why)
        latest[lane] = call, _attempt_of(evidence.attempts.get(of, []), call)


def _is_listened_to(call: GraphCall, attempt: AttemptRow | None, at: float) -> bool:
    """Whether somebody still waited then for the answer, and it had not been told otherwise."""
    if call.answer not in TOLD or (call.ended_at or 0.0) <= at:
        return False
    if attempt is None or (attempt.ended_at or at) > at:
        return True
    return attempt.reason != GAVE_UP and attempt.settled_by in (None, "response")


@dataclass(frozen=True)
class Doubt:
    """A reply of which nobody knew for a while whether Graph had taken it.

    `end` is `echo`, `readback`, `webhook`, `late_answer`, `resend`, `parked`, `failed`, `expired`,
    or `open` where there is none; `seconds` go from the first attempt in doubt to that end.
    """

    end: str
    seconds: float | None


def doubts(evidence: Evidence) -> list[Doubt]:
    """Those that there were, as the rig's own trigger saw them begin.

    In the store nothing is left of most: an acceptance is the last word on the attempt too.
    """
    tags: dict[Key, list[str]] = defaultdict(list)
    for noted in evidence.rows.doubts:
        tags[noted.page_id, noted.reply_id].append(noted.tag)
    found = []
    for row in evidence.rows.outbox:
        if (key := (row.page_id, row.reply_id)) in tags:
            attempts = evidence.attempts.get(key, [])
            begun = min(
                (each.started_at for each in attempts if each.tag in tags[key]),
                default=row.sending_at,
            )
            is_known = begun is not None and row.ended_at is not None
            seconds = (row.ended_at or 0.0) - (begun or 0.0) if is_known else None
            found.append(Doubt(_end(row), seconds))
    return found


def uncertain_ends(evidence: Evidence) -> Counter[str]:
    """How often a doubt ended how."""
    return Counter(doubt.end for doubt in doubts(evidence))


def _end(row: OutboxRow) -> str:
    if row.state in UNSETTLED:
        return "open"
    if row.state != "sent":
        return row.state
    if row.settled_by == "response":
        return "resend" if row.uncertain_before else "late_answer"
    return row.settled_by or "unknown"
