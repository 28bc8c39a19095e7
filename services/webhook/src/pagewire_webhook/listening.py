"""Listening: an HTTP server around an app, from ready to drained."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from pagewire_runtime.errors import SettingsError
from pagewire_runtime.logs import get_logger

log = get_logger(__name__)

BACKLOG = 2_048
KEEP_ALIVE_SECONDS = 75
"""Longer than the balancers' usual 60: a connection must not be closed under a request."""


class _Server(uvicorn.Server):
    """A server that leaves signals to the process and tells when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

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
    trusted_proxies: Sequence[str] = (),
    drain_seconds: int = 20,
) -> AsyncIterator[int]:
    """Serve `app` (ASGI) at `host:port` within the block, and yield the port.

    On leaving it nothing new is taken, and requests under way have `drain_seconds` to finish.
    Raises SettingsError where it cannot listen there.
    """
    bound = _bind(listen)
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
        backlog=BACKLOG,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        await server.ready.wait()
        log.info("listening", listen=listen, port=bound.getsockname()[1])
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        bound.close()


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise SettingsError(f"can't listen on {listen}: must be host:port")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host.strip("[]"), int(port)))
    except OSError as error:
        bound.close()
        raise SettingsError(f"can't listen on {listen}: {error.strerror}") from error
    return bound
