"""Listening: an HTTP server around an app, from ready to drained."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from pagewire_runtime.errors import SettingsError
from pagewire_runtime.logs import get_logger
from pagewire_webhook.connections import Connection, Connections
from pagewire_webhook.posts import Taker

log = get_logger(__name__)

BACKLOG = 2_048
KEEP_ALIVE_SECONDS = 75
"""Longer than the balancers' usual 60: a connection must not be closed under a request."""
UNREAD_MAX_BYTES = 128 * 1024
"""What the system keeps of answers that a peer does not read; left alone it goes up to 4 MiB."""
CONNECTIONS_MAX = 256
SWEPT_EVERY = 1.0
"""Seconds between two looks for whoever is overdue."""
RECEIPT_SECONDS = 10.0
"""For a whole request to come: Meta sends one at once."""

# What the process opens beside connections of listeners: channels, pools, logs.
_OTHER_DESCRIPTORS = 64
# Two listeners in a process, each with its connections and those that wait to be accepted.
_SHARES = 4


class _Server(uvicorn.Server):
    """A server that leaves signals to the process and tells when it is ready."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.server_state = connections
        self._connections = connections
        self.ready = asyncio.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Has it take nothing more, and drain."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Once a second; uvicorn's own loop wakes an idle process ten times as often."""
        while not self._ending.is_set():
            await self.on_tick(0)  # takes the date
            self._connections.date()
            self._connections.sweep(asyncio.get_running_loop().time())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), SWEPT_EVERY)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def listening(
    app: Any,
    listen: str,
    *,
    taker: Taker | None = None,
    trusted_proxies: Sequence[str] = (),
    connections_max: int = CONNECTIONS_MAX,
    receipt_seconds: float = RECEIPT_SECONDS,
    drain_seconds: int = 20,
) -> AsyncIterator[int]:
    """Serve `app` (ASGI) at `host:port` within the block, and yield the port.

    At most `connections_max` connections, and no more than the process has descriptors for; who
    has not sent a whole request in `receipt_seconds` is closed on. On leaving the block nothing
    new is taken, and requests under way have `drain_seconds` to finish. Raises SettingsError where
    it cannot listen there.
    """
    bound = _bind(listen)
    room = room_for(connections_max)
    connections = Connections(room, receipt_seconds, taker)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # what it warns of is whatever strangers send
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
        backlog=min(BACKLOG, room),
    )
    server = _Server(config, connections)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        await server.ready.wait()
        log.info("listening", listen=listen, port=bound.getsockname()[1])
        yield bound.getsockname()[1]
    finally:
        server.end()
        await task
        bound.close()


def room_for(connections: int) -> int:
    """So many, or as many as a listener has descriptors for.

    They must not run out: uvloop gives up a socket for good where it can't accept on it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return connections
    return max(min(connections, (limit - _OTHER_DESCRIPTORS) // _SHARES), 1)


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise SettingsError(f"can't listen on {listen}: must be host:port")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_MAX_BYTES)
        bound.bind((host.strip("[]"), int(port)))
    except OSError as error:
        bound.close()
        raise SettingsError(f"can't listen on {listen}: {error.strerror}") from error
    return bound
