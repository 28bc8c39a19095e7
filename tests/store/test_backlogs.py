"""A disconnected page's old backlog: whatever comes, none of it is decided or sent."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.lane_service_pb2 import ClaimedLane
from pagewire.store.v1.outbox_service_pb2 import VERDICT_ACCEPTED, VERDICT_RETRY, ClaimedReply
from pagewire.store.v1.page_service_pb2 import ConnectPageRequest, DisconnectPageRequest
from pagewire.store.v1.page_service_pb2_grpc import (
    PageServiceStub,
    add_PageServiceServicer_to_server,
)
from pagewire.type.v1.page_pb2 import PLATFORM_INSTAGRAM, PLATFORM_MESSENGER, Page
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import backlogs, outbox, page_servicer, pages
from pagewire_store.database import in_transaction
from pagewire_store.page_servicer import PageServicer
from tests.support.desk import (
    PAGE,
    PAUSE,
    Desk,
    candidate,
    decided,
    desk,
    matched,
    message,
    says,
)
from tests.support.servers import migrated_template, module_database_url, postgres_server
from tests.support.stored import KEYS, TOKENS, channel_to

if TYPE_CHECKING:
    from pagewire.store.v1.page_service_pb2_grpc import PageServiceAsyncStub

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

LEFT = ReplyContent(text="left").SerializeToString()


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "EVENTS_AT_ONCE", 3)
    monkeypatch.setattr(outbox, "CHUNK", 3)


@pytest.fixture
async def service(desk: Desk) -> "AsyncIterator[PageServiceAsyncStub]":
    servicer = PageServicer(
        desk.pools.general,
        KEYS,
        TOKENS,
        connected=lambda: None,
        end=partial(backlogs.end_some, person_pause=PAUSE),
    )
    async with channel_to(
        lambda server: add_PageServiceServicer_to_server(servicer, server), "operator"
    ) as channel:
        yield PageServiceStub(channel)


def connecting(platform: Any = PLATFORM_MESSENGER) -> ConnectPageRequest:
    page = Page(page_id=PAGE, platform=platform, name="A page")
    return ConnectPageRequest(page=page, access_token="EAAagain")


DISCONNECTING = DisconnectPageRequest(page_id=PAGE)


async def backlog(desk: Desk, *, events: int = 5, lanes: int = 4, replies: int = 11) -> None:
    """Events of a long lane and of short ones that wait, and replies to other people."""
    await desk.receive(*(message(f"m_long_{n}", person="long") for n in range(events)))
    await desk.receive(*(message(f"m_{n}", person=f"{n}") for n in range(lanes)))
    await desk.rows.query(
        """
        insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, person_id, state,
            expires_at, content)
        select :page, 100000 + n, 'person:x' || n, 1, 'message', 'rule', 'x' || n, 'ready',
            now() + interval '1 day', :content
        from generate_series(1, :replies) n
        """,
        page=PAGE,
        replies=replies,
        content=LEFT,
    )


async def left(desk: Desk) -> tuple[int, int]:
    """How many events are pending, and how many replies ready."""
    row = await desk.rows.one(
        """
        select (select count(*) from event where state = 'pending') as events,
            (select count(*) from outbox where state = 'ready') as replies
        """
    )
    return row.events, row.replies


async def is_connected(desk: Desk) -> bool:
    return bool((await desk.rows.one("select connected from page")).connected)


async def test_disconnecting_ends_so_much_of_a_long_backlog_at_once(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await backlog(desk)

    await service.DisconnectPage(DISCONNECTING)

    assert await left(desk) == (6, 8)


async def test_what_disconnecting_leaves_is_ended_by_claims_and_the_sweep(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)

    claimed = (await desk.claim_lanes(), await desk.claim_replies())
    await desk.sweep()

    reasons = await desk.rows.query("select distinct reason from decision")
    assert claimed == ([], [])
    assert await left(desk) == (0, 0)
    assert [row.reason for row in reasons] == ["page_disconnected"]


async def test_a_page_connected_again_at_once_decides_and_sends_nothing_of_before(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)

    answer = await service.ConnectPage(connecting())

    decisions = await desk.rows.query("select outcome, reason from decision")
    replies = await desk.rows.query("select state, state_reason from outbox")
    lanes = await desk.rows.query("select pending, pending_since from lane")
    assert answer.created
    assert await left(desk) == (0, 0)
    assert [tuple(row) for row in decisions] == [("declined", "page_disconnected")] * 9
    assert [tuple(row) for row in replies] == [("failed", "page_disconnected")] * 11
    assert {tuple(row) for row in lanes} == {(0, None)}
    assert (await desk.claim_lanes(), await desk.claim_replies()) == ([], [])


async def test_what_comes_after_a_page_was_connected_again_is_decided_and_sent(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)
    await service.ConnectPage(connecting())

    reply = await desk.answer(message("m_new", person="long"), candidate(says("welcome back")))

    assert reply.content.text == "welcome back"


async def test_a_lane_of_which_some_ended_keeps_the_rest_in_order(desk: Desk) -> None:
    await desk.receive(*(message(f"m_{n}") for n in range(5)))

    async def work(connection: AsyncConnection) -> bool:
        return await backlogs.end_some(connection, PAGE)

    ended = await in_transaction(desk.pools.general, work)

    states = await desk.rows.query("select event_key, state from event order by number")
    lane = await desk.rows.one("select pending, pending_since from lane")
    first = await desk.rows.one("select received_at from event where event_key = 'message:m_3'")
    assert ended
    assert [row.state for row in states] == ["done"] * 3 + ["pending"] * 2
    assert (lane.pending, lane.pending_since) == (2, first.received_at)
    assert await in_transaction(desk.pools.general, work)
    assert not await in_transaction(desk.pools.general, work)
    assert (await desk.rows.one("select pending from lane")).pending == 0


async def test_of_another_page_nothing_is_ended(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await desk.rows.add_page("1002")
    await desk.receive(message("m_other", page_id="1002"))
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)

    await service.ConnectPage(connecting())

    (lane,) = await desk.claim_lanes()
    assert lane.ref.page_id == "1002"


async def test_a_connected_page_that_is_updated_keeps_what_it_has_to_do(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await backlog(desk)

    answer = await service.ConnectPage(connecting())

    assert not answer.created
    assert await left(desk) == (9, 11)


async def test_a_backlog_too_long_for_the_call_is_refused_and_goes_on_with_the_next_one(
    desk: Desk, service: "PageServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)
    monkeypatch.setattr(page_servicer, "ONE_MORE_SECONDS", 60.0)  # longer than any call

    seen = []
    for _ in range(3):
        with pytest.raises(Refusal, match="connect it again in a moment") as refused:
            await service.ConnectPage(connecting())
        assert (refused.value.kind, refused.value.reason) == (Kind.TRANSIENT, "PAGE_STILL_ENDING")
        assert not await is_connected(desk)
        seen.append(await left(desk))
    await service.ConnectPage(connecting())

    assert seen == [(3, 5), (0, 2), (0, 0)]
    assert await is_connected(desk)


async def test_an_end_that_fails_leaves_the_page_disconnected_and_its_backlog_as_it_was(
    desk: Desk, service: "PageServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)
    monkeypatch.setattr(backlogs, "_HAS_READY", "select 1 / 0")

    with pytest.raises(Refusal):
        await service.ConnectPage(connecting())

    assert not await is_connected(desk)
    assert await left(desk) == (6, 8)


async def test_the_id_of_another_platform_is_refused_whatever_is_left(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)

    with pytest.raises(Refusal) as refused:
        await service.ConnectPage(connecting(PLATFORM_INSTAGRAM))

    assert refused.value.reason == "PAGE_OTHER_PLATFORM"
    assert not await is_connected(desk)


async def test_what_was_under_way_when_the_page_was_disconnected_ends_by_its_own_word(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    under_way = await desk.answer(message())
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)

    await service.ConnectPage(connecting())

    assert await desk.record(under_way.tag, VERDICT_ACCEPTED, mid="m_ours") == "sent"


async def test_what_came_back_unsent_while_the_page_was_disconnected_is_not_sent_later(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    under_way = await desk.answer(message())
    await service.DisconnectPage(DISCONNECTING)
    await desk.record(under_way.tag, VERDICT_RETRY, reason="connect_failed")

    await service.ConnectPage(connecting())

    row = await desk.reply(under_way.reply_id)
    assert (row.state, row.state_reason) == ("failed", "page_disconnected")


async def test_what_was_claimed_before_a_page_was_disconnected_is_not_decided_after(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    (lane,) = await desk.claim_lanes()
    await service.DisconnectPage(DISCONNECTING)
    await service.ConnectPage(connecting())

    response = await desk.commit(decided(lane, matched(), matched()))

    reasons = [one.reason for one in response.results[0].decisions]
    assert reasons == ["page_disconnected"] * 2
    assert await desk.rows.query("select from outbox") == []


async def test_of_two_who_connect_at_once_one_makes_the_page_and_nothing_is_left(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await backlog(desk)
    await service.DisconnectPage(DISCONNECTING)

    answers = await asyncio.gather(*(service.ConnectPage(connecting()) for _ in range(3)))

    assert sorted(answer.created for answer in answers) == [False, False, True]
    assert await left(desk) == (0, 0)


class Busy:
    """Dispatchers, senders, sweeps and the edge, at it all the time."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.lanes: list[ClaimedLane] = []
        self.replies: list[ClaimedReply] = []
        self.received: list[str] = []
        self._numbers = count()
        self._over = asyncio.Event()

    async def claim(self) -> None:
        self.lanes += await self.desk.claim_lanes()
        self.replies += await self.desk.claim_replies()

    async def ingest(self) -> None:
        number = next(self._numbers)
        mid = f"m_live_{number}"
        await self.desk.receive(message(mid, person=f"live-{number % 3}"))
        self.received.append(mid)

    async def sweep(self) -> None:
        await self.desk.sweep()

    async def run(self) -> None:
        """Until `end`."""
        await asyncio.gather(*(self._repeat(job) for job in (self.claim, self.ingest, self.sweep)))

    def end(self) -> None:
        self._over.set()

    async def _repeat(self, job: Any) -> None:
        while not self._over.is_set():
            await job()
            await asyncio.sleep(0)


async def test_nothing_of_before_is_handed_out_and_nothing_lost_while_all_goes_on(
    desk: Desk, service: "PageServiceAsyncStub"
) -> None:
    await backlog(desk, events=20, lanes=20, replies=40)
    await service.DisconnectPage(DISCONNECTING)
    busy = Busy(desk)
    running = asyncio.create_task(busy.run())

    await service.ConnectPage(connecting())

    await busy.ingest()  # one at the least that came after it
    busy.end()
    await running
    await busy.claim()
    claimed = {event.event.key for lane in busy.lanes for event in lane.events}
    old = await desk.rows.query(
        "select state from event where event_key not like 'message:m\\_live\\_%'"
    )
    live = await desk.rows.query(
        "select event_key from event where event_key like 'message:m\\_live\\_%'"
    )
    assert claimed
    assert all(key.startswith("message:m_live_") for key in claimed)
    assert busy.replies == []
    assert [row.state for row in old] == ["done"] * 40
    assert sorted(row.event_key for row in live) == sorted(f"message:{m}" for m in busy.received)


async def test_disconnecting_ends_pending_events_declined(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    (lane,) = await desk.claim_lanes()

    await in_transaction(
        desk.pools.general,
        lambda connection: backlogs.end_some(connection, PAGE),
    )

    repeat = await desk.commit(decided(lane, matched(), matched()))
    assert (await desk.rows.one("select pending from lane")).pending == 0
    assert [
        tuple(row) for row in await desk.rows.query("select outcome, reason from decision")
    ] == [("declined", "page_disconnected")] * 2
    assert [one.reason for one in repeat.results[0].decisions] == ["page_disconnected"] * 2
    assert await desk.rows.query("select * from outbox") == []


async def test_disconnecting_leaves_the_rest_of_a_long_backlog_to_the_next_claim(
    desk: Desk,
) -> None:
    await desk.receive(*(message(f"m_{n}", person=f"{n % 2}") for n in range(4)))

    async def disconnect(connection: Any) -> None:
        await pages.disconnect(connection, PAGE)
        await backlogs.end_some(connection, PAGE)

    await in_transaction(desk.pools.general, disconnect)
    at_once = await desk.rows.query("select from decision where reason = 'page_disconnected'")
    claimed = await desk.claim_lanes()

    ended = await desk.rows.query("select from decision where reason = 'page_disconnected'")
    pending = await desk.rows.query("select from lane where pending > 0")
    assert (len(at_once), claimed, len(ended), pending) == (3, [], 4, [])
