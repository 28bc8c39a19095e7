import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from pagewire_sync.asking import Asking
from pagewire_sync.listing import of_node
from pagewire_sync.results import Done, Outcome
from tests.support.inbox import NOW, FakeInbox, credentials, inbox

EMPTY = Done({}, datetime.fromtimestamp(NOW, UTC))


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


async def read(graph: FakeInbox, thread_id: str = "t_0000", **how: Any) -> Outcome:
    asking = Asking(graph, credentials(), sleep=no_pause)
    return await of_node(asking, thread_id, "", {"fields": "id"}, operation="conversation", **how)


@pytest.mark.parametrize(("empty", "calls"), [([], 1), ([0], 2), ([0, 1], 2)])
async def test_a_node_that_is_answered_without_an_id_is_asked_for_once_more(
    empty: list[int], calls: int
) -> None:
    graph = inbox(5)
    graph.failing = dict.fromkeys(empty, EMPTY)

    outcome = await read(graph)

    assert isinstance(outcome, Done)
    assert outcome.body.get("id") == ("t_0000" if len(empty) < 2 else None)
    assert graph.calls == calls
