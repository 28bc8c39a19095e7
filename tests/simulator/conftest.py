from collections.abc import AsyncIterator

import httpx
import pytest

from pagewire_simulator.client import AccountView, SimulatorClient
from tests.support.simulator import (
    APP_SECRET,
    GraphCaller,
    Receiver,
    running_receiver,
    running_simulator,
)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as running:
        yield running


@pytest.fixture
async def simulator() -> AsyncIterator[SimulatorClient]:
    async with running_simulator() as client:
        yield client


@pytest.fixture
async def page(simulator: SimulatorClient) -> AccountView:
    return await simulator.create_account("messenger", id="104200000000001", name="Example")


@pytest.fixture
async def graph(simulator: SimulatorClient, page: AccountView) -> AsyncIterator[GraphCaller]:
    async with httpx.AsyncClient(timeout=60) as http:
        yield GraphCaller(simulator.facebook, page.token, http, APP_SECRET)
