from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from pagewire.rules.v1 import rule_service_pb2 as pb
from pagewire.store.v1.rule_book_service_pb2 import RuleBook
from pagewire.type.v1.event_pb2 import Event, Trigger
from pagewire_rules.books import Books
from pagewire_rules.servicer import RuleServicer
from pagewire_runtime import faults
from pagewire_runtime.errors import Kind, Refusal

NOTHING = cast("Any", None)


@pytest.fixture(autouse=True)
def unarmed_afterwards() -> Iterator[None]:
    yield
    faults.arm()


class EmptyShelf:
    """A book without rules for every page."""

    async def fetch(self, page_ids: Sequence[str]) -> Sequence[RuleBook]:
        return [RuleBook(page_id=page_id, connected=True) for page_id in page_ids]


async def evaluated(*numbers: int) -> int:
    """How many evaluations there are for messages of these numbers."""
    servicer = RuleServicer(NOTHING, Books(EmptyShelf()))
    events = [
        pb.EventToEvaluate(
            event=Event(
                page_id="1001",
                lane=f"person:{number}",
                key=f"message:m_{number}",
                trigger=Trigger.TRIGGER_MESSAGE,
            )
        )
        for number in numbers
    ]
    answer = await servicer.EvaluateEvents(pb.EvaluateEventsRequest(events=events), NOTHING)
    return len(answer.evaluations)


@pytest.mark.parametrize("key", ["message:m_2", "person:2", "1001"])
async def test_evaluating_fails_for_the_call_that_holds_the_event_the_lane_or_the_page(
    key: str,
) -> None:
    faults.arm(f"rules.evaluate=raise:UNAVAILABLE if:{key}")

    with pytest.raises(Refusal) as refused:
        await evaluated(1, 2, 3)

    assert refused.value.kind is Kind.TRANSIENT


async def test_calls_without_it_are_answered_as_ever() -> None:
    faults.arm("rules.evaluate=raise:UNAVAILABLE if:message:m_2")

    assert await evaluated(1, 3) == 2
