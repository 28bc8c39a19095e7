"""Patience: the store is asked until it answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger

T = TypeVar("T")

log = get_logger(__name__)

PAUSE_LEAST = 0.05
PAUSE_MOST = 1.0

MAY_PASS = frozenset({Kind.TRANSIENT, Kind.EXHAUSTED, Kind.FENCED, Kind.INTERNAL})


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """Call until it is answered. Raises the Refusal that no further try would mend."""
    pause = PAUSE_LEAST
    while True:
        try:
            return await call()
        except Refusal as refusal:
            if refusal.kind not in MAY_PASS:
                raise
            log.warning("the store did not answer and is asked again", reason=refusal.reason)
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # jitter, no secret
        pause = min(2 * pause, PAUSE_MOST)
