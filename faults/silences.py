"""When an edge could not answer: it was dead or ending, stood still, or could not be reached.

All other silence breaks a promise (`checker`, I10). A death is seen a little after it, so that each
span begins a little earlier than what was seen.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

Span = tuple[float, float]
"""From when to when, in Unix seconds."""

LOOKING_SECONDS = 0.1
NOTICED_WITHIN = 1.0
"""Seconds by which a busy machine may see a death later than its peers."""
BLIND_LOOKS = 2
"""So many may see nothing of it yet, where the loop that looks has stood still when it befell."""


class Edge(Protocol):
    """A process as its supervisor keeps it."""

    @property
    def pid(self) -> int: ...
    @property
    def exit_codes(self) -> Sequence[int]: ...
    @property
    def is_ready(self) -> bool: ...


class Wire(Protocol):
    """A proxy before edges."""

    @property
    def is_calm(self) -> bool: ...


class Silences:
    """Looks at edges, and at what is before them, and notes when they could not answer."""

    def __init__(self, edges: Sequence[Edge], wires: Sequence[Wire] = ()) -> None:
        self.spans: list[Span] = []
        self._edges, self._wires = edges, wires
        self._ending: set[int] = set()
        self._unable = 0
        self._deaths = self._count()
        self._looked_at = deque([time.time()], BLIND_LOOKS + 1)
        self._was_off = False

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        while True:
            self.look(time.time())
            await asyncio.sleep(LOOKING_SECONDS)

    def look(self, now: float) -> None:
        """Between the last look and this one nobody could answer, where one of both says so."""
        is_off = self._is_off()
        if is_off or self._was_off:
            begun = self._looked_at[0] - NOTICED_WITHIN
            if self.spans and self.spans[-1][1] >= begun:
                begun = self.spans.pop()[0]
            self.spans.append((begun, now))
        self._looked_at.append(now)
        self._was_off = is_off

    def ending(self, pid: int) -> None:
        """This life was told to end, or is being killed."""
        self._ending.add(pid)

    @contextmanager
    def unable(self) -> Iterator[None]:
        """An edge lives within the block, and may have nothing to answer with."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """As `unable`, from now on."""
        self._unable += 1

    def end(self) -> None:
        """The look after this one still falls within."""
        self._unable -= 1
        self._was_off = True

    def _is_off(self) -> bool:
        deaths, self._deaths = self._deaths, self._count()
        return (
            self._unable > 0
            or deaths != self._deaths
            or any(not edge.is_ready or edge.pid in self._ending for edge in self._edges)
            or any(not wire.is_calm for wire in self._wires)
        )

    def _count(self) -> int:
        return sum(len(edge.exit_codes) for edge in self._edges)
