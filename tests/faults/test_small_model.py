"""The small model of the live path: all that can happen to one lane, two events and two workers."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.explorer import (
    Rules,
    counts_look,
    explore,
    may_claim,
    next_to_send,
    on_commit,
)
from pagewire.store.v1.lane_service_pb2 import COMMIT_STATE_FENCED, ClaimedLane, LaneDecisions
from pagewire.store.v1.outbox_service_pb2 import VERDICT_UNCERTAIN
from pagewire_runtime.errors import InvalidArgument
from pagewire_store import ids, transitions
from pagewire_store.transitions import Signal, State
from tests.support.desk import Desk, decided, desk, matched, message, under_epoch
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

LEAST_STATES = 80_000
"""Fewer would mean that something can no longer happen in the model."""


@pytest.mark.timeout(240)
def test_in_every_state_that_can_be_reached_the_invariants_hold() -> None:
    found = explore()

    print(f"{found.states:,} states")  # noqa: T201  # how large the model is
    assert found.violation == "", " → ".join(found.way)
    assert found.states > LEAST_STATES


def table(**changes: State | None) -> Callable[[State, Signal], State | None]:
    """The store's table with entries changed: `SENDING_LAPSED=State.READY`."""
    changed = dict(transitions.TABLE)
    for name, to in changes.items():
        state, _, signal = name.partition("_")
        key = State[state], Signal[signal]
        if to is None:
            del changed[key]
        else:
            changed[key] = to
    return lambda state, signal: changed.get((state, signal))


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "a sender's death is taken for nothing sent": (
        "I4",
        {"after": table(SENDING_LAPSED=State.READY)},
    ),
    "a lost answer is taken for nothing sent": (
        "I4",
        {"after": table(SENDING_UNKNOWN=State.READY)},
    ),
    "one clean look is enough": ("I4", {"clean_look": lambda before: Signal.LAST_CLEAN_LOOK}),
    "a look counts whenever it is written down": ("I4", {"counts_look": lambda then, now: True}),
    "an acceptance comes too late to count": ("I4", {"after": table(PARKED_ACCEPTED=None)}),
    "a lost answer undoes an acceptance": ("I4", {"after": table(SENT_UNKNOWN=State.UNCERTAIN)}),
    "only who has the lease may say how it ended": ("I4", {"outcomes_are_fenced": True}),
    "the claim is written down after the request": ("I4", {"sends_before_claiming": True}),
    "what is in doubt is refused": ("I4", {"after": table(UNCERTAIN_GIVEN_UP=State.FAILED)}),
    "any ready reply may go": (
        "I6",
        {"next_to_send": lambda states: states.index("ready") if "ready" in states else None},
    ),
    "what is in doubt holds nobody back": (
        "I6",
        {
            "next_to_send": lambda states: next_to_send(
                [State.FAILED if state == "uncertain" else state for state in states]
            )
        },
    ),
    "the epoch is not looked at": (
        "I6",
        {"on_commit": lambda newest, *events: on_commit(True, *events)},
    ),
    "what was decided is decided again": (
        "I3",
        {"on_commit": lambda newest, asked, decided, pending: on_commit(newest, asked, (), asked)},
    ),
    "a lane is given to two": (
        "I6",
        {
            "may_claim": lambda pending, leased, over: pending > 0,
            "on_commit": lambda newest, *events: on_commit(True, *events),
        },
    ),
    "nobody takes a lane over": (
        "I7",
        {"may_claim": lambda pending, leased, over: pending > 0 and not leased},
    ),
    "nobody sweeps": ("I7", {"after": table(SENDING_LAPSED=None)}),
    "what is in doubt stays so": (
        "I7",
        {
            "after": table(
                UNCERTAIN_GIVEN_UP=State.UNCERTAIN, UNCERTAIN_LAST_CLEAN_LOOK=State.UNCERTAIN
            )
        },
    ),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", WRONG)
def test_a_rule_that_is_wrong_breaks_an_invariant(name: str) -> None:
    invariant, changes = WRONG[name]

    of_one = invariant in ("I3", "I4", "I7")  # one event is enough to break these
    found = explore(replace(Rules(events=1 if of_one else 2), **changes))

    assert found.violation.startswith(invariant), found.violation or "nothing was found"
    assert found.way


def test_the_way_to_a_violation_is_told_step_by_step() -> None:
    found = explore(Rules(events=1, outcomes_are_fenced=True))

    assert found.way[:4] == ["arrives", "claims the lane", "commit is committed", "claims a reply"]
    assert found.way[-1] == "records"
    assert found.violation == "I4: what is known to be taken is not SENT"


def test_only_where_reads_never_show_it_a_reply_may_go_again_and_after_two_looks() -> None:
    found = explore(Rules(events=1, reads_show_in_time=False))

    assert found.violation.startswith("I4")
    assert found.way.count("finds nothing") == transitions.CLEAN_LOOKS
    assert "second look is due" in found.way


# What the model says as functions, the store says in SQL.


async def claimed(desk: Desk, *mids: str) -> ClaimedLane:
    await desk.receive(*(message(mid) for mid in mids))
    (lane,) = await desk.claim_lanes()
    return lane


@pytest.mark.parametrize(
    ("events", "is_leased", "is_over"),
    [(0, False, False), (1, False, False), (2, True, False), (2, True, True), (0, True, True)],
)
async def test_postgresql_gives_a_lane_to_whom_the_model_gives_it(
    desk: Desk, events: int, is_leased: bool, is_over: bool
) -> None:
    lane = await claimed(desk, "m_1", "m_2")
    kept = 2 - events
    answers = [matched()] * kept
    await desk.commit(decided(lane, *answers, release=False))
    if not is_leased:
        await desk.rows.query("update lane set lease_owner = null, lease_until = null")
    if is_over:
        await desk.rows.query("update lane set lease_until = now() - interval '1 s'")

    given = await desk.claim_lanes()

    assert bool(given) == may_claim(events, is_leased, is_over)
    assert [each.ref.epoch for each in given] == [lane.ref.epoch + 1] * len(given)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 3),
    asked=st.lists(st.integers(0, 2), unique=True, min_size=1),
    is_newest=st.booleans(),
)
async def test_postgresql_answers_a_commit_as_the_model_does(
    desk: Desk, before: int, asked: list[int], is_newest: bool
) -> None:
    await _empty(desk)
    lane = await claimed(desk, "m_1", "m_2", "m_3")
    await desk.commit(decided(lane, *[matched()] * before, release=False))
    said = _about(lane, asked)
    if not is_newest:
        said = under_epoch(said, lane.ref.epoch - 1)

    answer = await _answer(desk, said)

    done, waiting = list(range(before)), list(range(before, 3))
    expected, fresh = on_commit(is_newest, asked, done, waiting)
    assert answer == expected
    decisions = await desk.rows.one("select count(*) as n from decision")
    assert decisions.n == before + len(fresh)


def _about(lane: ClaimedLane, asked: list[int]) -> LaneDecisions:
    """The decisions of these of the lane's events, in this order."""
    whole = decided(lane, *[matched()] * 3)
    chosen = LaneDecisions(ref=whole.ref, release=False)
    chosen.events.extend(whole.events[at] for at in asked)
    return chosen


async def _answer(desk: Desk, said: LaneDecisions) -> str:
    before = (await desk.rows.one("select count(*) as n from decision")).n
    try:
        response = await desk.commit(said)
    except InvalidArgument:
        return "refused"
    if response.results[0].state == COMMIT_STATE_FENCED:
        return "fenced"
    after = (await desk.rows.one("select count(*) as n from decision")).n
    return "committed" if after > before else "repeated"


async def _empty(desk: Desk) -> None:
    for table_name in ("decision", "fired_rule", "attempt", "outbox", "event", "message", "lane"):
        await desk.rows.query(f"delete from {table_name}")


async def test_postgresql_hands_out_the_reply_that_the_model_does(desk: Desk) -> None:
    lane = await claimed(desk, "m_1", "m_2")
    await desk.commit(decided(lane, *[matched()] * 2))
    ordered = await desk.rows.query("select reply_id from outbox order by ordinal")
    numbers = [row.reply_id for row in ordered]

    for states in product(State, repeat=2):
        unsettled = [state for state in states if state in transitions.UNSETTLED]
        if any(state in transitions.IN_FLIGHT for state in unsettled[1:]):
            continue  # only the first is ever handed out, and a parked one comes back as the last
        await _stand(desk, numbers, states)
        given = [ids.parse_reply_id(reply.reply_id) for reply in await desk.claim_replies()]
        at = next_to_send(states)
        assert given == ([] if at is None else [("1001", numbers[at])]), states


async def _stand(desk: Desk, numbers: list[int], states: tuple[Any, ...]) -> None:
    await desk.rows.query("delete from attempt")
    await desk.rows.query("update outbox set state = 'sent', not_before = null")
    for number, state in zip(numbers, states, strict=True):
        await desk.rows.query(
            "update outbox set state = :state where reply_id = :number", state=state, number=number
        )


@pytest.mark.parametrize("then", [0, 1])
@pytest.mark.parametrize("now", [0, 1])
async def test_postgresql_counts_the_look_that_the_model_counts(
    desk: Desk, then: int, now: int
) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    for _ in range(now):
        await desk.pass_time(61)
        await desk.look()
        await desk.found(reply.tag, clean=True)
    await desk.pass_time(61)
    await desk.look()

    state = await desk.found(reply.tag, clean=True, clean_looks=then)

    counted = {0: "uncertain", 1: "ready"}[now] if counts_look(then, now) else "uncertain"
    row = await desk.reply(reply.reply_id)
    assert state == counted
    assert row.clean_looks == (0 if state == "ready" else now + counts_look(then, now))
