"""A store that says STORED at once: what the edge costs by itself, with the call to the store."""

from __future__ import annotations

import asyncio
import sys

import grpc
import uvloop

from pagewire.store.v1.ingest_service_pb2 import (
    DELIVERY_STATE_STORED,
    DeliveryResult,
    IngestRequest,
    IngestResponse,
    ReportReceptionRequest,
    ReportReceptionResponse,
)
from pagewire.store.v1.ingest_service_pb2_grpc import (
    IngestServiceServicer,
    add_IngestServiceServicer_to_server,
)

_STORED = DeliveryResult(state=DELIVERY_STATE_STORED, new_events=1)


class Instant(IngestServiceServicer):
    async def Ingest(
        self,
        request: IngestRequest,
        context: grpc.aio.ServicerContext[IngestRequest, IngestResponse],
    ) -> IngestResponse:
        return IngestResponse(results=[_STORED] * len(request.deliveries))

    async def ReportReception(
        self,
        request: ReportReceptionRequest,
        context: grpc.aio.ServicerContext[ReportReceptionRequest, ReportReceptionResponse],
    ) -> ReportReceptionResponse:
        return ReportReceptionResponse()


async def serve(port: int) -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 16 * 2**20)])
    add_IngestServiceServicer_to_server(Instant(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
