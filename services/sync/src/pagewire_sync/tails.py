"""Tails: what is older of a thread, or of a post's comments, than came nested in the list.

Several at a time, beside the walk, and those that wait at the same time in small batches; of each
the next page is asked for before the last is stored.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from pagewire_sync.asking import Asking, is_cursor, is_too_much, is_trouble
from pagewire_sync.budget import Product
from pagewire_sync.listing import of_node
from pagewire_sync.progress import Progress
from pagewire_sync.results import Done, Failed, Outcome
from pagewire_sync.shown import Unshown
from pagewire_sync.trail import Trail, TrailLost

AT_ONCE = 16
WAITING_MOST = 500
WAITING_BYTES = 2**19
"""Begun and not finished; the walk waits while there are so many, or while they are so large: they
stand in the checkpoint, which may have twice that, and what one page of the list adds is less.
"""
_FRAME_BYTES = 150
"""What a tail takes in the checkpoint beside its words: names of fields, and figures."""


class Tail(msgspec.Struct):
    """What is still to be read: the page behind the cursor, and older."""

    of: str
    """The thread or the post."""
    node: str
    edge: str
    whose: str
    """The person of the thread; of replies the comment that they answer."""
    updated: float
    since: float
    """Back to then; 0 is to the first."""
    after: str
    start: str
    """The cursor that came with the list, which is good for any page size; later ones are good for
    their own.
    """

    @property
    def size(self) -> int:
        """About how many bytes it takes in a checkpoint: ids and cursors are ASCII."""
        words = (self.of, self.node, self.edge, self.whose, self.after, self.start)
        return _FRAME_BYTES + sum(map(len, words))


Store = Callable[[], Awaitable[None]]


class Source(Protocol):
    """What tails consist of."""

    @property
    def product(self) -> Product:
        """Which limit it counts against."""
        ...

    @property
    def operation(self) -> str:
        """What metrics call it."""
        ...

    def most(self, tail: Tail) -> int:
        """How many a page holds at the most."""
        ...

    def params(self, tail: Tail) -> dict[str, str]:
        """What is asked for."""
        ...

    def shown(self, tail: Tail, read: Done) -> tuple[list[str], str, Store]:
        """The ids of a page's items, the cursor of older ones that are wanted, empty at the end,
        and how the page is stored. Raises Unshown.
        """
        ...


@dataclass
class Tails:
    """The tails of one run; `saved` is called whenever those in `waiting` have moved."""

    asking: Asking
    progress: Progress
    source: Source
    saved: Callable[[], None]
    waiting: list[Tail] = field(default_factory=list)
    _reading: set[asyncio.Task[None]] = field(default_factory=set)
    _unread: set[str] = field(default_factory=set)
    """What a tail could not be read of: another one that could changes nothing."""
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def begin(self, tail: Tail, tasks: asyncio.TaskGroup) -> None:
        """Read it beside everything else."""
        self.waiting.append(tail)
        task = tasks.create_task(self._finish(tail))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def room(self) -> None:
        """Return when there is room for more."""
        while self._is_full():
            await asyncio.wait(self._reading, return_when=asyncio.FIRST_COMPLETED)

    def _is_full(self) -> bool:
        if len(self.waiting) >= WAITING_MOST:
            return True
        return sum(each.size for each in self.waiting) >= WAITING_BYTES

    async def _finish(self, tail: Tail) -> None:
        async with self._gate:
            try:
                reason = await self._read(tail)
            except (Unshown, TrailLost) as why:
                reason = why.reason
        if reason:
            self._unread.add(tail.of)
            self.progress.pass_by(tail.of, reason, tail.updated)
        elif tail.of not in self._unread:
            self.progress.readable(tail.of)
        self.waiting = [each for each in self.waiting if each is not tail]
        self.saved()

    async def _read(self, tail: Tail) -> str:
        """Read to its end; why that failed, else empty. Raises RunFailed, Unshown, TrailLost."""
        trail = Trail([tail.start, *([tail.after] if tail.after != tail.start else [])])
        ahead: asyncio.Task[Outcome] | None = None
        try:
            while True:
                outcome = await (ahead or self._page(tail, trail.here))
                ahead = None
                if isinstance(outcome, Failed):
                    if not self._otherwise(tail, trail, outcome):
                        return outcome.reason
                    continue
                self.progress.sizes.well(tail.edge, self.source.most(tail))
                ids, after, store = self.source.shown(tail, outcome)
                if after:
                    trail.goes_on(after, ids)
                    ahead = asyncio.create_task(self._page(tail, trail.here))
                await store()
                if not after:
                    return ""
                tail.after = trail.here
                self.saved()
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _page(self, tail: Tail, cursor: str) -> Outcome:
        """Asked for together with other tails, of other pages too; where that fails, alone."""
        limit = self.progress.sizes.of(tail.edge, self.source.most(tail))
        params = self.source.params(tail) | {"limit": str(limit)}
        if cursor:
            params["after"] = cursor
        operation, product = self.source.operation, self.source.product
        outcome = await self.asking.once(
            tail.node,
            tail.edge,
            params,
            operation=operation,
            product=product,
            heavy=True,
            batched=True,
            attempts=1,
        )
        if isinstance(outcome, Done) or not is_trouble(outcome):
            return outcome
        return await of_node(
            self.asking, tail.node, tail.edge, params, operation=operation, product=product
        )

    def _otherwise(self, tail: Tail, trail: Trail, failed: Failed) -> bool:
        """Whether to ask otherwise from now on. Raises TrailLost."""
        size = self.progress.sizes.of(tail.edge, self.source.most(tail))
        if is_too_much(failed) and size > 1:
            self.progress.sizes.shrink(tail.edge, size)
            trail.restart()
            return True
        if not trail.here or not is_cursor(failed):
            return False
        if trail.here == trail.cursors[0]:  # what it pointed at is gone: from the newest, then
            trail.cursors[0] = tail.start = ""
        trail.refused()
        return True
