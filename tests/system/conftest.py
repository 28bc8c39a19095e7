import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from pagewire_cli.launcher import running
from pagewire_simulator.client import SimulatorClient
from tests.support.live import Live


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest.fixture(scope="module")
def replicas() -> dict[str, int]:
    return {}


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """Settings that are not the defaults."""
    return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(replicas: dict[str, int], env: dict[str, str]) -> AsyncIterator[Live]:
    with tempfile.TemporaryDirectory(prefix="pagewire-system-") as folder:
        async with running(Path(folder), replicas=replicas, env=env) as system:
            key = system.env["API_KEYS"].split(",")[0]
            headers = {"Authorization": f"Bearer {key}"}
            async with (
                SimulatorClient(system.addresses["simulator"]) as meta,
                httpx.AsyncClient(
                    base_url=system.addresses["operator"], headers=headers, timeout=60
                ) as http,
                httpx.AsyncClient(base_url=system.addresses["public"], timeout=60) as edge,
            ):
                yield Live(system, meta, http, edge)
