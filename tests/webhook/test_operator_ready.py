import asyncio
import socket

import httpx

from pagewire.store.v1.operation_service_pb2 import GetStatusResponse
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Unavailable
from pagewire_webhook.operator.app import Upstreams
from tests.support.upstreams import OPERATOR_TOKEN, Upstream, running_api


async def test_it_is_ready_where_every_part_serves(api: httpx.AsyncClient) -> None:
    response = await api.get("/readyz")

    assert response.status_code == 200
    assert response.json() == {
        "ready": True,
        "parts": {
            "store": "serving",
            "rules": "serving",
            "sync": "serving",
            "postgres": "ok",
            "cache": "off",
        },
    }


async def test_it_is_not_ready_where_the_database_is_not(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["GetStatus"] = GetStatusResponse(database="unreachable", cache="ok")

    response = await api.get("/readyz")

    assert response.status_code == 503
    assert response.json()["ready"] is False
    assert response.json()["parts"]["postgres"] == "unreachable"


async def test_a_cache_that_is_down_changes_nothing(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["GetStatus"] = GetStatusResponse(database="ok", cache="unreachable")

    response = await api.get("/readyz")

    assert response.status_code == 200
    assert response.json()["parts"]["cache"] == "unreachable"


async def test_a_service_that_drains_is_not_serving(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    assert upstream.server is not None
    await upstream.server.set_serving(False)

    response = await api.get("/readyz")

    assert response.status_code == 503
    assert response.json()["parts"]["rules"] == "not_serving"


async def test_a_store_that_cannot_tell_how_things_stand_is_told_of(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["GetStatus"] = Unavailable("postgres")

    response = await api.get("/readyz")

    assert response.status_code == 503
    assert response.json()["parts"]["postgres"] == "unreachable"


async def test_a_service_that_is_away_or_mute_costs_a_second_at_the_most(
    behind: tuple[Upstream, Upstreams],
) -> None:
    with socket.socket() as mute, socket.socket() as away:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        away.bind(("127.0.0.1", 0))  # bound, so that nobody else is there, and not listening
        async with (
            channel(f"127.0.0.1:{mute.getsockname()[1]}", token=OPERATOR_TOKEN) as to_mute,
            channel(f"127.0.0.1:{away.getsockname()[1]}", token=OPERATOR_TOKEN) as to_away,
            running_api(Upstreams(behind[1].store, to_mute, to_away)) as api,
            asyncio.timeout(30),
        ):
            response = await api.get("/readyz")

    assert response.status_code == 503
    assert response.json()["parts"] == {
        "store": "serving",
        "rules": "unreachable",
        "sync": "unreachable",
        "postgres": "ok",
        "cache": "off",
    }


async def test_metrics_are_prometheus_text(api: httpx.AsyncClient) -> None:
    response = await api.get("/metrics")

    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE pagewire_rpc_seconds histogram" in response.text
