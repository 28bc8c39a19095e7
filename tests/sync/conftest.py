from collections.abc import AsyncIterator

import pytest

from tests.support.sending import Meta, simulated


@pytest.fixture
async def meta() -> AsyncIterator[Meta]:
    async with simulated() as running:
        yield running


@pytest.fixture
async def hasty() -> AsyncIterator[Meta]:
    """With calls that may take half a second."""
    async with simulated(total_seconds=0.5) as running:
        yield running
