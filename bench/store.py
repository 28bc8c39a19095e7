"""The store by itself, without gRPC: Ingest beside a transaction a webhook, and beside the limit.

All write the same rows of the same kind of messages into one embedded PostgreSQL with fsync on,
from one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import psycopg

from bench import bulk
from bench.figures import Goal, Measure, MeasuringFailed, Suite, percentile, rotated
from bench.peers import direct_writes
from bench.peers.direct_writes import BareCoalescer, Transactions
from bench.traffic import Traffic
from pagewire.store.v1.ingest_service_pb2 import DELIVERY_STATE_STORED, Delivery
from pagewire_cli.embedded import embedded_postgres
from pagewire_store.database import open_pools
from pagewire_store.ingest import Ingestor
from pagewire_store.migrating import migrate
from pagewire_store.waking import Waking
from pagewire_webhook.deliveries import delivery_of, new_delivery_id

CALLERS = 64
POOL = 16
OURS, BARE = "pagewire", "bare coalescer"
EACH, THREE = "a transaction a webhook", "in three statements"
PAGES = ("1001", "1002", "1003")

Store: TypeAlias = Callable[[Delivery], Awaitable[None]]


@dataclass
class Rounds:
    """What was measured of one way to store, a value a round."""

    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    alone_p50: list[float] = field(default_factory=list)


async def measured(folder: Path, *, quick: bool) -> Suite:
    rounds, count = (2, 500) if quick else (7, 4_000)
    with embedded_postgres(folder / "postgres") as url:
        migrate(url)
        async with _ways(url) as ways:
            found = {name: Rounds() for name in ways}
            for turn in range(-1, rounds):
                for name in rotated(list(ways), turn):
                    into = found[name] if turn >= 0 else Rounds()  # the first round warms up
                    load = f"{name.replace(' ', '_')}{turn + 1}"
                    await _measure(ways[name], load, count, into)
                    _check(url, load, count + count // 8)
        in_bulk = await bulk.measured(folder, url, quick=quick)
    notes = [
        f"{CALLERS} callers; the peer's pool is of {POOL}",
        f"bulk: calls of {bulk.CALL_ROWS} messages, {bulk.IN_FLIGHT} in flight, new ones into empty"
        " tables; the limit is the same statement over rows that lie in the server",
    ]
    return Suite("store", [*_measures(found), *in_bulk], notes)


@contextlib.asynccontextmanager
async def _ways(url: str) -> AsyncIterator[dict[str, Store]]:
    """The ways to store a delivery."""
    pools = open_pools(url, 13)
    ingestor = Ingestor(
        pools.ingest,
        wake=lambda: None,
        outbox=Waking(url),
        bind_echoes=_none,
        bind_comments=_none,
    )

    async def ours(delivery: Delivery) -> None:
        (result,) = await ingestor.ingest([delivery])
        if result.state != DELIVERY_STATE_STORED:
            raise MeasuringFailed(f"a delivery was not stored: {result.reason or 'busy'}")

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(pools.dispose)
        stack.push_async_callback(ingestor.close)
        connections = [
            await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(url, autocommit=True)
            )
            for _ in range(POOL + 1)
        ]
        await connect_pages(connections[0])
        yield {
            OURS: ours,
            EACH: Transactions(connections[1:], direct_writes.A_TABLE).store,
            THREE: Transactions(connections[1:], direct_writes.THREE).store,
            BARE: BareCoalescer(connections[0]).store,
        }


async def connect_pages(connection: psycopg.AsyncConnection[Any]) -> None:
    """Puts the pages of `read` into the database."""
    for page in PAGES:
        await connection.execute(_CONNECT, (page,))


_CONNECT = b"""
insert into page (page_id, platform, login, name, state, connected, connected_at)
values (%s, 'messenger', 'facebook', 'A page', 'healthy', true, now())
"""


async def _none(*_: object, **__: object) -> NoReturn:
    raise AssertionError("there are no echoes in these loads")


async def _measure(store: Store, load: str, count: int, into: Rounds) -> None:
    seconds, latencies = await driven(store, read(f"{load}-many", count), CALLERS)
    into.rate.append(count / seconds)
    into.p50.append(percentile(latencies, 0.5))
    into.p99.append(percentile(latencies, 0.99))
    _, latencies = await driven(store, read(f"{load}-alone", count // 8), 1)
    into.alone_p50.append(percentile(latencies, 0.5))


async def driven(
    store: Store, deliveries: Iterable[Delivery], callers: int
) -> tuple[float, list[float]]:
    """Seconds in all, and the milliseconds of each, with so many callers at once."""
    left, latencies = iter(deliveries), list[float]()

    async def call() -> None:
        for delivery in left:
            began = time.perf_counter()
            await store(delivery)
            latencies.append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return time.perf_counter() - began, latencies


def read(load: str, count: int) -> list[Delivery]:
    """Messages as the edge hands them on, read from their bodies."""
    now_ms = int(time.time() * 1000)
    traffic = Traffic(name=load, pages=PAGES, people=500, messages=count, sent_ms=now_ms)
    return [
        delivery_of(body, delivery_id=new_delivery_id(now_ms), received_ms=now_ms, signed_by="app")
        for body in traffic.bodies()
    ]


def _check(url: str, load: str, count: int) -> None:
    """MeasuringFailed unless each message of the load is there once, as an event and a message."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(_COUNT, {"load": f"%m_{load}-%"}).fetchone()
    if found != (count, count):
        raise MeasuringFailed(f"{load}: of {count} messages there are events, messages: {found}")


_COUNT = b"""
select (select count(*) from event where event_key like %(load)s),
    (select count(*) from message where mid like %(load)s)
"""


def _measures(found: dict[str, Rounds]) -> list[Measure]:
    ours, each, three, bare = (found[name] for name in (OURS, EACH, THREE, BARE))
    rate = Measure(
        "ingest_at_64",
        "webhooks/s",
        ours.rate,
        goal=Goal(6, EACH),
        limit=bare.rate,
        peers={EACH: each.rate, THREE: three.rate},
    )
    latencies = [
        Measure(
            name,
            "ms",
            getattr(ours, attribute),
            higher=False,
            limit=getattr(bare, attribute),
            peers={EACH: getattr(each, attribute), THREE: getattr(three, attribute)},
        )
        for name, attribute in (
            ("ingest_at_64_p50", "p50"),
            ("ingest_at_64_p99", "p99"),
            ("ingest_alone_p50", "alone_p50"),
        )
    ]
    return [rate, *latencies]
