"""Coalescing: one flusher takes whatever queued while the last flush ran; there is no timer."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

from pagewire_runtime.errors import Kind, Refusal, Unavailable

T = TypeVar("T")
R = TypeVar("R")

WORTH_A_FLUSH = 32
"""Items for which a flusher that is free is worth its call. Fewer go with the others."""

_Waiting = tuple[T, int, "asyncio.Future[R]"]


class QueueFull(Refusal):
    """More waits than there is room for; the item was not taken."""

    kind = Kind.EXHAUSTED
    reason = "QUEUE_FULL"


class Coalescer(Generic[T, R]):
    """Turns concurrent `submit`s into few calls of `flush`; a lone item waits for nothing.

    `flush` gets 1 to `max_items` items, in the order submitted and of `max_bytes` together (an item
    larger than that goes alone), and answers each in order with its result or its exception.
    Where it raises as a whole, it is called again item by item, so that a poisoned item fails
    alone; hence it must be safe to repeat. A TRANSIENT refusal is everybody's and is not repeated.
    Of several `flushers` those that are free share a long queue: else callers that are answered
    together would come again together, and all but one flusher would stand idle for ever.
    """

    def __init__(
        self,
        flush: Callable[[list[T]], Awaitable[Sequence[R | Exception]]],
        *,
        max_items: int,
        max_bytes: int | None = None,
        size: Callable[[T], int] = lambda item: 0,
        flushers: int = 1,
        max_queued: int = 10_000,
        max_queued_bytes: int | None = None,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size = size
        self._max_flushers = flushers
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self._queue: deque[_Waiting[T, R]] = deque()
        self._queued_bytes = 0
        self._flushers: set[asyncio.Task[None]] = set()
        self._flushing = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def submit(self, item: T) -> R:
        """The item's own result, or its own exception.

        Raises QueueFull where the queue has no room, Unavailable once closed. When the caller is
        cancelled, an item still queued is dropped; one being flushed may be done nevertheless.
        """
        self._admit(size := self._size(item))
        # Asked for once: it is a system call each time.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._queue.append((item, size, answer))
        self._queued_bytes += size
        if len(self._flushers) < self._max_flushers:
            # In a context of its own: a batch must not run under its first caller's deadline.
            self._flushers.add(loop.create_task(self._run(), context=contextvars.Context()))
        try:
            return await answer
        finally:
            del answer  # see _settle

    async def close(self) -> None:
        """Takes nothing more, and returns once everything queued has its answer."""
        self._closed = True
        while self._flushers:
            done, _ = await asyncio.wait(self._flushers)
            self._flushers -= done  # one cancelled before its first step is still there

    def _admit(self, size: int) -> None:
        if self._closed:
            raise Unavailable("a queue that is being drained")
        bytes_full = (
            self._max_queued_bytes is not None
            and self._queue
            and self._queued_bytes + size > self._max_queued_bytes
        )
        if bytes_full or len(self._queue) >= self._max_queued:
            raise QueueFull("too much is waiting, try again", retry_after=1.0)

    async def _run(self) -> None:
        batch: list[_Waiting[T, R]] = []
        try:
            while batch := self._take():
                self._flushing += 1
                try:
                    await self._settle(batch)
                finally:
                    self._flushing -= 1
        finally:
            for _, _, answer in batch:  # of a flusher that is cancelled; else it is empty
                answer.cancel()
            # In the same step that saw the queue empty, so that the next submit starts a new one.
            self._flushers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _take(self) -> list[_Waiting[T, R]]:
        batch: list[_Waiting[T, R]] = []
        room = self._max_bytes
        most = min(self._max_items, self._share())
        while self._queue and len(batch) < most:
            size = self._queue[0][1]
            if batch and room is not None and size > room:
                break
            waiting = self._queue.popleft()
            self._queued_bytes -= size
            if not waiting[2].done():
                batch.append(waiting)
                room = None if room is None else room - size
        return batch

    def _share(self) -> int:
        """How many of the queue one flusher takes, where others are free as well."""
        free = self._max_flushers - self._flushing
        return max(math.ceil(len(self._queue) / free), WORTH_A_FLUSH)

    async def _settle(self, batch: list[_Waiting[T, R]]) -> None:
        """Gives each its outcome.

        No frame that an error passes may keep its future: the two would keep each other, and all
        that the frames hold, until garbage is collected. In an outage that would be the memory.
        """
        try:
            _give(batch, await self._answers([item for item, _, _ in batch]))
        except Exception as error:
            if len(batch) == 1 or _everybodys(error):
                _give(batch, [error] * len(batch))
            else:
                await self._settle_singly(batch)
        finally:
            del batch

    async def _settle_singly(self, batch: list[_Waiting[T, R]]) -> None:
        left = [*batch]
        del batch
        while left:
            try:
                _give(left[:1], await self._answers([left[0][0]]))
            except Exception as error:
                sharing = len(left) if _everybodys(error) else 1
                _give(left[:sharing], [error] * sharing)
                del left[1:sharing]
            finally:
                del left[0]

    async def _answers(self, items: list[T]) -> Sequence[R | Exception]:
        answers = await self._flush(items)
        if len(answers) != len(items):
            raise RuntimeError(f"flush answered {len(answers)} of {len(items)} items")
        return answers


def _everybodys(error: Exception) -> bool:
    return isinstance(error, Refusal) and error.kind is Kind.TRANSIENT


def _give(batch: Sequence[_Waiting[T, R]], outcomes: Sequence[R | Exception]) -> None:
    for (_, _, answer), outcome in zip(batch, outcomes, strict=True):
        if answer.done():
            continue
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
