"""The driver's own connections, handed out one user at a time without more ado.

SQLAlchemy's pool hands a connection out through a greenlet and wraps it thrice; for transactions of
two or three trips that took a tenth of the store's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn

from pagewire_runtime.logs import get_logger
from pagewire_store.trips import ROLLBACK, trip

log = get_logger(__name__)

Driver: TypeAlias = psycopg.AsyncConnection[Any]

LINK: Mapping[str, Any] = {
    "connect_timeout": 2,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""How every connection is made, in libpq's words (the last in milliseconds). A server that is gone
without a word is missed within some ten seconds, also by who only listens; the kernel's own
defaults are a quarter of an hour, and two hours."""

PATIENCE = 0.25
"""Seconds that one waits for a connection."""
REFUSED_FOR = 0.2
"""Seconds in which no other is tried after one could not be made: else each webhook of an outage
would try thrice, and all at once fall upon a server that comes back."""


class NoneFree(Exception):
    """Every connection is in use, and stays so."""


class Fuse:
    """Ends a connection whose user is not done with it in time.

    What waits on it fails as on any that is lost. To cancel it would not do: the driver asks the
    server to cancel then, and waits for its word, and the server may be out of reach.
    """

    def __init__(self, connection: Driver, seconds: float) -> None:
        self.blown = False
        self._connection = connection
        self._timer = asyncio.get_running_loop().call_later(seconds, self._blow)

    def take_off(self) -> None:
        """The user is done with it."""
        self._timer.cancel()

    def _blow(self) -> None:
        self.blown = True
        log.warning("a connection to PostgreSQL took too long and is given up")
        with (
            contextlib.suppress(OSError, psycopg.Error),  # it is lost already
            socket.socket(fileno=os.dup(self._connection.fileno())) as link,
        ):
            # Nor may it arrive later what was said and not heard: by then it is said again.
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.shutdown(socket.SHUT_RDWR)


class Connections:
    """Up to `size` connections to one PostgreSQL, made when they are needed."""

    def __init__(
        self,
        url: str,
        size: int,
        connecting: Mapping[str, Any],
        *,
        seconds: float,
        refused_for: float = REFUSED_FOR,
    ) -> None:
        """`url` and `connecting` as libpq reads them; `seconds` is how long one is handed out."""
        self.size = size
        self._url = url
        self._connecting = connecting
        self._seconds = seconds
        self._free = asyncio.Semaphore(size)
        self._idle: list[Driver] = []
        self._refused_for = refused_for
        self._refused_until = 0.0

    @contextlib.asynccontextmanager
    async def handed_out(self) -> AsyncIterator[Driver]:
        """A connection for the block, and a commit of what is open at its end.

        What the block raises undoes what is open. Raises NoneFree, and what psycopg raises; where
        the block takes too long, that the connection is lost.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._free.acquire()
        except TimeoutError:
            raise NoneFree from None
        try:
            connection = self._idle.pop() if self._idle else await self._connected()
            fuse = Fuse(connection, self._seconds)
            try:
                yield connection
                if connection.pgconn.transaction_status != TransactionStatus.IDLE:
                    await connection.commit()
            except BaseException:
                await _undo(connection)
                raise
            finally:
                fuse.take_off()
                await self._take_back(connection, given_up=fuse.blown)
        finally:
            self._free.release()

    async def close(self) -> None:
        """Closes those that nobody uses."""
        while self._idle:
            await self._idle.pop().close()

    async def _connected(self) -> Driver:
        loop = asyncio.get_running_loop()
        if loop.time() < self._refused_until:
            raise psycopg.OperationalError("a connection could not be made a moment ago")
        try:
            return await psycopg.AsyncConnection.connect(self._url, **self._connecting)
        except psycopg.OperationalError:
            self._refused_until = loop.time() + self._refused_for
            raise

    async def _take_back(self, connection: Driver, *, given_up: bool) -> None:
        """Keeps it for the next, or ends it where nobody knows its state; a lost one is seldom the
        only one."""
        pgconn = connection.pgconn
        lost = given_up or pgconn.status != ConnStatus.OK
        if not lost and _is_idle(pgconn):
            self._idle.append(connection)
            return
        await connection.close()
        if lost:
            await self.close()


async def _undo(connection: Driver) -> None:
    """Rolls back where that can be said."""
    pgconn = connection.pgconn
    if pgconn.status == ConnStatus.OK and pgconn.pipeline_status == PipelineStatus.OFF:
        with contextlib.suppress(psycopg.Error):
            if pgconn.transaction_status != TransactionStatus.IDLE:
                await trip(connection, ROLLBACK)


def _is_idle(pgconn: PGconn) -> bool:
    is_off = pgconn.pipeline_status == PipelineStatus.OFF
    return is_off and pgconn.transaction_status == TransactionStatus.IDLE
