"""A row of the matrix befalls a rig under a small load, and the checker says what it broke."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import Any, TypeVar

from faults.checker import check
from faults.evidence import Evidence, Violation
from faults.gathering import evidence_of
from faults.history import AttemptRow, GraphCall, OutboxRow
from faults.load import Load, Stage, going_on, stage
from faults.rig import Rig
from faults.rows import Struck, every
from pagewire_simulator.meta import Echoes
from tests.support.struck import REST, at_leisure

T = TypeVar("T")

SMALL = Load(
    pages=2,
    people=8,
    events=40,
    rate=20,
    answered=0.7,
    comments=0.3,
    instagram=0.5,
    late_by=0.5,
)
"""Two seconds, of which some 28 events are answered; rounds of it, where a fault goes on."""


async def befall(
    rig: Rig,
    name: str,
    load: Load = SMALL,
    *,
    draws: int = 1,
    head_start: float = 0.0,
    echo: Echoes | None = None,
    **fields: Any,
) -> Evidence:
    """The evidence of this row befalling pages of its own; the system is at rest afterwards.

    `draws` seeds the row, which begins `head_start` seconds before the load; `echo` are its pages'
    habits of telling back. `fields` are further ones of `Evidence`. Raises NotQuiet, and what the
    row raises.
    """
    on = await stage(rig, load)
    if echo is not None:
        for page in on.pages:
            await rig.meta.change_account(page.id, echo=echo)
    striking = asyncio.create_task(strike(rig, name, draws))
    await asyncio.sleep(head_start)
    async with going_on(rig, on, load):
        struck = await striking
    await rig.calm()
    await rig.quiet(REST)
    return await evidence_on(rig, on, struck, **fields)


async def strike(rig: Rig, name: str, draws: int = 1) -> Struck:
    """The row befalls the rig; `draws` seeds it."""
    return await every()[name].strike(rig, random.Random(draws))


async def evidence_on(rig: Rig, on: Stage, *struck: Struck, **fields: Any) -> Evidence:
    """What is known of these pages."""
    evidence = await evidence_of(rig, on, struck, env=rig.system.env, **fields)
    return of_pages(evidence, frozenset(page.id for page in on.pages))


def of_pages(evidence: Evidence, pages: frozenset[str]) -> Evidence:
    """The evidence without what is of other pages, so that each test answers for its own."""
    history, rows = evidence.history, evidence.rows
    happened = tuple(event for event in history.happened if event.page_id in pages)
    left: dict[str, Any] = {
        part.name: tuple(each for each in found if each.page_id in pages)
        for part in dataclasses.fields(rows)
        if isinstance(found := getattr(rows, part.name), tuple)
        and found
        and hasattr(found[0], "page_id")
    }
    refs = {event.ref for event in happened}
    return dataclasses.replace(
        evidence,
        history=dataclasses.replace(
            history,
            happened=happened,
            delivered=tuple(post for post in history.delivered if refs.issuperset(post.refs)),
            calls=tuple(call for call in history.calls if call.page_id in pages),
        ),
        rows=dataclasses.replace(rows, **left),
    )


def broken(evidence: Evidence) -> list[str]:
    """What the checker finds wrong where nothing has to be quick, one line each."""
    return [str(violation) for violation in check(at_leisure(evidence))]


def invariants(violations: list[Violation]) -> set[str]:
    return {violation.invariant for violation in violations}


def replies(evidence: Evidence, *states: str) -> list[OutboxRow]:
    """The replies in these states."""
    return [reply for reply in evidence.rows.outbox if reply.state in states]


def taken(evidence: Evidence, reply: OutboxRow) -> list[GraphCall]:
    """The calls by which Graph took it."""
    return list(evidence.acceptances.get((reply.page_id, reply.reply_id), ()))


def attempts(evidence: Evidence, reply: OutboxRow) -> list[AttemptRow]:
    return evidence.attempts.get((reply.page_id, reply.reply_id), [])
