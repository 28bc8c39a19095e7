"""The progress of runs of history: followed to their end, and shown on a terminal meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from pagewire.sync.v1.history_service_pb2 import WatchSyncRunRequest
from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncMode, SyncRun, SyncState
from pagewire_cli.shapes import word
from pagewire_runtime.clock import WALL, Clock
from pagewire_runtime.errors import Kind, Refusal

if TYPE_CHECKING:
    from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceAsyncStub

ENDED = (
    SyncState.SYNC_STATE_SUCCEEDED,
    SyncState.SYNC_STATE_PARTIAL,
    SyncState.SYNC_STATE_FAILED,
    SyncState.SYNC_STATE_CANCELLED,
)
PAUSE = 1.0  # seconds to wait for a sync that does not answer
WATCHED_AT_ONCE = 50  # a connection carries a hundred streams; the rest are looked at in their turn
ROWS = 20  # as many runs as a screen has room for; beyond it those that have ended give way

Tell = Callable[[SyncRun], None]


async def ended(
    service: "HistoryServiceAsyncStub", runs: Sequence[SyncRun], tell: Tell
) -> list[SyncRun]:
    """The runs as they ended; `tell` hears of each as it stands and whenever it has changed."""
    room = asyncio.Semaphore(WATCHED_AT_ONCE)

    async def end_of(run: SyncRun) -> SyncRun:
        tell(run)
        last = run
        if run.state not in ENDED:
            async with room:
                async for now in following(service, run.run_id):
                    tell(last := now)
        return last

    return list(await asyncio.gather(*map(end_of, runs)))


async def following(service: "HistoryServiceAsyncStub", run_id: str) -> AsyncIterator[SyncRun]:
    """The run as it stands, then whenever it has changed, up to its end.

    A sync that is gone for a while is waited for: the run goes on when it is back.
    """
    told: SyncRun | None = None
    while True:
        watch = service.WatchSyncRun(WatchSyncRunRequest(run_id=run_id))
        try:
            async for answer in watch:
                if answer.run != told:
                    told = answer.run
                    yield told
                if told.state in ENDED:
                    return
        except Refusal as refusal:
            if refusal.kind is not Kind.TRANSIENT or told is None:
                raise
        finally:
            watch.cancel()
        await asyncio.sleep(PAUSE)


def board(count: int, console: Console | None = None) -> AbstractContextManager[Tell]:
    """Shows so many runs while the block lasts, a row for each, where a person looks on.

    On stderr unless told otherwise, so that stdout has the result alone.
    """
    shown_on = console or Console(stderr=True)
    if not shown_on.is_terminal:
        return nullcontext(lambda run: None)
    return Board(shown_on, crowded=count > ROWS)


class Times(ProgressColumn):
    """How long each run has taken, and how much longer it will where that shows."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Column(no_wrap=True))
        self._clock = clock

    def render(self, task: Task) -> Text:
        return Text(times(task.fields["run"], self._clock.now(), task.time_remaining))


class Board(AbstractContextManager[Tell]):
    """Rows of runs, each with its bar, its figures and its times. The bar of one of which nobody
    can tell how much there is goes to and fro. On a narrow terminal a row takes several lines, but
    where there are many.
    """

    def __init__(
        self,
        console: Console,
        *,
        crowded: bool,
        clock: Callable[[], float] = time.monotonic,
        wall: Clock = WALL,
    ) -> None:
        def words(form: str) -> TextColumn:
            return TextColumn(form, markup=False, table_column=Column(no_wrap=crowded))

        self._progress = Progress(
            words("{task.description}"),
            BarColumn(bar_width=20, table_column=Column(no_wrap=True)),
            words("{task.fields[figures]}"),
            Times(wall),
            console=console,
        )
        self._crowded = crowded
        self._clock = clock
        self._rows: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}

    def __enter__(self) -> Tell:
        self._progress.start()
        return self.tell

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, run: SyncRun) -> None:
        """The run stands so now."""
        done, total = steps(run)
        if run.run_id not in self._rows:
            name = f"{run.page_id} {named(run)}"
            self._paces[run.run_id] = Pace(self._clock(), items(run))
            self._rows[run.run_id] = self._progress.add_task(
                name, completed=done, total=total, figures="", run=run
            )
        pace = self._paces[run.run_id].of(self._clock(), items(run))
        self._progress.update(
            self._rows[run.run_id],
            completed=done,
            total=total,
            figures=figures(run, pace),
            run=run,
            visible=not (run.state in ENDED and self._crowded),
        )


@dataclass(frozen=True)
class Pace:
    """How fast it goes, since we look: when that began, in seconds, and what was done by then."""

    began: float
    before: int

    def of(self, now: float, done: int) -> float | None:
        """Items a second; None where there is nothing to tell yet."""
        if done == self.before or now <= self.began:
            return None
        return (done - self.before) / (now - self.began)


def items(run: SyncRun) -> int:
    """What a run carries."""
    return run.messages + run.comments


def steps(run: SyncRun) -> tuple[int, int | None]:
    """How far a run is, and of how much; None where nobody can tell."""
    done = run.conversations
    if run.state in ENDED:
        return max(done, 1), max(done, 1)
    if run.kind != SyncKind.SYNC_KIND_CONVERSATIONS or not run.expected:
        return done, None
    return done, max(done, run.expected)


def figures(run: SyncRun, per_second: float | None) -> str:
    """A run's figures on one line; `per_second` of its messages and comments."""
    if run.state == SyncState.SYNC_STATE_QUEUED:
        return "waits for its turn"
    told = []
    if run.kind == SyncKind.SYNC_KIND_CONVERSATIONS:
        told.append(f"{run.conversations:,} threads")
        told.append(f"{run.messages:,} messages")
    else:
        told.append(f"{run.comments:,} comments")
    if run.state in ENDED:
        why = f": {run.error}" if run.error else ""
        return ", ".join([*told, f"{run.graph_calls:,} calls, {state_of(run)}{why}"])
    if per_second is not None:
        told.append(f"{per_second:,.0f}/s")
    left = f"{run.budget_left_percent} % of the budget left"
    return ", ".join([*told, f"{run.graph_calls:,} calls, {left}"])


def times(run: SyncRun, now: datetime, left: float | None) -> str:
    """How long a run has taken, from its own beginning, and the seconds that are left."""
    if not run.HasField("start_time"):
        return ""
    over = run.end_time.ToDatetime(UTC) if run.HasField("end_time") else now
    took = max(timedelta(), over - run.start_time.ToDatetime(UTC))
    told = _timed(took.total_seconds())
    return f"{told}, {_timed(left)} left" if left else told


def _timed(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def state_of(run: SyncRun) -> str:
    """The run's state as a word."""
    return word(SyncState.DESCRIPTOR, run.state) or "–"


def named(run: SyncRun) -> str:
    """What a run mirrors: `full conversations`."""
    kind = word(SyncKind.DESCRIPTOR, run.kind)
    return f"{word(SyncMode.DESCRIPTOR, run.mode)} {kind}"
