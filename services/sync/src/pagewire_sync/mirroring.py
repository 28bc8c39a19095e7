"""Mirroring: one run of one page, from where it stands to its end."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncState
from pagewire_runtime import metrics
from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync import known, recovering, upserting
from pagewire_sync.asking import Asking, Reads, RunFailed
from pagewire_sync.comments import Comments
from pagewire_sync.graph import Credentials
from pagewire_sync.known import Known
from pagewire_sync.page_labels import mirror_labels
from pagewire_sync.patience import persistently
from pagewire_sync.progress import Progress
from pagewire_sync.recovering import Recovering
from pagewire_sync.threads import Recover, Threads, read_checkpoint
from pagewire_sync.upserting import Upserting

log = get_logger(__name__)

_lag = metrics.histogram(
    "pagewire_history_lag_seconds",
    "How old a page's mirror was when a run of it began to renew it.",
    ["kind"],
    buckets=(60, 300, 900, 1_800, 3_600, 14_400, 86_400, 604_800),
)


class Store(upserting.Store, known.Store, Protocol):
    """Where history is stored; the generated stub is one."""


class Tokens(Protocol):
    """Pages' tokens; `credentials.CredentialCache` is one."""

    async def of(self, page_id: str, version: int) -> Credentials:
        """The page's token, of at least this version. Raises Refusal."""
        ...


@dataclass(frozen=True)
class Mirroring:
    """Does runs."""

    reads: Reads
    tokens: Tokens
    history: Store
    events: recovering.Store
    now: Callable[[], datetime] = WALL.now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    grace: timedelta = recovering.GRACE
    """How young a message is that a webhook may bring yet."""

    async def mirror(self, progress: Progress) -> None:
        """Take the run to its end, which stands in its progress then. What cannot go on fails; the
        run's own trouble never leaves here, unless it is cancelled.
        """
        self._tell_lag(progress)
        try:
            await self._mirror(progress)
        except RunFailed as failed:
            progress.end(SyncState.SYNC_STATE_FAILED, failed.reason)
        except Exception:
            log.exception("a run failed", page=ref(progress.page_id))
            progress.end(SyncState.SYNC_STATE_FAILED, "internal")
        else:
            self._complete(progress)

    async def _mirror(self, progress: Progress) -> None:
        try:
            version = progress.claimed.token_version
            credentials = await persistently(lambda: self.tokens.of(progress.page_id, version))
        except Refusal as refusal:
            if refusal.kind is Kind.MISSING:
                raise RunFailed("page_disconnected") from None
            raise
        asking = Asking(self.reads, credentials, progress.tally, self.sleep, self.now)
        store = Upserting(self.history, progress.page_id)
        try:
            if progress.run.kind == SyncKind.SYNC_KIND_COMMENTS:
                await Comments(asking, store, progress).run()
            else:
                await self._conversations(asking, store, progress)
        except ExceptionGroup as group:
            raise _first(group) from None

    async def _conversations(self, asking: Asking, store: Upserting, progress: Progress) -> None:
        async with asyncio.TaskGroup() as tasks:
            if _wants_labels(progress):
                tasks.create_task(self._labels(asking, store, progress))
            recover = self._recover(progress)
            # A repair that has not met every thread leaves its gap to the next one.
            stored = None if recover else Known(self.history, progress.page_id)
            await Threads(asking, store, progress, recover, stored).run()

    async def _labels(self, asking: Asking, store: Upserting, progress: Progress) -> None:
        progress.labels_read(await mirror_labels(asking, store))

    def _recover(self, progress: Progress) -> Recover | None:
        if not progress.claimed.HasField("gap_start_time"):
            return None
        since = progress.claimed.gap_start_time.ToDatetime(UTC).timestamp()
        return Recovering(
            self.events, progress.page_id, since, self.now, self.grace, progress.event_refused
        ).tell

    def _complete(self, progress: Progress) -> None:
        if progress.without_list:
            progress.end(SyncState.SYNC_STATE_PARTIAL, "list_unavailable")
        elif progress.lacks_events:
            progress.end(SyncState.SYNC_STATE_PARTIAL, "events_refused")
        elif progress.run.unreadable:
            progress.end(SyncState.SYNC_STATE_PARTIAL, "threads_unreadable")
        elif progress.tried_labels and progress.lacks_labels:
            progress.end(SyncState.SYNC_STATE_PARTIAL, "labels_unreadable")
        else:
            progress.end(SyncState.SYNC_STATE_SUCCEEDED)

    def _tell_lag(self, progress: Progress) -> None:
        if progress.claimed.HasField("synced_time"):
            synced = progress.claimed.synced_time.ToDatetime(UTC)
            kind = SyncKind.Name(progress.run.kind).removeprefix("SYNC_KIND_").lower()
            _lag.labels(kind).observe(max((self.now() - synced).total_seconds(), 0.0))


def _wants_labels(progress: Progress) -> bool:
    """Full runs read the page's labels, as does the first run of a page, which the schedule calls
    incremental, and whichever comes after one that could not. Who takes a run over tries where
    nobody has.
    """
    if progress.claimed.HasField("gap_start_time"):  # of which there may be one an hour
        return False
    at = read_checkpoint(progress.checkpoint)
    progress.tried_labels = at is not None and at.tried_labels
    is_first = not progress.claimed.HasField("synced_time")
    return not progress.tried_labels and (progress.is_full or is_first or progress.lacks_labels)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Why a group of tasks ended: a reason where there is one, else the first failure."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, RunFailed)), leaves[0])


def _leaves(group: ExceptionGroup[Exception]) -> "list[Exception]":
    found: list[Exception] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, ExceptionGroup) else [each]
    return found
