"""A rule as people write it, and the same rule on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from google.protobuf.message import Message
from msgspec import UNSET, Meta, UnsetType, field

from pagewire.type.v1 import event_pb2 as event_pb
from pagewire.type.v1 import reply_pb2 as reply_pb
from pagewire.type.v1 import rule_pb2 as pb
from pagewire_runtime.errors import InvalidArgument
from pagewire_webhook.operator.contents import Content, content_json, content_proto
from pagewire_webhook.operator.values import Count, Id, Int32, Time, Words, time_of

Trigger: TypeAlias = Literal[
    "message",
    "comment",
    "postback",
    "story_mention",
    "story_reply",
    "referral",
    "reaction",
    "optin",
]
Mode: TypeAlias = Literal["word", "contains", "exact", "starts_with", "ends_with", "regex"]

TRIGGERS = Words(event_pb.Trigger)
MODES = Words(pb.TextMode)


class TextCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds if any phrase of `any` (or `any` is empty) and no phrase of `none` is found."""

    mode: Mode = "word"
    any: list[str] = []
    none: list[str] = []


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule asks of an event beside its kind."""

    text: TextCondition | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often a rule answers one person; 0 is no limit."""

    once_per_person: bool = False
    cooldown_seconds: Count = 0
    per_day: Count = 0


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text alone."""

    text: str


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A label of the page."""

    name: str


class Hiding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a comment shall be hidden or shown again."""

    hidden: bool = True


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that a rule does: exactly one of these."""

    reply: Content | UnsetType = UNSET
    private_reply: Content | UnsetType = UNSET
    comment_reply: Text | UnsetType = UNSET
    hide_comment: Hiding | UnsetType = UNSET
    add_label: Label | UnsetType = UNSET
    remove_label: Label | UnsetType = UNSET


GIVEN = Meta(description="Given by Pagewire; not read.", extra_json_schema={"readOnly": True})


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do when an event of a page meets a condition.

    A rule that was read may be written back as it is.
    """

    rule_id: Annotated[Id | None, GIVEN] = None
    version: Annotated[int | None, GIVEN] = None
    name: str
    page_ids: Annotated[list[Id], Meta(description="Empty means every page.")] = []
    enabled: bool = True
    priority: Annotated[Int32, Meta(description="The highest first, then the older rule.")] = 0
    events: list[Trigger]
    when: Condition
    then: list[Action]
    limits: Limits = Limits()
    continues: bool = field(name="continue", default=False)
    created_at: Annotated[Time | None, GIVEN] = None
    updated_at: Annotated[Time | None, GIVEN] = None


def rule_proto(rule: Rule, rule_id: str = "") -> pb.Rule:
    """The rule on the wire, under this id; raises InvalidArgument, which names the field."""
    return pb.Rule(
        rule_id=rule_id,
        name=rule.name,
        page_ids=rule.page_ids,
        enabled=rule.enabled,
        priority=rule.priority,
        events=[TRIGGERS.value(event) for event in rule.events],
        when=_condition_proto(rule.when),
        then=[action_proto(action, f"then[{nth}]") for nth, action in enumerate(rule.then)],
        limits=pb.Limits(
            once_per_person=rule.limits.once_per_person,
            cooldown_seconds=rule.limits.cooldown_seconds,
            per_day=rule.limits.per_day,
        ),
        continues=rule.continues,
    )


def _condition_proto(when: Condition) -> pb.Condition:
    if when.text is None:
        return pb.Condition()
    mode = MODES.value(when.text.mode)
    text = pb.TextCondition(mode=mode, any=when.text.any, none=when.text.none)
    return pb.Condition(text=text)


def action_proto(action: Action, where: str) -> pb.Action:
    """The action on the wire; `where` names it in the InvalidArgument."""
    given = [name for name in action.__struct_fields__ if getattr(action, name) is not UNSET]
    if len(given) != 1:
        raise InvalidArgument(where, f"must hold one of {', '.join(action.__struct_fields__)}")
    kind = given[0]
    detail: dict[str, Any] = {kind: _detail_proto(getattr(action, kind), f"{where}.{kind}")}
    return pb.Action(**detail)


def _detail_proto(detail: Content | Text | Hiding | Label, where: str) -> Message:
    match detail:
        case Content():
            return content_proto(detail, where)
        case Text(text):
            return reply_pb.ReplyContent(text=text)
        case Hiding(hidden):
            return pb.HideAction(hidden=hidden)
        case Label(name):
            return pb.LabelAction(name=name)


class LeftOut(msgspec.Struct, frozen=True):
    """An action that cannot apply to an event."""

    action: Annotated[str, Meta(description="As the rule has it: add_label, …")]
    reason: Annotated[str, Meta(description="A stable word.")]


def left_out_json(verdict: pb.RuleVerdict) -> list[LeftOut]:
    """What was left out of a rule, as the API shows it."""
    return [LeftOut(each.action, each.reason) for each in verdict.left_out]


def rule_json(rule: pb.Rule) -> Rule:
    """The rule as the API shows it, with every default filled in."""
    return Rule(
        rule_id=rule.rule_id,
        version=rule.version,
        name=rule.name,
        page_ids=list(rule.page_ids),
        enabled=rule.enabled,
        priority=rule.priority,
        events=[TRIGGERS.word(event) for event in rule.events],
        when=_condition_json(rule.when),
        then=[action_json(action) for action in rule.then],
        limits=Limits(
            rule.limits.once_per_person, rule.limits.cooldown_seconds, rule.limits.per_day
        ),
        continues=rule.continues,
        created_at=time_of(rule, "create_time"),
        updated_at=time_of(rule, "update_time"),
    )


def _condition_json(when: pb.Condition) -> Condition:
    if not when.HasField("text"):
        return Condition()
    mode: Mode = MODES.word(when.text.mode) or "word"
    return Condition(TextCondition(mode, list(when.text.any), list(when.text.none)))


def action_json(action: pb.Action) -> Action:
    """The action as the API shows it."""
    match action.WhichOneof("action"):
        case "reply":
            return Action(reply=content_json(action.reply))
        case "private_reply":
            return Action(private_reply=content_json(action.private_reply))
        case "comment_reply":
            return Action(comment_reply=Text(action.comment_reply.text))
        case "hide_comment":
            return Action(hide_comment=Hiding(action.hide_comment.hidden))
        case "add_label":
            return Action(add_label=Label(action.add_label.name))
        case "remove_label":
            return Action(remove_label=Label(action.remove_label.name))
        case None:
            return Action()
