"""The anteroom: what was claimed and is not begun, so little that a death leaves little behind.

Whoever finds a reply of a process that died can't tell whether it was sent. So no more are claimed
than begin at once: the others stay in the outbox, from where they go out without a doubt.
"""

import asyncio
from collections.abc import Iterable


class Anteroom:
    """Room for `size`, by name."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._inside: set[str] = set()
        self._left = asyncio.Event()

    async def room(self) -> int:
        """For how many there is room; waits until that is half of it, so that they come in few
        claims."""
        while len(self._inside) > self._size // 2:
            self._left.clear()
            await self._left.wait()
        return self._size - len(self._inside)

    def enter(self, names: Iterable[str]) -> None:
        """They were claimed."""
        self._inside.update(names)

    def leave(self, name: str) -> None:
        """It is begun, or will not be; saying so again changes nothing."""
        self._inside.discard(name)
        self._left.set()
