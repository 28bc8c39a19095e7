"""Traffic, clocks, network and restarts: what comes is repeated, reordered or late, and what is
between the parts, or their clocks, can't be trusted.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from typing import Any

from faults.evidence import Catchup
from faults.load import Load
from faults.rig import Rig
from faults.rows import Struck, row
from faults.rows.sends import WITHIN, lively, until
from faults.toxics import Bandwidth, Direction, Hang, Latency, Slicer, Toxic
from pagewire_simulator.acts import Say
from pagewire_simulator.plan import Plan

REPEATED = 5
TIMES = 20
"""Of each body, as it was; and as often in others."""
REVERSED = 20
STEP_SECONDS = 0.1
"""Between two of what comes in reverse."""
SAYING_SECONDS = 1.0
"""It is said within so many seconds, before the first of it comes."""
FLOOD = 200
"""So many events are told of at once,"""
FLOODING = 256
"""in so many POSTs at the same time."""
TAKEN = "select count(*) from event where person_id = any(%s)"
HOUR = 3600.0
LATE = (36 * HOUR, 7 * 24 * HOUR)
SECONDS = (3.0, 20.0)
"""At least, and at most: for how long rules are slow, a clock is wrong or the network bad."""
FLOODED_SLOWEST = 5.0
"""Seconds, of which the generator, which waits for so many answers at once, counts its own too."""
SKEWS = (300.0, -300.0, -HOUR)
WIRES = frozenset(
    {("webhook", "store"), ("webhook", "rules"), ("rules", "store"), ("sync", "store")}
)
REACHED = {
    "webhook": "edge.accepted",
    "store": "store.ingest.before_begin",
    "rules": "rules.evaluate",
    "sync": "sync.claimed",
}
"""Where each service comes by under load."""


async def bodies(rig: Rig, count: int) -> list[bytes]:
    """So many bodies that came since now. Raises TimeoutError: fewer did."""
    before = len((await rig.rows()).raw)

    async def have_come() -> bool:
        stored = await rig.postgres.ask("select count(*) from delivery")
        assert isinstance(stored, int)
        return stored >= before + count

    await until(have_come, f"{count} bodies come")
    return [raw.body for raw in (await rig.rows()).raw[before : before + count]]


async def deliver(rig: Rig, body: dict[str, Any]) -> None:
    await rig.meta.deliver(json.dumps(body).encode(), object=body["object"])


@row("F70", weight="network")
async def all_comes_again(rig: Rig, draw: random.Random) -> Struck:
    """What came lately comes a hundred times more: as it was, with other times, and together."""
    came = await bodies(rig, REPEATED)
    mixed: dict[str, list[Any]] = defaultdict(list)
    for raw in came * TIMES:
        body = json.loads(raw)
        await rig.meta.deliver(raw, object=body["object"])
        for entry in body["entry"]:
            entry["time"] += draw.randint(1, 10**6)
        mixed[body["object"]] += body["entry"]
        await deliver(rig, body)
    for kind, entries in mixed.items():
        draw.shuffle(entries)
        await deliver(rig, {"object": kind, "entry": entries})
    return Struck()


@row("F71", weight="network")
async def all_comes_in_reverse(rig: Rig, draw: random.Random) -> Struck:
    """What one person writes comes in the reverse order."""
    page = await lively(rig, draw)
    person = (await rig.meta.create_person(page.id)).id
    clock = asyncio.get_running_loop().time
    first_at = clock() + SAYING_SECONDS
    try:
        for left in range(REVERSED, 0, -1):
            held_back = max(first_at - clock(), 0) + left * STEP_SECONDS
            await rig.meta.options(plan={"reorder": 1, "reorder_by": held_back})
            await rig.meta.say(page.id, f"price in reverse {left}", person=person)
    finally:
        await rig.meta.options(plan={"reorder": Load().reordered, "reorder_by": 0.2})
    await asyncio.sleep(REVERSED * STEP_SECONDS)
    return Struck()


@row("F72", weight="network")
async def it_comes_late(rig: Rig, draw: random.Random) -> Struck:
    """What was written 36 hours or 7 days ago comes first now, and what came long ago again."""
    page = await lively(rig, draw)
    for ago in LATE:
        await rig.meta.say(page.id, "price long ago", ago=ago)
    (raw,) = await bodies(rig, 1)
    body = json.loads(raw)
    for entry in body["entry"]:
        entry["time"] -= int(draw.choice(LATE) * 1_000)
    await deliver(rig, body)
    return Struck()


@row("F74", weight="network")
async def rules_are_slow(rig: Rig, draw: random.Random) -> Struck:
    """Rules take a second for what takes them a millisecond."""
    before = (await rig.meta.summary()).events
    begun = time.monotonic()
    rig.fault("rules", "rules.evaluate=sleep:1s")
    try:
        await asyncio.sleep(draw.uniform(*SECONDS))
        await until(lambda: _are_pending(rig), "events wait for rules")
    finally:
        rig.fault("rules")
    arrived = (await rig.meta.summary()).events - before
    return Struck(catchups=(await _catchup(rig, arrived / (time.monotonic() - begun)),))


async def _are_pending(rig: Rig) -> bool:
    return bool(await rig.postgres.ask("select count(*) from event where state = 'pending'"))


async def _catchup(rig: Rig, arrivals_a_second: float) -> Catchup:
    """How long it takes until what waits now is decided."""
    begun = time.monotonic()
    newest = await rig.postgres.ask("select coalesce(max(number), 0) from event")
    left = "select count(*) from event where state = 'pending' and number <= %s"
    backlog = await rig.postgres.ask(left, (newest,))

    async def is_gone() -> bool:
        return not await rig.postgres.ask(left, (newest,))

    await until(is_gone, "the backlog is gone")
    assert isinstance(backlog, int)
    return Catchup(time.monotonic() - begun, backlog, arrivals_a_second)


@row("F75", weight="network")
async def far_too_much_comes(rig: Rig, draw: random.Random) -> Struck:
    """Two hundred events come at once, up to five times, on top of all others."""
    page = await lively(rig, draw)
    people = [(await rig.meta.create_person(page.id)).id for _ in range(FLOOD // 10)]
    await rig.meta.options(plan={"connections": FLOODING})
    try:
        said = await _flood(rig, page.id, people, draw)
    finally:
        await rig.meta.options(plan={"connections": Plan().connections})

    async def is_taken() -> bool:
        return await rig.postgres.ask(TAKEN, (people,)) == said

    await until(is_taken, "the flood is taken")
    return Struck(slowest=FLOODED_SLOWEST)


async def _flood(rig: Rig, page: str, people: list[str], draw: random.Random) -> int:
    """How much was said."""
    said = 0
    for number in range(draw.randint(1, 5)):
        flood = [
            Say(account=page, person=person, text=f"hello in the flood {number}.{turn}")
            for turn in range(FLOOD // len(people))
            for person in people
        ]
        said += len(await rig.meta.acts(flood))
        await asyncio.sleep(draw.uniform(0.5, 1))
    return said


@row("F77", weight="network")
async def a_clock_is_wrong(rig: Rig, draw: random.Random) -> Struck:
    """A service's clock is five minutes ahead, five behind, then goes back an hour."""
    service = draw.choice(sorted(REACHED))
    each = draw.uniform(*SECONDS) / len(SKEWS)
    for seconds in SKEWS:
        rig.fault(service, f"{REACHED[service]}=skew:{seconds:.0f}s once")
        await asyncio.sleep(each)
    rig.fault(service)
    await restart(rig, service)  # the clock of its next life is right
    return Struck()


@row("F78", weight="network", proxies=WIRES)
async def two_parts_are_cut_off(rig: Rig, draw: random.Random) -> Struck:
    """Two parts do not reach each other, or only one the other."""
    wire = rig.proxy(*draw.choice(sorted(WIRES)))
    with wire.suffering(Hang(), draw.choice([Direction.UP, Direction.DOWN, Direction.BOTH])):
        await asyncio.sleep(draw.uniform(*SECONDS))
    return Struck()


@row("F79", weight="network", proxies=WIRES)
async def the_network_is_bad(rig: Rig, draw: random.Random) -> Struck:
    """Between two parts all comes late, in pieces of a byte, or at 20 kB a second."""
    wire = rig.proxy(*draw.choice(sorted(WIRES)))
    toxics: list[Toxic] = [Latency(0.3, 0.3), Slicer(1), Bandwidth(20_000)]
    with wire.suffering(draw.choice(toxics)):
        await asyncio.sleep(draw.uniform(*SECONDS))
    return Struck()


@row("F80", weight="network")
async def all_are_replaced_in_turn(rig: Rig, draw: random.Random) -> Struck:
    """Each process ends as it is told to, and is replaced, one after the other."""
    for name in sorted(rig.system.supervisor.processes):
        if name != "simulator":
            await restart(rig, name)
    return Struck()


@row("F81", weight="network")
async def one_is_replaced(rig: Rig, draw: random.Random) -> Struck:
    """The edge, of which there is one, ends as it is told to, and is replaced."""
    await restart(rig, "webhook")
    return Struck()


@row("F85", weight="network")
async def told_to_end_while_sending(rig: Rig, draw: random.Random) -> Struck:
    """Sync is told to end, twice, while the answers to its sends are awaited."""
    rig.fault("sync", "sync.after_write=sleep:1s")
    await asyncio.sleep(draw.uniform(0.5, 1.0))
    rig.terminate("sync")
    await asyncio.sleep(draw.uniform(0.1, 0.5))
    rig.terminate("sync")
    rig.fault("sync")
    await rig.back("sync", WITHIN)
    return Struck()


async def restart(rig: Rig, name: str) -> None:
    rig.terminate(name)
    await rig.back(name, WITHIN)
