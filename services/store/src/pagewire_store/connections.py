"""The driver's own connections, handed out one user at a time without more ado.

SQLAlchemy's pool hands a connection out through a greenlet and wraps it thrice; for transactions of
two or three trips that took a tenth of the store's time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn

from pagewire_store.trips import ROLLBACK, trip

Driver: TypeAlias = psycopg.AsyncConnection[Any]

PATIENCE = 0.25
"""Seconds that one waits for a connection."""
REFUSED_FOR = 0.2
"""Seconds in which no other is tried after one could not be made: else each webhook of an outage
would try thrice, and all at once fall upon a server that comes back."""


class NoneFree(Exception):
    """Every connection is in use, and stays so."""


class Connections:
    """Up to `size` connections to one PostgreSQL, made when they are needed."""

    def __init__(
        self,
        url: str,
        size: int,
        connecting: Mapping[str, Any],
        *,
        refused_for: float = REFUSED_FOR,
    ) -> None:
        """`url` and `connecting` as libpq reads them."""
        self.size = size
        self._url = url
        self._connecting = connecting
        self._free = asyncio.Semaphore(size)
        self._idle: list[Driver] = []
        self._refused_for = refused_for
        self._refused_until = 0.0

    @contextlib.asynccontextmanager
    async def handed_out(self) -> AsyncIterator[Driver]:
        """A connection for the block, and a commit of what is open at its end.

        What the block raises undoes what is open. Raises NoneFree, and what psycopg raises.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._free.acquire()
        except TimeoutError:
            raise NoneFree from None
        try:
            connection = self._idle.pop() if self._idle else await self._connected()
            try:
                yield connection
                if connection.pgconn.transaction_status != TransactionStatus.IDLE:
                    await connection.commit()
            except BaseException:
                await self._undo(connection)
                raise
            self._idle.append(connection)
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

    async def _undo(self, connection: Driver) -> None:
        """Rolls back, or ends a connection that can't; a lost one is seldom the only one."""
        pgconn = connection.pgconn
        try:
            if _is_open(pgconn) and pgconn.transaction_status != TransactionStatus.IDLE:
                await trip(connection, ROLLBACK)
        except psycopg.Error:
            pass
        finally:
            if _is_open(pgconn) and pgconn.transaction_status == TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                lost = pgconn.status != ConnStatus.OK
                await connection.close()
                if lost:
                    await self.close()


def _is_open(pgconn: PGconn) -> bool:
    return pgconn.status == ConnStatus.OK and pgconn.pipeline_status == PipelineStatus.OFF
