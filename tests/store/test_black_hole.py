"""Connections that vanish without a word: what is sent on them is never answered."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from faults.proxy import Proxy
from faults.toxics import Direction, Hang
from pagewire_store import database
from pagewire_store.connections import Connections, Driver
from pagewire_store.database import Pools, in_live_transaction, in_transaction, open_pools
from pagewire_store.migrating import connecting
from pagewire_store.trips import Statement, ended, trip, within
from tests.support.desk import PAGE, Desk, message
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

LABEL = Statement("insert into label (page_id, name) values ('1', 'a') on conflict do nothing")
BACKEND = Statement("select pg_backend_pid()")

PEOPLE = ("2001", "2002", "2003", "2004")

SECONDS = 2.0
"""For a transaction: where a busy machine takes longer, a repeat is for that."""
WITHIN = 60.0
"""Ends a hang only; TCP gives up after a quarter of an hour."""


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """In front of PostgreSQL."""
    to = conninfo_to_dict(database_url)
    host, port = str(to["host"]), to.get("port", 5432)
    target = f"unix:{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"
    async with Proxy(target) as made:
        yield made


@pytest.fixture
def url(database_url: str, proxy: Proxy) -> str:
    """Of the database, by way of the proxy."""
    host, _, port = proxy.address.rpartition(":")
    plain = {"sslmode": "disable", "gssencmode": "disable"}
    by_proxy = make_url(database_url).set(host=host, port=int(port), query=plain)
    return by_proxy.render_as_string(hide_password=False)


@pytest.fixture
async def one(url: str) -> AsyncIterator[Connections]:
    """A pool of a single connection."""
    opened = Connections(url, 1, {"application_name": "pagewire"}, seconds=SECONDS)
    yield opened
    await opened.close()


@pytest.fixture
async def hurried(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pools]:
    """Pools whose connections are given up soon."""
    for name in ("LIVE_SECONDS", "GENERAL_SECONDS", "UPKEEP_SECONDS"):
        monkeypatch.setattr(database, name, SECONDS)
    opened = open_pools(url, 4)
    yield opened
    await opened.dispose()


async def labels(rows: Rows) -> int:
    return len(await rows.query("select 1 from label"))


async def test_a_transaction_whose_connection_vanishes_is_repeated_on_another(
    one: Connections, proxy: Proxy, rows: Rows
) -> None:
    vanished = False

    async def work(connection: Driver) -> str:
        nonlocal vanished
        await _backend(connection)
        if not vanished:
            vanished = True
            proxy.add(Hang(), old_only=True)
        await ended(connection, LABEL.said())
        return "done"

    async with asyncio.timeout(WITHIN):
        assert await in_live_transaction(one, work) == "done"

    assert await labels(rows) == 1


async def test_a_commit_whose_answer_never_comes_is_repeated_and_done_once(
    one: Connections, proxy: Proxy, rows: Rows
) -> None:
    seen: list[int] = []

    async def work(connection: Driver) -> str:
        seen.append(await labels(rows))
        await within(connection, LABEL.said())
        if len(seen) == 1:
            proxy.add(Hang(), Direction.DOWN, old_only=True)
        await ended(connection)
        return "done"

    async with asyncio.timeout(WITHIN):
        assert await in_live_transaction(one, work) == "done"

    assert seen[:2] == [0, 1]
    assert await labels(rows) == 1


async def test_a_connection_that_is_given_up_is_not_kept_though_it_would_serve(
    one: Connections, rows: Rows
) -> None:
    async with one.handed_out() as connection:
        ((pid,),) = (await trip(connection, BACKEND.said()))[0].rows
        await asyncio.sleep(2 * SECONDS)

    async with asyncio.timeout(WITHIN):
        while await rows.query("select 1 from pg_stat_activity where pid = :pid", pid=pid):
            await asyncio.sleep(0.05)
        assert await in_live_transaction(one, _backend) != pid


async def _backend(connection: Driver) -> int:
    ((pid,),) = (await trip(connection, BACKEND.said()))[0].rows
    return int(pid)


async def test_who_leaves_while_a_connection_hangs_repeats_nothing(
    one: Connections, proxy: Proxy
) -> None:
    calls, hangs = 0, asyncio.Event()

    async def work(connection: Driver) -> None:
        nonlocal calls
        calls += 1
        await within(connection, BACKEND.said())
        proxy.add(Hang(), old_only=True)
        hangs.set()
        await _backend(connection)

    working = asyncio.create_task(in_live_transaction(one, work))
    await hangs.wait()
    working.cancel()

    async with asyncio.timeout(WITHIN):
        with pytest.raises(asyncio.CancelledError):
            await working
    assert calls == 1


async def test_batches_that_hang_hold_up_no_webhook_for_longer_than_their_connections_live(
    hurried: Pools, proxy: Proxy, rows: Rows
) -> None:
    await rows.add_page(PAGE)
    desk = Desk(hurried, rows)
    await asyncio.gather(
        *(desk.receive(message(f"m_{person}", person=person)) for person in PEOPLE)
    )
    proxy.add(Hang(), old_only=True)

    async with asyncio.timeout(WITHIN):
        await asyncio.gather(
            *(desk.receive(message(f"n_{person}", person=person)) for person in PEOPLE)
        )

    assert len(await rows.query("select 1 from event")) == 2 * len(PEOPLE)


@pytest.mark.parametrize("pool", ["general", "upkeep"])
async def test_the_other_pools_give_connections_up_too(
    hurried: Pools, proxy: Proxy, pool: str
) -> None:
    engine, calls = getattr(hurried, pool), 0

    async def work(connection: AsyncConnection) -> int:
        nonlocal calls
        calls += 1
        await connection.execute(text("select 1"))
        if calls == 1:
            proxy.add(Hang(), old_only=True)
        found: int = (await connection.execute(text("select 7"))).scalar_one()
        return found

    async with asyncio.timeout(WITHIN):
        assert await in_transaction(engine, work) == 7
        assert await in_transaction(engine, work) == 7


async def test_an_idle_connection_of_the_other_pools_that_was_given_up_is_made_anew(
    hurried: Pools,
) -> None:
    async def tarry(connection: AsyncConnection) -> None:
        await connection.execute(text("commit"))
        await asyncio.sleep(2 * SECONDS)

    async def work(connection: AsyncConnection) -> int:
        found: int = (await connection.execute(text("select 7"))).scalar_one()
        return found

    async with asyncio.timeout(WITHIN):
        await in_transaction(hurried.upkeep, tarry)

        assert await in_transaction(hurried.upkeep, work) == 7


def test_every_connection_is_missed_by_the_kernel_when_its_peer_is_gone(
    database_url: str, pools: Pools
) -> None:
    asked = {"keepalives_idle": "10", "tcp_user_timeout": "10000"}

    with psycopg.connect(database_url, **connecting()) as migrating:
        parameters = migrating.info.get_parameters()

    assert asked.items() <= parameters.items()
    assert asked.items() <= {k: str(v) for k, v in database._connecting().items()}.items()
