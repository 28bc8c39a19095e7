"""Rules: make, show, replace, delete, list, and try without effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from pagewire.rules.v1 import rule_service_pb2 as rules_pb
from pagewire.type.v1 import rule_pb2 as pb
from pagewire_runtime.errors import InvalidArgument
from pagewire_webhook.operator.listing import Listed, PageListing, next_token
from pagewire_webhook.operator.operation import Operation
from pagewire_webhook.operator.rule_json import (
    TRIGGERS,
    Action,
    LeftOut,
    Rule,
    Trigger,
    action_json,
    left_out_json,
    rule_json,
    rule_proto,
)
from pagewire_webhook.operator.values import Id

if TYPE_CHECKING:
    from pagewire.rules.v1.rule_service_pb2_grpc import RuleServiceAsyncStub


class RuleList(Listed, frozen=True, kw_only=True):
    """Rules, by priority, then the older first."""

    rules: list[Rule]


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event that is made up, and perhaps a rule that is not saved."""

    page_id: Id
    event: Trigger
    text: str = ""
    payload: Annotated[str, Meta(description="A postback's or a quick reply's.")] = ""
    name: Annotated[str, Meta(description="The person's.")] = ""
    rule: Annotated[
        Rule | None,
        Meta(description="Tried as if it were saved; in place of the one with its rule_id."),
    ] = None


class Span(msgspec.Struct, frozen=True):
    """Where a phrase was found, in characters; `end` is one past the last."""

    start: int
    end: int


class Considered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one rule."""

    rule_id: Annotated[Id | None, Meta(description="Null for a rule that is not saved.")]
    name: str
    fired: bool
    reason: Annotated[str, Meta(description="A stable word.")]
    span: Span | None
    left_out: Annotated[
        list[LeftOut], Meta(description="What the rule cannot do with such an event.")
    ]


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen."""

    considered: Annotated[
        list[Considered], Meta(description="Every rule of the page, by priority.")
    ]
    actions: Annotated[list[Action], Meta(description="In order, texts filled in.")]


class Rules:
    """The operations, over the rules service."""

    def __init__(self, rules: RuleServiceAsyncStub) -> None:
        self._rules = rules

    def operations(self) -> list[Operation]:
        one = "/api/rules/{rule_id}"
        return [
            Operation("GET", "/api/rules", self.list, "Lists rules.", {200: RuleList}),
            Operation("POST", "/api/rules", self.create, "Makes a rule.", {201: Rule}),
            Operation(
                "POST",
                "/api/rules/try",
                self.try_event,
                "Says of every rule of a page what it would do. No effect.",
                {200: Tried},
            ),
            Operation("GET", one, self.get, "Shows a rule.", {200: Rule}),
            Operation("PUT", one, self.replace, "Replaces a rule.", {200: Rule}),
            Operation(
                "DELETE",
                one,
                self.delete,
                "Takes a rule out of force; what it decided is still sent.",
                {200: dict[str, str]},
            ),
        ]

    async def list(self, query: PageListing) -> RuleList:
        response = await self._rules.ListRules(
            rules_pb.ListRulesRequest(
                page_id=query.page_id or "", page_size=query.page_size, page_token=query.page_token
            )
        )
        return RuleList(
            rules=[rule_json(rule) for rule in response.rules],
            next_page_token=next_token(response.next_page_token),
        )

    async def create(self, body: Rule) -> Rule:
        request = rules_pb.CreateRuleRequest(rule=rule_proto(body))
        return rule_json((await self._rules.CreateRule(request)).rule)

    async def get(self, rule_id: str) -> Rule:
        request = rules_pb.GetRuleRequest(rule_id=rule_id)
        return rule_json((await self._rules.GetRule(request)).rule)

    async def replace(self, rule_id: str, body: Rule) -> Rule:
        if body.rule_id not in (None, rule_id):
            raise InvalidArgument("rule_id", "is not the one of the path; leave it out")
        request = rules_pb.UpdateRuleRequest(rule=rule_proto(body, rule_id))
        return rule_json((await self._rules.UpdateRule(request)).rule)

    async def delete(self, rule_id: str) -> dict[str, str]:
        await self._rules.DeleteRule(rules_pb.DeleteRuleRequest(rule_id=rule_id))
        return {}

    async def try_event(self, body: Trial) -> Tried:
        response = await self._rules.TryRules(
            rules_pb.TryRulesRequest(
                page_id=body.page_id,
                event=TRIGGERS.value(body.event),
                text=body.text,
                person_name=body.name,
                payload=body.payload,
                draft=_draft(body.rule),
            )
        )
        return Tried(
            considered=[_considered(verdict) for verdict in response.considered],
            actions=[action_json(action) for action in response.actions],
        )


def _draft(rule: Rule | None) -> pb.Rule | None:
    return None if rule is None else rule_proto(rule, rule.rule_id or "")


def _considered(verdict: pb.RuleVerdict) -> Considered:
    span = Span(verdict.span.start, verdict.span.end) if verdict.HasField("span") else None
    return Considered(
        rule_id=verdict.rule_id or None,
        name=verdict.name,
        fired=verdict.fired,
        reason=verdict.reason,
        span=span,
        left_out=left_out_json(verdict),
    )
