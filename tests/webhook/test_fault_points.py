import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.types import Message

from pagewire.rules.v1.rule_service_pb2 import EvaluateEventsRequest, EvaluateEventsResponse
from pagewire.store.v1.ingest_service_pb2 import (
    Delivery,
    DeliveryResult,
    DeliveryState,
    IngestRequest,
    IngestResponse,
)
from pagewire.store.v1.lane_service_pb2 import (
    ClaimedEvent,
    ClaimedLane,
    ClaimLanesRequest,
    ClaimLanesResponse,
    CommitDecisionsRequest,
    CommitDecisionsResponse,
    ExtendLeasesRequest,
    ExtendLeasesResponse,
    LaneRef,
    LaneResult,
)
from pagewire.type.v1.event_pb2 import Event
from pagewire.type.v1.rule_pb2 import Evaluation
from pagewire_runtime import faults
from pagewire_webhook.dispatcher import Dispatcher, Pace
from pagewire_webhook.ingesting import Ingesting
from pagewire_webhook.public import PublicConfig, public_app
from pagewire_webhook.signature import secrets_of

SECRET = "example-app-secret"
BODY = json.dumps(
    {
        "object": "page",
        "entry": [
            {
                "id": "1001",
                "time": 1767312000412,
                "messaging": [
                    {
                        "sender": {"id": "2001"},
                        "recipient": {"id": "1001"},
                        "timestamp": 1767312000000,
                        "message": {"mid": "m_1", "text": "hello"},
                    }
                ],
            }
        ],
    }
).encode()


@pytest.fixture(autouse=True)
def unarmed_afterwards() -> Iterator[None]:
    yield
    faults.arm()


class KeepingStore:
    """Stores every delivery, hands out one lane, and takes every decision."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.lanes: asyncio.Queue[list[ClaimedLane]] = asyncio.Queue()
        self.idle = asyncio.Event()
        self.commits: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, request: bytes, /, *, timeout: float) -> IngestResponse:
        deliveries = IngestRequest.FromString(request).deliveries
        self.deliveries += deliveries
        stored = DeliveryResult(state=DeliveryState.DELIVERY_STATE_STORED)
        return IngestResponse(results=[stored for _ in deliveries])

    async def ClaimLanes(self, request: ClaimLanesRequest, /) -> ClaimLanesResponse:
        if self.lanes.empty():
            self.idle.set()
        return ClaimLanesResponse(lanes=await self.lanes.get())

    async def ExtendLeases(self, request: ExtendLeasesRequest, /) -> ExtendLeasesResponse:
        return ExtendLeasesResponse()

    async def CommitDecisions(self, request: CommitDecisionsRequest, /) -> CommitDecisionsResponse:
        for lane in request.lanes:
            self.commits.put_nowait(lane.ref.lane)
        return CommitDecisionsResponse(results=[LaneResult() for _ in request.lanes])


class MatchingRules:
    async def EvaluateEvents(
        self, request: EvaluateEventsRequest, /, *, wait_for_ready: bool
    ) -> EvaluateEventsResponse:
        return EvaluateEventsResponse(evaluations=[Evaluation() for _ in request.events])


@pytest.fixture
async def store() -> KeepingStore:
    return KeepingStore()


@pytest.fixture
async def ingesting(store: KeepingStore) -> AsyncIterator[Ingesting]:
    ingesting = Ingesting(store)
    yield ingesting
    await ingesting.close()


async def post(ingesting: Ingesting) -> int:
    """The status of one signed body."""
    app = public_app(PublicConfig(secrets_of([SECRET], []), b"token"), ingesting)
    signature = b"sha256=" + hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest().encode()
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY}

    async def send(message: Message) -> None:
        if "status" in message:
            statuses.append(message["status"])

    headers = [
        (b"content-length", str(len(BODY)).encode()),
        (b"x-hub-signature-256", signature),
    ]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/api/webhook",
        "query_string": b"",
        "headers": headers,
    }
    await app(scope, receive, send)
    (status,) = statuses
    return status


async def test_what_fails_after_the_signature_was_checked_is_not_stored_and_asked_for_again(
    store: KeepingStore, ingesting: Ingesting
) -> None:
    faults.arm("edge.verified=raise:UNAVAILABLE once")

    first, stored = await post(ingesting), len(store.deliveries)
    again = await post(ingesting)

    assert (first, stored, again, len(store.deliveries)) == (503, 0, 200, 1)


async def test_what_fails_after_it_was_stored_is_asked_for_again_nevertheless(
    store: KeepingStore, ingesting: Ingesting
) -> None:
    faults.arm("edge.after_ingest=raise:UNAVAILABLE once")

    first, stored = await post(ingesting), len(store.deliveries)
    again = await post(ingesting)

    assert (first, stored, again, len(store.deliveries)) == (503, 1, 200, 2)


@pytest.mark.parametrize("key", ["message:m_1", "1001", "person:2001"])
async def test_the_edge_names_the_event_its_page_and_its_lane(
    ingesting: Ingesting, key: str
) -> None:
    faults.arm(f"edge.verified=raise:UNAVAILABLE if:{key}")
    named = await post(ingesting)
    faults.arm(f"edge.verified=raise:UNAVAILABLE if:not-{key}")
    other = await post(ingesting)

    assert (named, other) == (503, 200)


async def test_a_webhook_goes_by_each_point_of_the_edge_in_order(
    ingesting: Ingesting, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [point for point in faults.POINTS if point.startswith("edge.")]
    faults.arm("; ".join(f"{point}=sleep:0s" for point in points))

    assert await post(ingesting) == 200
    assert struck(capsys) == ["edge.accepted", "edge.verified", "edge.after_ingest"]


def struck(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The points that were logged."""
    lines = capsys.readouterr().out.splitlines()
    return [line.rpartition("point=")[2] for line in lines if "a fault struck" in line]


def a_lane(number: int) -> ClaimedLane:
    event = Event(page_id="1001", lane=f"person:{number}", key=f"message:m_{number}")
    return ClaimedLane(
        ref=LaneRef(page_id="1001", lane=f"person:{number}", epoch=1),
        events=[ClaimedEvent(event_id=f"e-1001-{number}", event=event)],
    )


async def decided(store: KeepingStore, *lanes: ClaimedLane) -> list[str]:
    """The lanes in the order in which they were decided."""
    pace = Pace(batches=1, claim_ends_seconds=0)  # so it asks for more when all is over
    store.lanes.put_nowait(list(lanes))
    working = asyncio.create_task(Dispatcher(store, MatchingRules(), "test", pace).run())
    async with asyncio.timeout(30):
        found = [await store.commits.get() for _ in lanes]
        await store.idle.wait()
    working.cancel()
    await asyncio.wait([working])
    return found


async def test_a_decision_goes_by_each_point_of_the_dispatcher_in_order(
    store: KeepingStore, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [point for point in faults.POINTS if point.startswith("dispatcher.")]
    faults.arm("; ".join(f"{point}=sleep:0s" for point in points))

    assert await decided(store, a_lane(1)) == ["person:1"]
    assert struck(capsys) == ["dispatcher.claimed", "dispatcher.evaluated", "dispatcher.committed"]


async def test_rules_that_are_away_for_one_event_hold_up_no_other(store: KeepingStore) -> None:
    faults.arm("dispatcher.evaluated=raise:UNAVAILABLE if:message:m_1 nth:2; "
               "dispatcher.evaluated=raise:UNAVAILABLE if:message:m_1 nth:1")  # fmt: skip

    assert await decided(store, a_lane(1), a_lane(2)) == ["person:2", "person:1"]


@pytest.mark.parametrize("key", ["e-1001-1", "message:m_1", "person:1", "1001"])
async def test_the_dispatcher_names_events_by_id_and_key_and_their_page_and_lane(
    store: KeepingStore, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    faults.arm(f"dispatcher.claimed=sleep:0s if:{key}; dispatcher.committed=sleep:0s if:{key}")
    await decided(store, a_lane(1))

    assert struck(capsys) == ["dispatcher.claimed", "dispatcher.committed"]
