"""Decisions: what became of every event that a rule could answer, with the time of each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from pagewire.store.v1 import operation_service_pb2 as store_pb
from pagewire.type.v1 import decision_pb2 as pb
from pagewire_webhook.operator.listing import Listed, PageListing, next_token
from pagewire_webhook.operator.operation import Operation
from pagewire_webhook.operator.rule_json import TRIGGERS, LeftOut, Trigger, left_out_json
from pagewire_webhook.operator.values import Id, Time, Words, time_of

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

Outcome: TypeAlias = Literal["answered", "declined", "expired", "failed"]

OUTCOMES = Words(pb.Outcome)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one rule."""

    rule_id: Id
    version: int
    fired: bool
    reason: Annotated[str, Meta(description="A stable word.")]
    left_out: Annotated[
        list[LeftOut], Meta(description="What the rule could not do with this event.")
    ]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided of one event, and why."""

    event_id: Id
    kind: Trigger | None
    outcome: Outcome | None
    reason: Annotated[str, Meta(description="A stable word.")]
    rules: Annotated[list[Verdict], Meta(description="The rules considered, best first.")]
    received_at: Annotated[Time | None, Meta(description="When it reached the edge.")]
    stored_at: Annotated[Time | None, Meta(description="When it was committed.")]
    decided_at: Time | None
    sent_at: Annotated[
        Time | None, Meta(description="When Graph was asked to send the first reply.")
    ]


class DecisionList(Listed, frozen=True, kw_only=True):
    """Decisions, newest first."""

    decisions: list[Decision]


class Decisions:
    """The operations, over the store's OperationService."""

    def __init__(self, store: OperationServiceAsyncStub) -> None:
        self._store = store

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/api/decisions", self.list, "Lists decisions.", {200: DecisionList})
        ]

    async def list(self, query: PageListing) -> DecisionList:
        response = await self._store.ListDecisions(
            store_pb.ListDecisionsRequest(
                page_id=query.page_id or "", page_size=query.page_size, page_token=query.page_token
            )
        )
        return DecisionList(
            decisions=[decision_json(decision) for decision in response.decisions],
            next_page_token=next_token(response.next_page_token),
        )


def decision_json(decision: pb.Decision) -> Decision:
    """A decision as the API shows it."""
    return Decision(
        event_id=decision.event_id,
        kind=TRIGGERS.word(decision.kind),
        outcome=OUTCOMES.word(decision.outcome),
        reason=decision.reason,
        rules=[
            Verdict(
                rule_id=rule.rule_id,
                version=rule.version,
                fired=rule.fired,
                reason=rule.reason,
                left_out=left_out_json(rule),
            )
            for rule in decision.rules
        ],
        received_at=time_of(decision, "receive_time"),
        stored_at=time_of(decision, "store_time"),
        decided_at=time_of(decision, "decide_time"),
        sent_at=time_of(decision, "sent_time"),
    )
