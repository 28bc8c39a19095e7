"""HTTP as bytes over a socket, for requests that a client library would put in order."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

SECONDS = 60.0


class Answer(NamedTuple):
    """An answer as it came; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def request(
    method: str,
    target: bytes,
    headers: Sequence[tuple[str, bytes]] = (),
    body: bytes | None = None,
) -> bytes:
    """A request whose length is true, and everything else as it is given."""
    lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: edge"]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    lines += [name.encode() + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", body or b""])


async def exchange(port: int, data: bytes) -> Answer:
    """The answer to these bytes, on a connection of their own."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            return await _answer(reader)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(first.split()[1]), headers, body)
