"""Pools by purpose over one PostgreSQL, and transactions that are repeated where that is safe."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from pagewire_runtime import faults
from pagewire_runtime.errors import Unavailable
from pagewire_runtime.interception import DEADLINE_CAP
from pagewire_store.connections import LINK, PATIENCE, Connections, Driver, Fuse, NoneFree

T = TypeVar("T")
C = TypeVar("C")

# What a repeat may mend: serialisation failure, deadlock, connection trouble, a server that starts,
# stops, or lets nobody in, a primary that has just become read-only, and a prepared statement that
# is there no more.
REPEATABLE = ("40001", "40P01", "08", "57P0", "53300", "25006", "26000")
ATTEMPTS = 3
LOCK_TIMEOUT = "55P03"
YIELDING_ATTEMPTS = 8

STATEMENT_MS = 1200
UPKEEP_STATEMENT_MS = 30_000

LIVE_SECONDS = 3.0
"""A transaction's, and then its connection is given up: one statement may take 1.2 s, and who waits
for the answer to a webhook has gone after two."""
GENERAL_SECONDS = DEADLINE_CAP.total_seconds()
UPKEEP_SECONDS = UPKEEP_STATEMENT_MS / 1000 + LIVE_SECONDS

# What took as long as it may: a lock, a statement, an idle transaction. The caller has no time left
# for a repeat; it may call again.
TOO_SLOW = (LOCK_TIMEOUT, "57014", "25P03")


# Where every statement finds its rows by their keys, a plan that reads a table whole is wrong, yet
# the planner makes such ones while a table that grows has no statistics. Plans are made once and
# kept, whatever the values: making one takes longer than most of these statements do.
BY_KEY = (
    " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c enable_material=off"
    " -c jit=off -c plan_cache_mode=force_generic_plan"
)

MIRROR = 2
"""Connections for bulk writes: while PostgreSQL works on one chunk, another is made ready."""
YIELDING = " -c lock_timeout=50"
"""Milliseconds; what it holds itself meanwhile, others wait for."""


@dataclass(frozen=True)
class Pools:
    """One pool a purpose, so that slow work of one kind never holds up another."""

    ingest: Connections
    live: Connections
    """What happens to events and replies once they are stored."""
    general: AsyncEngine
    """What is asked for beside: by operators, about pages and rules."""
    upkeep: AsyncEngine
    mirror: Connections
    """What was read from Graph, in bulk: it gives way to whoever holds the same rows."""

    async def dispose(self) -> None:
        """Close every connection."""
        for connections in (self.ingest, self.live, self.mirror):
            await connections.close()
        for engine in (self.general, self.upkeep):
            await engine.dispose()


def open_pools(url: str, connections: int) -> Pools:
    """Share `connections` (at least 4) out among the pools, in proportion 4 : 4 : 4 : 1.

    Those of the mirror come beside.

    `url` is a `postgresql://` URL as libpq reads it; nothing is connected before it is needed.
    """
    upkeep = max(1, connections // 13)
    share, rest = divmod(connections - upkeep, 3)
    return Pools(
        ingest=_connections(url, share + (rest > 0)),
        live=_connections(url, share + (rest > 1)),
        general=_engine(url, share, _connecting(), GENERAL_SECONDS),
        upkeep=_engine(
            url, upkeep, _connecting(statement_timeout_ms=UPKEEP_STATEMENT_MS), UPKEEP_SECONDS
        ),
        mirror=_connections(url, MIRROR, YIELDING),
    )


def _connecting(statement_timeout_ms: int = STATEMENT_MS, planning: str = "") -> dict[str, Any]:
    return {
        **LINK,
        "options": f"-c statement_timeout={statement_timeout_ms} -c lock_timeout=1000"
        " -c idle_in_transaction_session_timeout=5000 -c timezone=UTC -c search_path=public"
        f"{planning}",
        "application_name": "pagewire",
        "prepare_threshold": 0,  # at first use: else the first five would be planned each
    }


def _connections(url: str, size: int, giving_way: str = "") -> Connections:
    planning = BY_KEY + giving_way
    return Connections(url, size, _connecting(planning=planning), seconds=LIVE_SECONDS)


def _engine(url: str, size: int, connecting: dict[str, Any], seconds: float) -> AsyncEngine:
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=size,
        max_overflow=0,
        pool_timeout=PATIENCE,
        hide_parameters=True,  # they hold what people wrote, and an error may be logged
        connect_args=connecting,
    )
    _fuse(engine, seconds)
    return engine


def _fuse(engine: AsyncEngine, seconds: float) -> None:
    """Nobody has a connection for longer than so many seconds."""

    @event.listens_for(engine.sync_engine, "checkout")
    def handed_out(connection: Any, entry: ConnectionPoolEntry, _: object) -> None:
        before = entry.info.get("fuse")
        if before is not None and before.blown:
            raise DisconnectionError  # the pool makes another one
        entry.info["fuse"] = Fuse(connection.driver_connection, seconds)

    @event.listens_for(engine.sync_engine, "checkin")
    def taken_back(_: object, entry: ConnectionPoolEntry) -> None:
        if (
            fuse := entry.info.get("fuse")
        ) is not None:  # none if there was no connection to be had
            fuse.take_off()


async def in_transaction(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` in a transaction of its own and commit it; at most three times, if that may help.

    `work` must be safe to repeat from the start. Raises Unavailable where PostgreSQL can't be had
    now, or takes longer than it may.
    """
    return await _repeated(engine.begin, work)


async def in_live_transaction(
    connections: Connections,
    work: Callable[[Driver], Awaitable[T]],
    *,
    part: str = "",
    keys: Iterable[str] = (),
) -> T:
    """The same on the driver itself; `work` may also commit, or begin, by its own trips.

    `part` and `keys` are what fault points call it, and what it is about.
    """
    if not (part and faults.on):
        return await _repeated(connections.handed_out, work)
    names = frozenset(keys)

    async def rehearsed(connection: Driver) -> T:
        with faults.walk(part, names):
            await faults.step("before_begin")
            return await work(connection)

    return await _repeated(connections.handed_out, rehearsed)


async def in_yielding_transaction(
    connections: Connections, work: Callable[[Driver], Awaitable[T]]
) -> T:
    """The same for what gives way to others: a lock that it does not get soon only delays it."""
    return await _repeated(
        connections.handed_out,
        work,
        repeatable=(*REPEATABLE, LOCK_TIMEOUT),
        attempts=YIELDING_ATTEMPTS,
    )


async def _repeated(
    begin: Callable[[], AbstractAsyncContextManager[C]],
    work: Callable[[C], Awaitable[T]],
    *,
    repeatable: tuple[str, ...] = REPEATABLE,
    attempts: int = ATTEMPTS,
) -> T:
    for attempt in range(1, attempts + 1):
        try:
            async with begin() as connection:
                return await work(connection)
        except (DBAPIError, psycopg.Error, PoolTimeout, NoneFree, OSError) as error:
            state = sqlstate(error)
            if _is_final(error, state, repeatable) or attempt == attempts:
                if _is_transient(error, state):
                    raise Unavailable("PostgreSQL") from error
                raise
        await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311  # jitter, no secret
    raise AssertionError("unreachable")


async def driver(connection: AsyncConnection) -> Driver:
    """The psycopg connection beneath, in the same transaction: for pipelines, arrays and COPY."""
    raw = await connection.get_raw_connection()
    inner = raw.driver_connection
    assert isinstance(inner, psycopg.AsyncConnection)  # noqa: S101  # for the type checker
    return inner


async def durability_gaps(connection: AsyncConnection) -> list[str]:
    """Settings of the server under which a commit may be lost; none on one that is set up well.

    What is answered as stored is promised to survive a crash of the server.
    """
    rows = await connection.execute(_DURABILITY)
    return [f"{row.name}={row.setting}" for row in rows]


async def is_superuser(connection: AsyncConnection) -> bool:
    """Whether this login may do anything, whatever it was granted."""
    found = await connection.execute(
        text("select rolsuper from pg_roles where rolname = current_user")
    )
    return bool(found.scalar_one())


_DURABILITY = text("""
    select name, setting from pg_settings
    where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off'
    order by name
""")


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code for what went wrong; None where no server has answered."""
    state: str | None = getattr(_origin(error), "sqlstate", None)
    return state


_FAULTS = {
    "22": "data_exception",
    "23": "integrity_violation",
    "54": "program_limit_exceeded",
}


def fault_of_values(error: BaseException) -> str | None:
    """What is wrong with what was to be stored; None where something else is to blame."""
    return _FAULTS.get((sqlstate(error) or "")[:2])


def _is_final(error: BaseException, state: str | None, repeatable: tuple[str, ...]) -> bool:
    """Whether a repeat would only take more time, or fail again."""
    if state is None:  # no answer from a server: a connection is made anew, a full pool stays full
        return not isinstance(_origin(error), psycopg.OperationalError | OSError)
    return not state.startswith(repeatable)


def _is_transient(error: BaseException, state: str | None) -> bool:
    """Whether the same may work later."""
    if state is None:
        return isinstance(
            _origin(error), psycopg.OperationalError | PoolTimeout | NoneFree | OSError
        )
    return state.startswith((*REPEATABLE, *TOO_SLOW))


def _origin(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _failure(state: str) -> Exception:
    return psycopg.errors.lookup(state)()


faults.failure_of_sqlstate = _failure
