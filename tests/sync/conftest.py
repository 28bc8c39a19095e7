from collections.abc import AsyncIterator

import pytest

from tests.support.sending import Meta, simulated


@pytest.fixture
async def meta() -> AsyncIterator[Meta]:
    async with simulated() as running:
        yield running


@pytest.fixture
async def hasty() -> AsyncIterator[Meta]:
    """With calls that may take two seconds."""
    async with simulated(total_seconds=2.0) as running:
        yield running
