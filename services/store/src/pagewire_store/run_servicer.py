"""RunService: runs of history asked for, handed out to sync, and written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from math import inf
from typing import TypeVar

from psycopg.errors import UniqueViolation
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire.store.v1.run_service_pb2 import (
    CancelRunRequest,
    CancelRunResponse,
    ClaimedRun,
    ClaimRunsRequest,
    ClaimRunsResponse,
    GetRunRequest,
    GetRunResponse,
    ListRunsRequest,
    ListRunsResponse,
    RecordRunsRequest,
    RecordRunsResponse,
    StartRunRequest,
    StartRunResponse,
)
from pagewire.store.v1.run_service_pb2_grpc import RunServiceServicer
from pagewire_runtime.errors import InvalidArgument, Unavailable
from pagewire_runtime.interception import Context
from pagewire_store import polling, runs
from pagewire_store.database import in_transaction
from pagewire_store.page_tokens import PageTokens, page_size
from pagewire_store.waking import Waking

T = TypeVar("T")

OWNER_MAX = 200
CLAIM_TRIES = 3


class RunServicer(RunServiceServicer):
    """Runs, for sync alone."""

    def __init__(
        self,
        engine: AsyncEngine,
        tokens: PageTokens,
        waking: Waking,
        *,
        settled_after: timedelta,
        lease: timedelta = runs.LEASE,
    ) -> None:
        """`waking` wakes who waits for a run; `settled_after` is as `runs.record` takes it."""
        self._engine = engine
        self._tokens = tokens
        self._waking = waking
        self._settled_after = settled_after
        self._lease = lease

    async def StartRun(self, request: StartRunRequest, context: Context) -> StartRunResponse:
        if request.all_pages:
            return await self._start_all(request)
        run, is_new = await self._done(
            lambda connection: runs.start(
                connection, request.page_id, request.kind, request.mode, repair=request.repair
            )
        )
        if is_new:
            self._waking.wake()
        return StartRunResponse(run=run)

    async def _start_all(self, request: StartRunRequest) -> StartRunResponse:
        if request.page_id:
            raise InvalidArgument("page_id", "must be empty where all pages are meant")
        started, any_new = await self._done(
            lambda connection: runs.start_all(
                connection, request.kind, request.mode, repair=request.repair
            )
        )
        if any_new:
            self._waking.wake()
        return StartRunResponse(runs=started)

    async def GetRun(self, request: GetRunRequest, context: Context) -> GetRunResponse:
        run = await self._done(lambda connection: runs.get(connection, request.run_id))
        return GetRunResponse(run=run)

    async def ListRuns(self, request: ListRunsRequest, context: Context) -> ListRunsResponse:
        size, after = page_size(request), self._tokens.read(request)
        found = await self._done(
            lambda connection: runs.list_newest(connection, request.page_id, after, size + 1)
        )
        part, more = self._tokens.part(request, found, size, runs.position_of)
        return ListRunsResponse(runs=part, next_page_token=more)

    async def CancelRun(self, request: CancelRunRequest, context: Context) -> CancelRunResponse:
        run, ended = await self._done(lambda connection: runs.cancel(connection, request.run_id))
        if ended:  # the next of its page may begin
            self._waking.wake()
        return CancelRunResponse(run=run)

    async def ClaimRuns(self, request: ClaimRunsRequest, context: Context) -> ClaimRunsResponse:
        at_most = polling.at_most("max_runs", request.max_runs)
        if not 0 < len(request.owner) <= OWNER_MAX or "\0" in request.owner:
            raise InvalidArgument("owner", f"must be 1 to {OWNER_MAX} characters")
        due_in = inf

        async def claim() -> list[ClaimedRun]:
            nonlocal due_in
            found, due_in = await self._claim(request.owner, at_most)
            return found

        found = await polling.claimed(
            claim,
            self._waking,
            request.wait.ToTimedelta(),
            longest=polling.LONGEST_UNHURRIED_WAIT,
            due_in=lambda: due_in,
        )
        return ClaimRunsResponse(runs=found)

    async def RecordRuns(self, request: RecordRunsRequest, context: Context) -> RecordRunsResponse:
        recorded = await self._done(
            lambda connection: runs.record(
                connection, request.runs, lease=self._lease, settled_after=self._settled_after
            )
        )
        if recorded.freed:
            self._waking.wake()
        return RecordRunsResponse(verdicts=recorded.verdicts, ended=recorded.ended)

    async def _claim(self, owner: str, at_most: int) -> tuple[list[ClaimedRun], float]:
        """What there is; where that is nothing, in how many seconds a lease ends."""

        async def claim(connection: AsyncConnection) -> tuple[list[ClaimedRun], float]:
            found = await runs.claim(connection, owner, at_most, self._lease)
            return found, inf if found else await runs.next_lapse(connection)

        for _ in range(CLAIM_TRIES):
            try:
                return await self._done(claim)
            except IntegrityError as error:
                if not isinstance(error.orig, UniqueViolation):
                    raise
        raise Unavailable("the runs")

    async def _done(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        return await in_transaction(self._engine, work)
