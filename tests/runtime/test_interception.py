import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest

from pagewire_runtime import deadline, metrics
from pagewire_runtime.auth import Caller, caller, calling_as
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_runtime.interception import request_id

from .conftest import READER_TOKEN, SYNC_TOKEN, Lines, Serve, stream, unary

SECOND = timedelta(seconds=1)


class Stuck(Refusal):
    kind = Kind.FENCED
    reason = "STUCK"


async def test_a_call_with_an_admitted_role_is_answered(serve: Serve) -> None:
    async with serve() as echo:
        answer = await echo.unary(b"hello")

    assert answer == b"hello"


async def test_a_stream_gives_every_item(serve: Serve) -> None:
    async with serve() as echo:
        items = [item async for item in echo.stream(b"a")]

    assert items == [b"a", b"a"]


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {SYNC_TOKEN}", f"Bearer {SYNC_TOKEN}x", SYNC_TOKEN],
)
async def test_a_call_without_a_known_token_is_unauthenticated(
    serve: Serve, authorization: str | None
) -> None:
    metadata = [] if authorization is None else [("authorization", authorization)]
    async with serve() as echo, echo.raw() as stranger:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(stranger)(b"", metadata=metadata)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["Unary", "Stream"])
async def test_a_known_role_that_a_method_does_not_admit_is_forbidden(
    serve: Serve, method: str
) -> None:
    async with serve() as echo, channel(echo.target, token=READER_TOKEN) as reader:
        call = unary(reader)(b"") if method == "Unary" else anext(aiter(stream(reader)(b"")))
        with pytest.raises(Refusal) as refused:
            await call

    assert refused.value.kind is Kind.FORBIDDEN
    assert refused.value.metadata == {"role": "reader", "method": f"/test.Echo/{method}"}


async def test_a_method_that_no_table_names_admits_nobody(serve: Serve) -> None:
    async with serve() as echo:
        with pytest.raises(Refusal) as refused:
            await unary(echo.client, "/test.Echo/Unlisted")(b"")

    assert refused.value.kind is Kind.FORBIDDEN


@pytest.mark.parametrize("method", ["/test.Echo/Nothing", "/x.Y/Z"])
async def test_a_method_that_is_not_there_is_unimplemented(serve: Serve, method: str) -> None:
    async with serve() as echo:
        with pytest.raises(Refusal) as refused:
            await unary(echo.client, method)(b"")

    assert refused.value.kind is Kind.UNIMPLEMENTED


async def test_a_method_that_streams_requests_to_one_answer_is_not_served(serve: Serve) -> None:
    async with serve(method_roles={"/test.Echo/Pipe": frozenset({"sync"})}) as echo:
        pipe: Any = echo.client.stream_unary("/test.Echo/Pipe")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await pipe(iter([b""]))

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


EXCHANGE = "/test.Echo/Exchange"
EXCHANGING: dict[str, Any] = {"method_roles": {EXCHANGE: frozenset({"sync"})}}


async def requests(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


async def test_what_both_sides_stream_is_answered_item_by_item(serve: Serve) -> None:
    async with serve(**EXCHANGING) as echo:
        exchange: Any = echo.client.stream_stream(EXCHANGE)
        items = [item async for item in exchange(requests(b"A", b"B"))]

    assert items == [b"A", b"B"]


async def test_an_item_that_is_no_message_ends_its_stream_behind_those_before(
    serve: Serve,
) -> None:
    async with serve(**EXCHANGING) as echo:
        exchange: Any = echo.client.stream_stream(EXCHANGE)
        items = aiter(exchange(requests(b"A", b"lower", b"C")))
        first = await anext(items)
        with pytest.raises(Refusal) as refused:
            await anext(items)

    assert first == b"A"
    assert refused.value.reason == "INVALID_ARGUMENT"
    assert "innards" not in refused.value.message


async def test_a_stream_of_requests_is_read_only_once_its_sender_is_admitted(serve: Serve) -> None:
    seen: list[bytes] = []

    async def note(given: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for each in given:
            seen.append(each)
            yield each

    async with (
        serve(exchanging=note, **EXCHANGING) as echo,
        channel(echo.target, token=READER_TOKEN) as reader,
    ):
        exchange: Any = reader.stream_stream(EXCHANGE)
        with pytest.raises(Refusal) as refused:
            await anext(aiter(exchange(requests(b"A"))))

    assert refused.value.kind is Kind.FORBIDDEN
    assert not seen


async def test_bytes_that_are_no_message_are_invalid_and_tell_nothing(serve: Serve) -> None:
    async with serve() as echo:
        with pytest.raises(Refusal) as refused:
            await unary(echo.client, "/test.Echo/Upper")(b"lower")

    assert refused.value.reason == "INVALID_ARGUMENT"
    assert "innards" not in refused.value.message


async def test_a_strangers_bytes_are_not_read(serve: Serve) -> None:
    async with serve() as echo, echo.raw() as stranger:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(stranger, "/test.Echo/Upper")(b"lower")

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_refusal_arrives_with_its_reason_metadata_and_time_to_wait(serve: Serve) -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        raise Stuck("lane 7 is stuck", retry_after=1.5, lane="7")

    async with serve(refuse) as echo:
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"")

    answer = refused.value
    assert (answer.kind, answer.reason) == (Kind.FENCED, "STUCK")
    assert (answer.message, answer.metadata) == ("lane 7 is stuck", {"lane": "7"})
    assert answer.retry_after == 1.5


async def test_a_refusal_in_the_middle_of_a_stream_comes_after_its_items(serve: Serve) -> None:
    async def refuse(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise InvalidArgument("cursor", "is not ours")

    async with serve(streaming=refuse) as echo:
        items = aiter(echo.stream(b""))
        first = await anext(items)
        with pytest.raises(Refusal) as refused:
            await anext(items)

    assert first == b"first"
    assert refused.value.metadata == {"field": "cursor"}


async def test_an_unexpected_exception_is_logged_whole_and_answered_bare(
    serve: Serve, lines: Lines
) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        local_canary = "canary in a local".upper()
        raise LookupError(f"no such thing, {len(local_canary)}")

    async with serve(fail) as echo:
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"")

    logged = next(line for line in lines() if line["event"] == "unhandled exception")
    assert refused.value.kind is Kind.INTERNAL
    assert refused.value.message == f"internal error, request {logged['request_id']}"
    assert "LookupError: no such thing, 17" in logged["exception"]
    assert "CANARY IN A LOCAL" not in logged["exception"]
    assert logged["method"] == "/test.Echo/Unary"


async def test_an_abort_of_the_handlers_own_passes_as_it_is(serve: Serve) -> None:
    async def abort(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far")
        raise AssertionError

    async with serve(abort) as echo:
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"")

    assert (refused.value.kind, refused.value.reason) == (Kind.INVALID, "OUT_OF_RANGE")
    assert refused.value.message == "too far"


async def test_the_handler_sees_who_calls_and_for_whom(serve: Serve) -> None:
    async def who(request: bytes, context: Any) -> bytes:
        return repr((caller().role, caller().actor)).encode()

    async with serve(who) as echo:
        with calling_as(Caller("operator", "anna@example.com")):
            named = await echo.unary(b"")
        unnamed = await echo.unary(b"")

    assert named == b"('sync', 'anna@example.com')"
    assert unnamed == b"('sync', None)"


@pytest.mark.parametrize("actor", ["x" * 129, ""])
async def test_an_actor_that_is_not_short_printable_ascii_is_dropped(
    serve: Serve, actor: str
) -> None:
    async def who(request: bytes, context: Any) -> bytes:
        return repr(caller().actor).encode()

    metadata = [("authorization", f"Bearer {SYNC_TOKEN}"), ("pagewire-actor", actor)]
    async with serve(who) as echo, echo.raw() as client:
        answer = await unary(client)(b"", metadata=metadata)

    assert answer == b"None"


async def test_an_actor_that_metadata_can_not_carry_does_not_break_the_call(serve: Serve) -> None:
    async with serve() as echo:
        with calling_as(Caller("operator", "José\r\n")):
            answer = await echo.unary(b"still")

    assert answer == b"still"


async def test_the_request_id_goes_through_two_services(serve: Serve) -> None:
    async def inner(request: bytes, context: Any) -> bytes:
        return request_id().encode()

    async with serve(inner) as store:

        async def outer(request: bytes, context: Any) -> bytes:
            inside: bytes = await store.unary(request)
            return inside + b" " + request_id().encode()

        async with serve(outer) as rules:
            seen = await rules.unary(b"")
            seen_next = await rules.unary(b"")

    first, second = seen.split()
    assert first == second
    assert seen_next.split()[0] != first


@pytest.mark.parametrize("shown", ["a b", "x" * 65, "<script>"])
async def test_a_request_id_that_is_no_id_is_replaced(serve: Serve, shown: str) -> None:
    async def inner(request: bytes, context: Any) -> bytes:
        return request_id().encode()

    metadata = [("authorization", f"Bearer {SYNC_TOKEN}"), ("pagewire-request-id", shown)]
    async with serve(inner) as echo, echo.raw() as client:
        seen = await unary(client)(b"", metadata=metadata)

    assert len(seen) == 32


async def test_a_call_without_a_deadline_gets_the_servers_cap(serve: Serve) -> None:
    async def left(request: bytes, context: Any) -> bytes:
        return str(deadline.remaining()).encode()

    metadata = [("authorization", f"Bearer {SYNC_TOKEN}")]
    async with serve(left) as echo, echo.raw() as client:
        seen = await unary(client)(b"", metadata=metadata)

    assert 0 < float(seen) <= 5


async def test_a_method_with_a_cap_of_its_own_has_that(serve: Serve) -> None:
    async def left(request: bytes, context: Any) -> bytes:
        return str(deadline.remaining()).encode()

    async with serve(left, deadline_overrides={"/test.Echo/Unary": 60 * SECOND}) as echo:
        seen = await echo.unary(b"", timeout=50)

    assert 40 < float(seen) <= 50 * 1.01  # gRPC rounds a timeout up on the wire


@pytest.mark.parametrize("method", ["unary", "stream"])
async def test_work_beyond_the_cap_is_cancelled_and_ends_with_the_deadline(
    serve: Serve, method: str
) -> None:
    cancelled = asyncio.Event()

    async def hang(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async def hang_streaming(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await hang(request, context)

    async with serve(hang, hang_streaming, deadline_cap=SECOND / 20) as echo:
        call = echo.unary(b"") if method == "unary" else anext(aiter(echo.stream(b"")))
        with pytest.raises(Refusal) as refused:
            await call

    assert cancelled.is_set()
    assert (refused.value.kind, refused.value.reason) == (Kind.TRANSIENT, "DEADLINE_EXCEEDED")


async def test_work_that_does_not_end_at_once_holds_up_no_answer(serve: Serve) -> None:
    told, may_end = asyncio.Event(), asyncio.Event()

    async def stubborn(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            told.set()
            await may_end.wait()
        raise AssertionError

    async with serve(stubborn, deadline_cap=timedelta(seconds=0.05)) as echo:
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"", timeout=10)
        still_at_it = told.is_set() and not may_end.is_set()
        may_end.set()

    assert refused.value.reason == "DEADLINE_EXCEEDED"
    assert still_at_it


async def test_a_clients_own_deadline_cancels_the_handler_too(serve: Serve) -> None:
    cancelled = asyncio.Event()

    async def hang(request: bytes, context: Any) -> bytes:
        if request == b"connect":
            return b""
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serve(hang) as echo:
        await echo.unary(b"connect")
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"", timeout=1.0)
        await asyncio.wait_for(cancelled.wait(), 30)

    assert refused.value.reason == "DEADLINE_EXCEEDED"


async def test_a_timeout_inside_the_handler_is_no_deadline(serve: Serve) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise TimeoutError("somebody else's")

    async with serve(fail) as echo:
        with pytest.raises(Refusal) as refused:
            await echo.unary(b"")

    assert refused.value.kind is Kind.INTERNAL


@pytest.mark.parametrize(
    ("given", "wanted", "most"), [(5, None, 4.5), (100, 50, 50), (100, 300, 90)]
)
async def test_an_outgoing_call_takes_no_more_than_nine_tenths_of_what_is_left(
    serve: Serve, given: float, wanted: float | None, most: float
) -> None:
    async def left(request: bytes, context: Any) -> bytes:
        return str(deadline.remaining()).encode()

    unhurried = {"deadline_cap": 600 * SECOND}
    async with serve(left, **unhurried) as store:

        async def outer(request: bytes, context: Any) -> bytes:
            inside: bytes = await store.unary(request, timeout=wanted)
            return inside

        async with serve(outer, **unhurried) as rules:
            seen = float(await rules.unary(b"", timeout=given))

    # gRPC rounds a timeout up on the wire; ten seconds for the way.
    assert most - 10 < seen <= most * 1.02


async def test_a_caller_that_leaves_cancels_the_handler(serve: Serve) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: bytes, context: Any) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serve(hang) as echo:

        async def call() -> None:
            await echo.unary(b"")

        task = asyncio.create_task(call())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(cancelled.wait(), 30)


async def test_a_stream_that_is_left_early_cancels_the_handler(serve: Serve) -> None:
    closed = asyncio.Event()

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more"
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    async with serve(streaming=endless) as echo:
        call = echo.stream(b"")
        async for _ in call:
            break
        call.cancel()
        await asyncio.wait_for(closed.wait(), 30)


async def test_calls_are_counted_by_method_and_code(serve: Serve) -> None:
    async def pick(request: bytes, context: Any) -> bytes:
        if request == b"bad":
            raise InvalidArgument("request", "is bad")
        return request

    def count(code: str) -> float:
        labels = {"method": "/test.Echo/Unary", "code": code}
        return metrics.registry.get_sample_value("pagewire_rpc_seconds_count", labels) or 0

    before = count("OK"), count("INVALID_ARGUMENT")
    async with serve(pick) as echo:
        await echo.unary(b"good")
        await echo.unary(b"good")
        with pytest.raises(Refusal):
            await echo.unary(b"bad")

    assert (count("OK") - before[0], count("INVALID_ARGUMENT") - before[1]) == (2, 1)
