"""Handing deliveries to the store: many in one call, busy ones again, each answered or refused."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Sequence
from typing import Protocol

import grpc

from pagewire.store.v1.ingest_service_pb2 import (
    Delivery,
    DeliveryResult,
    DeliveryState,
    IngestResponse,
)
from pagewire_runtime.coalescing import Coalescer
from pagewire_runtime.errors import Kind, Refusal, Unavailable
from pagewire_runtime.logs import get_logger
from pagewire_webhook.admission import Admission
from pagewire_webhook.deliveries import without_events
from pagewire_webhook.holding import HeldLanes, Turn
from pagewire_webhook.wire import framed

log = get_logger(__name__)

ANSWER_SECONDS = 2.0
"""From receipt to the answer; Meta gives five."""
RETRY_AFTER_SECONDS = 5.0

# Calls end before the edge has to answer, so that a first try needs no timer of its own.
_MARGIN_SECONDS = 0.1
# The store waits 100 ms for lanes; a call that can't outlast that is not worth its batch.
_LEAST_CALL_SECONDS = 0.3
_CALL_MAX_BYTES = 8 * 2**20
_CALL_MAX_DELIVERIES = 500
_WAITING_MAX_BYTES = 48 * 2**20
_FAILED_MAX_BYTES = 8 * 2**20
_FIRST_BACKOFF_SECONDS = 0.02
_LAST_BACKOFF_SECONDS = 0.2


class Ingest(Protocol):
    """The call `IngestService.Ingest`: raises Refusal, within its timeout; safe to repeat.

    `request` is an IngestRequest in the encoding of the wire.
    """

    def __call__(self, request: bytes, /, *, timeout: float) -> Awaitable[IngestResponse]:
        """One result a delivery, in order."""
        ...


def ingest_over(channel: grpc.aio.Channel) -> Ingest:
    """The store's call on a channel; the generated stub would encode what is encoded already."""
    return channel.unary_unary(
        "/pagewire.store.v1.IngestService/Ingest",
        response_deserializer=IngestResponse.FromString,
    )


class NotStored(Refusal):
    """The delivery could not be stored in time, and may be sent again."""

    kind = Kind.TRANSIENT
    reason = "NOT_STORED"

    def __init__(self, why: str, retry_after: float = RETRY_AFTER_SECONDS) -> None:
        super().__init__(f"not stored: {why}", retry_after=retry_after)


class Ingesting:
    """The edge's client of the store.

    All deliveries that came while a call was in flight go in the next one, at most 8 MiB and 500
    of them; without a timer, so a lone one goes at once. One whose lane is held by another
    transaction (BUSY) is tried again by a second, slower line of calls, after 20 ms, then twice as
    long up to 200 ms; meanwhile later deliveries of its lanes stand behind it, and no others. One
    that the database refuses is sent once more without its events, as unreadable
    (`store_refused`), so that its raw bytes are kept.

    Past what the store bears, which `admission` finds out, `is_full` holds and nobody waits in
    vain. What waits for a lane that is held does not count there: a stuck lane costs the others
    nothing.
    """

    def __init__(
        self,
        ingest: Ingest,
        *,
        admission: Admission | None = None,
        waiting_max_bytes: int = _WAITING_MAX_BYTES,
    ) -> None:
        self._ingest = ingest
        self._admission = admission or Admission()
        self._waiting_max_bytes = waiting_max_bytes
        self._waiting_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # to ask for it is a system call
        self._failed_bytes = 0
        self._held = HeldLanes()
        self._first_line = _line(self._try_first)
        self._slow_line = _line(self._try_again)

    @property
    def is_full(self) -> bool:
        """Whether one more would only make all wait; to be asked before a delivery is read."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        return (
            self._admission.is_full(loop.time()) or self._waiting_bytes >= self._waiting_max_bytes
        )

    async def store(self, delivery: Delivery, *, deadline: float | None = None) -> DeliveryResult:
        """The result once the delivery is committed: its state is STORED.

        `deadline` is by the loop's clock; two seconds from now without one. Raises NotStored: too
        much is waiting (at once), the store can't be reached, or the time is over. What became of
        it may be unknown then; the same delivery may be given again.
        """
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
        waiting = _Waiting(delivery, deadline)
        if self._waiting_bytes + waiting.size > self._waiting_max_bytes:
            raise NotStored("too much is waiting")
        self._waiting_bytes += waiting.size
        try:
            result = None if self._is_held(waiting) else await self._first_try(waiting)
            if result is not None and result.state == _STORED:
                return result
            return await self._stored_otherwise(waiting, result)
        except TimeoutError:
            raise NotStored("no answer in time") from None
        except NotStored:
            raise
        except Refusal as refusal:
            if refusal.kind in (Kind.TRANSIENT, Kind.EXHAUSTED):
                raise NotStored(refusal.reason) from refusal
            return await self._salvaged(waiting, refusal.reason)
        finally:
            self._waiting_bytes -= waiting.size
            waiting.is_over = True
            if waiting.turn is not None:
                self._held.leave(waiting.turn)

    async def _first_try(self, waiting: _Waiting) -> DeliveryResult:
        loop = self._loop = self._loop or asyncio.get_running_loop()
        admission, done = self._admission, False
        stay = admission.enter(loop.time())
        try:
            result = await self._first_line.submit(waiting)
            done = True
            return result
        finally:
            admission.leave(stay, loop.time(), done=done)

    async def close(self) -> None:
        """Takes nothing more, and returns once everything under way has its answer."""
        await self._first_line.close()
        await self._slow_line.close()

    async def _stored_otherwise(
        self, waiting: _Waiting, result: DeliveryResult | None
    ) -> DeliveryResult:
        """For those that are held (no result yet), busy, or refused."""
        if result is None:
            waiting.turn = self._held.join(waiting.lanes)
        if result is None or result.state == _BUSY:
            async with asyncio.timeout_at(waiting.deadline):
                result = await self._settled_slowly(waiting)
        if result.state == _STORED:
            return result
        return await self._salvaged(waiting, result.reason)

    async def _salvaged(self, waiting: _Waiting, reason: str) -> DeliveryResult:
        log.error("the store refused a delivery", reason=reason)
        kept = without_events(waiting.delivery, "store_refused")
        try:
            result = await self._slow_line.submit(_Waiting(kept, waiting.deadline))
        except Refusal as refusal:
            raise NotStored(refusal.reason) from refusal
        if result.state != _STORED:
            raise NotStored(result.reason or "refused")
        return result

    async def _settled_slowly(self, waiting: _Waiting) -> DeliveryResult:
        """The result when it is no longer busy."""
        if waiting.turn is not None:
            await waiting.turn.reached()
        backoff = _FIRST_BACKOFF_SECONDS
        if waiting.was_busy:
            await asyncio.sleep(backoff)
        while True:
            result = await self._slow_line.submit(waiting)
            if result.state != _BUSY:
                return result
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)

    def _is_held(self, waiting: _Waiting) -> bool:
        return bool(self._held) and self._held.holds(waiting.lanes)

    async def _try_first(self, batch: list[_Waiting]) -> Sequence[DeliveryResult]:
        """Sends those of no held lane; the others are answered busy."""
        sent = [waiting for waiting in batch if not self._stands_back(waiting)]
        results = await self._call(sent) if sent else ()
        # From the last, so that those before it in the batch come to stand before it.
        for waiting, result in zip(reversed(sent), reversed(results), strict=True):
            if result.state == _BUSY and not waiting.is_over:
                waiting.was_busy = True
                waiting.turn = self._held.join_first(waiting.lanes)
        remaining = iter(results)
        return [_HELD if each.stood_back else next(remaining) for each in batch]

    def _stands_back(self, waiting: _Waiting) -> bool:
        if not waiting.stood_back and self._is_held(waiting):
            waiting.stood_back = True
            waiting.turn = self._held.join(waiting.lanes)
        return waiting.stood_back

    async def _try_again(self, batch: list[_Waiting]) -> Sequence[DeliveryResult]:
        return await self._call(batch)

    async def _call(self, batch: list[_Waiting]) -> Sequence[DeliveryResult]:
        """One result a delivery; who has waited longest says how long the call may take.

        Whoever has hardly any time left is not sent, so that the call fails for nobody else.
        """
        now = asyncio.get_running_loop().time() + _MARGIN_SECONDS
        in_time = [each for each in batch if each.deadline - now > _LEAST_CALL_SECONDS]
        if len(in_time) < len(batch):
            results = iter(await self._call(in_time) if in_time else ())
            return [next(results) if each in in_time else _HELD for each in batch]
        left = min(each.deadline for each in batch) - now
        request = b"".join([each.framed for each in batch])
        try:
            response = await self._ingest(request, timeout=left)
        except Refusal as refusal:
            self._collect(len(request))
            if refusal.kind is Kind.EXHAUSTED:  # everybody's, so not to be tried one by one
                raise Unavailable("the store", retry_after=refusal.retry_after) from refusal
            raise
        return response.results

    def _collect(self, failed_bytes: int) -> None:
        """Frees what failed calls keep.

        grpc.aio keeps a call that failed behind an interceptor in a cycle, with its request and
        all that waited for it, and the collector counts objects, not mebibytes.
        """
        self._failed_bytes += failed_bytes
        if self._failed_bytes > _FAILED_MAX_BYTES:
            self._failed_bytes = 0
            gc.collect()


class _Waiting:
    """A delivery under way."""

    __slots__ = (
        *("_lanes", "deadline", "delivery", "framed", "is_over", "size"),
        *("stood_back", "turn", "was_busy"),
    )

    def __init__(self, delivery: Delivery, deadline: float) -> None:
        self.delivery = delivery
        self.deadline = deadline
        self.framed = framed(delivery)
        self.size = len(self.framed)
        self.turn: Turn | None = None
        self.was_busy = False
        self.stood_back = False
        self.is_over = False
        self._lanes: frozenset[str] | None = None

    @property
    def lanes(self) -> frozenset[str]:
        """Its lanes as the store names them: "page_id/lane"."""
        if self._lanes is None:
            events = self.delivery.events
            self._lanes = frozenset(f"{event.page_id}/{event.lane}" for event in events)
        return self._lanes


_STORED = DeliveryState.DELIVERY_STATE_STORED
_BUSY = DeliveryState.DELIVERY_STATE_BUSY
_HELD = DeliveryResult(state=_BUSY)


def _line(flush: _Flush) -> Coalescer[_Waiting, DeliveryResult]:
    return Coalescer(
        flush,
        max_items=_CALL_MAX_DELIVERIES,
        max_bytes=_CALL_MAX_BYTES,
        size=lambda waiting: waiting.size,
    )


class _Flush(Protocol):
    def __call__(self, batch: list[_Waiting], /) -> Awaitable[Sequence[DeliveryResult]]: ...
