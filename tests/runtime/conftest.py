import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog

from pagewire_runtime import logs
from pagewire_runtime.auth import parse_service_tokens
from pagewire_runtime.calling import channel
from pagewire_runtime.serving import Server, serving

SYNC_TOKEN = "sync-token-0123456789"
READER_TOKEN = "reader-token-0123456789"
TOKENS = parse_service_tokens(f"sync:{SYNC_TOKEN},reader:{READER_TOKEN}")
ROLES = {
    "/test.Echo/Unary": frozenset({"sync"}),
    "/test.Echo/Stream": frozenset({"sync"}),
}

Lines = Callable[[], list[dict[str, Any]]]
Serve = Callable[..., AbstractAsyncContextManager["Echo"]]


def unary(client: grpc.aio.Channel, method: str = "/test.Echo/Unary") -> Any:
    """A call of bytes: without a serializer its types are nobody's."""
    return client.unary_unary(method)


def stream(client: grpc.aio.Channel, method: str = "/test.Echo/Stream") -> Any:
    """The same for an answer that streams."""
    return client.unary_stream(method)


class Echo:
    """A service of bytes in and bytes out that runs, and the calls that a test makes of it."""

    def __init__(self, server: Server, target: str) -> None:
        self.server = server
        self.target = target
        self.client = channel(target, token=SYNC_TOKEN)
        self.unary = unary(self.client)
        self.stream = stream(self.client)

    def raw(self) -> grpc.aio.Channel:
        """A channel without any interceptor, as a stranger's would be."""
        return grpc.aio.insecure_channel(self.target, options=[("grpc.enable_http_proxy", 0)])


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_twice(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield request
    yield request


async def echo_each(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def upper_only(raw: bytes) -> bytes:
    """A deserializer that refuses what isn't upper case, and whose error tells too much."""
    if raw != raw.upper():
        raise ValueError(f"secret innards of {raw!r}")
    return raw


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """Configures the logs, and reads what was logged since: each line must be one JSON object."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure("test", "DEBUG")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


@pytest.fixture
def serve() -> Serve:
    """Starts an Echo with the handlers given, and with any argument of `serving`."""

    @asynccontextmanager
    async def start(
        handler: Callable[[bytes, Any], Awaitable[bytes]] = echo,
        streaming: Callable[[bytes, Any], AsyncIterator[bytes]] = echo_twice,
        exchanging: Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]] = echo_each,
        *,
        listen: str = "127.0.0.1:0",
        grace: float | None = None,
        **options: Any,
    ) -> AsyncIterator[Echo]:
        """`grace`: seconds in which the caller may yet hear how its calls ended."""
        handlers: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler(handler),
            "Stream": grpc.unary_stream_rpc_method_handler(streaming),
            "Unlisted": grpc.unary_unary_rpc_method_handler(echo),
            "Upper": grpc.unary_unary_rpc_method_handler(echo, upper_only),
            "Pipe": grpc.stream_unary_rpc_method_handler(echo),
            "Exchange": grpc.stream_stream_rpc_method_handler(exchanging, upper_only),
        }

        def register(server: grpc.aio.Server) -> None:
            service = grpc.method_handlers_generic_handler("test.Echo", handlers)
            server.add_generic_rpc_handlers([service])

        roles = ROLES | {"/test.Echo/Upper": frozenset({"sync"})}
        wanted: dict[str, Any] = {"tokens": TOKENS, "method_roles": roles} | options
        async with serving(listen, register, **wanted) as server:
            target = listen if listen.startswith("unix:") else f"127.0.0.1:{server.port}"
            running = Echo(server, target)
            yield running
        await running.client.close(grace)

    return start
