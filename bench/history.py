"""History: what Graph holds into PostgreSQL, beside the fewest calls that Graph's limits allow.

The launcher's system with the simulator as Graph: a call takes it 200–300 ms, a batch 500–800 ms,
and a page holds at most 100 threads or 2,500 messages. Once with Meta's two calls a second, once
without. After each run the store holds what the simulator has, or the suite has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg

from bench import bulk, client
from bench.driving import Open, Target
from bench.edge import PATH
from bench.figures import Goal, Measure, MeasuringFailed, Suite, percentile
from bench.generator import generating
from bench.live import Rounds
from bench.peers import graph_reads
from bench.peers.bulk_writes import PAGE
from bench.peers.graph_reads import Source
from bench.receivers import Pagewire
from bench.traffic import Traffic
from bench.world import PEOPLE, World
from pagewire.type.v1.page_pb2 import Platform
from pagewire_cli.launcher import System, running
from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_sync.listing import thread_fields
from pagewire_sync.shapes import FIRST

OURS, BOUND = "pagewire", "the bound"
STORE, SIMULATOR = "the store's own bulk rate", "the simulator's own ceiling"
NOTHING_ARCHIVED = "nothing archived"
ARCHIVED = 95
"""Per cent of a page's messages."""
CALLS = 5
RENDERED = {
    "platform": "messenger",
    "fields": thread_fields(Platform.PLATFORM_MESSENGER, FIRST.messages),
    "limit": str(FIRST.threads),
}
"""What a full run asks of a page first, and of a small one alone."""
CALL_SECONDS, CALLS_PER_SECOND = 0.25, 2.0
TWO_CALLS_SECONDS = 0.2 + 0.1 * 2 / 3
"""The longer of two calls at once, on the average: a full run reads the page's labels beside."""
SHORT_ROUNDS = 7
"""Of what takes one call: its latency is drawn between 200 and 300 ms."""
STORED = 20_000
"""Messages by which the store's own rate is measured."""
LISTED, NESTED = 100, 25
"""Threads that a page holds at most, and messages of each: together the most that Graph bears."""
MESSAGES = 20
ACK_RATE = 50
ENDED = ("succeeded", "partial", "failed", "cancelled")
PEERS: dict[str, Callable[[Source], int]] = {
    "calls one by one": graph_reads.one_by_one,
    "threads without limits": graph_reads.unbounded_threads,
    "Meta's SDK, batches of 50": graph_reads.sdk_batches,
}


@dataclass(frozen=True)
class Sizes:
    """How much is mirrored."""

    rounds: int
    conversations: int
    beside_peers: int
    """Conversations of the page that the peers read too, which take long for it."""
    of_five: int
    """Conversations of each of five pages."""
    pages: Sequence[int]
    """How many pages are mirrored at once without latency."""
    of_many: int
    """Conversations of each of them."""


_FULL = Sizes(3, 1_000, 100, 300, (10, 100, 500), 20)
_QUICK = Sizes(1, 300, 30, 100, (10,), 20)


async def measured(folder: Path, *, quick: bool) -> Suite:
    sizes, found = (_QUICK if quick else _FULL), Rounds()
    in_flight = await client.in_flight(folder, quick=quick)
    async with _mirror(folder / "limited", limited=True) as mirror:
        for _ in range(sizes.rounds):
            await _full(mirror, "limited", sizes, found)
        await _peers(mirror, "limited", sizes, found)
        await _ack_beside(mirror, folder, sizes, found)
    async with _mirror(folder / "free", limited=False) as mirror:
        for _ in range(sizes.rounds):
            await _full(mirror, "free", sizes, found)
            await _five_pages(mirror, sizes, found)
        await _again(mirror, sizes, found)
        for _ in range(1 if quick else SHORT_ROUNDS):
            await _incremental(mirror, found)
            await _few_messages(mirror, found)
        await _fifty_pages(mirror, sizes, found)
        await _peers(mirror, "free", sizes, found)
        await _without_latency(mirror, sizes, found)
    return Suite("history", [*_measures(found, sizes), *in_flight], _NOTES)


class Mirror:
    """The system, asked over its operator API, and the Meta that it mirrors."""

    def __init__(
        self,
        system: System,
        meta: SimulatorClient,
        http: httpx.AsyncClient,
        database: psycopg.AsyncConnection[Any],
    ) -> None:
        self.system = system
        self.meta = meta
        self._http = http
        self.database = database

    async def page(self, **history: Any) -> AccountView:
        """A connected page with such a past."""
        (account,) = await self.pages(1, **history)
        return account

    async def pages(self, count: int, **history: Any) -> list[AccountView]:
        """Connected pages with such a past each."""
        accounts = [await self.meta.create_account() for _ in range(count)]
        for account in accounts:
            await self.meta.create_history(account.id, messages=MESSAGES, **history)
            await self.connect(account.id, account.token, account.name)
        async with asyncio.timeout(60 + count):
            while not await self._are_healthy(accounts):  # noqa: ASYNC110  # the API tells nobody
                await asyncio.sleep(0.2)
        return accounts

    async def connect(self, page_id: str, token: str, name: str) -> None:
        """Connects a page."""
        body = {"platform": "messenger", "page_id": page_id, "name": name, "access_token": token}
        await self._asked("POST", "/api/pages", body)

    async def disconnect(self, page_id: str) -> None:
        """Disconnects it, so that no later run is about it."""
        await self._asked("DELETE", f"/api/pages/{page_id}", None)

    async def sync(self, account: AccountView, mode: str) -> float:
        """Seconds of a run, from its asking to its end."""
        began = time.perf_counter()
        body = {"pageId": account.id, "mode": mode}
        run = await self._asked("POST", "/api/conversations/sync?wait=true", body)
        seconds = time.perf_counter() - began
        if run["state"] != "succeeded":
            raise MeasuringFailed(f"a run ended {run['state']}: {run['error']}")
        return seconds

    async def sync_all(self, mode: str = "auto") -> float:
        """Seconds of a run of every page."""
        began = time.perf_counter()
        path = "/api/conversations/sync-all?wait=true"
        answer = await self._asked("POST", path, {"mode": mode})
        seconds = time.perf_counter() - began
        for run_id in answer["run_ids"]:
            run = await self._asked("GET", f"/api/sync-runs/{run_id}", None)
            if run["state"] != "succeeded":
                raise MeasuringFailed(f"a run ended {run['state']}: {run['error']}")
        return seconds

    async def forget(self, accounts: Sequence[AccountView]) -> None:
        """Disconnects the pages."""
        for account in accounts:
            await self.disconnect(account.id)

    async def check(self, accounts: Sequence[AccountView]) -> int:
        """How many messages are stored. MeasuringFailed: not those that the simulator has."""
        stored = 0
        for account in accounts:
            truth = await self.meta.truth(account.id)
            theirs = {
                message.mid
                for conversation in truth.conversations
                for message in conversation.messages
                if message.shown != "gone"
            }
            cursor = await self.database.execute(
                "select mid from message where page_id = %s", (account.id,)
            )
            ours = {mid for (mid,) in await cursor.fetchall()}
            if missing := len(theirs - ours):
                raise MeasuringFailed(f"{missing} of {len(theirs)} messages are not stored")
            stored += len(ours)
        return stored

    async def emptied(self, accounts: Sequence[AccountView]) -> int:
        """Forgets what is stored of the pages; how many messages those were."""
        pages = ([account.id for account in accounts],)
        deleted = await self.database.execute("delete from message where page_id = any(%s)", pages)
        await self.database.execute("delete from conversation where page_id = any(%s)", pages)
        await self.database.execute("vacuum analyze message, conversation")
        return deleted.rowcount

    async def rows_as_written(self, account: AccountView) -> str:
        """Changes with every write and every lock of a message of the page."""
        cursor = await self.database.execute(
            "select md5(string_agg(concat(mid, ctid, xmin, xmax), ',' order by mid))"
            " from message where page_id = %s",
            (account.id,),
        )
        ((fingerprint,),) = await cursor.fetchall()
        return str(fingerprint)

    def source(self, account: AccountView) -> Source:
        env = self.system.env
        host = env["GRAPH_BASE_URL"].rstrip("/")
        secret = env["META_APP_SECRET"].split(",")[0]
        return Source(host, account.id, account.token, env["META_APP_ID"], secret)

    async def _asked(self, method: str, path: str, body: Any) -> Any:
        answer = await self._http.request(method, path, json=body)
        if answer.is_error:
            raise MeasuringFailed(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json()

    async def _are_healthy(self, accounts: Sequence[AccountView]) -> bool:
        listed = await self._asked("GET", "/api/pages?page_size=1000", None)
        states = {page["page_id"]: page["state"] for page in listed["pages"]}
        return all(states.get(account.id) == "healthy" for account in accounts)


@contextlib.asynccontextmanager
async def _mirror(folder: Path, *, limited: bool) -> AsyncIterator[Mirror]:
    env = {"STORE_SYNC_INTERVAL_SECONDS": "0"}
    if not limited:
        env["SYNC_CONVERSATION_CALLS_PER_SECOND"] = "10000"
    async with (
        running(folder, env=env) as system,
        SimulatorClient(system.addresses["simulator"]) as meta,
        httpx.AsyncClient(
            base_url=system.addresses["operator"],
            headers={"Authorization": f"Bearer {system.env['API_KEYS'].split(',')[0]}"},
            timeout=600,
            trust_env=False,
        ) as http,
        await psycopg.AsyncConnection.connect(
            system.servers["postgres"].url, autocommit=True
        ) as database,
    ):
        await meta.options(
            latency="plain",
            rates={"conversation_reads": CALLS_PER_SECOND if limited else 0},
            reading={"limit_max": LISTED, "weight": LISTED * NESTED},
        )
        yield Mirror(system, meta, http, database)


def bound(calls: int, *, limited: bool) -> float:
    """Seconds that so many calls of one page take at the least, one after the other."""
    alone = TWO_CALLS_SECONDS if calls == 1 else calls * CALL_SECONDS
    return max(alone, calls / CALLS_PER_SECOND if limited else 0)


async def _full(mirror: Mirror, form: str, sizes: Sizes, found: Rounds) -> None:
    account = await mirror.page(conversations=sizes.conversations)
    found.add(f"full_{form}", OURS, await mirror.sync(account, "full"))
    calls = math.ceil(sizes.conversations / LISTED)
    found.add(f"full_{form}", BOUND, bound(calls, limited=form == "limited"))
    await mirror.check([account])
    await mirror.forget([account])


async def _peers(mirror: Mirror, form: str, sizes: Sizes, found: Rounds) -> None:
    """A smaller page, once: some of the others take minutes for it."""
    account = await mirror.page(conversations=sizes.beside_peers)
    name = f"peers_{form}"
    found.add(name, OURS, await mirror.sync(account, "full"))
    calls = math.ceil(sizes.beside_peers / LISTED)
    found.add(name, BOUND, bound(calls, limited=form == "limited"))
    count = await mirror.check([account])
    for peer, read in PEERS.items():
        began = time.perf_counter()
        if await asyncio.to_thread(read, mirror.source(account)) != count:
            raise MeasuringFailed(f"{peer}: did not read {count} messages")
        found.add(name, peer, time.perf_counter() - began)
    await mirror.forget([account])


async def _again(mirror: Mirror, sizes: Sizes, found: Rounds) -> None:
    """A whole page that is stored already, and the same with most of its messages archived."""
    account = await mirror.page(conversations=sizes.conversations)
    await mirror.sync(account, "full")
    for name in (NOTHING_ARCHIVED, "again_archived"):
        if name == "again_archived":
            await mirror.database.execute(_ARCHIVE, (account.id, ARCHIVED))
        before = await mirror.rows_as_written(account)
        seconds = await mirror.sync(account, "full")
        if await mirror.rows_as_written(account) != before:
            raise MeasuringFailed(f"{name}: messages that have not changed were written or locked")
        found.add("again_archived", OURS if name == "again_archived" else name, seconds)
    await mirror.forget([account])


_ARCHIVE = """
update message set is_archived = true
where page_id = %s and abs(hashtext(mid)) %% 100 < %s
"""


async def _incremental(mirror: Mirror, found: Rounds) -> None:
    account = await mirror.page(conversations=100, newest_ago=86_400)
    await mirror.sync(account, "full")
    await mirror.meta.create_history(account.id, conversations=10, messages=2, newest_ago=0, days=0)
    found.add("incremental_10", OURS, await mirror.sync(account, "incremental"))
    found.add("incremental_10", BOUND, await _call_seconds(mirror, account) * 1.15 + 0.03)
    await mirror.check([account])
    await mirror.forget([account])


async def _few_messages(mirror: Mirror, found: Rounds) -> None:
    for count in (100, 1_000):
        account = await mirror.page(conversations=count // MESSAGES)
        name = f"messages_{count}"
        found.add(name, OURS, await mirror.sync(account, "full"))
        found.add(name, BOUND, bound(1, limited=False))
        await mirror.check([account])
        await mirror.forget([account])
    account = await mirror.page(conversations=1, long_threads=1, long_messages=1_000)
    found.add("thread_of_1000", OURS, await mirror.sync(account, "full"))
    found.add("thread_of_1000", BOUND, bound(1_000 // LISTED, limited=False))
    await mirror.check([account])
    await mirror.forget([account])


async def _five_pages(mirror: Mirror, sizes: Sizes, found: Rounds) -> None:
    alone = await mirror.page(conversations=sizes.of_five)
    slowest = await mirror.sync(alone, "full")
    await mirror.forget([alone])
    accounts = await mirror.pages(5, conversations=sizes.of_five)
    found.add("five_pages", OURS, await mirror.sync_all())
    found.add("five_pages", BOUND, slowest)
    await mirror.check(accounts)
    await mirror.forget(accounts)


async def _fifty_pages(mirror: Mirror, sizes: Sizes, found: Rounds) -> None:
    accounts = await mirror.pages(50, conversations=5, newest_ago=86_400)
    await mirror.sync_all()
    for _ in range(sizes.rounds):
        before = await mirror.meta.calls()
        found.add("fifty_pages", OURS, await mirror.sync_all())
        new = (await mirror.meta.calls())[len(before) :]
        reads = [call for call in new if call.endpoint == "conversations"]
        found.add("fifty_pages_requests", OURS, _requests(reads))
        found.add("fifty_pages", BOUND, await _batch_seconds(mirror, accounts))
    await mirror.forget(accounts)


def _requests(calls: Sequence[Any]) -> int:
    """HTTP requests that so many calls came in."""
    return len({call.batch for call in calls if call.batch}) + sum(
        1 for call in calls if not call.batch
    )


async def _batch_seconds(mirror: Mirror, accounts: Sequence[AccountView]) -> float:
    """One batch of the pages' list calls, made by hand."""
    sources = [mirror.source(account) for account in accounts]
    return await asyncio.to_thread(graph_reads.one_batch, sources)


async def _call_seconds(mirror: Mirror, account: AccountView) -> float:
    """A list call made by hand: the mean of some, for the latency of each is drawn."""
    return await asyncio.to_thread(graph_reads.one_call, mirror.source(account), CALLS)


async def _without_latency(mirror: Mirror, sizes: Sizes, found: Rounds) -> None:
    """End to end into PostgreSQL, as many pages as there are, and the store's own rate."""
    await mirror.meta.options(latency="none", rendered=True)
    rate = await _stored_directly(mirror)
    for count in sizes.pages:
        accounts = await mirror.pages(count, conversations=sizes.of_many)
        await mirror.sync_all()  # the simulator renders each answer when it is first asked for it
        messages = await mirror.emptied(accounts)
        seconds = await mirror.sync_all("full")
        if await mirror.check(accounts) != messages:
            raise MeasuringFailed("not all that was there before is there again")
        name = f"end_to_end_{count}_pages"
        found.add(name, OURS, messages / seconds)
        found.add(name, STORE, rate)
        found.add(name, SIMULATOR, await _served(mirror, accounts, messages))
        await mirror.forget(accounts)


async def _served(mirror: Mirror, accounts: Sequence[AccountView], messages: int) -> float:
    """Messages a second that the simulator serves to who does nothing with them."""
    began = time.perf_counter()
    await asyncio.to_thread(
        graph_reads.all_at_once, [mirror.source(account) for account in accounts], RENDERED
    )
    return messages / (time.perf_counter() - began)


async def _stored_directly(mirror: Mirror) -> float:
    """Messages a second that the store takes from who has them at hand."""
    await mirror.connect(PAGE, "a-token-of-nobody", "A page")
    system, rates = mirror.system, []
    tokens = dict(each.split(":", 1) for each in system.env["SERVICE_TOKENS"].split(","))
    caller = bulk.Caller(system.addresses["store"], tokens["sync"])
    for load in ("warm", "once", "twice", "thrice"):
        calls = bulk.requests(bulk.messages(load, STORED))
        began = time.perf_counter()
        new, _ = await caller.upsert(calls)
        rates.append(new / (time.perf_counter() - began))
    await caller.close()
    await mirror.disconnect(PAGE)
    return statistics.median(rates[1:])


async def _ack_beside(mirror: Mirror, folder: Path, sizes: Sizes, found: Rounds) -> None:
    """The p95 of acks without and with a full run, over its length."""
    world = World(mirror.meta)
    await world.prepare()
    ours = Pagewire(mirror.system, await world.pages(2, 700), mirror.database)
    await ours.prepare()
    account = await mirror.page(conversations=sizes.conversations)
    seconds = bound(math.ceil(sizes.conversations / LISTED), limited=True)
    with generating(folder) as generator:
        for beside in ("warm", "alone", "beside a run"):
            traffic = Traffic(
                name=beside.replace(" ", "_"),
                pages=ours.pages,
                people=PEOPLE,
                messages=int(seconds * ACK_RATE),
                sent_ms=int(time.time() * 1000),
            )
            secret = mirror.system.env["META_APP_SECRET"].split(",")[0]
            target = Target(port=ours.port, path=PATH, secret=secret, connections=64)
            count = int(seconds * ACK_RATE)
            load = Open(target=target, traffic=traffic, rate=ACK_RATE, requests=count, seed=1)
            run = asyncio.create_task(mirror.sync(account, "full")) if " " in beside else None
            outcome = await generator.run(load)
            if run is not None:
                await run
            await ours.settled()
            found.add("ack_p95", beside, percentile(outcome.felt_ms, 0.95))
    await mirror.forget([account])


def _end_to_end(found: Rounds, count: int) -> Measure:
    name = f"end_to_end_{count}_pages"
    return Measure(
        name,
        "messages/s",
        found.of(name),
        goal=Goal(0.3, STORE),
        limit=found.of(name, STORE),
        peers={each: found.of(name, each) for each in (STORE, SIMULATOR)},
    )


def _measures(found: Rounds, sizes: Sizes) -> list[Measure]:
    def seconds(name: str, goal: float | None, *peers: str) -> Measure:
        bound = found.of(name, BOUND)
        return Measure(
            name,
            "s",
            found.of(name),
            higher=False,
            goal=None if goal is None else Goal(1 / goal, BOUND),
            limit=bound or None,
            peers={peer: found.of(name, peer) for peer in ((BOUND,) if bound else ()) + peers},
        )

    return [
        seconds("full_limited", 1.15),
        seconds("full_free", 1.15),
        seconds("peers_limited", None, *PEERS),
        seconds("peers_free", None, *PEERS),
        seconds("incremental_10", 1.0),
        seconds("messages_100", 1.15),
        seconds("messages_1000", 1.15),
        seconds("thread_of_1000", None),
        seconds("five_pages", 1.3),
        seconds("fifty_pages", 1.2),
        Measure(
            "fifty_pages_requests",
            "requests",
            found.of("fifty_pages_requests"),
            higher=False,
            goal=Goal(1),
        ),
        *(_end_to_end(found, count) for count in sizes.pages),
        seconds("again_archived", None, NOTHING_ARCHIVED),
        Measure(
            "ack_p95",
            "ms",
            found.of("ack_p95", "beside a run"),
            higher=False,
            goal=Goal(1 / 1.5, "alone"),
            peers={"alone": found.of("ack_p95", "alone")},
        ),
    ]


_NOTES = [
    f"full: {_FULL.conversations} conversations of {MESSAGES} messages; limited: with Meta's"
    f" {CALLS_PER_SECOND:g} calls a second, free: without; the peers: {_FULL.beside_peers}",
    f"the bound: the fewest calls ({LISTED} threads a page) × {CALL_SECONDS} s, or ÷"
    f" {CALLS_PER_SECOND:g} a second; five_pages: the slowest alone; fifty_pages: a batch by hand",
    f"again_archived: a whole page once more with {ARCHIVED} % of its messages archived, none of"
    " which is written or locked; end_to_end: no latency and no limit, pages rendered beforehand",
]
