import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from pagewire_webhook.operator.app import Upstreams
from tests.support.upstreams import Upstream, running_api, running_upstream


@pytest.fixture
async def behind() -> AsyncIterator[tuple[Upstream, Upstreams]]:
    """The services behind the operator's API, and channels to them."""
    async with running_upstream() as both:
        yield both


@pytest.fixture
def upstream(behind: tuple[Upstream, Upstreams]) -> Upstream:
    """The services behind the operator's API, to say what they answer."""
    return behind[0]


@pytest.fixture
def stopping() -> asyncio.Event:
    """To be set when the operator's server begins to drain."""
    return asyncio.Event()


@pytest.fixture
async def api(
    behind: tuple[Upstream, Upstreams], stopping: asyncio.Event
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API; each answer that it gets must be one that the document promises."""
    async with running_api(behind[1], stopping) as client:
        yield client
