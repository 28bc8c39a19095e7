"""F14, F25: who reads history dies, or who keeps it, while webhooks come."""

import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from faults.past import begin, differences, ended, give_a_past
from faults.rig import Rig
from tests.support.struck import SMALL, trial

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

FEW = 4.0
"""Events a second: of pages that are read at Meta's two calls a second while it goes on."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-rig-") as folder:
        async with Rig(Path(folder), proxies=[("store", "postgres")]) as rig:
            yield rig


@pytest.mark.rows
@pytest.mark.parametrize("row", ["F14", "F25"])
async def test_history_is_whole_and_webhooks_lose_and_double_nothing(rig: Rig, row: str) -> None:
    under = await trial(rig, seed=row)

    await under.befalls(row)

    await under.kept_promises()


async def test_webhooks_that_come_while_their_pages_are_read_are_neither_lost_nor_doubled(
    rig: Rig,
) -> None:
    under = await trial(rig, replace(SMALL, rate=FEW))
    pages = [page.id for page in under.on.pages]
    for page in pages:
        await give_a_past(rig, page)
    async with under.load_going_on():
        runs = [await ended(rig, run_id) for run_id in [await begin(rig, page) for page in pages]]

    await under.kept_promises()
    assert [run["state"] for run in runs] == ["succeeded"] * len(pages)
    assert [await differences(rig, page) for page in pages] == [[]] * len(pages)
