"""Whether this process and the database agree on the time.

More than two seconds apart is a warning; more than thirty, and the process is not ready, nor takes
work that it would judge by its own clock. Leases and waits are by the database's clock alone, so
none is wrong by that; times of receipt, and whether a window is open still, are by the services'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from pagewire_runtime import metrics
from pagewire_runtime.clock import WALL, Clock
from pagewire_runtime.errors import Refusal
from pagewire_runtime.logs import get_logger

log = get_logger(__name__)

WARNING_BEYOND = timedelta(seconds=2)
READY_WITHIN = timedelta(seconds=30)

COMPARED_EVERY = timedelta(seconds=5)
"""A clock that jumps is known within that."""

_skew_seconds = metrics.gauge(
    "pagewire_clock_skew_seconds",
    "How far this machine's clock is ahead of the database's, at least; behind where negative.",
)


class Clocks:
    """The two clocks, compared whenever somebody asks."""

    def __init__(
        self, whose: str, database: Callable[[], Awaitable[datetime]], clock: Clock = WALL
    ) -> None:
        """`whose` clock is a service's name; `database` tells its time, or raises a Refusal."""
        self._whose = whose
        self._database = database
        self._clock = clock
        self._skew = timedelta()
        self._near = asyncio.Event()
        self._tell: Callable[[bool], Awaitable[None]] | None = None

    async def tell(self, ready: Callable[[bool], Awaitable[None]]) -> None:
        """Tells `ready` whether the clocks are near enough, now and whenever that changes."""
        self._tell = ready
        await ready(not self.too_far_apart())

    async def near(self) -> None:
        """Returns once they have been compared, and while they are near enough to be ready."""
        await self._near.wait()

    def too_far_apart(self) -> str:
        """What is wrong, for an operator; empty where the process may be ready."""
        if abs(self._skew) <= READY_WITHIN:
            return ""
        where = "ahead of" if self._skew > timedelta() else "behind"
        seconds = abs(self._skew).total_seconds()
        return f"{self._whose}'s clock is {seconds:.0f} s {where} the database's"

    async def run(self) -> None:
        """Compares again and again until cancelled."""
        while True:
            try:
                await self.compare()
            except Refusal as refusal:
                log.warning("the clocks could not be compared now", reason=refusal.reason)
            await asyncio.sleep(COMPARED_EVERY.total_seconds())

    async def compare(self) -> None:
        """Looks at both clocks. Raises Refusal."""
        before = self._skew
        self._skew = await self._measured()
        _skew_seconds.set(self._skew.total_seconds())
        if self.too_far_apart():
            self._near.clear()
        else:
            self._near.set()
        if _level(before) == _level(self._skew):
            return
        seconds = round(self._skew.total_seconds(), 1)
        if abs(self._skew) > READY_WITHIN:
            log.error("the clock is wrong, this process is not ready", seconds_ahead=seconds)
        elif abs(self._skew) > WARNING_BEYOND:
            log.warning("the clock and the database's are apart", seconds_ahead=seconds)
        else:
            log.info("the clock and the database's agree again", seconds_ahead=seconds)
        if self._tell is not None:
            await self._tell(not self.too_far_apart())

    async def _measured(self) -> timedelta:
        """How far ours is ahead at the least: the answer may have been on its way for any time."""
        before = self._clock.now()
        database = await self._database()
        after = self._clock.now()
        if database > after:
            return after - database
        return max(before - database, timedelta())


async def at_once() -> None:
    """`Clocks.near` of whoever compares none."""


def _level(skew: timedelta) -> int:
    return (abs(skew) > WARNING_BEYOND) + (abs(skew) > READY_WITHIN)
