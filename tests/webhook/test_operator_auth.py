import httpx
import pytest

from pagewire_runtime.auth import Caller
from pagewire_webhook.operator.app import Upstreams, operations_of, operator_app
from tests.support.upstreams import KEYS, Upstream

NO_KEY = {"Authorization": ""}
REFUSAL = {
    "error": {
        "code": 401,
        "reason": "UNAUTHENTICATED",
        "message": "send one of API_KEYS as a bearer token",
        "details": {},
    }
}


async def test_without_a_key_every_operation_but_the_open_ones_is_answered_401(
    behind: tuple[Upstream, Upstreams], api: httpx.AsyncClient
) -> None:
    upstream, channels = behind
    guarded = [each for each in operations_of(channels) if not each.is_open]

    responses = [
        await api.request(each.method, each.path.replace("{", "").replace("}", ""), headers=NO_KEY)
        for each in guarded
    ]

    assert len(guarded) >= 28
    assert {response.status_code for response in responses} == {401}
    assert {response.headers["WWW-Authenticate"] for response in responses} == {
        'Bearer realm="pagewire"'
    }
    assert all(response.json() == REFUSAL for response in responses)
    assert upstream.requests == []


async def test_only_readiness_and_metrics_are_open(
    behind: tuple[Upstream, Upstreams],
) -> None:
    opened = {each.path for each in operations_of(behind[1]) if each.is_open}

    assert opened == {"/readyz", "/metrics"}


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
async def test_an_open_path_needs_no_key(api: httpx.AsyncClient, path: str) -> None:
    response = await api.get(path, headers=NO_KEY)

    assert response.status_code != 401


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer wrong-key-0123456789",
        f"Bearer {KEYS[0][:-1]}",
        f"Bearer {KEYS[0]}x",
        f"Bearer  {KEYS[0]}",
        f"Basic {KEYS[0]}",
        KEYS[0],
        "Bearer",
        "Bearer é",
    ],
)
async def test_whatever_is_no_key_is_refused_alike(
    api: httpx.AsyncClient, authorization: str
) -> None:
    response = await api.get(
        "/api/pages", headers={b"Authorization": authorization.encode("latin-1")}
    )

    assert response.status_code == 401
    assert response.json() == REFUSAL


async def test_an_unknown_path_tells_a_stranger_nothing(api: httpx.AsyncClient) -> None:
    response = await api.get("/api/nothing", headers=NO_KEY)

    assert response.json() == REFUSAL


async def test_two_authorization_headers_are_refused(behind: tuple[Upstream, Upstreams]) -> None:
    transport = httpx.ASGITransport(app=operator_app(behind[1], KEYS))
    async with httpx.AsyncClient(transport=transport, base_url="http://operator") as client:
        response = await client.get(
            "/api/pages",
            headers=[("Authorization", f"Bearer {KEYS[0]}"), ("Authorization", "Bearer x")],
        )

    assert response.status_code == 401


@pytest.mark.parametrize("key", KEYS)
async def test_each_of_the_keys_is_good(api: httpx.AsyncClient, key: str) -> None:
    response = await api.get("/api/pages", headers={"Authorization": f"bearer {key}"})

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("shown", "actor"),
    [
        (b"ada@example.org", "ada@example.org"),
        (b"", "api-key-2"),
        ("Zoë".encode("latin-1"), "api-key-2"),
        (b"a" * 129, "api-key-2"),
    ],
)
async def test_the_audit_learns_who_asked_or_else_which_key(
    api: httpx.AsyncClient, upstream: Upstream, shown: bytes, actor: str
) -> None:
    key = f"Bearer {KEYS[1]}".encode()

    await api.get("/api/pages", headers={b"Authorization": key, b"X-Pagewire-Actor": shown})

    assert upstream.callers == [Caller("operator", actor)]
