import asyncio
from collections.abc import Iterator

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.outbox_service_pb2 import ReadBack
from pagewire.type.v1.page_pb2 import Login
from pagewire_runtime import faults
from pagewire_sync.budget import Budget
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.graph import Credentials, Graph, Hosts, open_transport
from pagewire_sync.readback import Reader
from tests.support.rawgraph import answering, http, raw_graph
from tests.support.sending import OUR_APP, Meta, running


@pytest.fixture(autouse=True)
def unarmed_afterwards() -> Iterator[None]:
    yield
    faults.arm()


async def test_a_send_that_fails_before_its_first_byte_was_not_sent(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    faults.arm("sync.before_write=raise:UNAVAILABLE once")

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    assert meta.outbox.state(1) == "waiting"
    assert await meta.simulator.sends() == []


async def test_a_send_that_fails_after_its_last_byte_is_uncertain(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    faults.arm("sync.after_write=raise:UNAVAILABLE once")

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    assert meta.outbox.state(1) == "uncertain"
    assert meta.outbox.outcome(1).reason == "connection_lost"
    assert len(await meta.simulator.sends()) == 1


async def test_after_the_last_byte_nothing_of_the_answer_is_read(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    faults.arm("sync.after_write=sleep:10s")

    async with running(meta.sender().run()), asyncio.timeout(30):
        while not await meta.simulator.sends():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        standing = meta.outbox.state(1)
        meta.graph.total_seconds = 0.1  # so that the drain of this test is short

    assert standing == "sending"


@pytest.mark.parametrize("operation", ["post", "get"])
async def test_only_a_send_has_a_last_byte_that_counts(operation: str) -> None:
    faults.arm("sync.after_write=raise:UNAVAILABLE")
    credentials = Credentials("1", "1", Login.LOGIN_FACEBOOK, "token")
    async with raw_graph(answering(http(b"{}"))) as server, open_transport() as transport:
        graph = Graph(transport, Hosts(server.url, server.url, "v25.0"), OUR_APP, Budget())
        if operation == "post":
            answer = await graph.post(credentials, "1", "subscribed_apps", {}, operation="x")
        else:
            answer = await graph.get(credentials, "1", "", {}, operation="x")

    assert answer.body == {}  # type: ignore[union-attr]  # an error has none


async def test_what_dies_with_the_answer_in_hand_leaves_the_reply_in_flight(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    faults.arm("sync.after_response=raise:ABORTED once")

    async with running(meta.sender().run()), asyncio.timeout(30):
        while not await meta.simulator.sends():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        standing = meta.outbox.state(1)

    assert standing == "sending"


async def test_a_point_knows_the_reply_and_the_page(meta: Meta) -> None:
    account = await meta.page()
    first, second = await meta.message(account, 1), await meta.message(account, 2)
    meta.outbox.put(first, second)
    faults.arm(
        f"sync.before_write=raise:UNAVAILABLE if:{second.reply_id};"
        f"sync.recorded=raise:UNAVAILABLE if:not-{account.id}"
    )

    async with running(meta.sender().run()):
        await meta.outbox.settled(1, 2)

    assert (meta.outbox.state(1), meta.outbox.state(2)) == ("sent", "waiting")


async def test_each_point_of_a_send_and_of_a_look_is_reached_in_its_order(
    meta: Meta, capsys: pytest.CaptureFixture[str]
) -> None:
    account = await meta.page()
    meta.outbox.put(sent := await meta.message(account))
    names = [
        point
        for point in faults.POINTS
        if point.startswith("sync.") and not point.startswith("sync.page.")
    ]
    faults.arm("; ".join(f"{point}=block:0s" for point in names))
    reader = Reader(meta.outbox, CredentialCache(meta.pages), meta.graph, meta.budget, "test")

    of_a_send: list[str] = []
    async with running(meta.sender().run()), asyncio.timeout(30):
        while "sync.recorded" not in of_a_send:
            await asyncio.sleep(0.01)
            of_a_send += struck(capsys)
    attempted = Timestamp()
    attempted.GetCurrentTime()
    await reader._settle(ReadBack(reply=sent, attempt_time=attempted))

    assert of_a_send == [
        "sync.claimed",
        "sync.before_write",
        "sync.after_write",
        "sync.after_response",
        "sync.recorded",
    ]
    assert struck(capsys) == ["sync.look.claimed", "sync.look.looked", "sync.look.recorded"]


def struck(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The points that were logged."""
    lines = capsys.readouterr().out.splitlines()
    return [line.rpartition("point=")[2] for line in lines if "a fault struck" in line]
