"""One connection through a proxy: takes what comes, and gives it on when the toxics let it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from typing import Protocol

from faults.toxics import (
    Applied,
    Bandwidth,
    Direction,
    Hang,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    Timeout,
    Toxic,
)

CHUNK_BYTES = 65_536
CHUNKS_HELD = 16
"""Of a direction; beyond them its source has to wait, as by a full window."""
SLICES_A_SECOND = 20
"""How finely a narrow bandwidth is shared out."""


class Cut(Exception):
    """The connection ends here, with a reset. What a `Watch` raises to have it so."""


class Closed(Exception):
    """The connection ends here, orderly."""


class Watch(Protocol):
    """Sees all that comes over one connection, before any toxic."""

    async def passing(self, direction: Direction, data: bytes) -> bytes:
        """What of it, and of what was kept before, goes on now. Raises Cut."""


class Conditions(Protocol):
    """What a connection asks of its proxy."""

    bytes: dict[Direction, int]
    chance: random.Random

    def applied(self, link: int, direction: Direction) -> list[Applied]:
        """What strikes this connection in this direction now."""

    async def changed(self, within: float | None) -> bool:
        """Waits so many seconds (None: for ever) for a change of toxics; whether there was one."""


class Link:
    """The client's side and the target's; `number` counts the proxy's connections from 1."""

    def __init__(
        self,
        proxy: Conditions,
        number: int,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        watch: Watch | None,
    ) -> None:
        self.proxy = proxy
        self.number = number
        self.watch = watch
        self._client = client
        self._writers = [client[1]]

    async def run(self, target: str) -> None:
        """Lasts as long as the connection."""
        try:
            server = await connect(target)
            self._writers.append(server[1])
            ways = (
                _Way(self, Direction.UP, self._client[0], server[1]),
                _Way(self, Direction.DOWN, server[0], self._client[1]),
            )
            async with asyncio.TaskGroup() as both:
                doom = both.create_task(self._doom())
                async with asyncio.TaskGroup() as passing:
                    for way in ways:
                        passing.create_task(way.take())
                        passing.create_task(way.give())
                doom.cancel()
        except* (Cut, OSError):
            self.reset()
        except* Closed:
            pass
        finally:
            for writer in self._writers:
                writer.close()

    def reset(self) -> None:
        """Ends it as a machine that died does: no farewell, and unsent data is lost."""
        for writer in self._writers:
            with contextlib.suppress(OSError):  # it is closed already
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            writer.transport.abort()

    async def _doom(self) -> None:
        """Ends the connection when a toxic's time is over."""
        while True:
            toxics = (one.toxic for one in self.proxy.applied(self.number, Direction.BOTH))
            dooms = [toxic for toxic in toxics if isinstance(toxic, ResetPeer | Timeout)]
            first = min(dooms, key=lambda toxic: toxic.seconds, default=None)
            if await self.proxy.changed(first.seconds if first else None) or not first:
                continue
            raise Cut if isinstance(first, ResetPeer) else Closed


class _Way:
    """One direction of a connection."""

    def __init__(
        self,
        link: Link,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._link, self._proxy, self._direction = link, link.proxy, direction
        self._reader, self._writer = reader, writer
        self._held: asyncio.Queue[tuple[float, float, bytes]] = asyncio.Queue(CHUNKS_HELD)
        self._counted: dict[Applied, int] = {}

    async def take(self) -> None:
        clock = asyncio.get_running_loop().time
        while data := await self._read():
            if self._link.watch is not None:
                data = await self._link.watch.passing(self._direction, data)
            if data:
                await self._held.put((clock(), self._proxy.chance.uniform(-1, 1), data))
        await self._held.put((clock(), 0.0, b""))

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(CHUNK_BYTES)
        except OSError:  # a black hole lets no reset through either
            await self._let_through(asyncio.get_running_loop().time(), 0.0)
            raise

    async def give(self) -> None:
        while True:
            since, chance, data = await self._held.get()
            await self._let_through(since, chance)
            if not data:
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                return
            for piece, pause in self._pieces(data):
                if pause:
                    await asyncio.sleep(pause)
                await self._let_through(since, chance)
                await self._write(piece)

    async def _let_through(self, since: float, chance: float) -> None:
        """Returns when no toxic holds back what came at `since`; `chance` is of jitter, -1 … 1."""
        while True:
            toxics = self._toxics()
            if any(isinstance(toxic, Hang | Timeout) for toxic in toxics):
                await self._proxy.changed(None)
                continue
            late = sum(t.seconds + chance * t.jitter for t in toxics if isinstance(t, Latency))
            left = since + late - asyncio.get_running_loop().time()
            if not late or left <= 0:
                return
            await self._proxy.changed(left)

    def _pieces(self, data: bytes) -> Iterator[tuple[bytes, float]]:
        """The data in pieces, each with the pause before it."""
        while data:
            size, pause, chance = len(data), 0.0, self._proxy.chance
            for toxic in self._toxics():
                if isinstance(toxic, Slicer):
                    size = min(size, toxic.size + chance.randint(-toxic.variation, toxic.variation))
                    pause += toxic.delay
                elif isinstance(toxic, Bandwidth):
                    size = min(size, int(toxic.bytes_per_second / SLICES_A_SECOND))
                    pause += size / toxic.bytes_per_second
            size = max(size, 1)
            yield data[:size], pause
            data = data[size:]

    async def _write(self, piece: bytes) -> None:
        limits = [
            (one, one.toxic.bytes)
            for one in self._proxy.applied(self._link.number, self._direction)
            if isinstance(one.toxic, LimitData)
        ]
        for one, most in limits:
            piece = piece[: most - self._counted.get(one, 0)]
        self._writer.write(piece)
        await self._writer.drain()
        self._proxy.bytes[self._direction] += len(piece)
        for one, most in limits:
            self._counted[one] = self._counted.get(one, 0) + len(piece)
            if self._counted[one] >= most:
                raise Closed

    def _toxics(self) -> list[Toxic]:
        return [one.toxic for one in self._proxy.applied(self._link.number, self._direction)]


async def connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To `host:port` or `unix:/path`. Raises OSError where nobody listens, or `target` is empty."""
    if not target:
        raise ConnectionRefusedError
    if target.startswith("unix:"):
        return await asyncio.open_unix_connection(target.removeprefix("unix:"))
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port))
