import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1.outbox_service_pb2 import ClaimedReply
from pagewire.type.v1.reply_pb2 import Media, MediaType, ReplyContent, ReplyKind
from pagewire_runtime.errors import Kind, Refusal, Unavailable, refusal_from
from pagewire_simulator.client import AccountView
from pagewire_simulator.faults import FAULTS, Script
from pagewire_sync.budget import Product
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import Credentials, Graph, Hosts, open_transport
from pagewire_sync.sender import UNBEGUN, Sender
from tests.support.outbox import FakeOutbox, reply
from tests.support.sending import OUR_APP, Meta, addressed, running

PRIVATE = ReplyKind.REPLY_KIND_PRIVATE_REPLY
COMMENT_REPLY = ReplyKind.REPLY_KIND_COMMENT_REPLY
HIDE = ReplyKind.REPLY_KIND_HIDE_COMMENT


async def commented(
    meta: Meta, account: AccountView, number: int = 1, **fields: Any
) -> ClaimedReply:
    """A reply to a comment that was just written."""
    made = await meta.simulator.comment(account.id, "how much?")
    now = datetime.now(UTC)
    return reply(
        number, **(addressed(account) | {"comment_id": made.comment, "comment_time": now} | fields)
    )


@pytest.mark.parametrize("kind", ["page", "linked_account", "instagram_account"])
async def test_a_reply_is_sent_once_with_its_tag(meta: Meta, kind: str) -> None:
    account = await getattr(meta, kind)()
    meta.outbox.put(await meta.message(account))

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    sends = await meta.simulator.sends()
    outcome = meta.outbox.outcome(1)
    assert meta.outbox.state(1) == "sent"
    assert [send.text for send in sends] == ["answer 1"]
    assert sends[0].metadata == outcome.tag
    assert sends[0].created == outcome.mid
    assert sends[0].proof == "ok"
    assert (await meta.simulator.summary()).tokens_in_urls == 0


# What each fault leaves behind: whether the call took effect does not matter, nobody can know.
UNCERTAIN = {
    "lost",
    "reset",
    "half",
    "created_error",
    "created_unavailable",
    "error",
    "unavailable",
    "slow",
    "empty",
    "html",
    "truncated",
    "http_500",
    "http_502",
    "http_503",
}
RETRIED = {
    "http_429",
    "app_throttled",
    "user_throttled",
    "page_throttled",
    "messenger_throttled",
    "instagram_throttled",
    "calls_throttled",
    "policy",
}
BLOCKING = {"token_expired", "token_password_changed", "permission"}
REFUSED = {"person_unavailable", "terms"}


def test_every_fault_of_the_simulator_is_told() -> None:
    assert set(FAULTS) == UNCERTAIN | RETRIED | BLOCKING | REFUSED


@pytest.mark.parametrize("fault", sorted(FAULTS))
async def test_every_fault_ends_as_it_must_after_one_call(meta: Meta, fault: str) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    seconds = None
    if fault == "slow":
        meta.graph.total_seconds, seconds = 0.5, 4
    await meta.simulator.faults(Script(fault=fault, seconds=seconds))

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    verdict = pb.Verdict.Name(meta.outbox.outcome(1).verdict).removeprefix("VERDICT_").lower()
    expected = {
        **dict.fromkeys(UNCERTAIN, "uncertain"),
        **dict.fromkeys(RETRIED, "retry"),
        **dict.fromkeys(BLOCKING, "page_blocked"),
        **dict.fromkeys(REFUSED, "refused"),
    }
    assert verdict == expected[fault]
    assert len(await meta.simulator.calls()) == 1


@pytest.mark.parametrize("fault", ["lost", "half", "created_error", "empty", "html", "truncated"])
async def test_a_comment_reply_of_which_nobody_knows_is_uncertain(meta: Meta, fault: str) -> None:
    account = await meta.page()
    meta.outbox.put(await commented(meta, account, kind=COMMENT_REPLY))
    await meta.simulator.faults(Script(fault=fault))

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    assert meta.outbox.state(1) == "uncertain"


async def test_nothing_is_uncertain_where_graph_cannot_be_reached(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    nowhere = Hosts("http://127.0.0.1:9", "http://127.0.0.1:9", "v25.0")

    async with open_transport() as transport:
        meta.graph = Graph(transport, nowhere, OUR_APP, meta.budget)
        async with running(meta.sender().run()):
            await meta.outbox.settled(1)

    assert meta.outbox.outcome(1).reason == "connect_failed"
    assert meta.outbox.state(1) == "waiting"


async def test_a_lane_goes_on_in_its_order(meta: Meta) -> None:
    account = await meta.page()
    first = await meta.message(account)
    others = [reply(n, **(addressed(account) | {"person_id": first.person_id})) for n in (2, 3, 4)]
    meta.outbox.put(first, *others, lane="person")

    async with running(meta.sender().run()):
        await meta.outbox.settled(1, 2, 3, 4)

    sends = await meta.simulator.sends()
    assert [send.text for send in sends] == [f"answer {n}" for n in (1, 2, 3, 4)]
    assert (await meta.simulator.summary()).overlaps == 0


async def test_a_page_whose_calls_hang_does_not_hold_up_another(meta: Meta) -> None:
    hanging, other = await meta.page(1), await meta.page(2)
    meta.graph.total_seconds, meta.outbox.lease = 60.0, timedelta(seconds=90)
    await meta.simulator.faults(Script(fault="slow", seconds=60, account=hanging.id))
    stuck = [await meta.message(hanging, number) for number in range(1, 60)]
    meta.outbox.put(*stuck)

    async with running(meta.sender().run()):
        # Those beyond what a page may hold go back to the outbox.
        while len(await meta.simulator.calls(account=hanging.id)) < 50 or len(put_back(meta)) < 9:
            await asyncio.sleep(0.01)
        meta.outbox.put(await meta.message(other, 100))
        await meta.outbox.settled(100)

        assert meta.outbox.state(100) == "sent"
        assert len(await meta.simulator.calls(account=hanging.id)) == 50
        assert len(put_back(meta)) == 9
        meta.graph.total_seconds = 0.1  # so that the drain of this test is short


def put_back(meta: Meta) -> set[str]:
    """The replies whose page was busy."""
    return {
        meta.outbox._tags[outcome.tag].reply.reply_id
        for outcome in meta.outbox.outcomes
        if outcome.reason == "page_busy"
    }


async def test_what_is_not_begun_stays_in_the_outbox_but_for_a_few(meta: Meta) -> None:
    account, gate = await meta.page(), asyncio.Event()

    class Slow(CredentialCache):
        async def of(self, page_id: str, version: int) -> Credentials:
            await gate.wait()
            return await super().of(page_id, version)

    meta.outbox.put(*[await meta.message(account, number) for number in range(1, 101)])
    sender = Sender(meta.outbox, Slow(meta.pages), meta.graph, meta.budget, "test")

    async with running(sender.run()):
        while not claimed(meta):
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        before = claimed(meta)
        gate.set()
        await meta.outbox.settled(*range(1, 101))

    assert before == UNBEGUN
    assert len(await meta.simulator.sends()) == 100


def claimed(meta: Meta) -> int:
    return sum(row.state == "sending" for row in meta.outbox.rows)


async def test_a_person_who_can_not_be_written_to_is_refused_after_one_call(meta: Meta) -> None:
    account = await meta.page()
    blocked = await meta.message(account)
    await meta.simulator.block(account.id, blocked.person_id)
    meta.outbox.put(blocked)

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    outcome = meta.outbox.outcome(1)
    assert (meta.outbox.state(1), outcome.reason) == ("failed", "graph_551_1545041")
    assert (outcome.http_status, outcome.code, outcome.subcode) == (400, 551, 1545041)
    assert len(await meta.simulator.calls()) == 1


async def test_a_reply_outside_the_window_is_refused_before_the_call(meta: Meta) -> None:
    account = await meta.page()
    day = timedelta(hours=24)
    late = await meta.message(account, last_inbound_time=datetime.now(UTC) - day)
    meta.outbox.put(late)

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    assert meta.outbox.outcome(1).reason == "window_closed"
    assert await meta.simulator.calls() == []


async def test_a_window_that_meta_finds_closed_is_closed(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account, ago=25 * 3600))

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    assert (meta.outbox.state(1), meta.outbox.outcome(1).code) == ("failed", 10)


@pytest.mark.parametrize("kind", ["page", "linked_account", "instagram_account"])
async def test_comments_are_answered_publicly_and_privately_and_hidden(
    meta: Meta, kind: str
) -> None:
    account = await getattr(meta, kind)()
    private = await commented(meta, account, 1, kind=PRIVATE)
    below = reply(2, **(addressed(account)), kind=COMMENT_REPLY, comment_id=private.comment_id)
    hiding = reply(
        3, **addressed(account), kind=HIDE, text=None, comment_id=private.comment_id, hidden=True
    )
    meta.outbox.put(private, below, hiding, lane="comment")

    async with running(meta.sender().run()):
        await meta.outbox.settled(1, 2, 3)

    shown = await meta.simulator.comment_now(private.comment_id)
    assert [meta.outbox.state(number) for number in (1, 2, 3)] == ["sent"] * 3
    assert shown.comment.private_reply_mid == meta.outbox.outcome(1).mid
    assert meta.outbox.outcome(1).recipient_id == (await meta.simulator.sends())[0].person_id
    assert [each.id for each in shown.replies] == [meta.outbox.outcome(2).mid]
    assert shown.comment.hidden


async def test_a_private_reply_that_was_made_though_nobody_knew_is_found_out_by_asking_again(
    meta: Meta,
) -> None:
    account = await meta.page()
    meta.outbox.put(await commented(meta, account, kind=PRIVATE))
    await meta.simulator.faults(Script(fault="lost", count=1))

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)
        assert meta.outbox.state(1) == "uncertain"
        meta.outbox.pass_time(21)
        meta.outbox.pass_time(300)
        await meta.outbox.settled(1)

    outcome = meta.outbox.outcome(1)
    assert (meta.outbox.state(1), outcome.reason) == ("sent", "already_replied")
    assert len(await meta.simulator.sends()) == 1


async def test_a_private_reply_that_somebody_made_before_is_refused(meta: Meta) -> None:
    account = await meta.page()
    first = await commented(meta, account, 1, kind=PRIVATE)
    second = reply(
        2,
        **addressed(account),
        kind=PRIVATE,
        comment_id=first.comment_id,
        comment_time=datetime.now(UTC),
    )
    meta.outbox.put(first, second, lane="comment")

    async with running(meta.sender().run()):
        await meta.outbox.settled(1, 2)

    assert [meta.outbox.state(number) for number in (1, 2)] == ["sent", "failed"]


async def test_a_medium_is_sent_by_its_address(meta: Meta) -> None:
    account = await meta.page()
    medium = Media(type=MediaType.MEDIA_TYPE_IMAGE, url="https://files.example/1.png")
    meta.outbox.put(await meta.message(account, text=None, content=ReplyContent(media=medium)))

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    sent = (await meta.simulator.sends())[0]
    assert sent.person_id is not None
    conversation = await meta.simulator.conversation(account.id, sent.person_id)
    attachment = conversation.messages[-1].attachments[0]
    assert (attachment["type"], attachment["payload"]["url"]) == ("image", medium.url)


async def test_a_page_connected_again_meanwhile_is_spoken_for_by_its_new_token(meta: Meta) -> None:
    account = await meta.page()
    sender = meta.sender()
    async with running(sender.run()):
        meta.outbox.put(await meta.message(account, 1))
        await meta.outbox.settled(1)
        await meta.simulator.change_account(account.id, token="a-new-token")
        meta.outbox.put(await meta.message(account, 2))
        await meta.outbox.settled(2)
        refused = meta.outbox.outcome(2)
        meta.pages.connect(account.id, "a-new-token")
        meta.outbox.unblock(account.id)
        meta.outbox.put(await meta.message(account, 3, token_version=2, page_id=account.id))
        meta.budget._accounts.clear()  # the page's short stop is over
        await meta.outbox.settled(3)

    assert (refused.verdict, refused.code) == (pb.VERDICT_PAGE_BLOCKED, 190)
    assert meta.outbox.state(3) == "sent"


async def test_after_a_dead_token_no_more_calls_go_out_for_the_page(meta: Meta) -> None:
    account = await meta.page()
    await meta.simulator.change_account(account.id, token_state="expired")
    meta.outbox.put(await meta.message(account, 1))
    async with running(meta.sender().run()):
        await meta.outbox.settled(1)
        meta.outbox.unblock(account.id)  # connected again, with the same token
        meta.outbox.put(*[await meta.message(account, number) for number in range(2, 20)])
        await meta.outbox.settled(*range(2, 20))

    assert len(await meta.simulator.calls(account=account.id)) <= 1
    assert {meta.outbox.outcome(number).reason for number in range(2, 20)} == {"budget_spent"}


async def test_a_reply_of_a_page_that_was_disconnected_is_refused_unsent(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    meta.pages.disconnect([account.id])

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    assert (meta.outbox.state(1), meta.outbox.outcome(1).reason) == ("failed", "page_disconnected")
    assert await meta.simulator.calls() == []


async def test_what_the_budget_has_no_room_for_soon_goes_back(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    meta.budget.stop(account.id, asyncio.get_running_loop().time(), 60)

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    outcome = meta.outbox.outcome(1)
    assert (meta.outbox.state(1), outcome.reason) == ("waiting", "budget_spent")
    assert 50 < outcome.retry_after.ToSeconds() <= 60
    assert await meta.simulator.calls() == []


async def test_a_send_does_not_wait_where_reads_alone_are_stopped(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    await meta.simulator.faults(Script(fault="calls_throttled", endpoint="conversations"))
    credentials = await CredentialCache(meta.pages).newest(account.id)
    conversations = credentials.node_id, "conversations", {"platform": "messenger"}

    refused = await meta.graph.get(
        credentials, *conversations, operation="x", product=Product.CONVERSATIONS
    )
    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    assert isinstance(refused, GraphError)
    assert (refused.code, meta.outbox.state(1)) == (613, "sent")
    assert len(await meta.simulator.sends()) == 1


async def test_a_page_that_is_stopped_while_its_replies_wait_their_turn_sends_none_of_them(
    meta: Meta,
) -> None:
    account = await meta.page()
    clock = asyncio.get_running_loop().time
    for _ in range(50):  # the next turn is in a good second and a half
        meta.budget.spend(account.id, Product.PAGE, clock())
    hiding = await commented(meta, account, kind=HIDE, text=None, hidden=True)
    sending = asyncio.create_task(meta.sender().send(_tagged(meta, hiding), clock() + 15))

    for _ in range(50):
        await asyncio.sleep(0)
    meta.budget.stop(account.id, clock(), 30)
    await sending

    assert meta.outbox.outcome(1).reason == "budget_spent"
    assert await meta.simulator.calls() == []


def _tagged(meta: Meta, claimed: ClaimedReply) -> ClaimedReply:
    """The reply as a claim hands it out."""
    meta.outbox.put(claimed)
    return meta.outbox._claim(1)[0]


async def test_nothing_is_sent_that_could_outlast_its_lease(meta: Meta) -> None:
    account = await meta.page()
    claimed = _tagged(meta, await meta.message(account))
    lease_end = asyncio.get_running_loop().time() + meta.graph.total_seconds - 0.001

    await meta.sender().send(claimed, lease_end)

    assert meta.outbox.outcome(1).reason == "lease_too_short"
    assert meta.outbox.state(1) == "waiting"
    assert await meta.simulator.calls() == []


async def test_the_lease_counts_from_the_try_that_was_answered(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    claim, clock = meta.outbox.ClaimReplies, asyncio.get_running_loop().time
    refusals = [Unavailable("the store"), Unavailable("the store")]
    times: list[float] = []
    lease_ends: list[float] = []

    async def at_first_unavailable(request: pb.ClaimRepliesRequest) -> pb.ClaimRepliesResponse:
        times.append(clock())
        if refusals:
            raise refusals.pop()
        return await claim(request)

    class Noting(Sender):
        async def send(self, reply: ClaimedReply, lease_end: float) -> None:
            lease_ends.append(lease_end)
            await super().send(reply, lease_end)

    meta.outbox.ClaimReplies = at_first_unavailable  # type: ignore[method-assign]
    credentials = CredentialCache(meta.pages)
    sender = Noting(meta.outbox, credentials, meta.graph, meta.budget, "test")
    async with running(sender.run()):
        await meta.outbox.settled(1)

    (lease_end,) = lease_ends
    _, refused, answered, *_ = times
    assert refused < lease_end - meta.outbox.lease.total_seconds() <= answered


async def test_what_passes_its_time_while_it_waits_is_not_sent(meta: Meta) -> None:
    account = await meta.page()
    late = await meta.message(account)
    times = iter([datetime.now(UTC)] * 2 + [datetime.now(UTC) + timedelta(days=1)])
    sender = meta.sender(now=lambda: next(times))

    await sender.send(_tagged(meta, late), asyncio.get_running_loop().time() + 15)

    assert meta.outbox.outcome(1).reason == "too_late"
    assert await meta.simulator.calls() == []


async def test_an_outcome_is_offered_until_the_store_has_it(meta: Meta) -> None:
    account = await meta.page()
    meta.outbox.put(await meta.message(account))
    meta.outbox.troubles = [
        Unavailable("the store"),
        refusal_from(Kind.INTERNAL, "INTERNAL", "internal error"),
        Unavailable("the store"),
    ]

    async with running(meta.sender().run()):
        await meta.outbox.settled(1)

    assert meta.outbox.state(1) == "sent"
    assert len(await meta.simulator.sends()) == 1


async def test_an_outcome_that_the_store_will_not_take_holds_up_no_other(meta: Meta) -> None:
    account = await meta.page()
    replies = [await meta.message(account, number) for number in range(1, 6)]
    meta.outbox.poison = {replies[2].reply_id}
    meta.outbox.put(*replies)

    async with running(meta.sender().run()):
        await meta.outbox.settled(1, 2, 4, 5)

    states = [meta.outbox.state(number) for number in range(1, 6)]
    assert states == ["sent", "sent", "sending", "sent", "sent"]


async def test_who_is_told_to_stop_finishes_what_is_under_way_and_claims_no_more(
    meta: Meta,
) -> None:
    account = await meta.page()
    await meta.simulator.faults(Script(fault="slow", seconds=0.3))
    meta.outbox.put(await meta.message(account, 1))
    sender = asyncio.create_task(meta.sender().run())
    while not await meta.simulator.calls():
        await asyncio.sleep(0.005)

    sender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sender
    claims = meta.outbox.claims
    meta.outbox.put(await meta.message(account, 2))
    await asyncio.sleep(0.1)

    assert (meta.outbox.state(1), meta.outbox.state(2)) == ("sent", "ready")
    assert meta.outbox.claims == claims


async def test_what_a_claim_under_way_hands_out_at_the_end_is_still_sent(meta: Meta) -> None:
    account = await meta.page()
    wanted = await meta.message(account)
    begun, gate = asyncio.Event(), asyncio.Event()
    claim = meta.outbox.ClaimReplies

    async def slow(request: pb.ClaimRepliesRequest) -> pb.ClaimRepliesResponse:
        response = await claim(request)
        begun.set()
        await gate.wait()  # committed, and the answer is on its way
        return response

    meta.outbox.ClaimReplies = slow  # type: ignore[method-assign]
    meta.outbox.put(wanted)
    sender = asyncio.create_task(meta.sender().run())
    await begun.wait()

    sender.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await sender

    assert meta.outbox.state(1) == "sent"


async def test_a_sender_that_may_not_claim_ends_with_the_reason(meta: Meta) -> None:
    class Closed(FakeOutbox):
        async def ClaimReplies(self, request: pb.ClaimRepliesRequest) -> pb.ClaimRepliesResponse:
            raise refusal_from(Kind.FORBIDDEN, "FORBIDDEN", "not you")

    with pytest.raises(Refusal) as refused:
        await meta.sender(outbox=Closed()).run()

    assert refused.value.kind is Kind.FORBIDDEN


async def test_what_nobody_foresaw_leaves_a_reply_uncertain_and_the_sender_alive(
    meta: Meta, capsys: pytest.CaptureFixture[str]
) -> None:
    account = await meta.page()
    broken = await meta.message(account, 1, content=ReplyContent(media=Media(url="https://a.b/c")))
    broken.content.media.type = 99  # type: ignore[assignment]
    meta.outbox.put(broken, await meta.message(account, 2))

    async with running(meta.sender().run()):
        await meta.outbox.settled(1, 2)

    assert (meta.outbox.state(1), meta.outbox.state(2)) == ("uncertain", "sent")
    assert "nobody foresaw" in capsys.readouterr().out


async def test_two_senders_send_each_reply_once_and_in_order(meta: Meta) -> None:
    account = await meta.page()
    persons = [await meta.message(account, number) for number in range(1, 11)]
    for at, first in enumerate(persons):
        more = [
            reply(100 + 10 * at + n, **(addressed(account) | {"person_id": first.person_id}))
            for n in range(3)
        ]
        meta.outbox.put(first, *more, lane=first.person_id)
    numbers = [int(row.reply.reply_id.rpartition("-")[2]) for row in meta.outbox.rows]

    async with running(meta.sender().run(), meta.sender().run()):
        await meta.outbox.settled(*numbers)

    summary = await meta.simulator.summary()
    assert (summary.sends, summary.duplicates, summary.overlaps) == (40, 0, 0)
