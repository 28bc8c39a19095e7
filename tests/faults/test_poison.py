"""F17 where it is rules that die of an event; and deaths of theirs that are no event's doing."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from faults.rig import Rig
from faults.rows.poison import LOST, TO_RULES, TRIALS
from faults.shown import shown
from tests.support.struck import trial

pytestmark = [
    pytest.mark.rows,
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-poison-") as folder:
        async with Rig(Path(folder), proxies=TO_RULES) as rig:
            yield rig


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def calm(rig: Rig) -> AsyncIterator[None]:
    yield
    await rig.calm()


async def test_an_event_that_kills_rules_is_parked_and_all_others_are_answered(rig: Rig) -> None:
    under = await trial(rig)

    struck = await under.befalls("F17b")

    evidence = await under.kept_promises()
    (lane,) = struck.poisoned
    (parked,) = [row for row in evidence.rows.events if row.state == "parked"]
    decision = evidence.decisions[parked.page_id, parked.event_id]
    others = [row for row in evidence.rows.decisions if row is not decision]
    meanwhile = [row for row in others if parked.stored_at < row.decided_at < decision.decided_at]
    behind = {
        evidence.decisions[row.page_id, row.event_id].outcome
        for row in evidence.rows.events
        if (row.page_id, row.lane) == lane and row.number > parked.number
        if (row.page_id, row.event_id) in evidence.decisions
    }
    why = await rig.postgres.ask("select last_error from event where state = 'parked'")
    assert (parked.page_id, parked.lane) == lane
    assert (decision.outcome, decision.reason, why) == (
        "failed",
        "evaluation_failed",
        "kills_rules",
    )
    assert parked.attempts == TRIALS
    assert TRIALS <= struck.kills <= TRIALS + 1
    assert not [row for row in others if row.outcome == "failed"]
    assert [row for row in meanwhile if row.outcome == "answered"]
    assert "answered" in behind


async def test_rules_that_are_killed_or_away_for_other_causes_park_nothing(rig: Rig) -> None:
    under = await trial(rig)
    before = await shown(rig, "webhook", LOST)

    struck = await under.befalls("F17c")

    evidence = await under.kept_promises()
    assert struck.kills > TRIALS
    assert await shown(rig, "webhook", LOST) > before
    assert {row.state for row in evidence.rows.events} == {"done"}
    assert "failed" not in {row.outcome for row in evidence.rows.decisions}
