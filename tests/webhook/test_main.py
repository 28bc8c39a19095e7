import asyncio
import hashlib
import hmac
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message

from pagewire.rules.v1.rule_service_pb2 import EvaluateEventsRequest
from pagewire.store.v1.clock_service_pb2 import GetTimeRequest
from pagewire.store.v1.ingest_service_pb2 import (
    DeliveryResult,
    DeliveryState,
    IngestRequest,
    IngestResponse,
    ReportReceptionRequest,
)
from pagewire.store.v1.lane_service_pb2 import (
    ClaimedEvent,
    ClaimedLane,
    ClaimLanesRequest,
    ClaimLanesResponse,
    CommitDecisionsRequest,
    CommitDecisionsResponse,
    LaneDecisions,
    LaneRef,
    LaneResult,
)
from pagewire.store.v1.page_service_pb2 import ListPagesRequest
from pagewire.sync.v1.history_service_pb2 import StartSyncResponse, WatchSyncRunResponse
from pagewire.type.v1.sync_run_pb2 import SYNC_STATE_RUNNING, SyncRun
from pagewire_webhook.main import arguments, new_owner, working
from pagewire_webhook.probe import LISTENERS
from tests.support.upstreams import KEYS, SERVICE_TOKENS, Upstream

APP_SECRET = "app-secret-0123456789"
VERIFY_TOKEN = "verify-token-0123456789"
OF_PUBLIC = {
    "SERVICE_TOKENS": SERVICE_TOKENS,
    "META_APP_SECRET": APP_SECRET,
    "META_WEBHOOK_VERIFY_TOKEN": VERIFY_TOKEN,
}
OF_ALL = OF_PUBLIC | {"API_KEYS": ",".join(KEYS)}
KEY = {"Authorization": f"Bearer {KEYS[0]}"}
START_SECONDS = 90


@dataclass
class Running:
    """A process of the service: its ports in the order opened, and all that it logged."""

    process: asyncio.subprocess.Process
    ports: list[int]
    lines: list[dict[str, Any]]

    async def until_ready(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            while not self.lines or self.lines[-1]["event"] != "ready":
                await self._line()
        self.ports = [line["port"] for line in self.lines if line["event"] == "listening"]

    async def _line(self) -> None:
        assert self.process.stderr is not None
        line = await self.process.stderr.readline()
        assert line, "the process ended before it was ready"
        self.lines.append(json.loads(line))

    async def ended(self) -> int:
        """What it exits with, once it was told to stop."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            _, rest = await self.process.communicate()
        self.lines += map(json.loads, rest.splitlines())
        assert self.process.returncode is not None
        return self.process.returncode


async def started(*given: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pagewire_webhook", *given),
        env={"PATH": os.environ["PATH"], **environment},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running(upstream: Upstream, *given: str, **environment: str) -> AsyncIterator[Running]:
    assert upstream.server is not None
    target = f"127.0.0.1:{upstream.server.port}"
    upstream.answers |= {"ClaimLanes": hang, "ClaimReplays": hang}
    process = await started(
        *given,
        **{
            "STORE_TARGET": target,
            "RULES_TARGET": target,
            "SYNC_TARGET": target,
            "WEBHOOK_LISTEN": "127.0.0.1:0",
            "OPERATOR_LISTEN": "127.0.0.1:0",
            "UNREADY_SECONDS": "0",
            **environment,
        },
    )
    try:
        service = Running(process, [], [])
        await service.until_ready()
        yield service
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def hang(_: Any) -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def ended_at_once(*given: str, **environment: str) -> tuple[int | None, str]:
    process = await started(*given, **environment)
    async with asyncio.timeout(START_SECONDS):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


@contextmanager
def a_port() -> Iterator[int]:
    """A free one, bound and not listened at within the block: the process may listen there."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=START_SECONDS)


async def test_all_parts_run_in_one_process_each_with_its_own_role(upstream: Upstream) -> None:
    upstream.answers["Ingest"] = IngestResponse(
        results=[DeliveryResult(state=DeliveryState.DELIVERY_STATE_STORED, new_events=1)]
    )
    body = b'{"object":"page","entry":[]}'
    signature = hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()

    async with running(upstream, **OF_ALL) as service, client() as http:
        operator, public = (f"http://127.0.0.1:{port}" for port in service.ports)
        alive = await http.get(f"{public}/healthz")
        taken = await http.post(
            f"{public}/api/webhook",
            content=body,
            headers={"X-Hub-Signature-256": f"sha256={signature}"},
        )
        listed = await http.get(f"{operator}/api/pages", headers=KEY)
        ready = await http.get(f"{operator}/readyz")
        measured = await http.get(f"{operator}/metrics")
        exposed = [
            await http.get(f"{public}{path}", headers=KEY)
            for path in ("/", "/metrics", "/readyz", "/api/pages", "/api/openapi.json")
        ]
        code = await service.ended()

    assert [each.status_code for each in (alive, taken, listed, ready)] == [200] * 4
    assert "pagewire_dispatcher_lanes" in measured.text
    assert {response.status_code for response in exposed} == {404}
    roles = {
        type(request): who.role
        for request, who in zip(upstream.requests, upstream.callers, strict=True)
    }
    assert roles[IngestRequest] == roles[ClaimLanesRequest] == "webhook"
    assert roles[ListPagesRequest] == "operator"
    assert code == 0


async def test_a_stopped_process_frees_the_lanes_that_it_holds(upstream: Upstream) -> None:
    ref = LaneRef(page_id="1", lane="person:7", epoch=3)
    evaluating = asyncio.Event()
    claims = [
        ClaimLanesResponse(lanes=[ClaimedLane(ref=ref, events=[ClaimedEvent(event_id="e-1-1")])])
    ]

    async def claim(request: ClaimLanesRequest) -> Message:
        return claims.pop() if claims else await hang(request)

    async def evaluate(request: EvaluateEventsRequest) -> Message:
        evaluating.set()
        return await hang(request)

    upstream.answers |= {
        "EvaluateEvents": evaluate,
        "CommitDecisions": CommitDecisionsResponse(results=[LaneResult()]),
    }
    environment = {"SERVICE_TOKENS": SERVICE_TOKENS}
    async with running(upstream, "--parts", "dispatcher", **environment) as service:
        upstream.answers["ClaimLanes"] = claim
        async with asyncio.timeout(START_SECONDS):
            await evaluating.wait()
        code = await service.ended()

    commits = [each for each in upstream.requests if isinstance(each, CommitDecisionsRequest)]
    assert commits == [CommitDecisionsRequest(lanes=[LaneDecisions(ref=ref, release=True)])]
    assert service.ports == []
    assert code == 0


async def test_who_waits_for_a_run_is_sent_away_when_the_process_stops(upstream: Upstream) -> None:
    run = SyncRun(run_id="run-1", page_id="1", state=SYNC_STATE_RUNNING)
    watched = asyncio.Event()

    async def watch(_: Any) -> AsyncIterator[Message]:
        yield WatchSyncRunResponse(run=run)
        watched.set()
        await asyncio.Event().wait()

    upstream.answers["StartSync"] = StartSyncResponse(run=run)
    upstream.streams["WatchSyncRun"] = watch
    environment = {"SERVICE_TOKENS": SERVICE_TOKENS, "API_KEYS": ",".join(KEYS)}

    async with (
        running(upstream, "--parts", "operator", **environment) as service,
        client() as http,
    ):
        url = f"http://127.0.0.1:{service.ports[0]}/api/conversations/sync?wait=true"
        waiting = asyncio.create_task(http.post(url, json={"pageId": "1"}, headers=KEY))
        async with asyncio.timeout(START_SECONDS):
            await watched.wait()
        code = await service.ended()
        answer = await waiting

    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "STOPPING")
    assert code == 0


async def test_the_public_part_stands_alone_with_its_own_secrets_only(upstream: Upstream) -> None:
    async with running(upstream, "--parts", "public", **OF_PUBLIC) as service, client() as http:
        (public,) = service.ports
        handshake = await http.get(
            f"http://127.0.0.1:{public}/api/webhook",
            params={
                "hub.mode": "subscribe",
                "hub.verify_token": VERIFY_TOKEN,
                "hub.challenge": "1158201444",
            },
        )
        code = await service.ended()

    assert handshake.text == "1158201444"
    reports = [each for each in upstream.requests if isinstance(each, ReportReceptionRequest)]
    others = [each for each in upstream.requests if not isinstance(each, ReportReceptionRequest)]
    assert {type(each) for each in others} <= {GetTimeRequest}
    assert [each.is_last for each in reports] == [False] * (len(reports) - 1) + [True]
    assert len({each.edge for each in reports}) == 1
    assert code == 0


async def test_the_metrics_of_a_part_alone_are_where_the_setting_says(upstream: Upstream) -> None:
    with a_port() as port:
        listen = f"127.0.0.1:{port}"
        environment = {
            "SERVICE_TOKENS": SERVICE_TOKENS,
            "WEBHOOK_PARTS": "dispatcher",
            "METRICS_LISTEN": listen,
        }

        async with running(upstream, **environment), client() as http:
            measured = await http.get(f"http://{listen}/metrics")

    assert "pagewire_dispatcher_lanes" in measured.text


@pytest.mark.parametrize("parts", ["public", "operator", "dispatcher", "dispatcher,operator"])
async def test_its_health_check_finds_a_process_healthy_whatever_its_parts(
    upstream: Upstream, parts: str
) -> None:
    with ExitStack() as held:
        listeners = {name: f"127.0.0.1:{held.enter_context(a_port())}" for name in LISTENERS}

        async with running(upstream, "--parts", parts, **OF_ALL, **listeners) as service:
            asked = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pagewire_webhook.probe"),
                env={"PATH": os.environ["PATH"], **listeners},
                stderr=asyncio.subprocess.PIPE,
            )
            _, said = await asked.communicate()
            assert await service.ended() == 0

    assert (asked.returncode, said) == (0, b"")


async def test_its_health_check_finds_no_process_where_none_is() -> None:
    with ExitStack() as held:
        listeners = {name: f"127.0.0.1:{held.enter_context(a_port())}" for name in LISTENERS}
        asked = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pagewire_webhook.probe"),
            env={"PATH": os.environ["PATH"], **listeners},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asked.communicate()

    assert asked.returncode == 1
    assert said.startswith(b"nobody listens at http://127.0.0.1:")


async def test_what_is_missing_is_said_line_by_line_and_ends_the_start() -> None:
    code, stderr = await ended_at_once(SERVICE_TOKENS="sync:sync-token-0123456789")

    assert code == 2
    assert len(stderr.splitlines()) == 6
    assert "API_KEYS: set it, the part operator needs it" in stderr.splitlines()


async def test_a_port_that_is_taken_ends_the_start_with_one_line_and_nothing_held() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"

        code, stderr = await ended_at_once(
            **OF_ALL, WEBHOOK_LISTEN=listen, OPERATOR_LISTEN="127.0.0.1:0", LOG_LEVEL="ERROR"
        )

    assert code == 2
    assert stderr.splitlines()[-1] == f"can't listen on {listen}: Address already in use"


async def test_an_unknown_part_ends_the_start() -> None:
    code, stderr = await ended_at_once("--parts", "public,console")

    assert code == 2
    assert "must name some of dispatcher, operator, public" in stderr


def test_the_parts_are_read_from_the_command_line() -> None:
    assert arguments().parse_args(["--parts", "public, dispatcher"]).parts == {
        "public",
        "dispatcher",
    }
    assert arguments().parse_args([]).parts is None


async def test_a_job_that_fails_ends_the_block_with_its_failure() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        async with asyncio.timeout(30), working(fail()):
            await asyncio.Event().wait()


async def test_a_job_is_cancelled_at_the_end_of_the_block_and_waited_for() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    async with working(work()):
        await asyncio.sleep(0)

    assert seen == ["cleaned up"]


async def test_a_failure_of_the_block_passes_as_it_is() -> None:
    async def fail_beside(job: asyncio.Event) -> None:
        async with working(wait_for(job)):
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        await fail_beside(asyncio.Event())


async def wait_for(event: asyncio.Event) -> None:
    await event.wait()


def test_a_dispatcher_that_is_started_again_has_another_name() -> None:
    assert new_owner() != new_owner()
