from contextlib import AsyncExitStack

import pytest

from bench.client import BARE, CLIENTS, OURS, STOCK, Found, _measures, late_graph
from bench.figures import MeasuringFailed


@pytest.mark.parametrize("name", CLIENTS)
async def test_each_client_reads_from_the_late_graph_again_and_again(name: str) -> None:
    server = await late_graph(0)
    port = server.sockets[0].getsockname()[1]
    async with AsyncExitStack() as stack:
        get = await stack.enter_async_context(CLIENTS[name](port))

        for _ in range(2):
            await get(7)

    server.close()
    await server.wait_closed()


async def test_a_client_without_a_graph_measures_nothing() -> None:
    server = await late_graph(0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()

    async with CLIENTS[BARE](port) as get:
        with pytest.raises((MeasuringFailed, OSError)):
            await get(7)


def test_the_goals_are_against_the_ideal_and_stock_httpx() -> None:
    found = {
        OURS: [Found(rate=1_300, cpu_us=300, peak_mib=127)],
        STOCK: [Found(rate=66, cpu_us=15_000, peak_mib=80)],
        BARE: [Found(rate=1_990, cpu_us=30, peak_mib=30)],
    }

    met = {measure.name: measure.is_met for measure in _measures(found)}

    assert met == {
        "in_flight_500": True,
        "in_flight_500_beside_httpx": False,
        "in_flight_500_cpu": None,
        "in_flight_500_memory": True,
    }
