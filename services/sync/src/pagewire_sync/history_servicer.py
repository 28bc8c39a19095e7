"""History on the wire: runs are asked for, shown, followed and cancelled; the store keeps them."""

import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

import grpc

from pagewire.store.v1 import run_service_pb2 as store_pb
from pagewire.sync.v1 import history_service_pb2 as pb
from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceServicer
from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncMode, SyncRun, SyncState
from pagewire_runtime.errors import InvalidArgument
from pagewire_sync.board import Board

Context = grpc.aio.ServicerContext[Any, Any]

WATCH_SECONDS = 0.5
"""How often a run is looked at that is followed here and goes on elsewhere."""
PAGE_SIZE_MOST = 1_000

_ID = re.compile(r"[A-Za-z0-9_.:=+/$-]{1,512}")
_RUN_ID = re.compile(r"run-[a-z0-9]{1,64}")
_ENDS = (
    SyncState.SYNC_STATE_SUCCEEDED,
    SyncState.SYNC_STATE_PARTIAL,
    SyncState.SYNC_STATE_FAILED,
    SyncState.SYNC_STATE_CANCELLED,
)


class Runs(Protocol):
    """What is asked of the store; the generated stub is one."""

    def StartRun(
        self, request: store_pb.StartRunRequest, /
    ) -> Awaitable[store_pb.StartRunResponse]: ...

    def GetRun(self, request: store_pb.GetRunRequest, /) -> Awaitable[store_pb.GetRunResponse]: ...

    def ListRuns(
        self, request: store_pb.ListRunsRequest, /
    ) -> Awaitable[store_pb.ListRunsResponse]: ...

    def CancelRun(
        self, request: store_pb.CancelRunRequest, /
    ) -> Awaitable[store_pb.CancelRunResponse]: ...


class HistoryServicer(HistoryServiceServicer):
    """Hands every call on to the store; what cannot be right is refused before."""

    def __init__(
        self,
        runs: Runs,
        board: Board,
        *,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        self._runs = runs
        self._board = board
        self._watch_seconds = watch_seconds

    async def StartSync(
        self, request: pb.StartSyncRequest, context: Context
    ) -> pb.StartSyncResponse:
        asked = store_pb.StartRunRequest(
            page_id="" if request.all_pages else _page_id(request.page_id),
            all_pages=request.all_pages,
            kind=_of(SyncKind, request.kind, "kind"),
            mode=_of(SyncMode, request.mode or SyncMode.SYNC_MODE_AUTO, "mode"),
            repair=request.repair,
        )
        if request.repair and request.kind != SyncKind.SYNC_KIND_CONVERSATIONS:
            raise InvalidArgument("repair", "is of conversations alone")
        if request.repair and request.mode == SyncMode.SYNC_MODE_FULL:
            raise InvalidArgument("mode", "a repair is incremental")
        if request.all_pages and request.page_id:
            raise InvalidArgument("page_id", "must be empty where all pages are meant")
        started = await self._runs.StartRun(asked)
        run = None if request.all_pages else started.run
        return pb.StartSyncResponse(run=run, runs=started.runs)

    async def GetSyncRun(
        self, request: pb.GetSyncRunRequest, context: Context
    ) -> pb.GetSyncRunResponse:
        return pb.GetSyncRunResponse(run=await self._run(_run_id(request.run_id)))

    async def ListSyncRuns(
        self, request: pb.ListSyncRunsRequest, context: Context
    ) -> pb.ListSyncRunsResponse:
        if not 0 <= request.page_size <= PAGE_SIZE_MOST:
            raise InvalidArgument("page_size", f"must be at most {PAGE_SIZE_MOST}")
        asked = store_pb.ListRunsRequest(
            page_id=_page_id(request.page_id) if request.page_id else "",
            page_size=request.page_size,
            page_token=request.page_token,
        )
        listed = await self._runs.ListRuns(asked)
        return pb.ListSyncRunsResponse(runs=listed.runs, next_page_token=listed.next_page_token)

    async def WatchSyncRun(
        self, request: pb.WatchSyncRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchSyncRunResponse]:
        run_id = _run_id(request.run_id)
        run, shown = self._board.shown(run_id) or await self._run(run_id), None
        while True:
            if run != shown:
                yield pb.WatchSyncRunResponse(run=run)
            if run.state in _ENDS:
                return
            shown = run
            await self._board.change(run_id, self._watch_seconds)
            run = self._board.shown(run_id) or await self._run(run_id)

    async def CancelSyncRun(
        self, request: pb.CancelSyncRunRequest, context: Context
    ) -> pb.CancelSyncRunResponse:
        asked = store_pb.CancelRunRequest(run_id=_run_id(request.run_id))
        return pb.CancelSyncRunResponse(run=(await self._runs.CancelRun(asked)).run)

    async def _run(self, run_id: str) -> SyncRun:
        return (await self._runs.GetRun(store_pb.GetRunRequest(run_id=run_id))).run


def _page_id(value: str) -> str:
    """An id and nothing else: no cursor, no address."""
    if not _ID.fullmatch(value) or "://" in value:
        raise InvalidArgument("page_id", "must be an id of Meta's")
    return value


def _run_id(value: str) -> str:
    if not _RUN_ID.fullmatch(value):
        raise InvalidArgument("run_id", "must be the id of a run")
    return value


def _of(enum: Any, value: int, field: str) -> Any:
    if not value or value not in enum.values():
        raise InvalidArgument(field, "must be one of the contract's values")
    return value
