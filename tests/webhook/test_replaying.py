import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.ingest_service_pb2 import Delivery, DeliveryResult
from pagewire.store.v1.operation_service_pb2 import (
    ClaimReplaysRequest,
    ClaimReplaysResponse,
    Replay,
)
from pagewire_runtime.errors import Refusal, Unavailable
from pagewire_webhook.replaying import Replaying

RECEIVED = Timestamp(seconds=1_767_000_000, nanos=5_000_000)
MESSAGE = {
    "object": "page",
    "entry": [
        {
            "id": "1",
            "time": 1_767_000_000_000,
            "messaging": [
                {
                    "sender": {"id": "7"},
                    "recipient": {"id": "1"},
                    "timestamp": 1_767_000_000_000,
                    "message": {"mid": "m_1", "text": "hello"},
                }
            ],
        }
    ],
}


def a_replay(quarantine_id: str, body: bytes) -> Replay:
    return Replay(
        quarantine_id=quarantine_id,
        body=body,
        receive_time=RECEIVED,
        signed_by="app-previous",
        delivery_id=f"delivery of {quarantine_id}",
    )


class FakeQuarantine:
    """Hands out what is put in; fails as often as it is told to."""

    def __init__(self) -> None:
        self.claims: asyncio.Queue[list[Replay]] = asyncio.Queue()
        self.failures: list[Refusal] = []

    async def ClaimReplays(self, request: ClaimReplaysRequest, /) -> ClaimReplaysResponse:
        assert 0 < request.wait.seconds < 5  # before the server ends the call
        if self.failures:
            raise self.failures.pop()
        return ClaimReplaysResponse(replays=await self.claims.get())


class FakeIngesting:
    """Keeps what it is given; fails as often as it is told to."""

    def __init__(self) -> None:
        self.stored: asyncio.Queue[Delivery] = asyncio.Queue()
        self.failures: list[Refusal] = []

    async def store(self, delivery: Delivery) -> DeliveryResult:
        if self.failures:
            raise self.failures.pop()
        self.stored.put_nowait(delivery)
        return DeliveryResult()


@pytest.fixture
def quarantine() -> FakeQuarantine:
    return FakeQuarantine()


@pytest.fixture
def ingesting() -> FakeIngesting:
    return FakeIngesting()


@asynccontextmanager
async def replaying(quarantine: FakeQuarantine, ingesting: FakeIngesting) -> AsyncIterator[None]:
    """A loop that works within the block, without a pause; nothing in it may take half a minute."""
    loop = Replaying(quarantine, ingesting, pause_seconds=0)
    async with asyncio.timeout(30):
        task = asyncio.create_task(loop.run())
        yield
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_body_is_read_again_as_it_was_received_first(
    quarantine: FakeQuarantine, ingesting: FakeIngesting
) -> None:
    body = json.dumps(MESSAGE).encode()
    quarantine.claims.put_nowait([a_replay("q-1", body)])

    async with replaying(quarantine, ingesting):
        delivery = await ingesting.stored.get()

    assert delivery.replay_of == "q-1"
    assert delivery.body == body
    assert delivery.receive_time == RECEIVED
    assert delivery.signed_by == "app-previous"
    assert [event.key for event in delivery.events] == ["message:m_1"]
    assert not delivery.unreadable


async def test_a_replay_is_the_delivery_that_the_body_came_in(
    quarantine: FakeQuarantine, ingesting: FakeIngesting
) -> None:
    quarantine.claims.put_nowait([a_replay("q-1", b"{}"), a_replay("q-2", b"{}")])

    async with replaying(quarantine, ingesting):
        first, second = await ingesting.stored.get(), await ingesting.stored.get()

    assert (first.replay_of, second.replay_of) == ("q-1", "q-2")
    assert (first.delivery_id, second.delivery_id) == ("delivery of q-1", "delivery of q-2")


async def test_what_still_cannot_be_read_is_handed_back_with_its_reason(
    quarantine: FakeQuarantine, ingesting: FakeIngesting
) -> None:
    quarantine.claims.put_nowait([a_replay("q-1", b"{broken")])

    async with replaying(quarantine, ingesting):
        delivery = await ingesting.stored.get()

    assert [each.reason for each in delivery.unreadable] == ["json_invalid"]
    assert delivery.body == b"{broken"


async def test_a_failure_delays_replays_and_nothing_else(
    quarantine: FakeQuarantine, ingesting: FakeIngesting
) -> None:
    quarantine.failures = [Unavailable("the store"), Refusal("broken")]
    ingesting.failures = [Unavailable("the store")]
    quarantine.claims.put_nowait([a_replay("q-1", b"{}")])
    quarantine.claims.put_nowait([a_replay("q-1", b"{}")])  # handed out again, as it was not stored

    async with replaying(quarantine, ingesting):
        delivery = await ingesting.stored.get()

    assert delivery.replay_of == "q-1"
