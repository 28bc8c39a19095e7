"""One address for several servers: each connection goes to the next of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Coroutine, Sequence

CHUNK = 2**16


@contextlib.asynccontextmanager
async def balanced(targets: Sequence[str]) -> AsyncIterator[str]:
    """Yields the address, `host:port` as the targets are; it ends, with all connections, behind."""
    turns = itertools.cycle(targets)
    both_ways: set[asyncio.Task[None]] = set()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        both_ways.add(task)
        host, _, port = next(turns).rpartition(":")
        try:
            with contextlib.closing(writer):
                there, back = await asyncio.open_connection(host, int(port))
                with contextlib.closing(back):
                    await _first_end(_carry(reader, back), _carry(there, writer))
        except (OSError, asyncio.CancelledError):
            pass  # who is at the other end sees that it is over
        finally:
            both_ways.discard(task)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in list(both_ways):
            task.cancel()
        await asyncio.gather(*both_ways)


async def _first_end(*carrying: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.ensure_future(each) for each in carrying]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)
        await writer.drain()
