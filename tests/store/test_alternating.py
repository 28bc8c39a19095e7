"""A reply of which nobody knows, attempt by attempt: no number bounds them, its expiry does."""

from collections.abc import Awaitable, Callable

import pytest

from pagewire.store.v1.outbox_service_pb2 import VERDICT_ACCEPTED, VERDICT_UNCERTAIN
from pagewire.type.v1.event_pb2 import Event
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import Action
from tests.support.desk import Desk, candidate, comment, desk, matched, message, says
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]


LONGEST_PAUSE = 300
"""Seconds; before the next attempt."""


async def not_found(desk: Desk, tag: str) -> None:
    """Nobody knows of this attempt, two looks in their time find nothing, and its pause is over."""
    assert await desk.record(tag, VERDICT_UNCERTAIN, reason="timeout") == "uncertain"
    for _ in range(2):
        await desk.pass_time(290)
        assert len(await desk.look()) == 1
        await desk.found(tag, clean=True)
    await desk.pass_time(LONGEST_PAUSE)
    await desk.sweep()


async def no_echo(desk: Desk, tag: str) -> None:
    """Nobody knows of this private reply, no echo comes, and its pause is over."""
    assert await desk.record(tag, VERDICT_UNCERTAIN, reason="timeout") == "uncertain"
    while await desk.sweep():
        pass
    for seconds in (21, LONGEST_PAUSE):
        await desk.pass_time(seconds)
        while await desk.sweep():
            pass


PRIVATE = Action(private_reply=ReplyContent(text="10 euro"))


@pytest.mark.parametrize(
    ("trigger", "age", "action", "goes_on", "attempts"),
    [
        # An hour of its day is left; each attempt takes 580 seconds, and the pause after it.
        (message, 23 * 3600, says(), not_found, 5),
        # 1,400 seconds of its seven days less five minutes, at 21 each and the pause.
        (comment, 7 * 86_400 - 1_700, PRIVATE, no_echo, 5),
    ],
    ids=["message", "private reply"],
)
async def test_a_reply_that_stays_uncertain_attempt_by_attempt_expires_with_a_reason(
    desk: Desk,
    trigger: Callable[..., Event],
    age: int,
    action: Action,
    goes_on: Callable[[Desk, str], Awaitable[None]],
    attempts: int,
) -> None:
    rule = candidate(action, once_per_person=True)
    reply = await desk.answer(trigger(seconds=age), rule)
    held = await desk.rows.one("select released from mark")

    claimed = [reply]
    for _ in range(2 * attempts):
        await goes_on(desk, claimed[-1].tag)
        claimed += await desk.claim_replies()
        if (await desk.reply(reply.reply_id)).state == "expired":
            break

    row = await desk.reply(reply.reply_id)
    mark = await desk.rows.one("select released from mark")
    verdicts = await desk.rows.query("select verdict, reason from attempt order by number")
    assert (row.state, row.state_reason) == ("expired", "expired")
    assert row.ended_at is not None
    assert (held.released, mark.released) == (False, True)
    assert [one.attempt for one in claimed] == list(range(1, attempts + 1))
    assert [one.after_uncertain for one in claimed] == [False] + [True] * (attempts - 1)
    assert [tuple(verdict) for verdict in verdicts] == [("uncertain", "timeout")] * attempts


async def test_what_a_reply_that_expired_so_had_taken_is_free_for_the_next_one(desk: Desk) -> None:
    rule = candidate(once_per_person=True)
    reply = await desk.answer(message("m_1", seconds=24 * 3600 - 400), rule)
    await desk.receive(message("m_2"))
    (barred,) = await desk.decide(matched(rule))
    await not_found(desk, reply.tag)
    await desk.receive(message("m_3"))

    (fired,) = await desk.decide(matched(rule))

    (next_,) = await desk.claim_replies()
    late = await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_after_all")
    assert (barred.reason, fired.reason) == ("once_per_person", "fired")
    assert [next_.reply_id] == list(fired.reply_ids)
    assert late == "sent"
