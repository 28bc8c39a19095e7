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
from typing import TYPE_CHECKING, LiteralString

import grpc
import psycopg
from psycopg import sql

from faults.balancing import balanced
from faults.evidence import Lane
from faults.postgres import Lost
from faults.rig import Rig
from faults.rows import Struck, row
from faults.rows.sends import lively
from faults.servers import Stop
from faults.shown import shown
from faults.toxics import Hang
from pagewire.store.v1.operation_service_pb2 import ListQuarantinedRequest
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire_runtime.auth import parse_service_tokens
from pagewire_simulator.acts import Say
from pagewire_simulator.plan import Plan

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

WITHIN = 60.0
"""Seconds for what must happen by itself, on a busy machine."""
HEALS_WITHIN = 5.0
IDLE_SECONDS = 5.0
"""After which PostgreSQL ends a transaction in which nothing is said."""
PAUSED_SLOWEST = 5.0
READERS = 20
TALKING = 4
"""People who say something in each of many instants."""
AT_ONCE = 64
"""POSTs, so that no edge is idle where another one is slow."""
SLOW_ONES = 8
SLOW_INSERTS: LiteralString = """
    create sequence witness.slow minvalue 0;
    create function witness.dawdle() returns trigger language plpgsql security definer as $$
    begin
        if random() < 0.3 then
            perform nextval('witness.slow');
            perform pg_sleep(0.9);
        end if;
        return null;
    end $$;
    create trigger dawdle after insert on public.event
        for each statement execute function witness.dawdle();
"""
HOW_MANY_SLOW: LiteralString = "select last_value from witness.slow"
USUAL_INSERTS: LiteralString = """
    drop function witness.dawdle cascade;
    drop sequence witness.slow;
"""
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
    lane = await next_lane(rig)
    async with locked(rig, LANE, lane):
        await asyncio.sleep(draw.uniform(3, 10))
    return Struck(isolates=True, held=frozenset({lane}))


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
    async with slow_reads(rig):
        await asyncio.sleep(draw.uniform(2, 10))
    return Struck(isolates=True)


@contextlib.asynccontextmanager
async def slow_reads(rig: Rig) -> AsyncIterator[list[grpc.StatusCode]]:
    """Readers who wait for a lock within the block; how each was refused so far."""
    token = parse_service_tokens(rig.system.env["SERVICE_TOKENS"]).first("operator")
    metadata = (("authorization", f"Bearer {token}"),)
    answers: list[grpc.StatusCode] = []
    lock = sql.SQL("lock table quarantine in access exclusive mode")

    async def read(store: OperationServiceAsyncStub) -> None:
        while True:
            try:
                await store.ListQuarantined(
                    ListQuarantinedRequest(), metadata=metadata, timeout=WITHIN
                )
            except grpc.aio.AioRpcError as refused:
                answers.append(refused.code())
            await asyncio.sleep(0.05)

    target = rig.system.addresses["store"]
    async with locked(rig, lock), grpc.aio.insecure_channel(target) as channel:
        store: OperationServiceAsyncStub = OperationServiceStub(channel)
        readers = [asyncio.create_task(read(store)) for _ in range(READERS)]
        try:
            yield answers
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)


@row("F34", weight="postgres", proxies=TO_THE_STORE)
async def commits_are_not_answered(rig: Rig, draw: random.Random) -> Struck:
    """The answer to a COMMIT is lost: of an ingest, of a decision, of a reply that is sent."""
    for saying in ("into event", "into decision", "into attempt"):
        await rig.commits.lose(Lost.ANSWER, saying=saying, times=draw.randint(1, 3)).happened(
            WITHIN
        )
    return Struck()


@row("F34b", weight="postgres", proxies=TO_THE_STORE)
async def connections_vanish(rig: Rig, draw: random.Random) -> Struck:
    """Every open connection to PostgreSQL becomes a black hole; those made later serve."""
    with rig.proxy("store", "postgres").suffering(Hang(), old_only=True):
        await asyncio.sleep(draw.uniform(3, 20))
        return await serves_again(rig)


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
    """Some commits of events wait when they have their numbers, and Meta comes by all edges.

    So what few people say in one go would be stored in another order than it was numbered, where
    there are two stores and nothing but the lane's lock to prevent it.
    """
    page = await lively(rig, draw)
    people = [(await rig.meta.create_person(page.id)).id for _ in range(TALKING)]
    least = SLOW_ONES * len(rig.processes("store")) + draw.randint(0, SLOW_ONES)
    async with slow_inserts(rig), all_edges(rig), asyncio.timeout(WITHIN):
        while int(str(await rig.postgres.ask(HOW_MANY_SLOW))) < least:
            said = [Say(account=page.id, person=person, text="hello") for person in people]
            await rig.meta.acts(said)
            await asyncio.sleep(draw.uniform(0.1, 0.2))
    return Struck(slowest=PAUSED_SLOWEST)


@contextlib.asynccontextmanager
async def slow_inserts(rig: Rig) -> AsyncIterator[None]:
    """Some statements that store events take a while after they have drawn numbers."""
    await rig.postgres.ask(SLOW_INSERTS)
    try:
        yield
    finally:
        await rig.postgres.ask(USUAL_INSERTS)


@contextlib.asynccontextmanager
async def all_edges(rig: Rig) -> AsyncIterator[None]:
    """Meta's connections go to each edge in turn, as through a balancer."""
    at = rig.system.addresses
    edges = [at[name.replace("webhook", "public")] for name in rig.processes("webhook")]
    with contextlib.ExitStack() as torn:
        async with balanced([edge.removeprefix("http://") for edge in edges]) as address:
            await rig.meta.options(plan={"connections": AT_ONCE})
            await rig.meta.webhook(f"http://{address}")
            try:
                yield
            finally:
                await rig.meta.webhook(edges[0])
                await rig.meta.options(plan={"connections": Plan().connections})
                # The balancer ends with what it still has in hand, which no edge can help.
                torn.enter_context(rig.silences.unable())


async def faulty(rig: Rig, rules: str, seconds: float) -> None:
    """The store has these faults for so long."""
    rig.fault("store", rules)
    try:
        await asyncio.sleep(seconds)
    finally:
        rig.fault("store")
