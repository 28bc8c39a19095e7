"""Groups A, B and F: who reads history dies, or whom it is stored with, under a load of webhooks."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from faults.past import begin, is_whole
from faults.rig import Rig
from tests.support.struck import trial

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-rig-") as folder:
        async with Rig(Path(folder), proxies=[("store", "postgres")]) as rig:
            yield rig


@pytest.mark.parametrize("row", ["F14", "F25"])
async def test_history_is_whole_and_webhooks_lose_and_double_nothing(rig: Rig, row: str) -> None:
    under = await trial(rig, seed=row)

    await under.befalls(row)

    await under.kept_promises()


async def test_webhooks_that_come_while_their_pages_are_read_are_neither_lost_nor_doubled(
    rig: Rig,
) -> None:
    under = await trial(rig)
    async with under.load_going_on():
        runs = {page.id: await begin(rig, page.id) for page in under.on.pages}
        for page, run_id in runs.items():
            await is_whole(rig, page, run_id)

    await under.kept_promises()
