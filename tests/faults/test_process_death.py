"""Group A: processes die, stand still, and have no memory, at the worst of moments."""

import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from faults.history import End
from faults.rig import SERVICES, Rig
from faults.rows.process import FENCED, dies, stands_still
from faults.shown import shown
from tests.support.struck import trial

pytestmark = [
    pytest.mark.rows,
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-rig-") as folder:
        async with Rig(Path(folder)) as rig:
            yield rig


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def calm(rig: Rig) -> AsyncIterator[None]:
    yield
    await rig.calm()


@pytest.mark.parametrize(
    "row", ["F01", "F02", "F03", "F05", "F06", "F07", "F08", "F11", "F12", "F13"]
)
async def test_a_death_at_this_point_loses_and_doubles_nothing(rig: Rig, row: str) -> None:
    under = await trial(rig, seed=row)

    struck = await under.befalls(row)

    evidence = await under.kept_promises()
    assert struck.kills == 1
    assert {row.state for row in evidence.rows.outbox} == {"sent"}


@pytest.mark.parametrize(
    ("row", "part", "moments"),
    [
        ("F04", "store.ingest", ["begun", "stmt7"]),
        ("F10", "store.decide", ["stmt7", "commit_sent"]),
    ],
)
async def test_a_store_that_dies_in_a_transaction_leaves_all_of_it_or_nothing(
    rig: Rig, row: str, part: str, moments: list[str]
) -> None:
    under = await trial(rig, seed=row)

    async with under.load_going_on():
        for moment in moments:
            under.struck.append(await dies(rig, under.draw, "store", f"{part}.{moment}"))

    await under.kept_promises()
    assert len(under.struck) == len(moments)


@pytest.mark.parametrize("point", ["store.decide.after_commit", "dispatcher.committed"])
async def test_a_decision_of_which_nobody_is_told_is_made_once(rig: Rig, point: str) -> None:
    under = await trial(rig, seed=point)
    service = "store" if point.startswith("store") else "webhook"

    async with under.load_going_on():
        under.struck.append(await dies(rig, under.draw, service, point))

    await under.kept_promises()


async def test_all_four_killed_at_once_come_back_and_go_on(rig: Rig) -> None:
    under = await trial(rig)

    struck = await under.befalls("F15")

    await under.kept_promises()
    assert struck.recoveries.keys() == set(SERVICES)
    assert all(rig.process(name).exit_codes[-1] == -signal.SIGKILL for name in SERVICES)


async def test_the_late_commit_of_a_dispatcher_that_stood_still_is_refused(rig: Rig) -> None:
    under = await trial(rig)
    before = await shown(rig, "store", FENCED)

    await under.befalls("F16")

    await under.kept_promises()
    assert await shown(rig, "store", FENCED) > before


async def test_an_event_that_kills_the_dispatcher_is_parked_after_eight_deaths_and_alone(
    rig: Rig,
) -> None:
    under = await trial(rig)

    struck = await under.befalls("F17")

    evidence = await under.kept_promises()
    (lane,) = struck.poisoned
    (parked,) = [row for row in evidence.rows.events if row.state == "parked"]
    assert (parked.page_id, parked.lane) == lane
    assert parked.attempts == 8
    assert evidence.decisions[parked.page_id, parked.event_id].outcome == "failed"


async def test_a_service_without_memory_is_replaced_by_one_that_has_some(rig: Rig) -> None:
    under = await trial(rig, seed="F18")

    struck = await under.befalls("F18")

    await under.kept_promises()
    (name,) = struck.recoveries
    assert rig.process(name).exit_codes[-1] != 0


@pytest.mark.parametrize(
    ("name", "point"), [("webhook", "edge.verified"), ("store", "store.ingest.begun")]
)
async def test_a_loop_that_stood_still_tells_of_it_and_loses_nothing(
    rig: Rig, name: str, point: str
) -> None:
    under = await trial(rig)
    deaths = len(rig.process(name).exit_codes)

    async with under.load_going_on():
        await stands_still(rig, name, point)

    evidence = await under.kept_promises()
    assert len(rig.process(name).exit_codes) == deaths
    assert all(End.OK in ends for ends in evidence.ends.values())


async def test_who_has_no_descriptors_left_refuses_and_goes_on_when_there_are_some(
    rig: Rig,
) -> None:
    under = await trial(rig)
    deaths = {name: len(rig.process(name).exit_codes) for name in SERVICES}

    await under.befalls("F88")

    await under.kept_promises()
    assert deaths == {name: len(rig.process(name).exit_codes) for name in SERVICES}
