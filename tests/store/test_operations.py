import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from pagewire.store.v1.operation_service_pb2 import (
    SETTLEMENT_DROPPED,
    SETTLEMENT_SENT,
    SETTLEMENT_UNSPECIFIED,
    ClaimReplaysRequest,
    GetQuarantinedRequest,
    GetStatusRequest,
    ListDecisionsRequest,
    ListParkedRequest,
    ListQuarantinedRequest,
    ReplayQuarantinedRequest,
    RetryParkedRequest,
    Settlement,
    SettleParkedRequest,
)
from pagewire.store.v1.operation_service_pb2_grpc import (
    OperationServiceStub,
    add_OperationServiceServicer_to_server,
)
from pagewire.type.v1.decision_pb2 import (
    OUTCOME_ANSWERED,
    Decision,
)
from pagewire.type.v1.event_pb2 import EVENT_KIND_MESSAGE, SOURCE_LIVE, TRIGGER_MESSAGE
from pagewire.type.v1.page_pb2 import PAGE_STATE_BLOCKED, PAGE_STATE_HEALTHY
from pagewire.type.v1.reply_pb2 import (
    REPLY_STATE_PARKED,
    REPLY_STATE_READY,
    REPLY_STATE_SENT,
    ReplyContent,
)
from pagewire.type.v1.rule_pb2 import RuleVerdict
from pagewire_runtime.auth import Caller, calling_as
from pagewire_runtime.clocks import Clocks
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import operations
from pagewire_store.cache_probe import CacheProbe
from pagewire_store.clocks import database_time
from pagewire_store.database import Pools, open_pools
from pagewire_store.operation_servicer import OperationServicer
from pagewire_store.waking import Waking
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import TOKENS, Rows, channel_to, pools, rows

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def after_noon(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


class Count:
    def __init__(self) -> None:
        self.value = 0

    def __call__(self) -> None:
        self.value += 1


@pytest.fixture
def retried() -> Count:
    return Count()


@pytest.fixture
def servicer(pools: Pools, database_url: str, retried: Count) -> OperationServicer:
    return OperationServicer(
        pools.general,
        TOKENS,
        CacheProbe(None),
        Waking(database_url),
        Clocks("store", partial(database_time, pools.live)),
        replay_lease=timedelta(seconds=30),
        retried=retried,
    )


@pytest.fixture
async def service(
    servicer: OperationServicer, rows: Rows
) -> "AsyncIterator[OperationServiceAsyncStub]":
    await rows.add_page("1")
    async with channel_to(
        lambda server: add_OperationServiceServicer_to_server(servicer, server), "operator"
    ) as channel:
        yield OperationServiceStub(channel)


@pytest.fixture
async def dispatcher(servicer: OperationServicer) -> "AsyncIterator[OperationServiceAsyncStub]":
    async with channel_to(
        lambda server: add_OperationServiceServicer_to_server(servicer, server), "webhook"
    ) as channel:
        yield OperationServiceStub(channel)


class Happened:
    """What was decided, kept and parked, by hand."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def decision(self, number: int, minutes: float, page_id: str = "1", **f: Any) -> None:
        row: dict[str, Any] = {
            "page_id": page_id,
            "event_id": number,
            "trigger": TRIGGER_MESSAGE,
            "outcome": "declined",
            "reason": "no_rule_matched",
            "verdicts": b"",
            "book_version": 3,
            "received_at": after_noon(minutes - 2),
            "stored_at": after_noon(minutes - 1),
            "decided_at": after_noon(minutes),
        }
        await self._rows.add("decision", row | f)

    async def reply(self, number: int, **fields: Any) -> None:
        row: dict[str, Any] = {
            "page_id": "1",
            "reply_id": number,
            "lane": "person:anna",
            "ordinal": number,
            "kind": "message",
            "origin": "rule",
            "person_id": "anna",
            "state": "ready",
            "expires_at": after_noon(1440),
        }
        await self._rows.add("outbox", row | fields)

    async def parked_reply(self, number: int, **fields: Any) -> None:
        """One whose only attempt nobody knows the end of."""
        tag = f"pw1.{number}"
        attempt = {"tag": tag, "reply_id": number, "number": 1, "started_at": NOON}
        await self.reply(
            number, state="parked", ended_at=NOON, attempt=1, tag=tag, uncertain_at=NOON, **fields
        )
        await self._rows.add("attempt", {"page_id": "1", "token_version": 1} | attempt)

    async def mark(self, reply: int) -> None:
        """What keeps a rule from answering once more, as it has by this reply."""
        row = {"page_id": "1", "mark_key": "once:rule-a:anna", "event_id": 1, "rule_id": "rule-a"}
        await self._rows.add("mark", row | {"reply_id": reply})

    async def event(self, number: int, state: str = "parked", **fields: Any) -> None:
        row: dict[str, Any] = {
            "page_id": "1",
            "event_key": f"message:{number}",
            "event_id": number,
            "number": number,
            "lane": "person:anna",
            "kind": EVENT_KIND_MESSAGE,
            "trigger": TRIGGER_MESSAGE,
            "source": SOURCE_LIVE,
            "event_time": NOON,
            "received_at": NOON,
            "delivery_id": uuid.uuid4(),
            "state": state,
            "detail": b"",
        }
        await self._rows.add("event", row | fields)

    async def unreadable(self, body: bytes = b"{broken", **fields: Any) -> int:
        delivery_id = uuid.uuid4()
        await self._rows.add(
            "delivery",
            delivery_id=delivery_id,
            received_at=NOON,
            signed_by="app",
            body=body,
            events=0,
            outcome="quarantined",
        )
        row: dict[str, Any] = {
            "delivery_id": delivery_id,
            "path": "",
            "reason": "json_invalid",
            "received_at": NOON,
        }
        await self._rows.add("quarantine", row | fields)
        number: int = (await self._rows.one("select max(quarantine_id) as n from quarantine")).n
        return number


@pytest.fixture
def happened(rows: Rows) -> Happened:
    return Happened(rows)


async def decided(service: "OperationServiceAsyncStub", **fields: Any) -> tuple[list[str], str]:
    answer = await service.ListDecisions(ListDecisionsRequest(**fields))
    return [each.event_id for each in answer.decisions], answer.next_page_token


async def test_a_decision_is_shown_with_its_rules_its_times_and_its_replies(
    service: "OperationServiceAsyncStub", happened: Happened
) -> None:
    verdicts = [
        RuleVerdict(rule_id="rule-a", version=2, name="price", fired=True, reason="fired"),
        RuleVerdict(rule_id="rule-b", version=1, name="hello", reason="lower_priority"),
    ]
    stored = Decision(rules=verdicts).SerializeToString()
    await happened.decision(7, 3, outcome="answered", reason="fired", verdicts=stored)
    for number, sending in ((11, 5), (12, 4)):
        await happened.reply(
            number,
            event_id=7,
            rule_id="rule-a",
            action_index=number,
            sending_at=after_noon(sending),
        )

    (shown,) = (await service.ListDecisions(ListDecisionsRequest(page_id="1"))).decisions

    expected = Decision(
        event_id="e-1-7",
        page_id="1",
        kind=TRIGGER_MESSAGE,
        outcome=OUTCOME_ANSWERED,
        reason="fired",
        rules=verdicts,
        book_version=3,
        reply_ids=["r-1-11", "r-1-12"],
    )
    expected.receive_time.FromDatetime(after_noon(1))
    expected.store_time.FromDatetime(after_noon(2))
    expected.decide_time.FromDatetime(after_noon(3))
    expected.sent_time.FromDatetime(after_noon(4))
    assert shown == expected


async def test_decisions_are_listed_newest_first_of_one_page_or_of_all(
    service: "OperationServiceAsyncStub", happened: Happened
) -> None:
    for number, minutes, page_id in [(1, 1, "1"), (2, 3, "2"), (3, 2, "1"), (4, 2, "2")]:
        await happened.decision(number, minutes, page_id)

    first, token = await decided(service, page_size=3)
    rest, end = await decided(service, page_size=3, page_token=token)

    assert (first, rest, end) == (["e-2-2", "e-2-4", "e-1-3"], ["e-1-1"], "")
    assert (await decided(service, page_id="1"))[0] == ["e-1-3", "e-1-1"]


async def test_decisions_of_an_unknown_page_are_refused(
    service: "OperationServiceAsyncStub",
) -> None:
    with pytest.raises(Refusal) as refused:
        await service.ListDecisions(ListDecisionsRequest(page_id="9"))

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PAGE_UNKNOWN")


async def test_following_decisions_gives_those_decided_later(
    service: "OperationServiceAsyncStub", happened: Happened
) -> None:
    for number in range(1, 6):
        await happened.decision(number, number)

    after, _ = await decided(service, after_event_id="e-1-3")
    part, token = await decided(service, after_event_id="e-1-1", page_size=3)
    rest, _ = await decided(service, after_event_id="e-1-1", page_size=3, page_token=token)
    none, _ = await decided(service, after_event_id="e-1-5")

    assert after == ["e-1-5", "e-1-4"]
    assert (part, rest) == (["e-1-5", "e-1-4", "e-1-3"], ["e-1-2"])
    assert none == []


async def test_following_leaves_out_what_a_transaction_under_way_may_still_precede(
    service: "OperationServiceAsyncStub", happened: Happened, pools: Pools
) -> None:
    await happened.decision(1, 0)
    async with pools.general.begin() as slow:
        await slow.execute(
            text(
                "insert into decision (page_id, event_id, trigger, outcome, reason, verdicts,"
                " book_version, received_at, stored_at, decided_at) values ('1', 2, 1, 'declined',"
                " 'x', '', 0, now(), now(), clock_timestamp())"
            )
        )
        async with pools.general.begin() as quick:
            await quick.execute(
                text(
                    "insert into decision (page_id, event_id, trigger, outcome, reason, verdicts,"
                    " book_version, received_at, stored_at, decided_at) values ('1', 3, 1,"
                    " 'declined', 'x', '', 0, now(), now(), clock_timestamp())"
                )
            )
        meanwhile, _ = await decided(service, after_event_id="e-1-1")
        unfollowed, _ = await decided(service)

    assert meanwhile == []
    assert unfollowed == ["e-1-3", "e-1-1"]
    assert (await decided(service, after_event_id="e-1-1"))[0] == ["e-1-3", "e-1-2"]


@pytest.mark.parametrize("forged", ["e-1-99", "x", "r-1-1"])
async def test_following_an_event_that_was_not_decided_is_refused(
    service: "OperationServiceAsyncStub", forged: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await service.ListDecisions(ListDecisionsRequest(after_event_id=forged))

    assert refused.value.metadata["field"] == "after_event_id"


async def test_what_could_not_be_read_is_listed_newest_first_and_shown_with_its_body(
    service: "OperationServiceAsyncStub", happened: Happened
) -> None:
    first = await happened.unreadable(b"one", path="entry[0]", page_id="1")
    second = await happened.unreadable(b"second")
    done = await happened.unreadable(b"done", replayed_at=NOON)

    usual = (await service.ListQuarantined(ListQuarantinedRequest(page_size=1))).quarantined
    request = ListQuarantinedRequest(include_replayed=True)
    whole = (await service.ListQuarantined(request)).quarantined
    one = await service.GetQuarantined(GetQuarantinedRequest(quarantine_id=str(first)))

    assert [each.quarantine_id for each in usual] == [str(second)]
    assert [int(each.quarantine_id) for each in whole] == [done, second, first]
    assert whole[0].HasField("replay_time")
    assert one.body == b"one"
    assert (one.quarantined.path, one.quarantined.page_id, one.quarantined.size) == (
        *("entry[0]", "1", 3),
    )
    assert one.quarantined == whole[2]


async def test_who_was_shown_a_body_is_in_the_audit(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows
) -> None:
    number = str(await happened.unreadable(b"what a customer wrote"))

    await service.ListQuarantined(ListQuarantinedRequest())
    with calling_as(Caller(role="", actor="ops@example.org")):
        await service.GetQuarantined(GetQuarantinedRequest(quarantine_id=number))

    assert await audited(rows) == [("operator", "ops@example.org", "quarantine.show", number, "")]


async def test_what_could_not_be_read_is_listed_part_by_part(
    service: "OperationServiceAsyncStub", happened: Happened
) -> None:
    numbers = [str(await happened.unreadable()) for _ in range(5)]

    seen, request = [], ListQuarantinedRequest(page_size=2)
    while True:
        answer = await service.ListQuarantined(request)
        seen.append([each.quarantine_id for each in answer.quarantined])
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token

    numbers.reverse()
    assert seen == [numbers[:2], numbers[2:4], numbers[4:]]


@pytest.mark.parametrize("forged", ["", "0", "x", "99", "-1", str(2**63)])
async def test_what_is_not_in_quarantine_is_unknown(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows, forged: str
) -> None:
    known = await happened.unreadable()

    for call in (
        service.GetQuarantined(GetQuarantinedRequest(quarantine_id=forged)),
        service.ReplayQuarantined(ReplayQuarantinedRequest(quarantine_ids=[str(known), forged])),
    ):
        with pytest.raises(Refusal) as refused:
            await call
        assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "QUARANTINED_UNKNOWN")
    assert (await rows.one("select replay_requested_at as at from quarantine")).at is None


async def test_what_is_to_be_read_again_is_handed_to_one_dispatcher(
    service: "OperationServiceAsyncStub",
    dispatcher: "OperationServiceAsyncStub",
    happened: Happened,
) -> None:
    first, second = await happened.unreadable(b"1"), await happened.unreadable(b"2")
    await happened.unreadable(b"3", replayed_at=NOON)

    asked = await service.ReplayQuarantined(ReplayQuarantinedRequest())
    claims = await asyncio.gather(
        *(dispatcher.ClaimReplays(ClaimReplaysRequest(max_replays=10)) for _ in range(3))
    )

    replays = [replay for claim in claims for replay in claim.replays]
    assert asked.requested == 2
    assert [(int(each.quarantine_id), each.body) for each in replays] == [
        (first, b"1"),
        (second, b"2"),
    ]
    assert replays[0].signed_by == "app"
    assert replays[0].receive_time.ToDatetime(UTC) == NOON


async def test_a_body_of_several_bad_items_is_handed_out_once(
    service: "OperationServiceAsyncStub",
    dispatcher: "OperationServiceAsyncStub",
    happened: Happened,
    rows: Rows,
) -> None:
    first = await happened.unreadable(b"1", path="entry[0]")
    of_it = (await rows.one("select delivery_id from quarantine")).delivery_id
    for number in range(1, 20):
        path = f"entry[{number}]"
        await rows.add(
            "quarantine", delivery_id=of_it, path=path, reason="id_malformed", received_at=NOON
        )
    other = await happened.unreadable(b"2")
    await service.ReplayQuarantined(ReplayQuarantinedRequest())

    request = ClaimReplaysRequest(max_replays=2)
    claims = await asyncio.gather(*(dispatcher.ClaimReplays(request) for _ in range(3)))

    replays = [replay for claim in claims for replay in claim.replays]
    assert sorted((int(each.quarantine_id), each.body) for each in replays) == [
        (first, b"1"),
        (other, b"2"),
    ]
    assert str(of_it) in {each.delivery_id for each in replays}
    leased = await rows.one("select count(replay_lease_until) as n from quarantine")
    assert leased.n == 21


async def test_a_body_read_again_before_may_be_read_again_by_name(
    service: "OperationServiceAsyncStub",
    dispatcher: "OperationServiceAsyncStub",
    happened: Happened,
) -> None:
    done = await happened.unreadable(replayed_at=NOON)

    await service.ReplayQuarantined(ReplayQuarantinedRequest(quarantine_ids=[str(done)]))

    (replay,) = (await dispatcher.ClaimReplays(ClaimReplaysRequest(max_replays=1))).replays
    assert replay.quarantine_id == str(done)


async def test_nothing_is_read_again_that_nobody_asked_for(
    dispatcher: "OperationServiceAsyncStub", happened: Happened
) -> None:
    await happened.unreadable()

    assert not (await dispatcher.ClaimReplays(ClaimReplaysRequest(max_replays=9))).replays


async def test_a_claim_hands_out_no_more_bodies_than_a_message_holds(
    service: "OperationServiceAsyncStub",
    dispatcher: "OperationServiceAsyncStub",
    happened: Happened,
) -> None:
    for size in (4 * 2**20 + 9, 3 * 2**20, 2**20, 1):
        await happened.unreadable(bytes(size))
    await service.ReplayQuarantined(ReplayQuarantinedRequest())

    sizes = []
    for _ in range(3):
        answer = await dispatcher.ClaimReplays(ClaimReplaysRequest(max_replays=10))
        sizes.append([len(replay.body) for replay in answer.replays])

    assert sizes == [[4 * 2**20 + 9], [3 * 2**20, 2**20], [1]]


async def test_a_parked_event_and_a_parked_reply_are_listed_newest_first(
    service: "OperationServiceAsyncStub", happened: Happened
) -> None:
    await happened.event(1, attempts=8, last_error="template_error")
    await happened.decision(1, 1, outcome="failed", reason="evaluation_failed")
    await happened.event(2)
    await happened.decision(2, 3, outcome="failed", reason="evaluation_failed")
    await happened.reply(
        5, state="parked", state_reason="uncertain_too_long", ended_at=after_noon(2)
    )
    await happened.event(3, state="done")
    await happened.reply(6)

    newest = await service.ListParked(ListParkedRequest(page_size=1))
    older = await service.ListParked(
        ListParkedRequest(page_size=2, page_token=newest.next_page_token)
    )

    assert [each.parked_id for each in newest.parked] == ["e-1-2"]
    assert newest.parked[0].reason == "evaluation_failed"
    reply, event = older.parked
    assert (reply.parked_id, reply.reply.state, reply.reason) == (
        *("r-1-5", REPLY_STATE_PARKED, "uncertain_too_long"),
    )
    assert (event.parked_id, event.event.event_id, event.event.attempts, event.reason) == (
        *("e-1-1", "e-1-1", 8, "template_error"),
    )
    assert event.event.kind == EVENT_KIND_MESSAGE
    assert event.park_time.ToDatetime(UTC) == after_noon(1)
    assert older.next_page_token == ""


async def test_parked_things_of_one_page_are_listed_alone(
    service: "OperationServiceAsyncStub", happened: Happened
) -> None:
    await happened.event(1)
    await happened.event(2, page_id="2")

    answer = await service.ListParked(ListParkedRequest(page_id="2"))

    assert [each.parked_id for each in answer.parked] == ["e-2-2"]


async def test_a_parked_event_goes_back_into_its_lane_and_the_audit_says_by_whom(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows, retried: Count
) -> None:
    await rows.add("lane", page_id="1", lane="person:anna")
    await happened.event(1)
    await happened.decision(1, 1, outcome="failed", reason="evaluation_failed")

    with calling_as(Caller(role="", actor="ops@example.org")):
        await service.RetryParked(RetryParkedRequest(parked_id="e-1-1"))

    assert (await rows.one("select state from event")).state == "pending"
    assert (await rows.one("select pending from lane")).pending == 1
    assert retried.value == 1
    assert tuple(await rows.one("select role, actor, action, subject from audit")) == (
        *("operator", "ops@example.org", "parked.retry", "e-1-1"),
    )


async def test_a_parked_reply_is_put_back(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows
) -> None:
    await rows.add("lane", page_id="1", lane="person:anna", last_ordinal=5)
    await happened.reply(5, state="parked", ended_at=NOON)

    await service.RetryParked(RetryParkedRequest(parked_id="r-1-5"))

    row = await rows.one("select state, ordinal from outbox")
    assert (row.state, row.ordinal) == ("ready", 6)


@pytest.mark.parametrize("parked_id", ["", "e-1-1", "r-1-1", "e-1-2", "r-9-5", "x"])
async def test_what_is_not_parked_cannot_be_retried(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows, parked_id: str
) -> None:
    await happened.event(2, state="done")

    with pytest.raises(Refusal) as refused:
        await service.RetryParked(RetryParkedRequest(parked_id=parked_id))

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PARKED_UNKNOWN")
    assert not await rows.query("select 1 from audit")


async def audited(rows: Rows) -> list[tuple[str, ...]]:
    return [
        tuple(row)
        for row in await rows.query("select role, actor, action, subject, detail from audit")
    ]


async def test_a_parked_reply_that_was_sent_counts_as_sent_by_a_persons_word(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows, retried: Count
) -> None:
    content = ReplyContent(text="10 euro").SerializeToString()
    await happened.parked_reply(5, content=content)
    await happened.mark(5)

    with calling_as(Caller(role="", actor="ops@example.org")):
        await service.SettleParked(
            SettleParkedRequest(parked_id="r-1-5", settlement=SETTLEMENT_SENT)
        )

    row = await rows.one("select state, settled_by, sent_at is not null as timed from outbox")
    assert tuple(row) == ("sent", "person", True)
    assert (await rows.one("select snippet from conversation")).snippet == "10 euro"
    assert not (await rows.one("select released from mark")).released
    assert retried.value == 1
    assert await audited(rows) == [
        ("operator", "ops@example.org", "parked.settle", "r-1-5", "sent")
    ]


async def test_a_parked_reply_that_is_let_go_fails_and_frees_what_it_kept_from_others(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows
) -> None:
    await happened.parked_reply(5)
    await happened.mark(5)

    await service.SettleParked(
        SettleParkedRequest(parked_id="r-1-5", settlement=SETTLEMENT_DROPPED)
    )

    row = await rows.one("select state, state_reason, settled_by from outbox")
    assert tuple(row) == ("failed", "dropped", None)
    assert (await rows.one("select released from mark")).released
    assert not await rows.query("select 1 from conversation")
    assert [each[2:] for each in await audited(rows)] == [("parked.settle", "r-1-5", "dropped")]


async def test_a_parked_event_that_is_let_go_is_done_and_keeps_its_failed_decision(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows
) -> None:
    await rows.add("lane", page_id="1", lane="person:anna")
    await happened.event(1)
    await happened.decision(1, 1, outcome="failed", reason="evaluation_failed")

    await service.SettleParked(
        SettleParkedRequest(parked_id="e-1-1", settlement=SETTLEMENT_DROPPED)
    )

    answer = await service.ListParked(ListParkedRequest())
    assert not answer.parked
    assert (await rows.one("select state from event")).state == "done"
    assert (await rows.one("select pending from lane")).pending == 0
    assert (await rows.one("select outcome from decision")).outcome == "failed"
    assert [each[2:] for each in await audited(rows)] == [("parked.settle", "e-1-1", "dropped")]


@pytest.mark.parametrize(
    ("parked_id", "settlement"),
    [("e-1-1", SETTLEMENT_SENT), ("r-1-5", SETTLEMENT_UNSPECIFIED)],
)
async def test_a_parked_thing_ends_only_as_it_can_have_ended(
    service: "OperationServiceAsyncStub",
    happened: Happened,
    rows: Rows,
    parked_id: str,
    settlement: Settlement.ValueType,
) -> None:
    await happened.event(1)
    await happened.parked_reply(5)

    with pytest.raises(Refusal) as refused:
        await service.SettleParked(SettleParkedRequest(parked_id=parked_id, settlement=settlement))

    states = await rows.one("select e.state as event, o.state as reply from event e, outbox o")
    assert refused.value.kind == Kind.INVALID
    assert tuple(states) == ("parked", "parked")
    assert await audited(rows) == []


@pytest.mark.parametrize("parked_id", ["", "e-1-1", "r-1-1", "e-1-2", "r-1-3", "r-9-5", "x"])
async def test_what_is_not_parked_cannot_be_ended(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows, parked_id: str
) -> None:
    await happened.event(2, state="done")
    await happened.reply(3)

    with pytest.raises(Refusal) as refused:
        await service.SettleParked(
            SettleParkedRequest(parked_id=parked_id, settlement=SETTLEMENT_DROPPED)
        )

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PARKED_UNKNOWN")
    assert (await rows.one("select state from outbox")).state == "ready"
    assert await audited(rows) == []


async def test_a_reply_that_a_person_ended_is_not_ended_again_by_another(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows
) -> None:
    await happened.parked_reply(5)

    await service.SettleParked(SettleParkedRequest(parked_id="r-1-5", settlement=SETTLEMENT_SENT))

    with pytest.raises(Refusal, match="nothing of this id is parked"):
        await service.SettleParked(
            SettleParkedRequest(parked_id="r-1-5", settlement=SETTLEMENT_DROPPED)
        )

    assert (await rows.one("select state from outbox")).state == "sent"
    assert [each[4] for each in await audited(rows)] == ["sent"]


async def test_the_status_counts_what_waits(
    service: "OperationServiceAsyncStub", happened: Happened, rows: Rows
) -> None:
    await rows.add_page("2", state="blocked")
    await rows.add_page("3", connected=False, token=None)
    await rows.query(
        "insert into lane (page_id, lane, pending, pending_since)"
        " values ('1', 'a', 2, now() - interval '90 s'), ('1', 'b', 1, now()), ('1', 'c', 0, null)"
    )
    await happened.event(1)
    await happened.event(2, state="unknown_page")
    await happened.event(3, state="done")
    await happened.unreadable()
    await happened.unreadable(replayed_at=NOON)
    await happened.reply(1)
    await happened.reply(2, state="parked")
    now = (await rows.one("select now() as now")).now
    await happened.reply(3, state="sent", ended_at=now)
    await happened.reply(4, state="sent", ended_at=now - timedelta(hours=25))

    answer = await service.GetStatus(GetStatusRequest())

    assert (answer.database, answer.cache) == ("ok", "off")
    assert answer.pending_events == 3
    assert 90 <= answer.oldest_pending.ToTimedelta().total_seconds() < 150
    assert (answer.parked_events, answer.unknown_page_events, answer.quarantined) == (1, 1, 1)
    assert {each.state: each.count for each in answer.pages} == {
        PAGE_STATE_HEALTHY: 1,
        PAGE_STATE_BLOCKED: 1,
    }
    assert {each.state: each.count for each in answer.replies} == {
        REPLY_STATE_READY: 1,
        REPLY_STATE_PARKED: 1,
        REPLY_STATE_SENT: 1,
    }


async def test_the_status_of_an_empty_store_is_all_zero(
    service: "OperationServiceAsyncStub",
) -> None:
    answer = await service.GetStatus(GetStatusRequest())

    assert answer.database == "ok"
    assert answer.pending_events == 0
    assert not answer.HasField("oldest_pending")


async def test_the_status_says_why_there_is_no_database(retried: Count) -> None:
    pools = open_pools("postgresql://nobody@/none?host=/nonexistent", 4)
    servicer = OperationServicer(
        pools.general,
        TOKENS,
        CacheProbe(None),
        Waking(""),
        Clocks("store", partial(database_time, pools.live)),
        replay_lease=timedelta(seconds=1),
        retried=retried,
    )

    async with channel_to(
        lambda server: add_OperationServiceServicer_to_server(servicer, server), "operator"
    ) as channel:
        answer = await OperationServiceStub(channel).GetStatus(GetStatusRequest())
    await pools.dispose()

    assert answer.database == "cannot be reached"
    assert answer.cache == "off"


async def test_the_newest_decisions_are_read_from_an_index(rows: Rows, pools: Pools) -> None:
    await rows.query(
        """
        insert into decision (page_id, event_id, trigger, outcome, reason, verdicts, book_version,
            received_at, stored_at, decided_at)
        select 'p' || n % 10, n, 1, 'declined', 'x', '', 0, now(), now(),
            timestamptz '2026-01-01' + n * interval '1 s'
        from generate_series(1, 50000) n
        """
    )
    await rows.query("analyze decision")

    for statement in (operations._LIST_DECISIONS, operations._LIST_DECISIONS_OF_PAGE):
        async with pools.upkeep.connect() as connection:
            await connection.execute(text("set plan_cache_mode = force_generic_plan"))
            values = {
                "decided_at": "infinity",
                "event_id": 2**63 - 1,
                "since": "-infinity",
                "since_event": 0,
                "settled": "infinity",
                "at_most": 51,
            } | ({"page_id": "p1"} if "page_id = :page_id" in str(statement) else {})
            explained = await connection.execute(text(f"explain {statement}"), values)
            plan = "\n".join(row[0] for row in explained)

        assert "Seq Scan on decision" not in plan
        assert "Sort Key: decision" not in plan
