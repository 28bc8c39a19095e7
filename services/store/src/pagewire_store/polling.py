"""Long polls: a claim that finds nothing waits for work and looks again while its caller waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from math import inf
from typing import TypeVar

from pagewire_runtime.errors import InvalidArgument, Unavailable
from pagewire_store.waking import Waking

T = TypeVar("T")

LONGEST_WAIT = timedelta(seconds=1)
"""What is due by time alone, as when a lease ends, is found by then."""

LONGEST_UNHURRIED_WAIT = timedelta(seconds=4)
"""The same, of work off the live path; a call has five seconds."""

MOST = 100
"""As many as one call may claim."""


async def claimed(
    claim: Callable[[], Awaitable[list[T]]],
    waking: Waking,
    wait: timedelta,
    *,
    longest: timedelta = LONGEST_WAIT,
    due_in: Callable[[], float] = lambda: inf,
) -> list[T]:
    """What `claim` finds, now or when it is woken; nothing once `wait`, or `longest`, is over.

    `due_in` says, after a claim of nothing, in how many seconds something is due by time alone:
    then it looks again, as if woken. Raises Unavailable once `waking` is closed.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + min(wait, longest).total_seconds()
    while True:
        if waking.closed:
            raise Unavailable("a store that ends")
        seen = waking.count
        found = await claim()
        if found:
            return found
        left, due = until - loop.time(), due_in()
        if not await waking.wait(seen, min(left, due)) and left <= due:
            return found


def at_most(field: str, wanted: int) -> int:
    """How many may be claimed. Raises InvalidArgument where the caller wants none."""
    if wanted < 1:
        raise InvalidArgument(field, "must be at least 1")
    return min(wanted, MOST)
