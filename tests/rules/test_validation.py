from collections.abc import Callable

import pytest

from pagewire.type.v1.event_pb2 import Trigger
from pagewire.type.v1.reply_pb2 import Media, MediaType, QuickReplies, QuickReply, ReplyContent
from pagewire.type.v1.rule_pb2 import Action, HideAction, LabelAction, Rule, TextMode
from pagewire_rules import validation
from pagewire_rules.validation import RuleInvalid


def good() -> Rule:
    rule = Rule(name="price", enabled=True, events=[Trigger.TRIGGER_MESSAGE])
    rule.when.text.any.append("price")
    rule.then.add().reply.text = "Hi {first_name}, it is 10 euro"
    return rule


def with_content(content: ReplyContent) -> Rule:
    rule = good()
    rule.then[0].reply.CopyFrom(content)
    return rule


def change(edit: Callable[[Rule], object]) -> Rule:
    rule = good()
    edit(rule)
    return rule


def test_a_rule_that_says_something_is_accepted() -> None:
    validation.check(good())


def test_every_mode_but_regex_is_accepted() -> None:
    for mode in set(TextMode.values()) - {TextMode.TEXT_MODE_REGEX}:
        rule = good()
        rule.when.text.mode = mode
        validation.check(rule)


def test_an_empty_text_condition_stands_for_any_event_of_the_kind() -> None:
    rule = good()
    rule.when.text.Clear()
    rule.when.text.SetInParent()

    validation.check(rule)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (change(lambda r: r.ClearField("name")), "name"),
        (change(lambda r: setattr(r, "name", "x" * 201)), "name"),
        (change(lambda r: r.page_ids.append("")), "page_ids[0]"),
        (change(lambda r: r.page_ids.append("1'; drop table page")), "page_ids[0]"),
        (change(lambda r: r.page_ids.extend(["1", "1"])), "page_ids"),
        (change(lambda r: setattr(r, "priority", 2**31 - 1)), "priority"),
        (change(lambda r: r.ClearField("events")), "events"),
        (change(lambda r: r.events.append(Trigger.TRIGGER_UNSPECIFIED)), "events[1]"),
        (change(lambda r: r.events.append(Trigger.TRIGGER_MESSAGE)), "events"),
        (change(lambda r: r.ClearField("when")), "when"),
        (change(lambda r: r.when.text.any.append(" \u200b ")), "when.text.any[1]"),
        (change(lambda r: r.when.text.none.append("x" * 501)), "when.text.none[0]"),
        (change(lambda r: r.when.text.any.extend(map(str, range(501)))), "when.text.any"),
        (
            change(lambda r: setattr(r.when.text, "mode", TextMode.TEXT_MODE_REGEX)),
            "when.text.mode",
        ),
        (change(lambda r: r.ClearField("then")), "then"),
        (change(lambda r: r.then.extend([Action()])), "then[1]"),
        (change(lambda r: r.then.extend([r.then[0]] * 10)), "then"),
        (change(lambda r: setattr(r.then[0].reply, "text", "  ")), "then[0].reply.text"),
        (change(lambda r: setattr(r.then[0].reply, "text", "x" * 2001)), "then[0].reply.text"),
        (change(lambda r: setattr(r.then[0].reply, "text", "{secret}")), "then[0].reply.text"),
        (change(lambda r: r.then[0].reply.Clear()), "then[0].reply"),
        (
            change(lambda r: r.then.append(Action(hide_comment=HideAction(hidden=True)))),
            "then[1].hide_comment",
        ),
        (
            change(lambda r: r.then.append(Action(private_reply=ReplyContent(text="hi")))),
            "then[1].private_reply",
        ),
        (
            change(lambda r: r.then.append(Action(add_label=LabelAction()))),
            "then[1].add_label.name",
        ),
        (change(lambda r: setattr(r.limits, "cooldown_seconds", -1)), "limits.cooldown_seconds"),
        (change(lambda r: setattr(r.limits, "per_day", -1)), "limits.per_day"),
    ],
)
def test_a_rule_that_could_not_do_what_it_says_is_refused_by_field(rule: Rule, field: str) -> None:
    with pytest.raises(RuleInvalid) as refused:
        validation.check(rule)

    assert refused.value.metadata == {"field": field}
    assert refused.value.reason == "RULE_INVALID"


def test_a_comment_reply_is_text_only() -> None:
    rule = good()
    rule.events.append(Trigger.TRIGGER_COMMENT)
    media = Media(type=MediaType.MEDIA_TYPE_IMAGE, url="https://cdn.example.com/a.jpg")
    rule.then.append(Action(comment_reply=ReplyContent(media=media)))

    with pytest.raises(RuleInvalid, match="must be a text"):
        validation.check(rule)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "http://cdn.example.com/a.jpg",
        "https://127.0.0.1/a.jpg",
        "https://[::1]/a.jpg",
        "https://localhost/a.jpg",
        "https://user:secret@cdn.example.com/a.jpg",
        "https://[broken/a.jpg",
        "",
    ],
)
def test_a_medium_must_have_an_address_that_meta_can_reach(url: str) -> None:
    rule = with_content(ReplyContent(media=Media(type=MediaType.MEDIA_TYPE_IMAGE, url=url)))

    with pytest.raises(RuleInvalid, match="https"):
        validation.check(rule)


def test_a_medium_and_quick_replies_are_accepted() -> None:
    url = "https://cdn.example.com/a.jpg"
    buttons = [QuickReply(title="Blue", payload="BLUE")]

    validation.check(
        with_content(ReplyContent(media=Media(type=MediaType.MEDIA_TYPE_FILE, url=url)))
    )
    validation.check(
        with_content(ReplyContent(quick_replies=QuickReplies(text="?", quick_replies=buttons)))
    )


@pytest.mark.parametrize(
    "buttons",
    [
        [],
        [QuickReply(title="x", payload="X")] * 14,
        [QuickReply(title="x" * 21, payload="X")],
        [QuickReply(title="x")],
    ],
)
def test_quick_replies_keep_metas_limits(buttons: list[QuickReply]) -> None:
    content = ReplyContent(quick_replies=QuickReplies(text="?", quick_replies=buttons))

    with pytest.raises(RuleInvalid, match="must h"):
        validation.check(with_content(content))
