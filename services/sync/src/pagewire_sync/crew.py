"""A crew: jobs that run beside each other, so many at the most; one that fails fails alone."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from pagewire_runtime.logs import get_logger

log = get_logger(__name__)


class Crew:
    """Up to `size` jobs at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    async def room(self) -> int:
        """How many more jobs may be started: at least one; waits for that."""
        while len(self._jobs) >= self._size:
            await asyncio.wait(self._jobs, return_when=asyncio.FIRST_COMPLETED)
        return self._size - len(self._jobs)

    def start(self, job: Coroutine[Any, Any, None]) -> None:
        """Run a job beside the others. An exception of it is logged."""
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._ended)

    async def finish(self) -> None:
        """Return when all jobs have ended."""
        while self._jobs:
            await asyncio.wait(self._jobs)

    async def dismiss(self) -> None:
        """Cancel what still runs, and return when it has ended."""
        for task in self._jobs:
            task.cancel()
        await self.finish()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a job failed", exc_info=error)
