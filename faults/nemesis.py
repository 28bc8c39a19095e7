"""Random runs: faults drawn by a seed befall a system under load; then its promises are checked.

A run is cut into chapters, each on a system of its own with a seed of its own, so that a chapter
that fails is played again by itself: the same rows, in the same order, at the same seconds.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from faults import sends
from faults.checker import check
from faults.evidence import Evidence, Violation, reply_name
from faults.gathering import bounds_of, evidence_of, held
from faults.history import OutboxRow
from faults.load import Load, play, stage
from faults.rig import NotQuiet, Rig
from faults.rows import WEIGHTS, Row, Struck

CHAPTER_SECONDS = 300.0
PAUSE_SECONDS = (2.0, 8.0)
"""From the end of a fault to the next."""
PEOPLE = 300
"""So many that nobody writes more in two minutes than a look at the newest messages shows."""
WARMING_SECONDS = 10.0
"""Of load before the first fault, so that pools and caches are filled when usage is taken."""
REST_SECONDS = 60.0
"""Beside the longest doubt: how long all may take to come to rest."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Strike:
    """One fault of a run: when it began and ended (seconds), what it did, and why it failed."""

    row: str
    begun: float
    ended: float
    struck: Struck
    failure: str = ""


@dataclass
class Chapter:
    """What came of one system and its faults."""

    seed: int
    seconds: float
    strikes: list[Strike] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    uncertain: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    events: int = 0
    replies: int = 0
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
    def recoveries(self) -> dict[str, list[float]]:
        """Seconds by process."""
        found: dict[str, list[float]] = defaultdict(list)
        for strike in self.strikes:
            for name, seconds in strike.struck.recoveries.items():
                found[name] += seconds
        return dict(found)


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


async def play_chapter(
    folder: Path,
    seed: int,
    seconds: float,
    rows: Sequence[Row],
    *,
    env: Mapping[str, str],
    rate: float,
    tell: Tell,
) -> Chapter:
    """Starts a system, has faults befall it for so long, lets it rest, and checks it."""
    proxies = sorted(frozenset().union(*(row.proxies for row in rows)))
    load = Load(seed=seed, people=PEOPLE, events=int(rate * seconds), rate=rate)
    chapter = Chapter(seed, seconds)
    async with Rig(folder, proxies=proxies, env=env, seed=seed) as rig:
        on = await stage(rig, load)
        await play(rig, on, replace(load, seed=-seed, events=int(rate * WARMING_SECONDS)))
        before = held(rig)
        playing = asyncio.create_task(play(rig, on, load))
        try:
            await _strike_on(rig, chapter, rows, tell)
            await playing
        finally:
            playing.cancel()
        await rig.calm()
        try:
            chapter.rest = await rig.quiet(bounds_of(env).uncertain + REST_SECONDS)
        except NotQuiet as left:
            chapter.violations.append(Violation("I9", "the system", str(left)))
        struck = [strike.struck for strike in chapter.strikes]
        _examine(await evidence_of(rig, on, struck, env=env, before=before), chapter)
    return chapter


async def _strike_on(rig: Rig, chapter: Chapter, rows: Sequence[Row], tell: Tell) -> None:
    """One fault after the other, until the chapter's time is over."""
    draw, clock = random.Random(f"{chapter.seed}/faults"), asyncio.get_running_loop().time
    begun = clock()
    while True:
        await asyncio.sleep(draw.uniform(*PAUSE_SECONDS))
        at = clock() - begun
        if at >= chapter.seconds:
            return
        row = drawn(rows, draw)
        # A stream of its own: how much one fault draws changes nothing for the next.
        own = random.Random(draw.random())
        struck, failure = Struck(), ""
        try:
            struck = await row.strike(rig, own)
        except (TimeoutError, AssertionError, OSError) as error:
            failure = str(error) or type(error).__name__
            await rig.calm()
        strike = Strike(row.id, at, clock() - begun, struck, failure)
        chapter.strikes.append(strike)
        tell(_line(row, strike))


def _examine(evidence: Evidence, chapter: Chapter) -> None:
    """Holds what is left against the promises."""
    rows = evidence.rows
    chapter.violations += check(evidence)
    chapter.left = [_left(row) for row in rows.outbox if row.state in sends.UNSETTLED]
    chapter.uncertain = sends.uncertain_ends(evidence)
    chapter.duplicates = len(sends.duplicates(evidence))
    chapter.events, chapter.replies = len(rows.events), len(rows.outbox)


def _left(row: OutboxRow) -> str:
    doubt = f", {row.clean_looks} clean looks" if row.state == "uncertain" else ""
    return (
        f"{reply_name(row)} ({row.kind}) is {row.state}: {row.state_reason or 'waits'}{doubt},"
        f" attempt {row.attempt}, the {row.ordinal}. of {row.page_id}/{row.lane}"
    )


def _line(row: Row, strike: Strike) -> str:
    struck = strike.struck
    said = [f"{strike.begun:7.1f} s  {row.id}  {row.sentence}"]
    if struck.kills:
        slowest = max((max(each) for each in struck.recoveries.values()), default=0.0)
        said.append(f"{struck.kills} killed, back within {slowest:.1f} s")
    if strike.failure:
        said.append(f"FAILED: {strike.failure}")
    return "  ".join(said)
