import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pagewire.store.v1.conversation_service_pb2 import (
    GetConversationRequest,
    ListCommentsRequest,
    ListConversationsRequest,
    ListMessagesRequest,
    SearchMessagesRequest,
)
from pagewire.store.v1.conversation_service_pb2_grpc import (
    ConversationServiceStub,
    add_ConversationServiceServicer_to_server,
)
from pagewire.store.v1.event_service_pb2 import WatchEventsRequest
from pagewire.store.v1.event_service_pb2_grpc import (
    EventServiceStub,
    add_EventServiceServicer_to_server,
)
from pagewire.type.v1.conversation_pb2 import (
    DIRECTION_INBOUND,
    DIRECTION_OUTBOUND,
    DIRECTION_UNSPECIFIED,
    Conversation,
)
from pagewire.type.v1.event_pb2 import Attachment, MessageDetail
from pagewire.type.v1.reply_pb2 import (
    MEDIA_TYPE_IMAGE,
    REPLY_STATE_READY,
    REPLY_STATE_SENT,
    REPLY_STATE_UNSPECIFIED,
    Media,
    QuickReplies,
    ReplyContent,
    ReplyState,
)
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import ids, reads
from pagewire_store.conversation_servicer import ConversationServicer, EventServicer
from pagewire_store.database import Pools, open_pools
from tests.support.servers import (
    database_url,
    migrated_template,
    module_database_url,
    postgres_server,
)
from tests.support.stored import TOKENS, Rows, channel_to, pools, rows

if TYPE_CHECKING:
    from pagewire.store.v1.conversation_service_pb2_grpc import ConversationServiceAsyncStub

__all__ = [
    "database_url",
    "migrated_template",
    "module_database_url",
    "pools",
    "postgres_server",
    "rows",
]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANNA = ids.conversation_id("1", "anna")


def after_noon(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


@pytest.fixture
async def service(pools: Pools, rows: Rows) -> "AsyncIterator[ConversationServiceAsyncStub]":
    await rows.add_page("1")
    servicer = ConversationServicer(pools.general, TOKENS)
    async with channel_to(
        lambda server: add_ConversationServiceServicer_to_server(servicer, server), "reader"
    ) as channel:
        yield ConversationServiceStub(channel)


class Written:
    """What people and the page wrote, by hand."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def conversation(self, person: str, minutes: float, **fields: Any) -> None:
        row = {"page_id": "1", "participant_id": person, "updated_at": after_noon(minutes)}
        await self._rows.add("conversation", row | fields)

    async def message(self, mid: str, minutes: float, person: str = "anna", **fields: Any) -> None:
        row: dict[str, Any] = {
            "page_id": "1",
            "mid": mid,
            "participant_id": person,
            "direction": "inbound",
            "kind": "message",
            "text": f"text of {mid}",
            "created_at": after_noon(minutes),
        }
        await self._rows.add("message", row | fields)

    async def reply(self, number: int, minutes: float, **fields: Any) -> None:
        row: dict[str, Any] = {
            "page_id": "1",
            "reply_id": number,
            "lane": f"lane-{number}",
            "ordinal": number,
            "kind": "message",
            "origin": "rule",
            "person_id": "anna",
            "content": ReplyContent(text=f"reply {number}").SerializeToString(),
            "state": "ready",
            "created_at": after_noon(minutes),
            "expires_at": after_noon(minutes + 1440),
        }
        await self._rows.add("outbox", row | fields)

    async def comment(self, comment_id: str, minutes: float, **fields: Any) -> None:
        row: dict[str, Any] = {
            "page_id": "1",
            "comment_id": comment_id,
            "root_id": comment_id,
            "created_at": after_noon(minutes),
        }
        await self._rows.add("comment", row | fields)


@pytest.fixture
def written(rows: Rows) -> Written:
    return Written(rows)


async def parts(call: Any, request: Any, name: str, key: str) -> list[list[str]]:
    """Every part of a list, each row by its key."""
    seen = []
    while True:
        answer = await call(request)
        seen.append([getattr(row, key) for row in getattr(answer, name)])
        if not answer.next_page_token:
            return seen
        request.page_token = answer.next_page_token


async def test_conversations_are_listed_newest_first_part_by_part(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    for person, minutes in [("a", 1), ("b", 3), ("c", 2), ("d", 2), ("e", 0)]:
        await written.conversation(person, minutes)
        await written.message(f"m-{person}", minutes, person)

    request = ListConversationsRequest(page_id="1", page_size=2)
    seen = await parts(service.ListConversations, request, "conversations", "participant_id")

    assert seen == [["b", "c"], ["d", "a"], ["e"]]


async def test_a_conversation_is_shown_with_all_that_is_known_of_it(
    service: "ConversationServiceAsyncStub", written: Written, rows: Rows
) -> None:
    now = (await rows.one("select now() as now")).now
    await written.conversation(
        "anna",
        0,
        participant_name="Anna",
        thread_id="t_1",
        snippet="hello",
        unread_count=2,
        last_inbound_at=now - timedelta(hours=1),
        automation_paused_until=now + timedelta(minutes=5),
    )
    for name in ("vip", "lead"):
        await rows.add("person_label", page_id="1", person_id="anna", name=name)

    found = (
        await service.GetConversation(GetConversationRequest(conversation_id=ANNA))
    ).conversation

    expected = Conversation(
        conversation_id=ANNA,
        page_id="1",
        participant_id="anna",
        participant_name="Anna",
        thread_id="t_1",
        snippet="hello",
        unread_count=2,
        labels=["lead", "vip"],
    )
    expected.update_time.FromDatetime(NOON)
    expected.window_open_until.FromDatetime(now + timedelta(hours=23))
    expected.automation_paused_until.FromDatetime(now + timedelta(minutes=5))
    assert found == expected


async def test_a_window_or_a_pause_that_is_over_is_absent(
    service: "ConversationServiceAsyncStub", written: Written, rows: Rows
) -> None:
    now = (await rows.one("select now() as now")).now
    await written.conversation(
        "anna", 0, last_inbound_at=now - timedelta(hours=24), automation_paused_until=now
    )

    found = (
        await service.GetConversation(GetConversationRequest(conversation_id=ANNA))
    ).conversation

    assert not found.HasField("window_open_until")
    assert not found.HasField("automation_paused_until")


async def test_conversations_of_archived_messages_are_shown_on_request_only(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.conversation("anna", 2)
    await written.message("m1", 1, "anna", is_archived=True)
    await written.conversation("bert", 1)
    await written.message("m2", 1, "bert", is_archived=True)
    await written.message("m3", 2, "bert")

    usual = await service.ListConversations(ListConversationsRequest(page_id="1"))
    whole = await service.ListConversations(
        ListConversationsRequest(page_id="1", include_archived=True)
    )

    assert [each.participant_id for each in usual.conversations] == ["bert"]
    assert [each.participant_id for each in whole.conversations] == ["anna", "bert"]


async def test_a_page_sees_no_other_pages_conversations(
    service: "ConversationServiceAsyncStub", written: Written, rows: Rows
) -> None:
    await rows.add_page("2")
    await written.conversation("anna", 0)
    await written.message("m1", 0)

    other = await service.ListConversations(ListConversationsRequest(page_id="2"))

    assert not other.conversations
    with pytest.raises(Refusal):
        await service.ListMessages(
            ListMessagesRequest(conversation_id=ids.conversation_id("2", "anna"))
        )


async def test_what_is_stored_of_a_disconnected_page_can_be_read(
    service: "ConversationServiceAsyncStub", written: Written, rows: Rows
) -> None:
    await written.conversation("anna", 0)
    await written.message("m1", 0)
    await rows.query("update page set connected = false, token = null")

    answer = await service.ListConversations(ListConversationsRequest(page_id="1"))

    assert len(answer.conversations) == 1


@pytest.mark.parametrize("forged", ["", "c-", "anna", "c-AAAA", ids.conversation_id("1", "zoe")])
async def test_a_forged_conversation_is_unknown(
    service: "ConversationServiceAsyncStub", written: Written, forged: str
) -> None:
    await written.conversation("anna", 0)

    for call in (
        service.GetConversation(GetConversationRequest(conversation_id=forged)),
        service.ListMessages(ListMessagesRequest(conversation_id=forged)),
    ):
        with pytest.raises(Refusal) as refused:
            await call
        assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "CONVERSATION_UNKNOWN")


@pytest.mark.parametrize("page_id", ["2", "", "*"])
async def test_lists_of_an_unknown_page_are_refused(
    service: "ConversationServiceAsyncStub", page_id: str
) -> None:
    for call in (
        service.ListConversations(ListConversationsRequest(page_id=page_id)),
        service.ListComments(ListCommentsRequest(page_id=page_id)),
    ):
        with pytest.raises(Refusal) as refused:
            await call
        assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PAGE_UNKNOWN")


async def test_a_page_token_of_another_query_is_refused(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    for number in range(3):
        await written.comment(f"c{number}", number)
    first = await service.ListComments(ListCommentsRequest(page_id="1", page_size=1))
    token = first.next_page_token

    for request in (
        ListCommentsRequest(page_id="1", page_token=token, include_archived=True),
        ListCommentsRequest(page_id="1", page_token=token + "A"),
        ListCommentsRequest(page_id="1", page_token="MQ"),
        ListCommentsRequest(page_id="1", page_size=-1),
    ):
        with pytest.raises(Refusal) as refused:
            await service.ListComments(request)
        assert refused.value.kind is Kind.INVALID


async def test_messages_and_replies_not_yet_sent_are_one_list(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.conversation("anna", 0)
    await written.message("m1", 1)
    await written.message("m2", 2, direction="outbound", reply_id=1)
    await written.reply(1, 2, state="sent", mid="m2")
    await written.reply(2, 3, state="failed")
    await written.message("m4", 4)
    await written.reply(5, 5)
    await written.reply(6, 6, kind="private_reply", comment_id="c1", state="uncertain")
    await written.reply(7, 7, kind="comment_reply", comment_id="c1")
    await written.reply(8, 8, person_id="bert")

    answer = await service.ListMessages(ListMessagesRequest(conversation_id=ANNA))

    assert [
        (each.mid, each.text, ReplyState.Name(each.reply_state), each.reply_id)
        for each in answer.messages
    ] == [
        ("", "reply 6", "REPLY_STATE_UNCERTAIN", "r-1-6"),
        ("", "reply 5", "REPLY_STATE_READY", "r-1-5"),
        ("m4", "text of m4", "REPLY_STATE_UNSPECIFIED", ""),
        ("", "reply 2", "REPLY_STATE_FAILED", "r-1-2"),
        ("m2", "text of m2", "REPLY_STATE_SENT", "r-1-1"),
        ("m1", "text of m1", "REPLY_STATE_UNSPECIFIED", ""),
    ]
    assert answer.messages[1].direction == DIRECTION_OUTBOUND
    assert answer.messages[2].direction == DIRECTION_INBOUND


async def test_a_message_of_which_nobody_knows_the_author_is_shown_without_a_direction(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.conversation("anna", 0)
    await written.message("m1", 1, direction=None)

    answer = await service.ListMessages(ListMessagesRequest(conversation_id=ANNA))

    assert [each.direction for each in answer.messages] == [DIRECTION_UNSPECIFIED]


async def test_a_reply_that_was_sent_but_whose_message_is_not_stored_shows_with_its_mid(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.conversation("anna", 0)
    await written.reply(1, 1, state="sent", mid="m1")

    (shown,) = (await service.ListMessages(ListMessagesRequest(conversation_id=ANNA))).messages

    assert (shown.mid, shown.reply_state) == ("m1", REPLY_STATE_SENT)


async def test_a_list_of_messages_goes_on_where_it_ended_also_within_one_moment(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.conversation("anna", 0)
    for mid in ("b", "a", "c"):
        await written.message(mid, 1)
    for number in (1, 2, 10):
        await written.reply(number, 1)
    await written.message("z", 0)
    await written.message("y", 2)

    request = ListMessagesRequest(conversation_id=ANNA, page_size=2)
    seen = []
    while True:
        answer = await service.ListMessages(request)
        seen += [each.mid or each.reply_id for each in answer.messages]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token

    assert seen == ["y", "a", "b", "c", "r-1-1", "r-1-2", "r-1-10", "z"]


async def test_a_message_is_shown_with_its_attachments_and_marks(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.conversation("anna", 0)
    photo = Attachment(type="image", url="https://example.org/1.jpg", title="t", payload="{}")
    await written.message(
        "m1",
        1,
        text=None,
        attachments=MessageDetail(attachments=[photo]).SerializeToString(),
        is_deleted=True,
        is_archived=True,
        recovered=True,
    )

    usual = await service.ListMessages(ListMessagesRequest(conversation_id=ANNA))
    (shown,) = (
        await service.ListMessages(ListMessagesRequest(conversation_id=ANNA, include_archived=True))
    ).messages

    assert not usual.messages
    assert list(shown.attachments) == [photo]
    assert (shown.is_deleted, shown.is_archived, shown.recovered) == (True, True, True)
    assert shown.text == ""
    assert shown.reply_state == REPLY_STATE_UNSPECIFIED


async def test_a_reply_with_a_medium_or_buttons_shows_what_it_will_say(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.conversation("anna", 0)
    media = Media(type=MEDIA_TYPE_IMAGE, url="https://example.org/1.jpg")
    await written.reply(1, 1, content=ReplyContent(media=media).SerializeToString())
    buttons = QuickReplies(text="which one?")
    await written.reply(2, 2, content=ReplyContent(quick_replies=buttons).SerializeToString())

    asked, shown = (await service.ListMessages(ListMessagesRequest(conversation_id=ANNA))).messages

    assert asked.text == "which one?"
    assert [(each.type, each.url) for each in shown.attachments] == [("image", media.url)]
    assert asked.reply_state == shown.reply_state == REPLY_STATE_READY


async def test_comments_are_listed_newest_first_part_by_part(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    for comment_id, minutes in [("c1", 1), ("c2", 3), ("c4", 2), ("c3", 2)]:
        await written.comment(comment_id, minutes)
    await written.comment("old", 0, is_archived=True)

    usual = ListCommentsRequest(page_id="1", page_size=3)
    whole = ListCommentsRequest(page_id="1", include_archived=True)

    assert await parts(service.ListComments, usual, "comments", "comment_id") == [
        ["c2", "c4", "c3"],
        ["c1"],
    ]
    assert await parts(service.ListComments, whole, "comments", "comment_id") == [
        ["c2", "c4", "c3", "c1", "old"]
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
async def test_comments_of_one_second_have_one_order_however_they_are_listed(
    service: "ConversationServiceAsyncStub", written: Written, size: int
) -> None:
    # As they may come in: in no order, ids that differ in case and length, one a microsecond on.
    same_second = ["9_12", "9_11", "9_2", "A", "a", "9", "9_13"]
    for comment_id in same_second:
        await written.comment(comment_id, 1)
    await written.comment("b", 1, created_at=after_noon(1) + timedelta(microseconds=1))
    await written.comment("z", 0)

    request = ListCommentsRequest(page_id="1", page_size=size)
    seen = await parts(service.ListComments, request, "comments", "comment_id")

    assert [each for part in seen for each in part] == [
        *("b", "a", "A", "9_2", "9_13", "9_12", "9_11", "9", "z"),
    ]


async def test_a_list_of_comments_goes_on_where_it_ended_whatever_came_into_that_second(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    for comment_id in ("c2", "c4", "c6"):
        await written.comment(comment_id, 1)
    first = await service.ListComments(ListCommentsRequest(page_id="1", page_size=2))
    for comment_id in ("c1", "c3", "c5", "c7"):
        await written.comment(comment_id, 1)

    rest = await service.ListComments(
        ListCommentsRequest(page_id="1", page_size=10, page_token=first.next_page_token)
    )

    assert [each.comment_id for each in first.comments] == ["c6", "c4"]
    assert [each.comment_id for each in rest.comments] == ["c3", "c2", "c1"]


async def test_an_answer_in_the_second_of_its_comment_is_listed_as_the_newer(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.comment("777_1001", 1)
    await written.comment("777_1002", 1, parent_id="777_1001", is_own=True)

    answer = await service.ListComments(ListCommentsRequest(page_id="1"))

    assert [each.comment_id for each in answer.comments] == ["777_1002", "777_1001"]


async def test_a_comment_is_shown_with_all_that_is_known_of_it(
    service: "ConversationServiceAsyncStub", written: Written
) -> None:
    await written.comment(
        "c1",
        1,
        post_id="p1",
        parent_id="c0",
        from_id="f1",
        from_name="Somebody",
        text="price?",
        is_hidden=True,
        is_deleted=True,
        is_own=True,
        answered_at=after_noon(2),
    )

    (shown,) = (await service.ListComments(ListCommentsRequest(page_id="1"))).comments

    assert (shown.comment_id, shown.page_id, shown.post_id, shown.parent_id) == (
        *("c1", "1", "p1", "c0"),
    )
    assert (shown.from_id, shown.from_name, shown.text) == ("f1", "Somebody", "price?")
    assert (shown.is_hidden, shown.is_deleted, shown.is_own, shown.is_archived) == (
        *(True, True, True, False),
    )
    assert shown.create_time.ToDatetime(UTC) == after_noon(1)
    assert shown.answer_time.ToDatetime(UTC) == after_noon(2)


async def test_searching_and_watching_are_answered_as_not_built_yet(
    service: "ConversationServiceAsyncStub",
) -> None:
    with pytest.raises(Refusal, match="not offer it yet") as refused:
        await service.SearchMessages(SearchMessagesRequest(page_id="1", query="x"))
    assert refused.value.kind is Kind.UNIMPLEMENTED

    async with channel_to(
        lambda server: add_EventServiceServicer_to_server(EventServicer(), server), "reader"
    ) as channel:
        with pytest.raises(Refusal, match="not offer it yet") as unwatched:
            async for _ in EventServiceStub(channel).WatchEvents(WatchEventsRequest()):
                pass
    assert unwatched.value.kind is Kind.UNIMPLEMENTED


MANY = 100_000


@pytest.fixture(scope="module")
def seeded(module_database_url: str) -> str:
    """A page of which one conversation, a thousand others, comments and replies are large."""
    with psycopg.connect(module_database_url) as connection:
        connection.execute(
            "insert into page (page_id, platform, login, name, state, connected, connected_at)"
            " values ('1', 'messenger', 'facebook', 'n', 'healthy', true, now())"
        )
        connection.execute(
            f"""
            insert into message (page_id, mid, participant_id, direction, kind, text, created_at,
                is_archived)
            select '1', 'm' || n, case when n % 2 = 0 then 'anna' else 'p' || n % 1000 end,
                'inbound', 'message', 'hello', timestamptz '2026-01-01' + n * interval '1 s',
                n < {MANY} - 2000
            from generate_series(1, {MANY}) n
            """.encode()
        )
        connection.execute(
            b"""
            insert into conversation (page_id, participant_id, updated_at)
            select page_id, participant_id, max(created_at) from message group by 1, 2
            """
        )
        connection.execute(
            b"""
            insert into comment (page_id, comment_id, root_id, created_at)
            select '1', 'c' || n, 'c' || n, timestamptz '2026-01-01' + n * interval '1 s'
            from generate_series(1, 20000) n
            """
        )
        connection.execute(
            b"""
            insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, person_id, state,
                expires_at, created_at, mid)
            select '1', n, 'lane', n, 'message', 'rule', 'p' || n % 1000, 'sent', now(),
                timestamptz '2026-01-01' + n * interval '1 s', 'm' || n
            from generate_series(1, 20000) n
            """
        )
        connection.execute(b"analyze")
    return module_database_url


class Plans:
    """Explains what an engine executes, as one that has prepared it would: by a generic plan."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.plans: list[str] = []

    async def of(self, statement: Any, **values: Any) -> str:
        async with self.engine.connect() as connection:
            await connection.execute(text("set plan_cache_mode = force_generic_plan"))
            await connection.execute(text("set max_parallel_workers_per_gather = 0"))
            named = {f":{name}" for name in values}
            assert set(re.findall(r"(?<!:):[a-z_]+", str(statement))) <= named
            rows = await connection.execute(
                text(f"explain (analyze, costs off, timing off, summary off) {statement}"), values
            )
            return "\n".join(row[0] for row in rows)


@pytest.fixture
async def plans(seeded: str) -> AsyncIterator[Plans]:
    engine = create_async_engine(seeded.replace("postgresql://", "postgresql+psycopg://"))
    yield Plans(engine)
    await engine.dispose()


def rows_read(plan: str) -> int:
    """The most rows that one node of the plan put out or threw away."""
    return max(
        round(float(number))
        for number in re.findall(r"(?:actual rows=|Rows Removed by Filter: )([\d.]+)", plan)
    )


async def test_the_newest_messages_of_a_long_conversation_are_read_from_an_index(
    plans: Plans,
) -> None:
    plan = await plans.of(
        reads._LIST_UNARCHIVED_MESSAGES,
        page_id="1",
        participant_id="anna",
        created_at="infinity",
        key="",
        at_most=51,
    )

    assert "Seq Scan" not in plan
    assert rows_read(plan) < 200


async def test_a_late_part_of_a_long_conversation_is_no_dearer(plans: Plans) -> None:
    plan = await plans.of(
        reads._LIST_ALL_MESSAGES,
        page_id="1",
        participant_id="anna",
        created_at="2026-01-01T00:10:00Z",
        key="m600",
        at_most=51,
    )

    assert "Seq Scan" not in plan
    assert rows_read(plan) < 200


async def test_the_newest_conversations_are_read_from_an_index(plans: Plans) -> None:
    plan = await plans.of(
        reads._LIST_CONVERSATIONS,
        page_id="1",
        updated_at="infinity",
        participant_id="",
        include_archived=False,
        at_most=51,
    )

    assert "Seq Scan on message" not in plan
    assert "Seq Scan on conversation" not in plan
    assert rows_read(plan) < 200


async def test_the_newest_comments_are_read_from_an_index(plans: Plans) -> None:
    plan = await plans.of(
        reads._LIST_COMMENTS,
        page_id="1",
        created_at="infinity",
        comment_id="",
        include_archived=False,
        at_most=51,
    )

    assert "Seq Scan" not in plan
    assert rows_read(plan) < 200


async def test_a_conversation_of_100_000_messages_is_listed_whole(seeded: str) -> None:
    opened = open_pools(seeded, 4)
    conversation = Conversation(page_id="1", participant_id="anna")
    after, count = None, 0
    while True:
        async with opened.general.connect() as connection:
            found = await reads.list_messages(
                connection, conversation, after, 1000, include_archived=True
            )
        count += len(found)
        if len(found) < 1000:
            break
        after = reads.position_of_message(found[-1])
    await opened.dispose()

    assert count == MANY // 2
