"""The board: runs of this process as they stand, so that who watches one need not ask the store.

Of runs that other processes do it knows nothing; those are asked for.
"""

import asyncio
from collections import deque
from weakref import WeakValueDictionary

from pagewire.type.v1.sync_run_pb2 import SyncRun

KEPT = 1_000
"""Ended runs that are shown a while longer."""


class Board:
    """Shows runs by id while they go on here, and the last that ended here."""

    def __init__(self) -> None:
        self._shown: dict[str, SyncRun] = {}
        self._over: deque[str] = deque()
        # Held by who waits alone: nobody may ever put up what is waited for.
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def show(self, run: SyncRun) -> None:
        """Put a run up as it stands now."""
        shown = SyncRun()
        shown.CopyFrom(run)
        self._shown[run.run_id] = shown
        self._tell(run.run_id)

    def end(self, run: SyncRun) -> None:
        """Put it up as it ended."""
        self.show(run)
        self._over.append(run.run_id)
        if len(self._over) > KEPT:
            self.take_down(self._over.popleft())

    def take_down(self, run_id: str) -> None:
        """It goes on elsewhere, or ended long ago: the store knows."""
        self._shown.pop(run_id, None)
        self._tell(run_id)

    def shown(self, run_id: str) -> SyncRun | None:
        """The run, where it goes on here or has ended of late."""
        return self._shown.get(run_id)

    async def change(self, run_id: str, seconds: float) -> None:
        """Wait until the run is put up, changed or taken down, or so long."""
        changed = self._changed.get(run_id)
        if changed is None:
            changed = self._changed[run_id] = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            pass

    def _tell(self, run_id: str) -> None:
        changed = self._changed.pop(run_id, None)
        if changed is not None:
            changed.set()
