"""Overload: three times what the system bears; and honest work beside a flood of bad signatures,
and beside a lane that is held.

The system is the one of the live suite. The knee is searched first, so that what is offered is
known to be too much; that the system finds it by itself is what is measured. Whatever was answered
200 has to be there once in the end, as ever.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.driving import Open, Outcome, Target
from bench.edge import PATH
from bench.figures import Goal, Measure, MeasuringFailed, Suite, percentile
from bench.generator import Generator, generating
from bench.live import FIRST_RATE, OURS, PAGE_COUNT, Consumers, Rounds
from bench.loads import ACK_RATE, ASKING, CONNECTIONS, FULL, QUICK, Loads
from bench.processes import percent_of_core
from bench.receivers import Pagewire, check_sends
from bench.traffic import Traffic, person_id
from bench.world import PEOPLE, World, acknowledged, asked
from pagewire_cli.launcher import System, running
from pagewire_simulator.client import SimulatorClient

TIMES = 3
CROWD = 2_048
"""Connections in an overload: enough that none of the refused waits for one of the others."""
FLOOD_RATE = 2_000
REFUSED = 503
HELD_RATE = 5
"""Webhooks a second of the lane that is held: many more than one person writes."""
CALM, WITH_FLOOD, BESIDE_HELD = "undisturbed", "with the flood", "beside the lane"
SINCE_DUE = "since it was due"


@dataclass(frozen=True)
class Spans:
    """How long a run takes, in seconds."""

    rounds: int
    overload: float
    after: float
    beside: float


_FULL = Spans(rounds=3, overload=20, after=15, beside=15)
_QUICK = Spans(rounds=1, overload=10, after=12, beside=5)


async def measured(folder: Path, *, quick: bool) -> Suite:
    spans, found = (_QUICK if quick else _FULL), Rounds()
    async with (
        running(folder / "system") as system,
        SimulatorClient(system.addresses["simulator"]) as meta,
        await psycopg.AsyncConnection.connect(
            system.servers["postgres"].url, autocommit=True
        ) as database,
    ):
        world = World(meta)
        await world.prepare()
        ours = Pagewire(system, await world.pages(PAGE_COUNT, 0), database)
        await ours.prepare()
        other = folder / "flood"
        other.mkdir()
        with generating(folder) as generator, generating(other) as stranger:
            loads = Loads(generator, world, _secret(system), QUICK if quick else FULL)
            trial = Trial(generator, stranger, world, ours, system, database)
            await loads.ack(ours)  # to be warm
            start = float(FIRST_RATE)
            for _ in range(spans.rounds):
                knee, _ = await loads.knee(ours, start)
                start = max(knee * 0.8, 10)
                found.add("knee", OURS, knee)
                await _round(trial, knee, spans, found)
            shares = [
                f"{name} {percent_of_core(ticks, spans.overload):.0f}"
                for name, ticks in trial.used.items()
            ]
    return Suite("overload", _measures(found), [*_NOTES, f"% of a core in it: {', '.join(shares)}"])


class Trial:
    """Loads that no receiver is meant to bear whole."""

    def __init__(
        self,
        generator: Generator,
        stranger: Generator,
        world: World,
        ours: Pagewire,
        system: System,
        database: psycopg.AsyncConnection[Any],
    ) -> None:
        self._generator = generator
        self._stranger = stranger
        self._world = world
        self._ours = ours
        self._system = system
        self._database = database
        self._secret = _secret(system)
        self._number = 0
        self.used: dict[str, int] = {}
        """Ticks of CPU by process, in the last overload."""

    async def overload(self, rate: float, spans: Spans) -> tuple[Outcome, Outcome]:
        """What came of so many a second, and of a moderate rate right after it."""
        before = await self._world.sent_so_far()
        much = self._job("overload", rate, spans.overload, connections=CROWD)
        after = self._job("after", ACK_RATE, spans.after)
        consumers = Consumers(self._system)
        outcomes = [await self._generator.run(much)]
        self.used = consumers.since()
        outcomes.append(await self._generator.run(after))
        await self._checked([much, after], outcomes, before)
        return outcomes[0], outcomes[1]

    async def beside_flood(self, seconds: float, *, flooded: bool) -> list[float]:
        """The latencies of a moderate rate, in ms."""
        before = await self._world.sent_so_far()
        honest = self._job("beside", ACK_RATE, seconds)
        tasks = [asyncio.create_task(self._generator.run(honest))]
        if flooded:
            flood = self._job("flood", FLOOD_RATE, seconds, secret="a-secret-of-somebody-else")
            tasks.append(asyncio.create_task(self._stranger.run(flood)))
        outcome, *flooding = await asyncio.gather(*tasks)
        if any(status == 200 for each in flooding for status in each.status):
            raise MeasuringFailed("what nobody signed was taken")
        await self._checked([honest], [outcome], before)
        return outcome.felt_ms

    async def beside_held_lane(self, seconds: float) -> list[float]:
        """The latencies of a moderate rate, in ms, while another transaction holds one lane, for
        which webhooks come as well."""
        before = await self._world.sent_so_far()
        makes_lane = self._job("lane", 1, 1, people=1)
        outcomes = [await self._generator.run(makes_lane)]
        await self._ours.settled()
        honest = self._job("honest", ACK_RATE, seconds)
        held = self._job("held", HELD_RATE, seconds, people=1)
        async with self._database.transaction():
            await self._hold_lane()
            outcomes += await asyncio.gather(self._generator.run(honest), self._stranger.run(held))
        await self._checked([makes_lane, honest, held], outcomes, before)
        lane = self._ours.pages[0], person_id(0, 0)
        messages = zip(honest.traffic.each(), outcomes[1].felt_ms, strict=True)
        return [felt for message, felt in messages if (message.page_id, message.person_id) != lane]

    async def _hold_lane(self) -> None:
        """Locks the only lane of those jobs that have one person."""
        lane = self._ours.pages[0], f"person:{person_id(0, 0)}"
        query = b"select from lane where page_id = %s and lane = %s for update"
        if (await self._database.execute(query, lane)).rowcount != 1:
            raise MeasuringFailed("the lane that was to be held is not there")

    async def _checked(self, jobs: list[Open], outcomes: list[Outcome], before: int) -> None:
        await self._ours.settled()
        sends = await self._world.sends_since(before)
        stored = [await self._ours.stored(job.traffic) for job in jobs]
        for job, outcome, there in zip(jobs, outcomes, stored, strict=True):
            if lost := acknowledged(job.traffic, outcome) - there:
                raise MeasuringFailed(f"{len(lost)} messages were answered 200 and lost")
        mids = set().union(*stored)
        messages = (message for job in jobs for message in job.traffic.each())
        owed = asked(message for message in messages if message.mid in mids)
        check_sends(jobs[0].traffic.name, owed, sends)

    def _job(
        self,
        kind: str,
        rate: float,
        seconds: float,
        *,
        connections: int = CONNECTIONS,
        secret: str | None = None,
        people: int = PEOPLE,
    ) -> Open:
        self._number += 1
        count = int(rate * seconds)
        traffic = Traffic(
            name=f"{kind}{self._number}",
            pages=self._ours.pages if people > 1 else self._ours.pages[:1],
            people=people,
            messages=count,
            sent_ms=int(time.time() * 1000),
            asking=ASKING,
        )
        target = Target(
            port=self._ours.port,
            path=PATH,
            secret=secret or self._secret,
            connections=connections,
        )
        return Open(target=target, traffic=traffic, rate=rate, requests=count, seed=self._number)


async def _round(trial: Trial, knee: float, spans: Spans, found: Rounds) -> None:
    calm = percentile(await trial.beside_flood(spans.beside, flooded=False), 0.95)
    flooded = percentile(await trial.beside_flood(spans.beside, flooded=True), 0.95)
    found.add("ack_p95", CALM, calm)
    found.add("ack_p95", WITH_FLOOD, flooded)
    held = percentile(await trial.beside_held_lane(spans.beside), 0.95)
    found.add("ack_p95", BESIDE_HELD, held)
    much, after = await trial.overload(TIMES * knee, spans)
    found.add("offered", OURS, len(much.status) / spans.overload)
    found.add("goodput", OURS, much.status.count(200) / spans.overload)
    found.add("refusal_p99", OURS, percentile(_answered_in(much, REFUSED), 0.99))
    found.add("refusal_p99", SINCE_DUE, percentile(_latencies(much, REFUSED), 0.99))
    found.add("acked_p99", OURS, percentile(_latencies(much, 200), 0.99))
    found.add("neither", OURS, sum(status not in (200, REFUSED) for status in much.status))
    found.add("normal_after", OURS, normal_after(much, after, 2 * calm))


def _latencies(outcome: Outcome, status: int) -> list[float]:
    pairs = zip(outcome.latency_ms, outcome.status, strict=True)
    return [latency for latency, found in pairs if found == status]


def _answered_in(outcome: Outcome, status: int) -> list[float]:
    """Since it was sent: without what the generator was late."""
    rows = zip(outcome.latency_ms, outcome.late_ms, outcome.status, strict=True)
    return [latency - late for latency, late, found in rows if found == status]


def normal_after(overload: Outcome, after: Outcome, bound_ms: float) -> float:
    """Seconds from the last request of the overload to the first second from which on nothing is
    refused, and 95 of 100 answers come within the bound; infinite where there is none."""
    ended = overload.began + overload.due[-1]
    by_second: dict[int, list[float]] = {}
    for due, felt in zip(after.due, after.felt_ms, strict=True):
        by_second.setdefault(int(due), []).append(felt)
    normal = math.inf
    for second in sorted(by_second, reverse=True):
        if percentile(by_second[second], 0.95) > bound_ms or math.inf in by_second[second]:
            break
        normal = second
    return max(after.began + normal - ended, 0.0)


def _measures(found: Rounds) -> list[Measure]:
    knee, calm = found.of("knee"), found.of("ack_p95", CALM)
    return [
        Measure("knee", "webhooks/s", knee),
        Measure("offered", "webhooks/s", found.of("offered")),
        Measure(
            "goodput",
            "webhooks/s",
            found.of("goodput"),
            goal=Goal(0.8, "knee"),
            peers={"knee": knee},
        ),
        Measure(
            "refusal_p99",
            "ms",
            found.of("refusal_p99"),
            higher=False,
            goal=Goal(100),
            peers={SINCE_DUE: found.of("refusal_p99", SINCE_DUE)},
        ),
        Measure("acked_p99", "ms", found.of("acked_p99"), higher=False),
        Measure("neither", "requests", found.of("neither"), higher=False, goal=Goal(0)),
        Measure("normal_after", "s", found.of("normal_after"), higher=False, goal=Goal(10)),
        Measure(
            "flooded_ack_p95",
            "ms",
            found.of("ack_p95", WITH_FLOOD),
            higher=False,
            goal=Goal(0.5, CALM),
            peers={CALM: calm},
        ),
        Measure(
            "held_lane_ack_p95",
            "ms",
            found.of("ack_p95", BESIDE_HELD),
            higher=False,
            goal=Goal(1 / 1.5, CALM),
            peers={CALM: calm},
        ),
    ]


_NOTES = [
    f"overload: {TIMES} × the knee over {CROWD} connections; goodput: answered 200 a second of it;"
    f" neither: answered neither 200 nor {REFUSED}",
    f"refusal_p99: from when it was sent; {SINCE_DUE}: the generator's own lateness with it",
    f"flood: {FLOOD_RATE:,} bad signatures a second beside {ACK_RATE} honest webhooks",
    f"held lane: locked all the time, {HELD_RATE} webhooks a second for it; ack_p95 of the others",
]


def _secret(system: System) -> str:
    return system.env["META_APP_SECRET"].split(",")[0]
