"""The promises, held against what a run left behind: thirteen invariants, each a function.

Each takes the `Evidence` of a run at rest and yields what is wrong, naming the event, the reply or
the lane, and why. `check` asks them all.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from faults import decisions, sends
from faults.evidence import Evidence, Lane, Violation, event_name, reply_name
from faults.history import Delivered, End, EventRow, Usage

ANSWERS = frozenset({200, 400, 403, 404, 405, 408, 413, 415, 431, 503})
"""What the edge may say: of the 5xx nothing but 503."""
OUT_OF_TURN = frozenset({"standby", "own_account", "page_unknown", "page_disconnected"})
"""Reasons given without a turn in the lane: when the event comes, or its page goes."""
IN_FLIGHT = frozenset({"sending", "uncertain"})
ISOLATION = 10
LEAST_HELD_UP = 1.0
"""Seconds."""
READ_OFF = 0.1
"""Seconds by which a wait may look shorter than it was."""
MEBIBYTE = 2**20
LEAST_GROWTH = Usage(open_files=17, connections=15, threads=2, memory_bytes=8 * MEBIBYTE)
"""What pools, caches and a young interpreter may come to hold, whatever the share: a store that was
looked at while PostgreSQL was away had its two listeners' connections, of seventeen in all.
"""
HISTORY_BYTES = 16 * MEBIBYTE
"""The same of memory for a sync: one that reads history for the first time keeps 12 MiB that it
parsed in, and no more however often it reads (after 28 full runs of 6,000 messages what it had
after the first).
"""

Invariant = Callable[[Evidence], Iterable[Violation]]


def check(evidence: Evidence) -> list[Violation]:
    """All that is wrong, in the order of the invariants."""
    return [violation for invariant in INVARIANTS.values() for violation in invariant(evidence)]


def nothing_acknowledged_is_lost(evidence: Evidence) -> Iterator[Violation]:
    """I1: every event of which a POST was answered 200 is stored, or kept whole in quarantine."""
    stored = {(row.page_id, row.key) for row in evidence.rows.events}
    kept = [raw.body for raw in evidence.rows.raw if raw.quarantined]
    bodies, items = b"\n".join(kept), [item for body in kept for item in _items(body)]
    nameless: Counter[Lane] = Counter()
    for event in evidence.history.happened:
        if End.OK not in evidence.ends[event.ref] or not event.is_subscribed:
            continue
        if event.key is None:
            nameless[event.page_id, event.lane] += event.value not in items
        elif (event.page_id, event.key) not in stored and not _is_in(event.key, bodies):
            yield Violation("I1", event_name(event), "was acknowledged and is nowhere")
    held = Counter((row.page_id, row.lane) for row in _nameless(evidence))
    for lane, count in nameless.items():
        # Those that say the same are one event.
        if count and not held[lane]:
            why = f"none of the {count} events without a key that were acknowledged is stored"
            yield Violation("I1", f"lane {'/'.join(lane)}", why)


def nothing_is_stored_twice(evidence: Evidence) -> Iterator[Violation]:
    """I2: one row an event, a message, a comment; one reply an action."""
    rows = evidence.rows
    for what, keys in {
        "event": [(row.page_id, row.key) for row in rows.events],
        "event number": [(row.page_id, str(row.event_id)) for row in rows.events],
        "place in the lane": [(row.lane, str(row.number)) for row in rows.events],
        "message": [(row.page_id, row.mid) for row in rows.messages],
        "comment": [(row.page_id, row.comment_id) for row in rows.comments],
        "reply with the id": [(row.page_id, row.mid) for row in rows.outbox if row.mid],
    }.items():
        for (page_id, key), count in Counter(keys).items():
            if count > 1:
                yield Violation("I2", f"{what} {page_id}/{key}", f"has {count} rows")


def each_event_is_decided_once_and_rightly(evidence: Evidence) -> Iterator[Violation]:
    """I3: one decision an event that a rule could answer, and all of it as the model decides."""
    decided = Counter((row.page_id, row.event_id) for row in evidence.rows.decisions)
    for (page_id, event_id), count in decided.items():
        if count > 1:
            yield Violation("I3", f"event e-{page_id}-{event_id}", f"has {count} decisions")
    fired = Counter((row.page_id, row.event_id, row.rule_id) for row in evidence.rows.fired)
    for (page_id, event_id, rule_id), count in fired.items():
        if count > 1:
            why = f"{rule_id} fired {count} times"
            yield Violation("I3", f"event e-{page_id}-{event_id}", why)
    for row in evidence.rows.events:
        is_over = row.state in ("done", "parked")
        if row.trigger != "unspecified" and is_over and not decided[row.page_id, row.event_id]:
            yield Violation("I3", event_name(row), f"is {row.state} without a decision")
    for decision in evidence.rows.decisions:
        said = {verdict.rule_id for verdict in decision.verdicts if verdict.fired}
        noted = {key[2] for key in fired if key[:2] == (decision.page_id, decision.event_id)}
        if said != noted:
            why = f"its decision fired {len(said)} rules, {len(noted)} are noted"
            yield Violation("I3", f"event e-{decision.page_id}-{decision.event_id}", why)
    yield from decisions.wrong(evidence)


def each_reply_is_taken_as_often_as_its_state_says(evidence: Evidence) -> Iterator[Violation]:
    """I4: what is sent Graph took, once; what is not it did not."""
    yield from sends.wrong_counts(evidence)


def a_second_send_had_no_way_to_be_known(evidence: Evidence) -> Iterator[Violation]:
    """I5: taken twice only after a lost answer, without an echo, and two looks a minute apart."""
    yield from sends.wrong_duplicates(evidence)


def each_lane_is_in_order(evidence: Evidence) -> Iterator[Violation]:
    """I6: decided in the order of arrival by one epoch at a time, sent in the order of decision,
    one at a time."""
    lanes: dict[Lane, list[EventRow]] = defaultdict(list)
    for row in sorted(evidence.rows.events, key=lambda row: row.number):
        lanes[row.page_id, row.lane].append(row)
    for rows in lanes.values():
        turns = [
            (row, decision.decided_at)
            for row in rows
            if (decision := evidence.decisions.get((row.page_id, row.event_id)))
            and decision.reason not in OUT_OF_TURN
        ]
        for (before, earlier), (after, later) in pairwise(turns):
            if earlier > later:
                yield Violation("I6", event_name(after), f"was decided before {before.key}")
    yield from decisions.wrong_turns(evidence)
    yield from sends.wrong_order(evidence)


def nothing_is_stuck(evidence: Evidence) -> Iterator[Violation]:
    """I7: no lease, and nothing in doubt, outlives its time."""
    now, bounds = evidence.rows.read_at, evidence.bounds
    for lane in evidence.rows.lanes:
        if lane.lease_until is not None and lane.lease_until + bounds.slack < now:
            why = f"its lease ended {now - lane.lease_until:.0f} s ago and nobody took it over"
            yield Violation("I7", f"lane {lane.page_id}/{lane.lane}", why)
    for row in evidence.rows.outbox:
        if row.state == "sending" and (row.lease_until or 0.0) + bounds.slack < now:
            yield Violation("I7", reply_name(row), "is being sent by nobody")
        held = bounds.uncertain + bounds.slack
        if (
            row.state == "uncertain"
            and row.page_id not in evidence.blocked
            and ((row.uncertain_at or 0.0) + held < now)
        ):
            yield Violation("I7", reply_name(row), f"is in doubt for more than {held:.0f} s")


def poison_stays_in_its_lane(evidence: Evidence) -> Iterator[Violation]:
    """I8: what fails is parked where it is, and what holds one lane holds up no other.

    That is far from the goal for other lanes' acks, 1.5 times the usual: a run of faults can only
    tell whether they stand still too. How close they come is a figure of the run.
    """
    for row in evidence.rows.events:
        if row.state == "parked" and (row.page_id, row.lane) not in evidence.poisoned:
            yield Violation("I8", event_name(row), "is parked, and nothing was wrong with it")
    for fault, (beside, usual) in evidence.besides.items():
        if beside > max(ISOLATION * usual, LEAST_HELD_UP):
            why = f"their p95 was {beside:.2f} s beside {fault}, and {usual:.2f} s before"
            yield Violation("I8", "acks of other lanes", why)


def all_that_came_is_dealt_with(evidence: Evidence) -> Iterator[Violation]:
    """I9: nothing waits any more, and the backlog went as fast as it had to."""
    for row in evidence.rows.events:
        if row.state == "pending":
            yield Violation("I9", event_name(row), "is still pending")
    for lane in evidence.rows.lanes:
        if lane.pending:
            why = f"counts {lane.pending} pending events"
            yield Violation("I9", f"lane {lane.page_id}/{lane.lane}", why)
    held = {(row.page_id, row.lane) for row in evidence.rows.outbox if row.state in IN_FLIGHT}
    for reply in evidence.rows.outbox:
        due = max(reply.created_at, reply.not_before or 0.0) + evidence.bounds.slack
        may_go = (reply.page_id, reply.lane) not in held and reply.page_id not in evidence.blocked
        if reply.state == "ready" and may_go and due < evidence.rows.read_at:
            yield Violation("I9", reply_name(reply), "is due and is not sent")
    for catchup in evidence.catchups:
        if catchup.seconds > catchup.allowed:
            why = f"of {catchup.backlog} took {catchup.seconds:.1f} s, not {catchup.allowed:.1f}"
            yield Violation("I9", "the backlog", why)


def every_post_is_answered_honestly(evidence: Evidence) -> Iterator[Violation]:
    """I10: only answers that the edge may give, none late, and no silence of one that could answer.

    That Meta's sender waits no longer is no silence but a late answer.
    """
    longest, waits = evidence.bounds.slowest, evidence.bounds.sender_waits - READ_OFF
    for post in evidence.history.delivered:
        took = post.ended_at - post.started_at
        if post.status is not None and post.status not in ANSWERS:
            yield Violation("I10", _post(post), f"was answered {post.status}")
        if took > longest:
            said = "answered" if post.status is not None else "left without an answer"
            yield Violation("I10", _post(post), f"was {said} after {took:.1f} s")
        elif post.status is None and took < waits and not _could_not_be_answered(evidence, post):
            yield Violation("I10", _post(post), f"was left without an answer after {took:.1f} s")


def nothing_comes_from_nowhere(evidence: Evidence) -> Iterator[Violation]:
    """I11: every row goes back to something that Meta sent, or that was asked for."""
    history, rows = evidence.history, evidence.rows
    sent = {
        (event.page_id, event.key)
        for event in history.happened
        if event.key and evidence.ends[event.ref]
    }
    sent |= evidence.given
    nameless = {
        (event.page_id, event.lane)
        for event in history.happened
        if event.key is None and evidence.ends[event.ref]
    }
    for row in rows.events:
        if (row.page_id, row.key) not in sent and (row.page_id, row.lane) not in nameless:
            yield Violation("I11", event_name(row), "nobody sent it")
    made = {call.created for call in history.accepted}
    for message in rows.messages:
        name = f"message {message.page_id}/{message.mid}"
        keys = {(message.page_id, f"{word}:{message.mid}") for word in _SAYS_A_MESSAGE}
        is_past = (message.page_id, message.mid) in evidence.past
        if not keys & sent and message.mid not in made and not is_past:
            yield Violation("I11", name, "nobody wrote it")
    for comment in rows.comments:
        name = f"comment {comment.page_id}/{comment.comment_id}"
        lanes = {(comment.page_id, f"comment:{comment.comment_id}")} & nameless
        keys = {(comment.page_id, key) for key in _comment_keys(comment.comment_id)}
        if not keys & sent and not lanes and comment.comment_id not in made:
            yield Violation("I11", name, "nobody wrote it")
    for decision in rows.decisions:
        if (decision.page_id, decision.event_id) not in evidence.events:
            name = f"decision e-{decision.page_id}-{decision.event_id}"
            yield Violation("I11", name, "has no event")
    for reply in rows.outbox:
        is_asked = reply.client_key is not None
        if not is_asked and (reply.page_id, reply.event_id or 0) not in evidence.decisions:
            yield Violation("I11", reply_name(reply), "nobody decided it")
    known = {call.serial for calls in evidence.acceptances.values() for call in calls}
    for call in history.accepted:
        if call.serial not in known:
            yield Violation(
                "I11", f"call {call.serial} of {call.endpoint}", "sends no reply of ours"
            )


def what_was_held_is_given_back(evidence: Evidence) -> Iterator[Violation]:
    """I12: files, connections, threads and memory are where they were before the fault."""
    for name, (before, after) in evidence.usage.items():
        for why in grown(name, before, after, evidence.bounds.growth):
            yield Violation("I12", f"process {name}", why)


def grown(process: str, before: Usage, after: Usage, share: float) -> Iterator[str]:
    """What a process holds more of than before, by more than a share of it."""
    least = LEAST_GROWTH
    if process.startswith("sync"):
        least = replace(least, memory_bytes=HISTORY_BYTES)
    for what in ("open_files", "connections", "threads", "memory_bytes"):
        had, has = getattr(before, what), getattr(after, what)
        if has > had + max(had * share, getattr(least, what)):
            yield f"had {had} {what.replace('_', ' ')} and has {has}"


def nothing_secret_is_written_down(evidence: Evidence) -> Iterator[Violation]:
    """I13: no token, name, text or person's id stands in a log, a traceback or a metric."""
    for log in evidence.traces.logs:
        text = log.read_text(encoding="utf-8", errors="replace")
        for what in _canaries(evidence, text):
            yield Violation("I13", f"log {log.name}", f"holds {what}")
    for process, shown in evidence.traces.metrics.items():
        for what in _canaries(evidence, shown):
            yield Violation("I13", f"metrics of {process}", f"hold {what}")


INVARIANTS: Mapping[str, Invariant] = {
    "I1": nothing_acknowledged_is_lost,
    "I2": nothing_is_stored_twice,
    "I3": each_event_is_decided_once_and_rightly,
    "I4": each_reply_is_taken_as_often_as_its_state_says,
    "I5": a_second_send_had_no_way_to_be_known,
    "I6": each_lane_is_in_order,
    "I7": nothing_is_stuck,
    "I8": poison_stays_in_its_lane,
    "I9": all_that_came_is_dealt_with,
    "I10": every_post_is_answered_honestly,
    "I11": nothing_comes_from_nowhere,
    "I12": what_was_held_is_given_back,
    "I13": nothing_secret_is_written_down,
}

# Kinds of events that a row of a message may come from, by the word in their keys.
_SAYS_A_MESSAGE = ("message", "echo", "deleted", "postback", "edit")


def _comment_keys(comment_id: str) -> Iterable[str]:
    return (
        f"comment:{comment_id}:add",
        f"comment:{comment_id}:remove",
        f"igcomment:{comment_id}",
    )


def _items(body: bytes) -> Iterator[Any]:
    """The messaging items, and the values of changes, of a body that was kept."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):
        return  # none that Meta made
    for entry in _objects(whole, "entry"):
        for part in ("messaging", "standby"):
            yield from _objects(entry, part)
        yield from (change.get("value") for change in _objects(entry, "changes"))


def _objects(whole: Any, name: str) -> list[dict[str, Any]]:
    """Those of a list that should stand there, whatever does."""
    found = whole.get(name) if isinstance(whole, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _is_in(key: str, kept: bytes) -> bool:
    """Whether what the key names stands in a body that was kept."""
    subject = key.split(":")[1]
    return bool(subject) and subject.replace("/", "\\/").encode() in kept


def _nameless(evidence: Evidence) -> Iterator[EventRow]:
    """Rows of events whose key nobody outside can tell."""
    for row in evidence.rows.events:
        if (row.page_id, row.key) not in evidence.happened:
            yield row


def _post(post: Delivered) -> str:
    return f"POST {post.serial}"


def _could_not_be_answered(evidence: Evidence, post: Delivered) -> bool:
    return any(
        begun <= post.ended_at and post.started_at <= ended for begun, ended in evidence.silences
    )


def _canaries(evidence: Evidence, text: str) -> Iterator[str]:
    """What was planted and stands here: an id not as a part of a longer number."""
    for what, canary in evidence.canaries.items():
        if canary in text and re.search(rf"(?<!\d){re.escape(canary)}(?!\d)", text):
            yield what
