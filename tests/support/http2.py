"""HTTP/2 frame by frame, for what no well-behaved client sends."""

import asyncio
import struct
from types import TracebackType
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
ENHANCE_YOUR_CALM = 11
_CANCEL = struct.pack(">I", 8)


class Http2:
    """A connection in the clear to `host:port`, its preface and settings sent."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._stream = 1

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS)
        await self.drain()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()

    def send(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        length = struct.pack(">I", len(payload))[1:]
        self._writer.write(length + struct.pack(">BBI", kind, flags, stream) + payload)

    async def drain(self) -> None:
        await self._writer.drain()

    def open_and_reset(self, path: str) -> None:
        """A call that is given up as soon as it was made."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = b"".join(_field(name, value) for name, value in fields.items())
        self.send(HEADERS, END_HEADERS, self._stream, block)
        self.send(RST_STREAM, 0, self._stream, _CANCEL)
        self._stream += 2

    async def goaway(self) -> int | None:
        """The error with which the server ends the connection; None where it says none."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == GOAWAY:
                    return int.from_bytes(payload[4:8], "big")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


def _field(name: str, value: str) -> bytes:
    """A header as itself, in no table (RFC 7541, 6.2.2); both are shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
