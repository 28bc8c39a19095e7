import asyncio
import gzip
import hashlib
import hmac
import json
import logging
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.type.v1.page_pb2 import Login
from pagewire_simulator.serving import KEEP_ALIVE_SECONDS
from pagewire_sync.budget import MESSAGING, Budget, Product
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import (
    ANSWER_BYTES,
    IDLE_SECONDS,
    Answer,
    App,
    Credentials,
    Graph,
    Hosts,
    NotSent,
    OutcomeUnknown,
    open_transport,
    read_answer,
)
from pagewire_sync.usage import Share, Usage
from tests.support.rawgraph import (
    Behaviour,
    RawGraph,
    answering,
    closing_after,
    hanging,
    http,
    listening,
    raw_graph,
)

TOKEN = "EAAtokenthatnobodymaysee"
APP = App(app_id="880000000000010", secret="app-secret", instagram_secret="instagram-secret")
PAGE = Credentials("104", "104", Login.LOGIN_FACEBOOK, TOKEN, 1)
ACCOUNT = Credentials("178", "178", Login.LOGIN_INSTAGRAM, TOKEN, 1)
FINE_BODY = b'{"message_id":"m_1","recipient_id":"7"}'
FINE = http(FINE_BODY)


def mocked(
    handler: Callable[[httpx.Request], httpx.Response], budget: Budget | None = None
) -> Graph:
    def streamed(request: httpx.Request) -> httpx.Response:
        answer = handler(request)
        stream = httpx.ByteStream(answer.content)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=stream)

    hosts = Hosts("https://facebook.example", "https://instagram.example/", "v25.0")
    return Graph(httpx.MockTransport(streamed), hosts, APP, budget or Budget())


@asynccontextmanager
async def real(
    behave: Behaviour,
    *,
    total_seconds: float = 10.0,
    connect_seconds: float = 3.0,
    idle_seconds: float = IDLE_SECONDS,
) -> AsyncIterator[tuple[Graph, RawGraph]]:
    async with raw_graph(behave) as server, open_transport(idle_seconds) as transport:
        hosts = Hosts(server.url, server.url, "v25.0")
        graph = Graph(
            transport,
            hosts,
            APP,
            Budget(),
            total_seconds=total_seconds,
            connect_seconds=connect_seconds,
        )
        yield graph, server


async def send(graph: Graph, credentials: Credentials = PAGE) -> Answer | GraphError:
    return await graph.post(
        credentials,
        credentials.node_id,
        "messages",
        {"message": {"text": "hi"}},
        operation="send",
        product=Product.SEND,
    )


def proof(secret: str) -> str:
    return hmac.new(secret.encode(), TOKEN.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("credentials", "host", "secret"),
    [(PAGE, "facebook.example", "app-secret"), (ACCOUNT, "instagram.example", "instagram-secret")],
)
async def test_the_token_stands_in_the_header_and_its_proof_beside_it_by_the_login(
    credentials: Credentials, host: str, secret: str
) -> None:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"success": True})

    graph = mocked(handler)
    await send(graph, credentials)
    await graph.get(credentials, "me", "", {"fields": "id"}, operation="read")
    await graph.delete(credentials, "1", "label", {"user": "7"}, operation="remove_label")

    for request in requests:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.url.host == host
        assert request.url.params["appsecret_proof"] == proof(secret)
        assert TOKEN not in str(request.url)
    assert [request.url.path for request in requests] == [
        f"/v25.0/{credentials.node_id}/messages",
        "/v25.0/me",
        "/v25.0/1/label",
    ]
    assert json.loads(requests[0].content) == {"message": {"text": "hi"}}


async def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    paths: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path.partition(b"?")[0])
        return httpx.Response(200, json={})

    await mocked(handler).get(PAGE, "a/../b?c#d", "replies", {}, operation="read")

    assert paths == [b"/v25.0/a%2F..%2Fb%3Fc%23d/replies"]


async def test_a_token_is_inspected_as_the_app_and_only_there_stands_in_the_address() -> None:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"data": {"is_valid": True}})

    answer = await mocked(handler).inspect(PAGE)

    assert answer == Answer({"data": {"is_valid": True}})
    assert requests[0].url.path == "/v25.0/debug_token"
    assert requests[0].url.params["input_token"] == TOKEN
    assert requests[0].headers["authorization"] == "Bearer 880000000000010|app-secret"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"message_id": "m_1"}, Answer({"message_id": "m_1"})),
        (200, {"success": False}, GraphError(Failure.TRANSIENT, 200)),
        (200, {"error": {"code": 551}}, GraphError(Failure.RECIPIENT, 200, 551)),
        (400, {"error": {"code": 100}}, GraphError(Failure.PARAMETER, 400, 100)),
        (302, {}, GraphError(Failure.TRANSIENT, 302)),
        (500, {}, GraphError(Failure.TRANSIENT, 500)),
    ],
)
def test_an_answer_is_a_success_only_where_it_says_so(
    status: int, body: dict[str, Any], expected: Answer | GraphError
) -> None:
    assert read_answer(status, json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b'{"message_id":',
        b"<!DOCTYPE html>",
        b'{"message_id":"\xff"}',
        b"[" * 100_000,
    ],
)
def test_a_success_that_is_no_json_object_leaves_the_outcome_unknown(content: bytes) -> None:
    with pytest.raises(OutcomeUnknown) as lost:
        read_answer(200, content)

    assert lost.value.reason == "answer_unreadable"


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_bytes_make_the_reading_fail_otherwise(status: int, content: bytes) -> None:
    try:
        assert isinstance(read_answer(status, content), Answer | GraphError)
    except OutcomeUnknown:
        assert 200 <= status < 300


async def test_a_real_server_s_answer_is_read() -> None:
    async with real(answering(FINE)) as (graph, server):
        answers = [await send(graph) for _ in range(3)]

    assert answers == [Answer({"message_id": "m_1", "recipient_id": "7"})] * 3
    assert server.connections == 1  # kept alive
    assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert server.requests[0].headers["content-type"] == "application/json"
    assert TOKEN not in server.requests[0].line


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        http(b"", length=39),
        http(b'{"message_id":"m_1"', length=39),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{",
    ],
    ids=["before", "in the headers", "after the headers", "in the body", "in a chunk"],
)
async def test_a_connection_lost_after_the_request_was_sent_leaves_the_outcome_unknown(
    data: bytes, reset: bool
) -> None:
    async with real(closing_after(data, reset=reset)) as (graph, server):
        with pytest.raises(OutcomeUnknown):
            await send(graph)

    assert len(server.requests) == 1  # and the POST was not repeated


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_a_kept_connection_that_is_lost_under_a_request_leaves_the_outcome_unknown(
    reset: bool,
) -> None:
    losing = closing_after(b"", reset=reset)

    async def first_answers_then_loses(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await (answering(FINE) if len(server.requests) == 1 else losing)(reader, writer)

    async with real(first_answers_then_loses) as (graph, server):
        await send(graph)
        with pytest.raises(OutcomeUnknown):
            await send(graph)

    assert (len(server.requests), server.connections) == (2, 1)


async def test_a_kept_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    closed = asyncio.Event()

    async def answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(FINE)(reader, writer)
        closed.set()
        raise ConnectionResetError

    async with real(answers_once) as (graph, server):
        await send(graph)
        await closed.wait()
        for _ in range(10):  # steps of the loop, in which it hears of that
            await asyncio.sleep(0.005)
        again = await send(graph)

    assert isinstance(again, Answer)
    assert server.connections == 2


@pytest.mark.parametrize(("idle_seconds", "connections"), [(0.05, 2), (IDLE_SECONDS, 1)])
async def test_a_connection_is_not_used_after_it_was_idle_for_so_long(
    idle_seconds: float, connections: int
) -> None:
    async with real(answering(FINE), idle_seconds=idle_seconds) as (graph, server):
        await send(graph)
        await asyncio.sleep(0.1)
        await send(graph)

    assert (len(server.requests), server.connections) == (2, connections)


def test_an_idle_connection_is_given_up_before_the_shortest_of_common_servers_would_close_it() -> (
    None
):
    assert IDLE_SECONDS < 5 < KEEP_ALIVE_SECONDS  # uvicorn's and Node's is 5


async def test_an_answer_that_does_not_come_in_time_leaves_the_outcome_unknown() -> None:
    async with real(hanging, total_seconds=2) as (graph, server):
        with pytest.raises(OutcomeUnknown) as lost:
            await send(graph)

    assert lost.value.reason == "timeout"
    assert len(server.requests) == 1


async def test_an_answer_that_trickles_is_not_waited_for_longer_than_any_other() -> None:
    async def trickling(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"", length=1000))
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with real(trickling, total_seconds=2) as (graph, _):
        with pytest.raises(OutcomeUnknown) as lost:
            await send(graph)

    assert lost.value.reason == "timeout"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (http(b""), "answer_unreadable"),
        (http(b"<html>Service Unavailable</html>"), "answer_unreadable"),
        (http(b'{"message_id":"m_1"'), "answer_unreadable"),
        (http(b"no gzip at all", "Content-Encoding: gzip"), "answer_unreadable"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "connection_lost"),
    ],
)
async def test_an_answer_that_cannot_be_read_leaves_the_outcome_unknown(
    data: bytes, reason: str
) -> None:
    async with real(answering(data)) as (graph, _):
        with pytest.raises(OutcomeUnknown) as lost:
            await send(graph)

    assert lost.value.reason == reason


@pytest.mark.parametrize(
    "data",
    [
        http(b" " * (ANSWER_BYTES + 1)),
        http(gzip.compress(b" " * (ANSWER_BYTES + 1)), "Content-Encoding: gzip"),
    ],
    ids=["plain", "compressed"],
)
async def test_an_answer_larger_than_any_is_not_read_and_the_next_call_works(data: bytes) -> None:
    async def first_huge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(data if len(server.requests) == 1 else FINE)(reader, writer)

    async with real(first_huge) as (graph, server):
        with pytest.raises(OutcomeUnknown) as lost:
            await send(graph)
        after = await send(graph)

    assert lost.value.reason == "answer_too_large"
    assert isinstance(after, Answer)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip, gzip", gzip.compress(gzip.compress(FINE_BODY))),
        ("deflate", zlib.compress(FINE_BODY)),
    ],
    ids=["twice", "deflate"],
)
async def test_an_encoding_that_was_not_asked_for_is_not_unpacked(
    encoding: str, packed: bytes
) -> None:
    """A library unpacks whatever is named, as often as it is named: 1 KiB is a GiB then."""
    async with real(answering(http(packed, f"Content-Encoding: {encoding}"))) as (graph, _):
        with pytest.raises(OutcomeUnknown) as lost:
            await send(graph)

    assert lost.value.reason == "answer_unreadable"


async def test_a_compressed_answer_is_asked_for_and_read() -> None:
    packed = http(gzip.compress(b'{"message_id":"m_1"}'), "Content-Encoding: gzip")
    async with real(answering(packed)) as (graph, server):
        answer = await send(graph)

    assert answer == Answer({"message_id": "m_1"})
    assert server.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    async with real(answering(http(b"", "Location: /elsewhere", status=status))) as (graph, server):
        answer = await send(graph)

    assert isinstance(answer, GraphError)
    assert answer.failure is Failure.TRANSIENT
    assert len(server.requests) == 1


async def test_what_was_set_as_a_cookie_does_not_come_back() -> None:
    async with real(answering(http(b"{}", "Set-Cookie: page=1; Path=/"))) as (graph, server):
        await send(graph)
        await send(graph)

    assert "cookie" not in server.requests[1].headers


async def test_nothing_was_sent_where_the_connection_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with open_transport() as transport:
            graph = Graph(transport, Hosts(url, url, "v25.0"), APP, Budget())

            with pytest.raises(NotSent):
                await send(graph)


async def test_nothing_was_sent_where_the_name_is_unknown() -> None:
    async with open_transport() as transport:
        url = "http://graph.invalid"
        graph = Graph(transport, Hosts(url, url, "v25.0"), APP, Budget())

        with pytest.raises(NotSent):
            await send(graph)


async def test_nothing_was_sent_where_tls_fails() -> None:
    async with listening(answering(b"no TLS here\r\n")) as port, open_transport() as transport:
        url = f"https://127.0.0.1:{port}"
        graph = Graph(transport, Hosts(url, url, "v25.0"), APP, Budget())

        with pytest.raises(NotSent):
            await send(graph)


async def test_nothing_was_sent_where_tls_is_cut_off() -> None:
    async def hangs_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with listening(hangs_up) as port, open_transport() as transport:
        url = f"https://127.0.0.1:{port}"
        graph = Graph(transport, Hosts(url, url, "v25.0"), APP, Budget())

        with pytest.raises(NotSent):
            await send(graph)


async def test_nothing_was_sent_where_no_connection_comes_about_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as port, open_transport() as transport:
        url = f"https://127.0.0.1:{port}"
        graph = Graph(transport, Hosts(url, url, "v25.0"), APP, Budget(), connect_seconds=0.2)

        with pytest.raises(NotSent):
            await send(graph)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async with real(answering(FINE)) as (graph, _):
        assert isinstance(await send(graph), Answer)


async def test_tls_is_checked_and_not_older_than_1_2() -> None:
    async with open_transport() as transport:
        session = transport.get_client()
        connector: Any = session.connector
        context = connector._ssl
        await session.close()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_call_that_is_cancelled_harms_no_other() -> None:
    async def first_hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (hanging if len(server.requests) == 1 else answering(FINE))(reader, writer)

    async with real(first_hangs) as (graph, server):
        call = asyncio.create_task(send(graph))
        while not server.requests:
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert isinstance(await send(graph), Answer)


def failing(status: int, code: int, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    body = {"error": {"message": "no", "code": code}}
    return lambda request: httpx.Response(status, json=body, headers=headers)


async def read(graph: Graph, product: Product) -> Answer | GraphError:
    return await graph.get(PAGE, "104", "", {}, operation="read", product=product)


def stops(budget: Budget, page_id: str = "104") -> dict[Product, float]:
    """What of the page is stopped, and for about how many seconds."""
    now = asyncio.get_running_loop().time()
    found = {each: budget.stopped(page_id, each, now) for each in Product}
    return {each: float(-(-seconds // 1)) for each, seconds in found.items() if seconds}


ALL, SEND, READS = frozenset(Product), Product.SEND, Product.CONVERSATIONS
COMMENTS = Product.PAGE


async def test_usage_is_heeded_on_errors_too() -> None:
    budget = Budget()
    usage = '{"104":[{"type":"messenger","call_count":96,"estimated_time_to_regain_access":3}]}'

    await send(mocked(failing(400, 100, **{"x-business-use-case-usage": usage}), budget))

    assert stops(budget) == dict.fromkeys(MESSAGING, 180)
    assert stops(budget, "105") == {}


@pytest.mark.parametrize("product", [SEND, READS, COMMENTS])
@pytest.mark.parametrize(
    ("code", "seconds"), [(17, 60), (341, 900), (368, 900), (190, 5), (104, 5)]
)
async def test_an_error_of_the_whole_page_stops_all_of_it_and_no_other(
    product: Product, code: int, seconds: float
) -> None:
    budget = Budget()

    error = await read(mocked(failing(400, code), budget), product)

    assert isinstance(error, GraphError)
    assert error.retry_after == seconds
    assert stops(budget) == dict.fromkeys(ALL, seconds)
    assert stops(budget, "105") == {}


@pytest.mark.parametrize(
    ("product", "code", "seconds", "stopped"),
    [
        (READS, 613, 5, {READS}),
        (COMMENTS, 613, 5, {COMMENTS}),
        (SEND, 613, 5, {SEND}),
        (COMMENTS, 80001, 60, {COMMENTS}),
        (COMMENTS, 32, 60, {COMMENTS}),
        (COMMENTS, 80002, 60, {COMMENTS, READS}),
        (COMMENTS, 80004, 60, {COMMENTS}),
        (READS, 80006, 60, MESSAGING),
        (SEND, 80006, 60, MESSAGING),
        (SEND, 80002, 60, {SEND, COMMENTS, READS}),
        (READS, 80001, 60, {READS, COMMENTS}),
    ],
)
async def test_an_error_of_one_limit_stops_what_falls_under_it_and_what_was_asked(
    product: Product, code: int, seconds: float, stopped: set[Product]
) -> None:
    budget = Budget()

    error = await read(mocked(failing(400, code), budget), product)

    assert isinstance(error, GraphError)
    assert error.retry_after == seconds
    assert stops(budget) == dict.fromkeys(stopped, seconds)
    assert stops(budget, "105") == {}


async def test_too_many_requests_without_a_code_stop_what_was_asked() -> None:
    budget = Budget()

    await read(mocked(lambda _: httpx.Response(429), budget), READS)

    assert stops(budget) == {READS: 60}


async def test_a_send_that_lacks_a_permission_stops_its_page() -> None:
    budget = Budget()

    await send(mocked(failing(403, 10), budget))

    assert stops(budget) == dict.fromkeys(ALL, 5)


async def test_a_permission_that_a_read_lacks_stops_no_send() -> None:
    budget = Budget()

    error = await mocked(failing(403, 10), budget).get(PAGE, "7", "", {}, operation="profile")

    assert isinstance(error, GraphError)
    assert error.failure is Failure.PERMISSION
    assert stops(budget) == {}


@pytest.mark.parametrize("kind", ['"type":"messenger",', ""])
async def test_the_time_that_meta_names_goes_before_ours(kind: str) -> None:
    budget = Budget()
    usage = f'{{"104":[{{{kind}"call_count":10,"estimated_time_to_regain_access":19}}]}}'

    error = await send(mocked(failing(400, 80006, **{"x-business-use-case-usage": usage}), budget))

    assert isinstance(error, GraphError)
    assert error.retry_after == 19 * 60


async def test_the_time_that_meta_names_for_another_limit_is_not_waited_for() -> None:
    budget = Budget()
    usage = '{"104":[{"type":"pages","call_count":10,"estimated_time_to_regain_access":19}]}'

    error = await send(mocked(failing(400, 80006, **{"x-business-use-case-usage": usage}), budget))

    assert isinstance(error, GraphError)
    assert error.retry_after == 60


async def test_only_code_4_stops_every_page() -> None:
    budget = Budget()

    await send(mocked(failing(403, 4), budget))

    assert stops(budget, "105") == dict.fromkeys(ALL, 60)


@pytest.mark.parametrize("code", [100, 551, 1, 2])
async def test_other_errors_stop_nothing(code: int) -> None:
    budget = Budget()

    await send(mocked(failing(400, code), budget))

    assert stops(budget) == {}


@pytest.mark.parametrize(
    ("status", "content"),
    [(503, b"<html>"), (502, b""), (200, b""), (500, b'{"error":{"code":1}}')],
)
async def test_only_a_success_without_figures_says_that_little_is_spent(
    status: int, content: bytes
) -> None:
    budget = Budget()
    budget.observe("104", SEND, Usage(app=80, shares={"messenger": Share(90)}), 0.0)

    with suppress(OutcomeUnknown):
        await send(mocked(lambda _: httpx.Response(status, content=content), budget))
    unsaid = budget.left_percent("104")
    await send(mocked(lambda _: httpx.Response(200, json={"message_id": "m"}), budget))

    assert (unsaid, budget.left_percent("104")) == (10, 100)


async def test_no_exception_and_no_log_line_holds_a_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with open_transport() as transport:
            graph = Graph(transport, Hosts(url, url, "v25.0"), APP, Budget())
            with pytest.raises(NotSent) as refused:
                await graph.inspect(PAGE)

    assert TOKEN not in repr(refused.value) + str(refused.value)
    assert refused.value.__suppress_context__
    assert TOKEN not in repr(PAGE)
    assert "secret" not in repr(APP).replace("instagram_secret", "").replace("secret=", "")
    assert TOKEN not in caplog.text
