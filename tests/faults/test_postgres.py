"""Group B: PostgreSQL is stopped, crashes, hangs, takes no writes, is full, is locked; commits are
lost, collide and overtake each other."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import psycopg
import pytest
import pytest_asyncio

from faults.gathering import held
from faults.history import End
from faults.load import play
from faults.rig import PATIENCE, SERVICES, Rig
from faults.rows.postgres import LANE, READERS, crowd, locked, next_lane, slow_reads
from faults.servers import Stop
from faults.toxics import Hang
from pagewire_simulator.acts import Say
from pagewire_store.settings import Settings
from tests.support.struck import SMALL, trial

pytestmark = [
    pytest.mark.rows,
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

POOL: int = Settings.model_fields["database_pool_max"].default
"""All connections of a store, by its settings."""
WRITERS = 50


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-rig-") as folder:
        wires = [("store", "postgres")]
        async with Rig(Path(folder), proxies=wires, postgres={"max_connections": "30"}) as rig:
            yield rig


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def calm(rig: Rig) -> AsyncIterator[None]:
    yield
    await rig.calm()


def lives(rig: Rig) -> list[int]:
    """How many lives of each service have ended."""
    return [len(rig.process(name).exit_codes) for name in SERVICES]


@pytest.mark.parametrize("row", ["F20", "F21", "F22", "F24", "F26", "F31", "F35", "F36", "F38"])
async def test_what_befalls_postgres_loses_and_doubles_nothing_and_ends_no_process(
    rig: Rig, row: str
) -> None:
    under = await trial(rig, seed=row)
    before = lives(rig)

    await under.befalls(row)

    evidence = await under.kept_promises()
    assert all(End.OK in ends for ends in evidence.ends.values())
    assert lives(rig) == before


async def test_what_was_acknowledged_before_a_power_cut_is_there_after_it(rig: Rig) -> None:
    under = await trial(rig)
    async with under.load_going_on():
        await next_lane(rig)

        await rig.postgres.stop(Stop.KILL)
        acknowledged = {ref for ref, ends in (await rig.history()).ends().items() if End.OK in ends}
        await rig.postgres.start()

        history = await rig.history()
        stored = {(row.page_id, row.key) for row in (await rig.rows()).events}
    told = [event for event in history.happened if event.ref in acknowledged]
    assert [event for event in told if (event.page_id, event.key) not in stored] == []
    await under.kept_promises()


async def test_a_long_outage_is_borne_without_a_storm_and_without_holding_on_to_anything(
    rig: Rig,
) -> None:
    under = await trial(rig, replace(SMALL, rate=100, events=20))
    async with under.load_going_on():
        await next_lane(rig)
    await rig.quiet()
    before, tried, since = held(rig), rig.proxy("store", "postgres").connections, time.monotonic()

    await under.befalls("F23")

    tries = rig.proxy("store", "postgres").connections - tried
    assert tries <= 2 * POOL * (time.monotonic() - since)
    await under.kept_promises(before)


async def test_while_postgres_hangs_nobody_calls_the_system_ready_and_all_is_refused(
    rig: Rig,
) -> None:
    under = await trial(rig)
    page, person = under.on.people[0]
    rig.postgres.hang()

    said = await rig.meta.say(page, "price while it hangs", person=person)
    ready = await rig.operator.get("/readyz", timeout=10)
    async with asyncio.timeout(PATIENCE):
        while not (ends := (await rig.history()).ends()[said.ref or ""]):
            await asyncio.sleep(0.05)

    assert ready.status_code == 503
    assert ready.json()["parts"]["postgres"] != "ok"
    assert ends == {End.FAIL}
    rig.postgres.resume()
    await under.kept_promises()


async def test_a_lane_that_is_held_delays_nobody_else(rig: Rig) -> None:
    under = await trial(rig)
    (page, person), others = under.on.people[0], under.on.people[1:]
    await rig.meta.say(page, "price before", person=person)
    await rig.quiet()

    async with locked(rig, LANE, (page, f"person:{person}")):
        waits = await rig.meta.say(page, "price of the one who waits", person=person)
        async with asyncio.timeout(PATIENCE):
            while End.FAIL not in (await rig.history()).ends()[waits.ref or ""]:
                await asyncio.sleep(0.05)
        acts = [Say(account=of, person=each, text="price of another") for of, each in others]
        done = [one.ref or "" for one in await rig.meta.acts(acts)]
        async with asyncio.timeout(PATIENCE):
            ends = (await rig.history()).ends()
            while not all(End.OK in ends[ref] for ref in done):
                await asyncio.sleep(0.05)
                ends = (await rig.history()).ends()
        assert End.OK not in ends[waits.ref or ""]

    await under.kept_promises()


async def test_fifty_who_write_in_one_conversation_collide_and_none_is_told_so(rig: Rig) -> None:
    under = await trial(rig)
    page, person = under.on.people[0]
    collisions = (
        "store.ingest.before_commit=raise:40001 nth:1; store.ingest.before_commit=raise:40P01 nth:2"
    )

    rig.fault("store", collisions)
    acts = [Say(account=page, person=person, text=f"price {n}") for n in range(WRITERS)]
    done = await rig.meta.acts(acts, batch=1)

    evidence = await under.kept_promises()
    assert len(done) == WRITERS
    assert [one.ref for one in done if evidence.ends[one.ref or ""] != {End.OK}] == []
    assert len(evidence.rows.events) >= WRITERS


async def test_a_store_finds_no_connection_and_takes_its_own_when_there_are_some(
    rig: Rig,
) -> None:
    under = await trial(rig)

    struck = await under.befalls("F32")

    await under.kept_promises()
    assert struck.kills == len(SERVICES)
    assert await rig.postgres.connections() <= POOL


async def test_a_crowd_at_postgres_is_felt(rig: Rig) -> None:
    async with crowd(rig):
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            await psycopg.AsyncConnection.connect(rig.postgres.url)


async def test_slow_reads_take_their_own_connections_and_no_webhook_waits(rig: Rig) -> None:
    under = await trial(rig)

    async with slow_reads(rig) as answers, asyncio.timeout(PATIENCE):
        while len(answers) < READERS:
            await asyncio.sleep(0.05)
        said = (await play(rig, under.on, under.load)).said
        ends = (await rig.history()).ends()
        while not all(End.OK in ends[one.ref] for one in said):
            await asyncio.sleep(0.05)
            ends = (await rig.history()).ends()

    assert set(answers) == {grpc.StatusCode.UNAVAILABLE}
    await under.kept_promises()


async def test_commits_whose_answers_are_lost_are_made_once(rig: Rig) -> None:
    under = await trial(rig)

    await under.befalls("F34")

    evidence = await under.kept_promises()
    assert {row.state for row in evidence.rows.outbox} == {"sent"}


async def test_who_wrote_when_connections_vanished_is_heard_again_long_before_tcp_gives_up(
    rig: Rig,
) -> None:
    under = await trial(rig)
    page, person = under.on.people[0]
    await rig.meta.say(page, "price before", person=person)
    await rig.quiet()

    with rig.proxy("store", "postgres").suffering(Hang(), old_only=True):
        async with asyncio.timeout(PATIENCE):  # TCP would take a quarter of an hour
            ref = (await rig.meta.say(page, "price after", person=person)).ref
            while End.OK not in (await rig.history()).ends()[ref or ""]:
                await asyncio.sleep(0.1)

    await under.befalls("F34b")
    await under.kept_promises()


async def test_a_transaction_in_which_the_store_stands_still_is_ended_by_postgres(
    rig: Rig,
) -> None:
    under = await trial(rig)
    page, person = under.on.people[0]
    await rig.meta.say(page, "price before", person=person)
    await rig.quiet()
    rig.fault("store", f"store.ingest.begun=block:8s once if:person:{person}")

    await rig.meta.say(page, "price in the transaction", person=person)
    async with asyncio.timeout(PATIENCE):
        while not await rig.postgres.ask(
            "select count(*) from pg_stat_activity where state = 'idle in transaction'"
        ):
            await asyncio.sleep(0.05)
    rig.pause("store")  # so that nobody but PostgreSQL can end it
    async with asyncio.timeout(PATIENCE), locked(rig, LANE, (page, f"person:{person}")):
        pass

    rig.resume("store")
    await under.kept_promises()
