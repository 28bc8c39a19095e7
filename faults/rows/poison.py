"""Poison: one event of which a process dies each time; and deaths that are no event's fault."""

from __future__ import annotations

import asyncio
import random

from faults.evidence import Lane
from faults.rig import Rig
from faults.rows import Struck, row
from faults.rows.postgres import lane_lease, next_lane
from faults.rows.process import WITHIN, dies
from faults.shown import shown

TRIES = 8
"""Deaths of a dispatcher after which the event that it died of is parked."""
TRIALS = 3
"""Deaths of rules, with the event alone, after which it is parked; before them one with others."""
LOST = "pagewire_evaluations_lost_total"
TO_RULES = frozenset({("webhook", "rules")})


@row("F17", weight="process")
async def poison_kills_the_dispatcher(rig: Rig, draw: random.Random) -> Struck:
    """One event kills the dispatcher whenever it is claimed, until it is parked."""
    each = WITHIN + lane_lease(rig)
    return await poisoned(rig, "webhook", "dispatcher.claimed", TRIES * each)


@row("F17b", weight="process")
async def poison_kills_rules(rig: Rig, draw: random.Random) -> Struck:
    """One event kills rules whenever they evaluate it, until it is parked."""
    return await poisoned(rig, "rules", "rules.evaluate", (TRIALS + 1) * WITHIN)


async def poisoned(rig: Rig, service: str, point: str, within: float) -> Struck:
    """Somebody's event kills the service at this point until it is parked. Raises TimeoutError."""
    lane = await next_lane(rig)
    deaths = rig.process(service).exit_codes
    before = len(deaths)
    try:
        key = await _armed(rig, service, point, lane)
        async with asyncio.timeout(within):
            while (state := await _state(rig, lane, key)) != "parked":
                if state == "done":  # it was evaluated before the fault was armed
                    key = await _armed(rig, service, point, lane)
                await asyncio.sleep(0.1)
    finally:
        rig.fault(service)
    held = frozenset({lane})
    # The edge lives in one process with the dispatcher, and answers whatever befalls rules.
    isolates = service == "rules"
    return Struck(len(deaths) - before, poisoned=held, isolates=isolates, held=held)


@row("F17c", weight="process", proxies=TO_RULES)
async def rules_die_of_no_event(rig: Rig, draw: random.Random) -> Struck:
    """Rules die again and again with events that they have, then are away: of no event's doing."""
    lost = await shown(rig, "webhook", LOST)
    kills = 0
    recoveries: list[float] = []
    while kills <= TRIALS or await shown(rig, "webhook", LOST) == lost:
        struck = await dies(rig, draw, "rules", "rules.evaluate")
        kills += struck.kills
        recoveries += struck.recoveries["rules"]
    to_rules = rig.proxy("webhook", "rules")
    to_rules.refuse()
    try:
        await asyncio.sleep(draw.uniform(2, 10))
    finally:
        await to_rules.accept()
    return Struck(kills, {"rules": tuple(recoveries)})


async def _armed(rig: Rig, service: str, point: str, lane: Lane) -> str:
    """The key of an event of the lane that kills the service from now on."""
    before = len(rig.process(service).exit_codes)
    rig.fault(service, f"{point}=kill if:{lane[1]}")
    key = await _first_after_a_death(rig, service, lane, before)
    rig.fault(service, f"{point}=kill if:{key}")
    return key


async def _first_after_a_death(rig: Rig, service: str, lane: Lane, before: int) -> str:
    """The key of the event that was first of its lane when the service died of it."""
    async with asyncio.timeout(3 * WITHIN):  # this person has to write again
        while len(rig.process(service).exit_codes) == before:
            await asyncio.sleep(0.02)
    found = await rig.postgres.ask(
        "select event_key from event where page_id = %s and lane = %s and state = 'pending'"
        " order by number limit 1",
        lane,
    )
    assert isinstance(found, str), f"{service} died of nothing"
    return found


async def _state(rig: Rig, lane: Lane, key: str) -> object:
    return await rig.postgres.ask(
        "select state from event where page_id = %s and event_key = %s", (lane[0], key)
    )
