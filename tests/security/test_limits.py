"""What a connection to a gRPC server may take."""

import asyncio
from typing import Any

import grpc

from pagewire_runtime.serving import _options
from tests.runtime.conftest import SYNC_TOKEN, Serve, serve, unary

__all__ = ["serve"]


def test_a_server_has_every_limit() -> None:
    options = dict(_options(1_000))

    assert options["grpc.max_receive_message_length"] == 1_000
    assert options["grpc.absolute_max_metadata_size"] == 16_384
    assert options["grpc.max_concurrent_streams"] == 100
    assert options["grpc.max_connection_age_ms"] == 600_000
    assert options["grpc.max_connection_age_grace_ms"] == 30_000
    assert options["grpc.http2.min_recv_ping_interval_without_data_ms"] == 10_000
    assert options["grpc.http2.max_ping_strikes"] == 2
    assert options["grpc.so_reuseport"] == 0


async def test_a_connection_has_no_more_than_a_hundred_calls_at_once(serve: Serve) -> None:
    under_way, most, may_end = 0, 0, asyncio.Event()
    may_end.set()

    async def counted(request: bytes, context: Any) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await may_end.wait()
        under_way -= 1
        return b""

    bearer = [("authorization", f"Bearer {SYNC_TOKEN}")]
    async with serve(counted) as echo, echo.raw() as client:
        await unary(client)(b"", metadata=bearer, timeout=60)  # the client has to hear of the limit
        may_end.clear()
        calls = [
            asyncio.ensure_future(unary(client)(b"", metadata=bearer, timeout=60))
            for _ in range(150)
        ]
        async with asyncio.timeout(60):
            while most < 100:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # for more to come, if they could
        at_once = most
        may_end.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)

    # Those beyond wait for their turn; one that comes a moment too early is refused unseen.
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert at_once == most == 100
    assert answers.count(b"") + len(refused) == 150
    assert answers.count(b"") >= 100
    assert {error.code() for error in refused} <= {grpc.StatusCode.UNAVAILABLE}
