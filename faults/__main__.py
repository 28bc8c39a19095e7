"""Random faults under load: `python -m faults [--seed N] [--minutes M] [--rows F04,F12]`.

Prints its seed, each fault as it befalls, what is wrong at the end of each chapter, and a summary.
Ends with 1 where a promise is broken or a fault could not be brought about.
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
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faults.nemesis import Chapter, chapters, play_chapter
from faults.rig import QUICK
from faults.rows import Row, every

RATE = 20.0
SEEDS = 10**6


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
        chapter = await play_chapter(folder, number, length, rows, env=env, rate=rate, tell=tell)
        played.append(chapter)
        for violation in chapter.violations:
            tell(f"  WRONG {violation}")
        for left in chapter.left:
            tell(f"  left: {left}")
        if chapter.is_good:
            shutil.rmtree(folder)
        else:
            tell(f"  the logs are in {folder}; again: --seed {number} --minutes {length / 60:g}")
    return played


def summary(
    seed: int, minutes: float, rows: Sequence[str], played: Sequence[Chapter]
) -> dict[str, Any]:
    """The run in figures, as `--json` gives them."""
    strikes = [strike for chapter in played for strike in chapter.strikes]
    recoveries = [s for chapter in played for each in chapter.recoveries.values() for s in each]
    return {
        "seed": seed,
        "minutes": minutes,
        "rows": dict(sorted(Counter(strike.row for strike in strikes).items())),
        "never_drawn": sorted(set(rows) - {strike.row for strike in strikes}),
        "events": sum(chapter.events for chapter in played),
        "replies": sum(chapter.replies for chapter in played),
        "kills": sum(chapter.kills for chapter in played),
        "recovery_seconds": {"p95": percentile(recoveries, 0.95), "max": percentile(recoveries, 1)},
        "rest_seconds": max((chapter.rest for chapter in played), default=0.0),
        "uncertain_ends": dict(sum((chapter.uncertain for chapter in played), Counter())),
        "duplicates": sum(chapter.duplicates for chapter in played),
        "violations": [
            {"seed": chapter.seed, "is": str(violation)}
            for chapter in played
            for violation in chapter.violations
        ],
        "failed_rows": [f"{strike.row}: {strike.failure}" for strike in strikes if strike.failure],
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed; 0 where there are none."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(len(ordered) * share) - 1)], 2) if ordered else 0.0


def rendered(found: Mapping[str, Any]) -> str:
    """The same for people."""
    took = found["recovery_seconds"]
    ends = ", ".join(f"{count} {how}" for how, count in sorted(found["uncertain_ends"].items()))
    lines = {
        "seed": found["seed"],
        "faults": sum(found["rows"].values()),
        "kills": found["kills"],
        "events, replies": f"{found['events']}, {found['replies']}",
        "back after a kill": f"p95 {took['p95']} s, at most {took['max']} s",
        "at rest after": f"{found['rest_seconds']:.1f} s",
        "in doubt": ends or "none",
        "sent twice": found["duplicates"],
        "rows that failed": len(found["failed_rows"]),
        "violations": len(found["violations"]),
    }
    return "\n".join(f"{name:18} {value}" for name, value in lines.items())


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
