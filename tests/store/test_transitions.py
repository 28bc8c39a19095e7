from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    VERDICT_EXPIRED,
    VERDICT_PAGE_BLOCKED,
    VERDICT_REFUSED,
    VERDICT_RETRY,
    VERDICT_UNCERTAIN,
)
from pagewire_store import outbox, settling
from pagewire_store.database import driver, in_transaction
from pagewire_store.parked import retry_reply
from pagewire_store.settling import Ending
from pagewire_store.transitions import (
    IN_FLIGHT,
    TABLE,
    VERDICTS,
    Signal,
    State,
    after,
    backoff,
    clean_look,
    next_look,
    of_kind,
)
from pagewire_store.trips import within
from tests.support.desk import PAGE, PAUSE, Desk, candidate, desk, message, says
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

# Those that a claim or a person sends, by statements of their own.
ELSEWHERE = {Signal.CLAIMED, Signal.RETRIED}
# Those that settling makes of others, by the kind of the reply and the looks before.
DERIVED = {Signal.UNKNOWN_HARMLESS, Signal.LAPSED_HARMLESS, Signal.LAST_CLEAN_LOOK}
SENT_IN = sorted(set(Signal) - ELSEWHERE - DERIVED)


async def put(desk: Desk, state: State) -> tuple[int, str]:
    """A reply in this state, by fiat; its number and its latest attempt's tag."""
    reply = await desk.answer(message(), candidate(says()))
    row = await desk.reply(reply.reply_id)
    await desk.rows.query(
        """
        update outbox set state = :state, look_due_at = now(), look_lease_until = now(),
            uncertain_at = now(), lease_until = case when :state = 'sending' then lease_until end
        """,
        state=state.value,
    )
    return row.reply_id, reply.tag


async def befall(desk: Desk, number: int, tag: str | None, signal: Signal) -> None:
    async def work(connection: AsyncConnection) -> None:
        raw = await driver(connection)
        ending = Ending(PAGE, number, tag, signal, reason="a_word", via="response")
        settled = await settling.settle(raw, [ending], person_pause=PAUSE)
        await within(raw, *settled.left)

    await in_transaction(desk.pools.general, work)


@pytest.mark.parametrize(("state", "signal"), list(product(State, SENT_IN)))
async def test_a_reply_goes_where_the_table_says_and_nowhere_else(
    desk: Desk, state: State, signal: Signal
) -> None:
    number, tag = await put(desk, state)

    await befall(desk, number, tag, signal)

    row = await desk.rows.one("select * from outbox")
    assert row.state == (after(state, signal) or state)
    assert (row.lease_until is not None) == (row.state == "sending")


@pytest.mark.parametrize(
    ("state", "signal"), list(product(State, sorted(set(SENT_IN) - {Signal.ACCEPTED})))
)
async def test_of_an_attempt_that_is_not_the_latest_nothing_but_acceptance_moves_a_reply(
    desk: Desk, state: State, signal: Signal
) -> None:
    number, _ = await put(desk, state)

    await befall(desk, number, "pw1.of-an-older-attempt", signal)

    assert (await desk.rows.one("select state from outbox")).state == state


@pytest.mark.parametrize("state", State)
async def test_an_acceptance_of_any_attempt_makes_any_state_sent(desk: Desk, state: State) -> None:
    number, _ = await put(desk, state)

    await befall(desk, number, "pw1.of-an-older-attempt", Signal.ACCEPTED)

    assert (await desk.rows.one("select state from outbox")).state == "sent"


@pytest.mark.parametrize("state", State)
async def test_only_a_parked_reply_is_put_back_by_a_person(desk: Desk, state: State) -> None:
    number, _ = await put(desk, state)

    done = await in_transaction(
        desk.pools.general, lambda connection: retry_reply(connection, PAGE, number)
    )

    expected = after(state, Signal.RETRIED)
    assert done == (expected is not None)
    assert (await desk.rows.one("select state from outbox")).state == (expected or state)


@pytest.mark.parametrize("state", State)
async def test_only_a_ready_reply_is_claimed(desk: Desk, state: State) -> None:
    await put(desk, state)

    claimed = await desk.claim_replies()

    expected = after(state, Signal.CLAIMED)
    assert bool(claimed) == (expected is not None)
    assert (await desk.rows.one("select state from outbox")).state == (expected or state)


@pytest.mark.parametrize("kind", ["hide_comment", "add_label", "remove_label"])
@pytest.mark.parametrize("signal", [Signal.UNKNOWN, Signal.LAPSED])
async def test_what_may_be_asked_twice_is_ready_again_instead_of_uncertain(
    desk: Desk, kind: str, signal: Signal
) -> None:
    number, tag = await put(desk, State.SENDING)
    await desk.rows.query("update outbox set kind = :kind", kind=kind)

    await befall(desk, number, tag, signal)

    assert (await desk.rows.one("select state from outbox")).state == "ready"


def test_sent_is_final() -> None:
    assert {to for (state, _), to in TABLE.items() if state is State.SENT} == {State.SENT}


def test_from_every_state_there_is_a_way_to_sent() -> None:
    assert {after(state, Signal.ACCEPTED) for state in State} == {State.SENT}


def test_only_a_claim_begins_a_send() -> None:
    begins = {s for (state, s), to in TABLE.items() if to is State.SENDING and state is not to}

    assert begins == {Signal.CLAIMED}


def test_an_uncertain_reply_is_sent_again_only_after_looks_a_definite_word_or_no_echo() -> None:
    ways = {s for (state, s), to in TABLE.items() if state is State.UNCERTAIN and to is State.READY}

    assert ways == {
        Signal.LAST_CLEAN_LOOK,
        Signal.NO_ECHO,
        Signal.NOT_NOW,
        Signal.BLOCKED,
        Signal.UNKNOWN_HARMLESS,
    }


def test_a_late_word_that_is_no_acceptance_moves_nothing() -> None:
    for state, verdict in product(set(State) - IN_FLIGHT, VERDICTS - {Signal.ACCEPTED}):
        assert after(state, verdict) is state


def test_every_verdict_of_the_contract_has_a_signal() -> None:
    verdicts = [
        *(VERDICT_ACCEPTED, VERDICT_REFUSED, VERDICT_RETRY),
        *(VERDICT_UNCERTAIN, VERDICT_EXPIRED, VERDICT_PAGE_BLOCKED),
    ]

    assert {outbox._SIGNALS[verdict] for verdict in verdicts} <= VERDICTS


@pytest.mark.parametrize("kind", ["message", "private_reply", "comment_reply"])
def test_what_must_not_be_said_twice_is_uncertain(kind: str) -> None:
    assert of_kind(Signal.UNKNOWN, kind) is Signal.UNKNOWN
    assert of_kind(Signal.LAPSED, kind) is Signal.LAPSED


def test_two_clean_looks_are_needed() -> None:
    assert clean_look(0) is Signal.CLEAN_LOOK
    assert clean_look(1) is Signal.LAST_CLEAN_LOOK


def test_looks_are_due_twenty_and_sixty_seconds_after_the_attempt_and_thirty_apart() -> None:
    began = NOW - timedelta(seconds=25)

    assert next_look(Signal.UNKNOWN, began, NOW) == began + timedelta(seconds=20)
    assert next_look(Signal.CLEAN_LOOK, began, NOW) == began + timedelta(seconds=60)
    late = began + timedelta(seconds=55)
    assert next_look(Signal.CLEAN_LOOK, began, late) == late + timedelta(seconds=30)
    assert next_look(Signal.FAILED_LOOK, began, NOW) == NOW + timedelta(seconds=10)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_between_attempts_is_one_second_to_five_minutes(
    attempt: int, chance: float
) -> None:
    pause = backoff(attempt, chance)

    assert (
        timedelta(seconds=1)
        <= pause
        <= min(timedelta(minutes=5), timedelta(seconds=2.0 ** min(attempt, 10)))
    )
