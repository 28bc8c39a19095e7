"""The edge towards strangers: what it serves, what it tells, whom it believes."""

import ast
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

import pagewire_webhook
from pagewire.store.v1.ingest_service_pb2 import (
    DeliveryResult,
    DeliveryState,
    IngestRequest,
    IngestResponse,
)
from pagewire_webhook.ingesting import Ingesting
from pagewire_webhook.public import PublicConfig, public_app
from pagewire_webhook.signature import secrets_of
from pagewire_webhook.strangers import AT_ONCE, LONGEST_WAIT
from tests.support.edge import (
    APP_SECRET,
    PREVIOUS_SECRET,
    VERIFY_TOKEN,
    WEBHOOK,
    Edge,
    message,
    post,
    running_edge,
    signature,
)
from tests.support.rawhttp import request

in_one_loop = pytest.mark.asyncio(loop_scope="module")

PROXY = "127.0.0.1"
SEALED = {"content-length", "x-content-type-options"}
"""The headers of every answer of the webhook's own, beside the date."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge() -> AsyncIterator[Edge]:
    async with running_edge(FORWARDED_ALLOW_IPS=PROXY) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def unproxied() -> AsyncIterator[Edge]:
    async with running_edge() as running:
        yield running


# Signatures


def test_digests_are_compared_in_one_place_and_in_constant_time() -> None:
    """A timing would say less: noise is a hundred times what a byte of a comparison takes."""
    source = Path(pagewire_webhook.__file__).with_name("signature.py").read_text()
    called = [
        ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
    ]

    assert called.count("hmac.compare_digest") == 1


def test_nothing_else_at_the_edge_makes_a_digest_of_a_body() -> None:
    folder = Path(pagewire_webhook.__file__).parent
    using = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if "import hmac" in path.read_text() or "import compare_digest" in path.read_text()
    }

    assert using == {"signature.py", "handshake.py", "operator/auth.py"}


class Clock:
    """Seconds since 1970, as a test says."""

    now = 1_767_312_000.0

    def __call__(self) -> float:
        return self.now


async def test_while_secrets_are_rotated_nobody_honest_is_refused_until_the_end_date() -> None:
    clock = Clock()
    end = clock.now + 3_600
    secrets = secrets_of([APP_SECRET, PREVIOUS_SECRET], previous_until=end)
    ingesting = Ingesting(stored)
    app = public_app(PublicConfig(secrets, VERIFY_TOKEN.encode()), ingesting, now=clock)

    async def load(*signers: str) -> list[int]:
        numbers = range(200)
        return await asyncio.gather(
            *(asked(app, message(number), signers[number % len(signers)]) for number in numbers)
        )

    during = await load(APP_SECRET, PREVIOUS_SECRET)
    clock.now = end - 0.001
    at_the_last_moment = await load(PREVIOUS_SECRET)
    clock.now = end
    by_the_new = await load(APP_SECRET)
    by_the_old = await load(PREVIOUS_SECRET)
    await ingesting.close()

    assert {*during, *at_the_last_moment, *by_the_new} == {200}
    assert set(by_the_old) == {403}


async def stored(given: bytes, /, *, timeout: float) -> IngestResponse:
    result = DeliveryResult(state=DeliveryState.DELIVERY_STATE_STORED)
    return IngestResponse(results=[result] * len(IngestRequest.FromString(given).deliveries))


async def asked(app: object, body: bytes, secret: str) -> int:
    """The status of a webhook, given to the app as a server would."""
    statuses: list[int] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    async def send(sent: dict[str, int]) -> None:
        statuses.extend([sent["status"]] if "status" in sent else [])

    scope = {
        "type": "http",
        "method": "POST",
        "path": WEBHOOK.decode(),
        "headers": [(b"x-hub-signature-256", signature(body, secret))],
    }
    await app(scope, receive, send)  # type: ignore[operator]
    return statuses[0]


# What is served, and what it tells


COMMON = [
    f"{folder}/{name}{ending}"
    for folder in ("", "/api", "/admin", "/v1", "/static", "/internal", "/.well-known")
    for name in (
        *("admin", "api", "backup", "config", "console", "dashboard", "debug", "docs", "env"),
        *("graphql", "health", "index", "info", "login", "metrics", "openapi", "pages", "phpinfo"),
        *("readyz", "redoc", "rules", "server-status", "status", "swagger", "users", "version"),
    )
    for ending in ("", ".json")
]


@in_one_loop
async def test_a_crawl_of_common_paths_finds_nothing_at_all(unproxied: Edge) -> None:
    paths = [
        *COMMON,
        "/",
        "/.env",
        "/.git/config",
        "/api/webhook/",
        "//api/webhook",
        "/favicon.ico",
    ]

    answers = {path: await unproxied.ask(request("GET", path.encode())) for path in paths}

    assert len(answers) > 300
    assert {answer.status for answer in answers.values()} == {404}
    assert len({answer.body for answer in answers.values()}) == 1


@in_one_loop
async def test_each_answer_tells_no_more_than_it_has_to(unproxied: Edge) -> None:
    asked = f"?hub.mode=subscribe&hub.verify_token={VERIFY_TOKEN}&hub.challenge=1"
    answers = {
        "stored": await unproxied.ask(post(message(1))),
        "forbidden": await unproxied.ask(post(message(1), secret=None)),
        "handshake": await unproxied.ask(request("GET", WEBHOOK + asked.encode())),
        "method": await unproxied.ask(request("PUT", WEBHOOK)),
        "too large": await unproxied.ask(
            b"POST /api/webhook HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n"
        ),
        "no HTTP": await unproxied.ask(b"no HTTP\r\n\r\n"),
        "alive": await unproxied.ask(request("GET", b"/healthz")),
        "unknown": await unproxied.ask(request("GET", b"/nowhere")),
        "deletion": await unproxied.ask(request("POST", b"/api/data-deletion", body=b"")),
    }

    headers = {name: answer.headers.keys() - {"date"} for name, answer in answers.items()}

    assert headers == {
        "stored": SEALED,
        "forbidden": SEALED,
        "handshake": SEALED | {"content-type"},
        "method": SEALED | {"allow"},
        "too large": SEALED | {"connection"},
        "no HTTP": SEALED | {"connection"},
        "alive": SEALED | {"content-type"},
        "unknown": SEALED | {"content-type"},
        "deletion": SEALED | {"content-type", "cache-control"},
    }
    assert {answer.headers["x-content-type-options"] for answer in answers.values()} == {"nosniff"}
    assert answers["deletion"].headers["cache-control"] == "no-store"


# Whom it believes, and how long strangers wait


PATIENCE = LONGEST_WAIT + 40
"""However busy the machine is."""


async def refused(edge: Edge, *headers: tuple[str, bytes]) -> float:
    """Seconds that the refusal of a bad signature takes."""
    began = time.monotonic()
    answer = await edge.ask(post(message(0), *headers, secret="another-secret-0123456789"))
    assert (answer.status, answer.body) == (403, b"")
    assert answer.headers.keys() - {"date"} == SEALED
    return time.monotonic() - began


async def flood(edge: Edge, count: int, *headers: tuple[str, bytes]) -> list[float]:
    return await asyncio.gather(*(refused(edge, *headers) for _ in range(count)))


@asynccontextmanager
async def flooded(edge: Edge, *headers: tuple[str, bytes]) -> AsyncIterator[None]:
    """So many ask again and again within the block that whoever stands behind them has to wait.

    No more of them than the edge lets wait, and enough to be faster than its rate.
    """

    async def again() -> None:
        while True:
            await refused(edge, *headers)

    crowd = [asyncio.create_task(again()) for _ in range(AT_ONCE // 2)]
    try:
        async with asyncio.timeout(60):
            while await refused(edge, *headers) < 1:
                pass
        yield
    finally:
        for each in crowd:
            each.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


@in_one_loop
async def test_of_a_flood_most_have_to_wait_and_the_signed_wait_for_nothing(
    unproxied: Edge,
) -> None:
    flooding = asyncio.create_task(flood(unproxied, 3 * AT_ONCE))
    while not flooding.done():
        await unproxied.takes_a_message()
    waits = await flooding

    assert sum(wait >= 1 for wait in waits) > AT_ONCE
    assert max(waits) < PATIENCE


@in_one_loop
async def test_an_address_that_a_stranger_claims_is_not_believed(unproxied: Edge) -> None:
    async with flooded(unproxied):
        wait = await refused(unproxied, ("X-Forwarded-For", b"198.51.100.7"))

    assert wait >= 1


@in_one_loop
async def test_behind_a_listed_proxy_each_address_has_a_share_of_its_own(edge: Edge) -> None:
    claimed = ("X-Forwarded-For", b"203.0.113.9")
    another = ("X-Forwarded-For", b"198.51.100.7")
    async with flooded(edge, claimed):
        signed = await edge.ask(post(message(1), claimed))
        same = await refused(edge, claimed)
        others = [await refused(edge, another) for _ in range(10)]

    assert signed.status == 200
    assert min(others) < 1 <= same  # the least: a machine may be busy
