import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Kind, Refusal, SettingsError
from pagewire_runtime.interception import written

from .conftest import SYNC_TOKEN, Echo, Serve, unary

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(echo: Echo, service: str = "") -> Any:
    async with echo.raw() as stranger:
        stub = health_pb2_grpc.HealthStub(stranger)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_it_serves_on_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    async with serve(listen=f"unix:{tmp_path}/echo.sock") as echo:
        assert await echo.unary(b"hello") == b"hello"


async def test_anybody_may_ask_for_its_health_and_learns_no_more(serve: Serve) -> None:
    async with serve() as echo:
        before = await health(echo)
        await echo.server.set_serving(False)
        unready = await health(echo)
        await echo.server.set_serving(True)
        after = await health(echo)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health(echo, "test.Echo")

    assert (before, unready, after) == (SERVING, NOT_SERVING, SERVING)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_port_that_is_taken_is_an_error_that_says_so(serve: Serve) -> None:
    async with serve() as echo:
        with pytest.raises(SettingsError, match=f"can't listen on {echo.target}"):
            await serve(listen=echo.target).__aenter__()


async def test_draining_says_not_serving_and_lets_calls_in_flight_finish(serve: Serve) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    async def slow(request: bytes, context: Any) -> bytes:
        started.set()
        await may_end.wait()
        return b"done"

    serving = serve(slow, unready_wait=timedelta(seconds=0.2))
    echo = await serving.__aenter__()
    async with echo.raw() as watcher:
        call = asyncio.ensure_future(echo.unary(b""))
        await started.wait()
        watch = health_pb2_grpc.HealthStub(watcher).Watch(health_pb2.HealthCheckRequest())
        first = await watch.read()
        stopping = asyncio.create_task(serving.__aexit__(None, None, None))
        second = await watch.read()
        may_end.set()
        answer = await call
        watch.cancel()
        await stopping

    assert (first.status, second.status) == (SERVING, NOT_SERVING)
    assert answer == b"done"


async def test_a_stream_is_ended_by_the_drain_and_does_not_hold_it_up(serve: Serve) -> None:
    closed = asyncio.Event()

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    caps = {"/test.Echo/Stream": timedelta(hours=1)}
    serving = serve(streaming=endless, deadline_overrides=caps, drain=timedelta(hours=1), grace=30)
    echo = await serving.__aenter__()
    items = aiter(echo.stream(b""))
    await anext(items)
    rest = asyncio.ensure_future(anext(items))
    await asyncio.wait_for(serving.__aexit__(None, None, None), 30)
    with pytest.raises(Refusal) as ended:
        await rest

    assert closed.is_set()
    assert (ended.value.kind, ended.value.reason) == (Kind.TRANSIENT, "UNAVAILABLE")
    assert "stopping" in ended.value.message


async def test_a_stream_that_is_told_to_end_ends_its_message_first() -> None:
    """gRPC takes no status while a message is on its way, and the call would never end."""
    done = list[str]()

    class Slow:
        async def write(self, message: bytes) -> None:
            await asyncio.sleep(0.05)
            done.append("message")

    async def stream() -> None:
        try:
            await written(cast("Any", Slow()), b"x")
        finally:
            done.append("end")

    streaming = asyncio.create_task(stream())
    await asyncio.sleep(0)
    streaming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await streaming

    assert done == ["message", "end"]


async def test_a_stream_that_is_ending_by_its_cap_does_not_stop_the_drain(serve: Serve) -> None:
    ending, may_end = asyncio.Event(), asyncio.Event()

    async def slow_to_end(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            ending.set()
            await may_end.wait()

    caps = {"/test.Echo/Stream": timedelta(seconds=0.05)}
    serving = serve(streaming=slow_to_end, deadline_overrides=caps)
    echo = await serving.__aenter__()
    items = aiter(echo.stream(b""))
    first = asyncio.ensure_future(anext(items))  # which may come too late: the cap is short
    await asyncio.wait_for(ending.wait(), 30)
    stopping = asyncio.create_task(serving.__aexit__(None, None, None))
    await asyncio.sleep(0.05)
    may_end.set()
    await asyncio.wait_for(stopping, 30)
    await asyncio.gather(first, return_exceptions=True)

    with pytest.raises(grpc.aio.AioRpcError):
        await health(echo)


async def test_a_call_that_outlives_the_drain_is_cancelled(serve: Serve) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: bytes, context: Any) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    serving = serve(hang, drain=timedelta(seconds=0.05))
    echo = await serving.__aenter__()
    async with channel(echo.target, token=SYNC_TOKEN) as client:
        call = asyncio.ensure_future(unary(client)(b""))
        await started.wait()
        await serving.__aexit__(None, None, None)
        with pytest.raises(Refusal) as ended:
            await call

    assert cancelled.is_set()
    assert ended.value.kind is Kind.TRANSIENT


async def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(serve: Serve) -> None:
    async with serve(max_message_bytes=1000) as echo:
        fits = await echo.unary(b"x" * 1000)
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"x" * 1001)
        after = await echo.unary(b"still here")

    assert len(fits) == 1000
    assert refused.value.kind is Kind.EXHAUSTED
    assert after == b"still here"


async def test_metadata_over_the_limit_is_refused_and_the_server_goes_on(serve: Serve) -> None:
    async with serve() as echo:
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"", metadata=[("x-large", "x" * 65_536)])
        after = await echo.unary(b"still here")

    assert refused.value.kind is Kind.EXHAUSTED
    assert after == b"still here"


async def test_calls_over_the_limit_are_refused_not_queued(serve: Serve) -> None:
    may_end = asyncio.Event()

    async def slow(request: bytes, context: Any) -> bytes:
        await may_end.wait()
        return b""

    async with serve(slow, max_concurrent_rpcs=2) as echo:
        calls = [asyncio.ensure_future(echo.unary(b"")) for _ in range(3)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        may_end.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert len(done) == 1
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert [refusal.kind for refusal in refused] == [Kind.EXHAUSTED]


async def list_services(echo: Echo) -> list[str]:
    async with echo.raw() as stranger:
        stub = reflection_pb2_grpc.ServerReflectionStub(stranger)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([ask])):
            return [service.name for service in answer.list_services_response.service]
    return []


async def test_the_schema_is_shown_only_when_told_to(serve: Serve) -> None:
    async with serve() as echo:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await list_services(echo)
    async with serve(reflection=["grpc.health.v1.Health"]) as echo:
        shown = await list_services(echo)

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "grpc.health.v1.Health" in shown


async def test_a_flood_of_pings_does_not_end_another_clients_calls(serve: Serve) -> None:
    hasty = [("grpc.keepalive_time_ms", 10), ("grpc.keepalive_permit_without_calls", 1)]
    bearer = [("authorization", f"Bearer {SYNC_TOKEN}")]
    async with serve() as echo, grpc.aio.insecure_channel(echo.target, options=hasty) as flood:
        await unary(flood)(b"", metadata=bearer)
        answers = [await echo.unary(b"calm") for _ in range(20)]

    assert answers == [b"calm"] * 20


PROCESS = """
import asyncio, sys
from pagewire_runtime.errors import SettingsError
from pagewire_runtime.serving import run, until_signalled

async def main():
    {first}
    asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))
    await until_signalled()
    print("draining", flush=True)
    await asyncio.to_thread(sys.stdin.read)

run(main)
"""


async def process(first: str = "pass") -> asyncio.subprocess.Process:
    """One that drains until its input ends."""
    pipe = asyncio.subprocess.PIPE
    code = PROCESS.format(first=first)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=pipe, stdout=pipe, stderr=pipe
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_is_told_to_stop_drains_and_exits_clean_however_often_it_is_told(
    number: signal.Signals,
) -> None:
    running = await process()
    assert running.stdout
    await running.stdout.readline()
    running.send_signal(number)
    await running.stdout.readline()
    running.send_signal(number)
    _, errors = await running.communicate(b"")

    assert running.returncode == 0
    assert errors == b""


STUCK = """
    try:
        print("starting", flush=True)
        await asyncio.Event().wait()
    finally:
        print("undone", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_is_told_to_stop_while_it_starts_undoes_that_and_exits_clean(
    number: signal.Signals,
) -> None:
    running = await process(STUCK.strip())
    assert running.stdout
    await running.stdout.readline()
    running.send_signal(number)
    output, errors = await running.communicate(b"")

    assert running.returncode == 0
    assert (output, errors) == (b"undone\n", b"")


async def test_the_collector_is_spared_what_was_imported() -> None:
    running = await process("import gc; print(gc.get_freeze_count() > 10_000, flush=True)")
    assert running.stdout
    answer = await running.stdout.readline()
    running.terminate()
    await running.communicate(b"")

    assert answer == b"True\n"


async def test_wrong_settings_end_a_process_with_a_line_and_no_traceback() -> None:
    running = await process("raise SettingsError('STORE_LISTEN: must be host:port')")
    _, errors = await running.communicate(b"")

    assert running.returncode == 2
    assert errors == b"STORE_LISTEN: must be host:port\n"


async def test_what_nobody_foresaw_ends_a_process_with_its_log() -> None:
    running = await process("raise LookupError('unforeseen')")
    output, errors = await running.communicate(b"")

    assert running.returncode == 1
    assert b"LookupError: unforeseen" in output + errors
