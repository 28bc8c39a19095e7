"""The watchdog: tells of an event loop that was blocked, while it is and when it goes on again."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from pagewire_runtime import metrics
from pagewire_runtime.logs import get_logger

log = get_logger(__name__)

BEAT_SECONDS = 1.0
"""Between two signs of life; one a second costs an idle process next to nothing."""
TOO_LONG_SECONDS = 1.0
"""A loop that was blocked so long has made somebody wait for an answer."""
LOOK_SECONDS = 2.0
"""Between two looks of the thread: it tells at most a beat, the bound and a look after the start,
and so within 5 s."""

_blocked = metrics.counter(
    "pagewire_event_loop_blocks_total",
    "Times that the event loop was blocked for more than a second; over two none is missed.",
)
_blocked_seconds = metrics.histogram(
    "pagewire_event_loop_blocked_seconds",
    "How long the event loop was blocked, each of these times.",
    buckets=(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Watchdog:
    """Has the loop give a sign of life each second, and looks from a thread whether it did.

    The thread tells of a loop that never goes on; the sign that comes late tells of all others,
    also where nothing else could run meanwhile: code in C that holds the interpreter, a process
    that was stopped.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._thread_id = threading.get_ident()
        self._due = clock() + BEAT_SECONDS
        self._told_of: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Has the loop give its signs from now on."""
        self._due = self._clock() + BEAT_SECONDS
        self._timer = self._loop.call_later(BEAT_SECONDS, self.beat)

    def end(self) -> None:
        """No further sign."""
        if self._timer is not None:
            self._timer.cancel()

    def beat(self) -> None:
        """A sign of life; one that comes late is told of."""
        late = self._clock() - self._due
        if late > TOO_LONG_SECONDS:
            if self._told_of != self._due:
                _blocked.inc()
            _blocked_seconds.observe(late)
            log.error("the event loop was blocked", seconds=round(late, 1))
        self.begin()

    def look(self) -> None:
        """Tells once of a sign that is overdue; for any thread."""
        due = self._due
        if self._clock() - due <= TOO_LONG_SECONDS or self._told_of == due:
            return
        self._told_of = due
        _blocked.inc()
        frame = sys._current_frames().get(self._thread_id)
        log.error("the event loop is blocked", where=_where(frame))


def _where(frame: FrameType | None) -> str:
    """The innermost code of ours that the loop is in, as module and line; nothing it works on."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("pagewire_") and module != __name__:
            return f"{module}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@contextmanager
def watching(loop: asyncio.AbstractEventLoop) -> Iterator[Watchdog]:
    """Watches the loop, whose thread this is, within the block."""
    watchdog, ended = Watchdog(loop), threading.Event()

    def look_on() -> None:
        while not ended.wait(LOOK_SECONDS):
            watchdog.look()

    thread = threading.Thread(target=look_on, name="watchdog", daemon=True)
    watchdog.begin()
    thread.start()
    try:
        yield watchdog
    finally:
        watchdog.end()
        ended.set()
        thread.join()
