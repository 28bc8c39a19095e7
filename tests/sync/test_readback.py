import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1.outbox_service_pb2 import ClaimedReply, ReadBack, ReadBackResult
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import Media, MediaType, ReplyContent, ReplyKind
from pagewire_runtime.errors import Unavailable
from pagewire_simulator.acts import Say
from pagewire_simulator.client import AccountView
from pagewire_simulator.faults import Script
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.readback import (
    PAGE_SIZE,
    PAGES,
    LookFailed,
    Reader,
    Seen,
    View,
    comment_view,
    conversation_params,
    conversation_view,
    judge,
)
from pagewire_sync.requests import request_for
from tests.support.outbox import PAGE, reply
from tests.support.sending import Meta, addressed, running

COMMENT_REPLY = ReplyKind.REPLY_KIND_COMMENT_REPLY
ATTEMPT = datetime(2026, 5, 4, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ACCOUNTS = ["page", "linked_account", "instagram_account"]


class FakeLooks:
    """Hands out what was put in, once; keeps the results. A result may be refused."""

    def __init__(self) -> None:
        self.waiting: list[ReadBack] = []
        self.results: list[ReadBackResult] = []
        self.refusals = 0

    async def ClaimReadBacks(self, request: pb.ClaimReadBacksRequest) -> pb.ClaimReadBacksResponse:
        if not self.waiting:
            await asyncio.sleep(0.01)
        size = request.max_replies
        claimed, self.waiting = self.waiting[:size], self.waiting[size:]
        return pb.ClaimReadBacksResponse(read_backs=claimed)

    async def RecordReadBacks(
        self, request: pb.RecordReadBacksRequest
    ) -> pb.RecordReadBacksResponse:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("the store")
        self.results.extend(request.results)
        return pb.RecordReadBacksResponse()


def reader(meta: Meta, looks: FakeLooks | None = None) -> Reader:
    outbox = looks or FakeLooks()
    return Reader(outbox, CredentialCache(meta.pages), meta.graph, meta.budget, "test")


def uncertain(
    claimed: ClaimedReply,
    *,
    at: datetime | None = None,
    bound: tuple[str, ...] = (),
    known: str = "",
) -> ReadBack:
    attempt_time = Timestamp()
    attempt_time.FromDatetime(at or datetime.now(UTC))
    return ReadBack(reply=claimed, attempt_time=attempt_time, bound_mids=bound, known_mid=known)


async def sent(meta: Meta, claimed: ClaimedReply) -> str:
    """Sends a reply as the sender would; the id of what came of it."""
    credentials = await CredentialCache(meta.pages).newest(claimed.page_id)
    request = request_for(claimed, datetime.now(UTC))
    answer: Any = await meta.graph.post(
        credentials, request.node, request.edge, request.body, operation="test"
    )
    return str(answer.body.get("message_id") or answer.body["id"])


async def comment_reply(
    meta: Meta, account: AccountView, *, below_a_reply: bool = False
) -> ClaimedReply:
    made = await meta.simulator.comment(account.id, "how much?")
    if below_a_reply:
        made = await meta.simulator.comment(account.id, "and this?", parent=made.comment)
    return reply(**addressed(account), kind=COMMENT_REPLY, comment_id=made.comment)


@pytest.mark.parametrize("kind", ACCOUNTS)
async def test_a_message_that_was_accepted_is_found(meta: Meta, kind: str) -> None:
    account = await getattr(meta, kind)()
    claimed = await meta.message(account, text="it is  10\neuro")
    mid = await sent(meta, claimed)

    result = await reader(meta).look(uncertain(claimed))

    assert result.found_mid == mid


@pytest.mark.parametrize("kind", ACCOUNTS)
async def test_a_message_that_was_not_accepted_is_not_found(meta: Meta, kind: str) -> None:
    account = await getattr(meta, kind)()
    claimed = await meta.message(account)
    await meta.simulator.say(account.id, claimed.content.text, person=claimed.person_id)

    result = await reader(meta).look(uncertain(claimed))

    assert result.clean


@pytest.mark.parametrize("accepted", [True, False])
async def test_in_a_dense_conversation_a_look_reads_back_to_the_attempt(
    meta: Meta, accepted: bool
) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    mid = await sent(meta, claimed) if accepted else ""
    await written(meta, account, claimed, 3 * PAGE_SIZE)

    result = await reader(meta).look(uncertain(claimed))

    assert (result.found_mid, result.clean) == (mid, not accepted)


INSTAGRAM = ["linked_account", "instagram_account"]
DETAILED = 20
"""Of an Instagram thread's messages."""


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("kind", INSTAGRAM)
async def test_among_an_instagram_thread_s_newest_20_a_look_tells(
    meta: Meta, kind: str, accepted: bool
) -> None:
    account = await getattr(meta, kind)()
    claimed = await meta.message(account, ago=3600)
    mid = await sent(meta, claimed) if accepted else ""
    await written(meta, account, claimed, DETAILED - accepted)

    result = await reader(meta).look(uncertain(claimed))

    assert (result.found_mid, result.clean) == (mid, not accepted)


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("kind", INSTAGRAM)
async def test_of_what_an_instagram_thread_shows_without_details_a_look_proves_nothing(
    meta: Meta, kind: str, accepted: bool
) -> None:
    account = await getattr(meta, kind)()
    claimed = await meta.message(account, ago=3600)
    if accepted:
        await sent(meta, claimed)
    await written(meta, account, claimed, DETAILED + 1 - accepted)

    result = await reader(meta).look(uncertain(claimed))

    assert result.error == "details_missing"


async def test_messages_without_details_that_are_other_replies_leave_no_doubt(meta: Meta) -> None:
    account = await meta.instagram_account()
    claimed = await meta.message(account, ago=3600)
    others = [await sent(meta, claimed) for _ in range(3)]
    await written(meta, account, claimed, DETAILED)

    result = await reader(meta).look(uncertain(claimed, bound=tuple(others)))

    assert result.clean


@pytest.mark.parametrize("kind", ["page", "instagram_account"])
async def test_a_copy_from_before_the_newest_id_that_was_known_is_another_reply(
    meta: Meta, kind: str
) -> None:
    account = await getattr(meta, kind)()
    claimed = await meta.message(account)
    orphan = await sent(meta, claimed)  # taken twice, and only the second answer came
    known = await sent(meta, claimed)

    behind_it = await reader(meta).look(uncertain(claimed, bound=(known,), known=known))
    mid = await sent(meta, claimed)
    taken = await reader(meta).look(uncertain(claimed, bound=(known,), known=known))
    unbounded = await reader(meta).look(uncertain(claimed, bound=(known, mid)))

    assert behind_it.clean
    assert taken.found_mid == mid
    assert unbounded.found_mid == orphan


async def test_the_replies_of_a_comment_are_read_from_the_newest_id_that_was_known(
    meta: Meta,
) -> None:
    for account in (await meta.page(), await meta.instagram_account()):
        claimed = await comment_reply(meta, account)
        await sent(meta, claimed)
        known = await sent(meta, claimed)

        behind_it = await reader(meta).look(uncertain(claimed, bound=(known,), known=known))
        mid = await sent(meta, claimed)
        taken = await reader(meta).look(uncertain(claimed, bound=(known,), known=known))

        assert behind_it.clean
        assert taken.found_mid == mid


async def test_where_what_was_known_does_not_show_yet_nothing_is_proved(meta: Meta) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    await sent(meta, claimed)  # a forgotten copy

    result = await reader(meta).look(uncertain(claimed, known="m_known"))

    assert result.error == "known_missing"


async def test_a_conversation_is_read_no_further_back_than_to_an_id_that_was_known(
    meta: Meta,
) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    await written(meta, account, claimed, PAGES * PAGE_SIZE)
    known = await sent(meta, claimed)

    result = await reader(meta).look(uncertain(claimed, bound=(known,), known=known))

    assert result.clean


async def test_a_conversation_too_dense_to_be_read_back_proves_nothing(meta: Meta) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    await written(meta, account, claimed, PAGES * PAGE_SIZE)

    result = await reader(meta).look(uncertain(claimed))

    assert result.error == "too_much_to_read"
    assert len(await meta.simulator.calls()) == PAGES


async def test_a_look_stops_where_it_found_the_reply(meta: Meta) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    await written(meta, account, claimed, 3 * PAGE_SIZE)
    await sent(meta, claimed)
    before = len(await meta.simulator.calls())

    result = await reader(meta).look(uncertain(claimed))

    assert result.found_mid
    assert len(await meta.simulator.calls()) == before + 1


@pytest.mark.parametrize("kind", ACCOUNTS)
async def test_a_reply_is_sought_among_all_replies_of_its_comment(meta: Meta, kind: str) -> None:
    account = await getattr(meta, kind)()
    claimed = await comment_reply(meta, account)
    made = await sent(meta, claimed)
    for number in range(PAGE_SIZE + 1):
        await meta.simulator.comment(account.id, f"me too {number}", parent=claimed.comment_id)

    result = await reader(meta).look(uncertain(claimed))

    assert result.found_mid == made


async def written(meta: Meta, account: AccountView, to: ClaimedReply, count: int) -> None:
    """So many messages of the person's, after whatever there was."""
    said = [Say(account=account.id, person=to.person_id, text=f"{n}") for n in range(count)]
    await meta.simulator.acts(said)


@pytest.mark.parametrize("kind", ACCOUNTS)
@pytest.mark.parametrize("below_a_reply", [False, True], ids=["top comment", "reply"])
async def test_a_comment_reply_is_found_where_meta_puts_it(
    meta: Meta, kind: str, below_a_reply: bool
) -> None:
    account = await getattr(meta, kind)()
    claimed = await comment_reply(meta, account, below_a_reply=below_a_reply)

    before = await reader(meta).look(uncertain(claimed))
    made = await sent(meta, claimed)
    after = await reader(meta).look(uncertain(claimed))

    assert before.clean
    assert after.found_mid == made


async def test_what_is_bound_to_another_reply_is_not_this_one(meta: Meta) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    other = await sent(meta, claimed)

    result = await reader(meta).look(uncertain(claimed, bound=(other,)))

    assert result.clean


async def test_more_than_one_match_is_ambiguous_and_names_the_newest(meta: Meta) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    mids = [await sent(meta, claimed) for _ in range(2)]

    result = await reader(meta).look(uncertain(claimed))

    assert result.ambiguous_mid == mids[-1]


async def test_a_medium_is_told_from_a_text(meta: Meta) -> None:
    account = await meta.page()
    medium = Media(type=MediaType.MEDIA_TYPE_IMAGE, url="https://files.example/1.png")
    claimed = await meta.message(account, text=None, content=ReplyContent(media=medium))
    text = reply(2, **(addressed(account) | {"person_id": claimed.person_id}))
    await sent(meta, text)

    before = await reader(meta).look(uncertain(claimed))
    mid = await sent(meta, claimed)
    after = await reader(meta).look(uncertain(claimed))

    assert before.clean
    assert after.found_mid == mid


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("error", "graph_1"),
        ("http_500", "http_500"),
        ("lost", "connection_lost"),
        ("empty", "answer_unreadable"),
        ("calls_throttled", "graph_613"),
        ("token_expired", "graph_190_463"),
    ],
)
async def test_a_look_that_failed_is_not_clean(meta: Meta, fault: str, error: str) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    await meta.simulator.faults(Script(fault=fault))

    result = await reader(meta).look(uncertain(claimed))

    assert result.error == error


async def test_where_the_budget_is_spent_the_look_failed_without_a_call(meta: Meta) -> None:
    account = await meta.page()
    claimed = await meta.message(account)
    meta.budget.stop(account.id, asyncio.get_running_loop().time(), 60)

    result = await reader(meta).look(uncertain(claimed))

    assert result.error == "budget_spent"
    assert await meta.simulator.calls() == []


async def test_a_page_that_is_gone_makes_the_look_fail(meta: Meta) -> None:
    result = await reader(meta).look(uncertain(reply()))

    assert result.error == "page_unknown"


async def test_a_private_reply_is_found_by_asking_again_not_by_looking(meta: Meta) -> None:
    result = await reader(meta).look(uncertain(reply(kind=ReplyKind.REPLY_KIND_PRIVATE_REPLY)))

    assert result.clean
    assert await meta.simulator.calls() == []


async def test_looks_are_written_down_each_by_itself_and_a_page_that_hangs_holds_up_none(
    hasty: Meta,
) -> None:
    hanging, other = await hasty.page(1), await hasty.page(2)
    await hasty.simulator.faults(Script(fault="slow", seconds=6, account=hanging.id))
    looks = FakeLooks()
    stuck = await hasty.message(hanging, 1, tag="pw1.stuck")
    free = await hasty.message(other, 2, tag="pw1.free")
    looks.waiting = [uncertain(stuck), uncertain(free)]

    async with running(reader(hasty, looks).run()), asyncio.timeout(60):
        while len(looks.results) < 2:
            await asyncio.sleep(0.005)

    assert [result.tag for result in looks.results] == ["pw1.free", "pw1.stuck"]
    assert looks.results[1].error == "timeout"


async def test_a_look_that_could_not_be_written_down_ends_nothing(meta: Meta) -> None:
    account = await meta.page()
    looks = FakeLooks()
    looks.refusals = 1
    claimed = await meta.message(account)
    looks.waiting = [uncertain(claimed)]

    async with running(reader(meta, looks).run()), asyncio.timeout(60):
        while looks.refusals:
            await asyncio.sleep(0.005)
        looks.waiting = [uncertain(claimed)]
        while not looks.results:
            await asyncio.sleep(0.005)

    assert looks.results[0].clean


def seen(mid: str = "m_1", **fields: Any) -> Seen:
    defaults: dict[str, Any] = {"from_id": PAGE, "text": "hi", "created": ATTEMPT}
    return Seen(mid, **(defaults | fields))


@pytest.mark.parametrize(
    ("found", "matches"),
    [
        (seen(), True),
        (seen(text="  hi\n"), True),
        (seen(created=ATTEMPT - 119 * SECOND), True),  # clocks differ
        (seen(created=ATTEMPT - 121 * SECOND), False),
        (seen(from_id="7000000000000001"), False),
        (seen(text="hi!"), False),
        (seen(mid=""), False),
        (seen(created=None), True),
    ],
)
def test_a_match_is_own_has_the_same_text_and_is_not_older_than_the_attempt(
    found: Seen, matches: bool
) -> None:
    result = judge(uncertain(reply(text="hi"), at=ATTEMPT), View([found], more=False))

    assert result.found_mid == (found.mid if matches else "")


def test_text_is_compared_in_one_form_of_unicode() -> None:
    result = judge(uncertain(reply(text="é"), at=ATTEMPT), View([seen(text="é")], more=False))

    assert result.found_mid == "m_1"


OLD = seen("m_0", text="before", created=ATTEMPT - timedelta(hours=1))
NEW = seen("m_9", text="another", created=ATTEMPT + SECOND)


@pytest.mark.parametrize(
    ("view", "clean"),
    [
        (View([], more=False), True),
        (View([NEW], more=False), True),
        (View([NEW, OLD], more=True), True),
        (View([NEW], more=True), False),
        (View([], more=True), False),
        (View([NEW, OLD], more=True, newest_first=False), False),
    ],
)
def test_only_what_was_read_as_far_back_as_the_attempt_is_clean(view: View, clean: bool) -> None:
    result = judge(uncertain(reply(text="hi"), at=ATTEMPT), view)

    assert result.WhichOneof("result") == ("clean" if clean else "error")


def test_messages_of_which_graph_shows_only_the_id_prove_nothing() -> None:
    bare = seen("m_7", from_id="", text="")

    result = judge(uncertain(reply(text="hi"), at=ATTEMPT), View([bare], more=False))

    assert result.error == "details_missing"


def test_comments_whose_authors_graph_hides_are_others() -> None:
    hidden = seen("1_7", from_id="", text="hi")

    result = judge(
        uncertain(reply(text="hi", kind=COMMENT_REPLY), at=ATTEMPT), View([hidden], more=False)
    )

    assert result.clean


@pytest.mark.parametrize("body", [{}, {"data": None}, {"data": {}}, {"data": [7]}])
def test_what_is_no_list_is_no_clean_look(body: dict[str, Any]) -> None:
    with pytest.raises(LookFailed):
        conversation_view(body)
    with pytest.raises(LookFailed):
        comment_view(body, newest_first=True)


def test_a_thread_that_does_not_exist_has_no_messages() -> None:
    assert conversation_view({"data": []}) == View([], more=False)


@pytest.mark.parametrize(
    "time", ["2026-05-04T12:00:00+0000", "2026-05-04T12:00:00Z", int(ATTEMPT.timestamp())]
)
def test_times_are_read_in_each_form(time: object) -> None:
    message = {"id": "m_1", "created_time": time, "from": {"id": PAGE}, "message": "hi"}
    body = {"data": [{"messages": {"data": [message], "paging": {"next": "https://x"}}}]}

    assert conversation_view(body) == View([seen()], more=True)


@pytest.mark.parametrize("cursor", ["a){id}", "a b", "", None, 7, "x" * 1025])
def test_what_is_no_cursor_is_not_followed(cursor: object) -> None:
    paging = {"cursors": {"after": cursor}, "next": "https://x"}
    body = {"data": [{"messages": {"data": [], "paging": paging}}]}

    assert conversation_view(body) == View([], more=True)


@pytest.mark.parametrize("time", ["yesterday", None, 10**30, {"a": 1}])
def test_a_time_that_cannot_be_read_is_none(time: object) -> None:
    view = comment_view({"data": [{"id": "1", "timestamp": time}]}, newest_first=False)

    assert view.seen[0].created is None


def test_platforms_name_their_own_threads() -> None:
    assert conversation_params(reply())["platform"] == "messenger"
    on_instagram = reply(platform=Platform.PLATFORM_INSTAGRAM)
    assert conversation_params(on_instagram)["platform"] == "instagram"
