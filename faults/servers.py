"""The embedded servers, to be stopped, killed, hung and brought back while others use them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from enum import Enum, auto
from typing import LiteralString

import psycopg
from psycopg import sql

from pagewire_cli.embedded import EmbeddedPostgres, EmbeddedServer

OF_SERVICES = sql.SQL("""
    from pg_stat_activity
    where datname = 'pagewire' and backend_type = 'client backend' and pid <> pg_backend_pid()
""")


class Stop(Enum):
    FAST = auto()
    """Clean; open transactions are undone, clients are told."""
    IMMEDIATE = auto()
    """At once, as after a crash: what was committed is recovered at the next start."""
    KILL = auto()
    """All of its processes by SIGKILL, as a power cut would."""


class Server:
    """One server. Its first start has to be in the main thread, as its later ones."""

    def __init__(self, embedded: EmbeddedServer) -> None:
        self.embedded = embedded

    async def start(self) -> float:
        """Starts it and waits until it answers; the seconds that took."""
        begun = time.monotonic()
        self.embedded.spawn()
        await asyncio.to_thread(self.embedded.wait_ready)
        return time.monotonic() - begun

    async def stop(self, how: Stop = Stop.IMMEDIATE) -> None:
        """Returns when it is gone, also where it hung."""
        if how is Stop.KILL:
            await asyncio.to_thread(self.embedded.kill)
        else:
            await asyncio.to_thread(self.embedded.stop, immediate=how is Stop.IMMEDIATE)

    def hang(self) -> None:
        """Freezes all of its processes: connections stay open, nothing answers."""
        self.embedded.pause()

    def resume(self) -> None:
        self.embedded.resume()

    async def close(self) -> None:
        """Ends it for good, hung or not."""
        await asyncio.to_thread(self.embedded.close)


class Postgres(Server):
    embedded: EmbeddedPostgres

    @property
    def url(self) -> str:
        """As the superuser, past every proxy."""
        return self.embedded.url

    async def terminate_backends(self, most: int | None = None) -> int:
        """Ends connections of the services, all unless `most` is said; how many it were."""
        chosen = sql.SQL("select pid") + OF_SERVICES + sql.SQL("order by random() limit %s")
        ending = sql.SQL("select count(pg_terminate_backend(pid)) from ({}) as chosen")
        ended = await self.ask(ending.format(chosen), (most,))
        assert isinstance(ended, int)
        return ended

    async def read_only(self, on: bool) -> None:
        """Whether transactions, also those of open connections, may write nothing."""
        value = sql.SQL("on" if on else "off")
        await self.ask(sql.SQL("alter system set default_transaction_read_only = ") + value)
        await self.ask(sql.SQL("select pg_reload_conf()"))

    async def connections(self) -> int:
        """How many the services have."""
        found = await self.ask(sql.SQL("select count(*)") + OF_SERVICES)
        assert isinstance(found, int)
        return found

    async def ask(
        self, query: LiteralString | sql.SQL | sql.Composed, values: Sequence[object] = ()
    ) -> object:
        """The first value that the superuser is answered, None where there is no row."""
        connection = await psycopg.AsyncConnection.connect(
            self.url, autocommit=True, options="-c default_transaction_read_only=off"
        )
        async with connection:
            cursor = await connection.execute(query, values or None)
            row = await cursor.fetchone() if cursor.description else None
            return row[0] if row else None
