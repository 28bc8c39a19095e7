"""Group E of the matrix: traffic, clocks, network and restarts."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from faults.evidence import Evidence
from faults.history import End, OutboxRow
from faults.rig import QUICK, Rig
from faults.rows.traffic import FLOOD, REVERSED, WIRES
from pagewire_cli.supervisor import Process
from tests.support.striking import SMALL, befall, broken, replies, taken

pytestmark = [
    pytest.mark.rows,
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

LONGER = dataclasses.replace(SMALL, events=80)
"""Four seconds: as long as a fault of the network and a little more."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-traffic-") as folder:
        async with Rig(Path(folder), proxies=WIRES, env=QUICK) as rig:
            yield rig


def not_taken_once(evidence: Evidence) -> list[OutboxRow]:
    return [reply for reply in replies(evidence, "sent") if len(taken(evidence, reply)) != 1]


def is_all_sent(evidence: Evidence) -> bool:
    states = Counter(reply.state for reply in evidence.rows.outbox)
    return states["sent"] > 0 and states.keys() == {"sent"}


async def test_f70_what_comes_a_hundred_times_is_stored_and_answered_once(rig: Rig) -> None:
    evidence = await befall(rig, "F70", has_echoes=True)

    assert broken(evidence) == []
    assert is_all_sent(evidence)
    assert not_taken_once(evidence) == []


async def test_f71_what_comes_in_reverse_is_decided_as_it_comes(rig: Rig) -> None:
    evidence = await befall(rig, "F71", has_echoes=True)

    assert broken(evidence) == []
    said = [event for event in evidence.history.happened if "in reverse" in (event.text or "")]
    assert len(said) == REVERSED
    numbers = {row.key: row.number for row in evidence.rows.events}
    came = [numbers[event.key or ""] for event in said]
    backwards = sum(earlier > later for earlier, later in pairwise(came))
    assert backwards > REVERSED / 2


async def test_f72_what_comes_too_late_is_stored_and_not_answered(rig: Rig) -> None:
    evidence = await befall(rig, "F72", has_echoes=True)

    assert broken(evidence) == []
    late = {event.key for event in evidence.history.happened if event.text == "price long ago"}
    rows = {row.event_id: row for row in evidence.rows.events if row.key in late}
    decided = [row for row in evidence.rows.decisions if row.event_id in rows]
    assert len(rows) == len(decided) == len(late) == 2
    assert {row.outcome for row in decided} == {"expired"}
    assert [reply for reply in evidence.rows.outbox if reply.event_id in rows] == []


async def test_f74_slow_rules_delay_decisions_and_no_acknowledgement(rig: Rig) -> None:
    evidence = await befall(rig, "F74", LONGER, has_echoes=True)

    assert broken(evidence) == []
    assert is_all_sent(evidence)
    (catchup,) = evidence.catchups
    assert catchup.backlog > 0
    decided = {
        row.key: evidence.decisions[row.page_id, row.event_id].decided_at
        for row in evidence.rows.events
        if (row.page_id, row.event_id) in evidence.decisions
    }
    key_of = {event.ref: event.key for event in evidence.history.happened}
    assert [
        post
        for post in evidence.history.delivered
        if post.end is End.OK
        and any(post.ended_at < decided.get(key_of[ref] or "", 0.0) for ref in post.refs)
    ]


async def test_f75_of_far_too_much_all_is_taken_or_refused_and_then_taken(rig: Rig) -> None:
    evidence = await befall(rig, "F75", LONGER)

    assert broken(evidence) == []
    assert is_all_sent(evidence)
    flood = [event for event in evidence.history.happened if "in the flood" in (event.text or "")]
    assert len(flood) >= FLOOD
    assert [event for event in flood if End.OK not in evidence.ends[event.ref]] == []
    assert {post.status for post in evidence.history.delivered} <= {200, 503, None}


@pytest.mark.parametrize("draws", [1, 2, 5, 9], ids=["store", "rules", "sync", "webhook"])
async def test_f77_a_clock_that_is_wrong_changes_no_lease_and_no_window(
    rig: Rig, draws: int
) -> None:
    evidence = await befall(rig, "F77", LONGER, draws=draws)

    assert broken(evidence) == []
    assert is_all_sent(evidence)


@pytest.mark.parametrize(
    "draws", [12, 5, 14, 15], ids=["from_store", "rules", "rule_books", "outcomes"]
)
async def test_f78_parts_that_are_cut_off_lose_nothing_and_heal(rig: Rig, draws: int) -> None:
    evidence = await befall(rig, "F78", LONGER, draws=draws)

    assert broken(evidence) == []
    assert is_all_sent(evidence)


@pytest.mark.parametrize("draws", [25, 4, 9], ids=["late", "in_pieces", "narrow"])
async def test_f79_a_bad_network_costs_time_and_nothing_else(rig: Rig, draws: int) -> None:
    evidence = await befall(rig, "F79", LONGER, draws=draws)

    assert broken(evidence) == []
    assert is_all_sent(evidence)


async def test_f80_every_process_can_be_replaced_under_load(rig: Rig) -> None:
    evidence = await befall(rig, "F80", LONGER)

    assert broken(evidence) == []
    assert is_all_sent(evidence)
    assert {process.exit_codes[-1] for process in all_but_meta(rig)} == {0}


async def test_f81_an_edge_that_is_replaced_loses_nothing(rig: Rig) -> None:
    evidence = await befall(rig, "F81", LONGER, has_echoes=True)

    assert broken(evidence) == []
    assert is_all_sent(evidence)
    assert rig.process("webhook").exit_codes[-1] == 0


async def test_f85_told_to_end_while_sending_it_says_how_its_sends_ended(rig: Rig) -> None:
    evidence = await befall(rig, "F85", LONGER, has_echoes=True)

    assert broken(evidence) == []
    assert is_all_sent(evidence)
    assert not_taken_once(evidence) == []


def all_but_meta(rig: Rig) -> list[Process]:
    processes = rig.system.supervisor.processes
    return [process for name, process in processes.items() if name != "simulator"]
