"""The live path: everything real, on embedded PostgreSQL with fsync on, beside the usual receiver.

The launcher's system with the simulator as Graph, without latency of its own; the generator plays
Meta, in open loops. No process has a core of its own, as on the machine that a small team has.
After each load every event has to be there once, and every question answered once, or the run has
failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from bench.figures import Goal, Measure, Suite, percentile, rotated
from bench.generator import generating
from bench.loads import ACK_RATE, ASK_RATE, ASKING, BATCH, FULL, KNEE_P99_MS, QUICK, Lengths, Loads
from bench.peers import direct_writes
from bench.peers.direct_writes import Transactions
from bench.processes import TICK, cpu_ticks, family, memory_mib, percent_of_core
from bench.receivers import Pagewire, Receiver, StraightLine, new_database, straight_line
from bench.store import connect_pages, driven, read
from bench.world import PEOPLE, World
from pagewire_cli.launcher import System, running
from pagewire_simulator.client import SimulatorClient
from pagewire_store.migrating import migrate

PAGE_COUNT = 5
SERVICES = ("webhook", "rules", "sync", "store")
OURS, PEER, DISK = Pagewire.name, StraightLine.name, "bare SQL"

SAVED_MS, ANSWERED_MS = 30, 5_000
SAVED, ANSWERED = "claimed: saved in 30–100 ms", "claimed: answered within 5 s"
"""What is commonly claimed, and the best of it in ms."""

WRITERS = 8
"""Connections that write the same rows with nothing before them: the limit of this disk."""
FIRST_RATE = 200


class Rounds:
    """What was measured, a value a round, by measure and by what was measured."""

    def __init__(self) -> None:
        self._values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, measure: str, of: str, value: float) -> None:
        self._values[measure, of].append(value)

    def of(self, measure: str, of: str = OURS) -> list[float]:
        return self._values[measure, of]


async def measured(folder: Path, *, quick: bool) -> Suite:
    lengths, found = (QUICK if quick else FULL), Rounds()
    async with (
        running(folder / "system") as system,
        SimulatorClient(system.addresses["simulator"]) as meta,
        _connected(system.servers["postgres"].url) as database,
    ):
        world = World(meta)
        await world.prepare()
        ours = Pagewire(system, await world.pages(PAGE_COUNT, 0), database)
        await ours.prepare()
        notes = [await _idle(system, lengths, found)]
        peer_url = new_database(system.servers["postgres"].url, "straight_line")
        pages = await world.pages(PAGE_COUNT, 50)
        log = folder / "straight-line.log"
        with (
            straight_line(system, pages, peer_url, log) as port,
            generating(folder) as generator,
        ):
            async with (
                _connected(peer_url) as peer_database,
                _connected_writers(system) as writers,
            ):
                peer = StraightLine(port, pages, peer_database)
                loads = Loads(generator, world, system.env["META_APP_SECRET"], lengths)
                await _rounds(system, loads, ours, peer, writers, lengths, found)
                notes += [await _busy(system, loads, ours, found), *_incidents(loads)]
    return Suite("live", _measures(found), [*notes, *_NOTES])


_NOTES = [
    f"{PAGE_COUNT} pages of {PEOPLE} people; {ASKING:.0%} of the messages ask, in"
    f" received_to_graph all; ack at {ACK_RATE} a second, received_to_graph at {ASK_RATE}",
    f"knee: p99 ≤ {KNEE_P99_MS} ms and nothing lost; knee_decided: the dispatcher kept up as well",
    f"batches of {BATCH}; bare SQL: the rows of a message, {WRITERS} connections",
]


def _incidents(loads: Loads) -> list[str]:
    refused = "; ".join(f"{name} {count}" for name, count in loads.refused.items())
    return [f"not answered 200, the steps above the knee included: {refused}", *loads.found]


async def _rounds(
    system: System,
    loads: Loads,
    ours: Pagewire,
    peer: StraightLine,
    writers: Transactions,
    lengths: Lengths,
    found: Rounds,
) -> None:
    """Everything, `rounds` times, the two receivers in turns; each is warm before."""
    receivers: dict[str, Receiver] = {OURS: ours, PEER: peer}
    for receiver in receivers.values():
        await loads.ack(receiver)
    start = dict.fromkeys(receivers, float(FIRST_RATE))
    for turn in range(lengths.rounds):
        seconds, _ = await driven(writers.store, read(f"disk{turn}", lengths.repeated), WRITERS)
        found.add("transactions", DISK, lengths.repeated / seconds)
        for name in rotated(list(receivers), turn):
            start[name] = await _round(loads, receivers[name], start[name], lengths, found)
        for service in SERVICES:
            found.add(f"memory_{service}", OURS, memory_mib(system.process(service).pid))


async def _round(
    loads: Loads, receiver: Receiver, start: float, lengths: Lengths, found: Rounds
) -> float:
    """One round of one receiver; answers where its next search may begin."""
    name = receiver.name
    acks = await loads.ack(receiver)
    answers = await loads.answer(receiver)
    for share in (50, 95, 99):
        found.add(f"ack_p{share}", name, percentile(acks, share / 100))
        found.add(f"received_to_graph_p{share}", name, percentile(answers, share / 100))
    knee, decided = await loads.knee(receiver, start)
    found.add("knee", name, knee)
    found.add("knee_decided", name, decided)
    found.add("repeats", name, await loads.repeats(receiver, max(knee, 20)))
    bodies = lengths.bodies if receiver.name == OURS else max(2, lengths.bodies // 5)
    found.add("batched_events", name, await loads.batches(receiver, bodies))
    return max(knee * 0.8, 10)


class Consumers:
    """The processes that are the system, the launcher among them, and what CPU time they use."""

    def __init__(self, system: System) -> None:
        roots = {name: process.pid for name, process in system.supervisor.processes.items()}
        roots |= {name: server.pid for name, server in system.servers.items()}
        self._pids = {name: family(pid) for name, pid in roots.items()}
        self._pids["launcher"] = [os.getpid()]
        self._before = self._used()

    def since(self) -> dict[str, int]:
        """Ticks of CPU by process, since this was made."""
        return {name: used - self._before[name] for name, used in self._used().items()}

    def _used(self) -> dict[str, int]:
        return {name: cpu_ticks(pids) for name, pids in self._pids.items()}


def _shares(what: str, ticks: Mapping[str, int], factor: float) -> str:
    """`factor`: of what is shown, how much a second of CPU is."""
    shares = ", ".join(f"{name} {used / TICK * factor:.2f}" for name, used in ticks.items())
    return f"{what}: {shares}"


async def _idle(system: System, lengths: Lengths, found: Rounds) -> str:
    """What everything together uses while nothing happens; answers who uses it.

    As often as there are rounds, but before them all: what a load leaves behind for the database
    to tidy up is no idleness.
    """
    await asyncio.sleep(3)  # what connecting the pages set off is over
    total: Counter[str] = Counter()
    for _ in range(lengths.rounds):
        consumers = Consumers(system)
        await asyncio.sleep(lengths.idle_seconds)
        used = consumers.since()
        found.add("idle_cpu", OURS, percent_of_core(sum(used.values()), lengths.idle_seconds))
        total.update(used)
    return _shares("idle, % of a core", total, 100 / (lengths.idle_seconds * lengths.rounds))


async def _busy(system: System, loads: Loads, ours: Pagewire, found: Rounds) -> str:
    """What a webhook costs, from its receipt to its answer and the echo; answers whom."""
    consumers = Consumers(system)
    count = len(await loads.ack(ours))
    used = consumers.since()
    found.add("cpu_per_webhook", OURS, sum(used.values()) / TICK / count * 1000)
    return _shares(f"at {ACK_RATE} a second, ms of CPU a webhook", used, 1000 / count)


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


@contextlib.asynccontextmanager
async def _connected_writers(system: System) -> AsyncIterator[Transactions]:
    """Bare writers on a database of their own."""
    url = new_database(system.servers["postgres"].url, "bare_sql")
    await asyncio.to_thread(migrate, url)
    async with contextlib.AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(_connected(url)) for _ in range(WRITERS)]
        await connect_pages(writers[0])
        yield Transactions(writers, direct_writes.THREE)


def _measures(found: Rounds) -> list[Measure]:
    rounds = len(found.of("knee"))
    claims = {SAVED: [float(SAVED_MS)] * rounds, ANSWERED: [float(ANSWERED_MS)] * rounds}
    disk = found.of("transactions", DISK)

    def latency(name: str, claim: str, goal: float | None = None) -> Measure:
        beside = {PEER: found.of(name, PEER), claim: claims[claim]}
        bound = None if goal is None else Goal(goal)
        return Measure(name, "ms", found.of(name), higher=False, goal=bound, peers=beside)

    def rate(name: str, unit: str, goal: Goal | None = None, **beside: list[float]) -> Measure:
        peers = {PEER: found.of(name, PEER)} | beside
        return Measure(name, unit, found.of(name), goal=goal, limit=disk, peers=peers)

    return [
        latency("ack_p50", SAVED, 10),
        latency("ack_p95", SAVED, 35),
        latency("ack_p99", SAVED),
        rate("knee", "webhooks/s", Goal(400)),
        rate("knee_decided", "webhooks/s"),
        rate("batched_events", "events/s", Goal(3_000)),
        latency("received_to_graph_p50", ANSWERED, 40),
        latency("received_to_graph_p95", ANSWERED),
        latency("received_to_graph_p99", ANSWERED),
        rate("repeats", "webhooks/s", Goal(1.5, "knee"), knee=found.of("knee")),
        *(
            Measure(name, "MiB", found.of(name), higher=False, goal=Goal(150))
            for name in (f"memory_{service}" for service in SERVICES)
        ),
        Measure("cpu_per_webhook", "ms", found.of("cpu_per_webhook"), higher=False),
        Measure("idle_cpu", "% of a core", found.of("idle_cpu"), higher=False, goal=Goal(3)),
    ]
