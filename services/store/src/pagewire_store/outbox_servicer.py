"""OutboxService: replies in, and out to sync; each call is one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TypeVar

from psycopg.errors import UniqueViolation

from pagewire.store.v1.outbox_service_pb2 import (
    ClaimedReply,
    ClaimReadBacksRequest,
    ClaimReadBacksResponse,
    ClaimRepliesRequest,
    ClaimRepliesResponse,
    EnqueueReplyRequest,
    EnqueueReplyResponse,
    GetLastHidingRequest,
    GetLastHidingResponse,
    GetReplyRequest,
    GetReplyResponse,
    ReadBack,
    RecordOutcomesRequest,
    RecordOutcomesResponse,
    RecordReadBacksRequest,
    RecordReadBacksResponse,
)
from pagewire.store.v1.outbox_service_pb2_grpc import OutboxServiceServicer
from pagewire.type.v1.reply_pb2 import ReplyState
from pagewire_runtime import faults
from pagewire_runtime.errors import InvalidArgument, Unavailable
from pagewire_runtime.interception import Context
from pagewire_store import enqueuing, outbox, polling
from pagewire_store.connections import Connections, Driver
from pagewire_store.database import in_live_transaction
from pagewire_store.transitions import WAITS, Waits
from pagewire_store.waking import Waking

T = TypeVar("T")

OWNER_MAX = 200
CLAIM_TRIES = 3


class OutboxServicer(OutboxServiceServicer):
    """The outbox for sync."""

    def __init__(
        self,
        connections: Connections,
        waking: Waking,
        looks: Waking,
        *,
        lease: timedelta,
        person_pause: timedelta,
        look_lease: timedelta = outbox.LOOK_LEASE,
        waits: Waits = WAITS,
    ) -> None:
        """`waking` wakes who waits for a reply to send, `looks` who waits for one to look for;
        `lease` is how long a send may take."""
        self._connections = connections
        self._waking = waking
        self._looks = looks
        self._lease = lease
        self._person_pause = person_pause
        self._look_lease = look_lease
        self._waits = waits

    async def EnqueueReply(
        self, request: EnqueueReplyRequest, context: Context
    ) -> EnqueueReplyResponse:
        enqueuing.check(request)
        reply = await in_live_transaction(
            self._connections,
            lambda raw: enqueuing.enqueue(raw, request, person_pause=self._person_pause),
        )
        self._waking.wake()
        return EnqueueReplyResponse(reply=reply)

    async def GetReply(self, request: GetReplyRequest, context: Context) -> GetReplyResponse:
        reply = await in_live_transaction(
            self._connections, lambda raw: outbox.get(raw, request.reply_id)
        )
        return GetReplyResponse(reply=reply)

    async def GetLastHiding(
        self, request: GetLastHidingRequest, context: Context
    ) -> GetLastHidingResponse:
        last = await in_live_transaction(
            self._connections, lambda raw: enqueuing.last_hiding(raw, request.comment_id)
        )
        if last is None:
            return GetLastHidingResponse()
        reply, hidden = last
        return GetLastHidingResponse(reply=reply, hidden=hidden)

    async def ClaimReplies(
        self, request: ClaimRepliesRequest, context: Context
    ) -> ClaimRepliesResponse:
        at_most = polling.at_most("max_replies", request.max_replies)
        _check_owner(request.owner)
        found = await polling.claimed(
            lambda: self._claim(request.owner, at_most), self._waking, request.wait.ToTimedelta()
        )
        response = ClaimRepliesResponse(replies=found)
        response.lease.FromTimedelta(self._lease)
        return response

    async def RecordOutcomes(
        self, request: RecordOutcomesRequest, context: Context
    ) -> RecordOutcomesResponse:
        states = await self._recorded(
            lambda raw: outbox.record_outcomes(
                raw, request.outcomes, person_pause=self._person_pause, waits=self._waits
            ),
            (outcome.tag for outcome in request.outcomes),
        )
        return RecordOutcomesResponse(states=states)

    async def ClaimReadBacks(
        self, request: ClaimReadBacksRequest, context: Context
    ) -> ClaimReadBacksResponse:
        at_most = polling.at_most("max_replies", request.max_replies)
        _check_owner(request.owner)

        async def claim() -> list[ReadBack]:
            return await in_live_transaction(
                self._connections,
                lambda raw: outbox.claim_read_backs(raw, at_most, self._look_lease),
            )

        found = await polling.claimed(
            claim,
            self._looks,
            request.wait.ToTimedelta(),
            longest=polling.LONGEST_UNHURRIED_WAIT,
        )
        return ClaimReadBacksResponse(read_backs=found)

    async def RecordReadBacks(
        self, request: RecordReadBacksRequest, context: Context
    ) -> RecordReadBacksResponse:
        states = await self._recorded(
            lambda raw: outbox.record_read_backs(
                raw, request.results, person_pause=self._person_pause, waits=self._waits
            ),
            (result.tag for result in request.results),
        )
        return RecordReadBacksResponse(states=states)

    async def _recorded(
        self,
        record: Callable[[Driver], Awaitable[tuple[list[ReplyState.ValueType], bool]]],
        tags: Iterable[str],
    ) -> list[ReplyState.ValueType]:
        """The replies' states; whoever waits for the next of a lane is woken."""
        seen = self._waking.count
        states, freed = await in_live_transaction(
            self._connections, record, part="store.settle", keys=tags
        )
        self._waking.wake_freed(seen, freed=freed)
        return states

    async def _claim(self, owner: str, at_most: int) -> list[ClaimedReply]:
        for _ in range(CLAIM_TRIES):
            try:
                found = await in_live_transaction(
                    self._connections,
                    lambda raw: outbox.claim(raw, owner, at_most, self._lease),
                    part="store.outbox",
                )
            except UniqueViolation:  # another claim put a row of the lane in flight meanwhile
                continue
            if found:
                names = (name for each in found for name in (each.reply_id, each.page_id))
                await faults.reach("store.outbox.claimed", names)
            return found
        raise Unavailable("the outbox")


def _check_owner(owner: str) -> None:
    if not 0 < len(owner) <= OWNER_MAX or "\0" in owner:
        raise InvalidArgument("owner", f"must be 1 to {OWNER_MAX} characters")
