import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette

from pagewire_runtime.errors import InvalidArgument, Kind, Unavailable, refusal_from
from pagewire_webhook.operator.app import REPEATABLE
from pagewire_webhook.operator.errors import STATUSES
from pagewire_webhook.operator.operation import Operation, routes
from tests.support.upstreams import SERVICES, Upstream

PAGE = {"platform": "messenger", "page_id": "1", "name": "Shop", "access_token": "t"}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Kind.INVALID, 400),
        (Kind.UNAUTHENTICATED, 401),
        (Kind.FORBIDDEN, 403),
        (Kind.MISSING, 404),
        (Kind.EXISTS, 409),
        (Kind.FENCED, 409),
        (Kind.STATE, 409),
        (Kind.EXHAUSTED, 429),
        (Kind.INTERNAL, 500),
        (Kind.UNIMPLEMENTED, 501),
        (Kind.TRANSIENT, 503),
    ],
)
async def test_a_refusal_keeps_its_reason_and_gets_the_status_of_its_kind(
    api: httpx.AsyncClient, upstream: Upstream, kind: Kind, status: int
) -> None:
    upstream.answers["ConnectPage"] = refusal_from(kind, "SOME_REASON", "said", {"field": "name"})

    response = await api.post("/api/pages", json=PAGE)

    assert response.status_code == status
    assert response.json() == {
        "error": {
            "code": status,
            "reason": "SOME_REASON",
            "message": "said",
            "details": {"field": "name"},
        }
    }


def test_every_kind_of_refusal_has_a_status() -> None:
    assert set(STATUSES) == set(Kind)


@pytest.mark.parametrize(("given", "shown"), [(None, "1"), (0.2, "1"), (2.5, "3")])
async def test_what_may_pass_says_when_to_try_again(
    api: httpx.AsyncClient, upstream: Upstream, given: float | None, shown: str
) -> None:
    upstream.answers["ConnectPage"] = refusal_from(Kind.TRANSIENT, "BUSY", "busy", None, given)

    response = await api.post("/api/pages", json=PAGE)

    assert response.headers["Retry-After"] == shown


async def test_a_read_is_tried_again_before_it_is_503(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ListPages"] = Unavailable("the store")

    response = await api.get("/api/pages")

    assert response.status_code == 503
    assert len(upstream.requests) == 3


async def test_a_write_is_never_tried_again_by_itself(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ConnectPage"] = Unavailable("the store")

    response = await api.post("/api/pages", json=PAGE)

    assert response.status_code == 503
    assert len(upstream.requests) == 1


def test_only_methods_that_exist_may_be_tried_again() -> None:
    known = {f"/{each.full_name}/{method.name}" for each in SERVICES for method in each.methods}

    assert set(REPEATABLE) - known == {"/grpc.health.v1.Health/Check"}


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/nothing",
        "/api/pages/",
        "/api/pages/a%20b",
        "/api/pages/a%2Fb",
        "/api/pages/" + "1" * 1_025,
        "/api/rules/rule-1/more",
    ],
)
async def test_an_unknown_path_is_404_in_the_one_form(api: httpx.AsyncClient, path: str) -> None:
    response = await api.get(path)

    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "NOT_FOUND"
    assert response.json()["error"]["code"] == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/pages", {"GET", "HEAD", "POST"}),
        ("PATCH", "/api/pages/1", {"GET", "HEAD", "DELETE"}),
        ("POST", "/api/rules/rule-1", {"GET", "HEAD", "PUT", "DELETE"}),
        ("GET", "/api/replies", {"POST"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_405_and_names_the_right_ones(
    api: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    response = await api.request(method, path)

    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == allowed
    assert response.json()["error"]["reason"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"\xff", "body"),
        (b'{"page_id": NaN}', "body"),
        (json.dumps(PAGE).encode() + b" {}", "body"),
        (b"[" * 100_000, "body"),
        (b'{"platform": "messenger"}', "page_id"),
        (b'{"platform": "whatsapp"}', "platform"),
        (b'{"platform": null}', "platform"),
        (b'{"platform": "messenger", "token": "x"}', "token"),
        (b'{"platform": "messenger", "page_id": 5}', "page_id"),
        (b'{"platform": "messenger", "page_id": "a b"}', "page_id"),
        (b'{"platform": "messenger", "page_id": "1\\n"}', "page_id"),
        (b'{"platform": "messenger", "page_id": ""}', "page_id"),
        (b'{"platform":"messenger","page_id":"1","name":"a\\u0000","access_token":"t"}', "body"),
    ],
)
async def test_a_body_that_is_wrong_is_400_and_names_the_field(
    api: httpx.AsyncClient, upstream: Upstream, body: bytes, field: str
) -> None:
    response = await api.post("/api/pages", content=body)

    assert response.status_code == 400
    assert response.json()["error"]["reason"] == "INVALID_ARGUMENT"
    assert response.json()["error"]["details"] == {"field": field}
    assert upstream.requests == []


async def test_a_field_that_the_store_refuses_has_its_name_in_the_body(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ConnectPage"] = InvalidArgument("page.name", "must be 1 to 200 characters")

    response = await api.post("/api/pages", json=PAGE)

    assert response.status_code == 400
    assert response.json()["error"]["message"] == "name: must be 1 to 200 characters"
    assert response.json()["error"]["details"] == {"field": "name"}


async def test_an_id_that_is_none_is_said_in_words(api: httpx.AsyncClient) -> None:
    response = await api.post("/api/pages", json={**PAGE, "page_id": "a/b"})

    said = response.json()["error"]["message"]
    assert said == "page_id: must be an id: 1 to 1,024 of A-Z a-z 0-9 . _ ~ -"


async def test_an_escaped_backslash_before_u0000_is_no_nul(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    await api.post("/api/pages", json={**PAGE, "name": r"C:\u0000"})

    assert upstream.request.page.name == r"C:\u0000"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_one_mebibyte_is_413(
    api: httpx.AsyncClient, upstream: Upstream, declared: bool
) -> None:
    body = b" " * (2**20 + 1)

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:1000]
        yield body[1000:]

    response = await api.post("/api/pages", content=body if declared else pieces())

    assert response.status_code == 413
    assert response.json()["error"]["reason"] == "BODY_TOO_LARGE"
    assert upstream.requests == []


async def test_a_body_of_one_mebibyte_is_read(api: httpx.AsyncClient) -> None:
    response = await api.post("/api/pages", content=b" " * 2**20)

    assert response.status_code == 400


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page_size=0", "page_size"),
        ("page_size=-1", "page_size"),
        ("page_size=many", "page_size"),
        ("page_size=99999999999", "page_size"),
        ("archived=yes", "archived"),
        ("page_id=a%20b", "page_id"),
        ("", "page_id"),
    ],
)
async def test_a_query_that_is_wrong_is_400_and_names_the_parameter(
    api: httpx.AsyncClient, query: str, field: str
) -> None:
    beginning = "" if field == "page_id" else "page_id=1&"

    response = await api.get(f"/api/conversations?{beginning}{query}")

    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"field": field}


async def test_what_nobody_foresaw_is_500_and_tells_nothing() -> None:
    async def fail() -> None:
        raise ValueError("a secret")

    app = Starlette(routes=routes([Operation("GET", "/fail", fail, "Fails.", {200: None})]))
    transport = httpx.ASGITransport(app=app)

    async with httpx.AsyncClient(transport=transport, base_url="http://operator") as client:
        response = await client.get("/fail")

    assert response.status_code == 500
    assert response.json() == {
        "error": {
            "code": 500,
            "reason": "INTERNAL",
            "message": "internal error",
            "details": {},
        }
    }


UNBUILT = [
    ("POST", "/api/rules/backtest"),
    ("POST", "/api/archive"),
    ("GET", "/api/events"),
    ("GET", "/"),
]


@pytest.mark.parametrize(("method", "path"), UNBUILT)
async def test_what_is_still_to_come_is_501(api: httpx.AsyncClient, method: str, path: str) -> None:
    response = await api.request(method, path)

    assert response.status_code == 501
    assert response.json()["error"]["reason"] == "NOT_IMPLEMENTED"


async def test_an_answer_is_kept_by_no_cache_and_guessed_at_by_no_browser(
    api: httpx.AsyncClient,
) -> None:
    response = await api.get("/api/pages")

    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Type"] == "application/json"


async def test_head_is_answered_as_get_is(api: httpx.AsyncClient, upstream: Upstream) -> None:
    upstream.answers["GetPage"] = refusal_from(Kind.MISSING, "PAGE_UNKNOWN", "no such page")

    found, missing = await api.head("/api/pages"), await api.head("/api/pages/9")

    assert (found.status_code, missing.status_code) == (200, 404)
