"""LaneService on the wire: claims and leases are `claiming`'s, decisions `committing`'s."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pagewire.store.v1.lane_service_pb2 import (
    ClaimLanesRequest,
    ClaimLanesResponse,
    CommitDecisionsRequest,
    CommitDecisionsResponse,
    ExtendLeasesRequest,
    ExtendLeasesResponse,
)
from pagewire.store.v1.lane_service_pb2_grpc import LaneServiceServicer
from pagewire_runtime.interception import Context
from pagewire_store.claiming import Claims


class LaneServicer(LaneServiceServicer):
    def __init__(
        self,
        claims: Claims,
        commit: Callable[[CommitDecisionsRequest], Awaitable[CommitDecisionsResponse]],
    ) -> None:
        self._claims = claims
        self._commit = commit

    async def ClaimLanes(self, request: ClaimLanesRequest, context: Context) -> ClaimLanesResponse:
        return await self._claims.claim(request)

    async def ExtendLeases(
        self, request: ExtendLeasesRequest, context: Context
    ) -> ExtendLeasesResponse:
        return await self._claims.extend(request)

    async def CommitDecisions(
        self, request: CommitDecisionsRequest, context: Context
    ) -> CommitDecisionsResponse:
        return await self._commit(request)
