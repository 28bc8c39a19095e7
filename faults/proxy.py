"""A proxy between two parts: passes connections on, and does to them what a bad network does.

Toxics (see `toxics`) are switched live, on all connections or on new or old ones only, in both
directions or in one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from faults.link import Link, Watch
from faults.toxics import Applied, Direction, Toxic

ANY_PORT = "127.0.0.1:0"


class Proxy:
    """Passes connections to `address` on to `target`; both are `host:port` or `unix:/path`.

    Port 0 takes a free one, which stays the proxy's own while it refuses. `target` may be changed,
    and be empty at first: connections are reset then. `watch` makes the watcher of each connection.
    """

    def __init__(
        self,
        target: str = "",
        *,
        listen: str = ANY_PORT,
        watch: Callable[[], Watch] | None = None,
        seed: int = 1,
    ) -> None:
        self.target = target
        self.address = listen
        self.connections = 0
        """Accepted so far."""
        self.bytes = {Direction.UP: 0, Direction.DOWN: 0}
        """Passed on so far."""
        self.chance = random.Random(seed)
        self._watch = watch
        self._held: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._applied: list[Applied] = []
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._change = asyncio.Event()

    async def __aenter__(self) -> Self:
        if not self._is_unix:
            self._held = hold(self.address)
            self.address = "{}:{}".format(*self._held.getsockname()[:2])
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.refuse()
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._held is not None:
            self._held.close()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    @property
    def is_refusing(self) -> bool:
        return self._server is None

    @property
    def is_calm(self) -> bool:
        """Whether it does what it can to pass all on."""
        return not self._applied and not self.is_refusing

    def refuse(self, *, established: bool = True) -> None:
        """Nobody listens any more; `established` connections are reset, or else go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._is_unix:
                os.unlink(self._path)
        if established:
            self.reset()

    async def accept(self) -> None:
        """Listens again."""
        if self._server is not None:
            return
        if self._is_unix:
            self._server = await asyncio.start_unix_server(self._accepted, self._path)
        else:
            host, _, port = self.address.rpartition(":")
            self._server = await asyncio.start_server(self._accepted, host, int(port))

    def reset(self) -> None:
        """Resets every connection there is."""
        for link in list(self._links):
            link.reset()

    def add(
        self,
        toxic: Toxic,
        direction: Direction = Direction.BOTH,
        *,
        new_only: bool = False,
        old_only: bool = False,
    ) -> Callable[[], None]:
        """Sets the toxic on; what is returned lifts it."""
        first = self.connections + 1 if new_only else 0
        last = self.connections if old_only else sys.maxsize - 1
        applied = Applied(toxic, direction, range(first, last + 1))
        self._applied.append(applied)
        self._announce()

        def lift() -> None:
            if applied in self._applied:
                self._applied.remove(applied)
                self._announce()

        return lift

    @contextlib.contextmanager
    def suffering(
        self,
        toxic: Toxic,
        direction: Direction = Direction.BOTH,
        *,
        new_only: bool = False,
        old_only: bool = False,
    ) -> Iterator[None]:
        """The toxic is on within the block."""
        lift = self.add(toxic, direction, new_only=new_only, old_only=old_only)
        try:
            yield
        finally:
            lift()

    async def clear(self) -> None:
        """Lifts all toxics and listens; what was held back goes on."""
        self._applied.clear()
        self._announce()
        await self.accept()

    def applied(self, link: int, direction: Direction) -> list[Applied]:
        """What strikes this connection in this direction now."""
        return [one for one in self._applied if one.direction & direction and link in one.links]

    async def changed(self, within: float | None) -> bool:
        """Waits so many seconds (None: for ever) for a change of toxics; whether there was one."""
        change = self._change
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await change.wait()
        return change.is_set()

    def _announce(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        watch = self._watch() if self._watch else None
        link = Link(self, self.connections, (reader, writer), watch)
        task = asyncio.current_task()
        assert task is not None
        self._links[link] = task
        try:
            await link.run(self.target)
        except asyncio.CancelledError:
            pass  # by our own end; raised on, the stream's callback would log it
        finally:
            del self._links[link]

    @property
    def _is_unix(self) -> bool:
        return self.address.startswith("unix:")

    @property
    def _path(self) -> str:
        return self.address.removeprefix("unix:")


def hold(address: str) -> socket.socket:
    """A socket that keeps a port without listening; others may listen, or hold it too.

    On Linux one may listen where others are merely bound, if all say SO_REUSEADDR, as servers do.
    """
    host, _, port = address.rpartition(":")
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, int(port)))
    return held
