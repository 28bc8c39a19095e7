import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from faults.gathering import watched
from faults.history import End
from faults.load import Load, Stage, play, stage
from faults.postgres import Lost
from faults.rig import PATIENCE, Rig
from faults.servers import Stop
from faults.toxics import Direction, Hang

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

WIRED = [
    ("sender", "edge"),
    ("webhook", "store"),
    ("webhook", "rules"),
    ("rules", "store"),
    ("sync", "store"),
    ("sync", "graph"),
    ("store", "postgres"),
    ("store", "valkey"),
]
SMALL = Load(pages=2, people=8, events=30, rate=50)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-rig-") as folder:
        async with Rig(Path(folder), proxies=WIRED, replicas={"rules": 2}) as rig:
            yield rig


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on(rig: Rig) -> Stage:
    return await stage(rig, SMALL)


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def calm(rig: Rig) -> AsyncIterator[None]:
    yield
    await rig.calm()


async def say(rig: Rig, on: Stage, text: str) -> str:
    """The ref of a message of one person of the stage."""
    page, person = on.people[0]
    return (await rig.meta.say(page, text, person=person)).ref or ""


async def stored(rig: Rig, ref: str) -> int:
    """How many rows the event has."""
    history, rows = await rig.history(), await rig.rows()
    (event,) = [one for one in history.happened if one.ref == ref]
    return sum((row.page_id, row.key) == (event.page_id, event.key) for row in rows.events)


async def ends(rig: Rig, ref: str) -> set[End]:
    return (await rig.history()).ends()[ref]


async def until(check: Callable[[], Awaitable[bool]], within: float = PATIENCE) -> None:
    async with asyncio.timeout(within):
        while not await check():
            await asyncio.sleep(0.05)


async def test_a_load_is_stored_decided_and_sent_once_and_both_sides_say_so(
    rig: Rig, on: Stage
) -> None:
    played = await play(rig, on, SMALL)
    await rig.quiet()

    history, rows = await rig.history(), await rig.rows()
    happened = {event.ref: event for event in history.happened if event.is_subscribed}
    lanes = {(event.page_id, event.key): event.lane for event in rows.events}
    assert len(lanes) == len(rows.events) == len(happened)
    assert lanes == {(event.page_id, event.key): event.lane for event in happened.values()}
    assert {said.ref for said in played.said} <= happened.keys()
    answered = [said for said in played.said if said.is_answered]
    assert Counter(decision.outcome for decision in rows.decisions)["answered"] == len(answered)
    tags = Counter(call.tag for call in history.accepted if call.endpoint == "send")
    assert tags == Counter(row.tag for row in rows.outbox if row.kind == "message")
    assert {row.mid for row in rows.outbox} == {call.created for call in history.accepted}


async def test_the_same_seed_says_the_same(rig: Rig, on: Stage) -> None:
    load = Load(pages=2, people=8, events=5, seed=7)

    first, again = await play(rig, on, load), await play(rig, on, load)

    assert [(s.page_id, s.person_id, s.text) for s in first.said] == [
        (s.page_id, s.person_id, s.text) for s in again.said
    ]


@pytest.mark.parametrize("name", ["store", "rules", "sync", "webhook"])
async def test_a_killed_process_is_replaced_by_one_that_serves(rig: Rig, name: str) -> None:
    before = rig.process(name).pid

    await rig.kill(name)
    took = await rig.back(name)

    assert rig.process(name).pid != before
    assert rig.process(name).exit_codes[-1] == -signal.SIGKILL
    assert took > 0


async def test_each_of_two_processes_has_its_name_and_its_proxy(rig: Rig, on: Stage) -> None:
    second = rig.proxy("webhook", "rules-2")

    async def is_found() -> bool:
        return second.open > 0

    await say(rig, on, "price of the first")
    await until(is_found)
    await rig.kill("rules-2")
    await rig.back("rules-2")
    rig.proxy("webhook", "rules").refuse()
    ref = await say(rig, on, "price of the second")
    await rig.quiet()

    assert await stored(rig, ref) == 1


async def test_a_process_told_to_end_drains_and_is_replaced(rig: Rig) -> None:
    rig.terminate("rules")
    await rig.back("rules")

    assert rig.process("rules").exit_codes[-1] == 0


async def test_a_death_at_a_fault_point_is_seen_and_happens_once(rig: Rig, on: Stage) -> None:
    async with rig.death("store") as death:
        rig.fault("store", "store.ingest.after_commit=kill once")
        ref = await say(rig, on, "price at a fault point")
    await rig.quiet()

    assert death.exit_code == -signal.SIGKILL
    assert death.seconds > 0
    assert await stored(rig, ref) == 1
    assert End.OK in await ends(rig, ref)


async def test_a_process_is_given_settings_for_its_next_life(rig: Rig) -> None:
    rig.give("rules", LOG_LEVEL="DEBUG")
    await rig.kill("rules")
    await rig.back("rules")
    told = Path(f"/proc/{rig.process('rules').pid}/environ").read_bytes().split(b"\0")

    rig.give("rules", LOG_LEVEL=None)
    await rig.kill("rules")
    await rig.back("rules")
    untold = Path(f"/proc/{rig.process('rules').pid}/environ").read_bytes().split(b"\0")

    assert b"LOG_LEVEL=DEBUG" in told
    assert not [one for one in untold if one.startswith(b"LOG_LEVEL=")]


async def test_a_paused_process_answers_nobody_until_it_goes_on(rig: Rig) -> None:
    rig.pause("webhook")
    with pytest.raises(httpx.ReadTimeout):
        await rig.edge.get("/healthz", timeout=0.3)

    rig.resume("webhook")

    assert (await rig.edge.get("/healthz")).status_code == 200


async def test_when_the_edge_could_not_answer_is_noted_and_nobody_elses_death(rig: Rig) -> None:
    async def is_noted(at: float) -> bool:
        return any(begun <= at <= ended for begun, ended in rig.silences.spans)

    async def all_is_well() -> bool:
        return not await is_noted(time.time() - 1)

    await until(all_is_well)
    await rig.kill("rules")
    died_at = time.time()
    await rig.back("rules")
    assert not await is_noted(died_at)

    rig.pause("webhook")
    paused_at = time.time()
    rig.resume("webhook")
    await until(lambda: is_noted(paused_at))
    rig.terminate("webhook")
    ended_at = time.time()
    await until(lambda: is_noted(ended_at))
    await rig.back("webhook")
    with rig.proxy("sender", "edge").suffering(Hang()):
        cut_at = time.time()
        await until(lambda: is_noted(cut_at))


async def test_a_lost_answer_to_the_commit_of_an_ingest_stores_it_once(rig: Rig, on: Stage) -> None:
    loss = rig.commits.lose(Lost.ANSWER, saying="into event")

    ref = await say(rig, on, "price with a lost answer")
    await loss.happened()
    await rig.quiet()

    assert await stored(rig, ref) == 1


async def test_a_lost_commit_with_the_store_killed_stores_it_once(rig: Rig, on: Stage) -> None:
    loss = rig.commits.lose(Lost.REQUEST, saying="into event", then=lambda: rig.kill("store"))

    ref = await say(rig, on, "price with a lost commit")
    await loss.happened()
    await rig.back("store")
    await rig.quiet()

    assert await stored(rig, ref) == 1


@pytest.mark.parametrize("how", list(Stop))
async def test_a_stopped_postgres_is_refused_honestly_and_comes_back_with_all_it_had(
    rig: Rig, on: Stage, how: Stop
) -> None:
    before = await say(rig, on, "hello before")
    await rig.quiet()

    await rig.postgres.stop(how)
    ref = await say(rig, on, "hello meanwhile")

    async def is_refused() -> bool:
        return End.FAIL in await ends(rig, ref)

    await until(is_refused)
    assert await rig.postgres.start() > 0
    await rig.quiet()
    assert [await stored(rig, one) for one in (before, ref)] == [1, 1]


async def test_a_hung_postgres_answers_again_when_it_goes_on(rig: Rig, on: Stage) -> None:
    rig.postgres.hang()
    ref = await say(rig, on, "hello while it hangs")

    async def is_refused() -> bool:
        return End.FAIL in await ends(rig, ref)

    await until(is_refused)
    rig.postgres.resume()
    await rig.quiet()
    assert await stored(rig, ref) == 1


async def test_a_read_only_postgres_takes_nothing_until_it_is_told_otherwise(
    rig: Rig, on: Stage
) -> None:
    await rig.postgres.read_only(True)
    ref = await say(rig, on, "hello read-only")

    async def is_refused() -> bool:
        return End.FAIL in await ends(rig, ref)

    await until(is_refused)
    assert await stored(rig, ref) == 0
    await rig.postgres.read_only(False)
    await rig.quiet()
    assert await stored(rig, ref) == 1


async def test_ended_backends_are_the_services_and_they_come_back(rig: Rig, on: Stage) -> None:
    await say(rig, on, "hello")
    await rig.quiet()

    ended = await rig.postgres.terminate_backends()
    ref = await say(rig, on, "hello again")
    await rig.quiet()

    assert ended >= 3
    assert await rig.postgres.connections() >= 3
    assert await stored(rig, ref) == 1


async def test_a_valkey_that_is_killed_comes_back_at_the_same_address(rig: Rig) -> None:
    await rig.valkey.stop(Stop.KILL)
    assert not await answers(rig)

    await rig.valkey.start()

    assert await answers(rig)


async def answers(rig: Rig) -> bool:
    host, _, port = rig.proxy("store", "valkey").address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"PING\r\n")
        return await reader.read(7) == b"+PONG\r\n"
    except ConnectionError:
        return False
    finally:
        writer.close()


async def test_what_is_between_two_parts_befalls_these_two(rig: Rig, on: Stage) -> None:
    graph = rig.proxy("sync", "graph")
    graph.refuse()
    ref = await say(rig, on, "price while Graph is away")

    async def is_waiting() -> bool:
        return any(row.state_reason == "connect_failed" for row in (await rig.rows()).outbox)

    await until(is_waiting)
    assert End.OK in await ends(rig, ref)
    await graph.accept()
    await rig.quiet()
    assert {row.state for row in (await rig.rows()).outbox} == {"sent"}


async def test_a_direction_alone_is_cut_off(rig: Rig, on: Stage) -> None:
    wire = rig.proxy("webhook", "store")
    with wire.suffering(Hang(), Direction.DOWN):
        ref = await say(rig, on, "hello one way")

        async def is_stored() -> bool:
            return await stored(rig, ref) == 1

        await until(is_stored)
        assert End.OK not in await ends(rig, ref)
    await rig.quiet()
    assert End.OK in await ends(rig, ref)
    assert await stored(rig, ref) == 1


async def test_what_a_run_leaves_behind_can_be_read(rig: Rig) -> None:
    usage, traces = rig.usage(), await rig.traces()

    assert usage.keys() == {"simulator", "store", "rules", "rules-2", "sync", "webhook"}
    assert all(one.open_files > 3 and one.memory_bytes > 1_000_000 for one in usage.values())
    assert usage["store"].connections > 0
    assert {log.name for log in traces.logs} >= {"store.log", "webhook.log"}
    assert traces.metrics.keys() == usage.keys() - {"simulator"}
    assert all("process_resident_memory_bytes" in text for text in traces.metrics.values())


async def test_what_is_held_is_noted_of_each_life_of_a_process_anew(rig: Rig) -> None:
    ours = {"store", "rules", "rules-2", "sync", "webhook"}
    async with watched(rig, warm=0) as held:

        async def are_noted() -> bool:
            return held.keys() == ours and held["rules-2"][0] == rig.process("rules-2").pid

        await until(are_noted)
        first = held["rules-2"][0]
        await rig.kill("rules-2")
        await rig.back("rules-2")
        await until(are_noted)

    assert held["rules-2"][0] != first
    assert held["rules-2"][1].memory_bytes > 0


DOOMED = """
import asyncio, sys
from pathlib import Path
from faults.rig import Rig

async def main():
    async with Rig(Path(sys.argv[1]), proxies=[("store", "postgres")]) as rig:
        pids = [process.pid for process in rig.system.supervisor.processes.values()]
        print(*pids, rig.postgres.embedded.pid, rig.valkey.embedded.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_nothing_outlives_whoever_made_the_rig() -> None:
    with tempfile.TemporaryDirectory(prefix="pagewire-rig-") as folder:
        maker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DOOMED, folder, stdout=asyncio.subprocess.PIPE
        )
        assert maker.stdout is not None
        pids = [int(word) for word in (await maker.stdout.readline()).split()]
        assert len(pids) == 7

        maker.kill()
        await maker.wait()

        deadline = time.monotonic() + PATIENCE
        while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert [pid for pid in pids if is_alive(pid)] == []


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
