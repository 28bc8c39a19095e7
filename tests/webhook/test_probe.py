import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pagewire_runtime.probe import Unhealthy
from pagewire_webhook.probe import LISTENERS, probe


@asynccontextmanager
async def answering(status: str) -> AsyncIterator[str]:
    """A listener that answers everything so; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield str(server.sockets[0].getsockname()[1])


@pytest.fixture
async def nobody() -> AsyncIterator[str]:
    """A port that is kept, and at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield str(held.getsockname()[1])


@pytest.mark.parametrize("variable", LISTENERS)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_process_is_healthy_by_the_one_listener_that_its_parts_have(
    variable: str, host: str, nobody: str
) -> None:
    async with answering("200 OK") as port:
        environ = dict.fromkeys(LISTENERS, f"127.0.0.1:{nobody}") | {variable: f"{host}:{port}"}

        await asyncio.to_thread(probe, environ)


async def test_a_listener_that_does_not_answer_well_is_not_made_up_for_by_another() -> None:
    async with answering("200 OK") as well, answering("503 Service Unavailable") as ill:
        environ = {"WEBHOOK_LISTEN": f"127.0.0.1:{ill}", "METRICS_LISTEN": f"127.0.0.1:{well}"}

        with pytest.raises(Unhealthy, match="answers 503"):
            await asyncio.to_thread(probe, environ)


async def test_a_process_of_which_nobody_listens_is_not_healthy(nobody: str) -> None:
    with pytest.raises(Unhealthy, match=f"nobody listens at http://127.0.0.1:{nobody}/healthz"):
        await asyncio.to_thread(probe, {"WEBHOOK_LISTEN": f"127.0.0.1:{nobody}"})
