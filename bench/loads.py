"""The loads of the live suite, against one receiver at a time, each of them checked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

from bench.driving import Closed, Job, Open, Outcome, Target
from bench.edge import PATH
from bench.figures import MeasuringFailed, percentile
from bench.generator import Generator
from bench.knee import Search
from bench.receivers import Receiver, check, check_sends
from bench.traffic import Traffic
from bench.world import PEOPLE, Sends, World, acknowledged, until_sent

CONNECTIONS = 256
ASKING = 0.1
"""The share of messages that ask the price, which the one rule answers."""
ACK_RATE, ASK_RATE = 100, 50
KNEE_P99_MS = 500
BATCH = 500


@dataclass(frozen=True)
class Lengths:
    """How long a run takes."""

    rounds: int
    seconds: float
    step_seconds: float
    idle_seconds: int
    bodies: int
    """Of BATCH events each."""
    repeated: int


FULL = Lengths(rounds=3, seconds=15, step_seconds=5, idle_seconds=7, bodies=20, repeated=3_000)
QUICK = Lengths(rounds=1, seconds=3, step_seconds=2, idle_seconds=5, bodies=4, repeated=400)


@dataclass(frozen=True)
class Step:
    """A rate that was offered for a while."""

    rate: float
    borne: bool
    decided: bool
    """Whether what decides kept up: at most a second's worth was left at the end."""


@dataclass(frozen=True)
class Sent:
    """What came of a load."""

    outcome: Outcome
    stored: Set[str]
    sends: Sends
    backlog: int
    broken: bool
    """Something was lost or doubled, by a receiver that does not promise otherwise."""


class Loads:
    """One load after the other; MeasuringFailed where anything was lost or doubled."""

    def __init__(self, generator: Generator, world: World, secret: str, lengths: Lengths) -> None:
        self._generator = generator
        self._world = world
        self._secret = secret
        self._lengths = lengths
        self._number = 0
        self.refused: Counter[str] = Counter()
        """Requests that were not answered 200, by receiver."""
        self.found: list[str] = []
        """What a receiver without promises lost or doubled."""

    async def ack(self, to: Receiver) -> list[float]:
        """The latencies of messages at a moderate rate, in ms."""
        count = int(ACK_RATE * self._lengths.seconds)
        traffic = self._traffic(to, "ack", count, asking=ASKING)
        sent = await self._sent(to, traffic, self._open(to, traffic, ACK_RATE, count))
        return sent.outcome.felt_ms

    async def answer(self, to: Receiver) -> list[float]:
        """Milliseconds from when a question was due to the Graph request that answers it."""
        count = int(ASK_RATE * self._lengths.seconds)
        traffic = self._traffic(to, "ask", count, asking=1)
        sent = await self._sent(to, traffic, self._open(to, traffic, ASK_RATE, count))
        return until_sent(traffic, sent.outcome, sent.stored, sent.sends)

    async def batches(self, to: Receiver, bodies: int) -> float:
        """Events a second that are acknowledged where each POST holds BATCH, two at a time."""
        traffic = self._traffic(to, "batch", bodies * BATCH, per_body=BATCH)
        sent = await self._sent(to, traffic, Closed(target=self._target(to, 2), traffic=traffic))
        return len(acknowledged(traffic, sent.outcome)) / sent.outcome.seconds

    async def knee(self, to: Receiver, start: float) -> tuple[float, float]:
        """The highest rate that is acknowledged in time, and the highest that is decided too."""
        search, steps = Search(start), list[Step]()
        while (rate := search.rate) is not None:
            count = int(rate * self._lengths.step_seconds)
            traffic = self._traffic(to, "knee", count, asking=ASKING)
            steps.append(await self._step(to, traffic, rate, count))
            search.tell(steps[-1].borne)
        decided = [step.rate for step in steps if step.borne and step.decided]
        return search.found, max(decided, default=0.0)

    async def repeats(self, to: Receiver, start: float) -> float:
        """The knee where all has been stored before."""
        traffic = await self._all_stored(to, start / 2)
        search = Search(start)
        while (rate := search.rate) is not None:
            count = int(rate * self._lengths.step_seconds)
            before = await self._world.sent_so_far()
            outcome = await self._generator.run(self._open(to, traffic, rate, count))
            await to.settled()
            if len(await to.stored(traffic)) != traffic.messages:
                raise MeasuringFailed(f"{traffic.name}: what was repeated is gone")
            check_sends(traffic.name, Counter(), await self._world.sends_since(before))
            search.tell(_is_borne(outcome))
        return search.found

    async def _all_stored(self, to: Receiver, rate: float) -> Traffic:
        """A load that is stored whole; what is refused is sent again, as Meta does."""
        traffic = self._traffic(to, "repeat", self._lengths.repeated, asking=ASKING)
        job = self._open(to, traffic, rate, traffic.messages)
        for _ in range(5):
            if not (await self._sent(to, traffic, job)).outcome.failures:
                return traffic
        raise MeasuringFailed(f"{traffic.name}: not all is taken at {rate:.0f} a second")

    async def _step(self, to: Receiver, traffic: Traffic, rate: float, count: int) -> Step:
        sent = await self._sent(to, traffic, self._open(to, traffic, rate, count))
        borne = _is_borne(sent.outcome) and not sent.broken
        return Step(rate, borne, sent.backlog <= rate)

    async def _sent(self, to: Receiver, traffic: Traffic, job: Job) -> Sent:
        """Sends a load, waits until all of it is dealt with, and checks that it is."""
        before = await self._world.sent_so_far()
        outcome = await self._generator.run(job)
        backlog = await to.backlog()
        await to.settled()
        stored = await to.stored(traffic)
        sends = await self._world.sends_since(before)
        broken = False
        try:
            check(traffic, acknowledged(traffic, outcome), stored, sends)
        except MeasuringFailed as failure:
            if to.promises:
                raise
            broken = True
            self.found.append(f"{to.name}: {failure}")
        self.refused[to.name] += outcome.failures
        return Sent(outcome, stored, sends, backlog, broken)

    def _traffic(
        self, to: Receiver, kind: str, messages: int, *, asking: float = 0, per_body: int = 1
    ) -> Traffic:
        self._number += 1
        return Traffic(
            name=f"{kind}{self._number}",
            pages=to.pages,
            people=PEOPLE,
            messages=messages,
            sent_ms=int(time.time() * 1000),
            asking=asking,
            per_body=per_body,
        )

    def _open(self, to: Receiver, traffic: Traffic, rate: float, count: int) -> Open:
        target = self._target(to, CONNECTIONS)
        return Open(target=target, traffic=traffic, rate=rate, requests=count, seed=self._number)

    def _target(self, to: Receiver, connections: int) -> Target:
        return Target(port=to.port, path=PATH, secret=self._secret, connections=connections)


def _is_borne(outcome: Outcome) -> bool:
    return not outcome.failures and percentile(outcome.latency_ms, 0.99) <= KNEE_P99_MS
