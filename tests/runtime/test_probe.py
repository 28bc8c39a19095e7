import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from pagewire_runtime import probe
from tests.runtime.conftest import Serve
from tests.support.authority import Authority

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def health() -> health_aio.HealthServicer:
    return health_aio.HealthServicer()


@pytest.fixture
async def target(health: health_aio.HealthServicer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def answering(head: bytes) -> tuple[asyncio.Server, str]:
    """An HTTP server that answers everything so, and its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/healthz"


async def test_a_serving_process_is_healthy(health: health_aio.HealthServicer, target: str) -> None:
    await health.set("", SERVING)

    await asyncio.to_thread(probe.main, target)


async def test_a_draining_process_is_not(health: health_aio.HealthServicer, target: str) -> None:
    await health.set("", NOT_SERVING)

    with pytest.raises(SystemExit, match="is NOT_SERVING"):
        await asyncio.to_thread(probe.main, target)


async def test_with_mutual_tls_the_probe_shows_the_process_s_own_certificate(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Authority(tmp_path, "ours").issue("store")
    monkeypatch.setenv("TLS_CERT_FILE", str(own.cert_file))
    monkeypatch.setenv("TLS_KEY_FILE", str(own.key_file))
    monkeypatch.setenv("TLS_CA_FILE", str(own.ca_file))

    async with serve(tls=own) as echo:
        await asyncio.to_thread(probe.main, echo.target, "store")


async def test_http_that_answers_200_is_healthy() -> None:
    server, url = await answering(b"HTTP/1.1 200 OK")

    async with server:
        await asyncio.to_thread(probe.main, url)


async def test_http_that_answers_anything_else_is_not() -> None:
    server, url = await answering(b"HTTP/1.1 503 Service Unavailable")

    async with server:
        with pytest.raises(SystemExit, match="answers 503"):
            await asyncio.to_thread(probe.main, url)


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_process_that_is_not_there_ends_the_probe_with_1(scheme: str) -> None:
    nobody = f"{scheme}127.0.0.1:1"

    ended = subprocess.run(
        [sys.executable, "-m", "pagewire_runtime.probe", nobody], capture_output=True, text=True
    )

    assert ended.returncode == 1
    assert "does not answer" in ended.stderr
