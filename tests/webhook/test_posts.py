"""Posts that are taken straight from their connection, and what goes the way of all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from pagewire_webhook import listening as listening_module
from pagewire_webhook.listening import listening
from pagewire_webhook.posts import BODY_MAX_BYTES, Post, Reply
from tests.support.rawhttp import request

ANY = "127.0.0.1:0"
SOON = 30.0
HOOK = b"/hook"
OK = Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-way: straight\r\n")
LAST = Reply(
    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nx-way: straight\r\nconnection: close\r\n",
    is_last=True,
)


class Hook:
    """Takes posts to /hook, and answers when it may; what else comes is answered as an app."""

    targets = frozenset({HOOK})

    def __init__(self) -> None:
        self.reply = OK
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.taken: list[bytes] = []
        self.by_app: list[bytes] = []
        self.peers: list[str | None] = []

    def take(self, post: Post) -> None:
        self.taken.append(post.take_body())
        self.peers.append(post.peer)
        if self.may_answer.is_set():
            post.answer(self.reply)
        else:
            post.answered_by(self._answer(post))

    async def _answer(self, post: Post) -> None:
        await self.may_answer.wait()
        post.answer(self.reply)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.by_app.append(body)
        headers = [(b"content-length", b"0"), (b"x-way", b"app")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def has_taken(self, count: int) -> None:
        async with asyncio.timeout(SOON):
            while len(self.taken) < count:
                await asyncio.sleep(0.01)


class Peer:
    """A connection to the listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def head(self) -> str:
        """The next answer's."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), SOON)
        return head.decode().lower()

    async def way(self) -> str:
        """Which way the next answer took."""
        return (await self.head()).partition("x-way: ")[2].split()[0]

    async def rest(self) -> bytes:
        """All that comes until the listener closes."""
        return await asyncio.wait_for(self._reader.read(), SOON)

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def peer_of(hook: Hook, *, proxies: tuple[str, ...] = ()) -> AsyncIterator[Peer]:
    async with listening(hook, ANY, taker=hook, trusted_proxies=proxies, drain_seconds=5) as port:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
        try:
            yield peer
        finally:
            hook.may_answer.set()
            peer.close()


def post(body: bytes = b"{}", *headers: tuple[str, bytes], target: bytes = HOOK) -> bytes:
    return request("POST", target, headers, body)


async def test_a_post_is_taken_with_no_app_between_and_answered_with_a_date() -> None:
    hook = Hook()

    async with peer_of(hook) as peer:
        peer.send(post(b"one"))
        head = await peer.head()

    assert hook.taken == [b"one"]
    assert hook.by_app == []
    assert head.startswith("http/1.1 200 ok\r\n")
    assert "\r\ndate: " in head
    assert "connection:" not in head


async def test_one_connection_serves_one_post_after_the_other() -> None:
    hook = Hook()

    async with peer_of(hook) as peer:
        for body in (b"one", b"two", b""):
            peer.send(post(body))
            assert await peer.way() == "straight"

    assert hook.taken == [b"one", b"two", b""]


async def test_a_post_that_comes_in_many_parts_is_taken_once_and_whole() -> None:
    hook, body = Hook(), bytes(range(256)) * 8
    data = post(body)

    async with peer_of(hook) as peer:
        for at in range(0, len(data), 97):
            peer.send(data[at : at + 97])
            await asyncio.sleep(0)
        await peer.head()

    assert hook.taken == [body]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(post(target=HOOK + b"?a=1"), id="a-query"),
        pytest.param(post(target=b"/other"), id="another-address"),
        pytest.param(request("GET", HOOK), id="another-method"),
        pytest.param(request("POST", HOOK), id="no-length"),
        pytest.param(post(b"x" * (BODY_MAX_BYTES + 1)), id="a-large-body"),
        pytest.param(post(b"{}", ("Expect", b"100-continue")), id="expect"),
        pytest.param(
            request("POST", HOOK, [("Transfer-Encoding", b"chunked")]) + b"2\r\n{}\r\n0\r\n\r\n",
            id="chunks",
        ),
        pytest.param(post(b"{}", ("Connection", b"upgrade"), ("Upgrade", b"h2c")), id="an-upgrade"),
        pytest.param(post().replace(b"HTTP/1.1", b"HTTP/1.0"), id="http-1.0"),
    ],
)
async def test_what_is_out_of_the_ordinary_is_left_to_the_app(data: bytes) -> None:
    hook = Hook()

    async with peer_of(hook) as peer:
        peer.send(data)
        head = await peer.head()
        if head.startswith("http/1.1 100"):
            head = await peer.head()

    assert "x-way: app" in head
    assert hook.taken == []
    assert len(hook.by_app) == 1


async def test_the_largest_post_that_is_taken_straight_is_taken_whole() -> None:
    hook, body = Hook(), b"x" * BODY_MAX_BYTES

    async with peer_of(hook) as peer:
        peer.send(post(body))

        assert await peer.way() == "straight"
    assert hook.taken == [body]


async def test_requests_that_come_at_once_are_answered_one_after_the_other() -> None:
    hook = Hook()
    hook.may_answer.clear()

    async with peer_of(hook) as peer:
        peer.send(post(b"one") + post(b"two") + request("GET", HOOK))
        await hook.has_taken(1)
        before_the_answer = [*hook.by_app]
        hook.may_answer.set()
        ways = [await peer.way() for _ in range(3)]
        peer.send(post(b"four"))
        ways.append(await peer.way())

    assert before_the_answer == []
    assert ways == ["straight", "app", "app", "straight"]
    assert hook.taken == [b"one", b"four"]
    assert hook.by_app == [b"two", b""]


async def test_garbage_behind_a_post_ends_the_connection_though_the_post_is_taken() -> None:
    hook = Hook()

    async with peer_of(hook) as peer:
        peer.send(post(b"one") + b"\x00garbage\r\n\r\n")
        rest = await peer.rest()

    assert hook.taken == [b"one"]
    assert rest.startswith(b"HTTP/1.1 400 ")


async def test_a_peer_that_wants_to_close_is_told_so_and_closed_on() -> None:
    hook = Hook()

    async with peer_of(hook) as peer:
        peer.send(post(b"{}", ("Connection", b"close")))
        rest = await peer.rest()

    assert rest.lower().count(b"connection: close\r\n") == 1


async def test_an_answer_that_is_the_last_ends_the_connection() -> None:
    hook = Hook()
    hook.reply = LAST

    async with peer_of(hook) as peer:
        peer.send(post())
        rest = await peer.rest()

    assert rest.startswith(b"HTTP/1.1 403 ")
    assert rest.lower().count(b"connection: close\r\n") == 1


async def test_a_peer_that_goes_before_its_answer_harms_nobody() -> None:
    hook = Hook()
    hook.may_answer.clear()

    async with listening(hook, ANY, taker=hook) as port:
        gone = Peer(*await asyncio.open_connection("127.0.0.1", port))
        gone.send(post(b"one"))
        await hook.has_taken(1)
        gone.close()
        hook.may_answer.set()
        stays = Peer(*await asyncio.open_connection("127.0.0.1", port))
        stays.send(post(b"two"))
        way = await stays.way()
        stays.close()

    assert way == "straight"
    assert hook.taken == [b"one", b"two"]


async def test_a_drain_waits_for_a_post_under_way_and_then_ends_its_connection() -> None:
    hook = Hook()
    hook.may_answer.clear()
    async with asyncio.timeout(SOON):
        left = listening(hook, ANY, taker=hook)
        port = await left.__aenter__()
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
        peer.send(post())
        await hook.has_taken(1)

        leaving = asyncio.create_task(left.__aexit__(None, None, None))
        await until_refused(port)
        still_there = not leaving.done()
        hook.may_answer.set()
        rest = await peer.rest()
        await leaving
        peer.close()

    assert still_there
    assert rest.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in rest


async def until_refused(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:  # refused, or reset as the listener closes
            return
        writer.close()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("proxies", "client"),
    [
        ((), "127.0.0.1"),
        (("127.0.0.1",), "203.0.113.9"),
        (("10.0.0.0/8",), "127.0.0.1"),
    ],
)
async def test_only_a_trusted_proxy_is_believed_about_who_posts(
    proxies: tuple[str, ...], client: str
) -> None:
    hook = Hook()

    async with peer_of(hook, proxies=proxies) as peer:
        peer.send(post(b"{}", ("X-Forwarded-For", b"198.51.100.1, 203.0.113.9")))
        await peer.head()

    assert hook.peers == [client]


async def test_a_trusted_proxy_that_names_nobody_is_itself_who_posts() -> None:
    hook = Hook()

    async with peer_of(hook, proxies=("127.0.0.1",)) as peer:
        peer.send(post())
        await peer.head()

    assert hook.peers == ["127.0.0.1"]


async def test_a_connection_that_asks_for_nothing_more_is_closed_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening_module, "KEEP_ALIVE_SECONDS", 0)
    hook = Hook()

    async with peer_of(hook) as peer:
        peer.send(post())
        head = await peer.head()
        try:
            rest = await peer.rest()
        except ConnectionResetError:
            rest = b""

    assert head.startswith("http/1.1 200")
    assert rest == b""
