from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import pytest

from pagewire.store.v1.operation_service_pb2 import ListDecisionsRequest, ListDecisionsResponse
from pagewire.type.v1.decision_pb2 import Decision
from pagewire.type.v1.rule_pb2 import LeftOut, RuleVerdict
from pagewire_cli import decisions
from pagewire_cli.decisions import following, row
from pagewire_cli.shapes import to_json
from pagewire_runtime.errors import InvalidArgument, Refusal, Unavailable

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub


class Decided:
    """A store in which one more decision is made with each look; `troubles` come instead of it."""

    def __init__(self, *troubles: Refusal | None) -> None:
        self.ids: list[str] = []
        self.asked_after: list[str] = []
        self._troubles = list(troubles)

    async def ListDecisions(self, request: ListDecisionsRequest) -> ListDecisionsResponse:
        self.asked_after.append(request.after_event_id)
        trouble = self._troubles.pop(0) if self._troubles else None
        if trouble is not None:
            raise trouble
        self.ids += [f"e-101-{len(self.ids) + n}" for n in (1, 2)]
        begin = self.ids.index(request.after_event_id) + 1 if request.after_event_id else 0
        newest_first = self.ids[begin:][::-1]
        return ListDecisionsResponse(decisions=[Decision(event_id=one) for one in newest_first])


def followed(store: Decided) -> AsyncIterator[dict[str, Any]]:
    return following(cast("OperationServiceAsyncStub", store), "", 20, every=0)


async def first(count: int, store: Decided) -> list[str]:
    seen: list[str] = []
    async with aclosing(cast(Any, followed(store))) as decided:
        async for decision in decided:
            seen.append(decision["event_id"])
            if len(seen) == count:
                break
    return seen


async def test_decisions_are_followed_in_the_order_in_which_they_were_made() -> None:
    store = Decided()

    seen = await first(5, store)

    assert seen == [f"e-101-{number}" for number in range(1, 6)]
    assert store.asked_after == ["", "e-101-2", "e-101-4"]


async def test_a_store_that_is_gone_for_a_while_is_waited_for_and_nothing_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decisions, "PAUSE", 0)

    seen = await first(4, Decided(None, Unavailable("the database")))

    assert seen == [f"e-101-{number}" for number in range(1, 5)]
    assert capsys.readouterr().err == "pagewire: the store does not answer; trying again\n"


def test_a_decision_names_what_its_rule_could_not_do() -> None:
    label = LeftOut(action="add_label", reason="label_unsupported")
    verdict = RuleVerdict(name="price", fired=True, reason="fired", left_out=[label])

    shown = row(to_json(Decision(event_id="e-1-1", page_id="1", rules=[verdict])))

    assert "price (no add_label: label_unsupported)" in shown


@pytest.mark.parametrize("trouble", [InvalidArgument("page_id", "no"), Unavailable("the store")])
async def test_what_fails_at_once_is_told_and_not_tried_for_ever(trouble: Refusal) -> None:
    with pytest.raises(Refusal) as refused:
        await first(1, Decided(trouble))

    assert refused.value is trouble
