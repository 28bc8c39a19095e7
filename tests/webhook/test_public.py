"""The public part, as the internet meets it."""

import asyncio
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagewire.store.v1.ingest_service_pb2 import (
    Delivery,
    DeliveryResult,
    DeliveryState,
    IngestRequest,
    IngestResponse,
)
from pagewire_runtime import metrics
from pagewire_runtime.errors import Unavailable
from pagewire_webhook import receiving
from pagewire_webhook.admission import Admission
from pagewire_webhook.deliveries import delivery_of
from pagewire_webhook.ingesting import Ingesting
from pagewire_webhook.posts import BODY_MAX_BYTES as POST_MAX_BYTES
from pagewire_webhook.posts import Post, Reply
from pagewire_webhook.public import PublicApp, PublicConfig, public_app
from pagewire_webhook.receiving import BODY_MAX_BYTES
from pagewire_webhook.signature import secrets_of

SECRET, PREVIOUS, INSTAGRAM = "example-app-secret", "previous-app-secret", "instagram-app-secret"
TOKEN = "example-verify-token"
NOW = 1_767_312_010.5

TEXT = {
    "object": "page",
    "entry": [
        {
            "id": "1001",
            "time": 1767312000412,
            "messaging": [
                {
                    "sender": {"id": "2001"},
                    "recipient": {"id": "1001"},
                    "timestamp": 1767312000000,
                    "message": {"mid": "m_1", "text": "hello"},
                }
            ],
        }
    ],
}
BODY = json.dumps(TEXT).encode()

Headers = Sequence[tuple[str, bytes]]


class FakeStore:
    """Stores everything, unless it fails or is asked to wait."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.fails: Exception | None = None
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request: bytes, /, *, timeout: float) -> IngestResponse:
        self.called.set()
        try:
            await asyncio.wait_for(self.gate.wait(), timeout)
        except TimeoutError:
            raise Unavailable("the store") from None
        if self.fails is not None:
            raise self.fails
        deliveries = IngestRequest.FromString(request).deliveries
        self.deliveries += deliveries
        stored = DeliveryResult(state=DeliveryState.DELIVERY_STATE_STORED)
        return IngestResponse(results=[stored for _ in deliveries])


@dataclass
class Answer:
    """What came back, and whether the body was asked for."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: int = 0


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    query: bytes = b"",
    headers: Headers = (),
    parts: Iterable[bytes] = (b"",),
    then: Callable[[], Awaitable[Message]] | None = None,
) -> Answer:
    """One request, its body in these parts; `then` is what comes after them."""
    answer = Answer()
    waiting = list(parts)

    async def receive() -> Message:
        answer.received += 1
        if waiting:
            part = waiting.pop(0)
            more = bool(waiting) or then is not None
            return {"type": "http.request", "body": part, "more_body": more}
        return await then() if then else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                name.decode().lower(): value.decode() for name, value in message["headers"]
            }
        else:
            answer.body += message.get("body", b"")

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": query,
        "headers": [(name.encode(), value) for name, value in headers],
    }
    await app(scope, receive, send)
    return answer


def sign(raw: bytes, secret: str = SECRET) -> bytes:
    return b"sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest().encode()


def signed(raw: bytes, secret: str = SECRET) -> list[tuple[str, bytes]]:
    length = ("content-length", str(len(raw)).encode())
    return [length, ("x-hub-signature-256", sign(raw, secret))]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def ingesting(store: FakeStore) -> AsyncIterator[Ingesting]:
    ingesting = Ingesting(store)
    yield ingesting
    store.gate.set()
    await ingesting.close()


def app_with(ingesting: Ingesting, **config: Any) -> PublicApp:
    secrets = secrets_of([SECRET, PREVIOUS], [INSTAGRAM])
    return public_app(PublicConfig(secrets, TOKEN.encode(), **config), ingesting, now=lambda: NOW)


@pytest.fixture
def app(ingesting: Ingesting) -> ASGIApp:
    return app_with(ingesting, answer_seconds=30)


class FakeLine:
    """A connection of a peer at an address, and what was answered on it."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self.replies: list[Reply] = []
        self.answered = asyncio.Event()

    def reply(self, reply: Reply, *, keep_alive: bool) -> None:
        self.replies.append(reply)
        self.answered.set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.work = asyncio.create_task(work)

    def peer(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        return self.address


def straight(app: PublicApp) -> ASGIApp:
    """The app, but that what a connection hands over as a post comes so here."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["method"] == "POST" and scope["path"].encode() in app.taker.targets
        if not is_post or _declares_much(scope):
            await app(scope, receive, send)
            return
        message = await receive()
        body = message.get("body", b"")
        if message.get("more_body") or len(body) > POST_MAX_BYTES:
            await app(scope, _again(message, receive), send)
            return
        line = FakeLine()
        post = Post(line, scope["headers"], keep_alive=True)
        post.add(body)
        app.taker.take(post)
        await line.answered.wait()
        (reply,) = line.replies
        status, *lines = reply.head.decode().strip().split("\r\n")
        headers = [tuple(line.encode().split(b": ", 1)) for line in lines]
        start = {"type": "http.response.start", "status": int(status.split()[1])}
        await send(start | {"headers": headers})

    return call


def _declares_much(scope: Scope) -> bool:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return any(len(value) > 6 for value in lengths)


def _again(message: Message, receive: Receive) -> Receive:
    """What was received, and then the rest."""
    waiting = [message]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received


async def post(app: ASGIApp, raw: bytes, headers: Headers | None = None, **more: Any) -> Answer:
    given = signed(raw) if headers is None else headers
    return await ask(app, "POST", "/api/webhook", headers=given, parts=[raw], **more)


class TestHandshakes:
    def query(self, challenge: bytes = b"1158201444", token: bytes = TOKEN.encode()) -> bytes:
        return b"hub.mode=subscribe&hub.verify_token=" + token + b"&hub.challenge=" + challenge

    @pytest.mark.parametrize("path", ["/api/webhook", "/api/webhooks/instagram"])
    async def test_the_challenge_comes_back_byte_for_byte(self, app: ASGIApp, path: str) -> None:
        answer = await ask(app, "GET", path, query=self.query())

        assert (answer.status, answer.body) == (200, b"1158201444")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize(
        ("sent", "challenge"),
        [
            (b"CHALLENGE_ACCEPTED", b"CHALLENGE_ACCEPTED"),
            (b"%3Cscript%3Ealert(1)%3C/script%3E", b"<script>alert(1)</script>"),
            (b"%FF%00%C3%A9+x", b"\xff\x00\xc3\xa9 x"),
            (b"a=b", b"a=b"),
            (b"7" * 1_024, b"7" * 1_024),
        ],
    )
    async def test_the_challenge_is_opaque(
        self, app: ASGIApp, sent: bytes, challenge: bytes
    ) -> None:
        answer = await ask(app, "GET", "/api/webhook", query=self.query(sent))

        assert (answer.status, answer.body) == (200, challenge)

    @pytest.mark.parametrize(
        "query",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"hub.mode=subscribe&hub.challenge=1", id="no token"),
            pytest.param(b"hub.mode=subscribe&hub.verify_token=&hub.challenge=1", id="empty token"),
            pytest.param(
                b"hub.mode=subscribe&hub.verify_token=example-verify-tokem&hub.challenge=1",
                id="wrong token",
            ),
            pytest.param(
                b"hub.mode=subscribe&hub.verify_token=%C3%A9%C3%A9&hub.challenge=1",
                id="a token beyond ASCII",
            ),
            pytest.param(
                b"hub.mode=unsubscribe&hub.verify_token=example-verify-token&hub.challenge=1",
                id="another mode",
            ),
            pytest.param(b"hub.verify_token=example-verify-token&hub.challenge=1", id="no mode"),
            pytest.param(
                b"hub.mode=subscribe&hub.verify_token=example-verify-token", id="no challenge"
            ),
            pytest.param(
                b"hub.mode=subscribe&hub.verify_token=example-verify-token&hub.challenge=",
                id="empty challenge",
            ),
            pytest.param(
                b"hub.mode=subscribe&hub.verify_token=example-verify-token&hub.challenge="
                + b"7" * 1_025,
                id="a challenge too long",
            ),
            pytest.param(
                b"hub.mode=subscribe&hub.verify_token=example-verify-token&hub.challenge="
                + b"7" * 100_000,
                id="a challenge far too long",
            ),
            pytest.param(
                b"hub.mode=subscribe&hub.verify_token=example-verify-token"
                b"&hub.verify_token=wrong&hub.challenge=1",
                id="two tokens, the right one first",
            ),
            pytest.param(
                b"hub.mode=subscribe&hub.verify_token=wrong"
                b"&hub%2Everify_token=example-verify-token&hub.challenge=1",
                id="two tokens, the right one last and escaped",
            ),
            pytest.param(
                b"hub_mode=subscribe&hub_verify_token=example-verify-token&hub_challenge=1",
                id="names with underscores",
            ),
        ],
    )
    async def test_anything_wrong_is_forbidden_with_nothing_to_learn(
        self, app: ASGIApp, query: bytes
    ) -> None:
        answer = await ask(app, "GET", "/api/webhook", query=query)

        assert (answer.status, answer.body) == (403, b"")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.fixture(params=["by ASGI", "as a post"])
def way(request: pytest.FixtureRequest) -> Callable[[PublicApp], ASGIApp]:
    """How a request comes to an app."""
    return straight if request.param == "as a post" else lambda app: app


class TestDeliveries:
    @pytest.fixture
    def app(self, ingesting: Ingesting, way: Callable[[PublicApp], ASGIApp]) -> ASGIApp:
        return way(app_with(ingesting, answer_seconds=30))

    @pytest.mark.parametrize("path", ["/api/webhook", "/api/webhooks/instagram"])
    async def test_a_signed_body_is_stored_and_acknowledged(
        self, app: ASGIApp, store: FakeStore, path: str
    ) -> None:
        answer = await ask(app, "POST", path, headers=signed(BODY), parts=[BODY])

        assert (answer.status, answer.body) == (200, b"")
        (delivery,) = store.deliveries
        assert delivery.body == BODY
        assert delivery.signed_by == "app"
        assert delivery.receive_time.ToMilliseconds() == 1_767_312_010_500
        assert [event.key for event in delivery.events] == ["message:m_1"]

    async def test_the_answer_comes_only_after_the_commit(
        self, app: ASGIApp, store: FakeStore
    ) -> None:
        store.gate.clear()

        asked = asyncio.create_task(post(app, BODY))
        await store.called.wait()
        for _ in range(10):
            await asyncio.sleep(0)

        assert not asked.done()
        store.gate.set()
        assert (await asked).status == 200

    @pytest.mark.parametrize(
        ("secret", "name"), [(PREVIOUS, "app-previous"), (INSTAGRAM, "instagram")]
    )
    async def test_any_of_the_secrets_will_do_and_is_named(
        self, app: ASGIApp, store: FakeStore, secret: str, name: str
    ) -> None:
        before = counted("parsed", name)

        answer = await post(app, BODY, signed(BODY, secret))

        assert answer.status == 200
        assert store.deliveries[0].signed_by == name
        assert counted("parsed", name) == before + 1

    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param([], id="none"),
            pytest.param([("x-hub-signature", b"sha1=" + b"0" * 40)], id="SHA-1 alone"),
            pytest.param([("x-hub-signature-256", sign(BODY, "another-app-secret"))], id="wrong"),
            pytest.param([("x-hub-signature-256", sign(BODY)[:-1])], id="short"),
            pytest.param([("x-hub-signature-256", b"sha256=" + b"\xe9" * 64)], id="not ASCII"),
            pytest.param(
                [("x-hub-signature-256", sign(BODY)), ("x-hub-signature-256", sign(b""))],
                id="two",
            ),
            pytest.param([("x-forwarded-for", b"31.13.24.1")], id="from Meta, it says"),
        ],
    )
    async def test_a_bad_signature_is_forbidden_always_alike(
        self, app: ASGIApp, store: FakeStore, headers: Headers
    ) -> None:
        before = counted("forbidden", "none")

        answer = await post(app, BODY, headers)

        assert (answer.status, answer.body) == (403, b"")
        assert answer.headers == {"content-length": "0", "x-content-type-options": "nosniff"}
        assert store.deliveries == []
        assert counted("forbidden", "none") == before + 1

    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b'{"object":"page","entry":[', id="cut"),
            pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
            pytest.param(b"\x1f\x8b\x08\x00" + b"\x00" * 50, id="gzip"),
            pytest.param(b"--x\r\nContent-Disposition: form-data\r\n\r\n", id="multipart"),
            pytest.param(b'{"object":"page"}', id="no entry"),
            pytest.param(b"\xff" * 100_000, id="noise"),
        ],
    )
    async def test_a_signed_body_that_cannot_be_read_is_kept_and_acknowledged(
        self, app: ASGIApp, store: FakeStore, raw: bytes
    ) -> None:
        typed = [
            ("content-type", b"multipart/form-data; boundary=x"),
            ("content-encoding", b"gzip"),
        ]

        answer = await post(app, raw, [*signed(raw), *typed])

        assert answer.status == 200
        (delivery,) = store.deliveries
        assert delivery.body == raw
        assert len(delivery.unreadable) == 1

    async def test_a_mistake_in_reading_costs_the_reading_and_not_the_body(
        self, app: ASGIApp, store: FakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def mistaken(*_: Any) -> Any:
            raise KeyError("what a person wrote")

        monkeypatch.setattr("pagewire_webhook.deliveries.normalise", mistaken)

        answer = await post(app, BODY)

        assert answer.status == 200
        assert [item.reason for item in store.deliveries[0].unreadable] == ["reader_failed"]

    async def test_a_body_in_parts_is_one(self, app: ASGIApp, store: FakeStore) -> None:
        parts = [BODY[:10], b"", BODY[10:]]

        answer = await ask(
            app, "POST", "/api/webhook", headers=[("x-hub-signature-256", sign(BODY))], parts=parts
        )

        assert answer.status == 200
        assert store.deliveries[0].body == BODY

    async def test_a_client_that_goes_before_its_body_came_leaves_nothing(
        self, app: ASGIApp, store: FakeStore
    ) -> None:
        async def gone() -> Message:
            return {"type": "http.disconnect"}

        answer = await ask(
            app, "POST", "/api/webhook", headers=signed(BODY), parts=[BODY[:10]], then=gone
        )

        assert answer.status == 0
        assert store.deliveries == []

    async def test_a_declared_size_over_the_limit_is_refused_unread(
        self, app: ASGIApp, store: FakeStore
    ) -> None:
        for length in (b"4194305", b"9" * 5_000):
            answer = await post(app, b"", [("content-length", length)])

            assert (answer.status, answer.received) == (413, 0)
            assert answer.headers["connection"] == "close"

    async def test_a_streamed_size_over_the_limit_is_refused_as_soon_as_it_is_passed(
        self, app: ASGIApp, store: FakeStore
    ) -> None:
        parts = [b"x" * 2**20] * 64

        answer = await ask(app, "POST", "/api/webhook", parts=parts)

        assert (answer.status, answer.received) == (413, 5)
        assert store.deliveries == []

    async def test_a_body_of_exactly_the_limit_is_taken(
        self, app: ASGIApp, store: FakeStore
    ) -> None:
        raw = BODY + b" " * (BODY_MAX_BYTES - len(BODY))

        answer = await post(app, raw)

        assert answer.status == 200
        assert len(store.deliveries[0].body) == BODY_MAX_BYTES
        assert [event.key for event in store.deliveries[0].events] == ["message:m_1"]

    async def test_large_bodies_that_wait_to_be_read_are_bounded_and_small_ones_pass(
        self, app: ASGIApp, store: FakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receiving, "_UNREAD_MAX_BYTES", 2 * BODY_MAX_BYTES)
        reading = threading.Event()
        monkeypatch.setattr(receiving, "delivery_of", after(reading))
        large = BODY + b" " * (BODY_MAX_BYTES - len(BODY))
        two = [asyncio.create_task(post(app, large)) for _ in range(2)]
        await asyncio.sleep(0)

        third = await post(app, large)
        monkeypatch.undo()
        small = await post(app, BODY)
        reading.set()

        assert (third.status, third.headers["retry-after"]) == (503, "5")
        assert small.status == 200
        assert [(await each).status for each in two] == [200, 200]

    async def test_a_large_body_that_is_not_read_in_time_is_to_be_sent_again(
        self, ingesting: Ingesting, store: FakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = app_with(ingesting, answer_seconds=0.6)
        reading = threading.Event()
        monkeypatch.setattr(receiving, "delivery_of", after(reading))

        answer = await post(app, BODY + b" " * 100_000)
        reading.set()

        assert answer.status == 503
        assert store.deliveries == []

    async def test_past_what_is_borne_signed_bodies_are_refused_at_once_and_unread(
        self,
        store: FakeStore,
        way: Callable[[PublicApp], ASGIApp],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        ingesting = Ingesting(store, admission=Admission(at_first=1))
        app = way(app_with(ingesting, answer_seconds=30))
        store.gate.clear()
        first = asyncio.create_task(post(app, BODY))
        await asyncio.sleep(0)
        monkeypatch.setattr(receiving, "delivery_of", None)

        second = await post(app, BODY)
        unsigned = await post(app, BODY, [])

        assert (second.status, second.headers["retry-after"]) == (503, "5")
        assert unsigned.status == 403
        store.gate.set()
        assert (await first).status == 200
        await ingesting.close()

    async def test_what_cannot_be_stored_in_time_is_to_be_sent_again(
        self,
        app: ASGIApp,
        ingesting: Ingesting,
        store: FakeStore,
        way: Callable[[PublicApp], ASGIApp],
    ) -> None:
        hasty = way(app_with(ingesting, answer_seconds=0.6))
        store.gate.clear()

        answer = await post(hasty, BODY)

        assert (answer.status, answer.body) == (503, b"")
        assert answer.headers["retry-after"] == "5"
        store.gate.set()
        assert (await post(app, BODY)).status == 200

    @pytest.mark.parametrize("error", [Unavailable("the store"), RuntimeError("a mistake")])
    async def test_a_store_that_fails_is_a_503_whatever_the_reason(
        self, app: ASGIApp, store: FakeStore, error: Exception
    ) -> None:
        store.fails = error

        answer = await post(app, BODY)

        assert (answer.status, answer.headers["retry-after"]) == (503, "5")

    async def test_headers_of_a_client_name_no_page(self, app: ASGIApp, store: FakeStore) -> None:
        spoofed = [("x-page-id", b"9"), ("grpc-metadata-authorization", b"Bearer x")]

        await post(app, BODY, [*signed(BODY), *spoofed])

        assert {event.page_id for event in store.deliveries[0].events} == {"1001"}

    async def test_what_works_is_counted_and_not_logged(
        self, app: ASGIApp, store: FakeStore, caplog: pytest.LogCaptureFixture, capsys: Any
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="pagewire_webhook")
        before = registry("pagewire_webhook_events_total", kind="message")

        await post(app, BODY)

        assert registry("pagewire_webhook_events_total", kind="message") == before + 1
        assert caplog.records == []
        assert capsys.readouterr() == ("", "")


class TestPosts:
    """What only a request that comes straight from its connection has."""

    @pytest.fixture
    def public(self, ingesting: Ingesting) -> PublicApp:
        return app_with(ingesting, answer_seconds=30)

    def unsigned(self, line: FakeLine) -> Post:
        post = Post(line, [], keep_alive=True)
        post.add(BODY)
        return post

    async def test_what_is_not_signed_is_forbidden_at_once_by_no_task(
        self, public: PublicApp
    ) -> None:
        line = FakeLine("203.0.113.9")

        public.taker.take(self.unsigned(line))

        assert [reply.head.split()[1] for reply in line.replies] == [b"403"]
        assert not hasattr(line, "work")

    async def test_who_is_forbidden_too_often_waits_and_with_too_many_waiting_is_closed_on(
        self, ingesting: Ingesting
    ) -> None:
        public = app_with(ingesting, strangers_max=1)
        lines = [FakeLine("203.0.113.9") for _ in range(102)]

        for line in lines:
            public.taker.take(self.unsigned(line))

        at_once, waiting, last = lines[:100], lines[100], lines[101]
        assert all(line.replies for line in at_once)
        assert not waiting.replies
        assert last.replies[0].is_last
        async with asyncio.timeout(30):
            await waiting.answered.wait()
        assert waiting.replies == at_once[0].replies

    async def test_a_mistake_of_ours_asks_for_the_body_again(
        self, public: PublicApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receiving, "signer", None)
        line = FakeLine()

        public.taker.take(self.unsigned(line))

        assert [reply.head.split()[1] for reply in line.replies] == [b"503"]


def after(moment: threading.Event) -> Callable[..., Delivery]:
    """Reading that takes until then; it is in a thread."""

    def read(raw: bytes, **given: Any) -> Delivery:
        moment.wait(20)
        return delivery_of(raw, **given)

    return read


def registry(name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def counted(outcome: str, key: str) -> float:
    return registry("pagewire_webhook_deliveries_total", outcome=outcome, key=key)


class TestAddresses:
    async def test_it_says_that_it_is_alive(self, app: ASGIApp) -> None:
        answer = await ask(app, "GET", "/healthz")

        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
    async def test_the_webhook_has_two_methods(self, app: ASGIApp, method: str) -> None:
        answer = await ask(app, method, "/api/webhook", headers=[("x-secret", b"echo me")])

        assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
        assert answer.body == b""

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("POST", "/healthz", {"GET", "HEAD"}),
            ("GET", "/api/data-deletion", {"POST"}),
            ("DELETE", "/api/data-deletion/x", {"GET", "HEAD"}),
            ("GET", "/api/deauthorize", {"POST"}),
            ("TRACE", "/", {"GET", "POST"}),
            ("CONNECT", "host:443", {"GET", "POST"}),
        ],
    )
    async def test_another_method_is_refused(
        self, app: ASGIApp, method: str, path: str, allow: set[str]
    ) -> None:
        answer = await ask(app, method, path)

        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) == allow

    async def test_everything_else_is_not_found_with_one_body(self, app: ASGIApp) -> None:
        paths = (
            *("/", "/.env", "/docs", "/openapi.json", "/api/openapi.json", "/metrics", "/readyz"),
            *("/webhooks/../../secret.txt", "/webhooks/%2e%2e/secret.txt", "/api/pages"),
            *("/api/webhook/", "/api/webhook/x", "//api/webhook", "/API/WEBHOOK", "/healthz/"),
        )
        answers = [await ask(app, method, path) for method in ("GET", "POST") for path in paths]

        assert {answer.status for answer in answers} == {404}
        (body,) = {answer.body for answer in answers}
        assert set(json.loads(body)["error"]) == {"code", "reason", "message", "details"}
        assert {answer.headers["x-content-type-options"] for answer in answers} == {"nosniff"}

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/api/data-deletion"),
            ("GET", "/api/data-deletion/abc"),
            ("POST", "/api/deauthorize"),
        ],
    )
    async def test_what_is_not_built_says_so(self, app: ASGIApp, method: str, path: str) -> None:
        answer = await ask(app, method, path)

        assert answer.status == 501
        assert json.loads(answer.body)["error"]["reason"] == "NOT_IMPLEMENTED"
        assert answer.headers["cache-control"] == "no-store"

    async def test_no_answer_names_the_server(self, app: ASGIApp) -> None:
        for path in ("/healthz", "/api/webhook", "/x"):
            answer = await ask(app, "GET", path)
            assert {"server", "x-powered-by", "date"}.isdisjoint(answer.headers)


def test_every_kind_of_event_has_its_counter() -> None:
    assert len(receiving._events_by_kind) == 31
