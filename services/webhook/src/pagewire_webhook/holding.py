"""Holding lanes back: while a delivery is tried again, later ones of its lanes wait behind it.

A delivery waits in the queues of all its lanes at once and has its turn when it is the first in
each. Queues are joined in one step, so no two deliveries can wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection


class Turn:
    """One delivery's place in the queues of its lanes."""

    def __init__(self, lanes: Collection[str]) -> None:
        self.lanes = lanes
        self._reached = asyncio.Event()

    async def reached(self) -> None:
        """Returns once every earlier delivery of these lanes is settled."""
        await self._reached.wait()

    def reach(self) -> None:
        """Called by the queues."""
        self._reached.set()


class HeldLanes:
    """The lanes that are held, each with its queue of turns."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Turn]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def holds(self, lanes: Collection[str]) -> bool:
        """Whether a delivery of these lanes has to wait."""
        return any(lane in self._queues for lane in lanes)

    def join(self, lanes: Collection[str]) -> Turn:
        """A turn behind all others, for a delivery that has not been tried."""
        turn = Turn(lanes)
        for lane in lanes:
            self._queues.setdefault(lane, deque()).append(turn)
        self._tell(lanes)
        return turn

    def join_first(self, lanes: Collection[str]) -> Turn:
        """A turn before all others, for one that was being tried when the others came."""
        turn = Turn(lanes)
        for lane in lanes:
            self._queues.setdefault(lane, deque()).appendleft(turn)
        self._tell(lanes)
        return turn

    def leave(self, turn: Turn) -> None:
        """Ends the turn, had or not, and lets the next ones have theirs."""
        for lane in turn.lanes:
            queue = self._queues[lane]
            queue.remove(turn)
            if not queue:
                del self._queues[lane]
        self._tell(turn.lanes)

    def _tell(self, lanes: Collection[str]) -> None:
        for lane in lanes:
            queue = self._queues.get(lane)
            if queue and all(self._queues[other][0] is queue[0] for other in queue[0].lanes):
                queue[0].reach()
