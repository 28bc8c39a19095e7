"""What was decided, against what the model decides: each event, each rule, each reply."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from faults import model
from faults.evidence import Evidence, Lane, Violation, event_name
from faults.history import DecisionRow, EventRow, LeaseRow, OutboxRow
from faults.model import Expected, Memory, Moment, Rule, Sent

REPLIES_A_MINUTE = 30
MINUTE = 60.0
WRITING_A_RULE = 5.0
"""No write of a rule takes longer; what comes later is decided under it."""
MOST_MISSES = 50
"""A decision names no more rules that did not match."""

_RuleKey = tuple[str, int]


def wrong_decisions(evidence: Evidence) -> Iterator[tuple[EventRow, str]]:
    """Each decision that is not what the model decides, and why. In the order of deciding."""
    rules = {(row.rule_id, row.version): model.rule(row) for row in evidence.rows.rule_versions}
    rests, removals = _rests(evidence), _removals(evidence)
    memory = Memory(has_come_to_nothing=_come_to_nothing(evidence))
    for decision in sorted(evidence.rows.decisions, key=lambda row: (row.decided_at, row.event_id)):
        row = evidence.events.get((decision.page_id, decision.event_id))
        if row is None or decision.reason == "evaluation_failed":
            continue
        happened = evidence.happened.get((row.page_id, row.key))
        if happened is None:
            continue
        unknown = [v for v in decision.verdicts if (v.rule_id, v.version) not in rules]
        if unknown:
            yield (
                row,
                f"names {unknown[0].rule_id} at version {unknown[0].version}, which never was",
            )
            continue
        told = model.told(happened)
        told = replace(told, is_instagram=told.is_instagram or row.page_id in evidence.instagram)
        moment = Moment(
            told,
            [rules[verdict.rule_id, verdict.version] for verdict in decision.verdicts],
            decision.decided_at,
            is_connected=row.page_id in evidence.rows.pages
            or decision.reason != "page_disconnected",
            is_removed=_is_removed(row, decision, removals),
            paused_until=_paused_until(row, decision, rests),
        )
        replies = evidence.replies.get((row.page_id, row.event_id), [])
        if any(verdict.reason == "rate_capped" for verdict in decision.verdicts):
            for verdict in decision.verdicts:
                if verdict.fired:
                    memory.note(told, verdict.rule_id, decision.decided_at)
            yield from ((row, why) for why in _wrongly_capped(evidence, row, moment))
            continue
        yield from ((row, why) for why in _differences(decision, moment, memory, replies))
        if decision.verdicts and len(decision.verdicts) < MOST_MISSES:
            yield from ((row, why) for why in _stale(evidence, rules, row, decision))


def _differences(
    decision: DecisionRow, moment: Moment, memory: Memory, replies: Sequence[OutboxRow]
) -> Iterator[str]:
    expected = model.expected(moment, memory)
    if expected is None:
        yield f"no rule could answer it, and it was {decision.outcome}: {decision.reason}"
        return
    if (decision.outcome, decision.reason) != (expected.outcome, expected.reason):
        yield (
            f"was {decision.outcome}: {decision.reason},"
            f" and should be {expected.outcome}: {expected.reason}"
        )
        return
    fired = {(each.rule_id, each.version) for each in decision.verdicts if each.fired}
    wanted = {(each.rule_id, each.version) for each in expected.fired}
    if fired != wanted:
        yield f"fired {_rule_names(fired)}, and should fire {_rule_names(wanted)}"
    yield from _wrong_replies(expected, replies)


def _wrong_replies(expected: Expected, replies: Sequence[OutboxRow]) -> Iterator[str]:
    made = [(row.rule_id or "", _sent(row)) for row in replies]
    wanted = [(fired.rule_id, send) for fired in expected.fired for send in fired.sends]
    for rule_id, send in wanted:
        if (rule_id, send) not in made:
            yield f"{rule_id}'s action {send.action} ({send.kind}) made no such reply"
    for rule_id, send in made:
        if (rule_id, send) not in wanted:
            yield f"{rule_id}'s action {send.action} ({send.kind}) made a reply too many"
    if len(set(made)) < len(made):
        yield "an action made more than one reply"


def _sent(row: OutboxRow) -> Sent:
    is_to_comment = row.kind in model.COMMENT_ACTIONS
    to = row.comment_id if is_to_comment else row.person_id
    # A hiding says nothing, a label's name is not among what is read of a row.
    text = "" if row.kind in model.WORDLESS else row.text or ""
    return Sent(row.kind, row.action_index or 0, to, text)


def _stale(
    evidence: Evidence, rules: Mapping[_RuleKey, Rule], row: EventRow, decision: DecisionRow
) -> Iterator[str]:
    """Rules that were in force when the event came, and were not asked, or not as they stood."""
    asked = {verdict.rule_id: verdict.version for verdict in decision.verdicts}
    newest: dict[str, tuple[int, bool]] = {}
    for version in evidence.rows.rule_versions:
        if version.changed_at + WRITING_A_RULE < row.received_at:
            newest[version.rule_id] = max(
                newest.get(version.rule_id, (0, False)), (version.version, version.deleted)
            )
        elif version.version == asked.get(version.rule_id) and (
            version.changed_at > decision.decided_at
        ):
            yield f"was decided by {version.rule_id}@{version.version} before there was one"
    for rule_id, (number, is_deleted) in newest.items():
        if asked.get(rule_id, number) < number:
            yield f"was decided by version {asked[rule_id]} of {rule_id}, which is at {number}"
        elif is_deleted and asked.get(rule_id) == number:
            yield f"was decided by {rule_id}, which is deleted"
        elif rule_id not in asked and not is_deleted:
            later = [key for key in rules if key[0] == rule_id and key[1] > number]
            if rules[rule_id, number].is_for(row.page_id) and not later:
                yield f"{rule_id} was in force and was not asked"


def _wrongly_capped(evidence: Evidence, row: EventRow, moment: Moment) -> Iterator[str]:
    """A rule is capped only where, with its answers, the last minute has more than may be."""
    made = [
        reply
        for reply in evidence.rows.outbox
        if reply.origin == "rule"
        and reply.kind in model.SENDING
        and reply.page_id == row.page_id
        and (reply.lane == row.lane or reply.person_id == row.person_id)
        and moment.at - MINUTE - 1 <= reply.created_at <= moment.at + 1
    ]
    most = max(len(rule.actions) for rule in moment.book)
    if len(made) + most <= REPLIES_A_MINUTE:
        yield f"was capped after {len(made)} answers in a minute"


def _rests(evidence: Evidence) -> dict[Lane, list[tuple[float, float, bool]]]:
    """When persons wrote in a lane: known since, rest until, and whether that is beyond doubt.

    On Instagram an echo that names no app is a person's unless a reply of ours is awaited.
    """
    found: dict[Lane, list[tuple[float, float, bool]]] = defaultdict(list)
    for row in evidence.rows.events:
        happened = evidence.happened.get((row.page_id, row.key))
        if happened is None or row.kind != "echo":
            continue
        is_certain = model.is_inbox_echo(happened)
        if is_certain or row.page_id in evidence.instagram:
            until = row.event_time + model.PERSON_PAUSE
            found[row.page_id, row.lane].append((row.stored_at, until, is_certain))
    for reply in evidence.rows.outbox:
        if reply.origin == "person" and reply.kind == "message":
            until = reply.created_at + model.PERSON_PAUSE
            found[reply.page_id, reply.lane].append((reply.created_at, until, True))
    return found


def _paused_until(
    row: EventRow,
    decision: DecisionRow,
    rests: Mapping[Lane, Sequence[tuple[float, float, bool]]],
) -> float:
    said = decision.reason == "person_active"
    return max(
        (
            until
            for since, until, is_certain in rests.get((row.page_id, row.lane), ())
            if since < decision.decided_at and (is_certain or said)
        ),
        default=0.0,
    )


def _removals(evidence: Evidence) -> dict[tuple[str, str], float]:
    """Since when a message or comment is known to be taken back, by page and the new one's key."""
    found: dict[tuple[str, str], float] = {}
    for row in evidence.rows.events:
        word, _, subject = row.key.partition(":")
        if word == "deleted":
            found[row.page_id, f"message:{subject}"] = row.stored_at
        elif word == "comment" and subject.endswith(":remove"):
            found[row.page_id, f"comment:{subject.removesuffix(':remove')}:add"] = row.stored_at
    return found


def _is_removed(
    row: EventRow, decision: DecisionRow, removals: Mapping[tuple[str, str], float]
) -> bool:
    since = removals.get((row.page_id, row.key))
    return since is not None and since < decision.decided_at


def _come_to_nothing(evidence: Evidence) -> model.ComeToNothing:
    """Whether the reply that a rule's limits stood for had failed or expired by a time."""
    ended: dict[tuple[str, float], float] = {}
    for decision in evidence.rows.decisions:
        for reply in evidence.replies.get((decision.page_id, decision.event_id), []):
            place = reply.rule_id or "", decision.decided_at
            if reply.kind in model.SENDING and place not in ended:
                is_nothing = reply.state in ("failed", "expired") and reply.ended_at is not None
                ended[place] = reply.ended_at or 0.0 if is_nothing else float("inf")
    return lambda rule_id, fired_at, now: ended.get((rule_id, fired_at), float("inf")) < now


def wrong_turns(evidence: Evidence) -> Iterator[Violation]:
    """Decisions by whom the lane was no longer, or not yet: a lane has one epoch at a time.

    What one epoch decided comes before what a newer one did, and before that was claimed.
    """
    leases: dict[Lane, list[LeaseRow]] = defaultdict(list)
    for lease in sorted(evidence.rows.leases, key=lambda lease: lease.epoch):
        leases[lease.page_id, lease.lane].append(lease)
    turns: dict[Lane, list[tuple[EventRow, DecisionRow, int]]] = defaultdict(list)
    for row in sorted(evidence.rows.events, key=lambda row: row.number):
        decision = evidence.decisions.get((row.page_id, row.event_id))
        if decision is not None and decision.epoch is not None:
            turns[row.page_id, row.lane].append((row, decision, decision.epoch))
    for lane, decided in turns.items():
        for (before, _, earlier), (after, _, later) in pairwise(decided):
            if earlier > later:
                why = f"was decided under epoch {later}, behind {before.key} under {earlier}"
                yield Violation("I6", event_name(after), why)
        for row, decision, epoch in decided:
            yield from _out_of_turn(row, decision, epoch, leases[lane])


def _out_of_turn(
    row: EventRow, decision: DecisionRow, epoch: int, leases: Sequence[LeaseRow]
) -> Iterator[Violation]:
    for lease in leases:
        if lease.epoch > epoch and lease.leased_at < decision.decided_at:
            why = f"was decided under epoch {epoch} when epoch {lease.epoch} had been claimed"
            yield Violation("I6", event_name(row), why)
            return
        if lease.epoch == epoch and lease.leased_at > decision.decided_at:
            yield Violation("I6", event_name(row), f"was decided before its epoch {epoch} began")


def _rule_names(keys: set[_RuleKey]) -> str:
    return ", ".join(f"{rule_id}@{version}" for rule_id, version in sorted(keys)) or "nothing"


def wrong(evidence: Evidence) -> Iterator[Violation]:
    """The same as violations of I3."""
    for row, why in wrong_decisions(evidence):
        yield Violation("I3", event_name(row), why)
