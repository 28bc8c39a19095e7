"""History on the wire: the contract stands, the mirroring itself is not in this release."""

from typing import Any, NoReturn

import grpc

from pagewire.sync.v1 import history_service_pb2 as pb
from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceServicer
from pagewire_runtime.errors import Kind, Refusal

Context = grpc.aio.ServicerContext[Any, Any]


class NotYet(Refusal):
    """The contract has it, this release does not."""

    kind = Kind.UNIMPLEMENTED
    reason = "NOT_IMPLEMENTED"


class HistoryServicer(HistoryServiceServicer):
    """Refuses every call with a reason, so that callers can tell it from a fault."""

    async def StartSync(self, request: pb.StartSyncRequest, context: Context) -> NoReturn:
        _refuse()

    async def GetSyncRun(self, request: pb.GetSyncRunRequest, context: Context) -> NoReturn:
        _refuse()

    async def ListSyncRuns(self, request: pb.ListSyncRunsRequest, context: Context) -> NoReturn:
        _refuse()

    def WatchSyncRun(self, request: pb.WatchSyncRunRequest, context: Context) -> NoReturn:
        _refuse()

    async def CancelSyncRun(self, request: pb.CancelSyncRunRequest, context: Context) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise NotYet("mirroring history is not in this release")
