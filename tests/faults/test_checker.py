"""Each invariant passes a good run, and catches each run in which it is broken."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faults import sends
from faults.checker import INVARIANTS, check
from faults.evidence import Bounds, Catchup, Evidence
from faults.history import End, LaneRow, RawRow, Traces, Usage
from pagewire_store.settings import Settings
from tests.support.evidence import ANN, ANSWER, BOB, NOW, PAGE, Run, good_run, rule_version

HELD = Usage(open_files=40, connections=12, threads=6, memory_bytes=80 * 2**20)
POOL: int = Settings.model_fields["database_pool_max"].default


def broken(evidence: Evidence) -> set[str]:
    """The invariants that do not hold."""
    return {violation.invariant for violation in check(evidence)}


def test_a_good_run_passes_all_thirteen() -> None:
    assert list(INVARIANTS) == [f"I{number}" for number in range(1, 14)]

    assert check(good_run().evidence(is_definite=True)) == []
    assert check(good_run().evidence(has_echoes=True)) == []


def test_a_violation_names_the_invariant_the_place_and_the_reason() -> None:
    run = good_run()
    run.events.pop(0)

    (first, *_) = check(run.evidence())

    assert str(first) == "I1 event 1001/message:m_1: was acknowledged and is nowhere"


# I1 and I2: what came in.


def test_an_acknowledged_event_that_is_nowhere_is_lost() -> None:
    run = good_run()
    run.happened.append(replace(run.happened[0], ref="x", key="message:m_lost"))
    run.post("x")

    assert broken(run.evidence()) == {"I1"}


def test_an_event_that_was_never_acknowledged_may_be_missing() -> None:
    run = good_run()
    run.happened.append(replace(run.happened[0], ref="x", key="message:m_unknown"))
    post = run.post("x", end=End.UNKNOWN, status=None)
    run.post("x", end=End.FAIL, status=503)

    assert check(run.evidence(silences=[(post.started_at, post.ended_at)])) == []


def test_an_acknowledged_event_may_be_in_quarantine_whole() -> None:
    run = good_run()
    run.happened.append(replace(run.happened[0], ref="x", key="message:m_odd"))
    run.post("x")
    run.raw.append(RawRow("d", NOW, b'{"mid":"m_odd"}', 0, "quarantined", True))

    assert check(run.evidence()) == []


def test_events_without_a_key_that_are_acknowledged_must_leave_a_row() -> None:
    run = good_run()
    lost = replace(run.happened[0], ref="x", key=None, lane="page", kind="other")
    run.happened.append(lost)
    run.post("x")

    assert broken(run.evidence()) == {"I1"}
    run.events.append(
        replace(
            run.events[0],
            event_id=99,
            number=99,
            key="other:1a",
            lane="page",
            trigger="unspecified",
        )
    )
    assert check(run.evidence()) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"messaging": [{"optin": {"ref": "a"}}]},
        {"standby": [{"optin": {"ref": "a"}}]},
        {"changes": [{"field": "feed", "value": {"optin": {"ref": "a"}}}]},
    ],
)
def test_an_event_without_a_key_is_excused_by_the_body_that_has_it_and_no_other(
    entry: dict[str, Any],
) -> None:
    run = good_run()
    value = {"optin": {"ref": "a"}}
    lost = replace(run.happened[0], ref="x", key=None, lane="page", kind="other", value=value)
    run.happened.append(lost)
    run.post("x")
    others = {"entry": [{"messaging": [{"optin": {"ref": "b"}}]}]}

    for body in (json.dumps(others).encode(), b'{"entry":', b'{"entry": 1}', b"[]"):
        run.raw.append(RawRow("d", NOW, body, 0, "quarantined", True))
    assert broken(run.evidence()) == {"I1"}
    run.raw.append(RawRow("e", NOW, json.dumps({"entry": [entry]}).encode(), 0, "partial", True))
    assert check(run.evidence()) == []


@pytest.mark.parametrize("table", ["events", "messages", "comments"])
def test_a_second_row_of_the_same_is_caught(table: str) -> None:
    run = good_run()
    rows = getattr(run, table)
    rows.append(rows[0])

    assert "I2" in broken(run.evidence())


def test_two_replies_with_one_id_at_meta_are_caught() -> None:
    run = good_run()
    run.change(run.outbox, run.outbox[1], mid=run.outbox[0].mid)

    assert "I2" in broken(run.evidence())


# I3: what was decided.


def undecided(run: Run) -> None:
    run.decisions.pop(4)


def decided_twice(run: Run) -> None:
    run.decisions.append(run.decisions[4])


def fired_twice(run: Run) -> None:
    run.fired.append(run.fired[0])


def fired_unnoted(run: Run) -> None:
    run.fired.pop(0)


def not_answered(run: Run) -> None:
    run.decide(run.say(ANN, "m_9", "the price?"), "no_rule_matched", "declined")


def wrongly_answered(run: Run) -> None:
    run.answer(run.say(ANN, "m_9", "the prices?"))


def wrong_text(run: Run) -> None:
    run.change(run.outbox, run.outbox[0], text="free")


def to_another(run: Run) -> None:
    run.change(run.outbox, run.outbox[0], person_id=BOB)


def answered_twice(run: Run) -> None:
    again = run.enqueue(run.events[0])
    run.land(again, run.take(again, run.attempt(again).tag))


def answer_missing(run: Run) -> None:
    run.decide(run.say(ANN, "m_9", "price"))


def answered_an_echo(run: Run) -> None:
    run.decide(next(row for row in run.events if row.kind == "echo"))


def answered_on_standby(run: Run) -> None:
    run.answer(run.say(ANN, "m_9", "price", is_standby=True))


def answered_while_a_person_writes(run: Run) -> None:
    item = {"message": {"mid": "m_hand", "is_echo": True, "app_id": 263902037430900}}
    run.tell("echo:m_hand", f"person:{ANN}", item, None)
    run.answer(run.say(ANN, "m_9", "price"))


def answered_what_was_taken_back(run: Run) -> None:
    row = run.say(ANN, "m_9", "price")
    item = {"message": {"mid": "m_9", "is_deleted": True}}
    run.tell("deleted:m_9", f"person:{ANN}", item, ANN)
    run.answer(row)


def answered_after_a_day(run: Run) -> None:
    row = run.say(ANN, "m_9", "price")
    run.tick(25 * 3600)
    run.answer(row)


def declined_as_too_old(run: Run) -> None:
    run.decide(run.say(ANN, "m_9", "price"), "window_closed", "expired")


def old_rule(run: Run) -> None:
    run.rules.append(rule_version(2, NOW - 300))


def rule_of_the_future(run: Run) -> None:
    run.rules.append(rule_version(2, NOW + 300))
    run.change(run.decisions, run.decisions[0], verdicts=_at_version(run, 2))


def rule_that_never_was(run: Run) -> None:
    run.change(run.decisions, run.decisions[0], verdicts=_at_version(run, 9))


def deleted_rule(run: Run) -> None:
    run.rules[0] = replace(run.rules[0], deleted=True)


def rule_not_asked(run: Run) -> None:
    other = rule_version(rule_id="rule-b")
    run.rules.append(replace(other, rule_id="rule-b"))


def capped_early(run: Run) -> None:
    decision = run.decide(run.say(ANN, "m_9", "price"), "no_rule_matched", "declined")
    capped = tuple(replace(each, reason="rate_capped") for each in decision.verdicts)
    run.change(run.decisions, decision, reason="rate_capped", verdicts=capped)


def _at_version(run: Run, version: int) -> Any:
    return tuple(replace(each, version=version) for each in run.decisions[0].verdicts)


@pytest.mark.parametrize(
    "spoil",
    [
        undecided,
        decided_twice,
        fired_twice,
        fired_unnoted,
        not_answered,
        wrongly_answered,
        wrong_text,
        to_another,
        answered_twice,
        answer_missing,
        answered_an_echo,
        answered_on_standby,
        answered_while_a_person_writes,
        answered_what_was_taken_back,
        answered_after_a_day,
        declined_as_too_old,
        old_rule,
        rule_of_the_future,
        rule_that_never_was,
        deleted_rule,
        rule_not_asked,
        capped_early,
    ],
)
def test_a_decision_that_is_not_the_models_is_caught(spoil: Callable[[Run], None]) -> None:
    run = good_run()
    spoil(run)

    assert "I3" in broken(run.evidence())


def test_what_keeps_rules_from_answering_is_a_good_decision() -> None:
    run = good_run()
    run.decide(run.say(ANN, "m_5", "price", is_standby=True), "standby", "declined")
    late = run.say(ANN, "m_6", "price")
    item = {"message": {"mid": "m_hand", "is_echo": True, "app_id": 263902037430900}}
    run.tell("echo:m_hand", f"person:{BOB}", item, None)
    run.messages.append(replace(run.messages[0], mid="m_hand", direction="outbound"))
    run.decide(run.say(BOB, "m_7", "price"), "person_active", "declined")
    run.tick(25 * 3600)
    run.decide(late, "window_closed", "expired")

    assert check(run.evidence()) == []


def test_a_limit_counts_no_reply_that_came_to_nothing() -> None:
    once = rule_version(limits={"once_per_person": True})
    run = Run(rules=[once])
    first = run.say(ANN, "m_1", "price")
    run.decide(first)
    reply = run.enqueue(first)
    run.change(run.outbox, reply, state="failed", ended_at=run.tick())

    run.answer(run.say(ANN, "m_2", "price"))
    assert check(run.evidence()) == []

    run.answer(run.say(ANN, "m_3", "price"))
    assert broken(run.evidence()) == {"I3"}


# I4 and I5: what Graph took.


def lost_and_found(run: Run, *, looks: tuple[float, ...] = (20, 45), echo: bool = False) -> None:
    """A reply that Graph took, whose answer was lost, and that was sent once more."""
    row = run.say(ANN, "m_9", "price")
    run.decide(row)
    reply = run.enqueue(row)
    attempt = run.attempt(reply, "uncertain", None)
    first = run.take(reply, attempt.tag, answer="cut")
    run.doubt(reply, attempt)
    if echo:
        run.echo(reply, first)
    for seconds in looks:
        run.look(seconds)
    run.tick(1)
    again = run.take(reply, run.attempt(reply).tag)
    run.land(reply, again, attempt=2, uncertain_before=True)
    run.messages.append(replace(run.messages[0], mid=first.created or "", direction="outbound"))
    if not echo:
        run.messages.append(replace(run.messages[0], mid=again.created or ""))


def test_a_second_send_is_borne_after_a_lost_answer_no_echo_and_two_looks() -> None:
    run = good_run()
    lost_and_found(run)

    evidence = run.evidence()

    assert check(evidence) == []
    (twice,) = sends.duplicates(evidence)
    assert (len(twice.calls), twice.missing) == (2, "")
    assert sends.uncertain_ends(evidence) == {"resend": 1}


@pytest.mark.parametrize(
    ("looks", "echo", "why"),
    [
        ((), False, "it was looked for 0 times"),
        ((20,), False, "it was looked for 1 times"),
        ((20, 20), False, "the second look was too early"),
        ((40, 25), False, "the second look was too soon after the first"),
        ((20, 45), True, "it had been told back before"),
    ],
)
def test_a_second_send_that_could_be_known_is_caught(
    looks: tuple[float, ...], echo: bool, why: str
) -> None:
    run = good_run()
    lost_and_found(run, looks=looks, echo=echo)

    (violation,) = [each for each in check(run.evidence()) if each.invariant == "I5"]

    assert violation.why.endswith(why)


@pytest.mark.parametrize(
    "fields",
    [
        {"person_id": BOB},
        {"person_id": None},
        {"page_id": "1002"},
        {"endpoint": "comment_replies", "person_id": None, "comment_id": "1001_1_7"},
        {"answer": "refused"},
        {"answer": "cut"},
    ],
)
def test_a_look_elsewhere_or_that_failed_is_no_look(fields: dict[str, Any]) -> None:
    run = good_run()
    lost_and_found(run)
    second = [call for call in run.calls if call.endpoint == "conversations"][1]
    run.change(run.calls, second, **fields)

    (violation,) = check(run.evidence())

    assert (violation.invariant, violation.why[-25:]) == ("I5", "it was looked for 1 times")


def test_a_comment_that_goes_twice_has_to_be_looked_for_below_what_it_answers() -> None:
    def commented_twice(of: str, *, is_told: bool = False) -> Run:
        run = good_run()
        row = run.comment("9001", "1001_1_8", "price")
        run.decide(row)
        reply = run.enqueue(row)
        first = run.take(reply, run.attempt(reply, "uncertain", None).tag, answer="cut")
        run.comments.append(replace(run.comments[-1], comment_id=first.created or "", is_own=True))
        if is_told:
            value = {"item": "comment", "verb": "add", "from": {"id": PAGE}, "message": ANSWER}
            run.tell(f"comment:{first.created}:add", row.lane, value, None)
        for seconds in (20, 45):
            run.look(seconds, endpoint="comment_replies", person_id=None, comment_id=of)
        run.tick(1)
        again = run.take(reply, run.attempt(reply).tag)
        run.land(reply, again, attempt=2, uncertain_before=True)
        run.comments.append(replace(run.comments[-1], comment_id=again.created or "", is_own=True))
        return run

    assert check(commented_twice("1001_1_8").evidence()) == []
    assert broken(commented_twice("1001_1_7").evidence()) == {"I5"}
    assert broken(commented_twice("1001_1_8", is_told=True).evidence()) == {"I5"}


def test_a_second_send_after_a_known_answer_is_caught() -> None:
    run = good_run()
    reply = run.outbox[0]
    run.look(20)
    run.look(45)
    run.take(reply, run.attempt(reply).tag)

    assert broken(run.evidence()) == {"I5"}


def test_no_second_send_is_borne_where_echoes_arrive_or_nothing_was_in_doubt() -> None:
    run = good_run()
    lost_and_found(run)

    assert broken(run.evidence(has_echoes=True)) == {"I5"}
    assert broken(run.evidence(is_definite=True)) == {"I4"}


def test_a_shorter_second_look_is_measured_by_the_runs_own_bound() -> None:
    run = good_run()
    lost_and_found(run, looks=(1, 2.5))

    assert broken(run.evidence()) == {"I5"}
    assert broken(run.evidence(bounds=Bounds(second_look=3))) == {"I5"}
    assert check(run.evidence(bounds=Bounds(second_look=3, between_looks=2))) == []


def test_a_reply_that_is_sent_and_that_graph_never_took_is_caught() -> None:
    run = good_run()
    run.calls.pop(1)

    assert "I4" in broken(run.evidence())


@pytest.mark.parametrize("state", ["failed", "expired", "ready"])
def test_a_reply_that_graph_took_and_that_is_said_to_be_unsent_is_caught(state: str) -> None:
    run = good_run()
    run.change(run.outbox, run.outbox[0], state=state, mid=None)

    assert "I4" in broken(run.evidence())


def test_a_parked_reply_may_have_been_taken_but_not_where_nothing_was_in_doubt() -> None:
    run = good_run()
    parked = run.change(run.outbox, run.outbox[2], state="parked", mid=None)

    assert broken(run.evidence()) == {"I4"}
    attempt = next(each for each in run.attempts if each.reply_id == parked.reply_id)
    run.change(run.attempts, attempt, verdict="uncertain", settled_by=None)
    run.doubt(parked, attempt)
    assert check(run.evidence()) == []
    assert broken(run.evidence(is_definite=True)) == {"I4"}
    assert sends.uncertain_ends(run.evidence()) == {"parked": 1}


def test_a_reply_with_anothers_id_is_caught() -> None:
    run = good_run()
    run.change(run.outbox, run.outbox[0], mid="m_of_nobody")

    assert "I4" in broken(run.evidence())


def test_ends_of_doubt_are_told_apart() -> None:
    run = good_run()
    for at, settled_by in enumerate(["echo", "readback", "response"]):
        reply = run.change(run.outbox, run.outbox[at], settled_by=settled_by)
        # As the store leaves it: how its reply was settled is the last word on the attempt too.
        run.doubt(reply, next(each for each in run.attempts if each.reply_id == reply.reply_id))

    ends = sends.uncertain_ends(run.evidence())

    assert ends == {"echo": 1, "readback": 1, "late_answer": 1}


def test_a_doubt_goes_from_the_start_of_its_attempt_to_the_end_of_its_reply() -> None:
    run = good_run()
    reply = run.outbox[0]
    attempt = next(each for each in run.attempts if each.reply_id == reply.reply_id)
    run.change(run.outbox, reply, settled_by="echo", ended_at=attempt.started_at + 7)
    run.doubt(reply, attempt)
    waits = run.enqueue(run.events[0], state="uncertain")
    run.doubt(waits, run.attempt(waits, "uncertain", None))

    found = sends.doubts(run.evidence())

    assert [doubt.end for doubt in found] == ["echo", "open"]
    assert [doubt.seconds for doubt in found] == [pytest.approx(7), None]


def test_what_was_settled_before_anybody_asked_was_never_in_doubt() -> None:
    run = good_run()
    run.change(run.outbox, run.outbox[0], settled_by="echo")

    assert sends.doubts(run.evidence()) == []


# I6: order.


def test_events_of_a_lane_decided_out_of_order_are_caught() -> None:
    run = good_run()
    first, _, third = run.decisions[:3]
    run.change(run.decisions, first, decided_at=third.decided_at + 1)

    assert broken(run.evidence()) == {"I6"}


def decided_in_turns(*epochs: int, claims_at: int = 0) -> Run:
    """Two messages of Ann, decided under these epochs; both are claimed before the first, or the
    second after so many decisions."""
    run = Run()
    rows = [run.say(ANN, "m_1", "hello"), run.say(ANN, "m_2", "hello")]
    run.lease(rows[0], 1)
    for at, (row, epoch) in enumerate(zip(rows, epochs, strict=True)):
        if at == claims_at:
            run.lease(rows[0], 2)
        decision = run.decide(row, "no_rule_matched", "declined")
        run.change(run.decisions, decision, epoch=epoch)
    return run


def test_a_lane_that_another_takes_over_between_two_decisions_is_in_order() -> None:
    assert check(decided_in_turns(1, 2, claims_at=1).evidence()) == []
    assert check(decided_in_turns(2, 2).evidence()) == []


def test_a_decision_of_one_whose_lane_another_has_claimed_is_caught() -> None:
    (violation,) = check(decided_in_turns(1, 2).evidence())

    assert violation.invariant == "I6"
    assert violation.why.endswith("under epoch 1 when epoch 2 had been claimed")


def test_a_decision_of_an_older_epoch_behind_that_of_a_newer_is_caught() -> None:
    run = decided_in_turns(2, 1)
    run.leases = []

    (violation,) = check(run.evidence())

    assert (violation.invariant, "epoch 1, behind" in violation.why) == ("I6", True)


def test_a_decision_before_its_own_claim_is_caught() -> None:
    assert broken(decided_in_turns(2, 2, claims_at=1).evidence()) == {"I6"}


def test_what_is_declined_at_once_has_no_turn_in_the_lane() -> None:
    run = good_run()
    waiting = run.say(ANN, "m_8", "price")
    run.decide(run.say(ANN, "m_9", "price", is_standby=True), "standby", "declined")
    run.answer(waiting)

    assert check(run.evidence()) == []


def test_replies_of_a_lane_sent_out_of_order_are_caught() -> None:
    run = good_run()
    first, third = run.calls[0], run.calls[2]
    run.change(run.calls, first, accepted_order=third.accepted_order)
    run.change(run.calls, third, accepted_order=first.accepted_order)

    assert broken(run.evidence()) == {"I6"}


def test_replies_that_stand_in_another_order_than_their_events_are_caught() -> None:
    run = good_run()
    first, third = run.outbox[0], run.outbox[2]
    run.change(run.outbox, first, ordinal=2)
    run.change(run.outbox, third, ordinal=1)

    assert broken(run.evidence()) == {"I6"}


def test_calls_of_a_lane_at_the_same_time_are_caught() -> None:
    run = good_run()
    run.change(run.calls, run.calls[0], ended_at=run.calls[2].started_at + 1)

    assert broken(run.evidence()) == {"I6"}


def test_a_call_that_nobody_listened_to_any_more_is_no_overlap() -> None:
    run = good_run()
    run.change(run.calls, run.calls[0], ended_at=run.calls[2].started_at + 1, answer="cut")

    assert check(run.evidence()) == []


@pytest.mark.parametrize("why", [{"reason": "timeout"}, {"settled_by": "echo"}], ids=str)
def test_a_call_that_was_given_up_or_told_back_before_it_was_answered_is_no_overlap(
    why: dict[str, str],
) -> None:
    run = good_run()
    attempt = next(each for each in run.attempts if each.tag == run.calls[0].tag)
    run.change(run.attempts, attempt, ended_at=run.calls[2].started_at, **why)
    run.change(run.calls, run.calls[0], ended_at=run.calls[2].started_at + 30)

    assert check(run.evidence()) == []


# I7 and I9: nothing is left.


def test_a_lease_that_outlives_its_bound_is_caught() -> None:
    run = good_run()
    evidence = run.evidence()
    dead = LaneRow(PAGE, "person:x", 1, "d", evidence.rows.read_at - 6, None, 0, 0)
    fresh = replace(dead, lease_until=evidence.rows.read_at - 4)

    assert broken(_with_lanes(evidence, dead)) == {"I7"}
    assert broken(_with_lanes(evidence, fresh)) == set()


def _with_lanes(evidence: Evidence, *lanes: LaneRow) -> Evidence:
    return replace(evidence, rows=replace(evidence.rows, lanes=lanes))


def test_a_reply_that_nobody_sends_any_more_is_caught() -> None:
    run = good_run()
    row = run.say(ANN, "m_9", "price")
    run.decide(row)
    run.enqueue(row, state="sending", lease_until=run.clock - 10)

    assert broken(run.evidence()) == {"I7"}


def test_doubt_that_lasts_too_long_is_caught_unless_the_page_is_blocked() -> None:
    run = good_run()
    row = run.say(ANN, "m_9", "price")
    run.decide(row)
    reply = run.enqueue(row, state="uncertain", uncertain_at=run.clock - 700)
    run.attempt(reply, "uncertain", None)

    assert broken(run.evidence()) == {"I7"}
    assert check(run.evidence(blocked=frozenset({PAGE}))) == []


def test_an_event_that_still_waits_is_caught() -> None:
    run = good_run()
    row = run.say(ANN, "m_9", "price")
    run.change(run.events, row, state="pending")

    assert broken(run.evidence()) == {"I9"}


def test_a_lane_that_counts_what_is_not_there_is_caught() -> None:
    evidence = good_run().evidence()
    lane = replace(evidence.rows.lanes[0], pending=1)

    assert broken(_with_lanes(evidence, lane)) == {"I9"}


def test_a_reply_that_is_due_and_not_sent_is_caught() -> None:
    run = good_run()
    row = run.say(ANN, "m_9", "price")
    run.decide(row)
    run.enqueue(row)
    run.tick(10)

    assert broken(run.evidence()) == {"I9"}
    run.change(run.outbox, run.outbox[-1], not_before=run.clock + 60)
    assert check(run.evidence()) == []


def test_a_backlog_that_goes_too_slowly_is_caught() -> None:
    run = good_run()
    slow = Catchup(seconds=31, backlog=600, arrivals_a_second=10)

    assert slow.allowed == 30
    assert broken(run.evidence(catchups=[slow])) == {"I9"}
    assert check(run.evidence(catchups=[replace(slow, seconds=29)])) == []


# I8: isolation.


def test_an_event_that_is_parked_without_being_poison_is_caught() -> None:
    run = good_run()
    row = run.say(ANN, "m_9", "price")
    run.change(run.events, row, state="parked")
    run.decide(row, "evaluation_failed", "failed")

    assert broken(run.evidence()) == {"I8"}
    assert check(run.evidence(poisoned=frozenset({(PAGE, f"person:{ANN}")}))) == []


@pytest.mark.parametrize(
    ("beside", "usual", "is_held_up"),
    [(3.0, 0.02, True), (0.9, 0.02, False), (1.5, 0.2, False), (2.1, 0.2, True)],
)
def test_acks_of_other_lanes_that_stand_still_beside_a_fault_of_one_are_caught(
    beside: float, usual: float, is_held_up: bool
) -> None:
    evidence = good_run().evidence(besides={"F29": (beside, usual)})

    assert broken(evidence) == ({"I8"} if is_held_up else set())


# I10: answers.


@pytest.mark.parametrize("status", [500, 502, 504, 429, 302, 201])
def test_an_answer_that_the_edge_may_not_give_is_caught(status: int) -> None:
    run = good_run()
    run.post("e1", end=End.FAIL, status=status)

    assert broken(run.evidence()) == {"I10"}


@pytest.mark.parametrize(("end", "status"), [(End.OK, 200), (End.UNKNOWN, None)])
def test_a_late_answer_and_silence_are_caught(end: End, status: int | None) -> None:
    run = good_run()
    post = run.post("e1", end=end, status=status)
    run.change(run.delivered, post, ended_at=post.started_at + 2.6)
    silences = [(post.started_at, post.started_at + 2.6)]

    assert broken(run.evidence(silences=silences)) == {"I10"}
    assert check(run.evidence(silences=silences, bounds=Bounds(slowest=5))) == []


def test_refusals_that_are_honest_pass() -> None:
    run = good_run()
    for status in (503, 403, 413, 408):
        run.post("e1", end=End.FAIL, status=status)

    assert check(run.evidence()) == []


@pytest.mark.parametrize("end", [End.UNKNOWN, End.FAIL], ids=["torn", "refused"])
def test_silence_however_quick_is_caught_where_the_edge_could_have_answered(end: End) -> None:
    run = good_run()
    post = run.post("e1", end=end, status=None)
    before, after = (post.started_at - 9, post.started_at - 1), (post.ended_at + 1, NOW + 99)

    (violation,) = check(run.evidence(silences=[before, after]))

    assert violation.invariant == "I10"
    assert violation.why == "was left without an answer after 0.0 s"


def test_silence_is_borne_while_the_edge_could_not_answer() -> None:
    run = good_run()
    post = run.post("e1", end=End.UNKNOWN, status=None)

    for begun, ended in [(-1.0, 0.001), (0.001, 9.0), (0.002, 0.003), (-1.0, 9.0)]:
        span = post.started_at + begun, post.started_at + ended
        assert check(run.evidence(silences=[span])) == []


def test_an_answer_that_nobody_waited_for_is_late_and_no_silence() -> None:
    run = good_run()
    post = run.post("e1", end=End.UNKNOWN, status=None)
    run.change(run.delivered, post, ended_at=post.started_at + Bounds().sender_waits)

    assert broken(run.evidence()) == {"I10"}
    assert check(run.evidence(bounds=Bounds(slowest=60))) == []


# I11: no phantoms.


@pytest.mark.parametrize("table", ["events", "messages", "comments", "decisions"])
def test_a_row_that_nobody_sent_is_caught(table: str) -> None:
    of_table: dict[str, dict[str, Any]] = {
        "events": {"key": "message:m_x", "event_id": 77, "number": 77, "trigger": "unspecified"},
        "messages": {"mid": "m_x"},
        "comments": {"comment_id": "1001_1_99"},
        "decisions": {"event_id": 77, "verdicts": ()},
    }
    run = good_run()
    rows = getattr(run, table)
    rows.append(replace(rows[0], **of_table[table]))

    assert broken(run.evidence()) == {"I11"}


def test_an_event_that_was_never_in_a_post_is_a_phantom() -> None:
    run = good_run()
    run.delivered = [post for post in run.delivered if "e1" not in post.refs]

    assert "I11" in broken(run.evidence())


def test_what_was_delivered_byte_for_byte_is_no_phantom() -> None:
    run = good_run()
    row = replace(run.events[0], key="read:2001:5", event_id=77, number=77, trigger="unspecified")
    run.events.append(row)

    assert broken(run.evidence()) == {"I11"}
    assert check(run.evidence(given=frozenset({(PAGE, "read:2001:5")}))) == []


def test_a_message_that_meta_has_from_before_is_no_phantom() -> None:
    run = good_run()
    run.messages.append(replace(run.messages[0], mid="m_past"))

    assert broken(run.evidence()) == {"I11"}
    assert check(run.evidence(past=frozenset({(PAGE, "m_past")}))) == []


def test_a_reply_that_nobody_decided_is_caught() -> None:
    run = good_run()
    reply = run.enqueue(replace(run.events[0], event_id=77), event_id=77)
    run.land(reply, run.take(reply, run.attempt(reply).tag))
    run.messages.append(replace(run.messages[0], mid=run.calls[-1].created or ""))

    assert broken(run.evidence()) == {"I11"}


def test_a_send_that_is_no_reply_of_ours_is_caught() -> None:
    run = good_run()
    run.take(run.outbox[0], "pw1.of-nobody")

    assert broken(run.evidence()) == {"I11"}


# I12 and I13: what is held, and what is written down.


@pytest.mark.parametrize(
    "after",
    [
        {"open_files": 60},
        {"connections": 28},
        {"threads": 9},
        {"memory_bytes": 95 * 2**20},
    ],
)
def test_a_process_that_holds_more_than_before_is_caught(after: dict[str, int]) -> None:
    run = good_run()

    assert broken(run.evidence(usage={"store": (HELD, replace(HELD, **after))})) == {"I12"}
    assert check(run.evidence(usage={"store": (HELD, HELD)})) == []


def test_a_sync_may_keep_what_reading_history_for_the_first_time_takes() -> None:
    read, too_much = (
        replace(HELD, memory_bytes=HELD.memory_bytes + more * 2**20) for more in (15, 60)
    )
    run = good_run()

    assert check(run.evidence(usage={"sync": (HELD, read)})) == []
    assert broken(run.evidence(usage={"store": (HELD, read)})) == {"I12"}
    assert broken(run.evidence(usage={"sync": (HELD, too_much)})) == {"I12"}


def test_a_store_that_was_looked_at_without_postgresql_may_fill_its_pools() -> None:
    idle, filled = replace(HELD, connections=2), replace(HELD, connections=POOL)
    fuller = replace(filled, connections=POOL + 1)
    run = good_run()

    assert check(run.evidence(usage={"store": (idle, filled)})) == []
    assert broken(run.evidence(usage={"store": (idle, fuller)})) == {"I12"}


@pytest.mark.parametrize("canary", ["EAAG-token-of-the-page", "2001", "Ann Lee"])
def test_a_canary_in_a_log_or_a_metric_is_caught_and_not_repeated(
    tmp_path: Path, canary: str
) -> None:
    log = tmp_path / "store.log"
    log.write_text(f'{{"event": "fine", "n": 120015}}\nTraceback: {canary!r}\n')
    in_log = Traces((log,), {})
    in_metrics = Traces((), {"sync": f'pagewire_sends{{person="{canary}"}} 1'})
    run = good_run()

    for traces in (in_log, in_metrics):
        evidence = run.evidence(traces=traces, canaries={"what was planted": canary})
        (violation,) = check(evidence)
        assert violation.invariant == "I13"
        assert canary not in str(violation)


def test_a_canary_is_not_found_within_a_longer_number(tmp_path: Path) -> None:
    log = tmp_path / "store.log"
    log.write_text('{"pid": 120015, "took": 52001}\n')
    run = good_run()

    evidence = run.evidence(traces=Traces((log,), {}), canaries={"a person's id": "2001"})

    assert check(evidence) == []
