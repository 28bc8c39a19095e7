import asyncio
from typing import Any

import pytest

from pagewire.store.v1 import run_service_pb2 as store_pb
from pagewire.sync.v1 import history_service_pb2 as pb
from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncMode, SyncRun, SyncState
from pagewire_runtime.errors import InvalidArgument
from pagewire_sync.board import Board
from pagewire_sync.history_servicer import HistoryServicer
from tests.support.inbox import PAGE

RUN = "run-aaaaaaaaaaaaaaaa"
CONVERSATIONS = SyncKind.SYNC_KIND_CONVERSATIONS
COMMENTS = SyncKind.SYNC_KIND_COMMENTS
FULL = SyncMode.SYNC_MODE_FULL
CONTEXT: Any = None


class FakeRuns:
    """Answers with the runs it was given, one after the other."""

    def __init__(self, *runs: SyncRun) -> None:
        self.runs = list(runs) or [SyncRun(run_id=RUN, page_id=PAGE)]
        self.asked: list[Any] = []

    async def StartRun(self, request: store_pb.StartRunRequest) -> store_pb.StartRunResponse:
        self.asked.append(request)
        return store_pb.StartRunResponse(run=self.runs[0])

    async def GetRun(self, request: store_pb.GetRunRequest) -> store_pb.GetRunResponse:
        self.asked.append(request)
        run = self.runs.pop(0) if len(self.runs) > 1 else self.runs[0]
        return store_pb.GetRunResponse(run=run)

    async def ListRuns(self, request: store_pb.ListRunsRequest) -> store_pb.ListRunsResponse:
        self.asked.append(request)
        return store_pb.ListRunsResponse(runs=self.runs, next_page_token="next")

    async def CancelRun(self, request: store_pb.CancelRunRequest) -> store_pb.CancelRunResponse:
        self.asked.append(request)
        return store_pb.CancelRunResponse(run=self.runs[0])


def servicer(runs: FakeRuns, board: Board | None = None) -> HistoryServicer:
    return HistoryServicer(runs, board or Board(), watch_seconds=0 if board is None else 60)


async def test_a_run_is_asked_of_the_store_and_nothing_said_of_the_mode_is_auto() -> None:
    runs = FakeRuns()

    answer = await servicer(runs).StartSync(
        pb.StartSyncRequest(page_id=PAGE, kind=CONVERSATIONS), CONTEXT
    )

    assert answer.run.run_id == RUN
    assert runs.asked[0].mode == SyncMode.SYNC_MODE_AUTO


@pytest.mark.parametrize(
    "request_",
    [
        pb.StartSyncRequest(kind=CONVERSATIONS),
        pb.StartSyncRequest(page_id="https://evil.example/next?after=x", kind=CONVERSATIONS),
        pb.StartSyncRequest(page_id=f"{PAGE}?after=QVFI", kind=CONVERSATIONS),
        pb.StartSyncRequest(page_id=f"{PAGE}/../x y", kind=CONVERSATIONS),
        pb.StartSyncRequest(page_id="x" * 513, kind=CONVERSATIONS),
        pb.StartSyncRequest(page_id=PAGE),
        pb.StartSyncRequest(page_id=PAGE, kind=9),  # type: ignore[arg-type]
        pb.StartSyncRequest(page_id=PAGE, kind=CONVERSATIONS, mode=9),  # type: ignore[arg-type]
        pb.StartSyncRequest(page_id=PAGE, kind=COMMENTS, repair=True),
        pb.StartSyncRequest(page_id=PAGE, kind=CONVERSATIONS, mode=FULL, repair=True),
    ],
)
async def test_what_cannot_be_right_is_refused_before_the_store(
    request_: pb.StartSyncRequest,
) -> None:
    runs = FakeRuns()

    with pytest.raises(InvalidArgument):
        await servicer(runs).StartSync(request_, CONTEXT)

    assert runs.asked == []


@pytest.mark.parametrize("run_id", ["", "run-", "run-A", "../x", "r-1-2", "run-a b"])
async def test_the_id_of_a_run_that_is_none_is_refused(run_id: str) -> None:
    for call, request in (
        ("GetSyncRun", pb.GetSyncRunRequest(run_id=run_id)),
        ("CancelSyncRun", pb.CancelSyncRunRequest(run_id=run_id)),
    ):
        with pytest.raises(InvalidArgument):
            await getattr(servicer(FakeRuns()), call)(request, CONTEXT)


async def test_runs_are_listed_with_the_stores_token() -> None:
    runs = FakeRuns()

    listed = await servicer(runs).ListSyncRuns(
        pb.ListSyncRunsRequest(page_id=PAGE, page_size=7, page_token="t"), CONTEXT
    )

    assert (len(listed.runs), listed.next_page_token) == (1, "next")
    assert (runs.asked[0].page_size, runs.asked[0].page_token) == (7, "t")


@pytest.mark.parametrize("size", [-1, 1_001])
async def test_a_page_size_out_of_bounds_is_refused(size: int) -> None:
    with pytest.raises(InvalidArgument):
        await servicer(FakeRuns()).ListSyncRuns(pb.ListSyncRunsRequest(page_size=size), CONTEXT)


async def test_who_follows_a_run_sees_every_change_once_and_the_end() -> None:
    running, ended = SyncState.SYNC_STATE_RUNNING, SyncState.SYNC_STATE_PARTIAL
    runs = FakeRuns(
        SyncRun(run_id=RUN, state=SyncState.SYNC_STATE_QUEUED),
        SyncRun(run_id=RUN, state=running, messages=5),
        SyncRun(run_id=RUN, state=running, messages=5),
        SyncRun(run_id=RUN, state=running, messages=9),
        SyncRun(run_id=RUN, state=ended, messages=9),
    )

    watched = servicer(runs).WatchSyncRun(pb.WatchSyncRunRequest(run_id=RUN), CONTEXT)
    seen = [(each.run.state, each.run.messages) async for each in watched]

    assert seen == [(1, 0), (running, 5), (running, 9), (ended, 9)]


async def test_who_follows_a_run_of_this_process_asks_the_store_for_its_end_alone() -> None:
    going, further = of(SyncState.SYNC_STATE_RUNNING), of(SyncState.SYNC_STATE_RUNNING, messages=5)
    end = of(SyncState.SYNC_STATE_SUCCEEDED, messages=9)
    board, runs = Board(), FakeRuns(going, end)
    watched = servicer(runs, board).WatchSyncRun(pb.WatchSyncRunRequest(run_id=RUN), CONTEXT)

    seen = [(await anext(watched)).run]
    told = asyncio.ensure_future(anext(watched))
    await asyncio.sleep(0)
    board.show(further)
    seen.append((await told).run)
    asked_so_far = len(runs.asked)
    told = asyncio.ensure_future(anext(watched))
    await asyncio.sleep(0)
    board.take_down(RUN)
    seen.append((await told).run)

    assert seen == [going, further, end]
    assert (asked_so_far, len(runs.asked)) == (1, 2)


def of(state: SyncState.ValueType, messages: int = 0) -> SyncRun:
    return SyncRun(run_id=RUN, state=state, messages=messages)


async def test_a_cancelled_run_is_the_stores() -> None:
    runs = FakeRuns()

    answer = await servicer(runs).CancelSyncRun(pb.CancelSyncRunRequest(run_id=RUN), CONTEXT)

    assert answer.run.run_id == RUN
