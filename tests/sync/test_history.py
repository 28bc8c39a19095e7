import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from pagewire.store.v1 import run_service_pb2 as pb
from pagewire.type.v1.sync_run_pb2 import SyncState
from pagewire_runtime.errors import InvalidArgument, Unavailable
from pagewire_sync.history import History
from pagewire_sync.progress import Progress
from tests.support.inbox import claimed

CANCELLED, SUCCEEDED = SyncState.SYNC_STATE_CANCELLED, SyncState.SYNC_STATE_SUCCEEDED


class FakeRuns:
    """Hands out what waits; answers records by `verdicts`, by run, else that it goes on."""

    def __init__(self, *runs: pb.ClaimedRun) -> None:
        self.waiting = list(runs)
        self.recorded: list[pb.RecordRunsRequest] = []
        self.verdicts: dict[str, pb.RunVerdict.ValueType] = {}
        self.away = 0
        self.refused = ""
        """A run of which nothing can be written down."""

    async def ClaimRuns(self, request: pb.ClaimRunsRequest) -> pb.ClaimRunsResponse:
        while not self.waiting:
            await asyncio.sleep(0.005)
        handed, self.waiting = self.waiting[: request.max_runs], self.waiting[request.max_runs :]
        return pb.ClaimRunsResponse(runs=handed)

    async def RecordRuns(self, request: pb.RecordRunsRequest) -> pb.RecordRunsResponse:
        if self.away:
            self.away -= 1
            raise Unavailable("the store")
        if self.refused in [each.run.run_id for each in request.runs]:
            raise InvalidArgument("runs", "are refused")
        self.recorded.append(request)
        go_on = pb.RUN_VERDICT_GO_ON
        return pb.RecordRunsResponse(
            verdicts=[self.verdicts.get(each.run.run_id, go_on) for each in request.runs]
        )

    def last(self, run_id: str) -> pb.RunProgress | None:
        told = [each for request in self.recorded for each in request.runs]
        return next((each for each in told[::-1] if each.run.run_id == run_id), None)

    def state(self, run_id: str) -> SyncState.ValueType | None:
        last = self.last(run_id)
        return last.run.state if last else None


def numbered(number: int) -> pb.ClaimedRun:
    made = claimed(run_id=f"run-{number:016}")
    made.run.page_id = f"10420000000{number:04}"
    return made


def history(store: FakeRuns, mirror: Callable[[Progress], Awaitable[None]]) -> History:
    return History(store, mirror, lambda page_id: 87, "test", record_seconds=0.01)


@asynccontextmanager
async def running(worker: History) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


async def ends(progress: Progress) -> None:
    progress.end(SUCCEEDED)


async def test_all_that_is_claimed_runs_at_once_and_its_end_is_written_down() -> None:
    store = FakeRuns(*map(numbered, range(50)))
    begun: list[str] = []

    async def mirror(progress: Progress) -> None:
        begun.append(progress.page_id)
        await until(lambda: len(begun) == 50)
        progress.end(SUCCEEDED)

    async with running(history(store, mirror)):
        await until(lambda: all(store.state(f"run-{n:016}") == SUCCEEDED for n in range(50)))

    last = store.last(f"run-{0:016}")
    assert last is not None
    assert last.run.budget_left_percent == 87
    assert last.checkpoint == b""


async def test_progress_is_written_down_as_it_goes_with_the_checkpoint() -> None:
    store = FakeRuns(numbered(1))

    async def mirror(progress: Progress) -> None:
        progress.add(conversations=3, messages=7, stored=5)
        progress.reached(b"so far")
        await asyncio.Event().wait()

    async with running(history(store, mirror)):
        await until(
            lambda: (last := store.last(f"run-{1:016}")) is not None and bool(last.checkpoint)
        )
        last = store.last(f"run-{1:016}")

    assert last is not None
    assert (last.run.conversations, last.run.messages, last.run.stored) == (3, 7, 5)
    assert (last.checkpoint, last.epoch) == (b"so far", 1)


async def test_a_run_that_somebody_wants_cancelled_is_stopped_and_ends_so() -> None:
    store = FakeRuns(numbered(1), numbered(2))
    store.verdicts[f"run-{1:016}"] = pb.RUN_VERDICT_CANCEL
    stopped = asyncio.Event()

    async def mirror(progress: Progress) -> None:
        progress.add(conversations=1)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with running(history(store, mirror)):
        await until(lambda: store.state(f"run-{1:016}") == CANCELLED)
        await stopped.wait()

    assert store.state(f"run-{2:016}") not in (CANCELLED, SUCCEEDED)


async def test_a_run_that_went_to_another_is_dropped_without_a_word() -> None:
    store = FakeRuns(numbered(1))
    store.verdicts[f"run-{1:016}"] = pb.RUN_VERDICT_LOST
    stopped = asyncio.Event()

    async def mirror(progress: Progress) -> None:
        progress.add(conversations=1)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with running(history(store, mirror)):
        await stopped.wait()
        told = len(store.recorded)
        await asyncio.sleep(0.05)

    assert len(store.recorded) == told == 1


async def test_a_run_of_which_nothing_is_new_keeps_its_lease() -> None:
    store = FakeRuns(numbered(1))

    async def mirror(progress: Progress) -> None:
        await asyncio.Event().wait()

    worker = history(store, mirror)
    worker.renew_seconds = 0.02
    async with running(worker):
        await until(lambda: len(store.recorded) == 3)

    assert not any(each.release for request in store.recorded[:3] for each in request.runs)


async def test_what_is_under_way_when_told_to_stop_is_given_back_with_all_it_reached() -> None:
    store = FakeRuns(numbered(1))

    async def mirror(progress: Progress) -> None:
        progress.reached(b"here")
        await asyncio.Event().wait()

    async with running(history(store, mirror)):
        await until(lambda: bool(store.recorded))

    last = store.last(f"run-{1:016}")
    assert last is not None
    assert (last.release, last.checkpoint) == (True, b"here")


async def test_while_the_store_is_away_runs_go_on_and_are_written_down_later() -> None:
    store = FakeRuns(numbered(1))
    store.away = 3

    async with running(history(store, ends)):
        await until(lambda: store.state(f"run-{1:016}") == SUCCEEDED)

    assert store.away == 0


@pytest.mark.parametrize("count", [2_500])
async def test_marks_beyond_what_the_store_takes_at_once_follow(count: int) -> None:
    store = FakeRuns(numbered(1))

    async def mirror(progress: Progress) -> None:
        for number in range(count):
            progress.pass_by(f"t_{number}", "graph_1", 0.0)
        await until(lambda: not progress.has_marks)
        progress.end(SyncState.SYNC_STATE_PARTIAL)

    async with running(history(store, mirror)):
        await until(lambda: store.state(f"run-{1:016}") == SyncState.SYNC_STATE_PARTIAL)

    told = [len(each.unreadable) for request in store.recorded for each in request.runs]
    assert sum(told) == count
    assert max(told) <= 1_000


@pytest.mark.parametrize("count", [1_000, 1_001, 2_500])
async def test_a_run_that_has_ended_ends_once_all_its_marks_are_written_down(count: int) -> None:
    store = FakeRuns(numbered(1))

    async def mirror(progress: Progress) -> None:
        progress.reached(b"here")
        for number in range(count):
            progress.pass_by(f"t_{number}", "graph_1", 0.0)
        progress.end(SyncState.SYNC_STATE_PARTIAL, "threads_unreadable")

    worker = history(store, mirror)
    worker.record_seconds = 60.0
    async with running(worker):
        await until(lambda: store.state(f"run-{1:016}") == SyncState.SYNC_STATE_PARTIAL)

    told = [each for request in store.recorded for each in request.runs]
    marks = [mark.thread_id for each in told for mark in each.unreadable]
    assert sorted(marks) == sorted(f"t_{number}" for number in range(count))
    assert max(len(each.unreadable) for each in told) <= 1_000
    assert all(each.checkpoint and not each.run.error for each in told[:-1])
    assert not any(each.HasField("synced_time") for each in told[:-1])
    assert told[-1].HasField("synced_time")


async def test_a_run_whose_marks_are_not_all_told_when_its_worker_stops_goes_to_another() -> None:
    store = FakeRuns(numbered(1))
    store.away = 10**9

    async def mirror(progress: Progress) -> None:
        progress.reached(b"here")
        for number in range(1_500):
            progress.pass_by(f"t_{number}", "graph_1", 0.0)
        progress.end(SyncState.SYNC_STATE_PARTIAL)

    async with running(history(store, mirror)):
        await until(lambda: store.away < 10**9)
        store.away = 0

    last = store.last(f"run-{1:016}")
    assert last is not None
    assert (last.release, last.checkpoint, len(last.unreadable)) == (True, b"here", 1_000)
    assert last.run.state == SyncState.SYNC_STATE_RUNNING


async def test_what_the_store_refuses_of_one_run_is_not_lost_of_the_others() -> None:
    store = FakeRuns(*map(numbered, range(10)))
    store.refused = f"run-{4:016}"

    async with running(history(store, ends)):
        others = [n for n in range(10) if n != 4]
        await until(lambda: all(store.state(f"run-{n:016}") == SUCCEEDED for n in others))

    assert store.state(f"run-{4:016}") is None
