import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.rules.v1.rule_service_pb2 import (
    EvaluateEventsRequest,
    EvaluateEventsResponse,
    EventToEvaluate,
)
from pagewire.store.v1.lane_service_pb2 import (
    ClaimedEvent,
    ClaimedLane,
    ClaimLanesRequest,
    ClaimLanesResponse,
    CommitDecisionsRequest,
    CommitDecisionsResponse,
    CommitState,
    ExtendLeasesRequest,
    ExtendLeasesResponse,
    LaneDecisions,
    LaneRef,
    LaneResult,
)
from pagewire.type.v1.decision_pb2 import Decision, Outcome
from pagewire.type.v1.event_pb2 import Event
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.rule_pb2 import Candidate, Evaluation
from pagewire_runtime import metrics
from pagewire_runtime.errors import (
    InvalidArgument,
    Kind,
    Refusal,
    Unavailable,
    Unreached,
    refusal_from,
)
from pagewire_webhook.dispatcher import Dispatcher, Pace
from pagewire_webhook.evaluating import KILLS_RULES, RULES_DIED

RECEIVED = Timestamp(seconds=1_700_000_000)


def pace(**values: Any) -> Pace:
    """One whose last claim, which nothing here would answer, is not waited for; nor are rules."""
    return Pace(claim_ends_seconds=0, settle_seconds=0, **values)


USUAL = pace()


def a_lane(name: str, *events: str, epoch: int = 1) -> ClaimedLane:
    """A lane of page 1 with events of these ids."""
    return ClaimedLane(
        ref=LaneRef(page_id="1", lane=name, epoch=epoch),
        book_version=7,
        events=[
            ClaimedEvent(
                event_id=event_id,
                event=Event(page_id="1", lane=name, key=event_id),
                receive_time=RECEIVED,
                person_name="Ada",
            )
            for event_id in events
        ],
        platform=Platform.PLATFORM_INSTAGRAM,
    )


class FakeStore:
    """Hands out the lanes put in, and keeps what it is told; fails as often as it is told to."""

    def __init__(self) -> None:
        self.lanes: asyncio.Queue[list[ClaimedLane]] = asyncio.Queue()
        self.commits: asyncio.Queue[list[LaneDecisions]] = asyncio.Queue()
        self.extended: asyncio.Queue[list[LaneRef]] = asyncio.Queue()
        self.claims = 0
        self.claim_failures: list[Refusal] = []
        self.commit_failures: list[Refusal] = []
        self.extend_failures: list[Refusal] = []
        self.lost: list[LaneRef] = []
        self.refused: dict[str, Refusal] = {}
        self.claimed = asyncio.Event()
        self.state = CommitState.COMMIT_STATE_COMMITTED

    async def ClaimLanes(self, request: ClaimLanesRequest, /) -> ClaimLanesResponse:
        self.claims += 1
        self.asked = request
        self.claimed.set()
        if self.claim_failures:
            raise self.claim_failures.pop()
        return ClaimLanesResponse(lanes=await self.lanes.get())

    async def ExtendLeases(self, request: ExtendLeasesRequest, /) -> ExtendLeasesResponse:
        self.extended.put_nowait(list(request.lanes))
        if self.extend_failures:
            raise self.extend_failures.pop()
        return ExtendLeasesResponse(lost=self.lost)

    async def CommitDecisions(self, request: CommitDecisionsRequest, /) -> CommitDecisionsResponse:
        if self.commit_failures:
            raise self.commit_failures.pop()
        for lane in request.lanes:
            if lane.ref.lane in self.refused and lane.events:
                raise self.refused[lane.ref.lane]
        self.commits.put_nowait(list(request.lanes))
        return CommitDecisionsResponse(
            results=[
                LaneResult(state=self.state, decisions=_decided(lane.events))
                if self.state == CommitState.COMMIT_STATE_COMMITTED
                else LaneResult(state=self.state)
                for lane in request.lanes
            ]
        )


def _decided(events: Sequence[object]) -> list[Decision]:
    decided = Timestamp(seconds=RECEIVED.seconds, nanos=20_000_000)
    return [
        Decision(
            event_id=event.event_id,  # type: ignore[attr-defined]  # an EventDecision
            outcome=Outcome.OUTCOME_ANSWERED,
            decide_time=decided,
        )
        for event in events
    ]


def _answer(item: EventToEvaluate) -> Evaluation:
    return Evaluation(candidates=[Candidate(rule_id=f"for {item.event.key}")])


class FakeRules:
    """Answers each event by `answer`; holds calls back while `gate` is closed."""

    def __init__(self) -> None:
        self.answer: Callable[[EventToEvaluate], Evaluation] = _answer
        self.requests: list[list[EventToEvaluate]] = []
        self.failures: list[Refusal] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.called: asyncio.Queue[None] = asyncio.Queue()
        self.drops_one_of_several = False

    async def EvaluateEvents(
        self, request: EvaluateEventsRequest, /, *, wait_for_ready: bool
    ) -> EvaluateEventsResponse:
        self.requests.append(list(request.events))
        self.called.put_nowait(None)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        answers = [self.answer(event) for event in request.events]
        if self.drops_one_of_several and len(answers) > 1:
            answers.pop()
        return EvaluateEventsResponse(evaluations=answers)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def rules() -> FakeRules:
    return FakeRules()


@asynccontextmanager
async def dispatching(
    store: FakeStore, rules: FakeRules, pace: Pace = USUAL
) -> AsyncIterator[asyncio.Task[None]]:
    """A dispatcher that works within the block; nothing in it may take half a minute."""
    async with asyncio.timeout(30):
        task = asyncio.create_task(Dispatcher(store, rules, "test", pace).run())
        yield task
        await stopped(task)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def dies_of(*keys: str) -> Callable[[EventToEvaluate], Evaluation]:
    """Rules that die whenever they have one of these."""

    def answer(item: EventToEvaluate) -> Evaluation:
        if item.event.key in keys:
            raise Unreached
        return _answer(item)

    return answer


def again(lane: ClaimedLane) -> ClaimedLane:
    """The lane as it is claimed when its first event has failed."""
    lane.events[0].attempts += 1
    return lane


def asked(rules: FakeRules) -> list[list[str]]:
    """Of which events rules were asked, call by call; what stands for one is left out."""
    keys = ([item.event.key for item in request] for request in rules.requests)
    return [call for call in keys if call != [""]]


def rule_ids(lane: LaneDecisions) -> list[str]:
    return [event.evaluation.candidates[0].rule_id for event in lane.events]


async def test_no_lane_is_claimed_before_the_clock_is_found_right(
    store: FakeStore, rules: FakeRules
) -> None:
    right = asyncio.Event()
    store.lanes.put_nowait([a_lane("person:7", "e1")])

    async def ready() -> None:
        await right.wait()

    async with asyncio.timeout(30):
        task = asyncio.create_task(Dispatcher(store, rules, "test", ready=ready).run())
        for _ in range(20):
            await asyncio.sleep(0)
        before = store.claims
        right.set()
        await store.commits.get()
        await stopped(task)

    assert before == 0


async def test_the_events_of_a_lane_are_committed_in_their_order_and_the_lane_is_freed(
    store: FakeStore, rules: FakeRules
) -> None:
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2", "e3")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert [event.event_id for event in lane.events] == ["e1", "e2", "e3"]
    assert rule_ids(lane) == ["for e1", "for e2", "for e3"]
    assert lane.ref == LaneRef(page_id="1", lane="person:7", epoch=1)
    assert lane.release


async def test_lanes_claimed_together_are_evaluated_in_one_call_and_committed_in_one(
    store: FakeStore, rules: FakeRules
) -> None:
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2"), a_lane("comment:9", "e3")])

    async with dispatching(store, rules):
        lanes = await store.commits.get()

    assert [rule_ids(lane) for lane in lanes] == [["for e1", "for e2"], ["for e3"]]
    assert len(rules.requests) == 1


@pytest.mark.parametrize(("apart_seconds", "claims"), [(0, 2), (60, 1)])
async def test_what_comes_shortly_after_a_claim_waits_for_the_next_one(
    store: FakeStore, rules: FakeRules, apart_seconds: float, claims: int
) -> None:
    store.lanes.put_nowait([a_lane("person:1", "e1")])

    async with dispatching(store, rules, pace(apart_seconds=apart_seconds)):
        await store.commits.get()
        for _ in range(10):
            await asyncio.sleep(0)

    assert store.claims == claims


async def test_rules_are_told_the_book_version_the_name_and_the_platform(
    store: FakeStore, rules: FakeRules
) -> None:
    claimed = a_lane("person:7", "e1")
    store.lanes.put_nowait([claimed])

    async with dispatching(store, rules):
        await store.commits.get()

    assert rules.requests == [
        [
            EventToEvaluate(
                event=claimed.events[0].event,
                book_version=7,
                person_name="Ada",
                platform=Platform.PLATFORM_INSTAGRAM,
            )
        ]
    ]


async def test_the_store_is_told_who_claims_and_how_much(
    store: FakeStore, rules: FakeRules
) -> None:
    store.lanes.put_nowait([a_lane("page", "e1")])

    async with dispatching(store, rules, pace(lanes=5)):
        await store.commits.get()

    assert (store.asked.owner, store.asked.max_lanes) == ("test", 5)
    assert store.asked.wait.seconds == 1


async def test_an_event_that_cannot_be_evaluated_ends_its_lane_there_and_no_other(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.answer = lambda item: (
        Evaluation(error="evaluation_failed") if item.event.key == "e2" else _answer(item)
    )
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2", "e3"), a_lane("person:8", "e4")])

    async with dispatching(store, rules):
        failing, other = await store.commits.get()

    assert [event.event_id for event in failing.events] == ["e1", "e2"]
    assert failing.events[1].failure == "evaluation_failed"
    assert failing.release
    assert rule_ids(other) == ["for e4"]


async def test_a_batch_that_is_refused_is_tried_event_by_event(
    store: FakeStore, rules: FakeRules
) -> None:
    def poisoned(item: EventToEvaluate) -> Evaluation:
        if item.event.key == "e2":
            raise InvalidArgument("event", "is poison")
        return _answer(item)

    rules.answer = poisoned
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2"), a_lane("person:8", "e3")])

    async with dispatching(store, rules):
        lanes = [await store.commits.get(), await store.commits.get()]

    (other,), (failing,) = sorted(lanes, key=lambda lane: len(lane[0].events))
    assert [len(request) for request in rules.requests] == [3, 1, 1, 1]
    assert [event.WhichOneof("result") for event in failing.events] == ["evaluation", "failure"]
    assert failing.events[1].failure == "invalid_argument"
    assert rule_ids(other) == ["for e3"]


async def test_an_answer_with_too_few_evaluations_costs_no_neighbour(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.drops_one_of_several = True
    store.lanes.put_nowait([a_lane("person:7", "e1"), a_lane("person:8", "e2")])

    async with dispatching(store, rules):
        lanes = [await store.commits.get(), await store.commits.get()]

    assert sorted(rule_ids(lane) for (lane,) in lanes) == [["for e1"], ["for e2"]]


async def test_rules_that_are_away_count_against_no_event(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.failures = [Unavailable("rules"), Unavailable("rules")]
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e1", "for e2"]
    assert [len(request) for request in rules.requests] == [2] * 3


async def test_rules_that_go_away_amid_single_tries_count_against_no_event(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.failures = [Unavailable("rules"), InvalidArgument("events", "are too many")]
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e1", "for e2"]


async def test_an_event_that_rules_never_answer_for_delays_its_own_lane_alone(
    store: FakeStore, rules: FakeRules
) -> None:
    def breaks_rules(item: EventToEvaluate) -> Evaluation:
        if item.event.key == "e2":
            raise Unavailable("rules")
        return _answer(item)

    rules.answer = breaks_rules
    store.lanes.put_nowait([a_lane("person:7", "e1"), a_lane("person:8", "e2", "e3")])
    store.lanes.put_nowait([a_lane("person:9", "e4")])

    async with dispatching(store, rules, pace(batches=2)):
        answered = [await store.commits.get(), await store.commits.get()]
        rules.answer = _answer
        (late,) = await store.commits.get()

    assert sorted(rule_ids(lane) for (lane,) in answered) == [["for e1"], ["for e4"]]
    assert rule_ids(late) == ["for e2", "for e3"]


async def test_an_event_that_rules_die_of_is_named_and_its_neighbours_are_answered(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.answer = dies_of("e2")
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2", "e3"), a_lane("person:8", "e4")])

    async with dispatching(store, rules):
        lanes = [await store.commits.get(), await store.commits.get()]

    (other,), (failing,) = sorted(lanes, key=lambda lane: len(lane[0].events))
    assert rule_ids(other) == ["for e4"]
    assert [event.event_id for event in failing.events] == ["e1", "e2"]
    assert failing.events[1].failure == RULES_DIED
    assert failing.release


async def test_what_stands_behind_an_event_that_rules_die_of_is_not_asked_alone(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.answer = dies_of("e1", "e2")
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert [event.event_id for event in lane.events] == ["e1"]
    assert asked(rules) == [["e1", "e2"], ["e1"]]


async def test_an_event_that_rules_died_of_is_asked_alone_at_once_and_parked_at_the_third(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.answer = dies_of("e1")
    store.lanes.put_nowait([a_lane("person:7", "e1"), a_lane("person:8", "e2")])

    async with dispatching(store, rules):
        failures = await failures_of("person:7", store)
        for _ in range(2):
            store.lanes.put_nowait([again(a_lane("person:7", "e1")), a_lane("person:8", "e2")])
            failures += await failures_of("person:7", store)

    assert failures == [RULES_DIED, RULES_DIED, KILLS_RULES]
    assert [events for events in asked(rules) if "e1" in events] == [["e1", "e2"]] + [["e1"]] * 3


async def failures_of(name: str, store: FakeStore) -> list[str]:
    """Of the lane's first event, when two lanes have been committed."""
    lanes = [(await store.commits.get())[0] for _ in range(2)]
    return [lane.events[0].failure for lane in lanes if lane.ref.lane == name]


@pytest.mark.parametrize("deaths", [1, 2, 5, 9])
async def test_rules_that_are_lost_with_all_they_have_count_against_no_event(
    store: FakeStore, rules: FakeRules, deaths: int
) -> None:
    rules.failures = [Unreached() for _ in range(deaths)]
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2"), a_lane("person:8", "e3")])

    async with dispatching(store, rules):
        lanes = [await store.commits.get(), await store.commits.get()]

    assert sorted(rule_ids(lane) for (lane,) in lanes) == [["for e1", "for e2"], ["for e3"]]


async def test_while_rules_are_not_back_from_a_death_other_lanes_are_claimed_and_answered(
    store: FakeStore, rules: FakeRules
) -> None:
    def is_away_for_page_one(item: EventToEvaluate) -> Evaluation:
        if item.event.key in ("e1", ""):
            raise Unreached
        return _answer(item)

    rules.answer = is_away_for_page_one
    store.lanes.put_nowait([again(a_lane("person:7", "e1"))])
    store.lanes.put_nowait([a_lane("person:8", "e2")])

    async with dispatching(store, rules, pace(alone_seconds=0)):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e2"]


@pytest.mark.parametrize(
    "kind", [Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.UNIMPLEMENTED, Kind.EXHAUSTED]
)
async def test_rules_that_refuse_the_caller_count_against_no_event(
    store: FakeStore, rules: FakeRules, kind: Kind
) -> None:
    rules.failures = [refusal_from(kind, kind.name, "not you") for _ in range(3)]
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e1", "for e2"]


async def test_a_lane_that_the_store_will_not_commit_costs_its_neighbours_nothing(
    store: FakeStore, rules: FakeRules
) -> None:
    store.refused["person:7"] = InvalidArgument("lanes.events", "must be the first pending ones")
    store.lanes.put_nowait([a_lane("person:7", "e1"), a_lane("person:8", "e2")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e2"]


async def test_a_lane_whose_commit_is_never_answered_delays_itself_alone(
    store: FakeStore, rules: FakeRules
) -> None:
    store.refused["person:7"] = Unavailable("PostgreSQL")
    store.lanes.put_nowait([a_lane("person:7", "e1"), a_lane("person:8", "e2")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()
        store.refused.clear()
        (late,) = await store.commits.get()

    assert (rule_ids(lane), rule_ids(late)) == (["for e2"], ["for e1"])


async def test_a_commit_that_is_not_answered_is_repeated(
    store: FakeStore, rules: FakeRules
) -> None:
    store.commit_failures = [Unavailable("store"), Unavailable("store")]
    store.lanes.put_nowait([a_lane("person:7", "e1")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e1"]
    assert len(rules.requests) == 1


async def test_a_claim_that_is_not_answered_is_repeated(store: FakeStore, rules: FakeRules) -> None:
    store.claim_failures = [Unavailable("store"), Unavailable("store")]
    store.lanes.put_nowait([a_lane("person:7", "e1")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e1"]


@pytest.mark.parametrize("kind", [Kind.INTERNAL, Kind.EXHAUSTED, Kind.UNAUTHENTICATED])
async def test_a_claim_that_is_refused_ends_no_dispatcher(
    store: FakeStore, rules: FakeRules, kind: Kind
) -> None:
    store.claim_failures = [refusal_from(kind, kind.name, "broken")]
    store.lanes.put_nowait([a_lane("person:7", "e1")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e1"]


async def test_lanes_that_a_claim_hands_over_while_the_dispatcher_stops_are_freed(
    store: FakeStore, rules: FakeRules
) -> None:
    async with dispatching(store, rules, Pace(claim_ends_seconds=5)) as task:
        await store.claimed.wait()
        task.cancel()
        await asyncio.sleep(0)
        store.lanes.put_nowait([a_lane("person:7", "e1")])
        with pytest.raises(asyncio.CancelledError):
            await task

        lanes = store.commits.get_nowait()

    assert lanes == [
        LaneDecisions(ref=LaneRef(page_id="1", lane="person:7", epoch=1), release=True)
    ]


async def test_a_claim_without_lanes_is_followed_by_another(
    store: FakeStore, rules: FakeRules
) -> None:
    store.lanes.put_nowait([])
    store.lanes.put_nowait([a_lane("person:7", "e1")])

    async with dispatching(store, rules):
        (lane,) = await store.commits.get()

    assert rule_ids(lane) == ["for e1"]


async def test_a_commit_that_is_refused_costs_its_lanes_and_nothing_else(
    store: FakeStore, rules: FakeRules
) -> None:
    store.commit_failures = [refusal_from(Kind.INTERNAL, "INTERNAL", "broken")]
    store.lanes.put_nowait([a_lane("person:7", "e1")])
    store.lanes.put_nowait([a_lane("person:8", "e2")])

    async with dispatching(store, rules, pace(batches=1)):
        (lane,) = await store.commits.get()

    assert lane.ref.lane == "person:8"


async def test_a_dispatcher_that_is_stopped_frees_its_lanes_undecided(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.gate.clear()
    store.lanes.put_nowait([a_lane("person:7", "e1"), a_lane("person:8", "e2", epoch=3)])

    async with dispatching(store, rules) as task:
        await rules.called.get()
        await stopped(task)

        lanes = store.commits.get_nowait()

    assert lanes == [
        LaneDecisions(ref=LaneRef(page_id="1", lane="person:7", epoch=1), release=True),
        LaneDecisions(ref=LaneRef(page_id="1", lane="person:8", epoch=3), release=True),
    ]


async def test_a_dispatcher_stops_also_where_its_lanes_cannot_be_freed(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.gate.clear()
    store.commit_failures = [Unavailable("store")]
    store.lanes.put_nowait([a_lane("person:7", "e1")])

    async with dispatching(store, rules) as task:
        await rules.called.get()
        await stopped(task)

    assert store.commits.empty()


async def test_lanes_are_held_as_long_as_they_are_worked_on_and_no_longer(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.gate.clear()
    store.lanes.put_nowait([a_lane("person:7", "e1")])
    store.lanes.put_nowait([a_lane("person:8", "e2", epoch=4)])

    async with dispatching(store, rules, pace(heartbeat_seconds=0.01)):
        await rules.called.get()
        await rules.called.get()
        held = [await store.extended.get() for _ in range(3)][-1]
        rules.gate.set()
        await store.commits.get()
        await store.commits.get()
        await asyncio.sleep(0)
        while not store.extended.empty():
            store.extended.get_nowait()
        await asyncio.sleep(0.05)

    assert held == [
        LaneRef(page_id="1", lane="person:7", epoch=1),
        LaneRef(page_id="1", lane="person:8", epoch=4),
    ]
    assert store.extended.empty()


async def test_a_heartbeat_that_fails_is_followed_by_the_next(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.gate.clear()
    store.extend_failures = [Unavailable("store"), Unavailable("store")]
    store.lanes.put_nowait([a_lane("person:7", "e1")])

    async with dispatching(store, rules, pace(heartbeat_seconds=0.01)):
        beats = [await store.extended.get() for _ in range(3)]

    assert beats == [[LaneRef(page_id="1", lane="person:7", epoch=1)]] * 3


async def test_a_lane_that_another_has_claimed_is_not_held_any_longer(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.gate.clear()
    store.lost = [LaneRef(page_id="1", lane="person:7", epoch=1)]
    store.lanes.put_nowait([a_lane("person:7", "e1"), a_lane("person:8", "e2")])

    async with dispatching(store, rules, pace(heartbeat_seconds=0.01)):
        first, second = await store.extended.get(), await store.extended.get()

    assert [ref.lane for ref in first] == ["person:7", "person:8"]
    assert [ref.lane for ref in second] == ["person:8"]


async def test_a_lane_claimed_again_is_held_under_its_new_epoch(
    store: FakeStore, rules: FakeRules
) -> None:
    gates: list[asyncio.Event] = []
    real = rules.EvaluateEvents

    async def each_by_its_gate(
        request: EvaluateEventsRequest, /, *, wait_for_ready: bool
    ) -> EvaluateEventsResponse:
        gate = asyncio.Event()
        gates.append(gate)
        rules.called.put_nowait(None)
        await gate.wait()
        return await real(request, wait_for_ready=wait_for_ready)

    rules.EvaluateEvents = each_by_its_gate  # type: ignore[method-assign]
    store.lanes.put_nowait([a_lane("person:7", "e1", epoch=1)])
    store.lanes.put_nowait([a_lane("person:7", "e1", epoch=2)])

    async with dispatching(store, rules, pace(heartbeat_seconds=0.01)):
        await rules.called.get()
        await rules.called.get()
        gates[0].set()  # the stale claim ends first
        await store.commits.get()
        await asyncio.sleep(0)
        while not store.extended.empty():
            store.extended.get_nowait()
        held = await store.extended.get()

    assert held == [LaneRef(page_id="1", lane="person:7", epoch=2)]


async def test_a_commit_that_is_fenced_is_not_repeated_and_the_dispatcher_goes_on(
    store: FakeStore, rules: FakeRules
) -> None:
    store.state = CommitState.COMMIT_STATE_FENCED
    store.lanes.put_nowait([a_lane("person:7", "e1")])
    store.lanes.put_nowait([a_lane("person:8", "e2")])

    async with dispatching(store, rules, pace(batches=1)):
        (first,), (second,) = await store.commits.get(), await store.commits.get()

    assert (first.ref.lane, second.ref.lane) == ("person:7", "person:8")
    assert store.commits.empty()


async def test_several_batches_are_decided_at_once_but_no_more_than_the_pace_allows(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.gate.clear()
    for number in range(4):
        store.lanes.put_nowait([a_lane(f"person:{number}", f"e{number}")])

    async with dispatching(store, rules, pace(batches=2)):
        await rules.called.get()
        await rules.called.get()
        for _ in range(10):
            await asyncio.sleep(0)
        under_way, claims = len(rules.requests), store.claims
        rules.gate.set()
        for _ in range(4):
            await store.commits.get()

    assert (under_way, claims) == (2, 2)


async def test_a_lane_whose_event_has_failed_is_decided_before_others_are_claimed(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.gate.clear()
    suspect = a_lane("person:1", "e1")
    suspect.events[0].attempts = 1
    for lane in (suspect, a_lane("person:2", "e2")):
        store.lanes.put_nowait([lane])

    async with dispatching(store, rules, pace(alone_seconds=60)):
        await rules.called.get()
        for _ in range(10):
            await asyncio.sleep(0)
        claims = store.claims
        rules.gate.set()
        for _ in range(2):
            await store.commits.get()

    assert claims == 1


async def test_a_lane_whose_event_has_failed_holds_others_up_for_its_time_alone(
    store: FakeStore, rules: FakeRules
) -> None:
    rules.gate.clear()
    suspect = a_lane("person:1", "e1")
    suspect.events[0].attempts = 1
    for lane in (suspect, a_lane("person:2", "e2")):
        store.lanes.put_nowait([lane])

    async with dispatching(store, rules, pace(alone_seconds=0)):
        await rules.called.get()
        await rules.called.get()

    stands_for_the_first = ""
    assert [each[0].event.key for each in rules.requests] == [stands_for_the_first, "e2"]


async def test_a_slow_batch_holds_up_no_other(store: FakeStore, rules: FakeRules) -> None:
    rules.gate.clear()
    store.lanes.put_nowait([a_lane("person:1", "e1")])

    async with dispatching(store, rules, pace(batches=2)):
        await rules.called.get()
        slow, rules.gate = rules.gate, asyncio.Event()
        rules.gate.set()
        store.lanes.put_nowait([a_lane("person:2", "e2")])
        (lane,) = await store.commits.get()
        slow.set()
        (late,) = await store.commits.get()

    assert (lane.ref.lane, late.ref.lane) == ("person:2", "person:1")


async def test_decisions_are_counted_and_timed_from_their_receipt(
    store: FakeStore, rules: FakeRules
) -> None:
    before, seconds_before = answered(), seconds()
    store.lanes.put_nowait([a_lane("person:7", "e1", "e2")])

    async with dispatching(store, rules):
        await store.commits.get()
        await asyncio.sleep(0.01)

    assert answered() - before == 2
    assert seconds() - seconds_before == pytest.approx(0.04)


def answered() -> float:
    return (
        metrics.registry.get_sample_value(
            "pagewire_dispatcher_decisions_total", {"outcome": "answered"}
        )
        or 0.0
    )


def seconds() -> float:
    return metrics.registry.get_sample_value("pagewire_decision_seconds_sum") or 0.0
