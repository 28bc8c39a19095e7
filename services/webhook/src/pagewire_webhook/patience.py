"""Patience: one timer for many waits of equal length.

A timeout of its own for each request costs more than verifying its signature does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Patience:
    """Lets each wait last `seconds`; every wait has to be in a task of its own."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # In the order of their starts, so the first is the next to end.
        self._since: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._is_looking = False

    async def wait(self, work: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
        """What the work gives. Raises TimeoutError where it takes too long; it is cancelled.

        `loop` is the running one: to ask for it is a system call, so it is asked for once.
        """
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a coroutine outside of any task")
        self._since[task] = loop.time()
        if not self._is_looking:
            self._look_later(loop, self._seconds)
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._overdue and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            del self._since[task]
            if self._overdue:
                self._overdue.discard(task)

    def _look_later(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self._is_looking = True
        loop.call_later(delay, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_looking = False
        for task, since in self._since.items():
            left = since + self._seconds - loop.time()
            if left > 0:
                self._look_later(loop, left)
                return
            if task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
