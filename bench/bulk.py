"""History in bulk: MirrorService, a process of its own, called by gRPC, each answer durable.

The limit is the same upsert inside the server, which no client can beat; peers are an ORM's merge,
statements of 500 rows of VALUES, and for what is stored already an upsert with its guard alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from google.protobuf.timestamp_pb2 import Timestamp

from bench.figures import Goal, Measure, MeasuringFailed, rotated
from bench.peers.bulk_writes import (
    PAGE,
    GuardAlone,
    InServer,
    Row,
    engine_of,
    merge_each,
    multi_values,
)
from bench.processes import child, free_port
from pagewire.store.v1.mirror_service_pb2 import (
    MirroredConversation,
    MirroredMessage,
    UpsertHistoryRequest,
)
from pagewire.store.v1.mirror_service_pb2_grpc import MirrorServiceStub
from pagewire.type.v1.conversation_pb2 import DIRECTION_INBOUND, DIRECTION_OUTBOUND
from pagewire_runtime.calling import channel

CALL_ROWS = 1_000
"""Messages a call: forty threads with 25 of theirs, as two pages of Graph's give them."""
THREAD = 25
IN_FLIGHT = 4
TOKEN = "a-token-of-the-benchmark"  # it opens nothing but a store of this run's own

OURS, SERVER = "pagewire", "inside the server"
MERGE, VALUES, GUARD = "ORM merge", "multi-VALUES of 500", "guard alone"
SLOW: dict[str, int] = {MERGE: 1_000, VALUES: 10_000}
"""Rows that these write at the most: they would take minutes for all."""


@dataclass
class Rates:
    """Rows a second, a value a round."""

    new: dict[str, list[float]] = field(default_factory=dict)
    again: dict[str, list[float]] = field(default_factory=dict)


async def measured(folder: Path, url: str, *, quick: bool) -> list[Measure]:
    """Upserts of 10,000 and 100,000 messages, and the same again."""
    sizes = {"10k": (10_000, 2)} if quick else {"10k": (10_000, 7), "100k": (100_000, 3)}
    found = {}
    async with _store(folder, url) as store:
        await _round(url, store, messages("warm", 5_000), Rates(), 0)
        for name, (count, rounds) in sizes.items():
            found[name] = Rates()
            for turn in range(rounds):
                rows = messages(f"{name}{turn}", count)
                await _round(url, store, rows, found[name], turn)
    return [measure for name, rates in found.items() for measure in _measures(name, rates)]


def messages(load: str, count: int) -> list[Row]:
    """As Graph gives them: thread by thread, newest first."""
    now = int(time.time())
    return [
        Row(
            f"m_{load}_{hash((load, at)) % 2**64:016x}AbCdEfGhIjKlMnOpQrStUvWx{at:07d}",
            str(2_000_000_000_000_000 + at // THREAD),
            at % 3 > 0,
            "Hello, what does the large one cost? " * (1 + at % 3),
            now - at,
        )
        for at in range(count)
    ]


def requests(rows: Sequence[Row]) -> list[UpsertHistoryRequest]:
    return [_request(rows[at : at + CALL_ROWS]) for at in range(0, len(rows), CALL_ROWS)]


def _request(rows: Sequence[Row]) -> UpsertHistoryRequest:
    newest: dict[str, Row] = {}
    for row in rows:
        newest.setdefault(row.participant_id, row)
    return UpsertHistoryRequest(
        page_id=PAGE,
        read_time=Timestamp(seconds=int(time.time()) + 1),
        conversations=[
            MirroredConversation(
                participant_id=person,
                participant_name="A person",
                thread_id=f"t_{person}",
                update_time=Timestamp(seconds=row.seconds),
                snippet=row.text,
            )
            for person, row in newest.items()
        ],
        messages=[
            MirroredMessage(
                mid=row.mid,
                participant_id=row.participant_id,
                direction=DIRECTION_INBOUND if row.is_inbound else DIRECTION_OUTBOUND,
                text=row.text,
                create_time=Timestamp(seconds=row.seconds),
            )
            for row in rows
        ],
    )


class Caller:
    """MirrorService as sync calls it."""

    def __init__(self, target: str, token: str) -> None:
        self._channel = channel(target, token=token)
        self._stub = MirrorServiceStub(self._channel)

    async def upsert(self, calls: Sequence[UpsertHistoryRequest]) -> tuple[int, int]:
        """How many messages were new, and how many rows have changed."""
        left, new, changed = iter(calls), 0, 0

        async def one() -> None:
            nonlocal new, changed
            for request in left:
                answer = await self._stub.UpsertHistory(request)
                if answer.refused:
                    raise MeasuringFailed(f"a message was refused: {answer.refused[0].reason}")
                new += len(answer.new_messages)
                changed += answer.changed

        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
        return new, changed

    async def close(self) -> None:
        await self._channel.close()


@contextlib.asynccontextmanager
async def _store(folder: Path, url: str) -> AsyncIterator[Caller]:
    port = free_port()
    environment = {
        "DATABASE_URL": url,
        "STORE_LISTEN": f"127.0.0.1:{port}",
        "SERVICE_TOKENS": f"sync:{TOKEN}",
        "TOKEN_ENCRYPTION_KEYS": "bench:" + base64.urlsafe_b64encode(bytes(32)).decode(),
        "UNREADY_SECONDS": "0",
        "LOG_LEVEL": "WARNING",
    }
    with child(["-m", "pagewire_store"], folder / "store.log", env=environment, port=port):
        store = Caller(f"127.0.0.1:{port}", TOKEN)
        try:
            yield store
        finally:
            await store.close()


async def _round(url: str, store: Caller, rows: Sequence[Row], into: Rates, turn: int) -> None:
    """Every way once, each into empty tables."""
    calls = requests(rows)
    for name in rotated([OURS, SERVER, GUARD, VALUES, MERGE], turn):
        some = rows[: SLOW.get(name, len(rows))]
        with _emptied(url, len(some)):
            if name == OURS:
                await _ours(store, calls, len(rows), into)
            else:
                await asyncio.to_thread(_peers[name], url, some, into)


async def _ours(
    store: Caller, calls: Sequence[UpsertHistoryRequest], count: int, into: Rates
) -> None:
    for rates, expected in ((into.new, count), (into.again, 0)):
        began = time.perf_counter()
        new, changed = await store.upsert(calls)
        rates.setdefault(OURS, []).append(count / (time.perf_counter() - began))
        if new != expected or (changed and not expected):
            raise MeasuringFailed(f"{new} messages were new, not {expected}; {changed} changed")


def _in_server(url: str, rows: Sequence[Row], into: Rates) -> None:
    with contextlib.closing(InServer(url, rows)) as server:
        into.new.setdefault(SERVER, []).append(_rate(server.upsert, len(rows)))
        _settle(url)
        into.again.setdefault(SERVER, []).append(_rate(server.upsert, len(rows)))


def _guard_alone(url: str, rows: Sequence[Row], into: Rates) -> None:
    async def twice() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            guard = GuardAlone(connection, rows)
            await guard.upsert()
            _settle(url)
            began = time.perf_counter()
            await guard.upsert()
            seconds = time.perf_counter() - began
        into.again.setdefault(GUARD, []).append(len(rows) / seconds)

    asyncio.run(twice())


def _multi_values(url: str, rows: Sequence[Row], into: Rates) -> None:
    engine = engine_of(url)
    into.new.setdefault(VALUES, []).append(_rate(lambda: multi_values(engine, rows), len(rows)))
    engine.dispose()


def _merge(url: str, rows: Sequence[Row], into: Rates) -> None:
    engine = engine_of(url)
    into.new.setdefault(MERGE, []).append(_rate(lambda: merge_each(engine, rows), len(rows)))
    engine.dispose()


_peers: dict[str, Callable[[str, Sequence[Row], Rates], None]] = {
    SERVER: _in_server,
    GUARD: _guard_alone,
    VALUES: _multi_values,
    MERGE: _merge,
}


def _rate(work: Callable[[], object], count: int) -> float:
    gc.collect()
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def _settle(url: str) -> None:
    """The planner knows the rows, as it does in a store that has had them for a while."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(b"vacuum analyze message, conversation")


@contextlib.contextmanager
def _emptied(url: str, expected: int) -> Iterator[None]:
    """Empty tables for the block, in which there must be so many messages at its end."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(b"truncate message, conversation")
        connection.execute(b"checkpoint")
        yield
        found = connection.execute(b"select count(*) from message").fetchone()
    if found != (expected,):
        raise MeasuringFailed(f"there are {found} messages, not {expected}")


def _measures(name: str, rates: Rates) -> Iterator[Measure]:
    for kind, found, goals in (
        (f"bulk_upsert_{name}", rates.new, {SERVER: 0.35, MERGE: 60, VALUES: 8}),
        (f"bulk_unchanged_{name}", rates.again, {SERVER: 0.3, GUARD: 2}),
    ):
        for peer, bound in goals.items():
            beside = "" if peer == SERVER else f"_beside_{peer.replace(' ', '_')}"
            yield Measure(
                f"{kind}{beside}",
                "messages/s",
                found[OURS],
                goal=Goal(bound, peer),
                limit=found[SERVER],
                peers={peer: found[peer]},
            )
