"""MirrorService on the wire: what sync read from Graph, and the people whose names it is to ask."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from sqlalchemy.ext.asyncio import AsyncEngine

from pagewire.store.v1.mirror_service_pb2 import (
    ListNamelessRequest,
    ListNamelessResponse,
    ListThreadsRequest,
    ListThreadsResponse,
    RecordNamesRequest,
    RecordNamesResponse,
    StreamHistoryRequest,
    StreamHistoryResponse,
    UpsertHistoryRequest,
    UpsertHistoryResponse,
)
from pagewire.store.v1.mirror_service_pb2_grpc import MirrorServiceServicer
from pagewire_runtime.interception import Context
from pagewire_store import nameless, stored_threads
from pagewire_store.database import in_transaction
from pagewire_store.mirroring import Mirror


class MirrorServicer(MirrorServiceServicer):
    """History and names, from sync alone."""

    def __init__(self, mirror: Mirror, engine: AsyncEngine) -> None:
        self._mirror = mirror
        self._engine = engine

    async def UpsertHistory(
        self, request: UpsertHistoryRequest, context: Context
    ) -> UpsertHistoryResponse:
        return await self._mirror.upsert(request)

    async def StreamHistory(
        self, requests: AsyncIterable[StreamHistoryRequest], context: Context
    ) -> AsyncIterator[StreamHistoryResponse]:
        async for request in requests:
            yield StreamHistoryResponse(result=await self._mirror.upsert(request.rows))

    async def ListThreads(
        self, request: ListThreadsRequest, context: Context
    ) -> ListThreadsResponse:
        threads = await in_transaction(
            self._engine, lambda connection: stored_threads.list_newest(connection, request)
        )
        return ListThreadsResponse(threads=threads)

    async def ListNameless(
        self, request: ListNamelessRequest, context: Context
    ) -> ListNamelessResponse:
        people = await in_transaction(
            self._engine,
            lambda connection: nameless.hand_out(connection, request.max_people),
        )
        return ListNamelessResponse(people=people)

    async def RecordNames(
        self, request: RecordNamesRequest, context: Context
    ) -> RecordNamesResponse:
        await in_transaction(
            self._engine, lambda connection: nameless.record(connection, request.names)
        )
        return RecordNamesResponse()
