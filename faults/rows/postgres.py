"""PostgreSQL goes: stopped, crashed, hung, read-only, full of others; locks; commits that are lost.

Whatever befalls it, what was acknowledged is there, what cannot be stored is refused with 503, and
all goes on by itself when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import grpc
import psycopg
from psycopg import sql

from faults.evidence import Lane
from faults.postgres import Lost
from faults.rig import Rig
from faults.rows import Struck, row
from faults.servers import Stop
from faults.shown import shown
from pagewire.store.v1.operation_service_pb2 import ListQuarantinedRequest
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire_runtime.auth import parse_service_tokens

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

WITHIN = 30.0
"""Seconds for what must happen by itself, on a busy machine."""
HEALS_WITHIN = 5.0
IDLE_SECONDS = 5.0
"""After which PostgreSQL ends a transaction in which nothing is said."""
PAUSED_SLOWEST = 5.0
READERS = 20
TO_THE_STORE = frozenset({("store", "postgres")})


async def next_lane(rig: Rig) -> Lane:
    """The lane of the next person who writes. TimeoutError: nobody does."""
    newest = await rig.postgres.ask("select coalesce(max(number), 0) from event")
    after = (
        "from event where number > %s and lane like 'person:%%' and trigger > 0"
        " order by number limit 1"
    )
    async with asyncio.timeout(WITHIN):
        while (page := await rig.postgres.ask(f"select page_id {after}", (newest,))) is None:
            await asyncio.sleep(0.05)
    return str(page), str(await rig.postgres.ask(f"select lane {after}", (newest,)))


def lane_lease(rig: Rig) -> float:
    """Seconds."""
    return float(rig.system.env.get("STORE_LANE_LEASE_SECONDS", 8))


async def taken(rig: Rig) -> float:
    """How many webhooks were stored so far, as the edge counts."""
    return await shown(rig, "webhook", "pagewire_webhook_deliveries_total", outcome="parsed")


async def serves_again(rig: Rig, *, slowest: float = 2.5) -> Struck:
    """Waits for the next 200; it is told as a recovery. TimeoutError: there is none."""
    since, before = time.monotonic(), await taken(rig)
    async with asyncio.timeout(WITHIN):
        while await taken(rig) == before:
            await asyncio.sleep(0.05)
    return Struck(recoveries={"postgres": (time.monotonic() - since,)}, slowest=slowest)


async def stopped(rig: Rig, how: Stop, seconds: float) -> Struck:
    """PostgreSQL is away for so long."""
    await rig.postgres.stop(how)
    try:
        await asyncio.sleep(seconds)
    finally:
        await rig.postgres.start()
    return await serves_again(rig)


@row("F20", weight="postgres")
async def restarts(rig: Rig, draw: random.Random) -> Struck:
    """PostgreSQL is restarted as an administrator does it."""
    return await stopped(rig, Stop.FAST, 0)


@row("F21", weight="postgres")
async def crashes(rig: Rig, draw: random.Random) -> Struck:
    """PostgreSQL crashes, or all of its processes are killed, and it recovers."""
    return await stopped(rig, draw.choice([Stop.IMMEDIATE, Stop.KILL]), 0)


@row("F22", weight="postgres")
async def is_away(rig: Rig, draw: random.Random) -> Struck:
    """PostgreSQL is away for up to half a minute."""
    return await stopped(rig, Stop.FAST, draw.uniform(2, 30))


@row("F23", weight="postgres")
async def is_away_for_long(rig: Rig, draw: random.Random) -> Struck:
    """PostgreSQL is away for longer than any pause between two tries."""
    return await stopped(rig, Stop.IMMEDIATE, draw.uniform(3, 120))


@row("F24", weight="postgres")
async def hangs(rig: Rig, draw: random.Random) -> Struck:
    """All processes of PostgreSQL stand still: connections stay open and nothing answers."""
    rig.postgres.hang()
    try:
        await asyncio.sleep(draw.uniform(3, 20))
    finally:
        rig.postgres.resume()
    return await serves_again(rig)


@row("F26", weight="postgres")
async def turns_read_only(rig: Rig, draw: random.Random) -> Struck:
    """PostgreSQL takes no writes, as one that has become a replica."""
    await rig.postgres.read_only(True)
    try:
        await asyncio.sleep(draw.uniform(2, 10))
    finally:
        await rig.postgres.read_only(False)
    return await serves_again(rig)


@contextlib.asynccontextmanager
async def locked(rig: Rig, query: sql.SQL, values: Sequence[object] = ()) -> AsyncIterator[None]:
    """Another session holds what this query locks."""
    connection = await psycopg.AsyncConnection.connect(rig.postgres.url)
    async with connection:
        await connection.execute(query, values)
        yield


LANE = sql.SQL("select from lane where page_id = %s and lane = %s for update")


@row("F29", weight="postgres")
async def lane_is_held(rig: Rig, draw: random.Random) -> Struck:
    """Another session holds one lane's row."""
    async with locked(rig, LANE, await next_lane(rig)):
        await asyncio.sleep(draw.uniform(3, 10))
    return Struck()


@row("F31", weight="postgres")
async def transactions_collide(rig: Rig, draw: random.Random) -> Struck:
    """One transaction in five ends in a deadlock, or cannot be put in an order."""
    rules = [
        f"store.{part}.before_commit=raise:{state} p=0.2@{draw.getrandbits(30)}"
        for part, state in [("ingest", "40001"), ("decide", "40P01"), ("settle", "40001")]
    ]
    await faulty(rig, ";".join(rules), draw.uniform(2, 10))
    return Struck()


@row("F32", weight="postgres")
async def too_many_connections(rig: Rig, draw: random.Random) -> Struck:
    """Others take all connections while every service starts anew."""
    names = [name for name in rig.system.supervisor.processes if name != "simulator"]
    kills = 0
    recoveries: dict[str, tuple[float, ...]] = dict.fromkeys(names, ())
    for _ in range(draw.randint(1, 5)):
        await asyncio.gather(*map(rig.kill, names))
        async with crowd(rig):
            await asyncio.sleep(1)
        seconds = await asyncio.gather(*(rig.back(name, WITHIN) for name in names))
        recoveries = {
            name: (*recoveries[name], took) for name, took in zip(names, seconds, strict=True)
        }
        kills += len(names)
    return Struck(kills, recoveries)


@contextlib.asynccontextmanager
async def crowd(rig: Rig) -> AsyncIterator[None]:
    """Sessions of others, as many as PostgreSQL bears."""
    async with contextlib.AsyncExitStack() as sessions:
        with contextlib.suppress(psycopg.OperationalError):  # "too many clients already"
            while True:
                session = await psycopg.AsyncConnection.connect(rig.postgres.url)
                sessions.push_async_callback(session.close)
        yield


@row("F33", weight="postgres")
async def reads_are_slow(rig: Rig, draw: random.Random) -> Struck:
    """Twenty readers wait for what others hold, and take all connections for reading."""
    await with_slow_reads(rig, draw.uniform(2, 10))
    return Struck()


async def with_slow_reads(rig: Rig, seconds: float) -> list[grpc.StatusCode]:
    """How the readers were answered, when so many seconds are over."""
    token = parse_service_tokens(rig.system.env["SERVICE_TOKENS"]).first("operator")
    metadata = (("authorization", f"Bearer {token}"),)
    answers: list[grpc.StatusCode] = []
    lock = sql.SQL("lock table quarantine in access exclusive mode")

    async def read(store: OperationServiceAsyncStub, until: float) -> None:
        while time.monotonic() < until:
            try:
                await store.ListQuarantined(ListQuarantinedRequest(), metadata=metadata, timeout=5)
            except grpc.aio.AioRpcError as refused:
                answers.append(refused.code())
            await asyncio.sleep(0.05)

    target = rig.system.addresses["store"]
    async with locked(rig, lock), grpc.aio.insecure_channel(target) as channel:
        until = time.monotonic() + seconds
        store: OperationServiceAsyncStub = OperationServiceStub(channel)
        await asyncio.gather(*(read(store, until) for _ in range(READERS)))
    return answers


@row("F34", weight="postgres", proxies=TO_THE_STORE)
async def commits_are_not_answered(rig: Rig, draw: random.Random) -> Struck:
    """The answer to a COMMIT is lost: of an ingest, of a decision, of a reply that is sent."""
    for saying in ("into event", "into decision", "into attempt"):
        await rig.commits.lose(Lost.ANSWER, saying=saying, times=draw.randint(1, 3)).happened(
            WITHIN
        )
    return Struck()


@row("F35", weight="postgres")
async def sessions_are_ended(rig: Rig, draw: random.Random) -> Struck:
    """Sessions of the store are ended in the middle of their transactions, twice a second."""
    for _ in range(draw.randint(4, 20)):
        await rig.postgres.terminate_backends(draw.randint(1, 3))
        await asyncio.sleep(0.5)
    return Struck()


@row("F36", weight="postgres")
async def store_stands_still_in_a_transaction(rig: Rig, draw: random.Random) -> Struck:
    """The store stands still while it holds lanes, until PostgreSQL ends its transaction."""
    blocks = "pagewire_event_loop_blocks_total"
    before = await shown(rig, "store", blocks)
    rig.fault("store", f"store.ingest.begun=block:{IDLE_SECONDS + 1}s once")
    try:
        async with asyncio.timeout(WITHIN):
            while await shown(rig, "store", blocks) == before:
                await asyncio.sleep(0.2)
    finally:
        rig.fault("store")
    return Struck(slowest=PAUSED_SLOWEST)


@row("F38", weight="postgres")
async def commits_overtake_each_other(rig: Rig, draw: random.Random) -> Struck:
    """Half of all commits wait a while, so that they end in another order than they began."""
    rules = [
        f"store.{part}.before_commit=sleep:{pause}ms p=0.5@{draw.getrandbits(30)}"
        for part, pause in [("ingest", 150), ("ingest", 400), ("decide", 200), ("outbox", 100)]
    ]
    await faulty(rig, ";".join(rules), draw.uniform(3, 10))
    return Struck()


async def faulty(rig: Rig, rules: str, seconds: float) -> None:
    """The store has these faults for so long."""
    rig.fault("store", rules)
    try:
        await asyncio.sleep(seconds)
    finally:
        rig.fault("store")
