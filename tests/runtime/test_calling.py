import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from faults.proxy import Proxy
from pagewire_runtime.auth import caller
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Kind, Refusal, Unavailable, Unreached
from pagewire_runtime.tls import Tls
from tests.support.authority import Authority

from .conftest import READER_TOKEN, SYNC_TOKEN, Serve, stream, unary

UNARY = "/test.Echo/Unary"


class Flaky:
    """Fails its first calls with the error given, then answers with how often it was called."""

    def __init__(self, error: Refusal, failures: int) -> None:
        self.calls = 0
        self._error = error
        self._failures = failures

    async def __call__(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return str(self.calls).encode()


class Fenced(Refusal):
    kind = Kind.FENCED
    reason = "FENCED"


def handler(flaky: Flaky) -> Callable[[bytes, Any], Any]:
    async def handle(request: bytes, context: Any) -> bytes:
        return await flaky(request, context)

    return handle


async def test_a_repeatable_call_is_tried_again_where_the_server_is_unavailable(
    serve: Serve,
) -> None:
    flaky = Flaky(Unavailable("database"), failures=2)
    async with (
        serve(handler(flaky)) as echo,
        channel(echo.target, token=SYNC_TOKEN, repeatable=[UNARY]) as client,
    ):
        answer = await unary(client)(b"")

    assert answer == b"3"


async def test_it_is_tried_three_times_and_no_more(serve: Serve) -> None:
    flaky = Flaky(Unavailable("database"), failures=9)
    async with (
        serve(handler(flaky)) as echo,
        channel(echo.target, token=SYNC_TOKEN, repeatable=[UNARY]) as client,
    ):
        with pytest.raises(Refusal) as refused:
            await unary(client)(b"")

    assert flaky.calls == 3
    assert refused.value.metadata == {"what": "database"}


@pytest.mark.parametrize(
    ("error", "repeatable"),
    [(Unavailable("database"), ["/test.Echo/Other"]), (Fenced("taken over"), [UNARY])],
    ids=["not named as repeatable", "another code"],
)
async def test_any_other_call_is_tried_once(
    serve: Serve, error: Refusal, repeatable: list[str]
) -> None:
    flaky = Flaky(error, failures=9)
    async with (
        serve(handler(flaky)) as echo,
        channel(echo.target, token=SYNC_TOKEN, repeatable=repeatable) as client,
    ):
        with pytest.raises(Refusal) as refused:
            await unary(client)(b"")

    assert flaky.calls == 1
    assert refused.value.reason == error.reason


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with channel("127.0.0.1:1", token=SYNC_TOKEN) as client:
        with pytest.raises(Refusal) as refused:
            await unary(client)(b"")

    assert (refused.value.kind, refused.value.reason) == (Kind.TRANSIENT, "UNAVAILABLE")


async def test_a_call_that_waits_for_a_connection_tells_a_lost_one_from_none(
    serve: Serve,
) -> None:
    async def hang(request: bytes, context: Any) -> bytes:
        proxy.reset()
        await asyncio.Event().wait()
        raise AssertionError

    async with (
        serve(hang) as echo,
        Proxy(echo.target) as proxy,
        channel(proxy.address, token=SYNC_TOKEN) as client,
    ):
        with pytest.raises(Unreached):
            await unary(client)(b"", wait_for_ready=True)
    async with channel("127.0.0.1:1", token=SYNC_TOKEN) as client:
        with pytest.raises(Refusal) as away:
            await unary(client)(b"", wait_for_ready=True, timeout=0.3)

    assert away.value.reason == "DEADLINE_EXCEEDED"


async def test_a_server_that_hangs_costs_no_more_than_the_timeout(serve: Serve) -> None:
    async def hang(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async with serve(hang) as echo:
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"", timeout=0.05)

    assert (refused.value.kind, refused.value.reason) == (Kind.TRANSIENT, "DEADLINE_EXCEEDED")


async def test_a_call_without_a_token_carries_none(serve: Serve) -> None:
    async with serve() as echo, channel(echo.target, token=None) as client:
        with pytest.raises(Refusal) as refused:
            await unary(client)(b"")

    assert refused.value.kind is Kind.UNAUTHENTICATED


async def test_calls_are_spread_over_the_replicas(serve: Serve) -> None:
    def named(name: bytes) -> Callable[[bytes, Any], Any]:
        async def handle(request: bytes, context: Any) -> bytes:
            return name

        return handle

    async with serve(named(b"one")) as one, serve(named(b"two")) as two:
        target = f"ipv4:{one.target},{two.target}"
        async with channel(target, token=SYNC_TOKEN) as client:
            seen: list[bytes] = []
            async with asyncio.timeout(30):
                while len(set(seen)) < 2:  # until both are connected
                    seen.append(await unary(client)(b""))
            even = [await unary(client)(b"") for _ in range(20)]

    assert even.count(b"one") == even.count(b"two") == 10


async def test_a_service_that_comes_back_is_found_within_seconds(
    serve: Serve, tmp_path: Path
) -> None:
    listen = f"unix:{tmp_path}/echo.sock"
    async with channel(listen, token=SYNC_TOKEN) as client:
        async with serve(listen=listen):
            await unary(client)(b"")
        with pytest.raises(Refusal):
            await unary(client)(b"")
        async with serve(listen=listen):
            answer = await unary(client)(b"back", timeout=30, wait_for_ready=True)

    assert answer == b"back"


async def test_a_stream_that_can_not_start_is_a_refusal(serve: Serve) -> None:
    async with serve() as echo, channel(echo.target, token=None) as client:
        with pytest.raises(Refusal) as refused:
            await anext(aiter(stream(client)(b"")))

    assert refused.value.kind is Kind.UNAUTHENTICATED


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


async def role(request: bytes, context: Any) -> bytes:
    return caller().role.encode()


async def test_with_mutual_tls_the_certificates_name_is_the_role(
    serve: Serve, ours: Authority
) -> None:
    async with serve(role, tls=ours.issue("localhost", "store")) as echo:
        target = f"localhost:{echo.server.port}"
        async with channel(target, token=None, tls=ours.issue("sync.local", "sync")) as client:
            seen = await unary(client)(b"")

    assert seen == b"sync"


@pytest.mark.parametrize("name", ["reader", "stranger"])
async def test_a_certificate_of_another_name_is_forbidden_whatever_token_it_brings(
    serve: Serve, ours: Authority, name: str
) -> None:
    async with serve(role, tls=ours.issue("localhost")) as echo:
        target = f"localhost:{echo.server.port}"
        async with channel(target, token=SYNC_TOKEN, tls=ours.issue(name)) as client:
            with pytest.raises(Refusal) as refused:
                await unary(client)(b"")

    assert refused.value.kind is Kind.FORBIDDEN


async def test_a_stranger_gets_no_connection_to_a_tls_server(
    serve: Serve, ours: Authority, tmp_path: Path
) -> None:
    theirs = Authority(tmp_path, "theirs").issue("sync")
    mixed = Tls(theirs.cert_file, theirs.key_file, ours.issue("sync").ca_file)
    async with serve(role, tls=ours.issue("localhost")) as echo, AsyncExitStack() as stack:
        target = f"localhost:{echo.server.port}"
        for tls in (mixed, None):
            client = await stack.enter_async_context(channel(target, token=READER_TOKEN, tls=tls))
            with pytest.raises(Refusal) as refused:
                await unary(client)(b"")
            assert refused.value.reason == grpc.StatusCode.UNAVAILABLE.name
