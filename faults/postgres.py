"""Commits that go wrong: watches PostgreSQL's protocol, and cuts the connection at a commit.

Speaks as much of version 3 of the protocol as that takes: simple queries, prepared statements with
their portals, and pipelines of them; no encryption. A transaction's commit is a COMMIT that is
executed, or the end of a batch outside of any transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from faults.link import Cut, Watch
from faults.toxics import Direction

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102

Then = Callable[[], Awaitable[object]]


class Lost(Enum):
    """What the network loses of a commit."""

    REQUEST = auto()
    """It never reaches the server, which undoes the transaction once the connection is gone."""
    ANSWER = auto()
    """The server has committed; its client never hears of it."""


@dataclass(eq=False)
class Loss:
    """A fault that waits for its commits, and then has struck."""

    lost: Lost
    saying: str
    left: int
    then: Then | None
    struck: int = 0
    _happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def happened(self, within: float = 15.0) -> None:
        """Returns once it has struck as often as it was to. Raises TimeoutError."""
        async with asyncio.timeout(within):
            await self._happened.wait()

    async def strike(self) -> None:
        """Raises Cut, after whatever was to be done at that moment."""
        if self.then is not None:
            await self.then()
        self.struck += 1
        if not self.left:
            self._happened.set()
        raise Cut


class Commits:
    """The commits of all connections through one proxy: `Proxy(…, watch=commits.watch)`."""

    def __init__(self) -> None:
        self._losses: list[Loss] = []

    def lose(
        self, lost: Lost, *, saying: str = "", times: int = 1, then: Then | None = None
    ) -> Loss:
        """The next `times` commits of transactions that say this piece of SQL are lost.

        `saying` is compared without regard to case; empty, it is every transaction's. `then` is
        awaited when the server has committed (or, for a lost request, before it hears of it) and
        before the client's connection is reset: as a moment to kill somebody.
        """
        loss = Loss(lost, saying.lower(), times, then)
        self._losses.append(loss)
        return loss

    def clear(self) -> None:
        """No more commits are lost."""
        self._losses.clear()

    def watch(self) -> Watch:
        return _Session(self)

    def claim(self, said: list[str]) -> Loss | None:
        """The loss that strikes a transaction that said this; it counts."""
        for loss in self._losses:
            if loss.left and any(loss.saying in sql for sql in said):
                loss.left -= 1
                return loss
        return None


class _Session:
    """One connection: what its client says, and what becomes of a commit."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._from_client = _Frames(typed=False)
        self._from_server = _Frames(typed=True)
        self._unframed = 0  # answers of one byte to come, to requests for encryption
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._said: list[str] = []  # in this transaction, lower case
        self._in_block = False
        self._losing: Loss | None = None
        self._explicit = False
        self._failed = False
        self._kept = b""

    async def passing(self, direction: Direction, data: bytes) -> bytes:
        if direction is Direction.UP:
            await self._hear_client(data)
            return data
        return await self._hear_server(data)

    async def _hear_client(self, data: bytes) -> None:
        for kind, body in self._from_client.feed(data):
            if not kind:
                self._begin(body)
            elif self._commits_by(kind, body) and self._losing is None:
                self._losing = self._commits.claim(self._said)
                self._failed, self._said = False, []
                if self._losing is not None and self._losing.lost is Lost.REQUEST:
                    await self._losing.strike()

    def _begin(self, body: bytes) -> None:
        code = int.from_bytes(body[:4], "big")
        if code in (SSL_REQUEST, GSS_REQUEST):
            self._unframed += 1
        elif code != CANCEL_REQUEST:
            self._from_client.typed = True

    def _commits_by(self, kind: bytes, body: bytes) -> bool:
        """Takes note of a message, and says whether it commits."""
        match kind:
            case b"P":
                name, sql = body.split(b"\0")[:2]
                self._statements[name] = _plain(sql)
            case b"B":
                portal, name = body.split(b"\0")[:2]
                self._portals[portal] = self._statements.get(name, "")
            case b"E":
                return self._executes(self._portals.get(body.split(b"\0")[0], ""))
            case b"Q":
                texts = [_plain(part) for part in body.rstrip(b"\0").split(b";")]
                ends = [self._executes(sql) for sql in texts if sql]
                return True in ends or self._ends_batch()
            case b"S":
                return self._ends_batch()
        return False

    def _ends_batch(self) -> bool:
        self._explicit = False
        return not self._in_block and bool(self._said)

    def _executes(self, sql: str) -> bool:
        word = sql.partition(" ")[0]
        if word in ("begin", "start"):
            self._in_block, self._said = True, []
        elif word in ("commit", "end"):
            self._in_block, self._explicit = False, True
            return True
        elif word in ("rollback", "abort") and " to " not in sql:
            self._in_block, self._said = False, []
        else:
            self._said.append(sql)
        return False

    async def _hear_server(self, data: bytes) -> bytes:
        framed = data[min(self._unframed, len(data)) :]
        self._unframed -= len(data) - len(framed)
        loss = self._losing
        if loss is not None:
            self._kept += data
        for kind, body in self._from_server.feed(framed):
            if self._losing is None:
                continue
            if kind == b"E":
                self._failed = True
            committed = kind == b"C" and body == b"COMMIT\0" if self._explicit else kind == b"Z"
            if committed and not self._failed:
                await self._losing.strike()
            if kind == b"Z":  # it did not commit: nothing was lost, the next one is
                self._losing.left += 1
                self._losing = None
        if loss is None:
            return data
        if self._losing is not None:
            return b""
        kept, self._kept = self._kept, b""
        return kept


class _Frames:
    """Cuts a stream into messages: the type (none before the start is over) and the body."""

    def __init__(self, *, typed: bool) -> None:
        self.typed = typed
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._rest += data
        while True:
            head = 1 if self.typed else 0
            if len(self._rest) < head + 4:
                return
            end = head + int.from_bytes(self._rest[head : head + 4], "big")
            if len(self._rest) < end:
                return
            kind, body = self._rest[:head], self._rest[head + 4 : end]
            self._rest = self._rest[end:]
            yield kind, body


def _plain(sql: bytes) -> str:
    return " ".join(sql.decode("utf-8", "replace").split()).lower()
