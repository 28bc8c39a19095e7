"""Virtual time: a loop whose clock goes on when nothing is left to do, so that hours cost nothing.

For code whose only waiting is the loop's own: timers, sleeps, futures. A test that waits for what
nothing will bring about hangs, and its time limit ends it.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class _Idle(selectors.DefaultSelector):
    """Where it would wait so long, it tells that the time has passed."""

    def __init__(self, passed: Callable[[float], None]) -> None:
        super().__init__()
        self._passed = passed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout is None or timeout > 0 else timeout)
        if not ready and timeout:
            self._passed(timeout)
        return ready if timeout is not None else super().select(0.05)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time begins at 1,000 seconds."""

    def __init__(self) -> None:
        self._now = 1_000.0
        super().__init__(_Idle(self._pass))

    def time(self) -> float:
        return self._now

    def _pass(self, seconds: float) -> None:
        self._now += seconds


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an async test on such a loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
