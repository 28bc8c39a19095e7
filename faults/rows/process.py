"""Process death: each service is killed at the instructions where that could lose or double.

The fault is armed in the running process while it works, so that it dies in the middle of a load.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx

from faults.procfs import usage
from faults.rig import SERVICES, Rig
from faults.rows import Struck, row
from faults.rows.postgres import lane_lease
from faults.rows.sends import until
from faults.shown import shown
from pagewire_cli.leash import leashed

MOST_DEATHS = 3
"""Of one service in a row: it dies again as soon as it is back."""
WITHIN = 60.0
"""Seconds for the load to reach a point and for the process to be back."""
BLOCKED_SECONDS = 3
LIMPING_SECONDS = 1.0
STRANGERS = 20
KEPT = 8
"""Descriptors that a process opens first, and closes last."""

DELIVERIES = "pagewire_webhook_deliveries_total"
FENCED = "pagewire_lanes_fenced_total"
BLOCKS = "pagewire_event_loop_blocks_total"

STATEMENTS = 7
"""So many at least has every transaction that takes a new event, or decides one."""
TRANSACTION = (
    "before_begin",
    *(f"stmt{number}" for number in range(1, STATEMENTS + 1)),
    "begun",
    "before_commit",
)
"""Of the moments of a transaction: those before its COMMIT is sent."""


async def dies(rig: Rig, draw: random.Random, service: str, *points: str) -> Struck:
    """The service dies at one of these points, up to three times; each next life is waited for.

    Raises TimeoutError where the load does not come by, AssertionError where it dies otherwise.
    """
    recoveries = []
    for _ in range(draw.randint(1, MOST_DEATHS)):
        point, nth = draw.choice(points), draw.randint(1, 3)
        try:
            async with rig.death(service, WITHIN) as death:
                rig.fault(service, f"{point}=kill nth:{nth}")
        except TimeoutError:
            raise TimeoutError(f"{service} did not die at {point}, or is not back") from None
        finally:
            rig.fault(service)
        assert death.exit_code == -signal.SIGKILL, f"{service} ended with {death.exit_code}"
        recoveries.append(death.seconds)
    return Struck(len(recoveries), {service: tuple(recoveries)})


def within(part: str) -> list[str]:
    """The points of a transaction before its COMMIT."""
    return [f"{part}.{moment}" for moment in TRANSACTION]


@row("F01", weight="process")
async def edge_dies_before_reading(rig: Rig, draw: random.Random) -> Struck:
    """The edge dies when a POST's headers are read and its body is not."""
    return await dies(rig, draw, "webhook", "edge.accepted")


@row("F02", weight="process")
async def edge_dies_before_ingest(rig: Rig, draw: random.Random) -> Struck:
    """The edge dies after the signature was found good, before the store is told."""
    return await dies(rig, draw, "webhook", "edge.verified")


@row("F03", weight="process")
async def edge_dies_before_answering(rig: Rig, draw: random.Random) -> Struck:
    """The edge dies when the store has it and 200 is not answered."""
    return await dies(rig, draw, "webhook", "edge.after_ingest")


@row("F04", weight="process")
async def store_dies_in_ingest(rig: Rig, draw: random.Random) -> Struck:
    """The store dies before, within and at the end of an ingest, before COMMIT."""
    return await dies(rig, draw, "store", *within("store.ingest"))


@row("F05", weight="process")
async def store_dies_at_commit(rig: Rig, draw: random.Random) -> Struck:
    """The store dies when COMMIT of an ingest is sent and not answered."""
    return await dies(rig, draw, "store", "store.ingest.commit_sent")


@row("F06", weight="process")
async def store_dies_after_commit(rig: Rig, draw: random.Random) -> Struck:
    """The store dies when an ingest is committed and nobody was told."""
    return await dies(rig, draw, "store", "store.ingest.after_commit")


@row("F07", weight="process")
async def dispatcher_dies_with_lanes(rig: Rig, draw: random.Random) -> Struck:
    """The dispatcher dies with lanes that it has claimed."""
    return await dies(rig, draw, "webhook", "dispatcher.claimed")


@row("F08", weight="process")
async def dispatcher_dies_before_committing(rig: Rig, draw: random.Random) -> Struck:
    """The dispatcher dies after rules have answered, before it commits."""
    return await dies(rig, draw, "webhook", "dispatcher.evaluated")


@row("F09", weight="process")
async def dispatcher_dies_after_committing(rig: Rig, draw: random.Random) -> Struck:
    """The dispatcher dies when its commit is stored, or its answer is lost with the store."""
    if draw.random() < 0.5:
        return await dies(rig, draw, "webhook", "dispatcher.committed")
    return await dies(rig, draw, "store", "store.decide.after_commit")


@row("F10", weight="process")
async def store_dies_in_deciding(rig: Rig, draw: random.Random) -> Struck:
    """The store dies within the commit of decisions, at each statement and at COMMIT."""
    return await dies(rig, draw, "store", *within("store.decide"), "store.decide.commit_sent")


@row("F11", weight="process")
async def sync_dies_before_writing(rig: Rig, draw: random.Random) -> Struck:
    """Sync dies when a reply is SENDING and no byte of it is out."""
    return await dies(rig, draw, "sync", "sync.claimed", "sync.before_write")


@row("F12", weight="process")
async def sync_dies_after_writing(rig: Rig, draw: random.Random) -> Struck:
    """Sync dies when the request is out and nothing of the answer is read."""
    return await dies(rig, draw, "sync", "sync.after_write")


@row("F13", weight="process")
async def sync_dies_before_recording(rig: Rig, draw: random.Random) -> Struck:
    """Sync dies when it knows how a send ended and has told nobody."""
    return await dies(rig, draw, "sync", "sync.after_response")


async def dies_anywhere(rig: Rig, draw: random.Random) -> Struck:
    """A service is killed, wherever it is just then: what random runs do between two faults."""
    name = draw.choice(SERVICES)
    await rig.kill(name)
    return Struck(1, {name: (await rig.back(name, WITHIN),)})


@row("F15", weight="process")
async def all_die_at_once(rig: Rig, draw: random.Random) -> Struck:
    """All four services are killed at once."""
    names = [name for name in rig.system.supervisor.processes if name != "simulator"]
    draw.shuffle(names)
    await asyncio.gather(*map(rig.kill, names))
    seconds = await asyncio.gather(*(rig.back(name, WITHIN) for name in names))
    recoveries = {name: (took,) for name, took in zip(names, seconds, strict=True)}
    return Struck(len(names), recoveries)


@row("F16", weight="process")
async def zombie_commits_late(rig: Rig, draw: random.Random) -> Struck:
    """A dispatcher stands still past its leases, goes on, and commits while others hold its lanes.

    Raises TimeoutError where the store has not refused it.
    """
    refused = await shown(rig, "store", FENCED)
    async with _zombie(rig, 1.5 * lane_lease(rig)):
        # Whoever takes its lanes over has not decided them when it goes on.
        rig.fault("webhook", f"dispatcher.evaluated=sleep:{lane_lease(rig)}s")
        try:
            async with asyncio.timeout(3 * WITHIN):
                while await shown(rig, "store", FENCED) == refused:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError("no commit of another's lane was refused") from None
        finally:
            rig.fault("webhook")
    return Struck()


@contextlib.asynccontextmanager
async def _zombie(rig: Rig, seconds: float) -> AsyncIterator[None]:
    """A dispatcher beside the usual one that stands still whenever rules have answered it."""
    spec = rig.process("webhook").spec
    own = {"FAULT": f"dispatcher.evaluated=block:{seconds}s", "WEBHOOK_PARTS": "dispatcher"}
    faults_of_others = {word for word in spec.argv if word.startswith("FAULT_FILE=")}
    argv = [word for word in spec.argv if word not in faults_of_others]
    with (rig.system.folder / "logs" / "zombie.log").open("ab") as log:
        child = await asyncio.create_subprocess_exec(
            *leashed(argv),
            env=dict(spec.env) | own,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        child.kill()
        await child.wait()


@row("F18", weight="process")
async def memory_runs_out(rig: Rig, draw: random.Random) -> Struck:
    """A service gets no more memory, and is killed for it if it has not died of that before."""
    name = draw.choice(SERVICES)
    pid = rig.process(name).pid
    with rig.unable(name):
        resource.prlimit(pid, resource.RLIMIT_AS, (usage(pid).memory_bytes, resource.RLIM_INFINITY))
        async with rig.death(name, WITHIN) as death:
            await asyncio.sleep(LIMPING_SECONDS)
            if rig.process(name).pid == pid:
                os.kill(pid, signal.SIGKILL)
    return Struck(1, {name: (death.seconds,)})


@row("F19", weight="process")
async def loop_is_blocked(rig: Rig, draw: random.Random) -> Struck:
    """The event loop of a service stands still for three seconds in the middle of its work."""
    name, point = draw.choice(
        [
            ("webhook", "edge.verified"),
            ("webhook", "dispatcher.evaluated"),
            ("rules", "rules.evaluate"),
            ("store", "store.ingest.begun"),
            ("sync", "sync.before_write"),
        ]
    )
    await stands_still(rig, name, point)
    return Struck(slowest=BLOCKED_SECONDS + 2.5)


async def stands_still(rig: Rig, name: str, point: str) -> None:
    """The service stands still once at this point; returns when it has told of it."""
    before = await shown(rig, name, BLOCKS)
    rig.fault(name, f"{point}=block:{BLOCKED_SECONDS}s once")
    try:
        async with asyncio.timeout(WITHIN + BLOCKED_SECONDS):
            while await shown(rig, name, BLOCKS) == before:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise TimeoutError(f"{name} did not stand still at {point}, or did not tell") from None
    finally:
        rig.fault(name)


@row("F88", weight="process")
async def descriptors_run_out(rig: Rig, draw: random.Random) -> Struck:
    """The edge can open no file and no connection any more, then the store; both can again."""
    with no_descriptors(rig, "webhook"):
        answers = await asyncio.gather(*(asked_by_a_stranger(rig) for _ in range(STRANGERS)))
        await asyncio.sleep(draw.uniform(1, 5))
    assert set(answers) <= {None, 200, 503}, answers
    assert None in answers, "the edge had descriptors left"
    await until(lambda: _is_answered(rig), "the edge answers whoever is new")
    refused = await _refused(rig)
    with no_descriptors(rig, "store", anew=False):
        await rig.postgres.terminate_backends()
        await until(lambda: _has_refused_more(rig, refused), "webhooks are refused")
        await asyncio.sleep(draw.uniform(1, 5))
    before = await _stored(rig)
    await until(lambda: _has_stored_more(rig, before), "the store stores again")
    return Struck()


@contextlib.contextmanager
def no_descriptors(rig: Rig, service: str, *, anew: bool = True) -> Iterator[None]:
    """No process of the service can open one more within the block; nor, unless `anew`, one in the
    place of another that it closes."""
    limits: dict[int, tuple[int, int]] = {}
    for name in rig.processes(service):
        pid = rig.process(name).pid
        limits[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        held = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()) + 1
        most = held if anew else KEPT
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, limits[pid][1]))
    try:
        with rig.unable(service):
            yield
    finally:
        for pid, limit in limits.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


async def asked_by_a_stranger(rig: Rig) -> int | None:
    """What a new connection is answered; None where it is closed. Raises httpx.TimeoutException."""
    try:
        async with httpx.AsyncClient(timeout=WITHIN) as http:
            return (await http.get(f"{rig.system.addresses['public']}/healthz")).status_code
    except httpx.TimeoutException:
        raise
    except httpx.TransportError:
        return None


async def _is_answered(rig: Rig) -> bool:
    return await asked_by_a_stranger(rig) == 200


async def _refused(rig: Rig) -> float:
    return await shown(rig, "webhook", DELIVERIES, outcome="unavailable")


async def _has_refused_more(rig: Rig, before: float) -> bool:
    return await _refused(rig) > before


async def _stored(rig: Rig) -> int:
    found = await rig.postgres.ask("select count(*) from delivery")
    assert isinstance(found, int)
    return found


async def _has_stored_more(rig: Rig, before: int) -> bool:
    return await _stored(rig) > before
