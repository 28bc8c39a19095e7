import asyncio
from typing import Any

import pytest

from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    VERDICT_EXPIRED,
    VERDICT_REFUSED,
    VERDICT_UNCERTAIN,
)
from pagewire.type.v1.decision_pb2 import Decision
from pagewire.type.v1.rule_pb2 import Action, LabelAction
from tests.support.desk import (
    PERSON,
    Desk,
    candidate,
    comment,
    decided,
    desk,
    matched,
    message,
    says,
)
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

LIMITS: list[tuple[str, dict[str, Any]]] = [
    ("once_per_person", {"once_per_person": True}),
    ("cooldown", {"cooldown_seconds": 60}),
    ("per_day", {"per_day": 1}),
]


async def ask(desk: Desk, mid: str, *, person: str = PERSON, **limits: Any) -> Decision:
    """What is decided of a message where one rule with these limits matches."""
    await desk.receive(message(mid, person=person))
    (decision,) = await desk.decide(matched(candidate(**limits)))
    return decision


async def send(desk: Desk, verdict: Any, **fields: Any) -> str:
    """Claims the one reply that is ready and records how it ended; its tag."""
    (reply,) = await desk.claim_replies()
    await desk.record(reply.tag, verdict, **fields)
    return reply.tag


@pytest.mark.parametrize(("reason", "limits"), LIMITS)
async def test_a_limit_lets_a_rule_answer_a_person_once(
    desk: Desk, reason: str, limits: dict[str, Any]
) -> None:
    first = await ask(desk, "m_1", **limits)

    second = await ask(desk, "m_2", **limits)

    assert first.reason == "fired"
    assert second.reason == reason
    assert not second.reply_ids


@pytest.mark.parametrize(("reason", "limits"), LIMITS)
async def test_a_limit_of_one_person_is_none_of_anothers(
    desk: Desk, reason: str, limits: dict[str, Any]
) -> None:
    await ask(desk, "m_1", **limits)

    other = await ask(desk, "m_2", person="2002", **limits)

    assert other.reason == "fired"


async def test_a_rule_that_may_not_leaves_the_event_to_the_next(desk: Desk) -> None:
    await ask(desk, "m_1", once_per_person=True)
    await desk.receive(message("m_2"))

    (decision,) = await desk.decide(matched(candidate(once_per_person=True), candidate(rule="b")))

    assert [verdict.reason for verdict in decision.rules] == ["once_per_person", "fired"]
    assert decision.reason == "fired"


async def test_a_cooldown_that_is_over_is_taken_over(desk: Desk) -> None:
    await ask(desk, "m_1", cooldown_seconds=60)
    await desk.rows.query("update mark set until = now()")

    second = await ask(desk, "m_2", cooldown_seconds=60)

    mark = await desk.rows.one("select reply_id, until > now() as holds from mark")
    assert second.reason == "fired"
    assert second.reply_ids[0].endswith(f"-{mark.reply_id}")
    assert mark.holds


async def test_per_day_counts_to_its_number(desk: Desk) -> None:
    reasons = [(await ask(desk, f"m_{n}", per_day=3)).reason for n in range(5)]

    assert reasons == ["fired"] * 3 + ["per_day"] * 2


async def test_the_slots_of_yesterday_are_none_of_todays(desk: Desk) -> None:
    await ask(desk, "m_1", per_day=1)
    await desk.rows.query(
        "update mark set mark_key = replace(mark_key, cast(cast(now() as date) as text), :day)",
        day="2020-01-01",
    )

    assert (await ask(desk, "m_2", per_day=1)).reason == "fired"


async def test_a_rule_with_several_limits_takes_all_marks_or_none(desk: Desk) -> None:
    await ask(desk, "m_1", per_day=1)

    refused = await ask(desk, "m_2", per_day=1, once_per_person=True, cooldown_seconds=60)

    marks = await desk.rows.query("select mark_key from mark")
    assert refused.reason == "per_day"
    assert [row.mark_key.split(":")[0] for row in marks] == ["day"]


@pytest.mark.parametrize(("reason", "limits"), LIMITS)
@pytest.mark.parametrize("verdict", [VERDICT_REFUSED, VERDICT_EXPIRED])
async def test_a_reply_that_came_to_nothing_frees_its_marks(
    desk: Desk, reason: str, limits: dict[str, Any], verdict: Any
) -> None:
    await ask(desk, "m_1", **limits)
    await send(desk, verdict, reason="graph_551")

    again = await ask(desk, "m_2", **limits)

    assert again.reason == "fired"


@pytest.mark.parametrize(("reason", "limits"), LIMITS)
async def test_a_late_acceptance_takes_its_marks_back_while_they_are_free(
    desk: Desk, reason: str, limits: dict[str, Any]
) -> None:
    await ask(desk, "m_1", **limits)
    tag = await send(desk, VERDICT_REFUSED, reason="graph_551")

    await desk.record(tag, VERDICT_ACCEPTED, mid="m_ours")

    assert (await ask(desk, "m_2", **limits)).reason == reason


async def test_a_late_acceptance_leaves_marks_that_another_reply_has_taken(desk: Desk) -> None:
    await ask(desk, "m_1", once_per_person=True)
    tag = await send(desk, VERDICT_REFUSED, reason="graph_551")
    second = await ask(desk, "m_2", once_per_person=True)

    await desk.record(tag, VERDICT_ACCEPTED, mid="m_ours")

    mark = await desk.rows.one("select reply_id, released from mark")
    assert second.reply_ids[0].endswith(f"-{mark.reply_id}")
    assert not mark.released
    # The second one's failure frees what is its own.
    await send(desk, VERDICT_REFUSED, reason="graph_551")
    assert (await ask(desk, "m_3", once_per_person=True)).reason == "fired"


async def test_a_parked_reply_keeps_its_marks(desk: Desk) -> None:
    await ask(desk, "m_1", once_per_person=True)
    await send(desk, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(601)
    await desk.sweep()

    again = await ask(desk, "m_2", once_per_person=True)

    assert (await desk.rows.one("select state from outbox")).state == "parked"
    assert again.reason == "once_per_person"


async def test_marks_stand_for_the_first_reply_that_says_something(desk: Desk) -> None:
    label = Action(add_label=LabelAction(name="lead"))
    await desk.receive(message())

    await desk.decide(matched(candidate(label, says(), once_per_person=True)))

    mark = await desk.rows.one("select reply_id from mark")
    row = await desk.rows.one("select reply_id from outbox where kind = 'message'")
    assert mark.reply_id == row.reply_id


async def test_a_mark_for_labels_alone_stands_for_no_reply(desk: Desk) -> None:
    label = Action(add_label=LabelAction(name="lead"))
    await desk.receive(message())

    await desk.decide(matched(candidate(label, once_per_person=True)))

    assert (await desk.rows.one("select reply_id from mark")).reply_id is None


@pytest.mark.parametrize(("reason", "limits"), LIMITS)
async def test_two_lanes_of_one_person_decided_at_once_get_one_answer(
    desk: Desk, reason: str, limits: dict[str, Any]
) -> None:
    await desk.receive(comment("c_1"), comment("c_2"))
    lanes = await desk.claim_lanes()

    responses = await asyncio.gather(
        *(desk.commit(decided(lane, matched(candidate(**limits)))) for lane in lanes)
    )

    decisions = [response.results[0].decisions[0].reason for response in responses]
    assert sorted(decisions) == sorted(["fired", reason])


async def test_the_slots_of_a_day_are_each_taken_once_by_lanes_decided_at_once(desk: Desk) -> None:
    await desk.receive(*(comment(f"c_{n}") for n in range(6)))
    lanes = await desk.claim_lanes()

    responses = await asyncio.gather(
        *(desk.commit(decided(lane, matched(candidate(per_day=4)))) for lane in lanes)
    )

    decisions = [response.results[0].decisions[0].reason for response in responses]
    assert sorted(decisions) == ["fired"] * 4 + ["per_day"] * 2
