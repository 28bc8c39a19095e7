"""Pools by purpose over one PostgreSQL, and transactions that are tried again where that is safe."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from pagewire_runtime.errors import Unavailable
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

T = TypeVar("T")

# What a repeat may mend: serialisation failure, deadlock, lock not available, connection trouble,
# a server that starts, stops, or lets nobody in, and a primary that has just become read-only.
REPEATABLE = ("40001", "40P01", "08", "57P0", "53300", "25006")
ATTEMPTS = 3


@dataclass(frozen=True)
class Pools:
    """One engine a purpose, so that slow work of one kind never holds up another."""

    ingest: AsyncEngine
    work: AsyncEngine
    reads: AsyncEngine
    upkeep: AsyncEngine

    async def dispose(self) -> None:
        """Close every connection."""
        for engine in (self.ingest, self.work, self.reads, self.upkeep):
            await engine.dispose()


def open_pools(url: str, connections: int) -> Pools:
    """Share `connections` (at least 4) out among the pools, in proportion 4 : 4 : 4 : 1.

    `url` is a `postgresql://` URL as libpq reads it; nothing is connected before it is needed.
    """
    upkeep = max(1, connections // 13)
    share, rest = divmod(connections - upkeep, 3)
    return Pools(
        ingest=_engine(url, share + (rest > 0)),
        work=_engine(url, share + (rest > 1)),
        reads=_engine(url, share),
        upkeep=_engine(url, upkeep, statement_timeout_ms=30_000),
    )


def _engine(url: str, size: int, statement_timeout_ms: int = 1200) -> AsyncEngine:
    options = (
        f"-c statement_timeout={statement_timeout_ms} -c lock_timeout=1000"
        " -c idle_in_transaction_session_timeout=5000 -c timezone=UTC"
    )
    return create_async_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=size,
        max_overflow=0,
        pool_timeout=0.25,
        connect_args={"options": options, "connect_timeout": 2, "application_name": "pagewire"},
    )


async def in_transaction(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` in a transaction of its own and commit it; try again, at most three times, what a repeat may mend.

    `work` must be safe to repeat from the start. Raises Unavailable where PostgreSQL cannot be had now.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with engine.begin() as connection:
                return await work(connection)
        except (DBAPIError, psycopg.Error, PoolTimeout, OSError) as error:
            if not _repeatable(error):
                raise
            if attempt == ATTEMPTS:
                raise Unavailable("PostgreSQL") from error
        await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311  # jitter, no secret
    raise AssertionError("unreachable")


async def driver(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """The psycopg connection beneath, in the same transaction: for pipelines, binary arrays and COPY."""
    raw = await connection.get_raw_connection()
    inner = raw.driver_connection
    assert isinstance(inner, psycopg.AsyncConnection)  # noqa: S101  # for the type checker
    return inner


def _repeatable(error: BaseException) -> bool:
    origin = getattr(error, "orig", None) or error
    state = getattr(origin, "sqlstate", None)
    if state is None:  # no answer from a server: the connection, or the pool
        return isinstance(origin, psycopg.OperationalError | PoolTimeout | OSError)
    return str(state).startswith(REPEATABLE)
