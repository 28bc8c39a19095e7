import asyncio
import base64
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass

from pagewire.store.v1.ingest_service_pb2 import ReportReceptionRequest
from pagewire.store.v1.ingest_service_pb2_grpc import IngestServiceStub
from pagewire.store.v1.operation_service_pb2 import GetStatusRequest
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire.store.v1.page_care_service_pb2 import ClaimPageChecksRequest
from pagewire.store.v1.page_care_service_pb2_grpc import PageCareServiceStub
from pagewire.store.v1.page_service_pb2 import ConnectPageRequest, DisconnectPageRequest
from pagewire.store.v1.page_service_pb2_grpc import PageServiceStub
from pagewire.store.v1.run_service_pb2 import ClaimedRun, ClaimRunsRequest
from pagewire.store.v1.run_service_pb2_grpc import RunServiceStub
from pagewire.type.v1.page_pb2 import PLATFORM_MESSENGER, Page
from pagewire.type.v1.sync_run_pb2 import SYNC_ORIGIN_REPAIR, SYNC_ORIGIN_SCHEDULE
from pagewire_cli.embedded import embedded_postgres
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Refusal
from pagewire_store import main as store_main
from pagewire_store.access import METHOD_ROLES
from pagewire_store.main import brought_up_to_date, storing
from pagewire_store.settings import Settings
from pagewire_store.tokens import TokenKeys
from tests.support.servers import (
    PostgresServer,
    database_url,
    migrated_template,
    postgres_server,
    server_folder,
)
from tests.support.stored import KEYS, SERVICE_TOKENS, Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

BOTH = TokenKeys({"k2": b"2" * 32, "k1": b"1" * 32})


def settings(database_url: str, **fields: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": database_url,
        "token_keys": KEYS,
        "service_tokens": SERVICE_TOKENS,
        "listen": "127.0.0.1:0",
        "sweep_interval": timedelta(milliseconds=20),
        "upkeep_interval": timedelta(milliseconds=20),
    }
    return Settings(**(values | fields))


@asynccontextmanager
async def store(database_url: str, **fields: Any) -> AsyncIterator[str]:
    async with storing(settings(database_url, **fields)) as server:
        yield f"127.0.0.1:{server.port}"


@asynccontextmanager
async def calling(target: str, role: str) -> AsyncIterator[grpc.aio.Channel]:
    async with channel(target, token=SERVICE_TOKENS.first(role)) as opened:
        yield opened


async def soon(rows: Rows, statement: str) -> None:
    """Returns once the statement finds a row."""
    async with asyncio.timeout(60):
        while not await rows.query(statement):
            await asyncio.sleep(0.02)


def page(page_id: str = "1") -> ConnectPageRequest:
    made = Page(page_id=page_id, platform=PLATFORM_MESSENGER, name="A page")
    return ConnectPageRequest(page=made, access_token="EAAfirst")


NOT_BUILT = {
    "/pagewire.store.v1.ConversationService/SearchMessages",
    "/pagewire.store.v1.EventService/WatchEvents",
}


async def test_a_job_that_hangs_is_ended_and_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_main, "ROUND_SECONDS", 0.01)
    rounds, again = 0, asyncio.Event()

    async def job() -> None:
        nonlocal rounds
        rounds += 1
        if rounds > 1:
            again.set()
        await asyncio.Event().wait()

    jobs = asyncio.create_task(store_main._repeated("hung", job, timedelta()))
    async with asyncio.timeout(60):
        await again.wait()
    jobs.cancel()

    with pytest.raises(asyncio.CancelledError):
        await jobs


async def test_every_method_of_the_contract_is_served(database_url: str) -> None:
    async with store(database_url) as target:
        for method, roles in METHOD_ROLES.items():
            if method in NOT_BUILT:
                continue
            async with calling(target, min(roles)) as opened:
                code = await answered(opened, method)
            assert code not in {"UNIMPLEMENTED", "INTERNAL", "UNKNOWN"}, method


async def answered(opened: grpc.aio.Channel, method: str) -> str:
    """The reason of the answer to an empty request."""
    service, name = method.removeprefix("/pagewire.store.v1.").split("/")
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in service)
    contract = import_module(f"pagewire.store.v1.{words[1:]}_pb2").DESCRIPTOR
    described = contract.services_by_name[service].methods_by_name[name]
    request = GetMessageClass(described.input_type)()
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary(method)
    try:
        await call(request.SerializeToString(), timeout=30)
    except Refusal as refusal:
        return refusal.reason
    return "OK"


async def claim_a_run(sync: grpc.aio.Channel) -> ClaimedRun:
    request = ClaimRunsRequest(owner="worker", max_runs=1, wait=Duration(seconds=4))
    async with asyncio.timeout(60):
        while not (found := (await RunServiceStub(sync).ClaimRuns(request)).runs):
            pass
    (claimed,) = found
    return claimed


async def test_what_is_due_by_the_schedule_is_handed_to_who_waits_for_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_main, "RUNS_STARTED_EVERY", timedelta(milliseconds=20))
    async with (
        store(database_url, sync_interval=timedelta(milliseconds=1)) as target,
        calling(target, "sync") as sync,
        calling(target, "operator") as operator,
    ):
        waiting = asyncio.create_task(claim_a_run(sync))
        await PageServiceStub(operator).ConnectPage(page())

        claimed = await waiting

    assert (claimed.run.page_id, claimed.run.origin) == ("1", SYNC_ORIGIN_SCHEDULE)


async def test_without_a_schedule_gaps_are_repaired_and_nothing_else_begins(
    database_url: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_main, "RUNS_STARTED_EVERY", timedelta(milliseconds=20))
    await rows.add_page("1")
    await rows.query("update page set connected_at = now() - interval '1 day'")
    async with store(database_url, sync_interval=timedelta()) as target:
        async with calling(target, "webhook") as edge:
            lost = ReportReceptionRequest(edge="edge", refused=1)
            await IngestServiceStub(edge).ReportReception(lost)
        await rows.query("update mirror set gap_noticed_at = now() - interval '1 hour'")
        async with calling(target, "sync") as sync:
            claimed = await claim_a_run(sync)

    assert (claimed.run.page_id, claimed.run.origin) == ("1", SYNC_ORIGIN_REPAIR)
    assert len(await rows.query("select from sync_run")) == 1


async def test_connecting_a_page_wakes_who_waits_for_checks(database_url: str, rows: Rows) -> None:
    async with (
        store(database_url) as target,
        calling(target, "sync") as sync,
        calling(target, "operator") as operator,
    ):
        waiting = asyncio.create_task(claim_a_check(sync))
        await asyncio.sleep(0.05)
        await PageServiceStub(operator).ConnectPage(page())

        assert await waiting == ["1"]


async def claim_a_check(sync: grpc.aio.Channel) -> list[str]:
    request = ClaimPageChecksRequest(max_pages=1, wait=Duration(seconds=4))
    answer = await PageCareServiceStub(sync).ClaimPageChecks(request)
    return [page.page_id for page in answer.pages]


async def test_a_disconnected_pages_events_and_replies_end(database_url: str, rows: Rows) -> None:
    async with store(database_url) as target, calling(target, "operator") as operator:
        await PageServiceStub(operator).ConnectPage(page())
        await rows.query(
            "insert into lane (page_id, lane, pending, pending_since)"
            " values ('1', 'person:a', 1, now())"
        )
        await rows.query(
            """
            insert into event (page_id, event_key, event_id, number, lane, kind, trigger, source,
                event_time, received_at, delivery_id, state, detail)
            values ('1', 'message:m', 1, 1, 'person:a', 1, 1, 1, now(), now(),
                gen_random_uuid(), 'pending', '')
            """
        )
        await rows.query(
            """
            insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, state, person_id,
                expires_at)
            values ('1', 1, 'person:a', 1, 'message', 'rule', 'ready', 'a', now() + interval '1 d')
            """
        )

        await PageServiceStub(operator).DisconnectPage(DisconnectPageRequest(page_id="1"))

    decision = await rows.one("select outcome, reason from decision")
    reply = await rows.one("select state, state_reason from outbox")
    assert tuple(decision) == ("declined", "page_disconnected")
    assert tuple(reply) == ("failed", "page_disconnected")
    assert (await rows.one("select pending from lane")).pending == 0


async def test_what_came_before_its_page_is_read_in_once_it_is_connected(
    database_url: str, rows: Rows
) -> None:
    await rows.query(
        """
        insert into lane (page_id, lane) values ('1', 'person:a');
        """
    )
    await rows.query(
        """
        insert into event (page_id, event_key, event_id, number, lane, kind, trigger, source,
            event_time, received_at, delivery_id, state, detail)
        values ('1', 'message:m', 1, 1, 'person:a', 1, 1, 1, now(), now(),
            gen_random_uuid(), 'unknown_page', '')
        """
    )
    async with (
        store(database_url, sweep_interval=timedelta(hours=1)) as target,
        calling(target, "operator") as operator,
    ):
        await PageServiceStub(operator).ConnectPage(page())
        await soon(rows, "select 1 from event where state = 'done'")

    assert (await rows.one("select reason from decision")).reason == "page_unknown"


async def test_the_outbox_is_swept(database_url: str, rows: Rows) -> None:
    await rows.add_page("1")
    await rows.query(
        """
        insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, state, person_id,
            expires_at)
        values ('1', 1, 'person:a', 1, 'message', 'rule', 'ready', 'a', now())
        """
    )

    async with store(database_url):
        await soon(rows, "select 1 from outbox where state = 'expired'")


async def test_tokens_of_an_older_key_are_sealed_anew_while_it_serves(
    database_url: str, rows: Rows
) -> None:
    await rows.add_page("1")

    async with store(database_url, token_keys=BOTH) as target, calling(target, "sync"):
        await soon(rows, "select 1 from page where substring(token from 2 for 2) = 'k2'")

    sealed = (await rows.one("select token from page")).token
    assert TokenKeys({"k2": b"2" * 32}).open("1", sealed) == "token-of-1"


async def test_old_deliveries_are_purged_while_it_serves(database_url: str, rows: Rows) -> None:
    await rows.query(
        """
        insert into delivery (delivery_id, received_at, signed_by, body, events, outcome)
        values (gen_random_uuid(), now() - interval '8 days', 'app', '{}', 0, 'parsed')
        """
    )

    async with store(database_url):
        await soon(rows, "select 1 where not exists (select from delivery)")


async def test_a_store_outlives_its_database(
    postgres_server: PostgresServer, migrated_template: str
) -> None:
    with postgres_server.database(template=migrated_template) as url:
        async with store(url) as target, calling(target, "operator") as operator:
            name = urlsplit(url).path.lstrip("/")
            status = OperationServiceStub(operator).GetStatus
            assert (await status(GetStatusRequest())).database == "ok"

            rename(postgres_server.url, name, f"{name}_away")
            gone = await status(GetStatusRequest())
            rename(postgres_server.url, f"{name}_away", name)
            async with asyncio.timeout(60):
                while (await status(GetStatusRequest())).database != "ok":
                    await asyncio.sleep(0.05)

    assert gone.database not in ("", "ok")


def rename(url: str, before: str, after: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'alter database "{before}" allow_connections false'.encode())
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [before]
        )
        connection.execute(f'alter database "{before}" rename to "{after}"'.encode())
        connection.execute(f'alter database "{after}" allow_connections true'.encode())


async def test_a_start_waits_for_postgresql_and_then_migrates(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as url:
        name = urlsplit(url).path.lstrip("/")
        rename(postgres_server.url, name, f"{name}_later")
        starting = asyncio.create_task(brought_up_to_date(url))
        done, _ = await asyncio.wait([starting], timeout=0.5)
        rename(postgres_server.url, f"{name}_later", name)
        async with asyncio.timeout(60):
            await starting

        assert not done
        with psycopg.connect(url) as connection:
            assert connection.execute("select count(*) from rule_book").fetchone() == (2,)


class Process:
    """`python -m pagewire_store`, with what it logs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.logged: list[dict[str, Any]] = []

    async def logs(self, event: str) -> dict[str, Any]:
        """Reads the log until this event."""
        assert self._process.stderr is not None
        async with asyncio.timeout(90):
            while line := await self._process.stderr.readline():
                self.logged.append(json.loads(line))
                if self.logged[-1]["event"] == event:
                    return self.logged[-1]
        raise AssertionError(f"it ended without {event}: {self.logged}")

    async def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode


@asynccontextmanager
async def process(url: str, listen: str) -> AsyncIterator[Process]:
    key = base64.urlsafe_b64encode(b"1" * 32).decode()
    environment = {
        "PATH": os.defpath,
        "DATABASE_URL": url,
        "TOKEN_ENCRYPTION_KEYS": f"k1:{key}",
        "SERVICE_TOKENS": "operator:" + (SERVICE_TOKENS.first("operator") or ""),
        "STORE_LISTEN": listen,
    }
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pagewire_store"),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(started)
    finally:
        if started.returncode is None:
            started.kill()
            await started.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the path of a socket."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


async def test_a_process_serves_until_it_is_told_to_stop_and_ends_with_0(
    postgres_server: PostgresServer, folder: Path
) -> None:
    listen = f"unix:{folder}/store"
    with postgres_server.database() as url:
        async with process(url, listen) as running, calling(listen, "operator") as operator:
            await running.logs("serving")
            answer = await OperationServiceStub(operator).GetStatus(GetStatusRequest())

            assert await running.stop() == 0

    assert (answer.database, answer.cache) == ("ok", "off")
    assert "REDIS_URL is unset: what is cached is cached in this process only" in {
        line["event"] for line in running.logged
    }


DEGRADED = "DEGRADED: what is answered as stored may be lost by a crash"
LATER_IN_THE_ROUND = "DATABASE_URL is a superuser's: the store needs no such rights"


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[PostgresServer]:
    """A server as in production: it forgets no commit. That of the other tests may."""
    with server_folder() as folder, embedded_postgres(folder / "postgres") as url:
        yield PostgresServer(url)


@contextmanager
def turned_off(server: PostgresServer, setting: str) -> Iterator[None]:
    """The setting of the whole server, within the block."""
    change(server, f"alter system set {setting} = off", setting, "off")
    try:
        yield
    finally:
        change(server, f"alter system reset {setting}", setting, "on")


def change(server: PostgresServer, statement: str, setting: str, to: str) -> None:
    """Returns once every new connection has it so."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement.encode())
        connection.execute("select pg_reload_conf()")
    while shown(server, setting) != to:
        time.sleep(0.02)


def shown(server: PostgresServer, setting: str) -> str:
    with psycopg.connect(server.url) as connection:
        row = connection.execute("select current_setting(%s)", [setting]).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_a_store_on_a_server_that_may_forget_commits_says_so_in_its_log(
    lasting_server: PostgresServer, folder: Path, setting: str
) -> None:
    with lasting_server.database() as url, turned_off(lasting_server, setting):
        async with process(url, f"unix:{folder}/store") as running:
            told = await running.logs(DEGRADED)

    assert (told["level"], told["settings"]) == ("error", [f"{setting}=off"])


async def test_a_store_on_a_server_that_forgets_no_commit_says_nothing_of_it(
    lasting_server: PostgresServer, folder: Path
) -> None:
    with lasting_server.database() as url:
        async with process(url, f"unix:{folder}/store") as running:
            await running.logs(LATER_IN_THE_ROUND)

    assert DEGRADED not in {line["event"] for line in running.logged}


async def test_a_process_that_waits_for_postgresql_can_be_stopped(folder: Path) -> None:
    async with process(f"postgresql://nobody@/none?host={folder}", "127.0.0.1:0") as running:
        await running.logs("waiting for PostgreSQL")

        assert await running.stop() == 0


async def test_a_process_with_wrong_settings_says_so_and_ends_with_2() -> None:
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pagewire_store"),
        env={"PATH": os.defpath, "DATABASE_URL": "mysql://canary"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await started.communicate()

    assert started.returncode == 2
    assert b"DATABASE_URL" in told
    assert b"SERVICE_TOKENS" in told
    assert b"canary" not in told
