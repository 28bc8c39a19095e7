import asyncio
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from pagewire.store.v1.lane_service_pb2 import (
    COMMIT_STATE_COMMITTED,
    COMMIT_STATE_FENCED,
    ClaimedLane,
    EventDecision,
    LaneDecisions,
)
from pagewire.store.v1.outbox_service_pb2 import VERDICT_ACCEPTED
from pagewire.type.v1.decision_pb2 import (
    OUTCOME_ANSWERED,
    OUTCOME_DECLINED,
    OUTCOME_EXPIRED,
    OUTCOME_FAILED,
    Decision,
)
from pagewire.type.v1.event_pb2 import ID_SPACE_UNSPECIFIED, SOURCE_RECOVERED, Event
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import (
    Action,
    Evaluation,
    HideAction,
    LabelAction,
    LeftOut,
    RuleVerdict,
)
from pagewire_runtime import metrics
from pagewire_runtime.errors import InvalidArgument
from pagewire_store import ids
from pagewire_store.database import in_transaction
from pagewire_store.parked import retry_event
from tests.support.desk import (
    PAGE,
    PERSON,
    Desk,
    candidate,
    comment,
    decided,
    desk,
    matched,
    message,
    says,
    under_epoch,
)
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

DECISION = "select outcome, reason from decision"


async def claimed(desk: Desk, *events: Event) -> ClaimedLane:
    """The lane of events that have come, claimed."""
    await desk.receive(*events)
    (lane,) = await desk.claim_lanes()
    return lane


def failures(*, parked: str) -> float:
    name = "pagewire_event_failures_total"
    return metrics.registry.get_sample_value(name, {"parked": parked}) or 0


def reasons(decision: Decision) -> list[str]:
    return [verdict.reason for verdict in decision.rules]


async def test_a_matching_rule_answers_once_with_its_decision_on_record(desk: Desk) -> None:
    await desk.receive(message())

    (decision,) = await desk.decide(matched(candidate(says("10 euro"))))

    (reply,) = await desk.claim_replies()
    stored = await desk.rows.one("select outcome, reason, book_version from decision")
    assert tuple(stored) == ("answered", "fired", 7)
    assert reply.content.text == "10 euro"
    assert decision.reply_ids == [reply.reply_id]
    assert decision.outcome == OUTCOME_ANSWERED
    assert desk.outbox_woken.count == 1


async def test_committing_the_last_event_ends_it_and_frees_the_lane(desk: Desk) -> None:
    await desk.receive(message())

    await desk.decide(matched())

    lane = await desk.rows.one("select * from lane")
    event = await desk.rows.one("select state from event")
    assert (lane.pending, lane.pending_since, lane.lease_owner, lane.lease_until) == (
        *(0, None),
        *(None, None),
    )
    assert lane.last_ordinal == 1
    assert event.state == "done"


async def test_without_release_the_lane_stays_leased_for_the_events_that_follow(desk: Desk) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"))

    await desk.commit(decided(lane, matched(), release=False))

    row = await desk.rows.one("select * from lane")
    second = await desk.rows.one("select stored_at from event where event_key = 'message:m_2'")
    assert (row.pending, row.pending_since, row.lease_owner) == (1, second.stored_at, "d")
    assert desk.lanes_woken.count == 0


async def test_a_lane_freed_with_events_left_wakes_who_waits_for_lanes(desk: Desk) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"))

    await desk.commit(decided(lane, matched()))

    assert desk.lanes_woken.count == 1


async def test_events_of_one_commit_are_answered_in_their_order(desk: Desk) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"))
    first, second = matched(candidate(says("one"))), matched(candidate(says("two")))

    await desk.commit(decided(lane, first, second))

    stored = await desk.rows.query("select ordinal, content from outbox order by ordinal")
    said = [(row.ordinal, ReplyContent.FromString(row.content).text) for row in stored]
    assert said == [(1, "one"), (2, "two")]


async def test_a_repeat_after_a_crash_gets_the_first_answer_though_the_rule_changed(
    desk: Desk,
) -> None:
    lane = await claimed(desk, message())
    first = await desk.commit(decided(lane, matched(candidate(says("old"), version=1))))

    changed = matched(candidate(says("new"), version=2))
    repeat = await desk.commit(decided(lane, changed))

    assert repeat.results[0].state == COMMIT_STATE_COMMITTED
    assert repeat == first
    assert (await desk.rows.one("select count(*) as n from outbox")).n == 1


async def test_a_takeover_after_a_crash_gets_the_first_answer_of_what_was_decided(
    desk: Desk,
) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"))
    first = await desk.commit(decided(lane, matched(), release=False))
    await desk.rows.query("update lane set lease_until = now()")
    (taken_over,) = await desk.claim_lanes()

    repeat = await desk.commit(decided(lane, matched()))

    assert [event.event.key for event in taken_over.events] == ["message:m_2"]
    assert repeat == first


async def test_an_old_epoch_is_fenced_and_changes_nothing(desk: Desk) -> None:
    lane = await claimed(desk, message())
    await desk.rows.query("update lane set lease_until = now()")
    (newer,) = await desk.claim_lanes()
    before = await desk.rows.query("select * from lane")

    response = await desk.commit(decided(lane, matched()))

    assert response.results[0].state == COMMIT_STATE_FENCED
    assert not response.results[0].decisions
    assert await desk.rows.query("select * from lane") == before
    assert await desk.rows.query("select * from decision") == []
    assert (await desk.rows.one("select state from event")).state == "pending"
    assert newer.ref.epoch == lane.ref.epoch + 1


def fenced() -> float:
    return metrics.registry.get_sample_value("pagewire_lanes_fenced_total") or 0


async def test_a_decision_names_the_epoch_and_a_lane_that_is_fenced_is_counted(
    desk: Desk,
) -> None:
    lane = await claimed(desk, message())
    await desk.rows.query("update lane set lease_until = now()")
    (newer,) = await desk.claim_lanes()
    before = fenced()

    await desk.commit(decided(lane, matched()))
    await desk.commit(decided(newer, matched()))

    assert (await desk.rows.one("select epoch from decision")).epoch == newer.ref.epoch
    assert fenced() == before + 1


async def test_a_lane_that_is_fenced_costs_its_neighbour_nothing(desk: Desk) -> None:
    await desk.receive(message("m_1", person="2001"), message("m_2", person="2002"))
    one, two = await desk.claim_lanes()
    stale = under_epoch(decided(one, matched()), one.ref.epoch - 1)

    response = await desk.commit(stale, decided(two, matched()))

    states = [result.state for result in response.results]
    assert states == [COMMIT_STATE_FENCED, COMMIT_STATE_COMMITTED]


async def test_of_two_committers_of_one_event_both_get_the_same_decision(desk: Desk) -> None:
    lane = await claimed(desk, message())

    both = await asyncio.gather(
        *(desk.commit(decided(lane, matched(candidate(says(f"answer {n}"))))) for n in range(2))
    )

    assert both[0] == both[1]
    assert (await desk.rows.one("select count(*) as n from outbox")).n == 1


async def test_an_old_and_a_new_dispatcher_racing_answer_once(desk: Desk) -> None:
    old = await claimed(desk, message())
    await desk.rows.query("update lane set lease_until = now()")
    (new,) = await desk.claim_lanes()

    await asyncio.gather(*(desk.commit(decided(lane, matched())) for lane in (old, new)))

    assert (await desk.rows.one("select count(*) as n from outbox")).n == 1
    assert (await desk.rows.one("select count(*) as n from fired_rule")).n == 1


async def test_draining_frees_the_lane_without_a_decision(desk: Desk) -> None:
    lane = await claimed(desk, message())

    response = await desk.commit(LaneDecisions(ref=lane.ref, release=True))

    row = await desk.rows.one("select * from lane")
    assert response.results[0].state == COMMIT_STATE_COMMITTED
    assert (row.lease_owner, row.pending) == (None, 1)
    assert desk.lanes_woken.count == 1


async def test_events_out_of_their_order_are_refused_and_change_nothing(desk: Desk) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"))
    second = EventDecision(event_id=lane.events[1].event_id, evaluation=matched())

    with pytest.raises(InvalidArgument):
        await desk.commit(LaneDecisions(ref=lane.ref, events=[second]))

    assert (await desk.rows.one("select pending from lane")).pending == 2


@pytest.mark.parametrize("event_id", ["e-1001-999999999", "e-77-1", "x", ""])
async def test_an_event_that_the_lane_has_not_is_refused(desk: Desk, event_id: str) -> None:
    lane = await claimed(desk, message())
    named = EventDecision(event_id=event_id, evaluation=matched())

    with pytest.raises(InvalidArgument):
        await desk.commit(LaneDecisions(ref=lane.ref, events=[named]))


async def test_one_lane_named_twice_is_refused(desk: Desk) -> None:
    lane = await claimed(desk, message())

    with pytest.raises(InvalidArgument):
        await desk.commit(decided(lane, matched()), decided(lane, matched()))


async def test_no_rule_that_matched_is_a_reason_and_keeps_the_misses(desk: Desk) -> None:
    miss = RuleVerdict(rule_id="rule-x", reason="text_no_match")
    await desk.receive(message())

    (decision,) = await desk.decide(Evaluation(misses=[miss], book_version=7))

    assert (decision.outcome, decision.reason) == (OUTCOME_DECLINED, "no_rule_matched")
    assert list(decision.rules) == [miss]
    assert desk.outbox_woken.count == 0


NOT_ANSWERED: list[tuple[str, str, dict[str, Any]]] = [
    ("page_disconnected", "update page set connected = false", {}),
    (
        "own_page",
        "insert into page (page_id, platform, login, name, state, connected, connected_at)"
        " values ('2001', 'messenger', 'facebook', 'B', 'healthy', true, now())",
        {},
    ),
    ("own_page", "update page set facebook_page_id = '2001'", {}),
    ("message_removed", "update message set is_deleted = true", {}),
    ("recovered_late", "select", {"seconds": 601, "source": SOURCE_RECOVERED}),
    ("recovered_late", "select", {"seconds": 25 * 3600, "source": SOURCE_RECOVERED}),
    ("window_closed", "select", {"seconds": 24 * 3600 - 299}),
    (
        "person_active",
        "update conversation set automation_paused_until = now() + interval '1 minute'",
        {},
    ),
]


@pytest.mark.parametrize(("reason", "arrange", "fields"), NOT_ANSWERED)
async def test_what_is_not_answered_has_its_reason(
    desk: Desk, reason: str, arrange: str, fields: dict[str, Any]
) -> None:
    lane = await claimed(desk, message(**fields))
    await desk.rows.query(arrange)

    response = await desk.commit(decided(lane, matched()))

    (decision,) = response.results[0].decisions
    expired = reason == "window_closed"
    assert decision.reason == reason
    assert decision.outcome == (OUTCOME_EXPIRED if expired else OUTCOME_DECLINED)
    assert await desk.rows.query("select * from outbox") == []
    assert (await desk.rows.one("select state from event")).state == "done"


async def test_a_comment_that_was_removed_is_not_answered(desk: Desk) -> None:
    lane = await claimed(desk, comment())
    await desk.rows.query("update comment set is_deleted = true")

    response = await desk.commit(decided(lane, matched()))

    assert response.results[0].decisions[0].reason == "message_removed"


async def test_a_pause_of_the_conversation_is_none_of_a_comments(desk: Desk) -> None:
    await desk.receive(message(person="3001"))
    await desk.decide(matched())
    await desk.rows.query(
        "update conversation set automation_paused_until = now() + interval '1 minute'"
    )
    await desk.receive(comment())

    (decision,) = await desk.decide(matched())

    assert decision.reason == "fired"


async def test_a_page_disconnected_before_the_other_side_of_it_is_asked_bars_nothing(
    desk: Desk,
) -> None:
    await desk.rows.add_page(PERSON, connected=False)
    await desk.receive(message())

    (decision,) = await desk.decide(matched())

    assert decision.reason == "fired"


async def test_the_cap_of_automatic_replies_a_minute_holds_in_the_lane(desk: Desk) -> None:
    lane = await claimed(desk, *(message(f"m_{n}") for n in range(4)))

    response = await desk.commit(decided(lane, *[matched()] * 4), cap=3)

    decisions = response.results[0].decisions
    assert [one.reason for one in decisions] == ["fired", "fired", "fired", "rate_capped"]
    await desk.receive(message("m_5"))
    (later,) = await desk.decide(matched(), cap=3)
    assert (later.outcome, later.reason) == (OUTCOME_DECLINED, "rate_capped")


async def test_the_cap_counts_replies_behind_any_number_of_hidings(desk: Desk) -> None:
    await desk.receive(comment("c_0"))
    await desk.decide(matched())
    await desk.rows.query(
        """
        insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, comment_id, state,
            expires_at)
        select page_id, 100000 + n, lane, 1 + n, 'hide_comment', origin, comment_id, 'sent',
            expires_at
        from outbox, generate_series(1, 500) n
        """
    )
    await desk.rows.query("update lane set last_ordinal = 1000")
    await desk.receive(comment("c_1", lane="comment:c_0"))

    (decision,) = await desk.decide(matched(), cap=1)

    assert decision.reason == "rate_capped"


async def test_private_replies_to_a_person_count_with_the_messages_to_them(desk: Desk) -> None:
    await desk.receive(comment("c_0"))
    await desk.decide(matched(candidate(Action(private_reply=ReplyContent(text="Hello")))))
    (reply,) = await desk.claim_replies()
    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_sent", recipient_id=PERSON)
    await desk.receive(message("m_1"))

    (decision,) = await desk.decide(matched(), cap=1)

    assert decision.reason == "rate_capped"


async def test_the_cap_of_a_page_holds_over_all_its_people(desk: Desk) -> None:
    for person in ("2001", "2002", "2003"):
        await desk.receive(message(f"m_{person}", person=person))
    lanes = await desk.claim_lanes()

    response = await desk.commit(*(decided(lane, matched()) for lane in lanes), page_cap=2)

    reasons = sorted(one.reason for result in response.results for one in result.decisions)
    assert reasons == ["fired", "fired", "page_rate_capped"]
    await desk.receive(message("m_2004", person="2004"))
    (lane,) = await desk.claim_lanes()
    later = await desk.commit(decided(lane, matched()), page_cap=2)
    assert later.results[0].decisions[0].reason == "page_rate_capped"


async def test_the_cap_forgets_replies_of_more_than_a_minute_ago(desk: Desk) -> None:
    await desk.receive(message("m_1"))
    await desk.decide(matched(), cap=1)
    await desk.pass_time(61)
    await desk.receive(message("m_2"))

    (decision,) = await desk.decide(matched(), cap=1)

    assert decision.reason == "fired"


async def test_labels_and_hiding_are_no_replies_for_the_cap(desk: Desk) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"))
    label = matched(candidate(Action(add_label=LabelAction(name="lead"))))

    response = await desk.commit(decided(lane, label, label), cap=0)

    assert [one.reason for one in response.results[0].decisions] == ["fired", "fired"]


async def test_a_label_that_instagram_lacks_is_left_out_and_the_record_says_so(desk: Desk) -> None:
    await desk.rows.query("update page set platform = 'instagram'")
    await desk.receive(message())
    label = Action(add_label=LabelAction(name="lead"))

    (decision,) = await desk.decide(matched(candidate(says(), label), candidate(label, rule="b")))

    stored = Decision.FromString((await desk.rows.one("select verdicts from decision")).verdicts)
    assert list(stored.rules) == list(decision.rules)
    fired, behind = decision.rules
    assert (fired.fired, fired.reason) == (True, "fired")
    assert list(fired.left_out) == [LeftOut(action="add_label", reason="label_unsupported")]
    assert (behind.reason, list(behind.left_out)) == ("lower_priority", [])


async def test_a_rule_of_which_everything_is_left_out_names_each_action(desk: Desk) -> None:
    await desk.rows.query("update page set platform = 'instagram'")
    await desk.receive(message())
    label = Action(add_label=LabelAction(name="lead"))
    hiding = Action(hide_comment=HideAction(hidden=True))

    (decision,) = await desk.decide(matched(candidate(label, hiding)))

    (verdict,) = decision.rules
    assert (decision.reason, verdict.reason) == ("label_unsupported", "label_unsupported")
    assert [each.reason for each in verdict.left_out] == ["label_unsupported", "not_a_comment"]


async def test_a_losing_rule_has_lower_priority(desk: Desk) -> None:
    await desk.receive(message())

    (decision,) = await desk.decide(matched(candidate(rule="a"), candidate(rule="b")))

    assert reasons(decision) == ["fired", "lower_priority"]
    assert [verdict.fired for verdict in decision.rules] == [True, False]


async def test_a_rule_that_continues_lets_the_next_one_answer_too(desk: Desk) -> None:
    rules = [candidate(rule="a", continues=True), candidate(rule="b"), candidate(rule="c")]
    await desk.receive(message())

    (decision,) = await desk.decide(matched(*rules))

    assert reasons(decision) == ["fired", "fired", "lower_priority"]
    assert len(decision.reply_ids) == 2


async def test_a_rule_that_cannot_apply_leaves_the_event_to_the_next(desk: Desk) -> None:
    private = candidate(Action(private_reply=ReplyContent(text="hi")), rule="a")
    await desk.receive(message())

    (decision,) = await desk.decide(matched(private, candidate(rule="b")))

    assert reasons(decision) == ["not_a_comment", "fired"]


async def test_where_no_rule_can_apply_the_reason_is_the_first_ones(desk: Desk) -> None:
    private = candidate(Action(private_reply=ReplyContent(text="hi")), rule="a")
    await desk.receive(message())

    (decision,) = await desk.decide(matched(private))

    assert (decision.outcome, decision.reason) == (OUTCOME_DECLINED, "not_a_comment")


async def test_every_action_of_a_comment_becomes_a_row_in_its_lane(desk: Desk) -> None:
    text = ReplyContent(text="hi")
    rule = candidate(
        Action(private_reply=text),
        Action(comment_reply=text),
        Action(hide_comment=HideAction(hidden=True)),
    )
    await desk.receive(comment())

    (decision,) = await desk.decide(matched(rule))

    stored = await desk.rows.query("select * from outbox order by ordinal")
    assert [row.kind for row in stored] == ["private_reply", "comment_reply", "hide_comment"]
    assert {row.lane for row in stored} == {"comment:c_1"}
    assert {row.comment_id for row in stored} == {"c_1"}
    assert decision.reply_ids == [ids.reply_id(PAGE, row.reply_id) for row in stored]


async def test_a_person_who_is_not_known_is_a_reason_where_limits_are_set(desk: Desk) -> None:
    await desk.receive(comment(person_id="", id_space=ID_SPACE_UNSPECIFIED))

    (decision,) = await desk.decide(matched(candidate(once_per_person=True)))

    assert decision.reason == "person_unknown"


async def test_a_failure_counts_on_its_event_and_rests_the_lane(desk: Desk) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"))
    before = (await desk.rows.one("select now() as now")).now

    response = await desk.commit(decided(lane, "template_broken", matched(), release=False))

    event = await desk.rows.one("select * from event where event_key = 'message:m_1'")
    rest = await desk.rows.one("select *, now() from lane")
    assert not response.results[0].decisions
    assert (event.state, event.attempts, event.last_error) == ("pending", 1, "template_broken")
    assert (rest.pending, rest.lease_owner) == (2, None)
    assert before + timedelta(seconds=0.5) < rest.blocked_until <= rest.now + timedelta(seconds=2)
    await desk.rows.query("update lane set blocked_until = blocked_until + interval '1 h'")
    assert await desk.claim_lanes() == []


async def test_a_failure_whose_answer_was_lost_counts_once_however_often_it_is_said(
    desk: Desk,
) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"), message("m_3"))
    said = decided(lane, matched(), "template_broken", matched())
    await desk.commit(said)
    rest = await desk.rows.one("select * from lane")

    response = await desk.commit(said)

    (decision,) = response.results[0].decisions
    event = await desk.rows.one("select * from event where event_key = 'message:m_2'")
    assert decision.event_id == lane.events[0].event_id
    assert (event.state, event.attempts) == ("pending", 1)
    assert await desk.rows.one("select * from lane") == rest


async def test_a_lane_waits_since_its_next_event_was_stored_whatever_the_clock_of_the_edge(
    desk: Desk,
) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"))
    await desk.rows.query("update event set received_at = received_at + interval '1 day'")

    await desk.commit(decided(lane, matched()))

    waits = await desk.rows.one(
        """
        select l.pending_since, e.stored_at from lane l
        join event e on e.page_id = l.page_id and e.event_key = 'message:m_2'
        """
    )
    assert waits.pending_since == waits.stored_at


async def test_events_before_the_one_that_failed_are_decided(desk: Desk) -> None:
    lane = await claimed(desk, message("m_1"), message("m_2"), message("m_3"))

    response = await desk.commit(decided(lane, matched(), "broken", matched()))

    (decision,) = response.results[0].decisions
    assert decision.event_id == lane.events[0].event_id
    assert (await desk.rows.one("select pending from lane")).pending == 2


async def test_an_error_of_the_evaluation_is_a_failure_too(desk: Desk) -> None:
    await desk.receive(message())

    decisions = await desk.decide(Evaluation(error="template_broken"))

    assert decisions == []
    assert (await desk.rows.one("select attempts from event")).attempts == 1


async def test_a_failure_in_free_words_is_not_kept(desk: Desk) -> None:
    await desk.receive(message())

    await desk.decide("Traceback: the message 'price?' of 2001")

    assert (await desk.rows.one("select last_error from event")).last_error == "evaluation_failed"


async def test_an_expired_event_that_cannot_be_evaluated_ends_expired(desk: Desk) -> None:
    await desk.receive(message(seconds=25 * 3600))

    (decision,) = await desk.decide("evaluation_failed")

    event = await desk.rows.one("select state, attempts from event")
    assert (decision.outcome, decision.reason) == (OUTCOME_EXPIRED, "window_closed")
    assert tuple(event) == ("done", 0)


async def test_after_eight_failures_the_event_is_parked_and_the_lane_goes_on(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    for _ in range(7):
        await desk.decide("broken")
        await desk.rows.query("update lane set blocked_until = null")

    failed, next_ = await desk.decide("broken", matched())

    event = await desk.rows.one("select * from event where event_key = 'message:m_1'")
    assert (event.state, event.attempts) == ("parked", 8)
    assert (failed.outcome, failed.reason) == (OUTCOME_FAILED, "evaluation_failed")
    assert next_.reason == "fired"
    assert (await desk.rows.one("select pending from lane")).pending == 0


async def test_an_event_that_kills_rules_is_parked_at_once_with_that_for_its_reason(
    desk: Desk,
) -> None:
    await desk.receive(message("m_1"), message("m_2"))

    failed, next_ = await desk.decide("kills_rules", matched())

    event = await desk.rows.one("select * from event where event_key = 'message:m_1'")
    assert (event.state, event.attempts, event.last_error) == ("parked", 1, "kills_rules")
    assert (failed.outcome, failed.reason) == (OUTCOME_FAILED, "evaluation_failed")
    assert next_.reason == "fired"


async def test_parking_an_event_raises_the_alarm_and_a_failure_before_it_does_not(
    desk: Desk,
) -> None:
    await desk.receive(message())
    await desk.decide("broken")
    await desk.rows.query("update event set attempts = 7")
    await desk.rows.query("update lane set blocked_until = null")
    parked, failed = failures(parked="true"), failures(parked="false")

    with capture_logs() as logged:
        await desk.decide("broken")

    event = await desk.rows.one("select event_id from event")
    assert failures(parked="true") == parked + 1
    assert failures(parked="false") == failed
    assert logged == [
        {
            "event": "an event is parked",
            "log_level": "error",
            "logger_name": "pagewire_store.committing",
            "page_id": PAGE,
            "number": event.event_id,
        }
    ]


async def test_a_failure_that_does_not_park_is_counted_without_an_alarm(desk: Desk) -> None:
    await desk.receive(message())
    parked, failed = failures(parked="true"), failures(parked="false")

    with capture_logs() as logged:
        await desk.decide("broken")

    assert failures(parked="true") == parked
    assert failures(parked="false") == failed + 1
    assert logged == []


async def test_two_minutes_after_its_own_first_failure_the_event_is_parked(desk: Desk) -> None:
    await desk.receive(message())
    await desk.decide("broken")
    await desk.rows.query(
        "update event set first_failed_at = first_failed_at - interval '2 minutes'"
    )
    await desk.rows.query("update lane set blocked_until = null")

    (decision,) = await desk.decide("broken")

    assert decision.outcome == OUTCOME_FAILED
    assert (await desk.rows.one("select state from event")).state == "parked"


async def test_a_parked_event_that_is_retried_is_pending_at_the_end_of_its_lane(
    desk: Desk,
) -> None:
    await desk.receive(message("m_1"))
    await desk.decide("broken")
    await desk.rows.query("update event set attempts = 7")
    await desk.rows.query("update lane set blocked_until = null")
    await desk.decide("broken")
    await desk.receive(message("m_2"))
    parked = await desk.rows.one("select event_id from event where state = 'parked'")

    done = await in_transaction(
        desk.pools.general,
        lambda connection: retry_event(connection, PAGE, parked.event_id),
    )

    (lane,) = await desk.claim_lanes()
    assert done
    assert [event.event.key for event in lane.events] == ["message:m_2", "message:m_1"]
    response = await desk.commit(decided(lane, matched(), matched()))
    assert [one.reason for one in response.results[0].decisions] == ["fired", "fired"]


async def test_an_event_that_is_not_parked_is_not_retried(desk: Desk) -> None:
    await desk.receive(message())
    event = await desk.rows.one("select event_id from event")

    done = await in_transaction(
        desk.pools.general,
        lambda connection: retry_event(connection, PAGE, event.event_id),
    )

    assert not done
    assert (await desk.rows.one("select pending from lane")).pending == 1


async def test_many_lanes_of_several_pages_are_committed_together(desk: Desk) -> None:
    await desk.rows.add_page("1002")
    people = [(PAGE, "1"), (PAGE, "2"), ("1002", "1")]
    await desk.receive(
        *(message(f"m_{p}_{n}", person=p, page_id=page) for page, p in people for n in range(3))
    )
    lanes = await desk.claim_lanes()

    response = await desk.commit(*(decided(lane, *[matched()] * 3) for lane in lanes))

    assert len(lanes) == 3
    assert all(len(result.decisions) == 3 for result in response.results)
    assert (await desk.rows.one("select count(*) as n from outbox")).n == 9
