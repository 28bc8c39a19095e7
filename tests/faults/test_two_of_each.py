"""Two of each service: they share the work, and are bound by what is stored alone.

With the bugs that only then do harm, or that do it only where one takes over from another.
"""

import asyncio
import dataclasses
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from faults.checker import check
from faults.evidence import Evidence
from faults.planted import BUGS
from faults.rig import SERVICES, Rig
from faults.rows.process import FENCED
from faults.shown import shown
from pagewire_cli.launcher import MODULES
from tests.support.struck import Trial, trial

pytestmark = [
    pytest.mark.rows,
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

ROOT = Path(__file__).parents[2]
IN_TURN = 2
"""So often in a row a bug is found: once may be luck."""
IN_A_ROW = 6
"""Calls, by which each of two has answered."""
BEFALLING_SECONDS = 40.0
"""For a row that waits for what does not come."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-two-") as folder:
        async with Rig(Path(folder), replicas=dict.fromkeys(SERVICES, 2)) as rig:
            yield rig


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def calm(rig: Rig) -> AsyncIterator[None]:
    yield
    await rig.calm()


@pytest.mark.parametrize("row", ["F15", "F38", "F80"])
async def test_two_of_each_lose_and_double_nothing_and_keep_the_order(rig: Rig, row: str) -> None:
    under = await trial(rig, seed=row)

    await under.befalls(row)

    evidence = await under.kept_promises()
    assert {row.state for row in evidence.rows.outbox} == {"sent"}
    assert len(owners(evidence)) > 1


async def test_who_stood_still_past_its_leases_is_refused(rig: Rig) -> None:
    under = await trial(rig)
    before = await shown(rig, "store", FENCED)

    await under.befalls("F16")

    evidence = await under.kept_promises()
    assert await shown(rig, "store", FENCED) > before
    assert max(row.epoch or 0 for row in evidence.rows.decisions) > 1


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.needs_two])
async def test_a_bug_of_those_who_share_lanes_is_found_each_time(rig: Rig, name: str) -> None:
    bug = BUGS[name]
    await live_as(rig, bug.service, planted(name))
    try:
        found = [await told_by(await trial(rig, seed=str(at)), bug.row) for at in range(IN_TURN)]
    finally:
        await live_as(rig, bug.service, list(MODULES[bug.service]))

    assert all(each & bug.told_by for each in found), found


def owners(evidence: Evidence) -> set[str]:
    return {lease.owner for lease in evidence.rows.leases}


def planted(name: str) -> list[str]:
    """The command of the bug's service with the bug in it."""
    module = MODULES[BUGS[name].service][-1]
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "faults.planted", name, module]


async def live_as(rig: Rig, service: str, command: list[str]) -> None:
    """Both die, and their next lives are by this command; returns when others see each of them."""
    for name in rig.processes(service):
        process = rig.process(name)
        argv = process.spec.argv
        at = argv.index("env", 1) if "env" in argv[1:] else argv.index(sys.executable)
        process.spec = dataclasses.replace(process.spec, argv=[*argv[:at], *command])
        await rig.kill(name)
    await asyncio.gather(*(rig.back(name) for name in rig.processes(service)))
    answers: list[int] = []
    async with asyncio.timeout(60):
        while answers[-IN_A_ROW:] != [200] * IN_A_ROW:
            answers.append((await rig.operator.get("/api/pages")).status_code)
            await asyncio.sleep(0.1)


async def told_by(under: Trial, row: str) -> set[str]:
    """The invariants that do not hold when the row has befallen a system with a bug."""
    with suppress(TimeoutError):  # with a bug it may not come by what it waits for
        async with asyncio.timeout(BEFALLING_SECONDS):
            await under.befalls(row)
    return {violation.invariant for violation in check(await under.rest())}
