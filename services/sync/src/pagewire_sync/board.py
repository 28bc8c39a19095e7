"""The board: runs of this process as they stand, so that who watches one need not ask the store.

Of runs that other processes do it knows nothing; those are asked for.
"""

import asyncio
from weakref import WeakValueDictionary

from pagewire.type.v1.sync_run_pb2 import SyncRun


class Board:
    """Shows runs by id while they go on here."""

    def __init__(self) -> None:
        self._shown: dict[str, SyncRun] = {}
        # Held by who waits alone: nobody may ever put up what is waited for.
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def show(self, run: SyncRun) -> None:
        """Put a run up as it stands now."""
        shown = SyncRun()
        shown.CopyFrom(run)
        self._shown[run.run_id] = shown
        self._tell(run.run_id)

    def take_down(self, run_id: str) -> None:
        """It has ended, or goes on elsewhere: the store knows."""
        self._shown.pop(run_id, None)
        self._tell(run_id)

    def shown(self, run_id: str) -> SyncRun | None:
        """The run, where it goes on here."""
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
