"""Time that is passed on: each service has less than the one that asks it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest

from pagewire.store.v1.lane_service_pb2 import ExtendLeasesRequest, LaneRef
from pagewire.store.v1.lane_service_pb2_grpc import (
    LaneServiceStub,
    add_LaneServiceServicer_to_server,
)
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Refusal
from pagewire_store import database
from pagewire_store.claiming import Claims
from pagewire_store.lane_servicer import LaneServicer
from pagewire_store.waking import Waking
from tests.runtime.conftest import SYNC_TOKEN, Serve, serve, unary
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, channel_to

if TYPE_CHECKING:
    from pagewire.store.v1.lane_service_pb2_grpc import LaneServiceAsyncStub

__all__ = ["database_url", "migrated_template", "postgres_server", "serve"]

AGES = 600.0
"""Seconds after which PostgreSQL or the store would end a statement by themselves."""
WITHIN = 60.0

STEP = 0.1
"""Seconds; gRPC rounds what is left up to the next step of its header."""


async def test_each_hop_has_a_tenth_less_than_the_one_before(serve: Serve) -> None:
    given: list[float] = []

    async def last(request: bytes, context: Any) -> bytes:
        given.append(context.time_remaining())
        return b""

    async with serve(last) as store:

        async def between(request: bytes, context: Any) -> bytes:
            given.append(context.time_remaining())
            return bytes(await store.unary(b"", timeout=60))

        async with serve(between) as rules, channel(rules.target, token=SYNC_TOKEN) as edge:
            await unary(edge)(b"", timeout=4.0)

    at_rules, at_store = given
    assert 0 < at_rules <= 4.0 + STEP
    assert 0 < at_store <= at_rules * 0.9 + STEP


async def test_a_hop_that_hangs_ends_each_before_the_one_that_asked_it(serve: Serve) -> None:
    ended: list[str] = []

    async def hangs(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("store")
        raise AssertionError

    async with serve(hangs) as store:

        async def between(request: bytes, context: Any) -> bytes:
            try:
                return bytes(await store.unary(b"", timeout=60))
            finally:
                ended.append("rules")

        async with serve(between) as rules, channel(rules.target, token=SYNC_TOKEN) as edge:
            with pytest.raises(Refusal):
                # A tenth of it less each hop: a second, by which a busy machine may be late.
                await unary(edge)(b"", timeout=10.0)
            ended.append("edge")

    assert sorted(ended[:2]) == ["rules", "store"]
    assert ended[2] == "edge"


async def test_no_call_of_ours_goes_without_a_deadline(serve: Serve) -> None:
    given: list[float | None] = []

    async def tells(request: bytes, context: Any) -> bytes:
        given.append(context.time_remaining())
        return b""

    async with serve(tells) as echo:
        await echo.unary(b"")

    (left,) = given
    assert left is not None
    assert 0 < left <= 5.0 + STEP


async def test_when_the_deadline_is_over_the_statement_ends_in_postgresql_too(
    database_url: str,  # fixtures
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = database._connecting
    patient = f" -c statement_timeout={AGES}s -c lock_timeout={AGES}s".replace(".0s", "s")
    monkeypatch.setattr(
        database,
        "_connecting",
        lambda **how: (made := usual(**how)) | {"options": made["options"] + patient},
    )
    monkeypatch.setattr(database, "LIVE_SECONDS", AGES)
    pools = database.open_pools(database_url, 4)
    rows = Rows(pools.upkeep)
    await rows.add_page("1")
    held = {"lease_owner": "d", "lease_until": datetime.now(UTC) + timedelta(hours=1)}
    await rows.add("lane", page_id="1", lane="person:2", epoch=7, **held)
    claims = Claims(pools.live, Waking(""), lease=timedelta(seconds=8))

    def register(server: grpc.aio.Server) -> None:
        add_LaneServiceServicer_to_server(LaneServicer(claims, never), server)

    async def waiting() -> int:
        found = await rows.one(
            """
            select count(*) as statements from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()
                and wait_event_type = 'Lock'
            """
        )
        return int(found.statements)

    async with (
        channel_to(register, role="webhook") as opened,
        await psycopg.AsyncConnection.connect(database_url) as other,
        asyncio.timeout(WITHIN),
    ):
        await other.execute("select from lane for update")
        store: LaneServiceAsyncStub = LaneServiceStub(opened)
        asked = ExtendLeasesRequest(lanes=[LaneRef(page_id="1", lane="person:2", epoch=7)])
        call = asyncio.ensure_future(store.ExtendLeases(asked, timeout=4.0))
        while not await waiting():
            assert not call.done()
            await asyncio.sleep(0.02)

        with pytest.raises(Refusal):
            await call

        while await waiting():
            await asyncio.sleep(0.02)
    await pools.dispose()


async def never(_: Any) -> Any:
    raise AssertionError("nothing is committed")
