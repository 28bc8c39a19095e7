"""bench/results.json: the last figures of each suite, in a form that other programs read.

`{"machine", "commit", "suites": {suite: {measure: {"value", "unit", "limit", "ratio_to_limit",
"peers": {peer: {"value", "ratio"}}}}}}`. A figure is the median of its rounds; `limit` and
`ratio_to_limit` are null where there is no limit, a figure that never came is null too.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from bench.figures import Measure, Suite

PATH = Path(__file__).with_name("results.json")


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new results, with the old suites that they lack.

    There is one machine and one commit for all, so suites of another are left out.
    """
    same = all(old.get(key) == new[key] for key in ("machine", "commit"))
    kept: dict[str, Any] = old["suites"] if same else {}
    return new | {"suites": kept | new["suites"]}


def results(suites: Iterable[Suite], machine: str, commit: str) -> dict[str, Any]:
    return {
        "machine": machine,
        "commit": commit,
        "suites": {
            suite.name: {measure.name: entry(measure) for measure in suite.measures}
            for suite in suites
        },
    }


def entry(measure: Measure) -> dict[str, Any]:
    limit = measure.limit
    return {
        "value": _figure(measure.value),
        "unit": measure.unit,
        "limit": None if limit is None else _figure(statistics.median(limit)),
        "ratio_to_limit": None if limit is None else _figure(measure.ratio(limit)),
        "peers": {
            name: {"value": _figure(statistics.median(peer)), "ratio": _figure(measure.ratio(peer))}
            for name, peer in measure.peers.items()
        },
    }


def write(suites: Iterable[Suite], path: Path = PATH) -> None:
    """Puts the suites into the file, beside those that it has of this machine and commit."""
    new = results(suites, machine(), commit())
    old = msgspec.json.decode(path.read_bytes()) if path.exists() else None
    found = merged(old, new) if old else new
    unfinished = path.with_suffix(".json.new")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    unfinished.replace(path)


def machine() -> str:
    """What the figures were measured on, in a line."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB,"
        f" {platform.system()} {platform.release()}, CPython {platform.python_version()}"
    )


def commit() -> str:
    """Of the checkout, marked where files of it are changed."""
    where = PATH.parent
    head = _git(where, "rev-parse", "HEAD")
    changed = _git(where, "status", "--porcelain", "--untracked-files=no")
    return f"{head}-changed" if changed else head


def _git(where: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(where), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _figure(value: float) -> float | None:
    """Five digits that count: more are noise. None for what never came."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
