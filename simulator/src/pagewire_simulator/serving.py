"""Serving over HTTP: one port for Graph and control, and connections that can be cut."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

DRAIN_SECONDS = 8
KEEP_ALIVE_SECONDS = 75
"""Longer than any client keeps an idle connection: one closed just as a request is written to it
loses the request, and its sender can't know how it ended."""


class Cuttable(HttpToolsProtocol):
    """Gives each request ``extensions["pagewire.cut"]``, which drops its connection at once."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {"pagewire.cut": self.transport.abort}
        self.scope["extensions"] = extensions


class Server(uvicorn.Server):
    """Leaves signals to whoever runs it (a drained process exits with 0); tells when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Has it take nothing more, and drain."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Once a second, as the date changes; uvicorn's own loop wakes ten times as often."""
        while not self._ending.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(address: str) -> socket.socket:
    """A bound socket for ``host:port``; port 0 takes a free one."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle off on what it accepts: 40 ms a request.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host.strip("[]"), int(port)))
    return bound


@contextlib.asynccontextmanager
async def serving(app: Any, address: str) -> AsyncIterator[str]:
    """Serves the application inside the block and yields its base URL; drains at the end."""
    bound = listen(address)
    config = uvicorn.Config(
        app,
        http=Cuttable,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    server = Server(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[bound]))
    await server.up.wait()
    host, port = bound.getsockname()[:2]
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        server.end()
        await task


async def until_signalled(signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
