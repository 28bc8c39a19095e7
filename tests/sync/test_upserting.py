"""Rows of history on their way into the store, and what is told of those that it does not take."""

from datetime import UTC, datetime

from pagewire.store.v1 import mirror_service_pb2 as pb
from pagewire_runtime import metrics
from pagewire_sync.upserting import Rows, Upserting
from tests.support.inbox import NOW, PAGE, FakeMirror, claimed, inbox
from tests.sync.test_threads import walked


class Choosy(FakeMirror):
    """Refuses the second message of each request."""

    async def UpsertHistory(self, request: pb.UpsertHistoryRequest) -> pb.UpsertHistoryResponse:
        response = await super().UpsertHistory(request)
        response.refused.add(kind=pb.ROW_KIND_MESSAGE, position=1, reason="text_malformed")
        return response


def counted(name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"pagewire_history_{name}_total", labels) or 0.0


async def test_rows_that_the_store_refuses_are_counted_by_kind_and_reason() -> None:
    rows = Rows(datetime.fromtimestamp(NOW, UTC))
    rows.conversations = [pb.MirroredConversation(participant_id="7")]
    rows.messages = [pb.MirroredMessage(mid=f"m_{n}", participant_id="7") for n in range(3)]
    refused = counted("rows_refused", kind="messages", reason="text_malformed")
    stored = counted("rows", kind="messages")

    await Upserting(Choosy(), PAGE).put(rows)

    assert counted("rows_refused", kind="messages", reason="text_malformed") == refused + 1
    assert counted("rows", kind="messages") == stored + 2


async def test_what_graph_shows_without_an_id_or_a_time_is_counted_likewise() -> None:
    graph, labels = inbox(3), {"kind": "conversations", "reason": "id_malformed"}
    graph.threads[0].messages[1] = ("no id at all", NOW, True)
    before = counted("rows_refused", **labels)

    await walked(graph, FakeMirror(), claimed())

    assert counted("rows_refused", **labels) == before + 1
