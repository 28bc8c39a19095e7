import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from pagewire.store.v1 import mirror_service_pb2 as mirror_pb
from pagewire.store.v1.run_service_pb2 import UnreadableThread
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.sync_run_pb2 import SyncMode, SyncState
from pagewire_runtime.errors import Kind, Refusal, refusal_from
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Credentials
from pagewire_sync.mirroring import Mirroring
from pagewire_sync.progress import Progress
from pagewire_sync.results import Done, Failed, Outcome
from tests.support.inbox import (
    NOW,
    REDUCE,
    TOKEN_DEAD,
    UNAVAILABLE,
    FakeInbox,
    FakeIngest,
    FakeMirror,
    FakeThread,
    claimed,
    credentials,
    inbox,
)

FAILED, PARTIAL = SyncState.SYNC_STATE_FAILED, SyncState.SYNC_STATE_PARTIAL
SUCCEEDED = SyncState.SYNC_STATE_SUCCEEDED
INCREMENTAL = SyncMode.SYNC_MODE_INCREMENTAL


class Tokens:
    def __init__(
        self, platform: Platform.ValueType = Platform.PLATFORM_MESSENGER, missing: bool = False
    ) -> None:
        self.platform = platform
        self.missing = missing

    async def of(self, page_id: str, version: int) -> Credentials:
        if self.missing:
            raise refusal_from(Kind.MISSING, "PAGE_UNKNOWN", "no such page")
        return credentials(self.platform)


class Disconnected(FakeMirror):
    async def UpsertHistory(
        self, request: mirror_pb.UpsertHistoryRequest
    ) -> mirror_pb.UpsertHistoryResponse:
        raise refusal_from(Kind.MISSING, "PAGE_UNKNOWN", "no such page")


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


async def mirrored(
    graph: FakeInbox,
    mirror: FakeMirror | None = None,
    ingest: FakeIngest | None = None,
    tokens: Tokens | None = None,
    **of: Any,
) -> Progress:
    progress = Progress.of(claimed(**of))
    mirroring = Mirroring(
        graph,
        tokens or Tokens(),
        mirror or FakeMirror(),
        ingest or FakeIngest(),
        lambda: datetime.fromtimestamp(graph.now, UTC),
        no_pause,
    )
    await mirroring.mirror(progress)
    return progress


def ended(progress: Progress) -> tuple[SyncState.ValueType, str]:
    return progress.run.state, progress.run.error


async def test_a_full_run_reads_labels_once_and_moves_the_watermark_to_its_beginning() -> None:
    graph, mirror = inbox(*[5] * 30), FakeMirror()

    progress = await mirrored(graph, mirror)
    report = progress.report(budget_left=87)

    assert ended(progress) == (SUCCEEDED, "")
    assert list(mirror.labels) == ["9"]
    assert report.synced_time.seconds == NOW - 60
    assert (report.run.graph_calls, report.run.budget_left_percent) == (2, 87)


async def test_an_instagram_account_has_no_labels_and_is_asked_for_by_its_platform() -> None:
    graph, mirror = inbox(*[5] * 30), FakeMirror()

    await mirrored(graph, mirror, tokens=Tokens(Platform.PLATFORM_INSTAGRAM))

    assert [each.edge for each in graph.asked] == ["conversations"]
    assert graph.asked[0].params["platform"] == "instagram"
    assert mirror.labels == {}


async def test_an_incremental_run_reads_no_labels() -> None:
    graph = inbox(*[5] * 30)

    progress = await mirrored(graph, mode=INCREMENTAL, synced=NOW)

    assert [each.edge for each in graph.asked] == ["conversations"]
    assert ended(progress) == (SUCCEEDED, "")


async def test_the_first_run_of_a_page_reads_its_labels_whatever_the_schedule_calls_it() -> None:
    graph, mirror = inbox(*[5] * 30), FakeMirror()

    progress = await mirrored(graph, mirror, mode=INCREMENTAL)

    assert list(mirror.labels) == ["9"]
    assert ended(progress) == (SUCCEEDED, "")


async def test_a_repair_reads_no_labels_whatever_was_mirrored_before() -> None:
    graph = inbox(*[5] * 30)
    marks = [UnreadableThread(thread_id="custom_labels", reason="graph_2")]

    progress = await mirrored(graph, mode=INCREMENTAL, gap=NOW - 900, unreadable=marks)

    assert ended(progress) == (SUCCEEDED, "")
    assert [each.edge for each in graph.asked] == ["conversations"]


@pytest.mark.parametrize("were_read", [False, True])
async def test_who_takes_a_run_over_reads_the_labels_that_were_not_read(were_read: bool) -> None:
    graph, mirror = inbox(*[20] * 600), FakeMirror()

    async def for_ever_where_they_were_not(number: int) -> None:
        if graph.asked[number].edge == "custom_labels" and not were_read:
            await asyncio.Event().wait()

    graph.before = for_ever_where_they_were_not
    graph.failing = dict.fromkeys(range(5, 99), TOKEN_DEAD)
    dying = await mirrored(graph, mirror)
    graph.before, graph.failing = lambda number: None, {}
    before = graph.calls

    progress = await mirrored(graph, mirror, checkpoint=dying.checkpoint)

    again = [each.edge for each in graph.asked[before:]].count("custom_labels")
    assert dying.checkpoint
    assert ended(dying) == (FAILED, "token_dead")
    assert (ended(progress), list(mirror.labels)) == ((SUCCEEDED, ""), ["9"])
    assert again == (0 if were_read else 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (UNAVAILABLE, "graph_2"),
        (REDUCE, "graph_1"),
        (Done({"data": 7}, datetime.fromtimestamp(NOW, UTC)), "list_malformed"),
    ],
)
async def test_labels_that_cannot_be_read_make_a_run_partial_and_the_next_one_reads_them(
    answer: Outcome, reason: str
) -> None:
    graph, mirror = inbox(*[5] * 30, labels=answer), FakeMirror()

    progress = await mirrored(graph, mirror)
    marks = progress.report().unreadable
    graph.labels, before = None, graph.calls
    then = await mirrored(graph, mirror, mode=INCREMENTAL, synced=NOW, unreadable=marks)

    asked = graph.asked[before:]
    assert ended(progress) == (PARTIAL, "labels_unreadable")
    assert progress.report().HasField("synced_time")
    assert [(each.thread_id, each.reason) for each in marks] == [("custom_labels", reason)]
    assert ended(then) == (SUCCEEDED, "")
    assert list(mirror.labels) == ["9"]
    assert [each.readable_again for each in then.report().unreadable] == [True]
    assert sorted((each.edge, each.batched) for each in asked) == [
        ("conversations", True),  # as where nothing is marked
        ("custom_labels", True),
    ]


@pytest.mark.parametrize(("failure", "code"), [(Failure.PERMISSION, 200), (Failure.TERMS, 2)])
async def test_a_page_whose_labels_graph_refuses_goes_without(failure: Failure, code: int) -> None:
    graph, mirror = inbox(*[5] * 30, labels=Failed(GraphError(failure, 400, code))), FakeMirror()

    progress = await mirrored(graph, mirror)

    assert ended(progress) == (SUCCEEDED, "")
    assert not progress.has_marks
    assert len(mirror.conversations) == 30


async def test_a_run_with_a_thread_that_cannot_be_read_is_partial_and_moves_the_watermark() -> None:
    graph = inbox(*[5] * 30)
    graph.threads[3].poison = True

    progress = await mirrored(graph)

    assert ended(progress) == (PARTIAL, "threads_unreadable")
    assert progress.report().HasField("synced_time")
    assert [each.thread_id for each in progress.report().unreadable] == ["t_0003"]


async def test_where_graph_gives_no_list_the_threads_that_are_known_are_read_singly() -> None:
    graph, mirror = inbox(700, *[30] * 60), FakeMirror()
    await mirrored(graph, mirror)
    graph.high_volume = True
    for at, thread in enumerate(graph.threads):
        thread.messages.append((f"m_late_{at}", NOW + 60, True))
    unknown = FakeThread("t_9999", [("m_unknown", NOW + 60, True)])
    graph.threads.append(unknown)

    progress = await mirrored(graph, mirror)

    assert ended(progress) == (PARTIAL, "list_unavailable")
    assert not progress.report().HasField("synced_time")
    assert {f"m_late_{at}" for at in range(61)} <= mirror.messages.keys()
    assert "m_unknown" not in mirror.messages
    assert progress.run.conversations == 61


async def test_news_without_a_list_are_those_of_the_newest_hundred_threads() -> None:
    graph, mirror = inbox(*[2] * 150), FakeMirror()
    await mirrored(graph, mirror)
    graph.high_volume = True
    for at, thread in enumerate(graph.threads):
        thread.messages.append((f"m_late_{at}", NOW + 60, True))

    progress = await mirrored(graph, mirror, mode=INCREMENTAL, synced=NOW)

    late = {mid for mid in mirror.messages if mid.startswith("m_late")}
    assert ended(progress) == (PARTIAL, "list_unavailable")
    assert late == {f"m_late_{at}" for at in range(100)}


@pytest.mark.parametrize("repair", [False, True])
async def test_without_a_list_a_page_of_which_nothing_is_known_and_a_repair_fail(
    repair: bool,
) -> None:
    graph, mirror = inbox(*[2] * 5), FakeMirror()
    how: dict[str, Any] = {}
    if repair:
        await mirrored(graph, mirror)
        how = {"mode": INCREMENTAL, "synced": NOW, "gap": NOW - 900}
    graph.high_volume = True

    progress = await mirrored(graph, mirror, **how)

    assert ended(progress) == (FAILED, "graph_unavailable")


async def test_a_graph_that_fails_on_single_threads_too_ends_the_run() -> None:
    graph, mirror = inbox(*[2] * 5), FakeMirror()
    await mirrored(graph, mirror)
    graph.failing = dict.fromkeys(range(graph.calls, 999), UNAVAILABLE)

    progress = await mirrored(graph, mirror)

    assert ended(progress) == (FAILED, "graph_unavailable")


@pytest.mark.parametrize(
    ("graph", "mirror", "tokens", "reason"),
    [
        (inbox(5, failing={0: TOKEN_DEAD, 1: TOKEN_DEAD}), FakeMirror(), Tokens(), "token_dead"),
        (inbox(5), Disconnected(), Tokens(), "page_disconnected"),
        (inbox(5), FakeMirror(), Tokens(missing=True), "page_disconnected"),
        (inbox(*[20] * 300, circles=True), FakeMirror(), Tokens(), "cursor_loop"),
    ],
)
async def test_what_cannot_go_on_fails_with_a_stable_word_and_leaves_the_watermark(
    graph: FakeInbox, mirror: FakeMirror, tokens: Tokens, reason: str
) -> None:
    progress = await mirrored(graph, mirror, tokens=tokens)

    assert ended(progress) == (FAILED, reason)
    assert not progress.report().HasField("synced_time")


async def test_what_nobody_foresaw_fails_the_run_alone() -> None:
    def broken(number: int) -> None:
        raise ZeroDivisionError

    progress = await mirrored(inbox(5, before=broken))

    assert ended(progress) == (FAILED, "internal")


async def test_a_repair_tells_what_webhooks_missed_before_it_stores_it() -> None:
    graph, mirror, ingest = inbox(*[5] * 30), FakeMirror(), FakeIngest()
    graph.threads[0].messages.append(("m_missed", NOW - 900, True))
    told: list[int] = []
    mirror.before = lambda number: told.append(len(ingest.known))

    progress = await mirrored(
        graph, mirror, ingest, mode=INCREMENTAL, synced=NOW - 600, gap=NOW - 1_800
    )

    assert ended(progress) == (SUCCEEDED, "")
    assert ingest.known == {"message:m_missed"}
    assert progress.run.recovered == 1
    assert told == [1]
    assert "m_missed" in mirror.messages


async def test_a_repair_whose_events_are_refused_has_not_read_its_gap() -> None:
    graph, mirror = inbox(*[5] * 30), FakeMirror()
    graph.threads[0].messages += [("m_1", NOW - 900, True), ("m_2", NOW - 800, True)]
    ingest = FakeIngest(cannot="message:m_1")

    progress = await mirrored(
        graph, mirror, ingest, mode=INCREMENTAL, synced=NOW - 600, gap=NOW - 1_800
    )

    assert ended(progress) == (PARTIAL, "events_refused")
    assert ingest.known == {"message:m_2"}
    assert {"m_1", "m_2"} <= set(mirror.messages)


async def test_a_repair_tries_what_could_not_be_read_before() -> None:
    graph, ingest = inbox(*[5] * 30), FakeIngest()
    thread = graph.threads[0]
    thread.messages.append(("m_missed", NOW - 900, True))
    marks = [UnreadableThread(thread_id=thread.thread_id, reason="graph_1")]
    marks[0].update_time.FromSeconds(int(thread.updated))

    progress = await mirrored(
        graph,
        ingest=ingest,
        mode=INCREMENTAL,
        synced=NOW - 600,
        gap=NOW - 1_800,
        unreadable=marks,
    )

    assert ended(progress) == (SUCCEEDED, "")
    assert ingest.known == {"message:m_missed"}
    assert [mark.readable_again for mark in progress.report().unreadable] == [True]


async def test_a_repair_of_a_page_that_was_never_mirrored_leaves_its_watermark_unset() -> None:
    graph = inbox(*[5] * 30)

    progress = await mirrored(graph, mode=INCREMENTAL, gap=NOW - 1_800)

    assert ended(progress) == (SUCCEEDED, "")
    assert not progress.report().HasField("synced_time")


async def test_what_is_cancelled_leaves_no_end() -> None:
    waiting = asyncio.Event()

    async def for_ever(number: int) -> None:
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(mirrored(inbox(5, before=for_ever)))
    await waiting.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_refusal_of_the_store_that_no_repeat_mends_fails_the_run() -> None:
    class Invalid(Refusal):
        kind = Kind.INVALID

    class Strict(FakeMirror):
        async def UpsertHistory(
            self, request: mirror_pb.UpsertHistoryRequest
        ) -> mirror_pb.UpsertHistoryResponse:
            raise Invalid("too many rows")

    progress = await mirrored(inbox(5), Strict())

    assert ended(progress) == (FAILED, "internal")
