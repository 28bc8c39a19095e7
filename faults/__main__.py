"""Random faults under load: `python -m faults [--seed N] [--minutes M] [--rows F04,F12]`.

Prints its seed, each fault as it befalls, what is wrong at the end of each chapter, and a summary.
Ends with 1 where a promise is broken or a fault could not be brought about. A goal in time that was
missed is told (MISSED) and ends nothing: a busy machine misses it too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import secrets
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faults.nemesis import Chapter, at_random, chapters, examine, play_chapter
from faults.rig import QUICK
from faults.rows import Row, every
from faults.sends import Doubt

RATE = 20.0
SEEDS = 10**6
SETTLES_WITHIN = 90.0
"""Seconds in which what is in doubt is to end by itself."""
BACK_P95, BACK_MOST = 3.0, 5.0
"""Seconds from a death to the next life's readiness."""
FIRST_200 = 5.0
"""Seconds from PostgreSQL's return."""
SLOWEST_503 = 2.5
BESIDE_A_HELD_LANE = 1.5
"""Of the usual p95: the invariant, I8, tells only whether other lanes stand still."""
DOUBLED = ("I2", "I5")
"""Invariants that say that something was stored, or sent, once too often."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seed", type=int, help="draws the faults and the load; by chance unless said"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="under load; 5 unless said")
    parser.add_argument(
        "--rows", default="", help="of the matrix, comma-separated; all unless said"
    )
    parser.add_argument("--rate", type=float, default=RATE, help="events a second")
    parser.add_argument("--short", action="store_true", help="short leases and waits, as in tests")
    parser.add_argument("--json", action="store_true", help="the summary as JSON, alone on stdout")
    parser.add_argument("--list", action="store_true", help="name the rows, and nothing else")
    given = parser.parse_args()
    known = every()
    if given.list:
        for row in known.values():
            print(f"{row.id}  {row.family:9} {row.sentence}")
        return 0
    named = given.rows.split(",") if given.rows else list(known)
    if unknown := sorted(set(named) - known.keys()):
        parser.error(f"no row is called {', '.join(unknown)}")
    seed = secrets.randbelow(SEEDS) if given.seed is None else given.seed
    rows = [known[name] for name in named]
    env = QUICK if given.short else {}
    played = asyncio.run(run(seed, given.minutes * 60, rows, env=env, rate=given.rate))
    found = summary(seed, given.minutes, named, played)
    print(json.dumps(found, indent=2) if given.json else rendered(found))
    return 0 if all(chapter.is_good for chapter in played) else 1


async def run(
    seed: int, seconds: float, rows: Sequence[Row], *, env: Mapping[str, str], rate: float
) -> list[Chapter]:
    """The chapters, one after the other; the folder of one that fails is kept."""
    played = []
    for number, length in chapters(seed, seconds):
        tell(f"seed {number}: {length:.0f} s, {len(rows)} rows")
        folder = Path(tempfile.mkdtemp(prefix="pagewire-faults-"))
        chapter, evidence = await play_chapter(
            folder, number, at_random(length), rows, env=env, rate=rate, tell=tell
        )
        examine(chapter, evidence)
        played.append(chapter)
        for violation in chapter.violations:
            tell(f"  WRONG {violation}")
        for left in chapter.left:
            tell(f"  left: {left}")
        tell(f"  {chapter.kills} kills, {chapter.events} events, {len(chapter.violations)} wrong")
        if chapter.is_good:
            shutil.rmtree(folder)
        else:
            tell(f"  the logs are in {folder}; again: --seed {number} --minutes {length / 60:g}")
    return played


def summary(
    seed: int, minutes: float, rows: Sequence[str], played: Sequence[Chapter]
) -> dict[str, Any]:
    """The run in figures, as `--json` gives them; times are seconds."""
    strikes = [strike for chapter in played for strike in chapter.strikes]
    violations = [each for chapter in played for each in chapter.violations]
    broken = Counter(violation.invariant for violation in violations)
    recoveries: dict[str, list[float]] = defaultdict(list)
    kills: Counter[str] = Counter()
    for strike in strikes:
        kills[strike.row] += strike.struck.kills
        for name, seconds in strike.struck.recoveries.items():
            recoveries[name] += seconds
    first_200 = recoveries.pop("postgres", [])
    load_seconds = sum(chapter.seconds for chapter in played)
    found: dict[str, Any] = {
        "seed": seed,
        "minutes": minutes,
        "load_seconds": round(load_seconds, 1),
        "faults": dict(sorted(Counter(strike.row for strike in strikes).items())),
        "never_drawn": sorted(set(rows) - {strike.row for strike in strikes}),
        "failed_rows": [f"{strike.row}: {strike.failure}" for strike in strikes if strike.failure],
        "kills": kills.total(),
        "kills_an_hour": round(kills.total() * 3600 / load_seconds) if load_seconds else 0,
        "kills_by_fault": {row: count for row, count in sorted(kills.items()) if count},
        "events": sum(chapter.events for chapter in played),
        "replies": sum(chapter.replies for chapter in played),
        "lost": broken["I1"],
        "doubled": sum(broken[name] for name in DOUBLED),
        "order_broken": broken["I6"],
        "sent_twice_and_excused": sum(chapter.duplicates for chapter in played) - broken["I5"],
        "recovery": {name: spread(each) for name, each in sorted(recoveries.items())},
        "recovery_of_all": spread([s for each in recoveries.values() for s in each]),
        "first_200_after_an_outage": spread(first_200),
        "in_doubt": of_doubts([doubt for chapter in played for doubt in chapter.doubts]),
        "answers": of_answers(played),
        "slowest_503": round(max((each.slowest_refusal for each in played), default=0.0), 2),
        "acks_beside_a_held_lane": ratios(played),
        "catching_up": [
            {"backlog": each.backlog, "seconds": round(each.seconds, 2)}
            for chapter in played
            for each in chapter.catchups
        ],
        "rest_seconds": round(max((chapter.rest for chapter in played), default=0.0), 1),
        "violations": [
            {"seed": chapter.seed, "is": str(violation)}
            for chapter in played
            for violation in chapter.violations
        ],
    }
    return found | {"missed": missed(found)}


def missed(found: Mapping[str, Any]) -> list[str]:
    """The goals in time that were not reached, of a summary."""
    back, first_200 = found["recovery_of_all"], found["first_200_after_an_outage"]
    measured = [
        ("back after a kill, p95", back["p95"], "s", BACK_P95),
        ("back after a kill, at most", back["max"], "s", BACK_MOST),
        ("first 200 after an outage, at most", first_200["max"], "s", FIRST_200),
        ("503, the slowest", found["slowest_503"], "s", SLOWEST_503),
        *(
            (f"acks beside {row}, p95", ratio, "× the usual", BESIDE_A_HELD_LANE)
            for row, ratio in found["acks_beside_a_held_lane"].items()
        ),
    ]
    return [
        f"{what}: {value} {unit}, goal {goal}"
        for what, value, unit, goal in measured
        if value > goal
    ]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """How many there are, and where the middle, the most and the end of them is."""
    shares = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {"count": len(seconds)} | {
        name: percentile(seconds, share) for name, share in shares.items()
    }


def of_doubts(doubts: Sequence[Doubt]) -> dict[str, Any]:
    """How what was in doubt ended, after how long, and the share that did by itself in time."""
    ends: dict[str, list[float]] = defaultdict(list)
    for doubt in doubts:
        ends[doubt.end].append(math.inf if doubt.seconds is None else doubt.seconds)
    in_time = sum(
        seconds <= SETTLES_WITHIN
        for end, each in ends.items()
        if end not in ("open", "parked")
        for seconds in each
    )
    return {
        "count": len(doubts),
        "ends": {
            end: spread([seconds for seconds in each if seconds < math.inf]) | {"count": len(each)}
            for end, each in sorted(ends.items())
        },
        "share_within_90_s": round(in_time / len(doubts), 4) if doubts else 1.0,
    }


def of_answers(played: Sequence[Chapter]) -> dict[str, Any]:
    """How often Meta was answered how, and the slowest of each."""
    counts = sum((chapter.answers.counts for chapter in played), Counter[str]())
    return {
        status: {
            "count": count,
            "slowest": round(max(each.answers.slowest.get(status, 0.0) for each in played), 2),
        }
        for status, count in sorted(counts.items())
    }


def ratios(played: Sequence[Chapter]) -> dict[str, float]:
    """By fault the middle of its ratios."""
    found: dict[str, list[float]] = defaultdict(list)
    for chapter in played:
        for row, each in chapter.isolation.items():
            found[row] += each
    return {row: percentile(each, 0.5) for row, each in sorted(found.items())}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed; 0 where there are none."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(len(ordered) * share) - 1)], 2) if ordered else 0.0


def rendered(found: Mapping[str, Any]) -> str:
    """The same for people."""
    doubts = found["in_doubt"]
    lines = {
        "seed": found["seed"],
        "under load": f"{found['load_seconds']:.0f} s",
        "faults": " ".join(f"{row}×{count}" for row, count in found["faults"].items()),
        "kills": f"{found['kills']}, {found['kills_an_hour']} an hour: "
        + " ".join(f"{row}×{count}" for row, count in found["kills_by_fault"].items()),
        "events, replies": f"{found['events']}, {found['replies']}",
        "lost": found["lost"],
        "doubled": found["doubled"],
        "order broken": found["order_broken"],
        "sent twice": f"{found['sent_twice_and_excused']} that nobody could know of",
        "back after a kill": _spread(found["recovery_of_all"]),
        **{f"  {name}": _spread(each) for name, each in found["recovery"].items()},
        "first 200": f"{_spread(found['first_200_after_an_outage'])}, after an outage",
        "in doubt": f"{doubts['count']}, {doubts['share_within_90_s']:.2%} settled within 90 s",
        **{f"  by {end}": _spread(each) for end, each in doubts["ends"].items()},
        **{
            f"answered {status}": f"{each['count']}, slowest {each['slowest']} s"
            for status, each in found["answers"].items()
        },
        **{
            f"acks beside {row}": f"p95 {ratio} × the usual"
            for row, ratio in found["acks_beside_a_held_lane"].items()
        },
        "caught up": ", ".join(
            f"{each['backlog']} in {each['seconds']} s" for each in found["catching_up"]
        )
        or "nothing",
        "at rest after": f"{found['rest_seconds']} s",
        "rows that failed": len(found["failed_rows"]),
        "violations": len(found["violations"]),
    }
    told = [*lines.items(), *(("MISSED", goal) for goal in found["missed"])]
    return "\n".join(f"{name:18} {value}" for name, value in told)


def _spread(of: Mapping[str, float]) -> str:
    return f"{of['count']}, p50 {of['p50']} s, p95 {of['p95']} s, at most {of['max']} s"


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
