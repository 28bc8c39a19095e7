"""What sync relies on of the outbox: held by the store's own, and by the fake of sync's tests."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    VERDICT_EXPIRED,
    VERDICT_PAGE_BLOCKED,
    VERDICT_REFUSED,
    VERDICT_RETRY,
    VERDICT_UNCERTAIN,
    VERDICT_UNSPECIFIED,
    AttemptOutcome,
    ClaimedReply,
    ClaimReadBacksRequest,
    ClaimRepliesRequest,
    ReadBack,
    ReadBackResult,
    RecordOutcomesRequest,
    RecordReadBacksRequest,
    Verdict,
)
from pagewire.store.v1.outbox_service_pb2_grpc import (
    OutboxServiceStub,
    add_OutboxServiceServicer_to_server,
)
from pagewire.type.v1.reply_pb2 import (
    REPLY_KIND_ADD_LABEL,
    REPLY_KIND_COMMENT_REPLY,
    REPLY_KIND_HIDE_COMMENT,
    REPLY_KIND_MESSAGE,
    REPLY_KIND_PRIVATE_REPLY,
    REPLY_KIND_REMOVE_LABEL,
    ReplyContent,
    ReplyKind,
    ReplyState,
)
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import pages
from pagewire_store.database import in_transaction
from pagewire_store.outbox_servicer import OutboxServicer
from pagewire_store.waking import Waking
from pagewire_sync import readback, sender
from tests.support.desk import LEASE, PAGE, PAUSE, Desk, desk
from tests.support.outbox import LONGEST_PAUSE, FakeOutbox, reply
from tests.support.servers import module_database_url
from tests.support.stored import channel_to

__all__ = ["desk", "module_database_url"]

OTHER_PAGE = "1002"
ON_A_PERSON = frozenset({REPLY_KIND_MESSAGE, REPLY_KIND_ADD_LABEL, REPLY_KIND_REMOVE_LABEL})
HARMLESS = [REPLY_KIND_HIDE_COMMENT, REPLY_KIND_ADD_LABEL, REPLY_KIND_REMOVE_LABEL]
FOUND_BY_LOOKING = [REPLY_KIND_MESSAGE, REPLY_KIND_COMMENT_REPLY]


class Calls(sender.Outbox, readback.Outbox, Protocol):
    """All that sync asks."""


class Outbox(Protocol):
    """One implementation, with what befalls it from other sides."""

    calls: Calls

    async def put(
        self, *numbers: int, lane: str, page: str = PAGE, kind: ReplyKind.ValueType = ...
    ) -> None:
        """Replies of one lane, in this order; all to one person, or below one comment."""

    async def pass_time(self, seconds: float) -> None:
        """So much time goes by, and what it brings about happens."""

    async def unblock(self, page: str) -> None:
        """A check finds that the page may send again."""


class Faked:
    """Sync's fake."""

    def __init__(self) -> None:
        self._fake = FakeOutbox(lease=LEASE)
        self.calls: Calls = self._fake

    async def put(
        self,
        *numbers: int,
        lane: str,
        page: str = PAGE,
        kind: ReplyKind.ValueType = REPLY_KIND_MESSAGE,
    ) -> None:
        person = lane if kind in ON_A_PERSON else None
        comment = None if person else lane
        for number in numbers:
            made = reply(
                number,
                reply_id=f"r-{page}-{number}",
                page_id=page,
                kind=kind,
                person_id=person,
                comment_id=comment,
            )
            self._fake.put(made, lane=lane)

    async def pass_time(self, seconds: float) -> None:
        self._fake.pass_time(seconds)

    async def unblock(self, page: str) -> None:
        self._fake.unblock(page)


class Stored:
    """The store's, over the wire and PostgreSQL."""

    def __init__(self, desk: Desk, calls: Calls) -> None:
        self._desk = desk
        self.calls = calls

    async def put(
        self,
        *numbers: int,
        lane: str,
        page: str = PAGE,
        kind: ReplyKind.ValueType = REPLY_KIND_MESSAGE,
    ) -> None:
        for number in numbers:
            await self._desk.rows.query(
                """
                insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, person_id,
                    comment_id, content, label, state, expires_at)
                values (:page, :number, :lane, :number, :kind, 'rule', :person, :comment,
                    :content, 'lead', 'ready', now() + interval '23 hours')
                """,
                page=page,
                number=number,
                lane=lane,
                kind=ReplyKind.Name(kind).removeprefix("REPLY_KIND_").lower(),
                person=lane if kind in ON_A_PERSON else None,
                comment=None if kind in ON_A_PERSON else lane,
                content=ReplyContent(text=f"answer {number}").SerializeToString(),
            )

    async def pass_time(self, seconds: float) -> None:
        await self._desk.pass_time(seconds)
        while await self._desk.sweep():  # one sweep's end may be the next one's beginning
            pass

    async def unblock(self, page: str) -> None:
        async def work(connection: AsyncConnection) -> None:
            await pages.let_clocks_run(connection, page)

        await in_transaction(self._desk.pools.upkeep, work)
        await self._desk.rows.query(
            "update page set state = 'healthy', blocked_at = null where page_id = :page", page=page
        )


@asynccontextmanager
async def stored(desk: Desk) -> AsyncIterator[Stored]:
    await desk.rows.add_page(OTHER_PAGE)
    servicer = OutboxServicer(
        desk.pools.live, Waking(""), Waking(""), lease=LEASE, person_pause=PAUSE
    )
    async with channel_to(
        lambda server: add_OutboxServiceServicer_to_server(servicer, server), "sync"
    ) as channel:
        yield Stored(desk, OutboxServiceStub(channel))


@pytest.fixture(params=["fake", "store"])
async def outbox(request: pytest.FixtureRequest, desk: Desk) -> AsyncIterator[Outbox]:
    if request.param == "fake":
        yield Faked()
        return
    async with stored(desk) as held:
        yield held


def number_of(claimed: ClaimedReply) -> int:
    return int(claimed.reply_id.rpartition("-")[2])


def numbers_of(claimed: Sequence[ClaimedReply]) -> list[int]:
    return sorted(map(number_of, claimed))


def words(states: Sequence[ReplyState.ValueType]) -> list[str]:
    return [ReplyState.Name(state).removeprefix("REPLY_STATE_").lower() for state in states]


async def claim(outbox: Outbox, at_most: int = 10) -> list[ClaimedReply]:
    request = ClaimRepliesRequest(owner="sync", max_replies=at_most)
    return list((await outbox.calls.ClaimReplies(request)).replies)


async def only(outbox: Outbox) -> ClaimedReply:
    """The one reply that is handed out now."""
    (claimed,) = await claim(outbox)
    return claimed


async def record(outbox: Outbox, tag: str, verdict: Verdict.ValueType, **fields: Any) -> str:
    """Writes down how an attempt ended; the reply's state after it."""
    outcome = AttemptOutcome(tag=tag, verdict=verdict, reason="a_word", **fields)
    answer = await outbox.calls.RecordOutcomes(RecordOutcomesRequest(outcomes=[outcome]))
    return words(answer.states)[0]


async def look(outbox: Outbox, at_most: int = 10) -> list[ReadBack]:
    request = ClaimReadBacksRequest(owner="sync", max_replies=at_most)
    return list((await outbox.calls.ClaimReadBacks(request)).read_backs)


async def found(outbox: Outbox, tag: str, **result: Any) -> str:
    """Writes down what a look found; the reply's state after it."""
    results = [ReadBackResult(tag=tag, **result)]
    answer = await outbox.calls.RecordReadBacks(RecordReadBacksRequest(results=results))
    return words(answer.states)[0]


async def uncertain(outbox: Outbox) -> ClaimedReply:
    """The one reply that is handed out now, of which nobody knows then."""
    claimed = await only(outbox)
    assert await record(outbox, claimed.tag, VERDICT_UNCERTAIN) == "uncertain"
    return claimed


async def test_a_look_that_another_has_overtaken_counts_no_more(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    claimed = await uncertain(outbox)
    await outbox.pass_time(21)
    (first,) = await look(outbox)
    await found(outbox, claimed.tag, clean=True, clean_looks=first.clean_looks)
    await outbox.pass_time(61)
    (second,) = await look(outbox)

    late = await found(outbox, claimed.tag, clean=True, clean_looks=first.clean_looks)
    own = await found(outbox, claimed.tag, clean=True, clean_looks=second.clean_looks)

    assert (first.clean_looks, second.clean_looks) == (0, 1)
    assert (late, own) == ("uncertain", "ready")


async def looked_for_twice(outbox: Outbox, tag: str) -> str:
    """Two looks in their time find nothing; the reply's state after them."""
    state = ""
    for _ in range(2):
        await outbox.pass_time(61)
        assert [each.reply.tag for each in await look(outbox)] == [tag]
        state = await found(outbox, tag, clean=True)
    return state


# Claiming


async def test_a_claim_hands_out_the_first_unsettled_reply_of_each_lane(outbox: Outbox) -> None:
    await outbox.put(1, 2, lane="a")
    await outbox.put(3, 4, lane="b")
    await outbox.put(5, 6, lane="a", page=OTHER_PAGE)

    claimed = await claim(outbox)

    assert numbers_of(claimed) == [1, 3, 5]


async def test_a_claim_hands_out_what_sending_needs_and_the_lease(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")

    answer = await outbox.calls.ClaimReplies(ClaimRepliesRequest(owner="sync", max_replies=1))

    (claimed,) = answer.replies
    assert answer.lease.ToTimedelta() == LEASE
    assert (claimed.reply_id, claimed.page_id, claimed.node_id) == (f"r-{PAGE}-1", PAGE, PAGE)
    assert (claimed.kind, claimed.person_id, claimed.comment_id) == (REPLY_KIND_MESSAGE, "a", "")
    assert (claimed.content.text, claimed.token_version) == ("answer 1", 1)
    assert not claimed.after_uncertain


@pytest.mark.parametrize("in_flight", ["sending", "uncertain"])
async def test_no_second_reply_of_a_lane_is_handed_out_while_one_is_in_flight(
    outbox: Outbox, in_flight: str
) -> None:
    await outbox.put(1, 2, lane="a")
    first = await only(outbox)
    if in_flight == "uncertain":
        await record(outbox, first.tag, VERDICT_UNCERTAIN)

    assert await claim(outbox) == []


async def test_no_more_is_handed_out_than_was_asked_for(outbox: Outbox) -> None:
    for number in (1, 2, 3):
        await outbox.put(number, lane=f"lane-{number}")

    first, rest = await claim(outbox, at_most=2), await claim(outbox, at_most=2)

    assert (len(first), len(rest)) == (2, 1)
    assert numbers_of([*first, *rest]) == [1, 2, 3]


async def test_who_asks_for_nothing_is_refused(outbox: Outbox) -> None:
    for call in (claim, look):
        with pytest.raises(Refusal) as refused:
            await call(outbox, 0)
        assert refused.value.kind is Kind.INVALID


async def test_each_attempt_has_a_fresh_tag_and_the_next_number(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    seen = []
    for _ in range(3):
        claimed = await only(outbox)
        await record(outbox, claimed.tag, VERDICT_RETRY)
        await outbox.pass_time(301)
        seen.append(claimed)

    assert [claimed.attempt for claimed in seen] == [1, 2, 3]
    assert len({claimed.tag for claimed in seen}) == 3
    assert all(claimed.tag.startswith("pw1.") for claimed in seen)


# How attempts end


async def test_a_lane_waits_behind_a_retry_until_its_time(outbox: Outbox) -> None:
    await outbox.put(1, 2, lane="a")
    first = await only(outbox)

    state = await record(outbox, first.tag, VERDICT_RETRY, retry_after=Duration(seconds=30))

    assert state == "ready"
    assert await claim(outbox) == []
    await outbox.pass_time(29)
    assert await claim(outbox) == []
    await outbox.pass_time(2)
    again = await only(outbox)
    assert (number_of(again), again.after_uncertain) == (1, False)


async def test_a_retry_without_a_time_comes_back_within_five_minutes_and_not_at_once(
    outbox: Outbox,
) -> None:
    await outbox.put(1, lane="a")
    await record(outbox, (await only(outbox)).tag, VERDICT_RETRY)

    assert await claim(outbox) == []
    await outbox.pass_time(300)
    assert numbers_of(await claim(outbox)) == [1]


@pytest.mark.parametrize(
    ("verdict", "state"),
    [(VERDICT_ACCEPTED, "sent"), (VERDICT_REFUSED, "failed"), (VERDICT_EXPIRED, "expired")],
)
async def test_an_end_frees_the_lane(
    outbox: Outbox, verdict: Verdict.ValueType, state: str
) -> None:
    await outbox.put(1, 2, lane="a")
    first = await only(outbox)

    ended = await record(outbox, first.tag, verdict)

    assert ended == state
    assert numbers_of(await claim(outbox)) == [2]


@pytest.mark.parametrize(
    "later",
    [
        *(VERDICT_REFUSED, VERDICT_RETRY, VERDICT_UNCERTAIN),
        *(VERDICT_EXPIRED, VERDICT_PAGE_BLOCKED),
    ],
)
async def test_an_acceptance_is_final(outbox: Outbox, later: Verdict.ValueType) -> None:
    await outbox.put(1, 2, lane="a")
    first = await only(outbox)
    await record(outbox, first.tag, VERDICT_ACCEPTED, mid="m_1")

    state = await record(outbox, first.tag, later)

    assert state == "sent"
    assert numbers_of(await claim(outbox)) == [2]  # and the page may send


async def test_a_blocked_page_holds_all_its_replies_and_no_other_pages(outbox: Outbox) -> None:
    await outbox.put(1, 2, lane="a")
    await outbox.put(3, lane="b", page=OTHER_PAGE)
    first, _ = sorted(await claim(outbox), key=number_of)
    await outbox.put(4, lane="c")
    await outbox.put(5, lane="d", page=OTHER_PAGE)

    state = await record(outbox, first.tag, VERDICT_PAGE_BLOCKED)

    assert state == "ready"
    assert numbers_of(await claim(outbox)) == [5]
    await outbox.pass_time(600)
    assert await claim(outbox) == []
    await outbox.unblock(PAGE)
    assert numbers_of(await claim(outbox)) == [1, 4]


async def test_a_tag_that_nobody_knows_has_no_state_and_stops_no_other(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    known = await only(outbox)

    outcomes = [AttemptOutcome(tag=t, verdict=VERDICT_ACCEPTED) for t in ("pw1.no", known.tag)]
    ended = await outbox.calls.RecordOutcomes(RecordOutcomesRequest(outcomes=outcomes))
    results = [ReadBackResult(tag=tag, clean=True) for tag in ("pw1.no", known.tag)]
    looked = await outbox.calls.RecordReadBacks(RecordReadBacksRequest(results=results))

    assert words(ended.states) == ["unspecified", "sent"]
    assert words(looked.states) == ["unspecified", "sent"]


async def test_an_outcome_without_a_verdict_is_refused_with_all_that_came_with_it(
    outbox: Outbox,
) -> None:
    await outbox.put(1, lane="a")
    await outbox.put(2, lane="b")
    one, other = await claim(outbox)
    outcomes = [
        AttemptOutcome(tag=one.tag, verdict=VERDICT_UNCERTAIN),
        AttemptOutcome(tag=other.tag, verdict=VERDICT_UNSPECIFIED),
    ]

    with pytest.raises(Refusal) as refused:
        await outbox.calls.RecordOutcomes(RecordOutcomesRequest(outcomes=outcomes))

    assert refused.value.kind is Kind.INVALID
    await outbox.pass_time(14)  # less than the lease
    assert await look(outbox) == []


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (VERDICT_ACCEPTED, "sent"),
        (VERDICT_REFUSED, "failed"),
        (VERDICT_EXPIRED, "expired"),
        (VERDICT_RETRY, "ready"),
        (VERDICT_UNCERTAIN, "uncertain"),
        (VERDICT_PAGE_BLOCKED, "ready"),
    ],
)
async def test_an_outcome_that_is_repeated_changes_nothing(
    outbox: Outbox, verdict: Verdict.ValueType, state: str
) -> None:
    await outbox.put(1, lane="a")
    first = await only(outbox)
    await record(outbox, first.tag, verdict, retry_after=Duration(seconds=30))
    await outbox.pass_time(25)
    due = [each.reply.tag for each in await look(outbox)]

    again = await record(outbox, first.tag, verdict, retry_after=Duration(seconds=30))

    assert again == state
    assert due == ([first.tag] if state == "uncertain" else [])
    assert await look(outbox) == []  # somebody looks still
    await outbox.pass_time(6)
    assert bool(await claim(outbox)) == (
        verdict == VERDICT_RETRY
    )  # on time, counted from the first


@pytest.mark.parametrize(
    "late", [VERDICT_REFUSED, VERDICT_RETRY, VERDICT_UNCERTAIN, VERDICT_EXPIRED]
)
async def test_an_older_attempts_word_does_not_move_a_newer_one(
    outbox: Outbox, late: Verdict.ValueType
) -> None:
    await outbox.put(1, 2, lane="a")
    older = await only(outbox)
    await record(outbox, older.tag, VERDICT_RETRY, retry_after=Duration(seconds=1))
    await outbox.pass_time(2)
    newer = await only(outbox)

    state = await record(outbox, older.tag, late)

    assert state == "sending"
    assert await claim(outbox) == []
    assert await record(outbox, newer.tag, VERDICT_ACCEPTED) == "sent"


@pytest.mark.parametrize("before", ["ready", "sending", "uncertain", "failed", "expired", "parked"])
async def test_a_late_acceptance_turns_any_state_into_sent(outbox: Outbox, before: str) -> None:
    await outbox.put(1, lane="a")
    first = await only(outbox)
    await bring(outbox, first.tag, before)

    state = await record(outbox, first.tag, VERDICT_ACCEPTED, mid="m_1")

    assert state == "sent"
    await outbox.pass_time(700)
    assert (await claim(outbox), await look(outbox)) == ([], [])


async def bring(outbox: Outbox, tag: str, state: str) -> None:
    """Brings a reply that is being sent into this state."""
    match state:
        case "failed":
            reached = await record(outbox, tag, VERDICT_REFUSED)
        case "expired":
            reached = await record(outbox, tag, VERDICT_EXPIRED)
        case "ready":
            reached = await record(outbox, tag, VERDICT_RETRY)
        case "sending":  # by a second attempt
            await record(outbox, tag, VERDICT_RETRY)
            await outbox.pass_time(301)
            await only(outbox)
            reached = await record(outbox, tag, VERDICT_REFUSED)
        case _:
            reached = await record(outbox, tag, VERDICT_UNCERTAIN)
            if state == "parked":
                await outbox.pass_time(601)
                reached = await record(outbox, tag, VERDICT_UNCERTAIN)
    assert reached == state


async def test_a_send_whose_lease_is_over_is_uncertain_until_its_word_comes(
    outbox: Outbox,
) -> None:
    await outbox.put(1, 2, lane="a")
    first = await only(outbox)
    await outbox.pass_time(LEASE.total_seconds() + 6)

    assert await claim(outbox) == []
    assert [each.reply.tag for each in await look(outbox)] == [first.tag]
    assert await record(outbox, first.tag, VERDICT_REFUSED) == "failed"
    assert numbers_of(await claim(outbox)) == [2]


# Looking


@pytest.mark.parametrize("kind", FOUND_BY_LOOKING)
async def test_an_uncertain_reply_holds_its_lane_and_is_to_be_looked_for_twenty_seconds_on(
    outbox: Outbox, kind: ReplyKind.ValueType
) -> None:
    await outbox.put(1, 2, lane="a", kind=kind)
    first = await uncertain(outbox)
    early = await look(outbox)
    await outbox.pass_time(21)

    (due,) = await look(outbox)

    assert early == []
    assert (due.reply.tag, due.reply.attempt, due.clean_looks) == (first.tag, 1, 0)
    assert (due.reply.content, due.reply.person_id, due.reply.comment_id) == (
        *(first.content, first.person_id),
        first.comment_id,
    )
    assert await claim(outbox) == []


async def test_a_look_tells_when_the_attempt_began(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    await uncertain(outbox)
    await outbox.pass_time(100)

    (due,) = await look(outbox)

    age = datetime.now(UTC) - due.attempt_time.ToDatetime(UTC)
    assert timedelta(seconds=100) <= age <= timedelta(seconds=160)


async def test_a_look_is_handed_to_one_and_again_when_that_one_is_silent(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    await uncertain(outbox)
    await outbox.pass_time(21)

    first, beside = await look(outbox), await look(outbox)
    await outbox.pass_time(31)
    again = await look(outbox)

    assert (len(first), len(beside), len(again)) == (1, 0, 1)


async def test_a_look_knows_the_ids_of_other_replies_to_the_same_person(outbox: Outbox) -> None:
    await outbox.put(1, 2, 3, lane="a")
    await outbox.put(4, lane="b")
    for _ in range(2):
        for claimed in await claim(outbox):
            mid = f"m_{number_of(claimed)}"
            await record(outbox, claimed.tag, VERDICT_ACCEPTED, mid=mid)
    await uncertain(outbox)
    await outbox.pass_time(21)

    (due,) = await look(outbox)

    assert sorted(due.bound_mids) == ["m_1", "m_2"]


async def test_a_look_knows_the_newest_id_of_its_lane_from_before_the_attempt(
    outbox: Outbox,
) -> None:
    await outbox.put(1, 2, 3, 4, lane="a")
    await outbox.put(5, lane="b")
    for _ in range(2):
        for claimed in await claim(outbox):
            await record(outbox, claimed.tag, VERDICT_ACCEPTED, mid=f"m_{number_of(claimed)}")
    await uncertain(outbox)
    await outbox.pass_time(21)

    (due,) = await look(outbox)

    assert (number_of(due.reply), due.known_mid) == (3, "m_2")


async def test_an_id_that_was_known_long_before_the_attempt_is_not_told(outbox: Outbox) -> None:
    await outbox.put(1, 2, lane="a")
    (first,) = await claim(outbox)
    await record(outbox, first.tag, VERDICT_ACCEPTED, mid="m_1")
    await outbox.pass_time(200)
    await uncertain(outbox)
    await outbox.pass_time(21)

    (due,) = await look(outbox)

    assert (number_of(due.reply), due.known_mid) == (2, "")


async def test_what_was_accepted_late_says_nothing_of_an_attempt_that_began_before(
    outbox: Outbox,
) -> None:
    await outbox.put(1, 2, lane="a")
    (first,) = await claim(outbox)
    await record(outbox, first.tag, VERDICT_REFUSED)
    await uncertain(outbox)
    await record(outbox, first.tag, VERDICT_ACCEPTED, mid="m_late")
    await outbox.pass_time(21)

    (due,) = await look(outbox)

    assert (number_of(due.reply), due.known_mid) == (2, "")


async def test_two_clean_looks_put_a_reply_back_and_it_is_known_to_have_been_uncertain(
    outbox: Outbox,
) -> None:
    await outbox.put(1, 2, lane="a")
    first = await uncertain(outbox)

    state = await looked_for_twice(outbox, first.tag)

    early = await claim(outbox)
    await outbox.pass_time(300)
    again = await only(outbox)
    assert (state, early) == ("ready", [])
    assert (number_of(again), again.attempt, again.after_uncertain) == (1, 2, True)


async def test_the_second_look_is_due_a_minute_after_the_attempt_and_half_one_after_the_first(
    outbox: Outbox,
) -> None:
    await outbox.put(1, lane="a")
    await outbox.put(2, lane="b")
    for claimed in await claim(outbox):
        await record(outbox, claimed.tag, VERDICT_UNCERTAIN)
    await outbox.pass_time(21)
    early, late = await look(outbox)
    await found(outbox, early.reply.tag, clean=True)
    await outbox.pass_time(29)
    await found(outbox, late.reply.tag, clean=True)

    await outbox.pass_time(9)
    none = await look(outbox)
    await outbox.pass_time(2)  # 61 s after the attempts
    first = await look(outbox)
    await found(outbox, early.reply.tag, clean=True)
    await outbox.pass_time(20)  # 31 s after the later look
    second = await look(outbox)

    assert none == []
    assert [(one.reply.tag, one.clean_looks) for one in first] == [(early.reply.tag, 1)]
    assert [(one.reply.tag, one.clean_looks) for one in second] == [(late.reply.tag, 1)]


async def test_one_clean_look_that_is_repeated_counts_once(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    first = await uncertain(outbox)
    await outbox.pass_time(21)
    await look(outbox)
    await found(outbox, first.tag, clean=True)

    state = await found(outbox, first.tag, clean=True)

    assert state == "uncertain"
    await outbox.pass_time(61)
    assert [each.clean_looks for each in await look(outbox)] == [1]


async def test_a_look_that_failed_is_not_clean_and_is_due_again_ten_seconds_on(
    outbox: Outbox,
) -> None:
    await outbox.put(1, lane="a")
    first = await uncertain(outbox)
    await outbox.pass_time(21)
    await look(outbox)

    state = await found(outbox, first.tag, error="rate_limited")

    early = await look(outbox)
    await outbox.pass_time(11)
    (due,) = await look(outbox)
    assert (state, early, due.clean_looks) == ("uncertain", [], 0)


@pytest.mark.parametrize("result", ["found_mid", "ambiguous_mid"])
async def test_what_a_look_finds_was_sent_and_the_lane_goes_on(outbox: Outbox, result: str) -> None:
    await outbox.put(1, 2, lane="a")
    first = await uncertain(outbox)
    await outbox.pass_time(21)
    await look(outbox)

    state = await found(outbox, first.tag, **{result: "m_1"})

    again = await found(outbox, first.tag, **{result: "m_1"})
    assert (state, again) == ("sent", "sent")
    assert numbers_of(await claim(outbox)) == [2]


async def test_a_look_of_an_older_attempt_does_not_move_a_newer_one(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    older = await uncertain(outbox)
    await looked_for_twice(outbox, older.tag)
    await outbox.pass_time(300)
    newer = await uncertain(outbox)
    await outbox.pass_time(21)
    await look(outbox)

    state = await found(outbox, older.tag, clean=True)

    assert state == "uncertain"
    assert await found(outbox, newer.tag, clean=True) == "uncertain"
    await outbox.pass_time(61)
    assert [each.clean_looks for each in await look(outbox)] == [1]


async def test_a_look_without_a_result_is_refused(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    first = await uncertain(outbox)

    with pytest.raises(Refusal) as refused:
        await found(outbox, first.tag)

    assert refused.value.kind is Kind.INVALID


async def test_nothing_of_a_blocked_page_is_looked_for(outbox: Outbox) -> None:
    await outbox.put(1, lane="a")
    await outbox.put(2, lane="b")
    one, other = await claim(outbox)
    await record(outbox, one.tag, VERDICT_UNCERTAIN)
    await record(outbox, other.tag, VERDICT_PAGE_BLOCKED)
    await outbox.pass_time(21)

    blocked = await look(outbox)
    await outbox.unblock(PAGE)

    assert blocked == []
    assert [each.reply.tag for each in await look(outbox)] == [one.tag]


async def test_ten_minutes_of_not_knowing_park_a_reply_and_its_lane_goes_on(
    outbox: Outbox,
) -> None:
    await outbox.put(1, 2, lane="a")
    first = await uncertain(outbox)

    await outbox.pass_time(601)

    assert await look(outbox) == []
    assert numbers_of(await claim(outbox)) == [2]
    assert await found(outbox, first.tag, clean=True) == "parked"


async def test_a_private_reply_is_not_looked_for_but_tried_again_and_known_to_be(
    outbox: Outbox,
) -> None:
    await outbox.put(1, lane="c", kind=REPLY_KIND_PRIVATE_REPLY)
    await uncertain(outbox)
    early = await claim(outbox)

    await outbox.pass_time(21)

    assert (early, await look(outbox), await claim(outbox)) == ([], [], [])
    await outbox.pass_time(300)
    again = await only(outbox)
    assert (again.attempt, again.after_uncertain) == (2, True)


@pytest.mark.parametrize("kind", HARMLESS)
async def test_what_may_be_done_twice_is_never_uncertain(
    outbox: Outbox, kind: ReplyKind.ValueType
) -> None:
    await outbox.put(1, lane="a", kind=kind)
    first = await only(outbox)

    state = await record(outbox, first.tag, VERDICT_UNCERTAIN)

    assert state == "ready"
    assert await claim(outbox) == []
    await outbox.pass_time(300)
    second = await only(outbox)
    await outbox.pass_time(LEASE.total_seconds() + 1)
    await outbox.pass_time(300)
    third = await only(outbox)
    assert [one.attempt for one in (first, second, third)] == [1, 2, 3]
    assert not third.after_uncertain


# Both at once


class Pair:
    """The fake and the store, to which the same befalls, and which must answer the same."""

    def __init__(self, both: Sequence[Outbox], chance: random.Random) -> None:
        self._both = both
        self._chance = chance
        self._put = 0
        self._attempts: list[list[str]] = []
        """Each attempt's tag here and there."""

    async def step(self) -> None:
        steps = [self._put_in, self._claim, self._claim, self._wait, self._look]
        if self._attempts:
            steps += [self._end, self._end, self._end, self._find, self._find]
        await self._chance.choice(steps)()

    async def _put_in(self) -> None:
        self._put += 1
        kind = self._chance.choice([*FOUND_BY_LOOKING, REPLY_KIND_PRIVATE_REPLY])
        lane, page = self._chance.choice("ab"), self._chance.choice([PAGE, OTHER_PAGE])
        for one in self._both:
            await one.put(self._put, lane=f"{lane}{kind}", page=page, kind=kind)

    async def _claim(self) -> None:
        here, there = [sorted(await claim(one), key=number_of) for one in self._both]
        assert list(map(_told, here)) == list(map(_told, there))
        self._attempts += [[a.tag, b.tag] for a, b in zip(here, there, strict=True)]

    async def _wait(self) -> None:
        seconds, healed = self._chance.choice([7, 23, 64, 707]), self._chance.random() < 0.3
        for one in self._both:
            await one.pass_time(seconds)
            for page in (PAGE, OTHER_PAGE) if healed else ():
                await one.unblock(page)

    async def _look(self) -> None:
        here, there = [await look(one) for one in self._both]
        assert sorted(map(_sought, here)) == sorted(map(_sought, there))

    async def _end(self) -> None:
        verdict = self._chance.choice(
            [
                *(VERDICT_ACCEPTED, VERDICT_REFUSED, VERDICT_RETRY, VERDICT_UNCERTAIN),
                *(VERDICT_UNCERTAIN, VERDICT_EXPIRED, VERDICT_PAGE_BLOCKED),
            ]
        )
        at, pause = self._any(), Duration(seconds=self._chance.choice([10, 40]))
        tags, mid = self._attempts[at], f"mid-{at}"
        here, there = [
            await record(one, tag, verdict, mid=mid, retry_after=pause)
            for one, tag in zip(self._both, tags, strict=True)
        ]
        assert here == there

    async def _find(self) -> None:
        at = self._any()
        found_mid: dict[str, Any] = {"found_mid": f"mid-{at}"}
        result = self._chance.choice([found_mid, *[{"clean": True}] * 4, {"error": "a_word"}])
        here, there = [
            await found(one, tag, **result)
            for one, tag in zip(self._both, self._attempts[at], strict=True)
        ]
        assert here == there

    def _any(self) -> int:
        """An attempt, mostly a late one."""
        return self._chance.randrange(max(0, len(self._attempts) - 4), len(self._attempts))


def _told(claimed: ClaimedReply) -> tuple[Any, ...]:
    return number_of(claimed), claimed.attempt, claimed.after_uncertain, claimed.kind


def _sought(due: ReadBack) -> tuple[Any, ...]:
    return _told(due.reply), due.clean_looks, sorted(due.bound_mids), due.known_mid


@pytest.mark.parametrize("seed", range(8))
async def test_the_fake_and_the_store_answer_the_same_whatever_happens(
    desk: Desk, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By chance the store's pauses would end before the fake's, which are the longest.
    longest = timedelta(seconds=LONGEST_PAUSE)
    monkeypatch.setattr("pagewire_store.settling.backoff", lambda attempt, chance, most: longest)
    async with stored(desk) as held:
        pair = Pair([Faked(), held], random.Random(seed))

        for _ in range(60):
            await pair.step()
