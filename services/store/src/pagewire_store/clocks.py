"""Whether this machine and the database agree on the time.

More than two seconds apart is a warning; more than thirty, and the store is not ready.

Leases and waits are by the database's clock alone, so none is wrong by that; times of receipt, and
whether a window is open still, are by the services'.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire_runtime import metrics
from pagewire_runtime.clock import WALL, Clock
from pagewire_runtime.logs import get_logger
from pagewire_store.database import in_transaction

log = get_logger(__name__)

WARNING_BEYOND = timedelta(seconds=2)
READY_WITHIN = timedelta(seconds=30)

_skew_seconds = metrics.gauge(
    "pagewire_clock_skew_seconds",
    "How far this machine's clock is ahead of the database's, at least; behind where negative.",
)

_NOW = text("select clock_timestamp()")


class Clocks:
    """The two clocks, compared whenever somebody asks."""

    def __init__(self, engine: AsyncEngine, clock: Clock = WALL) -> None:
        self._engine = engine
        self._clock = clock
        self._skew = timedelta()
        self._tell: Callable[[bool], Awaitable[None]] | None = None

    async def tell(self, ready: Callable[[bool], Awaitable[None]]) -> None:
        """Tells `ready` whether the clocks are near enough, now and whenever that changes."""
        self._tell = ready
        await ready(not self.too_far_apart())

    def too_far_apart(self) -> str:
        """What is wrong, for an operator; empty where the store may be ready."""
        if abs(self._skew) <= READY_WITHIN:
            return ""
        where = "ahead of" if self._skew > timedelta() else "behind"
        seconds = abs(self._skew).total_seconds()
        return f"the store's clock is {seconds:.0f} s {where} the database's"

    async def compare(self) -> None:
        """Looks at both clocks. Raises Unavailable."""
        before = self._skew
        self._skew = await in_transaction(self._engine, self._measured)
        _skew_seconds.set(self._skew.total_seconds())
        if _level(before) == _level(self._skew):
            return
        seconds = round(self._skew.total_seconds(), 1)
        if abs(self._skew) > READY_WITHIN:
            log.error("the clock is wrong, the store is not ready", seconds_ahead=seconds)
        elif abs(self._skew) > WARNING_BEYOND:
            log.warning("the clock and the database's are apart", seconds_ahead=seconds)
        else:
            log.info("the clock and the database's agree again", seconds_ahead=seconds)
        if self._tell is not None:
            await self._tell(not self.too_far_apart())

    async def _measured(self, connection: AsyncConnection) -> timedelta:
        """How far ours is ahead at the least: the answer may have been on its way for any time."""
        await connection.execute(_NOW)  # a connection that is made first takes its time
        before = self._clock.now()
        database: datetime = (await connection.execute(_NOW)).scalar_one()
        after = self._clock.now()
        if database > after:
            return after - database
        return max(before - database, timedelta())


def _level(skew: timedelta) -> int:
    return (abs(skew) > WARNING_BEYOND) + (abs(skew) > READY_WITHIN)
