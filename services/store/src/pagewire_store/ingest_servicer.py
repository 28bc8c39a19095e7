"""IngestService on the wire: deliveries in, one result each out; and how edges do."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from pagewire.store.v1.ingest_service_pb2 import (
    IngestRequest,
    IngestResponse,
    ReportReceptionRequest,
    ReportReceptionResponse,
)
from pagewire.store.v1.ingest_service_pb2_grpc import IngestServiceServicer
from pagewire_runtime.interception import Context
from pagewire_store import gaps
from pagewire_store.database import in_transaction
from pagewire_store.ingest import Ingestor


class IngestServicer(IngestServiceServicer):
    def __init__(
        self,
        ingestor: Ingestor,
        engine: AsyncEngine,
        *,
        grace: timedelta,
        outage: timedelta = gaps.OUTAGE,
    ) -> None:
        """`engine` is for reports, `grace` how long a webhook may still come by itself, `outage`
        how long no edge may have been heard of.
        """
        self._ingestor = ingestor
        self._engine = engine
        self._report = partial(gaps.report, grace=grace, outage=outage)

    async def Ingest(self, request: IngestRequest, context: Context) -> IngestResponse:
        return IngestResponse(results=await self._ingestor.ingest(request.deliveries))

    async def ReportReception(
        self, request: ReportReceptionRequest, context: Context
    ) -> ReportReceptionResponse:
        await in_transaction(self._engine, lambda connection: self._report(connection, request))
        return ReportReceptionResponse()
