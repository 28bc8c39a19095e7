"""The limit of an edge in Python: httptools on an asyncio protocol, no framework and no tasks."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import cast

import httptools
import uvloop

from bench.peers.bare import decode, signed


class Protocol(asyncio.Protocol):
    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._parser = httptools.HttpRequestParser(self)
        self._body = self._claim = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-hub-signature-256":
            self._claim = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        good = signed(body, self._claim, self._secret)
        if good:
            decode(body)
        assert self._transport is not None
        status = b"200 OK" if good else b"403 Forbidden"
        self._transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\nok")


async def serve(port: int) -> None:
    secret = os.environ["PEER_SECRET"].encode()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Protocol(secret), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
