"""How long the work in hand may still take: the incoming call's deadline, as later calls see it."""

from __future__ import annotations

import time
from contextvars import ContextVar

# What a call passes on: the rest of its own time minus a tenth, to answer with in any case.
_SHARE = 0.9

_deadline: ContextVar[float | None] = ContextVar("pagewire_deadline", default=None)


def allow(seconds: float) -> None:
    """Gives the rest of this task, and what it starts, so many seconds from now."""
    _deadline.set(time.monotonic() + seconds)


def remaining() -> float | None:
    """The seconds left, never negative; None where nothing set a deadline."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def share(wanted: float | None) -> float | None:
    """The seconds that one step may take: what it wants, within 90 % of what is left."""
    left = remaining()
    if left is None:
        return wanted
    return left * _SHARE if wanted is None else min(wanted, left * _SHARE)
