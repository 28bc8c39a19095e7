from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.type.v1.decision_pb2 import OUTCOME_DECLINED, OUTCOME_EXPIRED
from pagewire.type.v1.event_pb2 import (
    ID_SPACE_COMMENTER,
    ID_SPACE_MESSAGING,
    ID_SPACE_UNSPECIFIED,
    ID_SPACE_USER_REF,
    SOURCE_LIVE,
    SOURCE_RECOVERED,
    SOURCE_STANDBY,
    TRIGGER_COMMENT,
    TRIGGER_MESSAGE,
    TRIGGER_OPTIN,
    CommentDetail,
    Event,
)
from pagewire.type.v1.page_pb2 import PLATFORM_INSTAGRAM, PLATFORM_MESSENGER
from pagewire.type.v1.reply_pb2 import Media, QuickReplies, ReplyContent
from pagewire.type.v1.rule_pb2 import Action, Candidate, HideAction, LabelAction, LeftOut, Limits
from pagewire_store.deciding import (
    KILLS_RULES,
    RULES_DIED,
    Facts,
    MarkWish,
    bars,
    block,
    parks,
    plan,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HELLO = ReplyContent(text="hello")


def event(age: timedelta = timedelta(minutes=1), **fields: Any) -> Event:
    values: dict[str, Any] = {
        "page_id": "1001",
        "trigger": TRIGGER_MESSAGE,
        "source": SOURCE_LIVE,
        "person_id": "2001",
        "id_space": ID_SPACE_MESSAGING,
        "event_time": NOW - age,
    }
    return Event(**(values | fields))


def comment(age: timedelta = timedelta(minutes=1), **fields: Any) -> Event:
    values: dict[str, Any] = {
        "trigger": TRIGGER_COMMENT,
        "id_space": ID_SPACE_COMMENTER,
        "comment": CommentDetail(comment_id="c_1"),
    }
    return event(age, **(values | fields))


def facts(of: Event | None = None, **known: Any) -> Facts:
    values: dict[str, Any] = {
        "platform": PLATFORM_MESSENGER,
        "connected": True,
        "other_is_page": False,
        "removed": False,
        "paused_until": None,
    }
    return Facts(event=of or event(), **(values | known))


def candidate(*actions: Action, **limits: Any) -> Candidate:
    return Candidate(rule_id="rule-1", actions=actions, limits=Limits(**limits))


def test_nothing_bars_a_fresh_message() -> None:
    assert bars(facts(), NOW) is None


def test_what_no_webhook_brought_is_answered_while_it_is_fresh() -> None:
    recovered = facts(event(timedelta(minutes=10), source=SOURCE_RECOVERED))

    assert bars(recovered, NOW) is None
    assert bars(recovered, NOW, timedelta(minutes=9)) is not None


BARS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("page_disconnected", {}, {"connected": False}),
    ("own_account", {"is_own": True}, {}),
    ("own_page", {}, {"other_is_page": True}),
    ("standby", {"source": SOURCE_STANDBY}, {}),
    ("message_removed", {}, {"removed": True}),
    (
        "recovered_late",
        {"source": SOURCE_RECOVERED, "event_time": NOW - timedelta(seconds=601)},
        {},
    ),
    ("window_closed", {"event_time": NOW - timedelta(hours=24)}, {}),
    ("person_active", {}, {"paused_until": NOW + timedelta(seconds=1)}),
]


@pytest.mark.parametrize(("reason", "fields", "known"), BARS)
def test_each_reason_not_to_answer_bars_by_itself(
    reason: str, fields: dict[str, Any], known: dict[str, Any]
) -> None:
    bar = bars(facts(event(**fields), **known), NOW)

    assert bar is not None
    assert bar.reason == reason
    expired = reason == "window_closed"
    assert bar.outcome == (OUTCOME_EXPIRED if expired else OUTCOME_DECLINED)


@pytest.mark.parametrize("first", range(len(BARS)))
def test_of_several_reasons_the_first_of_the_order_holds(first: int) -> None:
    fields: dict[str, Any] = {}
    for _, said, _ in reversed(BARS[first:]):  # an event has one source, and one time
        fields |= said
    known = {name: value for _, _, found in BARS[first:] for name, value in found.items()}

    bar = bars(facts(event(**fields), **known), NOW)

    assert bar is not None
    assert bar.reason == BARS[first][0]


@pytest.mark.parametrize(
    ("of", "barred"),
    [
        (event(timedelta(hours=23, minutes=55)), False),
        (event(timedelta(hours=23, minutes=55, seconds=1)), True),
        (comment(timedelta(days=6, hours=23, minutes=55)), False),
        (comment(timedelta(days=6, hours=23, minutes=55, seconds=1)), True),
    ],
)
def test_the_window_closes_five_minutes_before_metas(of: Event, barred: bool) -> None:
    assert (bars(facts(of), NOW) is not None) is barred


def test_a_pause_that_is_over_bars_nothing() -> None:
    assert bars(facts(paused_until=NOW), NOW) is None


def test_a_reply_to_a_message_goes_to_the_person_within_metas_window() -> None:
    planned = plan(facts(), candidate(Action(reply=HELLO)), NOW)

    (reply,) = planned.replies
    assert (reply.kind, reply.person_id, reply.comment_id) == ("message", "2001", None)
    assert reply.content == HELLO
    assert reply.expires_at == NOW - timedelta(minutes=1) + timedelta(hours=24)


@pytest.mark.parametrize("action", [Action(reply=HELLO), Action(comment_reply=HELLO)])
def test_a_reply_to_a_comment_goes_below_it(action: Action) -> None:
    planned = plan(facts(comment()), candidate(action), NOW)

    (reply,) = planned.replies
    assert (reply.kind, reply.person_id, reply.comment_id) == ("comment_reply", None, "c_1")
    assert reply.expires_at == NOW + timedelta(hours=24)


def test_a_private_reply_has_metas_seven_days_less_five_minutes() -> None:
    planned = plan(facts(comment()), candidate(Action(private_reply=HELLO)), NOW)

    (reply,) = planned.replies
    assert (reply.kind, reply.comment_id) == ("private_reply", "c_1")
    assert reply.expires_at == NOW + timedelta(days=7) - timedelta(minutes=6)


@pytest.mark.parametrize(
    ("space", "person"), [(ID_SPACE_COMMENTER, None), (ID_SPACE_MESSAGING, "2001")]
)
def test_a_private_reply_names_the_person_only_by_an_id_that_can_be_written_to(
    space: int, person: str | None
) -> None:
    planned = plan(facts(comment(id_space=space)), candidate(Action(private_reply=HELLO)), NOW)

    assert planned.replies[0].person_id == person


@pytest.mark.parametrize(
    "action",
    [
        Action(private_reply=HELLO),
        Action(comment_reply=HELLO),
        Action(hide_comment=HideAction(hidden=True)),
    ],
)
def test_what_needs_a_comment_alone_does_not_fire_on_a_message(action: Action) -> None:
    planned = plan(facts(), candidate(action), NOW)

    assert planned.refusal == "not_a_comment"
    assert planned.replies == ()


def test_what_cannot_apply_is_left_out_and_the_rest_fires() -> None:
    actions = [Action(private_reply=HELLO), Action(reply=HELLO)]

    planned = plan(facts(), candidate(*actions), NOW)

    assert planned.refusal == ""
    assert [(reply.kind, reply.action_index) for reply in planned.replies] == [("message", 1)]
    assert planned.left_out == (LeftOut(action="private_reply", reason="not_a_comment"),)


def test_each_action_that_is_left_out_has_its_own_reason() -> None:
    hiding = Action(hide_comment=HideAction(hidden=True))
    label = Action(add_label=LabelAction(name="lead"))

    planned = plan(facts(platform=PLATFORM_INSTAGRAM), candidate(hiding, label), NOW)

    assert planned.refusal == "not_a_comment"
    assert [(each.action, each.reason) for each in planned.left_out] == [
        ("hide_comment", "not_a_comment"),
        ("add_label", "label_unsupported"),
    ]


def test_of_a_rule_that_applies_whole_nothing_is_left_out() -> None:
    assert plan(facts(), candidate(Action(reply=HELLO)), NOW).left_out == ()


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("add_label", Action(add_label=LabelAction(name="lead"))),
        ("remove_label", Action(remove_label=LabelAction(name="lead"))),
    ],
)
def test_a_label_is_put_on_a_person_of_messenger(kind: str, action: Action) -> None:
    planned = plan(facts(), candidate(action), NOW)

    (reply,) = planned.replies
    assert (reply.kind, reply.person_id, reply.label) == (kind, "2001", "lead")
    assert planned.sending == 0


@pytest.mark.parametrize(
    ("of", "platform"), [(event(), PLATFORM_INSTAGRAM), (comment(), PLATFORM_MESSENGER)]
)
def test_a_label_needs_a_person_with_a_messaging_id_on_messenger(of: Event, platform: int) -> None:
    label = Action(add_label=LabelAction(name="lead"))

    planned = plan(facts(of, platform=platform), candidate(label), NOW)

    assert planned.refusal == "label_unsupported"


def test_hiding_fires_on_a_comment() -> None:
    planned = plan(facts(comment()), candidate(Action(hide_comment=HideAction(hidden=True))), NOW)

    (reply,) = planned.replies
    assert (reply.kind, reply.comment_id, reply.hidden) == ("hide_comment", "c_1", True)
    assert planned.sending == 0


def test_a_comment_is_answered_with_text_alone() -> None:
    image = ReplyContent(media=Media(url="https://example.org/a.png"))
    buttons = ReplyContent(quick_replies=QuickReplies(text="which?"))

    pictured = plan(facts(comment()), candidate(Action(reply=image)), NOW)
    asked = plan(facts(comment()), candidate(Action(reply=buttons)), NOW)

    assert pictured.refusal == "text_only"
    assert asked.replies[0].content == ReplyContent(text="which?")


def test_who_cannot_be_written_to_gets_no_message() -> None:
    optin = event(trigger=TRIGGER_OPTIN, person_id="ref", id_space=ID_SPACE_USER_REF)

    planned = plan(facts(optin), candidate(Action(reply=HELLO)), NOW)

    assert planned.refusal == "person_unknown"


def test_an_action_of_a_later_release_does_not_fire() -> None:
    assert plan(facts(), candidate(Action()), NOW).refusal == "action_unknown"


def test_a_rule_without_actions_does_not_fire() -> None:
    assert plan(facts(), candidate(), NOW).refusal == "no_action"


def test_limits_become_marks_that_name_rule_space_and_person() -> None:
    limits = {"once_per_person": True, "cooldown_seconds": 60, "per_day": 2}

    planned = plan(facts(), candidate(Action(reply=HELLO), **limits), NOW)

    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert planned.marks == (
        MarkWish("once_per_person", "once:rule-1:messaging:2001"),
        MarkWish("cooldown", "cooldown:rule-1:messaging:2001", NOW + timedelta(seconds=60)),
        MarkWish("per_day", "day:rule-1:messaging:2001:2026-03-01", midnight, 2),
    )


def test_the_same_number_in_another_id_space_is_another_person() -> None:
    rule = candidate(Action(reply=HELLO), once_per_person=True)

    by_message = plan(facts(), rule, NOW).marks[0].key
    by_comment = plan(facts(comment()), rule, NOW).marks[0].key

    assert by_message != by_comment


@pytest.mark.parametrize(
    "unknown", [{"person_id": ""}, {"person_id": "", "id_space": ID_SPACE_UNSPECIFIED}]
)
def test_limits_on_a_person_who_is_not_known_decline(unknown: dict[str, Any]) -> None:
    limited = candidate(Action(reply=HELLO), cooldown_seconds=1)

    assert plan(facts(comment(**unknown)), limited, NOW).refusal == "person_unknown"


def test_without_limits_an_unknown_person_is_answered_below_the_comment() -> None:
    of = comment(person_id="", id_space=ID_SPACE_UNSPECIFIED)

    planned = plan(facts(of), candidate(Action(reply=HELLO)), NOW)

    assert planned.refusal == ""
    assert planned.marks == ()


def test_an_event_is_parked_at_eight_failures_or_two_minutes_after_its_first() -> None:
    assert not parks(7, NOW - timedelta(seconds=119), NOW)
    assert parks(8, NOW, NOW)
    assert parks(2, NOW - timedelta(minutes=2), NOW)


def test_an_event_that_kills_rules_is_parked_when_that_is_known_and_not_before() -> None:
    assert parks(1, NOW, NOW, KILLS_RULES)
    assert not parks(7, NOW - timedelta(hours=1), NOW, RULES_DIED)
    assert parks(8, NOW, NOW, RULES_DIED)


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_a_lane_rests_longer_with_each_failure_and_never_over_thirty_seconds(
    failures: int, chance: float
) -> None:
    most = timedelta(seconds=min(2.0 ** min(failures, 10), 30))

    rests = block(failures, chance)

    assert most / 2 <= rests <= most
