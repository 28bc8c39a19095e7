"""OperationService: what operators see and mend, each change in the audit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire.store.v1.operation_service_pb2 import (
    ClaimReplaysRequest,
    ClaimReplaysResponse,
    GetQuarantinedRequest,
    GetQuarantinedResponse,
    GetStatusRequest,
    GetStatusResponse,
    ListDecisionsRequest,
    ListDecisionsResponse,
    ListParkedRequest,
    ListParkedResponse,
    ListQuarantinedRequest,
    ListQuarantinedResponse,
    Quarantined,
    Replay,
    ReplayQuarantinedRequest,
    ReplayQuarantinedResponse,
    RetryParkedRequest,
    RetryParkedResponse,
    Settlement,
    SettleParkedRequest,
    SettleParkedResponse,
)
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceServicer
from pagewire.type.v1.decision_pb2 import Decision
from pagewire_runtime.clocks import Clocks
from pagewire_runtime.interception import Context
from pagewire_store import audit, operations, pages, polling
from pagewire_store.cache_probe import CacheProbe
from pagewire_store.database import in_transaction
from pagewire_store.page_tokens import PageTokens, page_size
from pagewire_store.status import status
from pagewire_store.waking import Waking


class OperationServicer(OperationServiceServicer):
    """Decisions, quarantine, what is parked, and how things stand."""

    def __init__(
        self,
        engine: AsyncEngine,
        tokens: PageTokens,
        cache: CacheProbe,
        replays: Waking,
        clocks: Clocks,
        *,
        replay_lease: timedelta,
        retried: Callable[[], None],
    ) -> None:
        """`replays` wakes who waits for a body to read again, `retried` is called after something
        parked was put back."""
        self._engine = engine
        self._tokens = tokens
        self._cache = cache
        self._replays = replays
        self._clocks = clocks
        self._replay_lease = replay_lease
        self._retried = retried

    async def ListDecisions(
        self, request: ListDecisionsRequest, context: Context
    ) -> ListDecisionsResponse:
        size, after = page_size(request), self._tokens.read(request)

        async def read(connection: AsyncConnection) -> list[Decision]:
            if request.page_id:
                await pages.require_known(connection, request.page_id)
            return await operations.decisions(
                connection,
                request.page_id,
                after,
                size + 1,
                after_event_id=request.after_event_id,
            )

        found = await in_transaction(self._engine, read)
        part, more = self._tokens.part(request, found, size, operations.position_of_decision)
        return ListDecisionsResponse(decisions=part, next_page_token=more)

    async def ListQuarantined(
        self, request: ListQuarantinedRequest, context: Context
    ) -> ListQuarantinedResponse:
        size, after = page_size(request), self._tokens.read(request)
        found = await in_transaction(
            self._engine,
            lambda connection: operations.quarantined(
                connection, after, size + 1, include_replayed=request.include_replayed
            ),
        )
        part, more = self._tokens.part(request, found, size, operations.position_of_quarantined)
        return ListQuarantinedResponse(quarantined=part, next_page_token=more)

    async def GetQuarantined(
        self, request: GetQuarantinedRequest, context: Context
    ) -> GetQuarantinedResponse:
        async def read(connection: AsyncConnection) -> tuple[Quarantined, bytes]:
            found = await operations.get_quarantined(connection, request.quarantine_id)
            # It changes nothing, and yet shows what customers wrote.
            await audit.record(connection, "quarantine.show", found[0].quarantine_id)
            return found

        quarantined, body = await in_transaction(self._engine, read)
        return GetQuarantinedResponse(quarantined=quarantined, body=body)

    async def ReplayQuarantined(
        self, request: ReplayQuarantinedRequest, context: Context
    ) -> ReplayQuarantinedResponse:
        async def replay(connection: AsyncConnection) -> int:
            requested = await operations.request_replays(connection, request.quarantine_ids)
            for subject in request.quarantine_ids or ["every one"]:
                await audit.record(connection, "quarantine.replay", subject)
            return requested

        requested = await in_transaction(self._engine, replay)
        self._replays.wake()
        return ReplayQuarantinedResponse(requested=requested)

    async def ClaimReplays(
        self, request: ClaimReplaysRequest, context: Context
    ) -> ClaimReplaysResponse:
        at_most = polling.at_most("max_replays", request.max_replays)

        async def claim() -> list[Replay]:
            return await in_transaction(
                self._engine,
                lambda connection: operations.claim_replays(
                    connection, at_most, self._replay_lease
                ),
            )

        found = await polling.claimed(
            claim,
            self._replays,
            request.wait.ToTimedelta(),
            longest=polling.LONGEST_UNHURRIED_WAIT,
        )
        return ClaimReplaysResponse(replays=found)

    async def ListParked(self, request: ListParkedRequest, context: Context) -> ListParkedResponse:
        size, after = page_size(request), self._tokens.read(request)
        found = await in_transaction(
            self._engine,
            lambda connection: operations.parked(connection, request.page_id, after, size + 1),
        )
        part, more = self._tokens.part(request, found, size, operations.position_of_parked)
        return ListParkedResponse(parked=part, next_page_token=more)

    async def RetryParked(
        self, request: RetryParkedRequest, context: Context
    ) -> RetryParkedResponse:
        async def retry(connection: AsyncConnection) -> None:
            await operations.retry_parked(connection, request.parked_id)
            await audit.record(connection, "parked.retry", request.parked_id)

        await in_transaction(self._engine, retry)
        self._retried()
        return RetryParkedResponse()

    async def SettleParked(
        self, request: SettleParkedRequest, context: Context
    ) -> SettleParkedResponse:
        async def settle(connection: AsyncConnection) -> None:
            await operations.settle_parked(connection, request.parked_id, request.settlement)
            end = Settlement.Name(request.settlement).removeprefix("SETTLEMENT_").lower()
            await audit.record(connection, "parked.settle", request.parked_id, end)

        await in_transaction(self._engine, settle)
        self._retried()
        return SettleParkedResponse()

    async def GetStatus(self, request: GetStatusRequest, context: Context) -> GetStatusResponse:
        response = await status(self._engine)
        if response.database == "ok" and (apart := self._clocks.too_far_apart()):
            response.database = apart
        response.cache = await self._cache.state()
        return response
