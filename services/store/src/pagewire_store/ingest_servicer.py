"""IngestService on the wire: deliveries in, one result each out."""

from __future__ import annotations

from pagewire.store.v1.ingest_service_pb2 import IngestRequest, IngestResponse
from pagewire.store.v1.ingest_service_pb2_grpc import IngestServiceServicer
from pagewire_runtime.interception import Context
from pagewire_store.ingest import Ingestor


class IngestServicer(IngestServiceServicer):
    def __init__(self, ingestor: Ingestor) -> None:
        self._ingestor = ingestor

    async def Ingest(self, request: IngestRequest, context: Context) -> IngestResponse:
        return IngestResponse(results=await self._ingestor.ingest(request.deliveries))
