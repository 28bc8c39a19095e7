"""Following a run of history to its end, also across a death of the process that tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pagewire.sync.v1 import history_service_pb2 as sync_pb
from pagewire.type.v1 import sync_run_pb2 as pb
from pagewire_runtime.errors import Kind, Refusal, Unavailable

if TYPE_CHECKING:
    from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceAsyncStub

ENDED = (
    pb.SYNC_STATE_SUCCEEDED,
    pb.SYNC_STATE_PARTIAL,
    pb.SYNC_STATE_FAILED,
    pb.SYNC_STATE_CANCELLED,
)
PATIENCE_SECONDS = 30.0
"""With a sync that is out of reach: one that died is back within seconds, and the run with it."""
PAUSE_SECONDS = 0.5


async def following(sync: HistoryServiceAsyncStub, run_id: str) -> AsyncIterator[pb.SyncRun]:
    """The run as it stands, then each time it has changed; the last is how it ended.

    Raises Refusal: there is no such run; Unavailable: sync can't be reached, at first or for
    PATIENCE_SECONDS.
    """
    told: pb.SyncRun | None = None
    lost_at: float | None = None
    clock = asyncio.get_running_loop().time
    while True:
        watch = sync.WatchSyncRun(sync_pb.WatchSyncRunRequest(run_id=run_id))
        try:
            async for answer in watch:
                lost_at = None
                if answer.run != told:
                    told = answer.run
                    yield told
                if told.state in ENDED:
                    return
        except Refusal as refusal:
            if refusal.kind is not Kind.TRANSIENT:
                raise
        finally:
            watch.cancel()
        lost_at = clock() if lost_at is None else lost_at
        if told is None or clock() - lost_at > PATIENCE_SECONDS:
            raise Unavailable("sync")
        await asyncio.sleep(PAUSE_SECONDS)
