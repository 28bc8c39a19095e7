"""What the store does seldom, done by its own login: it owns no table, and may do that too."""

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pagewire.store.v1.operation_service_pb2 import (
    SETTLEMENT_DROPPED,
    SETTLEMENT_SENT,
    RetryParkedRequest,
    SettleParkedRequest,
)
from pagewire.store.v1.operation_service_pb2_grpc import (
    OperationServiceStub,
    add_OperationServiceServicer_to_server,
)
from pagewire_runtime.clocks import Clocks
from pagewire_store.cache_probe import CacheProbe
from pagewire_store.clocks import database_time
from pagewire_store.database import Pools, in_transaction, is_superuser, open_pools
from pagewire_store.operation_servicer import OperationServicer
from pagewire_store.purging import Retention, purge
from pagewire_store.tokens import TokenKeys, reseal
from pagewire_store.waking import Waking
from tests.support.logins import Logins, logins, migrated
from tests.support.servers import postgres_server
from tests.support.stored import KEYS, TOKENS, Rows, channel_to

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

__all__ = ["logins", "migrated", "postgres_server"]


@pytest.fixture
async def pools(migrated: Logins) -> AsyncIterator[Pools]:
    """Those of a store, by its own login."""
    _, store = migrated
    opened = open_pools(store, 4)
    yield opened
    await opened.dispose()


@pytest.fixture
async def rows(migrated: Logins) -> AsyncIterator[Rows]:
    """To arrange with, as the owner may."""
    owner, _ = migrated
    opened = open_pools(owner, 4)
    yield Rows(opened.upkeep)
    await opened.dispose()


@pytest.fixture
async def service(pools: Pools) -> "AsyncIterator[OperationServiceAsyncStub]":
    servicer = OperationServicer(
        pools.general,
        TOKENS,
        CacheProbe(None),
        Waking(""),
        Clocks("store", partial(database_time, pools.live)),
        replay_lease=timedelta(seconds=30),
        retried=lambda: None,
    )
    async with channel_to(
        lambda server: add_OperationServiceServicer_to_server(servicer, server), "operator"
    ) as channel:
        yield OperationServiceStub(channel)


async def parked(rows: Rows) -> None:
    """Two events and three replies of one person, the replies each of one attempt."""
    await rows.add_page("1")
    await rows.add("lane", page_id="1", lane="person:5", last_ordinal=3)
    for number in (1, 2):
        await rows.query(
            """
            insert into event (page_id, event_key, event_id, number, lane, kind, trigger, source,
                person_id, event_time, received_at, delivery_id, state, detail)
            values ('1', 'message:' || :number, :number, :number, 'person:5', 1, 1, 1,
                '5', now(), now(), gen_random_uuid(), 'parked', '')
            """,
            number=number,
        )
    for number in (1, 2, 3):
        await rows.query(
            """
            insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, person_id, state,
                attempt, tag, expires_at, uncertain_at, ended_at)
            values ('1', :number, 'person:5', :number, 'message', 'rule', '5', 'parked',
                1, 'pw1.' || :number, now() + interval '1 h', now(), now())
            """,
            number=number,
        )
        await rows.query(
            """
            insert into attempt (page_id, tag, reply_id, number, token_version, started_at)
            values ('1', 'pw1.' || :number, :number, 1, 1, now() - interval '1 h')
            """,
            number=number,
        )


async def test_the_login_is_no_superuser_and_owns_nothing(pools: Pools, rows: Rows) -> None:
    owned = await rows.query("select from pg_tables where schemaname = 'public'"
                             " and tableowner <> current_user")  # fmt: skip

    assert not await in_transaction(pools.upkeep, is_superuser)
    assert owned == []


async def test_what_is_parked_is_settled_and_put_back(
    service: "OperationServiceAsyncStub", rows: Rows
) -> None:
    await parked(rows)

    for parked_id, settlement in (
        ("e-1-1", SETTLEMENT_DROPPED),
        ("r-1-1", SETTLEMENT_SENT),
        ("r-1-2", SETTLEMENT_DROPPED),
    ):
        await service.SettleParked(SettleParkedRequest(parked_id=parked_id, settlement=settlement))
    for parked_id in ("e-1-2", "r-1-3"):
        await service.RetryParked(RetryParkedRequest(parked_id=parked_id))

    events = await rows.query("select state from event order by event_id")
    replies = await rows.query("select state from outbox order by reply_id")
    audited = await rows.query("select action, subject, detail from audit order by audit_id")
    assert [row.state for row in events] == ["done", "pending"]
    assert [row.state for row in replies] == ["sent", "failed", "ready"]
    assert [tuple(row) for row in audited] == [
        ("parked.settle", "e-1-1", "dropped"),
        ("parked.settle", "r-1-1", "sent"),
        ("parked.settle", "r-1-2", "dropped"),
        ("parked.retry", "e-1-2", ""),
        ("parked.retry", "r-1-3", ""),
    ]


async def test_deliveries_what_could_not_be_read_and_attempts_are_purged(
    pools: Pools, rows: Rows
) -> None:
    await parked(rows)
    now = (await rows.one("select now() as now")).now
    for path in ("", "entry[0]"):
        delivery_id = uuid.uuid4()
        await rows.add(
            "delivery",
            delivery_id=delivery_id,
            received_at=now - timedelta(days=1),
            signed_by="app",
            body=b"{}",
            events=1,
            outcome="parsed",
        )
        if path:
            await rows.add(
                "quarantine",
                delivery_id=delivery_id,
                path=path,
                reason="json_invalid",
                received_at=now - timedelta(days=1),
            )
    short = timedelta(seconds=1)

    gone = await purge(
        pools.upkeep, Retention(deliveries=short, quarantine=short, attempts=short, runs=short)
    )

    assert gone == 5
    for table in ("delivery", "quarantine", "attempt"):
        assert await rows.query(f"select from {table}") == []


async def test_tokens_are_sealed_anew(pools: Pools, rows: Rows) -> None:
    await rows.add_page("1")
    newer = TokenKeys({"k2": b"2" * 32, **KEYS.by_id})

    resealed = await reseal(pools.upkeep, newer)

    sealed = (await rows.one("select token from page")).token
    assert resealed == 1
    assert TokenKeys({"k2": b"2" * 32}).open("1", sealed) == "token-of-1"
