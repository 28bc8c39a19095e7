"""ClockService: the database's time, for every process that judges by its own clock."""

from __future__ import annotations

from pagewire.store.v1.clock_service_pb2 import GetTimeRequest, GetTimeResponse
from pagewire.store.v1.clock_service_pb2_grpc import ClockServiceServicer
from pagewire_runtime.interception import Context
from pagewire_store.clocks import database_time
from pagewire_store.connections import Connections


class ClockServicer(ClockServiceServicer):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def GetTime(self, request: GetTimeRequest, context: Context) -> GetTimeResponse:
        response = GetTimeResponse()
        response.time.FromDatetime(await database_time(self._connections))
        return response
