"""What Graph shows meets what is stored, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pagewire.store.v1.mirror_service_pb2 import (
    ROW_KIND_COMMENT,
    ROW_KIND_CONVERSATION,
    ROW_KIND_LABEL,
    ROW_KIND_MESSAGE,
    MirroredLabel,
    StreamHistoryRequest,
    UpsertHistoryRequest,
)
from pagewire.type.v1.conversation_pb2 import DIRECTION_OUTBOUND, DIRECTION_UNSPECIFIED
from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_COMMENT_HIDDEN,
    EVENT_KIND_MESSAGE_DELETED,
    EVENT_KIND_MESSAGE_EDIT,
    TRIGGER_STORY_REPLY,
    Attachment,
    CommentDetail,
    MessageDetail,
    MessageEditDetail,
    MessageRef,
)
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import mirroring
from pagewire_store.database import Pools
from pagewire_store.ingest import Ingestor
from tests.support.deliveries import (
    OTHER_PAGE,
    PAGE,
    PERSON,
    Database,
    about,
    at,
    comment,
    database,
    delivery,
    echo,
    ingestor,
    message,
    pools,
)
from tests.support.mirror import (
    history,
    make_mirror,
    service,
    shown,
    shown_comment,
    thread,
)
from tests.support.servers import database_url, migrated_template, postgres_server

if TYPE_CHECKING:
    from pagewire.store.v1.mirror_service_pb2_grpc import MirrorServiceAsyncStub

__all__ = [
    "database",
    "database_url",
    "ingestor",
    "migrated_template",
    "pools",
    "postgres_server",
    "service",
]

STORED = (
    "select mid, participant_id, direction, kind, text, extract(epoch from created_at)::float"
    " from message order by mid"
)
CTIDS = "select mid, ctid::text, xmin::text, xmax::text from message order by mid"


def epoch(seconds: float) -> float:
    return at(seconds).ToMicroseconds() / 1e6


async def test_threads_and_messages_that_were_not_stored_are_new(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    answer = await service.UpsertHistory(
        history(
            conversations=[
                thread(
                    participant_name="Ada",
                    thread_id="t_1",
                    seconds=60,
                    snippet="we answer",
                    unread_count=2,
                )
            ],
            messages=[
                shown("m_2", 60, direction=DIRECTION_OUTBOUND, text="we answer"),
                shown("m_1", 30),
            ],
        )
    )

    assert (list(answer.new_conversations), list(answer.new_messages)) == ([0], [0, 1])
    assert (answer.changed, len(answer.refused)) == (0, 0)
    assert await database.rows(STORED) == [
        ("m_1", PERSON, "inbound", "message", "hello", epoch(30)),
        ("m_2", PERSON, "outbound", "message", "we answer", epoch(60)),
    ]
    assert await database.rows(
        "select participant_name, thread_id, snippet, unread_count,"
        " extract(epoch from updated_at)::float, extract(epoch from last_inbound_at)::float,"
        " extract(epoch from last_outbound_at)::float from conversation"
    ) == [("Ada", "t_1", "we answer", 2, epoch(60), epoch(30), epoch(60))]


async def test_only_what_was_not_there_is_said_to_be_new(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await service.UpsertHistory(history(conversations=[thread()], messages=[shown("m_2")]))

    answer = await service.UpsertHistory(
        history(
            conversations=[thread("2002"), thread()],
            messages=[shown("m_3"), shown("m_2", text="hello again"), shown("m_1")],
        )
    )

    assert list(answer.new_conversations) == [0]
    assert list(answer.new_messages) == [0, 2]
    assert answer.changed == 1


@pytest.mark.parametrize(("count", "by_copy"), [(4_000, False), (5_200, True)])
async def test_a_large_call_goes_by_copy_and_is_stored_whole(
    pools: Pools, database: Database, count: int, by_copy: bool
) -> None:
    mids = [f"m_{number:05}" for number in range(count)]
    rows = history(conversations=[thread()], messages=[shown(mid) for mid in mids])

    answer = await make_mirror(pools).upsert(rows)

    staged = await database.rows("select 1 from pg_class where relname = 'mirrored_message'")
    assert bool(staged) == by_copy
    assert list(answer.new_messages) == list(range(count))
    assert await database.rows("select count(*) from message") == [(count,)]


@pytest.mark.parametrize("staged_from", [1, 1_000], ids=["by COPY", "by arrays"])
async def test_what_is_stored_as_it_is_costs_no_write(
    pools: Pools, database: Database, staged_from: int
) -> None:
    mirror = make_mirror(pools, staged_from=staged_from)
    rows = history(
        conversations=[thread(snippet="hello", thread_id="t_1")],
        messages=[shown("m_1"), shown("m_2", 1, attachments=[Attachment(type="image", url="u")])],
        comments=[shown_comment(), shown_comment("c_2", 5, parent_id="c_1", is_own=True)],
        labels=[MirroredLabel(label_id="l_1", name="lead")],
    )
    await mirror.upsert(rows)
    tables = ("conversation", "message", "comment", "label")
    state = "select ctid::text, xmin::text, xmax::text from {} order by 1"
    before = {table: await database.rows(state.format(table)) for table in tables}

    answer = await mirror.upsert(rows)

    assert (answer.changed, len(answer.new_messages), len(answer.new_comments)) == (0, 0, 0)
    assert {table: await database.rows(state.format(table)) for table in tables} == before


async def test_archived_messages_are_neither_changed_nor_locked(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    mids = [f"m_{number}" for number in range(100)]
    await service.UpsertHistory(
        history(conversations=[thread()], messages=[shown(mid) for mid in mids])
    )
    await database.rows("update message set is_archived = true where mid not like '%%7'")
    before = dict.fromkeys(await database.rows(CTIDS))

    answer = await service.UpsertHistory(
        history(messages=[shown(mid, text="changed") for mid in mids])
    )

    assert answer.changed == 10
    assert len(before.keys() - set(await database.rows(CTIDS))) == 10
    assert await database.values("select text from message where is_archived limit 1") == ["hello"]


async def test_an_archived_comment_is_left_alone(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await service.UpsertHistory(history(comments=[shown_comment()]))
    await database.rows("update comment set is_archived = true")
    before = await database.rows("select ctid::text, xmin::text, xmax::text from comment")

    answer = await service.UpsertHistory(
        history(
            comments=[
                shown_comment(text="changed"),
                shown_comment("c_2", 5, parent_id="c_1", is_own=True),
            ]
        )
    )

    assert (answer.changed, list(answer.new_comments)) == (0, [1])
    untouched = "select ctid::text, xmin::text, xmax::text from comment where is_archived"
    assert await database.rows(untouched) == before


BAD_MESSAGES = [
    ("id_malformed", shown("")),
    ("id_malformed", shown("m\0")),
    ("id_malformed", shown("m" * 513)),
    ("id_malformed", shown("m 1")),
    ("id_malformed", shown("m_ü")),
    ("participant_unknown", shown(participant_id="2999")),
    ("participant_unknown", shown(participant_id="")),
    ("participant_unknown", shown(participant_id="2 0")),
    ("direction_unknown", shown(direction=7)),
    ("time_missing", shown(create_time=None)),
    ("time_out_of_range", shown(seconds=-800_000_000)),
    ("time_out_of_range", shown(seconds=2 * 86_400)),
    ("text_malformed", shown(text="a\0b")),
    ("text_malformed", shown(text="a" * 70_000)),
]


@pytest.mark.parametrize(("reason", "bad"), BAD_MESSAGES, ids=[each[0] for each in BAD_MESSAGES])
async def test_a_bad_message_is_refused_by_name_and_its_neighbours_are_stored(
    service: "MirrorServiceAsyncStub", database: Database, reason: str, bad: Any
) -> None:
    answer = await service.UpsertHistory(
        history(conversations=[thread()], messages=[shown("before"), bad, shown("behind")])
    )

    (refused,) = answer.refused
    assert (refused.kind, refused.position, refused.reason) == (ROW_KIND_MESSAGE, 1, reason)
    assert refused.id == bad.mid[:200]
    assert list(answer.new_messages) == [0, 2]
    assert await database.values("select mid from message order by 1") == ["before", "behind"]


@pytest.mark.parametrize(
    ("kind", "reason", "bad"),
    [
        (ROW_KIND_CONVERSATION, "id_malformed", {"conversations": [thread("2 0")]}),
        (ROW_KIND_CONVERSATION, "id_malformed", {"conversations": [thread(thread_id="t 1")]}),
        (ROW_KIND_CONVERSATION, "time_missing", {"conversations": [thread(update_time=None)]}),
        (ROW_KIND_CONVERSATION, "text_malformed", {"conversations": [thread(snippet="\0")]}),
        (
            ROW_KIND_CONVERSATION,
            "text_malformed",
            {"conversations": [thread(participant_name="\0")]},
        ),
        (ROW_KIND_COMMENT, "id_malformed", {"comments": [shown_comment("")]}),
        (ROW_KIND_COMMENT, "id_malformed", {"comments": [shown_comment(parent_id="c 1")]}),
        (ROW_KIND_COMMENT, "id_malformed", {"comments": [shown_comment(from_id="\0")]}),
        (ROW_KIND_COMMENT, "time_missing", {"comments": [shown_comment(create_time=None)]}),
        (ROW_KIND_COMMENT, "text_malformed", {"comments": [shown_comment(text="\0")]}),
        (ROW_KIND_COMMENT, "text_malformed", {"comments": [shown_comment(from_name="\0")]}),
        (ROW_KIND_LABEL, "name_missing", {"labels": [MirroredLabel(label_id="1")]}),
        (ROW_KIND_LABEL, "text_malformed", {"labels": [MirroredLabel(name="a\0")]}),
        (ROW_KIND_LABEL, "text_malformed", {"labels": [MirroredLabel(name="a" * 501)]}),
        (ROW_KIND_LABEL, "id_malformed", {"labels": [MirroredLabel(label_id=" ", name="a")]}),
    ],
)
async def test_a_bad_row_of_any_kind_is_refused_and_all_else_is_stored(
    service: "MirrorServiceAsyncStub", database: Database, kind: int, reason: str, bad: Any
) -> None:
    request = history(
        conversations=[thread("2002")],
        messages=[shown(participant_id="2002")],
        comments=[shown_comment("c_good")],
        labels=[MirroredLabel(label_id="9", name="good")],
    )
    request.MergeFrom(UpsertHistoryRequest(**bad))

    answer = await service.UpsertHistory(request)

    (refused,) = answer.refused
    assert (refused.kind, refused.position, refused.reason) == (kind, 1, reason)
    for table in ("conversation", "message", "comment", "label"):
        assert await database.value(f"select count(*) from {table}") == 1


async def test_messages_of_a_thread_that_is_refused_are_refused_with_it(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    answer = await service.UpsertHistory(
        history(conversations=[thread(update_time=None)], messages=[shown()])
    )

    reasons = [(one.kind, one.reason) for one in answer.refused]
    assert reasons == [
        (ROW_KIND_CONVERSATION, "time_missing"),
        (ROW_KIND_MESSAGE, "participant_unknown"),
    ]


async def test_what_postgresql_alone_refuses_is_named_too_and_its_neighbours_are_stored(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await database.rows("alter table message add check (text <> 'unspeakable')")

    answer = await service.UpsertHistory(
        history(
            conversations=[thread()],
            messages=[shown("m_1"), shown("m_2", text="unspeakable"), shown("m_3")],
        )
    )

    (refused,) = answer.refused
    assert (refused.kind, refused.position, refused.id) == (ROW_KIND_MESSAGE, 1, "m_2")
    assert refused.reason == "integrity_violation"
    assert list(answer.new_messages) == [0, 2]
    assert list(answer.new_conversations) == [0]


@pytest.mark.parametrize("page_id", ["", OTHER_PAGE, "9", "a\0b"])
async def test_rows_of_a_page_that_is_not_connected_are_turned_away(
    service: "MirrorServiceAsyncStub", database: Database, page_id: str
) -> None:
    await database.connect_page(OTHER_PAGE)
    await database.disconnect_page(OTHER_PAGE)

    with pytest.raises(Refusal) as refused:
        await service.UpsertHistory(history(page_id=page_id, conversations=[thread()]))

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PAGE_UNKNOWN")
    assert await database.value("select count(*) from conversation") == 0


async def test_a_stream_is_answered_request_by_request(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    async def rows() -> AsyncIterator[StreamHistoryRequest]:
        yield StreamHistoryRequest(rows=history(conversations=[thread()]))
        yield StreamHistoryRequest(rows=history(messages=[shown("m_1"), shown("m 2")]))
        yield StreamHistoryRequest(rows=history(messages=[shown("m_2"), shown("m_1")]))

    answers = [answer.result async for answer in service.StreamHistory(rows())]

    assert [list(answer.new_messages) for answer in answers] == [[], [0], [0]]
    assert [len(answer.refused) for answer in answers] == [0, 1, 0]


async def test_too_many_rows_are_refused(
    service: "MirrorServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "MOST_ROWS", 2)

    with pytest.raises(Refusal) as refused:
        await service.UpsertHistory(history(conversations=[thread()], messages=[shown()] * 2))

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, "rows")


async def test_rows_of_which_nobody_says_when_graph_was_asked_are_refused(
    service: "MirrorServiceAsyncStub",
) -> None:
    with pytest.raises(Refusal) as refused:
        await service.UpsertHistory(history(read_time=None))

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, "read_time")


async def test_a_request_without_rows_is_answered(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    answer = await service.UpsertHistory(history())

    assert not answer.ListFields()


async def test_a_message_that_is_shown_twice_is_stored_once_with_all_that_was_said(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    answer = await service.UpsertHistory(
        history(
            conversations=[thread(), thread(seconds=9, snippet="newer"), thread(snippet="older")],
            messages=[
                shown(direction=DIRECTION_UNSPECIFIED, text=""),
                shown(direction=DIRECTION_OUTBOUND, text="we answer"),
            ],
        )
    )

    assert (list(answer.new_conversations), list(answer.new_messages)) == ([0], [0])
    (row,) = await database.rows(STORED)
    assert row[2:5] == ("outbound", "message", "we answer")
    assert await database.values("select snippet from conversation") == ["newer"]


@pytest.mark.parametrize("staged_from", [1, 1_000], ids=["by COPY", "by arrays"])
async def test_texts_arrive_as_they_were_however_long_and_in_whatever_letters(
    pools: Pools, database: Database, staged_from: int
) -> None:
    texts = ["", "a", "ü" * 255, "ü" * 256, "\u200d👩‍👧" * 3_000, "\\N\t\n'\"{},", "\x01"]
    mirror = make_mirror(pools, staged_from=staged_from)

    await mirror.upsert(
        history(
            conversations=[thread()],
            messages=[
                shown(f"m_{at}", text=text, attachments=[Attachment(type="image", url=text)] * at)
                for at, text in enumerate(texts)
            ],
        )
    )

    stored = await database.rows("select coalesce(text, ''), attachments from message order by mid")
    assert [text for text, _ in stored] == texts
    assert [
        [one.url for one in MessageDetail.FromString(packed or b"").attachments]
        for _, packed in stored
    ] == [[text] * at for at, text in enumerate(texts)]


@pytest.mark.parametrize("seconds", [0.5, -0.5, 2_000])
async def test_what_a_webhook_stored_to_the_millisecond_is_found_again(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database, seconds: float
) -> None:
    await ingestor.ingest([delivery(message("m_1", seconds), message("m_2", 3_000 + seconds))])
    await service.UpsertHistory(history(read=9_000, conversations=[thread()]))
    before = await database.rows(CTIDS)

    answer = await service.UpsertHistory(
        history(messages=[shown("m_2", 3_000), shown("m_1", 0), shown("m_3", 1_000)])
    )

    assert (list(answer.new_messages), len(await database.rows(CTIDS))) == ([2], 3)
    assert (await database.rows(CTIDS))[:2] == before


async def test_repeats_in_different_chunks_are_new_once(pools: Pools, database: Database) -> None:
    mirror = make_mirror(pools, chunk_rows=2)

    answer = await mirror.upsert(
        history(
            conversations=[thread()],
            messages=[shown("m_1"), shown("m_2"), shown("m_1"), shown("m_3"), shown("m_2")],
        )
    )

    assert list(answer.new_messages) == [0, 1, 3]
    assert await database.value("select count(*) from message") == 3


async def test_a_message_moves_its_conversation_up_and_never_down(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await service.UpsertHistory(history(conversations=[thread(seconds=50)]))

    times = []
    for seconds, direction in ((100, 1), (20, 1), (200, 2), (150, 2), (150, 1)):
        rows = [shown(f"m_{seconds}_{direction}", seconds, direction=direction)]
        await service.UpsertHistory(history(messages=rows))
        times += await database.rows(
            "select extract(epoch from updated_at)::float, extract(epoch from last_inbound_at)"
            "::float, extract(epoch from last_outbound_at)::float from conversation"
        )

    assert times == [
        (epoch(100), epoch(100), None),
        (epoch(100), epoch(100), None),
        (epoch(200), epoch(100), epoch(200)),
        (epoch(200), epoch(100), epoch(200)),
        (epoch(200), epoch(150), epoch(200)),
    ]


async def test_snippet_and_unread_count_follow_no_row_that_is_older(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await ingestor.ingest([delivery(message(seconds=100.5))])
    shown_as = "select snippet, unread_count from conversation"

    await service.UpsertHistory(
        history(conversations=[thread(seconds=99, snippet="older", unread_count=7)])
    )
    after_older = await database.rows(shown_as)
    await service.UpsertHistory(
        history(read=100, conversations=[thread(seconds=100, snippet="before it", unread_count=7)])
    )
    after_one_asked_for_before = await database.rows(shown_as)
    await service.UpsertHistory(
        history(conversations=[thread(seconds=100, snippet="hello!", unread_count=0)])
    )

    assert after_older == after_one_asked_for_before == [("hello", 1)]
    assert await database.rows(shown_as) == [("hello!", 0)]


async def test_a_message_that_history_brought_first_is_unread_once(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    counted = "select unread_count from conversation"
    await service.UpsertHistory(
        history(
            conversations=[thread(seconds=20, unread_count=2)],
            messages=[shown("m_1", 10), shown("m_2", 20)],
        )
    )

    await ingestor.ingest([delivery(message("m_1", 10.2), message("m_2", 20.3))])
    both_were_there = await database.value(counted)
    await ingestor.ingest([delivery(message("m_2", 20.3), message("m_3", 30))])

    assert both_were_there == 2
    assert await database.value(counted) == 3


async def test_the_snippet_of_a_message_that_was_unsent_here_is_not_shown_again(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    unsent = about(
        EVENT_KIND_MESSAGE_DELETED,
        "deleted:m_1",
        10,
        message_deleted=MessageRef(mid="m_1"),
    )
    await ingestor.ingest([delivery(message(), unsent)])

    await service.UpsertHistory(
        history(read=5, conversations=[thread(snippet="hello")], messages=[shown()])
    )
    await service.UpsertHistory(
        history(conversations=[thread(snippet="hello")], messages=[shown()])
    )

    assert await database.values("select snippet from conversation") == [""]
    assert await database.rows("select text, is_deleted from message") == [(None, True)]


def edit(seconds: float, text: str = "edited") -> Any:
    detail = MessageEditDetail(mid="m_1", number=1, text=text)
    return about(EVENT_KIND_MESSAGE_EDIT, "edit:m_1:1", seconds, message_edit=detail)


async def test_an_edit_that_came_after_graph_was_asked_stays(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await ingestor.ingest([delivery(message(), edit(seconds=100))])
    texts = []

    for read, text in ((99, "hello"), (101, "edited again")):
        await service.UpsertHistory(
            history(read=read, conversations=[thread()], messages=[shown(text=text)])
        )
        texts += await database.values("select text from message")

    assert texts == ["edited", "edited again"]


async def test_an_edit_that_was_known_before_its_message_gets_the_messages_time(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await ingestor.ingest([delivery(edit(seconds=100))])

    await service.UpsertHistory(
        history(
            read=99,
            conversations=[thread()],
            messages=[shown(seconds=3, attachments=[Attachment(type="image", url="u")])],
        )
    )

    (row,) = await database.rows(STORED)
    assert row[4:] == ("edited", epoch(3))
    assert await database.values("select attachments is not null from message") == [True]


async def test_a_webhooks_time_kind_and_attachments_stay(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    told = MessageDetail(
        mid="m_1",
        text="hello",
        story_id="s_1",
        attachments=[Attachment(type="image", url="by-webhook")],
    )
    await ingestor.ingest([delivery(message(seconds=3.25, message=told))])
    before = await database.rows("select *, ctid::text, xmin::text from message")

    await service.UpsertHistory(
        history(
            conversations=[thread()],
            messages=[shown(seconds=3, attachments=[Attachment(type="image", url="by-graph")])],
        )
    )

    assert await database.rows("select *, ctid::text, xmin::text from message") == before


async def test_what_history_brought_first_is_filled_in_by_the_webhook(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await service.UpsertHistory(
        history(
            conversations=[thread()],
            messages=[shown(seconds=3, direction=DIRECTION_UNSPECIFIED, text="")],
        )
    )
    bare = await database.rows("select direction, text, kind from message")
    told = MessageDetail(mid="m_1", text="hello", story_id="s_1")

    await ingestor.ingest([delivery(message(seconds=3.25, message=told))])

    assert bare == [(None, None, "message")]
    assert await database.rows(STORED) == [
        ("m_1", PERSON, "inbound", "story_reply", "hello", epoch(3.25))
    ]


async def test_of_a_message_without_an_author_an_edit_tells_whose_it_is(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await service.UpsertHistory(
        history(
            conversations=[thread()],
            messages=[shown(direction=DIRECTION_UNSPECIFIED, text="")],
        )
    )

    await ingestor.ingest([delivery(edit(seconds=100))])

    assert await database.rows("select direction, text from message") == [("inbound", "edited")]


async def test_a_story_that_graph_tells_of_later_makes_the_message_its_reply(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await service.UpsertHistory(history(conversations=[thread()], messages=[shown()]))

    await service.UpsertHistory(history(messages=[shown(trigger=TRIGGER_STORY_REPLY)]))
    await service.UpsertHistory(history(messages=[shown()]))

    assert await database.values("select kind from message") == ["story_reply"]


async def test_replies_apps_recovery_archive_and_pauses_are_not_touched(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await ingestor.ingest([delivery(echo("m_1"))])
    await database.rows("update message set reply_id = 7, recovered = true")
    await database.rows("update conversation set automation_paused_until = '2026-03-02 00:00Z'")
    kept = "select app_id, reply_id, recovered, is_archived from message"
    paused = "select automation_paused_until from conversation"
    before = (await database.rows(kept), await database.rows(paused))

    await service.UpsertHistory(
        history(
            conversations=[thread(seconds=9, snippet="new", unread_count=3)],
            messages=[shown(direction=DIRECTION_OUTBOUND, text="edited at Graph")],
        )
    )

    assert (await database.rows(kept), await database.rows(paused)) == before
    assert await database.values("select text from message") == ["edited at Graph"]


async def test_history_makes_no_lane_event_decision_or_reply(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await service.UpsertHistory(
        history(conversations=[thread()], messages=[shown()], comments=[shown_comment()])
    )

    for table in ("lane", "event", "decision", "outbox", "delivery"):
        assert await database.value(f"select count(*) from {table}") == 0


COMMENTS = (
    "select comment_id, parent_id, root_id, from_id, is_own, is_hidden,"
    " extract(epoch from answered_at)::float from comment order by comment_id"
)


async def test_comments_and_their_answers_are_stored(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    answer = await service.UpsertHistory(
        history(
            comments=[
                shown_comment("c_3", 30, parent_id="c_1", is_own=True, from_id="17841"),
                shown_comment("c_1"),
                shown_comment("c_2", 20, parent_id="c_1", is_own=True),
                shown_comment("c_4", 40, is_hidden=True),
            ]
        )
    )

    assert list(answer.new_comments) == [0, 1, 2, 3]
    assert await database.rows(COMMENTS) == [
        ("c_1", None, "c_1", "3001", False, False, epoch(20)),
        ("c_2", "c_1", "c_1", PAGE, True, False, None),
        ("c_3", "c_1", "c_1", PAGE, True, False, None),
        ("c_4", None, "c_4", "3001", False, True, None),
    ]


async def test_an_answer_in_another_chunk_or_call_counts(pools: Pools, database: Database) -> None:
    mirror = make_mirror(pools, chunk_rows=1)
    answered = "select extract(epoch from answered_at)::float from comment where comment_id = 'c_1'"

    await mirror.upsert(
        history(
            comments=[
                shown_comment("c_2", 20, parent_id="c_1", is_own=True),
                shown_comment("c_1"),
            ]
        )
    )
    first = await database.value(answered)
    earlier = shown_comment("c_0", 10, parent_id="c_1", is_own=True)
    later = shown_comment("c_3", 30, parent_id="c_1", is_own=True)
    await mirror.upsert(history(comments=[later, earlier]))

    assert (first, await database.value(answered)) == (epoch(20), epoch(10))


async def test_the_pages_own_comment_is_answered_by_nothing_that_the_page_says_below_it(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await service.UpsertHistory(
        history(
            comments=[
                shown_comment("c_1", is_own=True),
                shown_comment("c_2", 20, parent_id="c_1", is_own=True),
            ]
        )
    )

    assert await database.values("select answered_at from comment") == [None, None]


async def test_a_hiding_that_came_after_graph_was_asked_stays(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    hidden = comment(
        kind=EVENT_KIND_COMMENT_HIDDEN,
        key="",
        trigger=0,
        sent_time=at(100),
        comment=CommentDetail(comment_id="c_1", hidden=True),
    )
    await ingestor.ingest([delivery(comment(), hidden)])
    states = []

    for read in (99, 101):
        await service.UpsertHistory(history(read=read, comments=[shown_comment()]))
        states += await database.values("select is_hidden from comment")

    assert states == [True, False]


async def test_labels_are_known_by_their_name(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await database.rows("insert into label (page_id, name) values (%s, 'lead')", PAGE)

    answer = await service.UpsertHistory(
        history(labels=[MirroredLabel(label_id="l_1", name="lead"), MirroredLabel(name="b" * 500)])
    )
    await service.UpsertHistory(history(labels=[MirroredLabel(name="lead")]))

    assert answer.changed == 1
    assert await database.rows("select name, label_id from label order by name desc") == [
        ("lead", "l_1"),
        ("b" * 500, None),
    ]


async def test_bulks_of_the_same_rows_in_opposite_orders_end_equal_without_a_deadlock(
    pools: Pools, database: Database
) -> None:
    people = [str(2000 + number) for number in range(30)]
    mirrors = [make_mirror(pools, chunk_rows=40) for _ in range(2)]

    def rows(text: str, *, backwards: bool) -> UpsertHistoryRequest:
        order = people[::-1] if backwards else people
        return history(
            conversations=[thread(person, snippet=text) for person in order],
            messages=[
                shown(f"m_{person}_{number}", number, participant_id=person, text=text)
                for person in order
                for number in range(3)
            ],
            comments=[shown_comment(f"c_{person}", text=text) for person in order],
        )

    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"

    new = 0
    for turn in range(10):
        answers = await asyncio.gather(
            *(
                mirror.upsert(rows(f"text {turn}", backwards=backwards))
                for mirror, backwards in zip(mirrors, (True, False), strict=True)
            )
        )
        assert not any(answer.refused for answer in answers)
        new += sum(len(answer.new_messages) for answer in answers)

    assert await database.value(deadlocks) == 0
    assert await database.values("select distinct text from message") == ["text 9"]
    assert await database.value("select count(*) from message") == new == 90


async def test_a_chunk_whose_row_another_holds_gives_way_and_comes_again(
    pools: Pools, database: Database, database_url: str
) -> None:
    mirror = make_mirror(pools)
    await mirror.upsert(history(conversations=[thread()], messages=[shown("m_1"), shown("m_2")]))
    waits = "select count(*) from pg_locks where not granted"

    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("select from message where mid = 'm_2' for update")
        changed = history(messages=[shown("m_1", text="new"), shown("m_2", text="new")])
        upserting = asyncio.create_task(mirror.upsert(changed))
        async with asyncio.timeout(30):
            while not await database.value(waits):
                await asyncio.sleep(0.01)
        await other.rollback()
    answer = await upserting

    assert answer.changed == 2


async def test_webhooks_and_bulks_of_the_same_people_at_once_store_all_without_a_deadlock(
    pools: Pools, ingestor: Ingestor, database: Database
) -> None:
    people = [str(2000 + number) for number in range(20)]
    mirror = make_mirror(pools, chunk_rows=25)

    def by_graph(turn: int) -> UpsertHistoryRequest:
        order = people if turn % 2 else people[::-1]
        return history(
            conversations=[thread(person, turn, snippet=f"text {turn}") for person in order],
            messages=[
                shown(f"m_{person}_{turn}", turn, participant_id=person, text=f"text {turn}")
                for person in order
            ],
        )

    def by_webhook(turn: int) -> Any:
        return delivery(
            *(
                message(f"m_{person}_{turn}", turn, person=person, text=f"text {turn}")
                for person in people
            )
        )

    for turn in range(5):
        both = [by_webhook(2 * turn), by_webhook(2 * turn + 1)]
        *_, results = await asyncio.gather(
            mirror.upsert(by_graph(2 * turn)),
            mirror.upsert(by_graph(2 * turn + 1)),
            ingestor.ingest(both),
        )
        assert sum(result.new_events for result in results) == 2 * len(people)

    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    assert await database.value(deadlocks) == 0
    assert await database.value("select count(*) from message") == 10 * len(people)
    assert await database.values("select distinct snippet from conversation") == ["text 9"]
