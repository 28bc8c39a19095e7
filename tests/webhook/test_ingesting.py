"""Handing deliveries to the store."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.store.v1.ingest_service_pb2 import (
    Delivery,
    DeliveryResult,
    DeliveryState,
    IngestRequest,
    IngestResponse,
)
from pagewire.type.v1.event_pb2 import Event
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal, Unavailable, refusal_from
from pagewire_webhook.admission import Admission
from pagewire_webhook.deliveries import new_delivery_id
from pagewire_webhook.ingesting import Ingesting, NotStored
from pagewire_webhook.wire import framed

STORED = DeliveryState.DELIVERY_STATE_STORED
BUSY = DeliveryState.DELIVERY_STATE_BUSY
REFUSED = DeliveryState.DELIVERY_STATE_REFUSED

SOON = 30.0
"""Seconds within which anything here happens, however slow the machine."""


class FakeStore:
    """Stores what it is given, but for lanes that are held and deliveries that it refuses."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.stored: list[str] = []
        self.kept: dict[str, Delivery] = {}
        self.held: set[str] = set()
        self.refuses: Callable[[Delivery], bool] = lambda delivery: False
        self.fails: Refusal | None = None
        self.timeouts: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request: bytes, /, *, timeout: float) -> IngestResponse:
        deliveries = IngestRequest.FromString(request).deliveries
        self.calls.append([delivery.delivery_id for delivery in deliveries])
        self.timeouts.append(timeout)
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return IngestResponse(results=[self._result(each) for each in deliveries])

    def _result(self, delivery: Delivery) -> DeliveryResult:
        if self.refuses(delivery):
            return DeliveryResult(state=REFUSED, reason="numeric_value_out_of_range")
        if any(f"{event.page_id}/{event.lane}" in self.held for event in delivery.events):
            return DeliveryResult(state=BUSY)
        self.stored.append(delivery.delivery_id)
        self.kept[delivery.delivery_id] = delivery
        return DeliveryResult(state=STORED, new_events=len(delivery.events))


def delivery(name: str, *lanes: str, body: bytes = b"{}") -> Delivery:
    events = [
        Event(page_id="1", lane=lane, key=f"message:{name}{at}") for at, lane in enumerate(lanes)
    ]
    return Delivery(delivery_id=name, body=body, signed_by="app", events=events)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def ingesting(store: FakeStore) -> AsyncIterator[Ingesting]:
    ingesting = Ingesting(store)
    yield ingesting
    store.gate.set()
    await asyncio.wait_for(ingesting.close(), SOON)


def later() -> float:
    return asyncio.get_running_loop().time() + 60


def started(ingesting: Ingesting, *deliveries: Delivery) -> list[asyncio.Task[DeliveryResult]]:
    return [asyncio.create_task(ingesting.store(each, deadline=later())) for each in deliveries]


async def results(tasks: Iterable[asyncio.Task[DeliveryResult]]) -> list[DeliveryResult]:
    return await asyncio.wait_for(asyncio.gather(*tasks), SOON)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_lone_delivery_goes_at_once_and_is_answered(
    ingesting: Ingesting, store: FakeStore
) -> None:
    result = await ingesting.store(delivery("a", "person:1"))

    assert (result.state, result.new_events) == (STORED, 1)
    assert store.calls == [["a"]]


async def test_all_that_waited_while_a_call_was_in_flight_go_in_the_next(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.gate.clear()
    first = started(ingesting, delivery("a", "page"))
    await until(lambda: len(store.calls) == 1)
    rest = started(ingesting, *(delivery(str(at), f"person:{at}") for at in range(20)))
    await asyncio.sleep(0)
    store.gate.set()

    await results([*first, *rest])

    assert store.calls == [["a"], [str(at) for at in range(20)]]


async def test_a_call_holds_no_more_than_eight_mebibytes(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.gate.clear()
    first = started(ingesting, delivery("a", "page"))
    await until(lambda: len(store.calls) == 1)
    rest = started(ingesting, *(delivery(str(at), body=b"x" * 3 * 2**20) for at in range(4)))
    await asyncio.sleep(0)
    store.gate.set()

    await results([*first, *rest])

    assert store.calls == [["a"], ["0", "1"], ["2", "3"]]


async def test_too_much_waiting_is_refused_at_once(store: FakeStore) -> None:
    ingesting = Ingesting(store, waiting_max_bytes=1_000)
    store.gate.clear()
    waiting = started(ingesting, delivery("a", body=b"x" * 600))
    await until(lambda: len(store.calls) == 1)

    with pytest.raises(NotStored) as refused:
        await ingesting.store(delivery("b", body=b"x" * 600))

    assert refused.value.kind is Kind.TRANSIENT
    assert refused.value.retry_after == 5
    store.gate.set()
    await results(waiting)
    assert (await ingesting.store(delivery("c", body=b"x" * 600))).state == STORED
    await ingesting.close()


async def test_a_held_lane_delays_only_its_own_deliveries(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.held = {"1/person:1"}
    stuck = started(ingesting, delivery("stuck", "person:1"))
    await until(lambda: store.calls == [["stuck"]])

    free = await results(started(ingesting, *(delivery(str(at), "person:2") for at in range(5))))

    assert [result.state for result in free] == [STORED] * 5
    assert not stuck[0].done()
    store.held = set()
    assert [result.state for result in await results(stuck)] == [STORED]


async def test_deliveries_of_a_held_lane_keep_their_order(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.held = {"1/person:1"}
    store.gate.clear()
    tasks = started(ingesting, delivery("a", "person:1"))
    await until(lambda: len(store.calls) == 1)
    # Queued behind a call that comes back busy, within one batch and after it.
    tasks += started(ingesting, delivery("b", "person:1"), delivery("c", "person:1", "page"))
    await asyncio.sleep(0)
    store.gate.set()
    await until(lambda: len(store.calls) >= 2)
    tasks += started(ingesting, delivery("d", "page"), delivery("e", "person:1"))
    tries = len(store.calls)
    await until(lambda: len(store.calls) >= tries + 3)
    assert store.stored == []

    store.held = set()
    await results(tasks)

    assert store.stored[:3] == ["a", "b", "c"]
    assert set(store.stored[3:]) == {"d", "e"}  # of no lane in common


async def test_busy_ones_of_one_batch_come_out_in_the_order_of_their_arrival(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.held = {"1/person:1"}
    store.gate.clear()
    tasks = started(ingesting, delivery("first", "page"))
    await until(lambda: len(store.calls) == 1)
    tasks += started(ingesting, *(delivery(name, "person:1") for name in "abcd"))
    await asyncio.sleep(0)
    store.gate.set()
    await until(lambda: len(store.calls) >= 4)  # the batch was tried, and one of it again and again
    assert store.stored == ["first"]

    store.held = set()
    await results(tasks)

    assert store.stored == ["first", "a", "b", "c", "d"]


async def test_a_repeat_has_the_same_delivery_id(ingesting: Ingesting, store: FakeStore) -> None:
    store.held = {"1/person:1"}
    tasks = started(ingesting, delivery("a", "person:1"))
    await until(lambda: len(store.calls) >= 3)

    store.held = set()
    await results(tasks)

    assert {name for call in store.calls for name in call} == {"a"}


async def test_one_that_is_busy_until_its_deadline_is_refused_and_lets_the_next_go_on(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.held = {"1/person:1"}
    soon = asyncio.get_running_loop().time() + 0.7

    with pytest.raises(NotStored):
        await ingesting.store(delivery("a", "person:1"), deadline=soon)

    store.held = set()
    (after,) = await results(started(ingesting, delivery("b", "person:1")))
    assert after.state == STORED
    assert store.stored == ["b"]


async def test_a_call_ends_before_the_first_of_its_deliveries_has_to_be_answered(
    ingesting: Ingesting, store: FakeStore
) -> None:
    await ingesting.store(delivery("a"))
    await ingesting.store(delivery("b"), deadline=asyncio.get_running_loop().time() + 60)

    assert 0 < store.timeouts[0] < 2 < 30 < store.timeouts[1] < 60


async def test_one_whose_time_is_over_is_not_sent(ingesting: Ingesting, store: FakeStore) -> None:
    with pytest.raises(NotStored):
        await ingesting.store(delivery("a"), deadline=asyncio.get_running_loop().time())

    assert store.calls == []


async def test_one_with_hardly_any_time_left_costs_the_others_of_its_call_nothing(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.gate.clear()
    first = started(ingesting, delivery("first"))
    await until(lambda: len(store.calls) == 1)
    late = asyncio.create_task(
        ingesting.store(delivery("late"), deadline=asyncio.get_running_loop().time() + 0.2)
    )
    rest = started(ingesting, delivery("a"), delivery("b"))
    await asyncio.sleep(0)
    store.gate.set()

    answers = await results([*first, *rest])

    assert [answer.state for answer in answers] == [STORED] * 3
    assert store.calls == [["first"], ["a", "b"]]
    with pytest.raises(NotStored):
        await late


@pytest.mark.parametrize(
    "refusal",
    [Unavailable("the store"), refusal_from(Kind.EXHAUSTED, "QUEUE_FULL", "too much waits")],
    ids=["unavailable", "exhausted"],
)
async def test_a_store_that_cannot_be_had_is_everybodys_and_asked_once(
    ingesting: Ingesting, store: FakeStore, refusal: Refusal
) -> None:
    store.fails = refusal
    store.gate.clear()
    tasks = started(ingesting, delivery("first"))
    await until(lambda: len(store.calls) == 1)
    tasks += started(ingesting, *(delivery(str(at)) for at in range(10)))
    await asyncio.sleep(0)
    store.gate.set()

    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SOON)

    assert [type(outcome) for outcome in outcomes] == [NotStored] * 11
    assert len(store.calls) == 2


async def test_one_that_the_database_refuses_is_kept_without_its_events(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.refuses = lambda delivery: bool(delivery.events)

    result = await ingesting.store(delivery("a", "person:1", body=b"raw"))

    assert result.state == STORED
    kept = store.kept["a"]
    assert kept.body == b"raw"
    assert [item.reason for item in kept.unreadable] == ["store_refused"]
    assert (kept.delivery_id, kept.signed_by, list(kept.events)) == ("a", "app", [])


async def test_one_that_makes_the_whole_call_fail_is_found_and_kept(
    ingesting: Ingesting, store: FakeStore
) -> None:
    async def call(request: bytes, /, *, timeout: float) -> IngestResponse:
        deliveries = IngestRequest.FromString(request).deliveries
        if any(each.delivery_id == "bad" and each.events for each in deliveries):
            raise InvalidArgument("events[0].key", "is malformed")
        return await store(request, timeout=timeout)

    ingesting = Ingesting(call)
    tasks = started(
        ingesting,
        delivery("first"),
        *(delivery(name, "person:1") for name in ("a", "bad", "b")),
    )

    answers = await results(tasks)

    assert [answer.state for answer in answers] == [STORED] * 4
    assert [item.reason for item in store.kept["bad"].unreadable] == ["store_refused"]
    assert len(store.kept["a"].events) == len(store.kept["b"].events) == 1
    await ingesting.close()


async def test_one_that_is_refused_even_so_is_not_acknowledged(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.refuses = lambda delivery: True

    with pytest.raises(NotStored):
        await ingesting.store(delivery("a", "person:1"))


async def test_it_is_full_when_as_much_is_under_way_as_is_borne(store: FakeStore) -> None:
    ingesting = Ingesting(store, admission=Admission(at_first=2))
    store.gate.clear()

    tasks = started(ingesting, delivery("a"))
    await until(lambda: bool(store.calls))
    before = ingesting.is_full
    tasks += started(ingesting, delivery("b"))
    await asyncio.sleep(0)
    within = ingesting.is_full
    store.gate.set()
    await results(tasks)

    assert [before, within, ingesting.is_full] == [False, True, False]
    await ingesting.close()


async def test_it_is_full_when_too_many_bytes_wait(store: FakeStore) -> None:
    one = delivery("a", body=b"x" * 1_000)
    ingesting = Ingesting(store, waiting_max_bytes=len(framed(one)))
    store.gate.clear()

    tasks = started(ingesting, one)
    await asyncio.sleep(0)
    within = ingesting.is_full
    store.gate.set()
    await results(tasks)

    assert within
    assert not ingesting.is_full
    await ingesting.close()


async def test_what_waits_for_a_held_lane_fills_nothing(store: FakeStore) -> None:
    ingesting = Ingesting(store, admission=Admission(at_first=3))
    store.held = {"1/person:1"}

    held = started(ingesting, *(delivery(str(number), "person:1") for number in range(10)))
    await until(lambda: len(store.calls) >= 3)
    within = ingesting.is_full
    other = await ingesting.store(delivery("other", "person:2"))
    store.held = set()
    await results(held)

    assert not within
    assert other.state == STORED
    await ingesting.close()


async def test_nothing_is_left_waiting_when_callers_go(
    ingesting: Ingesting, store: FakeStore
) -> None:
    store.held = {"1/person:1"}
    tasks = started(ingesting, *(delivery(name, "person:1", "page") for name in "abc"))
    await until(lambda: len(store.calls) >= 2)

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    store.held = set()
    assert (await ingesting.store(delivery("d", "person:1", "page"))).state == STORED
    assert store.stored == ["d"]


@given(st.lists(st.binary(max_size=300) | st.sampled_from([127, 128, 2**14, 2**21]).map(bytes)))
def test_framed_deliveries_one_behind_another_are_the_request(bodies: list[bytes]) -> None:
    deliveries = [delivery(str(at), "page", body=body) for at, body in enumerate(bodies)]

    request = b"".join(map(framed, deliveries))

    assert IngestRequest.FromString(request) == IngestRequest(deliveries=deliveries)
    assert request == IngestRequest(deliveries=deliveries).SerializeToString()


def test_a_delivery_id_is_a_uuid_of_version_7_in_order_of_time() -> None:
    early, late = new_delivery_id(1_767_312_000_000), new_delivery_id(1_767_312_000_001)

    assert uuid.UUID(early).version == 7
    assert uuid.UUID(early).variant == uuid.RFC_4122
    assert uuid.UUID(early).int >> 80 == 1_767_312_000_000
    assert early < late
    assert len({new_delivery_id(1) for _ in range(1_000)}) == 1_000
