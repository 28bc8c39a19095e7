"""Connections: no more than there is room for, and none that keeps us waiting.

Below the app, since an app is asked only once a request's head has come. uvicorn itself bounds
nothing but the time between two requests.
"""

from __future__ import annotations

from collections.abc import Coroutine
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pagewire_runtime import metrics
from pagewire_webhook.posts import BODY_MAX_BYTES, Headers, Post, Reply, Taker

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config

HEAD_MAX_BYTES = 32 * 1024
HEADERS_MAX = 100
"""Meta sends some ten headers in half a kilobyte, and proxies add as much."""
PIPELINED_MAX = 64
"""Requests that wait behind another of their connection: one read may bring thousands, and is
parsed before anything else is done."""
UNFINISHED_MAX_BYTES = 64 * 2**20
"""Of all requests that have come in part."""
LINGER_SECONDS = 4.0
"""For the rest of an answer to leave on a connection that is being closed."""

_dropped = metrics.counter(
    "pagewire_webhook_connections_dropped_total",
    "Connections that were closed on their peer: slow (a request did not come, or an answer was not"
    " taken, in time), crowded (room was needed), malformed (no HTTP, too large a"
    " head, or too many requests at once).",
    ["reason"],
)

_TIMED_OUT, _FORBIDDEN, _BAD_REQUEST, _HEAD_TOO_LARGE = (
    f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nx-content-type-options: nosniff\r\n"
    "connection: close\r\n\r\n".encode()
    for status in (
        "408 Request Timeout",
        "403 Forbidden",
        "400 Bad Request",
        "431 Request Header Fields Too Large",
    )
)


class Connections(ServerState):
    """All connections of a listener: at most `most`, a request of each within `seconds`.

    Where there is no room for one more, the larger crowd gives way: those whose request has not
    come whole, who has taken longest first, or else those that ask for nothing at the moment. Who
    waits for an answer is never dropped; where all do, the newcomer is.
    """

    def __init__(self, most: int, seconds: float, taker: Taker | None = None) -> None:
        super().__init__()
        self.most = most
        self.seconds = seconds
        self.taker = taker
        self.ends = b"\r\n", b"connection: close\r\n\r\n"
        """How the head of a reply ends, and of a connection's last one."""
        self.unfinished_bytes = 0
        self.leaving = 0
        """Those that were dropped and are not gone yet."""

    @property
    def are_too_many(self) -> bool:
        return len(self.connections) - self.leaving > self.most

    def date(self) -> None:
        """Takes over the headers that every answer has: the date, for a second."""
        dated = b"".join(b"%b: %b\r\n" % header for header in self.default_headers)
        self.ends = dated + b"\r\n", dated + b"connection: close\r\n\r\n"

    def sweep(self, now: float) -> None:
        """Drops whoever is overdue; to be called about once a second, `now` by the loop's clock."""
        for connection in self._all():
            connection.look(now)

    def make_room(self, newcomer: Connection) -> None:
        """Drops some connections, so that there is room again."""
        others = [each for each in self._all() if each is not newcomer and not each.is_leaving]
        receiving = [each for each in others if each.due is not None]
        idle = [each for each in others if each.is_idle]
        some = self.most // 16 + 1  # at a time: each look costs as much as there are connections
        longest = nsmallest(some, receiving, key=_due)
        gives_way = longest if len(receiving) >= len(idle) else idle[:some]
        for connection in gives_way or [newcomer]:
            connection.drop("crowded")

    def make_memory(self) -> None:
        """Drops the connection that has kept what it sent unfinished for longest."""
        holding = [each for each in self._all() if each.unfinished_bytes]
        for connection in nsmallest(1, holding, key=_due):
            connection.drop("crowded")

    def _all(self) -> list[Connection]:
        return [*cast("set[Connection]", self.connections)]


class Connection(HttpToolsProtocol):
    """One connection, with a moment by which its peer has to have done what we wait for.

    `due` is that moment by the loop's clock; None while it is our turn, and while nothing has been
    asked, which uvicorn bounds.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.due: float | None = None
        self.unfinished_bytes = 0
        self.is_leaving = False
        self._all = cast("Connections", server_state)
        self._taker = self._all.taker
        self._is_whole = False
        self._head_has_come = False
        self._came = 0
        self._idle_until = 0.0
        self._post: Post | None = None
        """One that has come whole, and is to be taken."""

    @property
    def is_idle(self) -> bool:
        """Whether everything that was asked is answered."""
        cycle = self._latest
        return cycle is not None and cycle.response_complete

    @property
    def _latest(self) -> RequestResponseCycle | Post | None:
        """The last request whose head has come, if there was one."""
        return self.cycle

    def connection_made(
        self,
        transport: asyncio.Transport,  # type: ignore[override]  # as uvicorn has it
    ) -> None:
        super().connection_made(transport)
        self._expect(self._all.seconds)
        if self._all.are_too_many:
            self._all.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._all.leaving -= self.is_leaving
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._is_whole = False
        self._came = len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # the request before it is served; no other protocol is spoken here
        except HttpParserError:
            self._refuse(_BAD_REQUEST)
        if self._is_whole:
            self._forget()
            if not self.flow.write_paused:
                self._is_our_turn()
        elif not self.transport.is_closing():
            self._is_unfinished()
        if self._post is not None:
            self._take()

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._head_has_come = False

    def on_headers_complete(self) -> None:
        may_be_large = self.unfinished_bytes + self._came > HEAD_MAX_BYTES
        if len(self.headers) > HEADERS_MAX or (may_be_large and self._head_bytes > HEAD_MAX_BYTES):
            raise _Refused
        if len(self.pipeline) >= PIPELINED_MAX:
            raise _Refused
        if self._is_post():
            keep_alive = self.parser.should_keep_alive()
            self.cycle = Post(self, self.headers, keep_alive=keep_alive)  # type: ignore[assignment]
        else:
            self._begin_cycle()
        self._head_has_come = True

    def _is_post(self) -> bool:
        """Whether it is one that is taken without an app: plain, and none before it under way."""
        if self._taker is None or self.url not in self._taker.targets:
            return False
        before = self._latest
        return (
            (before is None or before.response_complete)
            and not self.flow.write_paused
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and _has_small_body(self.headers)
        )

    def _begin_cycle(self) -> None:
        """As uvicorn does, which makes a scope at the beginning of a request."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if type(cycle := self._latest) is Post:
            cycle.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_whole = True
        if type(cycle := self._latest) is Post:
            cycle.more_body = False
            self._post = cycle
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but that `sweep` looks for who is idle, not a timer of each request."""
        self._all.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_until = self.loop.time() + self.timeout_keep_alive

    def _take(self) -> None:
        post, self._post = cast("Post", self._post), None
        cast("Taker", self._taker).take(post)

    def reply(self, reply: Reply, *, keep_alive: bool) -> None:
        """Sends it, unless the peer is gone; then the next request has its turn."""
        if not self.transport.is_closing():
            usual, last = self._all.ends
            is_usual = keep_alive or reply.is_last
            self.transport.write(reply.head + (usual if is_usual else last))
            if reply.is_last or not keep_alive:
                self.transport.close()
        self.on_response_complete()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Has work done that ends in an answer; a drain waits for it."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def peer(self, headers: Headers) -> str | None:
        """The address that asks, as a proxy that is trusted says it; None: a local socket."""
        if self.client is None:
            return None
        address, app = self.client[0], self.app
        if not isinstance(app, ProxyHeadersMiddleware) or address not in app.trusted_hosts:
            return address
        said = b", ".join(value for name, value in headers if name == b"x-forwarded-for")
        return app.trusted_hosts.get_trusted_client_address(said.decode("latin1"))[0] or address

    def send_400_response(self, msg: str) -> None:
        self._refuse(_BAD_REQUEST)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect(self._all.seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.due = None
        if self.unfinished_bytes:
            self._expect(self._all.seconds)

    def look(self, now: float) -> None:
        """Drops the peer if it has had its time."""
        if self.due is None:
            if self.transport.is_closing():
                self._expect(LINGER_SECONDS)
            elif self.is_idle and now >= self._idle_until:
                self.transport.abort()  # closing it would wait for who does not read
        elif now >= self.due:
            if self.flow.read_paused and not self.flow.write_paused:  # it is we who are slow
                self._expect(self._all.seconds)
            else:
                self.drop("slow")

    def drop(self, why: str) -> None:
        """Closes the connection; at once where it is being closed already."""
        if self.transport.is_closing():
            self.transport.abort()
            return
        _dropped.labels(why).inc()
        self._forget()
        self.is_leaving = True
        self._all.leaving += 1
        if self._awaits_body:
            self.transport.write(_TIMED_OUT)
        self.transport.close()
        self._expect(LINGER_SECONDS)

    @property
    def _awaits_body(self) -> bool:
        cycle = self._latest
        return (
            cycle is not None
            and self._head_has_come
            and cycle.more_body
            and not cycle.response_started
        )

    def _is_our_turn(self) -> None:
        self.due = None
        if self.cycle.response_complete:  # before all of it had come: uvicorn waits no more
            self._expect(self.timeout_keep_alive)

    def _is_unfinished(self) -> None:
        if not self.unfinished_bytes:
            self._expect(self._all.seconds)
        self.unfinished_bytes += self._came
        self._all.unfinished_bytes += self._came
        if self.unfinished_bytes > HEAD_MAX_BYTES and not self._head_has_come:
            self._refuse(_HEAD_TOO_LARGE)
        elif self._all.unfinished_bytes > UNFINISHED_MAX_BYTES:
            self._all.make_memory()

    @property
    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _forget(self) -> None:
        self._all.unfinished_bytes -= self.unfinished_bytes
        self.unfinished_bytes = 0

    def _refuse(self, answer: bytes) -> None:
        _dropped.labels("malformed").inc()
        # So long a target can only be a handshake's, and one that is wrong is forbidden.
        is_handshake = bool(self.url) and len(self.url) > HEAD_MAX_BYTES
        self.transport.write(_FORBIDDEN if is_handshake else answer)
        self.transport.close()

    def _expect(self, seconds: float) -> None:
        self.due = self.loop.time() + seconds


def _has_small_body(headers: Headers) -> bool:
    """Whether its length is said, and little; the parser refuses two lengths."""
    for name, value in headers:
        if name == b"content-length":
            return value.isdigit() and len(value) < 8 and int(value) <= BODY_MAX_BYTES
    return False


class _Refused(Exception):
    """Raised within the parser, which makes an answer 400 of it."""


def _due(connection: Connection) -> float:
    return connection.due or 0.0
