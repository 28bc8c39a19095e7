"""The fixed interfaces as a stranger's scripts meet them: settings, HTTP answers, gRPC methods."""

import hashlib
import hmac
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from pagewire_cli.launcher import System, running
from tests.support.live import until

FIRST_SECRET, SECOND_SECRET = "first-app-secret-0123456789", "second-app-secret-012345678"
FIRST_KEY, SECOND_KEY = "first-api-key-0123456789", "second-api-key-0123456789"
ROLES = ("webhook", "rules", "sync", "reader", "operator")
TOKENS = {role: f"{role}-token-0123456789" for role in ROLES}
PAGE = "104200000000001"
PERSON = "p" * 512

# What other people's services call; the names are fixed.
FOR_OTHERS = {
    "store.v1.ConversationService": (
        *("ListConversations", "GetConversation", "ListMessages", "SearchMessages"),
        "ListComments",
    ),
    "store.v1.EventService": ("WatchEvents",),
    "store.v1.PageService": ("ConnectPage", "GetPage", "ListPages", "DisconnectPage"),
    "rules.v1.RuleService": (
        *("CreateRule", "UpdateRule", "GetRule", "ListRules", "DeleteRule", "TryRules"),
        *("BacktestRule", "EvaluateEvents"),
    ),
    "sync.v1.HistoryService": (
        *("StartSync", "GetSyncRun", "ListSyncRuns", "WatchSyncRun", "CancelSyncRun"),
    ),
    "sync.v1.DeliveryService": ("SendMessage", "ReplyToComment", "HideComment", "GetReply"),
}
STREAMS = {"WatchEvents", "WatchSyncRun"}
METHODS = [
    (service.split(".")[0], f"/pagewire.{service}/{method}")
    for service, methods in FOR_OTHERS.items()
    for method in methods
]
DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    env = {
        "META_APP_SECRET": f"{FIRST_SECRET},{SECOND_SECRET}",
        "API_KEYS": f"{FIRST_KEY},{SECOND_KEY}",
        "SERVICE_TOKENS": ",".join(f"{role}:{token}" for role, token in TOKENS.items())
        + ",reader:second-reader-token-012345",
        "SIMULATOR_ADOPT": "true",
    }
    with tempfile.TemporaryDirectory(prefix="pagewire-interfaces-") as folder:
        async with running(Path(folder), env=env) as system:
            yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """The operator's API, with a page that a person with the longest id has written to."""
    headers = {"Authorization": f"Bearer {FIRST_KEY}"}
    async with httpx.AsyncClient(
        base_url=system.addresses["operator"], headers=headers, timeout=60
    ) as api:
        page = {"platform": "messenger", "page_id": PAGE, "name": "Shop", "access_token": "t"}
        assert (await api.post("/api/pages", json=page)).status_code == 201
        assert (await post(system, message("m_long"), FIRST_SECRET)).status_code == 200
        yield api


def message(mid: str) -> bytes:
    now = int(time.time() * 1_000)
    item = {
        "sender": {"id": PERSON},
        "recipient": {"id": PAGE},
        "timestamp": now,
        "message": {"mid": mid, "text": "hello"},
    }
    entry = {"id": PAGE, "time": now, "messaging": [item]}
    return json.dumps({"object": "page", "entry": [entry]}).encode()


async def post(system: System, body: bytes, secret: str) -> httpx.Response:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    async with httpx.AsyncClient(base_url=system.addresses["public"], timeout=60) as edge:
        headers = {"X-Hub-Signature-256": f"sha256={digest}"}
        return await edge.post("/api/webhook", content=body, headers=headers)


async def called(system: System, part: str, method: str, token: str | None) -> grpc.StatusCode:
    """The status of an empty request."""
    metadata = (("authorization", f"Bearer {token}"),) if token else None
    async with grpc.aio.insecure_channel(system.addresses[part]) as channel:
        try:
            if method.rpartition("/")[2] in STREAMS:
                stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
                stream = channel.unary_stream(method)
                await stream(b"", metadata=metadata, timeout=60).read()
            else:
                unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
                unary = channel.unary_unary(method)
                await unary(b"", metadata=metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("secret", [FIRST_SECRET, SECOND_SECRET])
async def test_every_app_secret_verifies_webhooks(system: System, secret: str) -> None:
    body = message(f"m_{secret[:5]}")

    assert (await post(system, body, secret)).status_code == 200
    assert (await post(system, body, f"{secret}x")).status_code == 403


@pytest.mark.parametrize("key", [FIRST_KEY, SECOND_KEY])
async def test_every_api_key_opens_the_operators_api(system: System, key: str) -> None:
    async with httpx.AsyncClient(base_url=system.addresses["operator"], timeout=60) as client:
        answers = [
            (await client.get("/api/pages", headers={"Authorization": f"Bearer {shown}"}))
            for shown in (key, f"{key}x")
        ]

    assert [answer.status_code for answer in answers] == [200, 401]


async def test_the_first_secret_signs_so_that_graph_takes_the_page_for_healthy(
    api: httpx.AsyncClient,
) -> None:
    async def healthy() -> bool:
        return bool((await api.get(f"/api/pages/{PAGE}")).json()["state"] == "healthy")

    assert await until(healthy)


async def test_whatever_id_a_conversation_is_listed_with_opens_it(api: httpx.AsyncClient) -> None:
    listed = (await api.get("/api/conversations", params={"page_id": PAGE})).json()
    (conversation,) = listed["conversations"]

    messages = await api.get(f"/api/conversations/{conversation['id']}/messages")
    reply = await api.post(
        "/api/replies",
        json={"conversation_id": conversation["id"], "text": "hi", "client_key": "long"},
    )

    assert conversation["participant_id"] == PERSON
    assert "m_long" in {each["mid"] for each in messages.json()["messages"]}
    assert reply.status_code == 202


@pytest.mark.parametrize(
    ("path", "change", "field"),
    [
        ("/api/pages", {"name": "n" * 201}, "name"),
        ("/api/pages", {"page_id": "p" * 129}, "page_id"),
        ("/api/pages", {"login": "instagram"}, "login"),
        ("/api/replies", {"text": "  "}, "text"),
    ],
)
async def test_what_is_refused_is_named_as_the_body_names_it(
    api: httpx.AsyncClient, path: str, change: dict[str, str], field: str
) -> None:
    bodies = {
        "/api/pages": {"platform": "messenger", "page_id": "1", "name": "n", "access_token": "t"},
        "/api/replies": {"conversation_id": "c-MQAy", "text": "t", "client_key": "k"},
    }

    response = await api.post(path, json=bodies[path] | change)

    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"field": field}
    assert response.json()["error"]["message"].startswith(f"{field}: ")


async def test_lists_answer_what_the_document_says(api: httpx.AsyncClient) -> None:
    document = (await api.get("/api/openapi.json")).json()

    for name in ("pages", "rules", "decisions", "conversations", "comments", "sync-runs"):
        response = await api.get(f"/api/{name}", params={"page_id": PAGE})
        answers: dict[str, Any] = document["paths"][f"/api/{name}"]["get"]["responses"]
        schema = answers["200"]["content"]["application/json"]["schema"]

        assert response.status_code == 200
        assert "next_page_token" not in response.json()
        Draft202012Validator(schema | {"components": document["components"]}).validate(
            response.json()
        )


@pytest.mark.parametrize("kind", ["conversations", "messages", "comments"])
async def test_a_run_that_is_waited_for_is_answered_as_it_ended_and_shown_so_ever_after(
    api: httpx.AsyncClient, kind: str
) -> None:
    body = {"pageId": PAGE, "facebookPageId": PAGE, "mode": "full"}

    ended = await api.post(f"/api/{kind}/sync", params={"wait": "true"}, json=body)
    path = f"/api/sync-runs/{ended.json()['run_id']}"
    shown = (await api.get(path)).json()
    told = (await api.get(f"{path}/events")).text
    cancelled = await api.delete(path)
    after = (await api.get(path)).json()

    assert ended.status_code == 200
    assert (shown["state"], shown["mode"], shown["error"]) == ("succeeded", "full", None)
    assert shown["kind"] == ("comments" if kind == "comments" else "conversations")
    assert shown["graph_calls"] >= 1
    assert [json.loads(line[6:]) for line in told.splitlines() if line] == [shown]
    assert (cancelled.status_code, cancelled.json()) == (200, {})
    assert ended.json() == shown == after


async def test_every_page_has_a_run_where_all_are_synced(api: httpx.AsyncClient) -> None:
    begun = await api.post("/api/conversations/sync-all", json={})
    run_ids = begun.json()["run_ids"]
    of_page = (await api.get("/api/sync-runs", params={"page_id": PAGE})).json()["runs"]

    assert begun.status_code == 202
    assert run_ids
    assert {run["run_id"] for run in of_page} >= set(run_ids)


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("POST", "/api/conversations/sync", "PAGE_UNKNOWN"),
        ("POST", "/api/pages/900/repair", "PAGE_UNKNOWN"),
        ("GET", "/api/sync-runs/run-0000000000000000", "RUN_UNKNOWN"),
        ("GET", "/api/sync-runs/no-run/events", "RUN_UNKNOWN"),
        ("DELETE", "/api/sync-runs/no-run", "RUN_UNKNOWN"),
    ],
)
async def test_a_page_or_a_run_that_is_not_there_is_404(
    api: httpx.AsyncClient, method: str, path: str, reason: str
) -> None:
    body = {"pageId": "900"} if "conversations" in path else {} if method == "POST" else None

    response = await api.request(method, path, json=body)

    assert (response.status_code, response.json()["error"]["reason"]) == (404, reason)


@pytest.mark.parametrize(("part", "method"), METHODS)
async def test_a_method_for_others_exists_and_admits_nobody_unknown(
    system: System, part: str, method: str
) -> None:
    codes = [
        await called(system, part, method, token)
        for token in (None, "an-unknown-token-0123456789", *TOKENS.values())
    ]

    assert codes[:2] == [grpc.StatusCode.UNAUTHENTICATED] * 2
    assert grpc.StatusCode.PERMISSION_DENIED in codes
    assert set(codes) - DENIED, "no role may call it"


async def test_each_token_of_a_role_is_taken(system: System) -> None:
    method = "/pagewire.store.v1.PageService/ListPages"

    codes = [
        await called(system, "store", method, token)
        for token in (TOKENS["reader"], "second-reader-token-012345")
    ]

    assert codes == [grpc.StatusCode.OK] * 2


@pytest.mark.parametrize("part", ["store", "rules", "sync"])
async def test_health_is_told_to_anybody_and_the_schema_to_nobody(
    system: System, part: str
) -> None:
    async with grpc.aio.insecure_channel(system.addresses[part]) as channel:
        health = await HealthStub(channel).Check(HealthCheckRequest(), timeout=60)
        reflection: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        reflection = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await reflection(timeout=60).read()

    assert health.status == HealthCheckResponse.SERVING
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("service", ["store", "rules", "sync", "webhook"])
async def test_a_service_is_named_by_its_command_line(system: System, service: str) -> None:
    words = Path(f"/proc/{system.process(service).pid}/cmdline").read_bytes().split(b"\0")

    assert words[1:3] == [b"-m", f"pagewire_{service}".encode()]
