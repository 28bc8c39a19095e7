"""The reference model says what the design says."""

from dataclasses import replace
from typing import Any

import pytest

from faults import model
from faults.history import Happened
from faults.model import Action, Expected, Fired, Memory, Moment, Rule, Sent, Told
from tests.support.evidence import ANN, BOB, NOW, PAGE, rule_version

DAY = 24 * 3600.0
SAYS = Action("reply", "10 euro")
PRICE = Rule("rule-a", any=("price",), actions=(SAYS,))
ASKED = Told(PAGE, f"person:{ANN}", "message", ("the price?",), ANN, happened_at=NOW)
COMMENTED = Told(
    PAGE, "comment:c_1", "comment", ("price",), "9001", "Ann Lee", "c_1", happened_at=NOW
)
ANSWER = Sent("message", 0, ANN, "10 euro")
ANSWERED = Expected("answered", "fired", (Fired("rule-a", 1, (ANSWER,)),))


def decided(event: Told = ASKED, *rules: Rule, at: float = NOW, **fields: Any) -> Expected | None:
    return model.expected(Moment(event, rules or (PRICE,), at, **fields), Memory())


def happened(value: dict[str, Any], lane: str = f"person:{ANN}", **fields: Any) -> Happened:
    values: dict[str, Any] = {
        "ref": "e1",
        "page_id": PAGE,
        "key": None,
        "lane": lane,
        "kind": "message",
        "person_id": ANN,
        "text": None,
        "tag": None,
        "happened_at": NOW,
        "published_at": NOW,
        "is_standby": False,
        "is_subscribed": True,
        "value": value,
    }
    return Happened(**(values | fields))


# Reading what Meta sent.


@pytest.mark.parametrize(
    ("item", "trigger", "texts"),
    [
        ({"message": {"mid": "m", "text": "hi"}}, "message", ("hi",)),
        (
            {"message": {"mid": "m", "text": "Yes", "quick_reply": {"payload": "YES"}}},
            "message",
            ("Yes", "YES"),
        ),
        ({"message": {"mid": "m", "text": "hi", "is_echo": True}}, None, ()),
        ({"message": {"mid": "m", "is_deleted": True}}, None, ()),
        (
            {"message": {"mid": "m", "text": "hi", "reply_to": {"story": {"id": "1"}}}},
            "story_reply",
            ("hi",),
        ),
        (
            {"message": {"mid": "m", "attachments": [{"type": "story_mention"}]}},
            "story_mention",
            (),
        ),
        ({"postback": {"title": "Buy", "payload": "BUY"}}, "postback", ("Buy", "BUY")),
        (
            {"reaction": {"action": "react", "reaction": "love", "emoji": "❤"}},
            "reaction",
            ("❤", "love"),
        ),
        ({"reaction": {"action": "unreact"}}, None, ()),
        ({"referral": {"ref": "shop"}}, "referral", ("shop",)),
        ({"optin": {"payload": "NEWS"}}, "optin", ("NEWS",)),
        ({"optin": {"notification_messages_status": "STOP NOTIFICATIONS"}}, None, ()),
        ({"read": {"watermark": 1}}, None, ()),
    ],
)
def test_a_messaging_item_is_read_as_its_trigger_and_texts(
    item: dict[str, Any], trigger: str | None, texts: tuple[str, ...]
) -> None:
    read = model.told(happened(item))

    assert (read.trigger, read.texts, read.person_id) == (trigger, texts, ANN)


def test_an_item_that_names_nobody_can_be_answered_by_no_rule() -> None:
    read = model.told(happened({"optin": {"user_ref": "u"}}, "page", person_id=None))

    assert read.trigger is None


@pytest.mark.parametrize(
    ("changes", "trigger"),
    [({}, "comment"), ({"from": {"id": PAGE}}, None), ({"verb": "edited"}, None)],
)
def test_only_a_new_comment_of_another_is_a_trigger(
    changes: dict[str, Any], trigger: str | None
) -> None:
    value = {
        "item": "comment",
        "verb": "add",
        "from": {"id": "9001", "name": "Ann Lee"},
        "message": "price",
        "comment_id": "c_1",
    }

    read = model.told(happened(value | changes, "comment:c_1"))

    assert read.trigger == trigger
    assert (read.comment_id, read.is_instagram, read.may_be_written_to) == (
        "c_1",
        False,
        not trigger,
    )


def test_an_instagram_comment_names_somebody_who_can_be_written_to() -> None:
    value = {
        "id": "17",
        "text": "price",
        "from": {"id": "5", "username": "ann"},
        "media": {"id": "1"},
    }

    read = model.told(happened(value, "comment:17"))
    own = model.told(happened(value | {"from": {"self_ig_scoped_id": "5"}}, "comment:17"))

    assert (read.trigger, read.name, read.may_be_written_to) == ("comment", "ann", True)
    assert own.trigger is None


def test_a_stored_rule_is_read_whole() -> None:
    read = model.rule(rule_version(3, limits={"per_day": 2}, continues=True, priority=7))

    assert (read.version, read.any, read.mode, read.per_day) == (3, ("price",), "word", 2)
    assert read.triggers == {"message", "comment"}
    assert (read.priority, read.continues) == (7, True)
    assert read.actions == (SAYS,)


# Matching.


@pytest.mark.parametrize(
    ("mode", "text", "matches"),
    [
        ("word", "the price?", True),
        ("word", "PRICE", True),
        ("word", "príce", True),
        ("word", "priceless", False),
        ("word", "priceless price", True),
        ("word", "price_list", False),
        ("contains", "priceless", True),
        ("exact", " price ", True),
        ("exact", "the price", False),
        ("starts_with", "prices", True),
        ("starts_with", "a price", False),
        ("ends_with", "half-price", True),
        ("ends_with", "prices", False),
    ],
)
def test_a_phrase_is_found_as_its_mode_says(mode: str, text: str, matches: bool) -> None:
    rule = replace(PRICE, mode=mode)

    found = decided(replace(ASKED, texts=(text,)), rule)

    assert found == (ANSWERED if matches else Expected("declined", "no_rule_matched"))


@pytest.mark.parametrize(
    ("rule", "event", "why"),
    [
        (replace(PRICE, is_enabled=False), ASKED, "disabled"),
        (replace(PRICE, triggers=frozenset({"comment"})), ASKED, "event_kind"),
        (replace(PRICE, actions=(Action("hide_comment"),)), ASKED, "not_a_comment"),
        (replace(PRICE, none=("the",)), ASKED, "text_excluded"),
        (PRICE, replace(ASKED, texts=()), "text_absent"),
        (PRICE, replace(ASKED, texts=("hello",)), "text_no_match"),
        (replace(PRICE, any=()), replace(ASKED, texts=()), ""),
        (PRICE, replace(ASKED, texts=("no", "PRICE")), ""),
    ],
)
def test_the_first_reason_against_a_rule_is_told(rule: Rule, event: Told, why: str) -> None:
    assert model.miss(event, rule) == why


# What is sent.


def test_a_comments_rule_answers_below_it_and_in_private() -> None:
    actions = (SAYS, Action("private_reply", "Hi {first_name}"), Action("hide_comment"))
    rule = replace(PRICE, triggers=frozenset({"comment"}), actions=actions)

    found = decided(COMMENTED, rule)

    assert found is not None
    assert found.fired[0].sends == (
        Sent("comment_reply", 0, "c_1", "10 euro"),
        Sent("private_reply", 1, "c_1", "Hi Ann"),
        Sent("hide_comment", 2, "c_1"),
    )


def test_a_label_is_put_on_people_of_messenger_alone() -> None:
    rule = replace(PRICE, actions=(SAYS, Action("add_label", "lead")))
    only = replace(rule, actions=(Action("add_label", "lead"),))
    on_instagram = replace(ASKED, is_instagram=True)

    assert len(model.sends(ASKED, rule)) == 2
    assert model.sends(on_instagram, rule) == (ANSWER,)
    assert decided(on_instagram, only) == Expected("declined", "label_unsupported")


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("Hi {first_name}, hello", "Ann Lee", "Hi Ann, hello"),
        ("Hi {name}", "Ann Lee", "Hi Ann Lee"),
        ("Hi {first_name}, hello", "", "Hi, hello"),
        ("Hi {first_name|there}", "", "Hi there"),
        ("plain", "Ann", "plain"),
    ],
)
def test_a_name_is_filled_in_or_left_out_with_its_space(text: str, name: str, said: str) -> None:
    assert model.filled(text, name) == said


# Which rule answers.


def test_the_highest_rule_answers_and_of_equals_the_older() -> None:
    low = replace(PRICE, rule_id="low", made_at=1)
    young = replace(PRICE, rule_id="young", priority=5, made_at=9)
    old = replace(PRICE, rule_id="old", priority=5, made_at=2)

    found = decided(ASKED, low, young, old)

    assert found is not None
    assert [fired.rule_id for fired in found.fired] == ["old"]


def test_a_rule_that_continues_lets_the_next_answer_too() -> None:
    first = replace(PRICE, rule_id="first", priority=2, continues=True)
    second = replace(PRICE, rule_id="second", priority=1)
    third = replace(PRICE, rule_id="third")

    found = decided(ASKED, third, second, first)

    assert found is not None
    assert [fired.rule_id for fired in found.fired] == ["first", "second"]


def test_a_rule_of_other_pages_is_not_asked() -> None:
    elsewhere = replace(PRICE, page_ids=frozenset({"1002"}))
    here = replace(PRICE, page_ids=frozenset({PAGE}))

    assert decided(ASKED, elsewhere) == Expected("declined", "no_rule_matched")
    assert decided(ASKED, here) == ANSWERED


@pytest.mark.parametrize(
    ("event", "fields", "expected"),
    [
        (ASKED, {"is_connected": False}, Expected("declined", "page_disconnected")),
        (replace(ASKED, is_standby=True), {}, Expected("declined", "standby")),
        (ASKED, {"is_removed": True}, Expected("declined", "message_removed")),
        (ASKED, {"at": NOW + DAY - 299}, Expected("expired", "window_closed")),
        (ASKED, {"at": NOW + DAY - 301}, ANSWERED),
        (ASKED, {"paused_until": NOW + 1}, Expected("declined", "person_active")),
        (ASKED, {"paused_until": NOW}, ANSWERED),
        (replace(ASKED, trigger=None), {}, None),
    ],
)
def test_what_bars_every_rule_is_told_before_any_is_asked(
    event: Told, fields: dict[str, Any], expected: Expected | None
) -> None:
    assert decided(event, **fields) == expected


def test_a_comment_has_seven_days() -> None:
    rule = replace(PRICE, triggers=frozenset({"comment"}))

    found = decided(COMMENTED, rule, at=NOW + 6 * DAY)
    late = decided(COMMENTED, rule, at=NOW + 7 * DAY - 299)

    assert found is not None
    assert found.outcome == "answered"
    assert late == Expected("expired", "window_closed")


# Limits.


def outcomes(rule: Rule, *times: float, memory: Memory | None = None) -> list[str]:
    memory = memory or Memory()
    moments = [Moment(ASKED, (rule,), at) for at in times]
    return [found.reason for moment in moments if (found := model.expected(moment, memory))]


def test_once_a_person_is_once() -> None:
    rule = replace(PRICE, once_per_person=True)

    assert outcomes(rule, NOW, NOW + 100) == ["fired", "once_per_person"]


def test_a_cooldown_ends() -> None:
    rule = replace(PRICE, cooldown=60)

    assert outcomes(rule, NOW, NOW + 59, NOW + 60) == ["fired", "cooldown", "fired"]


def test_a_day_has_its_number_of_answers() -> None:
    rule = replace(PRICE, per_day=2)
    midnight = NOW - NOW % DAY
    times = (midnight + 1, midnight + 2, midnight + 3, midnight + DAY + 1)
    event = replace(ASKED, happened_at=midnight)

    memory = Memory()
    found = [model.expected(Moment(event, (rule,), at), memory) for at in times]

    assert [each.reason for each in found if each] == ["fired", "fired", "per_day", "window_closed"]
    fresh = replace(event, happened_at=midnight + DAY)
    again = model.expected(Moment(fresh, (rule,), midnight + DAY + 1), memory)
    assert again is not None
    assert again.reason == "fired"


def test_a_limit_is_each_persons_own() -> None:
    rule, memory = replace(PRICE, once_per_person=True), Memory()
    bobs = replace(ASKED, person_id=BOB, lane=f"person:{BOB}")

    model.expected(Moment(ASKED, (rule,), NOW), memory)
    found = model.expected(Moment(bobs, (rule,), NOW), memory)

    assert found is not None
    assert found.outcome == "answered"


def test_a_firing_that_came_to_nothing_counts_for_no_limit() -> None:
    rule = replace(PRICE, once_per_person=True)
    memory = Memory(has_come_to_nothing=lambda rule_id, fired_at, now: fired_at == NOW)

    assert outcomes(rule, NOW, NOW + 1, NOW + 2, memory=memory) == [
        "fired",
        "fired",
        "once_per_person",
    ]
