"""What comes over the edge's socket: each case of `transport.toml` against a real process."""

import asyncio
import gzip
import socket
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from pagewire_runtime.errors import Unavailable
from pagewire_webhook.receiving import BODY_MAX_BYTES
from tests.support.edge import VERIFY_TOKEN, WEBHOOK, Edge, message, post, running_edge, signature
from tests.support.rawhttp import request
from tests.support.wellness import MAY_GROW_BYTES, memory_of

RECEIPT_SECONDS = 2.0
CONNECTIONS = 1_000
GONE_WITHIN = 60.0
"""However slow the machine: the deadline is a second, and looked after once a second."""

OUTAGE_MAX_BYTES = 80 * 2**20
"""Of 256 MiB that are refused: failed calls are collected after 8 MiB, their copies counted."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Case(NamedTuple):
    """One case; what its fields mean stands at the head of the file."""

    name: str
    request: str
    expect: str
    status: Sequence[int] = ()
    waits_for: str = ""
    chosen: str = ""


CASES = [
    Case(**each)
    for each in tomllib.loads(Path(__file__).with_name("transport.toml").read_text())["case"]
]

Try = Callable[[Edge, Case], Awaitable[None]]
TRIES: dict[str, Try] = {}


def tried(attempt: Try) -> Try:
    TRIES[attempt.__name__] = attempt
    return attempt


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge() -> AsyncIterator[Edge]:
    async with running_edge(
        WEBHOOK_RECEIPT_SECONDS=str(RECEIPT_SECONDS),
        WEBHOOK_CONNECTIONS_MAX=str(CONNECTIONS),
        FORWARDED_ALLOW_IPS="192.0.2.1",
    ) as running:
        await warmed(running)
        running.memory_at_rest = memory_of(running.process.pid)
        yield running


async def warmed(edge: Edge) -> None:
    """Until it keeps no more for good: each of its threads has memory of its own."""
    large = message(0) + b" " * (BODY_MAX_BYTES - 1_000)
    async with crowd(edge, 500):
        pass
    levels = [0]
    while len(levels) < 20 and max(levels[-3:]) > max(levels[:-3], default=0):
        await asyncio.gather(*(edge.ask(post(large)) for _ in range(8)))
        levels.append(memory_of(edge.process.pid))
    edge.stored.clear()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_the_case_is_answered_and_leaves_the_edge_well(edge: Edge, case: Case) -> None:
    pid = edge.process.pid
    before = max(memory_of(pid), edge.memory_at_rest)  # some of which the allocator gives back
    edge.stored.clear()

    await TRIES[case.name](edge, case)

    await edge.takes_a_message()
    with suppress(TimeoutError):
        async with asyncio.timeout(GONE_WITHIN):
            while memory_of(pid) - before >= MAY_GROW_BYTES:
                await asyncio.sleep(0.05)
    assert memory_of(pid) - before < MAY_GROW_BYTES


async def test_an_outage_in_which_large_bodies_come_does_not_fill_the_memory(edge: Edge) -> None:
    large = message(0) + b" " * (BODY_MAX_BYTES - 1_000)
    usual = edge.upstream.answers["Ingest"]
    edge.upstream.answers["Ingest"] = Unavailable("the store")

    statuses: list[int] = []
    while statuses.count(503) < 64:  # 408: a busy machine took too long to send it
        answers = await asyncio.gather(*(edge.ask(post(large)) for _ in range(8)))
        statuses += [answer.status for answer in answers]
    kept = memory_of(edge.process.pid) - edge.memory_at_rest
    edge.upstream.answers["Ingest"] = usual

    assert set(statuses) <= {503, 408}
    assert kept < OUTAGE_MAX_BYTES
    await edge.takes_a_message()


async def test_every_case_is_tried_and_no_other() -> None:
    assert TRIES.keys() == {case.name for case in CASES}


# How it is sent, and what came back.


async def everything(edge: Edge, data: bytes, *, half_close: bool = False) -> bytes:
    """All that comes until the edge closes the connection; it has to."""
    async with crowd(edge, 1, data) as (peer,):
        if half_close:
            peer.send_no_more()
        await peer.until_gone()
    return peer.told


def statuses(answers: bytes) -> list[int]:
    """Of answers without a body."""
    return [int(each.split()[1]) for each in answers.split(b"\r\n\r\n") if each]


async def is_no_http(edge: Edge, data: bytes, status: int) -> None:
    answers = await everything(edge, data)

    assert statuses(answers) == [status]
    assert b"x-content-type-options: nosniff" in answers
    assert edge.stored == []


def headed(*headers: bytes) -> bytes:
    return b"\r\n".join([b"POST " + WEBHOOK + b" HTTP/1.1", b"Host: edge", *headers, b"", b""])


class Slow(asyncio.Protocol):
    """A peer that keeps a connection, and what it was told on it."""

    def __init__(self) -> None:
        self.told = b""
        self.gone = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.told += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        if not self.gone.is_set():
            self.transport.write(data)

    def send_no_more(self) -> None:
        assert self.transport is not None
        self.transport.write_eof()

    async def until_gone(self) -> None:
        await asyncio.wait_for(self.gone.wait(), GONE_WITHIN)


@asynccontextmanager
async def crowd(edge: Edge, count: int, first: bytes = b"") -> AsyncIterator[list[Slow]]:
    """So many connections, each of which has sent the same to begin with."""
    loop = asyncio.get_running_loop()
    slow: list[Slow] = []
    try:
        for _ in range(count):
            _, protocol = await loop.create_connection(Slow, "127.0.0.1", edge.port)
            slow.append(protocol)
            protocol.send(first)
        yield slow
    finally:
        for each in slow:
            assert each.transport is not None
            each.transport.abort()


async def trickled(edge: Edge, slow: Sequence[Slow], byte: bytes) -> None:
    """Each sends a byte now and then until it is closed on; honest requests come in between."""
    while not all(each.gone.is_set() for each in slow):
        for each in slow:
            each.send(byte)
        await edge.takes_a_message()
        await asyncio.sleep(0.1)


# The cases.


@tried
async def method_put_delete_patch(edge: Edge, case: Case) -> None:
    answers = [await edge.ask(request(each, WEBHOOK)) for each in ("PUT", "DELETE", "PATCH")]

    assert [answer.status for answer in answers] == list(case.status) * 3
    assert {answer.headers["allow"] for answer in answers} == {"GET, POST"}


@tried
async def trace_and_connect(edge: Edge, case: Case) -> None:
    trace = await edge.ask(request("TRACE", b"/", [("X-Canary", b"do-not-echo")]))
    connect = await everything(
        edge, b"CONNECT canary.example:443 HTTP/1.1\r\nHost: canary.example\r\n\r\n"
    )

    assert {trace.status, *statuses(connect)} <= set(case.status)
    assert b"do-not-echo" not in trace.body
    assert b"canary" not in connect


@tried
async def unknown_path(edge: Edge, case: Case) -> None:
    paths = (b"/.env", b"/docs", b"/openapi.json", b"/metrics")

    answers = [await edge.ask(request("GET", path)) for path in paths]

    assert [answer.status for answer in answers] == list(case.status) * len(paths)
    assert len({answer.body for answer in answers}) == 1


@tried
async def path_traversal(edge: Edge, case: Case) -> None:
    paths = (b"/api/webhook/../../secret.txt", b"/api/webhook/%2e%2e/%2e%2e/secret.txt")

    answers = [await edge.ask(request("GET", path)) for path in paths]

    assert [answer.status for answer in answers] == list(case.status) * 2


@tried
async def body_too_large_declared(edge: Edge, case: Case) -> None:
    answers = await everything(edge, headed(b"Content-Length: 5242880"))

    assert statuses(answers) == case.status
    assert b"connection: close" in answers


@tried
async def body_too_large_chunked(edge: Edge, case: Case) -> None:
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    async with crowd(edge, 1, headed(b"Transfer-Encoding: chunked")) as (sender,):
        for _ in range(256):
            sender.send(chunk)
            await asyncio.sleep(0)
        await sender.until_gone()

    assert statuses(sender.told) in (case.status, [])  # who goes on sending may be reset before
    assert edge.stored == []


@tried
async def body_exact_limit(edge: Edge, case: Case) -> None:
    body = message(0)
    body += b" " * (BODY_MAX_BYTES - len(body))

    answer = await edge.ask(post(body))

    assert [answer.status] == case.status
    assert edge.stored == [body]


@tried
async def content_length_negative(edge: Edge, case: Case) -> None:
    await is_no_http(edge, headed(b"Content-Length: -1"), *case.status)


@tried
async def content_length_twice(edge: Edge, case: Case) -> None:
    lengths = headed(b"Content-Length: 2", b"Content-Length: 3")

    await is_no_http(edge, lengths + b"{}}", *case.status)


@tried
async def cl_and_te(edge: Edge, case: Case) -> None:
    both = headed(b"Content-Length: 5", b"Transfer-Encoding: chunked")

    await is_no_http(edge, both + b"0\r\n\r\n", *case.status)


@tried
async def te_obfuscated(edge: Edge, case: Case) -> None:
    refused, taken = case.status
    body = message(0)
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    signed = b"X-Hub-Signature-256: " + signature(body)

    await is_no_http(edge, headed(b"Transfer-Encoding: xchunked") + chunks, refused)
    tab = await edge.ask(headed(b"Transfer-Encoding:\tchunked", signed) + chunks)

    assert tab.status == taken
    assert edge.stored == [body]


@tried
async def short_body(edge: Edge, case: Case) -> None:
    await everything(edge, headed(b"Content-Length: 1000") + b"x" * 10, half_close=True)

    assert edge.stored == []


@tried
async def slow_headers(edge: Edge, case: Case) -> None:
    async with crowd(edge, 500, b"POST /api/webhook HTTP/1.1\r\nHost: e") as slow:
        async with asyncio.timeout(GONE_WITHIN):
            await trickled(edge, slow, b"e")

    assert {each.told for each in slow} == {b""}


@tried
async def slow_body(edge: Edge, case: Case) -> None:
    async with crowd(edge, 500, headed(b"Content-Length: 1000")) as slow:
        async with asyncio.timeout(GONE_WITHIN):
            await trickled(edge, slow, b"x")

    assert {tuple(statuses(each.told)) for each in slow} == {tuple(case.status)}


@tried
async def slow_reader(edge: Edge, case: Case) -> None:
    with ExitStack() as sockets:
        slow = [sockets.enter_context(hard_of_hearing(edge)) for _ in range(10)]
        asking = [asyncio.create_task(asked_until_gone(each)) for each in slow]
        async with asyncio.timeout(GONE_WITHIN):
            while len(sockets_of(edge)) <= SOCKETS_AT_REST:
                await asyncio.sleep(0.05)
            while len(sockets_of(edge)) > SOCKETS_AT_REST:
                await edge.takes_a_message()
                await asyncio.sleep(0.1)
        for each in asking:  # one that still writes is never told that nobody is there
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def asked_until_gone(peer: socket.socket) -> None:
    """For the longest answer that there is, and no faster than it is answered."""
    asked = f"?hub.mode=subscribe&hub.verify_token={VERIFY_TOKEN}&hub.challenge={'7' * 1024}"
    few = request("GET", WEBHOOK + asked.encode()) * 20
    while True:
        await asyncio.get_running_loop().sock_sendall(peer, few)
        await asyncio.sleep(0.2)


def hard_of_hearing(edge: Edge) -> socket.socket:
    """A connection that nobody reads from, and that takes in little by itself."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    peer.connect(("127.0.0.1", edge.port))
    peer.setblocking(False)
    return peer


SOCKETS_AT_REST = 12
"""And fewer than any crowd here: the listener, the store, what the loop needs."""


def sockets_of(edge: Edge) -> list[str]:
    found = []
    for each in Path(f"/proc/{edge.process.pid}/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:"):
            found.append(target)
    return found


@tried
async def idle_connections(edge: Edge, case: Case) -> None:
    async with crowd(edge, 5_000) as slow:
        held = len(sockets_of(edge))
        for _ in range(10):
            await edge.takes_a_message()
        async with asyncio.timeout(GONE_WITHIN):
            for each in slow:
                await each.until_gone()

    assert held <= CONNECTIONS + SOCKETS_AT_REST


@tried
async def header_bomb(edge: Edge, case: Case) -> None:
    many = [b"X-%d: y" % number for number in range(200)]
    bombs = [headed(*many), headed(b"X: " + b"y" * 65_536), headed(b"X: " + b"y" * 65_536)[:-4]]

    answers = [await everything(edge, bomb) for bomb in bombs]

    found = [statuses(answer) for answer in answers]
    assert found[0] == [400]
    assert all(len(each) <= 1 and {*each} <= {*case.status} for each in found)  # or reset, unread


@tried
async def header_crlf(edge: Edge, case: Case) -> None:
    logged = len(edge.logged)

    await is_no_http(edge, headed(b"X-Note: a\nX-Injected: canary"), *case.status)

    assert not any("canary" in line for line in edge.logged[logged:])


@tried
async def pipelined_requests(edge: Edge, case: Case) -> None:
    bodies = [message(number) for number in range(20)]
    requests = [
        post(body, secret="wrong-secret-0123456789") if at == 4 else post(body)
        for at, body in enumerate(bodies)
    ]

    async with asyncio.timeout(GONE_WITHIN):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"".join(requests))
        heads = [await reader.readuntil(b"\r\n\r\n") for _ in requests]
        writer.close()

    assert [*map(int, (head.split()[1] for head in heads))] == [200] * 4 + [403] + [200] * 15
    assert edge.stored == bodies[:4] + bodies[5:]


@tried
async def pipelined_without_end(edge: Edge, case: Case) -> None:
    async with crowd(edge, 20, request("GET", b"/nowhere") * 5_000) as senders:
        await edge.takes_a_message()
        for each in senders:
            await each.until_gone()

    assert {statuses(each.told)[-1] for each in senders if each.told} <= set(case.status)


@tried
async def http2_preface_on_http1(edge: Edge, case: Case) -> None:
    await is_no_http(edge, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", *case.status)


@tried
async def content_encoding_gzip(edge: Edge, case: Case) -> None:
    packed = gzip.compress(b"\0" * 4 * 2**20)
    encoding = ("Content-Encoding", b"gzip")

    unsigned = await edge.ask(post(packed, encoding, secret=None))
    signed = await edge.ask(post(packed, encoding))

    assert [unsigned.status, signed.status] == case.status
    assert edge.stored == [packed]


@tried
async def content_type_form(edge: Edge, case: Case) -> None:
    body = message(0)

    answer = await edge.ask(post(body, ("Content-Type", b"application/x-www-form-urlencoded")))

    assert [answer.status] == case.status
    assert edge.stored == [body]


@tried
async def content_type_multipart_bomb(edge: Edge, case: Case) -> None:
    bomb = b"--x\r\nContent-Disposition: form-data\r\n\r\n" * 100_000
    typed = ("Content-Type", b"multipart/form-data; boundary=x")
    bomb = bomb[:BODY_MAX_BYTES]

    unsigned = await edge.ask(post(bomb, typed, secret=None))
    signed = await edge.ask(post(bomb, typed))

    assert [unsigned.status, signed.status] == case.status
    assert edge.stored == [bomb]


@tried
async def expect_100(edge: Edge, case: Case) -> None:
    answers = await everything(edge, headed(b"Content-Length: 5242880", b"Expect: 100-continue"))

    assert statuses(answers) == case.status


@tried
async def host_header_spoof(edge: Edge, case: Case) -> None:
    data = b"POST /api/data-deletion HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"

    answer = await edge.ask(data)

    assert [answer.status] == case.status
    assert b"evil.example" not in answer.body + str(answer.headers).encode()
