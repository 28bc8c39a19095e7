"""Runs of many faults: one after the other they befall a system under load; then it is checked.

At random they are drawn by a seed, and in the pauses a service is killed wherever it is just then.
A random run is cut into chapters, each on a system of its own with a seed of its own, so that a
chapter that fails is played again by itself: the same rows in the same order. Or each fault comes
once, as short as it may be.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from faults import sends
from faults.checker import check
from faults.evidence import Bounds, Catchup, Evidence, Lane, Violation, reply_name
from faults.gathering import bounds_of, evidence_of, watched
from faults.history import Delivered, End, OutboxRow
from faults.load import Load, going_on, stage
from faults.rig import NotQuiet, Rig
from faults.rows import WEIGHTS, Least, Row, Struck
from faults.rows.process import dies_anywhere
from faults.sends import Doubt

CHAPTER_SECONDS = 600.0
PAUSE_SECONDS = (0.5, 2.0)
"""From the end of a fault to the next death, and from that to the next fault."""
DEATHS = (2, 4)
"""In each pause."""
PEOPLE = 300
"""So many that nobody writes more in two minutes than a look at the newest messages shows."""
WARMING_SECONDS = 10.0
"""Of load before the first fault: what is usual."""
ROUND_SECONDS = 5.0
"""Of load, after each of which it may end."""
REST_SECONDS = 60.0
"""Beside the longest doubt: how long all may take to come to rest."""
REFUSAL = 503
DEATH = Row("death", "process", dies_anywhere, frozenset())

Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Strike:
    """One fault of a run: when it began and ended (Unix seconds), what it did, why it failed."""

    row: str
    begun: float
    ended: float
    struck: Struck
    failure: str = ""


@dataclass(frozen=True)
class Answers:
    """What POSTs were answered with: how many, and the slowest in seconds, by status.

    `none` are those without an answer.
    """

    counts: Counter[str] = field(default_factory=Counter)
    slowest: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Chapter:
    """What came of one system and its faults."""

    seed: int
    seconds: float = 0.0
    """From the first fault to the last."""
    strikes: list[Strike] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    duplicates: int = 0
    events: int = 0
    replies: int = 0
    answers: Answers = Answers()
    slowest_refusal: float = 0.0
    """Seconds to the slowest 503 beside which no fault made answers slow."""
    isolation: dict[str, list[float]] = field(default_factory=dict)
    """By row that isolates: p95 of the others' acks, as a multiple of the usual."""
    left: list[str] = field(default_factory=list)
    """What was not settled at the end, each where it stands."""
    rest: float = 0.0
    """Seconds from the last fault's end until nothing was left to do."""

    @property
    def is_good(self) -> bool:
        return not self.violations and not any(strike.failure for strike in self.strikes)

    @property
    def kills(self) -> int:
        return sum(strike.struck.kills for strike in self.strikes)

    @property
    def catchups(self) -> list[Catchup]:
        return [catchup for strike in self.strikes for catchup in strike.struck.catchups]


Course: TypeAlias = Callable[[Rig, Chapter, Sequence[Row], Tell], Awaitable[None]]
"""Which faults befall the rig, of those that there are: fills the chapter's strikes."""


def chapters(seed: int, seconds: float) -> Iterator[tuple[int, float]]:
    """The chapters of a run: their seeds and lengths. The first has the run's own seed."""
    while seconds > 0:
        yield seed, min(seconds, CHAPTER_SECONDS)
        seed, seconds = seed + 1, seconds - CHAPTER_SECONDS


def drawn(rows: Sequence[Row], draw: random.Random) -> Row:
    """The next fault: a family by its weight, of those that there are, then one of its rows."""
    families = sorted({row.family for row in rows})
    (family,) = draw.choices(families, [WEIGHTS[each] for each in families])
    return draw.choice([row for row in rows if row.family == family])


def at_random(seconds: float) -> Course:
    """Faults and deaths as the chapter's seed draws them, for so long."""

    async def befall(rig: Rig, chapter: Chapter, rows: Sequence[Row], tell: Tell) -> None:
        draw, until = random.Random(f"{chapter.seed}/faults"), time.monotonic() + seconds
        while time.monotonic() < until:
            deaths = [DEATH] * draw.randint(*DEATHS)
            for row in [*deaths, drawn(rows, draw)]:
                await asyncio.sleep(draw.uniform(*PAUSE_SECONDS))
                # A stream of its own: how much one fault draws changes nothing for the next.
                await _strike(rig, chapter, row, random.Random(draw.random()), tell)

    return befall


async def each_once(rig: Rig, chapter: Chapter, rows: Sequence[Row], tell: Tell) -> None:
    """Every fault in this order, with the fewest deaths and the shortest outages."""
    for row in rows:
        await _strike(rig, chapter, row, Least(f"{chapter.seed}/{row.id}"), tell)


async def play_chapter(
    folder: Path,
    seed: int,
    course: Course,
    rows: Sequence[Row],
    *,
    env: Mapping[str, str],
    rate: float,
    tell: Tell,
    warming: float = WARMING_SECONDS,
    people: int = PEOPLE,
) -> tuple[Chapter, Evidence]:
    """Starts a system, has faults befall it, lets it rest, checks it: with what was found."""
    proxies = sorted(frozenset().union(*(row.proxies for row in rows)))
    load = Load(seed=seed, people=people, events=int(rate * ROUND_SECONDS), rate=rate)
    chapter = Chapter(seed)
    async with Rig(folder, proxies=proxies, env=env, seed=seed) as rig, watched(rig) as before:
        on = await stage(rig, load)
        async with going_on(rig, on, replace(load, seed=-seed)):
            await asyncio.sleep(warming)
        begun = time.time()
        async with going_on(rig, on, load):
            await course(rig, chapter, rows, tell)
        chapter.seconds = time.time() - begun
        await rig.calm()
        try:
            chapter.rest = await rig.quiet(bounds_of(env).uncertain + REST_SECONDS)
        except NotQuiet as left:
            chapter.violations.append(Violation("I9", "the system", str(left)))
        struck = [strike.struck for strike in chapter.strikes]
        evidence = await evidence_of(rig, on, struck, env=env, before=before)
    evidence = replace(evidence, besides=besides(evidence, chapter.strikes, begun))
    _figure(evidence, chapter)
    return chapter, evidence


def examine(chapter: Chapter, evidence: Evidence) -> None:
    """Holds what is left against the promises."""
    chapter.violations += check(evidence)


async def _strike(rig: Rig, chapter: Chapter, row: Row, draw: random.Random, tell: Tell) -> None:
    begun, struck, failure = time.time(), Struck(), ""
    try:
        struck = await row.strike(rig, draw)
    except Exception as error:  # what could not be brought about is told, and the run goes on
        failure = f"{type(error).__name__}: {error}"
        await rig.calm()
    strike = Strike(row.id, begun, time.time(), struck, failure)
    chapter.strikes.append(strike)
    tell(_line(row, strike, chapter.strikes[0].begun))


def _figure(evidence: Evidence, chapter: Chapter) -> None:
    """What of the run is counted and measured."""
    rows, posts = evidence.rows, evidence.history.delivered
    chapter.left = [_left(row) for row in rows.outbox if row.state in sends.UNSETTLED]
    chapter.doubts = sends.doubts(evidence)
    chapter.duplicates = len(sends.duplicates(evidence))
    chapter.events, chapter.replies = len(rows.events), len(rows.outbox)
    chapter.answers = answers(posts)
    chapter.slowest_refusal = slowest_refusal(posts, chapter.strikes)
    for fault, (meanwhile, usual) in evidence.besides.items():
        ratio = round(meanwhile / usual, 2)
        chapter.isolation.setdefault(fault.partition(",")[0], []).append(ratio)


def besides(
    evidence: Evidence, strikes: Sequence[Strike], begun: float
) -> dict[str, tuple[float, float]]:
    """As `Evidence` has it; `begun` is when the first fault might come."""
    usual = p95([post for post in evidence.history.delivered if post.started_at < begun])
    return {
        f"{strike.row}, the {number}. fault": (p95(beside(evidence, strike)), usual)
        for number, strike in enumerate(strikes, 1)
        if strike.struck.isolates and not strike.failure and usual
    }


def answers(posts: Sequence[Delivered]) -> Answers:
    """Counted by status."""
    counts: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    for post in posts:
        status = "none" if post.status is None else str(post.status)
        counts[status] += 1
        slowest[status] = max(slowest.get(status, 0.0), post.ended_at - post.started_at)
    return Answers(counts, slowest)


def slowest_refusal(posts: Sequence[Delivered], strikes: Sequence[Strike]) -> float:
    """As `Chapter` has it; 0 where there is none."""
    usual = Bounds().slowest
    slow = [(each.begun, each.ended) for each in strikes if each.struck.slowest > usual]
    return max(
        (
            post.ended_at - post.started_at
            for post in posts
            if post.status == REFUSAL
            and not any(begun < post.ended_at and post.started_at < ended for begun, ended in slow)
        ),
        default=0.0,
    )


def beside(evidence: Evidence, strike: Strike) -> list[Delivered]:
    """The POSTs that began while it went on, without those of the lanes that it held."""
    lane_of: dict[str, Lane] = {
        event.ref: (event.page_id, event.lane) for event in evidence.history.happened
    }
    return [
        post
        for post in evidence.history.delivered
        if strike.begun <= post.started_at < strike.ended
        and not strike.struck.held & {lane_of[ref] for ref in post.refs}
    ]


def p95(posts: Sequence[Delivered]) -> float:
    """Of those answered with 200, in seconds; 0 where there are none."""
    took = sorted(post.ended_at - post.started_at for post in posts if post.end is End.OK)
    return took[int(len(took) * 0.95)] if took else 0.0


def _left(row: OutboxRow) -> str:
    doubt = f", {row.clean_looks} clean looks" if row.state == "uncertain" else ""
    return (
        f"{reply_name(row)} ({row.kind}) is {row.state}: {row.state_reason or 'waits'}{doubt},"
        f" attempt {row.attempt}, the {row.ordinal}. of {row.page_id}/{row.lane}"
    )


def _line(row: Row, strike: Strike, since: float) -> str:
    struck = strike.struck
    said = [f"{strike.begun - since:7.1f} s  {row.id:5}  {row.sentence}"]
    if struck.kills:
        slowest = max((max(each) for each in struck.recoveries.values()), default=0.0)
        said.append(f"{struck.kills} killed, back within {slowest:.1f} s")
    if strike.failure:
        said.append(f"FAILED: {strike.failure}")
    return "  ".join(said)
