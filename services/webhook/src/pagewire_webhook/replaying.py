"""Replaying: what could not be read once is read again, when an operator asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1.ingest_service_pb2 import Delivery, DeliveryResult
from pagewire.store.v1.operation_service_pb2 import (
    ClaimReplaysRequest,
    ClaimReplaysResponse,
    Replay,
)
from pagewire_runtime.errors import Refusal
from pagewire_runtime.logs import get_logger
from pagewire_webhook.deliveries import delivery_of

log = get_logger(__name__)

CLAIM_WAIT = Duration(seconds=4)
MAX_REPLAYS = 10
PAUSE_SECONDS = 5.0
"""After a call that failed: nobody waits for a replay by the second."""


class Quarantine(Protocol):
    """What replaying asks of the store; the generated stub is one."""

    def ClaimReplays(self, request: ClaimReplaysRequest, /) -> Awaitable[ClaimReplaysResponse]:
        """Bodies to read again, each to one caller; one not stored is handed out again."""
        ...


class Stores(Protocol):
    """What takes a delivery, as `Ingesting` does."""

    async def store(self, delivery: Delivery) -> DeliveryResult:
        """Returns once it is committed; raises Refusal where it is not."""
        ...


@dataclass(frozen=True)
class Replaying:
    """Works until it is cancelled. A body stays the delivery that it was, of the time it came."""

    quarantine: Quarantine
    ingesting: Stores
    pause_seconds: float = PAUSE_SECONDS

    async def run(self) -> None:
        """Claim and read again until cancelled; a failure delays replays and nothing else."""
        request = ClaimReplaysRequest(max_replays=MAX_REPLAYS, wait=CLAIM_WAIT)
        while True:
            try:
                claimed = await self.quarantine.ClaimReplays(request)
                for replay in claimed.replays:
                    await self._replay(replay)
            except Refusal as refusal:
                log.warning("replays are put off", reason=refusal.reason)
                await asyncio.sleep(self.pause_seconds)

    async def _replay(self, replay: Replay) -> None:
        # In a thread: a body of 4 MiB would hold up the decisions for a tenth of a second.
        delivery = await asyncio.to_thread(
            delivery_of,
            replay.body,
            delivery_id=replay.delivery_id,
            received_ms=replay.receive_time.ToMilliseconds(),
            signed_by=replay.signed_by,
            replay_of=replay.quarantine_id,
        )
        await self.ingesting.store(delivery)
        log.info(
            "read again", quarantine_id=replay.quarantine_id, unreadable=len(delivery.unreadable)
        )
