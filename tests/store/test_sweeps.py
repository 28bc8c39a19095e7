import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    VERDICT_EXPIRED,
    VERDICT_REFUSED,
    VERDICT_RETRY,
    VERDICT_UNCERTAIN,
    ClaimedReply,
)
from pagewire.type.v1.event_pb2 import Event
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import Action, Candidate, HideAction
from pagewire_runtime import metrics
from pagewire_store import pages as pages_
from pagewire_store import settling
from pagewire_store.database import driver, in_transaction
from pagewire_store.parked import retry_reply
from pagewire_store.settling import Ending
from pagewire_store.transitions import Signal, Waits, backoff
from pagewire_store.trips import within
from tests.support.desk import (
    PAGE,
    PAUSE,
    Desk,
    candidate,
    comment,
    decided,
    desk,
    echo,
    matched,
    message,
)
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

PRIVATE = candidate(Action(private_reply=ReplyContent(text="10 euro")))
HIDE = candidate(Action(hide_comment=HideAction(hidden=True)))


async def uncertain(desk: Desk) -> ClaimedReply:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    return reply


async def test_a_send_whose_lease_is_over_is_uncertain(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.lapse()

    swept = await desk.sweep()

    row = await desk.reply(reply.reply_id)
    attempt = await desk.rows.one("select verdict from attempt")
    assert swept == 1
    assert (row.state, row.state_reason, row.lease_until) == ("uncertain", "lease_lapsed", None)
    assert attempt.verdict == "lease_lapsed"
    assert desk.outbox_woken.count == 2  # by the decision, and now


async def test_who_looks_is_woken_when_an_uncertain_reply_is_to_be_looked_for(desk: Desk) -> None:
    await uncertain(desk)
    await desk.sweep()
    early = desk.looks_woken.count
    await desk.pass_time(21)

    await desk.sweep()

    assert (early, desk.looks_woken.count) == (0, 1)


async def test_nobody_is_woken_to_look_while_somebody_looks(desk: Desk) -> None:
    await uncertain(desk)
    await desk.pass_time(21)
    await desk.look()

    await desk.sweep()

    assert desk.looks_woken.count == 0


async def test_a_send_within_its_lease_is_left_alone(desk: Desk) -> None:
    reply = await desk.answer(message())

    assert await desk.sweep() == 0
    assert (await desk.reply(reply.reply_id)).state == "sending"


async def test_a_late_outcome_of_a_send_whose_lease_is_over_still_counts(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.lapse()
    await desk.sweep()

    assert await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours") == "sent"


async def test_hiding_whose_lease_is_over_is_asked_again(desk: Desk) -> None:
    reply = await desk.answer(comment(), HIDE)
    await desk.lapse()
    await desk.sweep()
    await desk.pass_time(3)

    (again,) = await desk.claim_replies()

    assert (again.reply_id, again.attempt) == (reply.reply_id, 2)


async def test_a_reply_that_waited_too_long_expires_and_the_next_goes(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    await desk.decide(matched(candidate(once_per_person=True)), matched())
    await desk.rows.query("update outbox set expires_at = now() where ordinal = 1")

    await desk.sweep()

    first = await desk.rows.one("select * from outbox where ordinal = 1")
    mark = await desk.rows.one("select released from mark")
    assert (first.state, first.state_reason) == ("expired", "expired")
    assert mark.released
    assert len(await desk.claim_replies()) == 1


async def test_replies_of_a_blocked_page_expire_too(desk: Desk) -> None:
    await desk.receive(message())
    await desk.decide(matched())
    await desk.rows.query("update page set state = 'blocked', blocked_at = now()")
    await desk.pass_time(24 * 3600)

    await desk.sweep()

    assert (await desk.rows.one("select state from outbox")).state == "expired"


async def test_replies_put_in_while_their_page_was_disconnected_fail(desk: Desk) -> None:
    await desk.receive(message())
    await desk.decide(matched())
    await desk.rows.query("update page set connected = false")

    await desk.sweep()

    row = await desk.rows.one("select state, state_reason from outbox")
    assert tuple(row) == ("failed", "page_disconnected")


async def test_ten_minutes_of_not_knowing_park_a_reply(desk: Desk) -> None:
    reply = await uncertain(desk)
    await desk.pass_time(599)
    early = await desk.sweep()
    await desk.pass_time(2)

    await desk.sweep()

    row = await desk.reply(reply.reply_id)
    assert early == 0
    assert (row.state, row.state_reason) == ("parked", "uncertain_too_long")
    assert await desk.look() == []


async def test_how_long_a_reply_may_be_uncertain_is_a_setting(desk: Desk) -> None:
    reply = await uncertain(desk)
    waits = Waits(patience=timedelta(seconds=5))
    await desk.pass_time(4)
    early = await desk.sweep(waits)
    await desk.pass_time(2)

    await desk.sweep(waits)

    assert early == 0
    assert (await desk.reply(reply.reply_id)).state == "parked"


async def test_a_lapsed_send_is_looked_for_after_the_wait_that_was_set(desk: Desk) -> None:
    await desk.receive(message())
    await desk.decide(matched())
    await desk.claim_replies()
    await desk.lapse()

    await desk.sweep(Waits(first_look=timedelta(seconds=3)))

    row = await desk.rows.one(
        "select extract(epoch from o.look_due_at - a.started_at) from outbox o"
        " join attempt a on a.page_id = o.page_id and a.tag = o.tag"
    )
    assert float(row[0]) == 3


async def test_parking_a_reply_raises_the_alarm_once(desk: Desk) -> None:
    await uncertain(desk)
    await desk.pass_time(601)
    before = parked_replies()

    await desk.sweep()
    await desk.sweep()

    assert parked_replies() == before + 1


def parked_replies() -> float:
    """How many replies came to be parked, by whatever signal."""
    return sum(
        sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "pagewire_replies_total" and sample.labels["state"] == "parked"
    )


async def test_the_ten_minutes_stand_still_while_the_page_is_blocked(desk: Desk) -> None:
    reply = await uncertain(desk)
    await desk.pass_time(300)
    await desk.rows.query("update page set state = 'blocked', blocked_at = now()")
    await desk.pass_time(3600)
    await desk.rows.query("update page set blocked_at = blocked_at - interval '1 hour'")

    blocked = await desk.sweep()
    await in_transaction(
        desk.pools.general, lambda connection: pages_.let_clocks_run(connection, PAGE)
    )
    await desk.rows.query("update page set state = 'healthy', blocked_at = null")
    unblocked = await desk.sweep()
    await desk.pass_time(301)
    await desk.sweep()

    assert (blocked, unblocked) == (0, 0)
    assert (await desk.reply(reply.reply_id)).state == "parked"


async def test_a_private_reply_without_an_echo_is_tried_again_and_known_to_be(desk: Desk) -> None:
    reply = await desk.answer(comment(), PRIVATE)
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    early = await desk.sweep()
    await desk.pass_time(21)

    await desk.sweep()

    await desk.pass_time(2)
    (again,) = await desk.claim_replies()
    assert early == 0
    assert (again.reply_id, again.after_uncertain) == (reply.reply_id, True)


class NearlyOne(random.Random):
    """Chance, as it makes the longest pauses."""

    def random(self) -> float:
        return 0.999


@pytest.mark.parametrize("attempt", [3, 6, 20])
@pytest.mark.parametrize(
    ("trigger", "rule"),
    [(message, candidate()), (comment, PRIVATE)],
    ids=["two clean looks", "no echo"],
)
async def test_what_nobody_can_tell_the_end_of_waits_the_longer_the_more_often_it_was_tried(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    trigger: Callable[[], Event],
    rule: Candidate,
    attempt: int,
) -> None:
    monkeypatch.setattr("pagewire_store.settling.random", NearlyOne())
    pause = backoff(attempt, NearlyOne().random()).total_seconds()
    await desk.receive(trigger())
    await desk.decide(matched(rule))
    await desk.rows.query("update outbox set attempt = :tried", tried=attempt - 1)
    (reply,) = await desk.claim_replies()
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    for _ in range(2):
        await desk.pass_time(60)
        for _ in await desk.look():
            await desk.found(reply.tag, clean=True)
    await desk.sweep()

    await desk.pass_time(pause - 4)
    early = await desk.claim_replies()
    await desk.pass_time(4)
    (again,) = await desk.claim_replies()

    assert early == []
    assert (reply.attempt, again.attempt, again.after_uncertain) == (attempt, attempt + 1, True)


async def test_already_replied_after_a_private_reply_was_uncertain_means_sent(desk: Desk) -> None:
    reply = await desk.answer(comment(), PRIVATE)
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)
    await desk.sweep()
    await desk.pass_time(2)
    (again,) = await desk.claim_replies()

    state = await desk.record(again.tag, VERDICT_ACCEPTED, reason="already_replied")

    assert state == "sent"
    assert (await desk.rows.one("select answered_at from comment")).answered_at is not None


async def test_a_sweep_that_is_overtaken_changes_nothing(desk: Desk) -> None:
    first = await desk.answer(message())
    row = await desk.reply(first.reply_id)
    await desk.record(first.tag, VERDICT_RETRY, reason="connect_failed")
    await desk.pass_time(5)
    (second,) = await desk.claim_replies()
    seen_before = Ending(PAGE, row.reply_id, first.tag, Signal.LAPSED)

    async def work(connection: Any) -> None:
        raw = await driver(connection)
        settled = await settling.settle(raw, [seen_before], person_pause=PAUSE)
        await within(raw, *settled.left)

    await in_transaction(desk.pools.general, work)

    attempts = await desk.rows.query("select verdict from attempt order by number")
    assert (await desk.reply(second.reply_id)).state == "sending"
    assert [attempt.verdict for attempt in attempts] == ["retry", None]


async def test_more_than_a_chunk_is_swept_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagewire_store.sweeps.CHUNK", 2)
    await desk.receive(*(message(f"m_{n}", person=f"{n}") for n in range(5)))
    lanes = await desk.claim_lanes()
    await desk.commit(*(decided(lane, matched()) for lane in lanes))
    await desk.pass_time(24 * 3600)

    assert await desk.sweep() == 5


@dataclass
class Model:
    """What must hold of one lane, whatever happens to it in whatever order."""

    desk: Desk
    chance: random.Random
    tags: list[ClaimedReply] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    ever_sent: set[int] = field(default_factory=set)
    rows: int = 0

    async def step(self) -> None:
        await self.chance.choice(self.moves())()
        await self.check()

    def moves(self) -> list[Callable[[], Any]]:
        moves = [self.put_in, self.claim, self.claim, self.wait, self.sweep, self.look, self.retry]
        return moves + ([self.outcome, self.outcome, self.echo] if self.tags else [])

    async def put_in(self) -> None:
        self.rows += 1
        await self.desk.receive(message(f"m_{self.rows}"))
        await self.desk.decide(matched(), cap=1000)

    async def claim(self) -> None:
        claimed = await self.desk.claim_replies()
        assert len(claimed) <= 1
        for reply in claimed:
            lower = await self.desk.rows.query(
                """
                select 1 from outbox l join outbox o using (page_id, lane)
                where o.tag = :tag and l.ordinal < o.ordinal
                    and l.state in ('ready', 'sending', 'uncertain')
                """,
                tag=reply.tag,
            )
            assert lower == []
        self.tags += claimed

    async def outcome(self) -> None:
        verdicts = [VERDICT_ACCEPTED, VERDICT_REFUSED, VERDICT_RETRY]
        verdict = self.chance.choice([*verdicts, VERDICT_UNCERTAIN, VERDICT_EXPIRED])
        reply = self.chance.choice(self.tags)
        await self.desk.record(reply.tag, verdict, mid=f"mid-{reply.tag}", reason="a_word")
        if verdict == VERDICT_ACCEPTED:
            self.accepted.add(reply.reply_id)

    async def echo(self) -> None:
        reply = self.chance.choice(self.tags)
        await self.desk.receive(echo(f"mid-{reply.tag}", tag=reply.tag, app_id="77"))
        self.accepted.add(reply.reply_id)

    async def wait(self) -> None:
        await self.desk.pass_time(self.chance.choice([5, 20, 60, 700]))

    async def sweep(self) -> None:
        await self.desk.sweep()

    async def retry(self) -> None:
        parked = await self.desk.rows.query("select reply_id from outbox where state = 'parked'")
        for row in parked:
            await in_transaction(
                self.desk.pools.general,
                partial(retry_reply, page_id=PAGE, number=row.reply_id),
            )

    async def look(self) -> None:
        for look in await self.desk.look():
            await self.desk.found(look.reply.tag, clean=True)

    async def check(self) -> None:
        rows = await self.desk.rows.query("select * from outbox")
        in_flight = [row for row in rows if row.state in ("sending", "uncertain")]
        sent = {row.reply_id for row in rows if row.state == "sent"}
        assert len(rows) == self.rows
        assert len(in_flight) <= 1
        assert sent >= self.ever_sent
        assert {f"r-{PAGE}-{number}" for number in sent} == self.accepted
        assert all(row.ended_at for row in rows if row.state in ("sent", "failed", "expired"))
        assert all(row.look_due_at for row in rows if row.state == "uncertain")
        self.ever_sent = sent


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_in_whatever_order_a_lane_keeps_its_promises(
    desk: Desk, seed: int
) -> None:
    model = Model(desk, random.Random(seed))

    for _ in range(40):
        await model.step()

    shown = await desk.rows.query(
        "select distinct reply_id from message where direction = 'outbound'"
    )
    assert {row.reply_id for row in shown} == model.ever_sent
