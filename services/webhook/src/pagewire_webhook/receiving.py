"""The webhook endpoint: handshakes by GET, signed bodies by POST, each answered when it is stored.

Nearly all bodies come as a `Post`, straight from their connection; whatever is out of the ordinary
comes by ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from starlette.types import Message, Receive, Scope, Send

from pagewire.store.v1.ingest_service_pb2 import Delivery
from pagewire.type.v1.event_pb2 import EventKind
from pagewire_runtime import faults, metrics
from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import Refusal
from pagewire_runtime.logs import get_logger
from pagewire_webhook.deliveries import delivery_of, new_delivery_id
from pagewire_webhook.events import Kind
from pagewire_webhook.handshake import challenge_of
from pagewire_webhook.ingesting import ANSWER_SECONDS, RETRY_AFTER_SECONDS, Ingesting
from pagewire_webhook.posts import BODY_MAX_BYTES as POST_MAX_BYTES
from pagewire_webhook.posts import Headers, Post, Reply
from pagewire_webhook.reporting import Reception
from pagewire_webhook.signature import HEADER, KEY_NAMES, Secret, signer
from pagewire_webhook.strangers import WAITING_MAX, Strangers

log = get_logger(__name__)

BODY_MAX_BYTES = 4 * 2**20

TARGETS = ("/api/webhook", "/api/webhooks/instagram")

# A larger one is verified and read in a thread: a mebibyte of JSON takes some 20 ms.
_OFF_LOOP_BYTES = POST_MAX_BYTES
# So many are read at a time: each may become ten times as large as it is.
_READERS = 4
# Of bodies that have come whole and wait to be read; those still coming are bounded in
# `connections`, those read in `ingesting`.
_UNREAD_MAX_BYTES = 64 * 2**20

NOSNIFF = (b"x-content-type-options", b"nosniff")
_RETRY_AFTER = (b"retry-after", str(int(RETRY_AFTER_SECONDS)).encode())
# What is left of the body is not read, so the connection can't be used again.
_CLOSE = (b"connection", b"close")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_ALLOW = (b"allow", b"GET, POST")

_deliveries = metrics.counter(
    "pagewire_webhook_deliveries_total",
    "Webhooks by what became of them (stored as parsed, partial or quarantined; or forbidden,"
    " too_large, unavailable) and by the secret that signed them. Those forbidden rising"
    " alone mean a wrong secret of ours, which Meta takes for an outage.",
    ["outcome", "key"],
)
_events = metrics.counter(
    "pagewire_webhook_events_total", "Events stored, by kind, repeats included.", ["kind"]
)
_unreadable = metrics.counter(
    "pagewire_webhook_unreadable_total", "Items put into quarantine, by reason.", ["reason"]
)
_ack_seconds = metrics.histogram(
    "pagewire_webhook_ack_seconds", "From the last byte of a signed body to its answer."
)
_refused = {
    outcome: _deliveries.labels(outcome, "none")
    for outcome in ("forbidden", "too_large", "unavailable")
}
_stored = {
    (outcome, key): _deliveries.labels(outcome, key)
    for outcome in ("parsed", "partial", "quarantined")
    for key in KEY_NAMES
}
_events_by_kind = {
    EventKind.Value(f"EVENT_KIND_{kind.name}"): _events.labels(kind.word) for kind in Kind
}


@dataclass(frozen=True)
class PublicConfig:
    """What the public part is told: who may sign, and the token of the handshake."""

    secrets: tuple[Secret, ...]
    verify_token: bytes
    body_max_bytes: int = BODY_MAX_BYTES
    answer_seconds: float = ANSWER_SECONDS
    strangers_max: int = WAITING_MAX
    """How many that are forbidden may wait for it, each with a connection."""


class _Answer(NamedTuple):
    """A response, ready to be sent."""

    start: Message
    body: Message
    reply: Reply
    """The same for what is no ASGI."""


def answer(status: int, *headers: tuple[bytes, bytes], body: bytes = b"") -> _Answer:
    """A response with its length, `nosniff`, and nothing else unless it is given."""
    length = (b"content-length", str(len(body)).encode())
    all_headers = [length, NOSNIFF, *headers]
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()]
    head += [b"%b: %b\r\n" % header for header in all_headers]
    return _Answer(
        {"type": "http.response.start", "status": status, "headers": all_headers},
        {"type": "http.response.body", "body": body},
        Reply(b"".join(head), is_last=_CLOSE in headers),
    )


_OK = answer(200)
_FORBIDDEN = answer(403)
_FORBIDDEN_ONCE_TOO_OFTEN = answer(403, _CLOSE)
_METHOD = answer(405, _ALLOW)
_TOO_LARGE = answer(413, _CLOSE)
_UNAVAILABLE = answer(503, _RETRY_AFTER)


class Receiving:
    """The endpoint of both webhook addresses, by ASGI and for posts.

    POST is answered 200 when the delivery is committed, 403 (always the same) without exactly one
    good signature, 413 for a body over 4 MiB, and else 503 with Retry-After within two seconds of
    receipt. A body with a good signature is never refused for what it says. GET is the handshake.
    Whoever is forbidden too often waits for the answer. Nothing is logged of what works.
    """

    def __init__(
        self,
        config: PublicConfig,
        ingest: Ingesting,
        now: Callable[[], float] = WALL.seconds,
        reception: Reception | None = None,
    ) -> None:
        """`now` is seconds since 1970; `reception` is told how each signed body fares."""
        self._config = config
        self._reception = reception or Reception()
        self._ingest = ingest
        self._now = now
        self._strangers = Strangers(waiting_max=config.strangers_max)
        self._readers = asyncio.Semaphore(_READERS)
        self._unread_bytes = 0
        self._complained_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None  # to ask for it is a system call

    @property
    def targets(self) -> frozenset[bytes]:
        """The addresses, as a request's first line has them."""
        return _TARGETS

    def take(self, post: Post) -> None:
        """Answers a post in its time: at once what is refused."""
        if faults.on:
            post.answered_by(self._reach_and_take(post))
            return
        try:
            self._take(post)
        except Exception as error:
            self._fail(post, error)

    async def _reach_and_take(self, post: Post) -> None:
        try:
            await faults.reach("edge.accepted")
            self._take(post)
        except Exception as error:
            self._fail(post, error)

    def _fail(self, post: Post, error: Exception) -> None:
        """A mistake of ours, and nobody above could mend it."""
        self._complain(error)
        self._reception.refused(self._now())
        post.answer(_counted("unavailable", _UNAVAILABLE).reply)

    def _take(self, post: Post) -> None:
        loop = self._loop = self._loop or asyncio.get_running_loop()
        received = loop.time()
        claims = [value for name, value in post.headers if name == HEADER]
        now = self._now()
        try:
            delivery = self._delivery(
                post.take_body(), claims, int(now * 1_000), self._ingest.is_full
            )
        except _Full:
            self._reception.refused(now)
            post.answer(_counted("unavailable", _UNAVAILABLE).reply)
            return
        if delivery is None:
            self._reception.unsigned(now)
            self._forbid(post, loop)
        else:
            post.answered_by(self._keep(post, delivery, received, loop))

    async def _keep(
        self, post: Post, delivery: Delivery, received: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        post.answer((await self._stored(delivery, received, loop)).reply)

    def _forbid(self, post: Post, loop: asyncio.AbstractEventLoop) -> None:
        """Answers what is not signed, when its peer may have the answer."""
        peer = post.peer
        wait = 0.0 if peer is None else self._strangers.wait_of(peer, loop.time())
        if wait is None:
            post.answer(_counted("forbidden", _FORBIDDEN_ONCE_TOO_OFTEN).reply)
        elif wait:
            loop.call_later(wait, self._let_go, post)
        else:
            post.answer(_counted("forbidden", _FORBIDDEN).reply)

    def _let_go(self, post: Post) -> None:
        self._strangers.waited()
        post.answer(_counted("forbidden", _FORBIDDEN).reply)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: _Answer | None
        if scope["method"] == "POST":
            await faults.reach("edge.accepted")
            found = await self._receive(scope["headers"], receive)
        elif scope["method"] == "GET":
            found = self._handshake(scope["query_string"])
        else:
            found = _METHOD
        if found is _FORBIDDEN:
            found = await self._forbidden(scope.get("client"))
        if found is not None:
            await send(found.start)
            await send(found.body)

    async def _forbidden(self, peer: tuple[str, int] | None) -> _Answer:
        """The one answer to all that is not signed, when this peer may have it."""
        if peer is None:  # a local socket: who asks is not known
            return _FORBIDDEN
        wait = self._strangers.wait_of(peer[0], asyncio.get_running_loop().time())
        if wait is None:
            return _FORBIDDEN_ONCE_TOO_OFTEN
        if wait:
            try:
                await asyncio.sleep(wait)
            finally:
                self._strangers.waited()
        return _FORBIDDEN

    def _handshake(self, query: bytes) -> _Answer:
        challenge = challenge_of(query, self._config.verify_token)
        return _FORBIDDEN if challenge is None else answer(200, _TEXT, body=challenge)

    async def _receive(self, headers: Headers, receive: Receive) -> _Answer | None:
        claims = []
        length: int | None = None
        for name, value in headers:
            if name == HEADER:
                claims.append(value)
            elif name == b"content-length":
                length = _length(value)
        if length is not None and length > self._config.body_max_bytes:
            return _counted("too_large", _TOO_LARGE)
        try:
            raw = await self._body(receive)
        except _TooLarge:
            return _counted("too_large", _TOO_LARGE)
        except _Gone:
            return None
        return await self._answered(raw, claims, asyncio.get_running_loop())

    async def _body(self, receive: Receive) -> bytes:
        """The body as it came: what its encoding or its type is said to be is nothing to us."""
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            whole: bytes = message.get("body", b"")
            self._check_size(whole)
            return whole
        body = bytearray()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            self._check_size(body)
            if not message.get("more_body"):
                return bytes(body)
            message = await receive()
        raise _Gone

    def _check_size(self, body: bytes | bytearray) -> None:
        if len(body) > self._config.body_max_bytes:
            raise _TooLarge

    async def _answered(
        self, raw: bytes, claims: list[bytes], loop: asyncio.AbstractEventLoop
    ) -> _Answer:
        received = loop.time()
        deadline = received + self._config.answer_seconds
        now = self._now()
        received_ms = int(now * 1_000)
        try:
            if len(raw) > _OFF_LOOP_BYTES:
                delivery = await self._large_delivery(raw, claims, received_ms, deadline)
            else:
                delivery = self._delivery(raw, claims, received_ms, self._ingest.is_full)
        except _NotLookedAt:
            self._reception.unsigned(now)
            return _counted("unavailable", _UNAVAILABLE)
        except _Full:
            self._reception.refused(now)
            return _counted("unavailable", _UNAVAILABLE)
        if delivery is None:
            self._reception.unsigned(now)
            return _counted("forbidden", _FORBIDDEN)
        return await self._stored(delivery, received, loop)

    async def _stored(
        self, delivery: Delivery, received: float, loop: asyncio.AbstractEventLoop
    ) -> _Answer:
        """The answer to a delivery that is read: 200 once it is committed."""
        deadline = received + self._config.answer_seconds
        try:
            await faults.reach("edge.verified", faults.named(delivery.events))
            await self._ingest.store(delivery, deadline=deadline)
            await faults.reach("edge.after_ingest", faults.named(delivery.events))
        except Exception as error:  # nobody above could do better than ask for the body again
            self._complain(error)
            self._reception.refused(delivery.receive_time.ToMilliseconds() / 1_000)
            return _counted("unavailable", _UNAVAILABLE)
        self._reception.accepted()
        _count(delivery)
        _ack_seconds.observe(loop.time() - received)
        return _OK

    async def _large_delivery(
        self, raw: bytes, claims: list[bytes], received_ms: int, deadline: float
    ) -> Delivery | None:
        if self._unread_bytes + len(raw) > _UNREAD_MAX_BYTES:
            raise _NotLookedAt
        self._unread_bytes += len(raw)
        try:
            async with asyncio.timeout_at(deadline), self._readers:
                is_full = self._ingest.is_full  # for the loop's own thread to ask
                return await asyncio.to_thread(self._delivery, raw, claims, received_ms, is_full)
        except TimeoutError:
            raise _NotLookedAt from None
        finally:
            self._unread_bytes -= len(raw)

    def _delivery(
        self, raw: bytes, claims: list[bytes], received_ms: int, is_full: bool
    ) -> Delivery | None:
        """The delivery, None where nobody signed it. Raises _Full: it is not worth reading now."""
        signed_by = signer(raw, claims, self._config.secrets, received_ms / 1_000)
        if signed_by is None:
            return None
        if is_full:
            raise _Full
        return delivery_of(
            raw,
            delivery_id=new_delivery_id(received_ms),
            received_ms=received_ms,
            signed_by=signed_by,
        )

    def _complain(self, error: Exception) -> None:
        """At most once a second: in an outage every webhook fails."""
        now = self._now()
        if now - self._complained_at < 1:
            return
        self._complained_at = now
        reason = str(error) if isinstance(error, Refusal) else type(error).__name__
        log.warning("webhooks are not stored, Meta is asked to send them again", reason=reason)


_TARGETS = frozenset(target.encode() for target in TARGETS)


class _TooLarge(Exception):
    """The body is over the limit."""


class _Full(Exception):
    """More than is borne is under way; the signature is good."""


class _NotLookedAt(Exception):
    """So much is under way that nobody knows who signed it."""


class _Gone(Exception):
    """The client went before its body had come."""


def _length(content_length: bytes) -> int | None:
    if not content_length.isdigit():
        return None
    return int(content_length[:20])  # so many digits are too many bytes already


def _counted(outcome: str, found: _Answer) -> _Answer:
    _refused[outcome].inc()
    return found


def _count(delivery: Delivery) -> None:
    events, unreadable = delivery.events, delivery.unreadable
    outcome = "parsed" if not unreadable else "partial" if events else "quarantined"
    _stored[outcome, delivery.signed_by].inc()
    for event in events:
        _events_by_kind[event.kind].inc()
    for item in unreadable:
        _unreadable.labels(item.reason).inc()
