"""Waking long polls when work comes: at once in this process, by a hint to the other stores.

The hint is NOTIFY, from one connection of its own and outside every transaction, since PostgreSQL
commits one notifying transaction at a time; it is sent at most 50 times a second, and only while
another store has made itself heard. Who misses it finds the work by its next poll.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import psycopg

from pagewire_runtime.logs import get_logger
from pagewire_store.connections import LINK, Fuse

log = get_logger(__name__)

GAP = 0.02
"""Seconds between two hints."""
PRESENCE = 30.0
"""Seconds between two words of a store that it is there."""
ABSENCE = 3 * PRESENCE
"""Seconds after which a store that was not heard of is there no more."""
RECONNECT_AFTER = 1.0
"""Seconds, with jitter, before a lost connection is made anew."""
ANSWER_SECONDS = 5.0
"""For the server to take a hint; then the connection is given up."""


class Waking:
    """Waiters, and the connection by which stores wake each other's."""

    def __init__(self, url: str, channel: str = "pagewire_lanes") -> None:
        """`url` as libpq reads it, `channel` a name of its own for each sort of work.

        Nothing is connected before `run`.
        """
        self._url = url
        self._channel = channel.encode()
        self._waiters: set[asyncio.Future[None]] = set()
        self._count = 0
        self._stirred = asyncio.Event()
        self._due = False
        self._presence_at = 0.0
        self._company_until = 0.0
        self.closed = False
        self.listening = asyncio.Event()
        """Set while other stores' hints arrive."""

    @property
    def count(self) -> int:
        """How often there was work; read it before looking, so that `wait` misses nothing."""
        return self._count

    def wake(self) -> None:
        """There is work: wakes every waiter here, and soon those of other stores."""
        self._wake_waiters()
        if asyncio.get_running_loop().time() < self._company_until:
            self._due = True
            self._stirred.set()

    def wake_freed(self, seen: int, *, freed: bool) -> None:
        """There is work where a lane was `freed`, or where some came since `count` was `seen`.

        Who looked for that in the meantime found its lane taken still.
        """
        if freed or self._count != seen:
            self.wake()

    def close(self) -> None:
        """Ends every wait here, so that none holds up the end of its process."""
        self.closed = True
        self._wake_waiters()

    async def wait(self, seen: int, timeout: float) -> bool:
        """Returns once there was work since `count` was `seen`; False after `timeout` seconds."""
        if self._count != seen:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    async def run(self) -> None:
        """Sends and takes hints until cancelled; without a connection it tries again."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, application_name="pagewire-wake", **LINK
                ) as connection:
                    await self._attend(connection)
            except (psycopg.Error, OSError) as error:
                log.warning("waking_disconnected", kind=type(error).__name__)
            finally:
                self.listening.clear()
            await asyncio.sleep(random.uniform(0.5, 1) * RECONNECT_AFTER)  # noqa: S311  # jitter

    async def _attend(self, connection: psycopg.AsyncConnection[Any]) -> None:
        pid = connection.info.backend_pid
        connection.add_notify_handler(lambda hint: self._take(hint.pid, pid))
        await _said(connection, b"listen " + self._channel)
        self._wake_waiters()  # hints may have been missed
        self.listening.set()
        loop, hint_at, self._presence_at = asyncio.get_running_loop(), 0.0, 0.0
        while True:
            connection.pgconn.consume_input()
            while (hint := connection.pgconn.notifies()) is not None:
                self._take(hint.be_pid, pid)
            now = loop.time()
            if now >= self._presence_at or (self._due and now >= hint_at):
                self._due, hint_at, self._presence_at = False, now + GAP, now + PRESENCE
                await _said(connection, b"notify " + self._channel)
            await self._stir(connection.fileno(), hint_at if self._due else self._presence_at)

    async def _stir(self, socket: int, until: float) -> None:
        """Returns when there is something to read or to send, at the latest then."""
        loop = asyncio.get_running_loop()
        timer = loop.call_at(until, self._stirred.set)
        loop.add_reader(socket, self._stirred.set)  # the driver's own waits take it off
        try:
            await self._stirred.wait()
        finally:
            loop.remove_reader(socket)
            timer.cancel()
        self._stirred.clear()

    def _take(self, sender: int, own: int) -> None:
        """Another store has work, or is there: who is new to this one hears of it at once."""
        if sender == own:
            return
        now = asyncio.get_running_loop().time()
        if now >= self._company_until:
            self._presence_at = now
        self._company_until = now + ABSENCE
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        self._count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


async def _said(connection: psycopg.AsyncConnection[Any], command: bytes) -> None:
    fuse = Fuse(connection, ANSWER_SECONDS)
    try:
        await connection.execute(command)
    finally:
        fuse.take_off()
