"""The store's live path by hand: events in, decisions, replies out, endings and echoes."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.ingest_service_pb2 import DELIVERY_STATE_STORED, Delivery
from pagewire.store.v1.lane_service_pb2 import (
    ClaimedLane,
    ClaimLanesRequest,
    CommitDecisionsRequest,
    CommitDecisionsResponse,
    EventDecision,
    LaneDecisions,
    LaneRef,
)
from pagewire.store.v1.outbox_service_pb2 import (
    AttemptOutcome,
    ClaimedReply,
    EnqueueReplyRequest,
    ReadBack,
    ReadBackResult,
    Verdict,
)
from pagewire.type.v1.decision_pb2 import Decision
from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_COMMENT,
    EVENT_KIND_ECHO,
    EVENT_KIND_MESSAGE,
    ID_SPACE_COMMENTER,
    ID_SPACE_MESSAGING,
    SOURCE_LIVE,
    TRIGGER_COMMENT,
    TRIGGER_MESSAGE,
    CommentDetail,
    Event,
    MessageDetail,
)
from pagewire.type.v1.reply_pb2 import Reply, ReplyContent, ReplyState
from pagewire.type.v1.rule_pb2 import Action, Candidate, Evaluation, Limits
from pagewire_store import committing, echoes, enqueuing, ids, outbox, sweeps
from pagewire_store.claiming import Claims
from pagewire_store.connections import Driver
from pagewire_store.database import Pools, in_live_transaction, open_pools
from pagewire_store.ingest import Ingestor
from pagewire_store.transitions import WAITS, Waits
from pagewire_store.waking import Waking
from tests.support.deliveries import Nudges
from tests.support.stored import Rows

PAGE = "1001"
PERSON = "2001"
PAUSE = timedelta(minutes=60)
LEASE = timedelta(seconds=15)


def ago(seconds: float) -> Timestamp:
    """So many seconds before now."""
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) - timedelta(seconds=seconds))
    return time


def message(mid: str = "m_1", *, person: str = PERSON, seconds: float = 1, **fields: Any) -> Event:
    values: dict[str, Any] = {
        "page_id": PAGE,
        "kind": EVENT_KIND_MESSAGE,
        "trigger": TRIGGER_MESSAGE,
        "source": SOURCE_LIVE,
        "key": f"message:{mid}",
        "lane": f"person:{person}",
        "person_id": person,
        "id_space": ID_SPACE_MESSAGING,
        "event_time": ago(seconds),
        "message": MessageDetail(mid=mid, text="price?"),
    }
    return Event(**(values | fields))


def comment(comment_id: str = "c_1", *, seconds: float = 1, **fields: Any) -> Event:
    values: dict[str, Any] = {
        "page_id": PAGE,
        "kind": EVENT_KIND_COMMENT,
        "trigger": TRIGGER_COMMENT,
        "source": SOURCE_LIVE,
        "key": f"comment:{comment_id}:add",
        "lane": f"comment:{comment_id}",
        "person_id": "3001",
        "id_space": ID_SPACE_COMMENTER,
        "event_time": ago(seconds),
        "comment": CommentDetail(comment_id=comment_id, post_id="p_1", text="price?"),
    }
    return Event(**(values | fields))


def own_comment(comment_id: str, root: str, text: str, *, seconds: float = 0) -> Event:
    detail = CommentDetail(comment_id=comment_id, post_id="p_1", parent_id=root, text=text)
    lane = f"comment:{root}"
    return comment(
        comment_id, seconds=seconds, comment=detail, lane=lane, is_own=True, trigger=0, person_id=""
    )


def echo(
    mid: str,
    *,
    tag: str = "",
    app_id: str = "",
    text: str = "10 euro",
    person: str = PERSON,
    seconds: float = 0,
    **fields: Any,
) -> Event:
    detail = MessageDetail(mid=mid, text=text, metadata=tag, app_id=app_id)
    return message(
        mid,
        person=person,
        seconds=seconds,
        kind=EVENT_KIND_ECHO,
        trigger=0,
        key=f"echo:{mid}",
        is_own=True,
        message=detail,
        **fields,
    )


def says(text: str = "10 euro") -> Action:
    return Action(reply=ReplyContent(text=text))


def candidate(*actions: Action, rule: str = "a", **fields: Any) -> Candidate:
    limits = Limits(**{name: fields.pop(name) for name in list(fields) if name in LIMITS})
    values: dict[str, Any] = {"version": 1, "name": f"Rule {rule}"}
    return Candidate(
        rule_id=f"rule-{rule * 16}"[:21],
        limits=limits,
        actions=actions or [says()],
        **(values | fields),
    )


LIMITS = {"once_per_person", "cooldown_seconds", "per_day"}


def matched(*candidates: Candidate, **fields: Any) -> Evaluation:
    return Evaluation(candidates=candidates or [candidate()], book_version=7, **fields)


T = TypeVar("T")


class Desk:
    """One store; counts what it wakes."""

    def __init__(self, pools: Pools, rows: Rows) -> None:
        self.pools = pools
        self.rows = rows
        self.outbox_woken, self.lanes_woken, self.looks_woken = Nudges(), Nudges(), Nudges()
        waking = Waking("")
        self._claims = Claims(pools.live, waking, lease=timedelta(seconds=8))
        self._ingestor = Ingestor(
            pools.ingest,
            wake=waking.wake,
            outbox=waking,
            bind_echoes=partial(echoes.bind, person_pause=PAUSE),
            bind_comments=partial(echoes.bind_comments, person_pause=PAUSE),
        )

    async def receive(self, *events: Event) -> None:
        """The events come in one delivery, and are stored."""
        delivered = Delivery(
            delivery_id=str(uuid.uuid4()),
            body=b"{}",
            receive_time=ago(0),
            signed_by="app",
            events=events,
        )
        (result,) = await self._ingestor.ingest([delivered])
        assert result.state == DELIVERY_STATE_STORED

    async def claim_lanes(self) -> list[ClaimedLane]:
        claimed = await self._claims.claim(ClaimLanesRequest(owner="d", max_lanes=50))
        return list(claimed.lanes)

    async def commit(
        self, *lanes: LaneDecisions, cap: int = 30, page_cap: int | None = None
    ) -> CommitDecisionsResponse:
        return await committing.commit(
            self.pools.live,
            CommitDecisionsRequest(lanes=lanes),
            wake_outbox=self.outbox_woken,
            wake_lanes=self.lanes_woken,
            caps=committing.Caps(in_conversation=cap, on_page=page_cap),
        )

    async def decide(self, *evaluations: Evaluation | str, cap: int = 30) -> list[Decision]:
        """Claims the one lane with events and commits these evaluations, or failures, of them."""
        (lane,) = await self.claim_lanes()
        response = await self.commit(decided(lane, *evaluations), cap=cap)
        return list(response.results[0].decisions)

    async def answer(self, event: Event, *candidates: Candidate) -> ClaimedReply:
        """An event comes, is decided, and its reply claimed."""
        await self.receive(event)
        await self.decide(matched(*candidates))
        (reply,) = await self.claim_replies()
        return reply

    async def claim_replies(self, at_most: int = 10) -> list[ClaimedReply]:
        return await self._live(lambda raw: outbox.claim(raw, "s", at_most, LEASE))

    async def record(self, tag: str, verdict: Verdict.ValueType, **fields: Any) -> str:
        """Records how an attempt ended; the reply's state after it."""
        outcome = AttemptOutcome(tag=tag, verdict=verdict, **fields)
        states, _ = await self._live(
            lambda raw: outbox.record_outcomes(raw, [outcome], person_pause=PAUSE)
        )
        return _word(states[0])

    async def enqueue(self, request: EnqueueReplyRequest) -> Reply:
        return await self._live(lambda raw: enqueuing.enqueue(raw, request, person_pause=PAUSE))

    async def look(self, at_most: int = 10) -> list[ReadBack]:
        return await self._live(lambda raw: outbox.claim_read_backs(raw, at_most))

    async def found(self, tag: str, **result: Any) -> str:
        """Records what a look found; the reply's state after it."""
        results = [ReadBackResult(tag=tag, **result)]
        states, _ = await self._live(
            lambda raw: outbox.record_read_backs(raw, results, person_pause=PAUSE)
        )
        return _word(states[0])

    async def _live(self, work: Callable[[Driver], Awaitable[T]]) -> T:
        return await in_live_transaction(self.pools.live, work)

    async def sweep(self, waits: Waits = WAITS) -> int:
        return await sweeps.sweep(
            self.pools,
            person_pause=PAUSE,
            waits=waits,
            wake_outbox=self.outbox_woken,
            wake_looks=self.looks_woken,
        )

    async def lapse(self) -> None:
        """Every send's lease is over."""
        await self.rows.query(
            "update outbox set lease_until = now() - interval '1 s' where state = 'sending'"
        )

    async def pass_time(self, seconds: float) -> None:
        """For replies, so much time goes by."""
        await self.rows.query(
            """
            update outbox set not_before = not_before - :by, lease_until = lease_until - :by,
                expires_at = expires_at - :by, uncertain_at = uncertain_at - :by,
                look_due_at = look_due_at - :by, look_lease_until = look_lease_until - :by,
                created_at = created_at - :by, sent_at = sent_at - :by
            """,
            by=timedelta(seconds=seconds),
        )
        await self.rows.query(
            "update attempt set started_at = started_at - :by", by=timedelta(seconds=seconds)
        )

    async def reply(self, reply_id: str) -> Any:
        """The outbox row."""
        page_id, number = ids.parse_reply_id(reply_id) or ("", 0)
        return await self.rows.one(
            "select * from outbox where page_id = :page_id and reply_id = :number",
            page_id=page_id,
            number=number,
        )

    async def paused_for(self, person: str = PERSON) -> timedelta:
        """How long automation still rests; negative or zero where it does not."""
        row = await self.rows.one(
            """
            select coalesce(automation_paused_until, now()) - now() as left from conversation
            where participant_id = :person
            """,
            person=person,
        )
        left: timedelta = row.left
        return left


def decided(lane: ClaimedLane, *evaluations: Evaluation | str, release: bool = True) -> Any:
    """The decisions for a lane's first events: evaluations, or the words of failures."""
    events = [
        EventDecision(event_id=event.event_id, failure=said)
        if isinstance(said, str)
        else EventDecision(event_id=event.event_id, evaluation=said)
        for event, said in zip(lane.events, evaluations, strict=False)
    ]
    return LaneDecisions(ref=lane.ref, events=events, release=release)


def under_epoch(lane: LaneDecisions, epoch: int) -> LaneDecisions:
    """The same decisions of somebody who claimed the lane at that epoch."""
    other = LaneDecisions()
    other.CopyFrom(lane)
    other.ref.CopyFrom(LaneRef(page_id=lane.ref.page_id, lane=lane.ref.lane, epoch=epoch))
    return other


def _word(state: ReplyState.ValueType) -> str:
    return ReplyState.Name(state).removeprefix("REPLY_STATE_").lower()


# What tests fill; a database of its own for each test would take longer than the test.
TABLES = (
    *("page", "delivery", "quarantine", "lane", "event", "conversation", "message", "comment"),
    *("label", "person_label", "decision", "fired_rule", "mark", "outbox", "attempt", "audit"),
)


@pytest.fixture
async def desk(module_database_url: str) -> AsyncIterator[Desk]:
    """An emptied store with one connected page of Messenger."""
    pools = open_pools(module_database_url, 13)
    rows = Rows(pools.upkeep)
    for table in reversed(TABLES):
        await rows.query(f"delete from {table}")
    await rows.add_page(PAGE)
    yield Desk(pools, rows)
    await pools.dispose()
