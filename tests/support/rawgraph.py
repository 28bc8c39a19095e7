"""An HTTP server made of bytes, to misbehave as no library would."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Asked:
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RawGraph:
    """Answers each connection's requests by `behave`, with `requests` kept before it is called."""

    behave: Behaviour
    url: str = ""
    requests: list[Asked] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            self.requests.append(await _request(reader))
            await self.behave(reader, writer)


async def _request(reader: asyncio.StreamReader) -> Asked:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head.decode().strip().split("\r\n")
    headers = dict(one.split(": ", 1) for one in rest)
    headers = {name.lower(): value for name, value in headers.items()}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(line, headers, body)


def answering(data: bytes) -> Behaviour:
    """Writes these bytes and keeps the connection."""

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return behave


def closing_after(data: bytes, *, reset: bool) -> Behaviour:
    """Writes these bytes and closes, or resets, the connection."""

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise ConnectionResetError

    return behave


async def hanging(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Says nothing until the other side goes."""
    await reader.read()
    raise ConnectionResetError


def http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An answer as bytes; `length` may lie."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {size}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


@asynccontextmanager
async def listening(serve: Behaviour) -> AsyncIterator[int]:
    """Serves each connection within the block, and yields the port; leaves none of them behind."""
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            serving.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        while serving:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)  # for the transports to close
        await server.wait_closed()


@asynccontextmanager
async def raw_graph(behave: Behaviour) -> AsyncIterator[RawGraph]:
    """A server of requests within the block."""
    graph = RawGraph(behave)
    async with listening(graph.serve) as port:
        graph.url = f"http://127.0.0.1:{port}"
        yield graph
