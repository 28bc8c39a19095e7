import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1.clock_service_pb2 import GetTimeResponse
from pagewire.store.v1.clock_service_pb2_grpc import (
    ClockServiceServicer,
    add_ClockServiceServicer_to_server,
)
from pagewire.store.v1.outbox_service_pb2_grpc import (
    OutboxServiceServicer,
    add_OutboxServiceServicer_to_server,
)
from pagewire.store.v1.page_care_service_pb2_grpc import (
    PageCareServiceServicer,
    add_PageCareServiceServicer_to_server,
)
from pagewire.sync.v1 import delivery_service_pb2, history_service_pb2
from pagewire_runtime.auth import parse_service_tokens
from pagewire_runtime.serving import serving
from pagewire_simulator.faults import Script
from pagewire_sync.access import METHOD_ROLES
from tests.support.outbox import FakeOutbox, FakePages
from tests.support.sending import OUR_APP, Meta

TOKENS = "sync:sync-token-0123456789,operator:operator-token-0123456789"
SECONDS = 90
ROLES = {
    f"/pagewire.store.v1.{service}/{method}": frozenset({"sync"})
    for service, methods in {
        "OutboxService": ("ClaimReplies", "RecordOutcomes", "ClaimReadBacks", "RecordReadBacks"),
        "ClockService": ("GetTime",),
        "PageCareService": ("ClaimPageChecks", "RecordPageCheck", "GetPageCredentials"),
    }.items()
    for method in methods
}


@pytest.fixture
def target(tmp_path: Path) -> str:
    """Where the store is."""
    return f"unix:{tmp_path}/store.sock"


class Outbox(OutboxServiceServicer):
    """The fake outbox on the wire; nothing is ever to be looked for."""

    def __init__(self, fake: FakeOutbox) -> None:
        self.fake = fake

    async def ClaimReplies(self, request: Any, context: Any) -> Any:
        return await self.fake.ClaimReplies(request)

    async def RecordOutcomes(self, request: Any, context: Any) -> Any:
        return await self.fake.RecordOutcomes(request)

    async def ClaimReadBacks(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(0.1)
        return pb.ClaimReadBacksResponse()


class Time(ClockServiceServicer):
    """The time of the database: ours, or one that is a day behind."""

    def __init__(self, behind: timedelta = timedelta()) -> None:
        self.behind = behind
        self.asked = 0

    async def GetTime(self, request: Any, context: Any) -> GetTimeResponse:
        self.asked += 1
        response = GetTimeResponse()
        response.time.FromDatetime(datetime.now(UTC) - self.behind)
        return response


class Care(PageCareServiceServicer):
    """The fake pages on the wire."""

    def __init__(self, fake: FakePages) -> None:
        self.fake = fake

    async def ClaimPageChecks(self, request: Any, context: Any) -> Any:
        return await self.fake.ClaimPageChecks(request)

    async def RecordPageCheck(self, request: Any, context: Any) -> Any:
        return await self.fake.RecordPageCheck(request)

    async def GetPageCredentials(self, request: Any, context: Any) -> Any:
        return await self.fake.GetPageCredentials(request)


@asynccontextmanager
async def store(
    meta: Meta,
    listen: str,
    roles: dict[str, frozenset[str]] = ROLES,
    time: Time | None = None,
) -> AsyncIterator[None]:
    def register(server: grpc.aio.Server) -> None:
        outbox = Outbox(meta.outbox)  # type: ignore[abstract]  # what is not called is left out
        add_OutboxServiceServicer_to_server(outbox, server)
        add_PageCareServiceServicer_to_server(Care(meta.pages), server)  # type: ignore[abstract]
        add_ClockServiceServicer_to_server(time or Time(), server)

    tokens = parse_service_tokens(TOKENS)
    async with serving(listen, register, tokens=tokens, method_roles=roles):
        yield


async def started(meta: Meta, store_target: str) -> asyncio.subprocess.Process:
    environment = {
        "PATH": os.environ["PATH"],
        "META_APP_ID": OUR_APP.app_id,
        "META_APP_SECRET": OUR_APP.secret,
        "META_INSTAGRAM_APP_SECRET": OUR_APP.instagram_secret,
        "SERVICE_TOKENS": TOKENS,
        "STORE_TARGET": store_target,
        "SYNC_LISTEN": "127.0.0.1:0",
        "GRAPH_BASE_URL": meta.simulator.facebook,
        "GRAPH_INSTAGRAM_BASE_URL": meta.simulator.instagram,
        "UNREADY_SECONDS": "0",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pagewire_sync", env=environment, stderr=asyncio.subprocess.PIPE
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int, list[dict[str, Any]]]:
    """What it exits with, and what it logged."""
    async with asyncio.timeout(SECONDS):
        _, logged = await process.communicate()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in logged.splitlines()]


async def test_a_process_whose_clock_is_a_day_ahead_claims_no_reply_until_it_is_right(
    meta: Meta, target: str
) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    time = Time(behind=timedelta(days=1))
    async with store(meta, target, time=time):
        process = await started(meta, target)
        async with asyncio.timeout(SECONDS):
            while time.asked < 4:  # twice each time that it compares them
                await asyncio.sleep(0.02)
        before = meta.outbox.state(1)

        time.behind = timedelta()

        async with asyncio.timeout(SECONDS):
            while meta.outbox.state(1) != "sent":
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        code, _ = await ended(process)

    assert before == "ready"
    assert code == 0


async def test_the_process_sends_cares_and_drains_when_told_to_stop(
    meta: Meta, target: str
) -> None:
    account = await meta.page()
    await meta.simulator.change_account(account.id, subscribed_fields=[])
    await meta.simulator.faults(Script(fault="slow", seconds=0.5, endpoint="send"))
    meta.pages.due = [account.id]
    meta.outbox.put(await meta.message(account))
    async with store(meta, target):
        process = await started(meta, target)
        async with asyncio.timeout(SECONDS):
            while not meta.pages.found or not await meta.simulator.sends():
                await asyncio.sleep(0.02)

        process.send_signal(signal.SIGTERM)  # while the answer to the send is awaited
        code, logged = await ended(process)

    assert code == 0
    assert meta.outbox.state(1) == "sent"
    assert logged[-1]["event"] == "stopped"
    assert account.token not in json.dumps(logged)
    assert (await meta.simulator.summary()).duplicates == 0


async def test_a_process_whose_worker_fails_ends_and_says_why(meta: Meta, target: str) -> None:
    async with store(meta, target, {}):  # which lets nobody in
        code, logged = await ended(await started(meta, target))

    assert code == 1
    assert "the role sync may not call" in json.dumps(logged[-1])


async def test_a_store_that_is_away_is_waited_for(meta: Meta, target: str) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    process = await started(meta, target)
    assert process.stderr is not None
    async with asyncio.timeout(SECONDS):
        while b"asked again" not in await process.stderr.readline():
            pass

    async with store(meta, target):
        await meta.outbox.settled(1)
        process.send_signal(signal.SIGTERM)
        code, _ = await ended(process)

    assert (code, meta.outbox.state(1)) == (0, "sent")


def test_every_method_of_the_service_names_who_may_call_it() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in (delivery_service_pb2, history_service_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert set(METHOD_ROLES) == methods
    assert all(roles <= {"operator", "reader"} for roles in METHOD_ROLES.values())


@pytest.mark.parametrize("method", METHOD_ROLES)
def test_a_reader_changes_nothing(method: str) -> None:
    reads = method.rpartition("/")[2].startswith(("Get", "List", "Watch"))

    assert ("reader" in METHOD_ROLES[method]) is reads
