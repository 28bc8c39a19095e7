"""History: the worker. It claims runs, does all of them at once, and writes down how far they are.

A run is a row, and belongs to who has its lease; whatever becomes of this process, another goes on
at the checkpoint. All that has changed is written down together, once a second at the most.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1 import run_service_pb2 as pb
from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncRun, SyncState
from pagewire_runtime import faults, metrics
from pagewire_runtime.clocks import at_once
from pagewire_runtime.errors import Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync.board import Board
from pagewire_sync.patience import MAY_PASS, persistently
from pagewire_sync.progress import Progress

log = get_logger(__name__)

CLAIM_WAIT = Duration(seconds=4)
AT_ONCE = 500
MESSAGE_BYTES = 2 * 2**20
"""Of what is written down by one call: a message may have 5 MiB, and a run has 1.5 at the most."""
RECORD_SECONDS = 1.0
RENEW_SECONDS = 2.0
"""A quarter of a lease."""
RELEASE_SECONDS = 2.0
REFUSED_SECONDS = 5.0

_runs = metrics.counter(
    "pagewire_history_runs", "Runs that this process ended, by kind and how.", ["kind", "end"]
)
_under_way = metrics.gauge("pagewire_history_runs_under_way", "Runs of this process.")


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def ClaimRuns(self, request: pb.ClaimRunsRequest, /) -> Awaitable[pb.ClaimRunsResponse]: ...

    def RecordRuns(self, request: pb.RecordRunsRequest, /) -> Awaitable[pb.RecordRunsResponse]: ...


@dataclass(eq=False, slots=True)
class _Run:
    """A run of this process, and what of it the store knows."""

    progress: Progress
    task: asyncio.Task[None]
    recorded: int = -1
    """Which version of its progress."""
    recorded_at: float = 0.0
    lost: bool = False

    def is_due(self, renewed_by: float) -> bool:
        """Whether to write it down now: something is new, or its lease was last renewed by then."""
        changed = self.progress.version != self.recorded or self.progress.has_marks
        return changed or self.progress.has_ended or self.recorded_at <= renewed_by


@dataclass(frozen=True, slots=True)
class _Told:
    """What the store is told of a run, as it was at this version and time."""

    run: _Run
    version: int
    report: pb.RunProgress
    at: float


@dataclass
class History:
    """Does runs until it is cancelled; then it gives back what is not ended."""

    store: Store
    mirror: Callable[[Progress], Awaitable[None]]
    """Takes a run to its end; `Mirroring.mirror`."""
    left_percent: Callable[[str], int]
    owner: str
    board: Board = field(default_factory=Board)
    ready: Callable[[], Awaitable[None]] = at_once
    record_seconds: float = RECORD_SECONDS
    renew_seconds: float = RENEW_SECONDS
    _under_way: dict[str, _Run] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Something is to be written down at once: a run has ended."""
    _room: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Claim and record, side by side."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._record_always())
                tasks.create_task(self._claim_always())
        finally:
            await self._release()

    async def _claim_always(self) -> None:
        while True:
            await self.ready()
            while len(self._under_way) >= AT_ONCE:
                self._room.clear()
                await self._room.wait()
            request = pb.ClaimRunsRequest(
                owner=self.owner, max_runs=AT_ONCE - len(self._under_way), wait=CLAIM_WAIT
            )
            try:
                claimed = await persistently(lambda: self.store.ClaimRuns(request))  # noqa: B023
            except Refusal as refusal:  # an older store may not know runs yet
                log.warning("no runs can be claimed", reason=refusal.reason)
                await asyncio.sleep(REFUSED_SECONDS)
                continue
            for each in claimed.runs:
                self._begin(each)

    def _begin(self, claimed: pb.ClaimedRun) -> None:
        progress = Progress.of(claimed)
        known = self._under_way.get(claimed.run.run_id)
        if known is not None:  # its lease lapsed while the store was away: this is the new one
            known.lost = True
            known.task.cancel()
        task = asyncio.create_task(self._do(progress))
        now = asyncio.get_running_loop().time()
        self._under_way[claimed.run.run_id] = _Run(progress, task, progress.version, now)
        self.board.show(progress.run)
        _under_way.set(len(self._under_way))

    async def _do(self, progress: Progress) -> None:
        try:
            await self.mirror(progress)
        finally:
            self._changed.set()

    # --- what is written down

    async def _record_always(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.record_seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                await self._record()
            except Refusal as refusal:
                log.warning("runs could not be written down now", reason=refusal.reason)
                await asyncio.sleep(self.record_seconds / 2)
                self._changed.set()

    async def _record(self) -> None:
        now = asyncio.get_running_loop().time()
        renewed_by = now - self.renew_seconds
        due = [run for run in self._under_way.values() if run.is_due(renewed_by)]
        if not due:
            return
        await faults.reach("sync.page.before_save", [run.progress.page_id for run in due])
        told = [_Told(run, run.progress.version, self._report(run), now) for run in due]
        for part in _parted(told):
            await self._tell(part)

    async def _tell(self, told: Sequence[_Told]) -> None:
        """Write these down; where they are refused as they are, each by itself, so that what is
        wrong with one keeps no other from it. Raises Refusal.
        """
        request = pb.RecordRunsRequest(runs=[each.report for each in told])
        try:
            response = await self.store.RecordRuns(request)
        except Refusal as refusal:
            if refusal.kind in MAY_PASS:
                raise
            if len(told) == 1:
                page = ref(told[0].run.progress.page_id)
                log.error("a run cannot be written down", page=page, reason=refusal.reason)
                return
            for each in told:
                await self._tell([each])
            return
        ended = {run.run_id: run for run in response.ended}
        for each, verdict in zip(told, response.verdicts, strict=True):
            self._heed(each, verdict, ended.get(each.report.run.run_id))

    def _heed(self, told: _Told, verdict: pb.RunVerdict.ValueType, ended: SyncRun | None) -> None:
        """`ended` is the run as it is stored, where it has ended by this."""
        run, report = told.run, told.report
        if verdict == pb.RUN_VERDICT_LOST:
            self._lose(run)
            return
        run.recorded, run.recorded_at = told.version, told.at
        run.progress.written_down(report)
        if report.run.state not in _GOING:
            self._ended(run)
            if ended:
                self.board.end(ended)
            return
        self.board.show(report.run)
        if verdict == pb.RUN_VERDICT_CANCEL:
            self._cancel(run)
        if run.progress.has_ended:  # there is more of it than one report holds
            self._changed.set()

    def _report(self, run: _Run, *, release: bool = False) -> pb.RunProgress:
        left = self.left_percent(run.progress.page_id)
        return run.progress.report(budget_left=left, release=release)

    def _lose(self, run: _Run) -> None:
        log.warning("a run went to another worker", page=ref(run.progress.page_id))
        run.lost = True
        run.task.cancel()
        self._forget(run)

    def _cancel(self, run: _Run) -> None:
        if not run.progress.has_ended:
            run.task.cancel()
            run.progress.end(SyncState.SYNC_STATE_CANCELLED)
        self._changed.set()

    def _ended(self, run: _Run) -> None:
        kind = SyncKind.Name(run.progress.run.kind).removeprefix("SYNC_KIND_").lower()
        end = SyncState.Name(run.progress.run.state).removeprefix("SYNC_STATE_").lower()
        _runs.labels(kind, end).inc()
        self._forget(run)

    def _forget(self, run: _Run) -> None:
        run_id = run.progress.run.run_id
        if self._under_way.get(run_id) is run:
            del self._under_way[run_id]
            self.board.take_down(run_id)
        _under_way.set(len(self._under_way))
        self._room.set()

    async def _release(self) -> None:
        """Stop every run, and give it back with all that it reached."""
        runs = list(self._under_way.values())
        for run in runs:
            run.task.cancel()
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
        if not runs:
            return
        told = [_Told(run, 0, self._report(run, release=True), 0.0) for run in runs]
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                for part in _parted(told):
                    request = pb.RecordRunsRequest(runs=[each.report for each in part])
                    await self.store.RecordRuns(request)
        except (Refusal, TimeoutError):
            log.warning("runs could not be given back; their leases will lapse", count=len(runs))


_FRAME_BYTES = 8
"""What wraps a report in a request."""
_GOING = (
    SyncState.SYNC_STATE_UNSPECIFIED,
    SyncState.SYNC_STATE_QUEUED,
    SyncState.SYNC_STATE_RUNNING,
)


def _parted(told: Sequence[_Told]) -> Iterator[Sequence[_Told]]:
    """In calls of bounded size."""
    part: list[_Told] = []
    size = 0
    for each in told:
        own = each.report.ByteSize() + _FRAME_BYTES
        if part and size + own > MESSAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(each)
        size += own
    if part:
        yield part
