"""The benchmarks: `python -m bench [edge] [live] [store] [history] [overload] [recovery] …`.

Each figure stands beside its goal, its limit and its peers, in a table and in bench/results.json.
Ends with 1 where something could not be measured, or was lost or doubled; never for a missed goal.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import uvloop

from bench import edge, history, live, overload, recovery, results, store
from bench.figures import MeasuringFailed, Suite
from bench.table import missed, rendered
from pagewire_cli.embedded import discard
from pagewire_cli.leash import CannotStart


class Measured(Protocol):
    def __call__(self, folder: Path, *, quick: bool) -> Awaitable[Suite]: ...


SUITES: dict[str, Measured] = {
    "edge": edge.measured,
    "store": store.measured,
    "live": live.measured,
    "history": history.measured,
    "overload": overload.measured,
    "recovery": recovery.measured,
}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for servers and logs, on the disk of the checkout; its logs stay after a failure."""
    inside = Path(__file__).with_name("scratch")
    inside.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=inside))
    folder.chmod(0o711)  # as root the servers' own user passes through
    try:
        yield folder
    except BaseException:
        print(f"bench: the logs are in {folder}", file=sys.stderr)
        raise
    finally:
        for server in ("postgres", "system/postgres", "system/valkey"):
            discard(folder / server)
    shutil.rmtree(folder)


async def run(names: list[str], *, quick: bool) -> list[Suite]:
    """The suites, one after the other; each result is kept as soon as it is there."""
    done: list[Suite] = []
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        with scratch() as folder:
            suite = await SUITES[name](folder, quick=quick)
        print(rendered(suite), flush=True)
        if not quick:
            results.write([suite])
        done.append(suite)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", nargs="*", help=f"of {', '.join(SUITES)}; all unless said")
    parser.add_argument(
        "--quick", action="store_true", help="short rounds, to see that it works; nothing is kept"
    )
    given = parser.parse_args()
    if unknown := set(given.suite) - SUITES.keys():
        parser.error(f"no suite is called {', '.join(sorted(unknown))}")
    names = given.suite or list(SUITES)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            suites = runner.run(run(names, quick=given.quick))
    except (MeasuringFailed, CannotStart) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    for line in missed(suites):
        print(f"MISSED {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
