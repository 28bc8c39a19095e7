"""Recovery: each service killed under load, and sends whose end nobody was told.

The system is the one of the live suite, with the settings that its users have. A service is back
when a question that came after its death is answered; whatever was answered 200 has to be there
once in the end, and each question answered once. The doubt is the simulator's: calls that it takes
and does not answer, or answers so that nobody can tell.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.driving import Open, Outcome, Target
from bench.edge import PATH
from bench.figures import Goal, Measure, MeasuringFailed, Suite, percentile
from bench.generator import Generator, generating
from bench.live import PAGE_COUNT
from bench.loads import ACK_RATE, ASK_RATE, ASKING, CONNECTIONS
from bench.receivers import Pagewire, check
from bench.traffic import Traffic
from bench.world import PEOPLE, World, acknowledged, until_sent
from pagewire_cli.launcher import System, running
from pagewire_simulator.client import SimulatorClient
from pagewire_simulator.faults import Script

SERVICES = ("store", "rules", "sync", "webhook")
APART = 8.0
"""Seconds from one death to the next: what is not back by then counts as never."""
WARM = 2.0
FAULTS = ("lost", "half", "created_error", "reset", "error", "http_500")
"""Of the simulator, after which nobody knows: half of them take effect."""
LATE = 10.0
"""Seconds that a busy machine may be late with the last question."""
SETTLED_SECONDS = 90


@dataclass(frozen=True)
class Spans:
    deaths: int
    """Of each service."""
    doubts: int
    """Of each fault."""


_FULL, _QUICK = Spans(deaths=10, doubts=60), Spans(deaths=2, doubts=5)


@dataclass(frozen=True)
class Death:
    """When (Unix seconds), and how many seconds later the supervisor found the next life ready."""

    at: float
    ready: float


@dataclass(frozen=True)
class Asked:
    """A question: when it was due and when Graph was asked to answer it, in Unix seconds."""

    due: float
    answered: float


@dataclass(frozen=True)
class Doubt:
    """A reply of which nobody knew whether Graph had it: how that ended, and after how long."""

    end: str
    seconds: float


async def measured(folder: Path, *, quick: bool) -> Suite:
    spans = _QUICK if quick else _FULL
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
        with generating(folder) as generator:
            trial = Trial(generator, world, meta, ours, system, database)
            await trial.load("warm", ACK_RATE, 5.0)
            measures, notes = list[Measure](), list[str]()
            for service in SERVICES:
                found, left = await trial.deaths(service, spans.deaths)
                measures += found
                notes += left
            doubts = await trial.doubts(spans.doubts)
    return Suite("recovery", [*measures, *_of_doubts(doubts)], [*notes, *_notes(doubts)])


@dataclass
class Trial:
    """Loads during which something befalls the system; each is checked once all is settled."""

    generator: Generator
    world: World
    meta: SimulatorClient
    ours: Pagewire
    system: System
    database: psycopg.AsyncConnection[Any]
    number: int = 0

    async def deaths(self, service: str, count: int) -> tuple[list[Measure], list[str]]:
        """Kills the service so often under a moderate load."""
        since = time.time()
        seconds = WARM + count * APART
        loading = asyncio.create_task(self.load(service, ACK_RATE, seconds))
        try:
            await asyncio.sleep(WARM)
            deaths = [await self._death(service) for _ in range(count)]
        except BaseException:
            loading.cancel()
            raise
        outcome, asked = await loading
        left = await _doubts_since(self.database, since, [])
        note = f"{service}: {_ends(left)} of replies left in doubt by {count} deaths"
        return _of_deaths(service, deaths, outcome, asked), [note] if left else []

    async def doubts(self, of_each: int) -> list[Doubt]:
        """Has Graph leave so many sends in doubt by each fault."""
        since = time.time()
        before = len(await self.meta.calls())
        seconds = len(FAULTS) * of_each / ASK_RATE
        # Over before the first is sent again: whom two faults meet has to be doubted twice.
        await self.meta.faults(
            *(
                Script(fault=fault, endpoint="send", count=of_each, lasts=seconds + LATE)
                for fault in FAULTS
            )
        )
        await self.load("doubt", ASK_RATE, seconds, asking=1.0)
        calls = await self.meta.calls(after=str(before))
        tags = [call.metadata for call in calls if call.metadata and call.fault]
        if not tags:
            raise MeasuringFailed("no call met a fault")
        return await _doubts_since(self.database, since, tags)

    async def load(
        self, kind: str, rate: float, seconds: float, *, asking: float = ASKING
    ) -> tuple[Outcome, list[Asked]]:
        self.number += 1
        count = int(rate * seconds)
        traffic = Traffic(
            name=f"{kind}{self.number}",
            pages=self.ours.pages,
            people=PEOPLE,
            messages=count,
            sent_ms=int(time.time() * 1000),
            asking=asking,
        )
        target = Target(
            port=self.ours.port,
            path=PATH,
            secret=self.system.env["META_APP_SECRET"].split(",")[0],
            connections=CONNECTIONS,
        )
        before = await self.world.sent_so_far()
        job = Open(target=target, traffic=traffic, rate=rate, requests=count, seed=self.number)
        outcome = await self.generator.run(job)
        await self.ours.settled()
        stored = await self.ours.stored(traffic)
        sends = await self.world.sends_since(before)
        check(traffic, acknowledged(traffic, outcome), stored, sends)
        dues = [
            outcome.began + due
            for message, due in zip(traffic.each(), outcome.due, strict=True)
            if message.asks
        ]
        after = until_sent(traffic, outcome, stored, sends)
        return outcome, [Asked(due, due + ms / 1000) for due, ms in zip(dues, after, strict=True)]

    async def _death(self, service: str) -> Death:
        process = self.system.process(service)
        at = time.time()
        await process.kill()
        await process.ready()
        ready = time.time() - at
        await asyncio.sleep(at + APART - time.time())
        return Death(at, ready)


def back_after(death: Death, asked: Sequence[Asked]) -> float:
    """Seconds from a death to the first answer to a question that came after it."""
    answers = [each.answered for each in asked if death.at <= each.due < death.at + APART]
    return min(answers, default=float("inf")) - death.at


def refused_for(death: Death, outcome: Outcome) -> float:
    """Seconds from a death to the last webhook that was not answered 200; 0 where each was."""
    refused = [
        outcome.began + due - death.at
        for due, status in zip(outcome.due, outcome.status, strict=True)
        if status != 200
    ]
    return max((after for after in refused if 0 <= after < APART), default=0.0)


def taken_over_after(death: Death, asked: Sequence[Asked]) -> float:
    """Seconds from a death to the last answer to what was asked in the second before it."""
    answers = [each.answered for each in asked if death.at - 1 <= each.due < death.at]
    return max((answer - death.at for answer in answers if answer < float("inf")), default=0.0)


def _of_deaths(
    service: str, deaths: Sequence[Death], outcome: Outcome, asked: Sequence[Asked]
) -> list[Measure]:
    back = [back_after(death, asked) for death in deaths]
    measures = [
        _seconds(f"{service}_ready_p95", percentile([death.ready for death in deaths], 0.95)),
        _seconds(f"{service}_back_p95", percentile(back, 0.95), 3),
        _seconds(f"{service}_back_max", max(back), 5),
    ]
    if service in ("store", "webhook"):
        refused = max(refused_for(death, outcome) for death in deaths)
        measures.append(_seconds(f"{service}_refused_max", refused))
    if service == "webhook":
        taken = max(taken_over_after(death, asked) for death in deaths)
        measures.append(_seconds("lane_takeover_max", taken, 10))
    return measures


def _seconds(name: str, value: float, goal: float | None = None) -> Measure:
    return Measure(name, "s", [value], higher=False, goal=None if goal is None else Goal(goal))


def _of_doubts(doubts: Sequence[Doubt]) -> list[Measure]:
    seconds = [each.seconds for each in doubts]
    settled = sum(each.seconds <= SETTLED_SECONDS and each.end != "parked" for each in doubts)
    return [
        Measure(
            f"settled_in_{SETTLED_SECONDS}_s", "%", [100 * settled / len(doubts)], goal=Goal(99)
        ),
        _seconds("settled_p50", percentile(seconds, 0.5)),
        _seconds("settled_max", max(seconds)),
    ]


def _notes(doubts: Sequence[Doubt]) -> Iterator[str]:
    yield (
        f"deaths at {ACK_RATE} webhooks a second, of which {ASKING:.0%} ask, {APART:.0f} s apart;"
        " back: the first answer to a question that came after the death"
    )
    yield f"{len(doubts)} sends in doubt by {', '.join(FAULTS)}: {_ends(doubts)}"


def _ends(doubts: Sequence[Doubt]) -> str:
    counted = Counter(each.end for each in doubts)
    return ", ".join(f"{count} {end}" for end, count in counted.most_common())


_DOUBTS = b"""
select case when o.state <> 'sent' then o.state
        when o.tag is distinct from a.tag then 'resent' else o.settled_by end,
    extract(epoch from o.ended_at - a.started_at)::float8
from attempt a join outbox o using (page_id, reply_id)
where a.started_at >= to_timestamp(%(since)s) and (
    a.tag = any(%(tags)s) or a.verdict in ('uncertain', 'lease_lapsed'))
order by a.started_at
"""
"""An echo takes away an attempt's first verdict: those of the calls that met a fault are named."""


async def _doubts_since(
    database: psycopg.AsyncConnection[Any], since: float, tags: Sequence[str]
) -> list[Doubt]:
    found = await database.execute(_DOUBTS, {"since": since, "tags": list(tags)})
    return [Doubt(*row) for row in await found.fetchall()]
