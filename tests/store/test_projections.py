import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_COMMENT_EDITED,
    EVENT_KIND_COMMENT_HIDDEN,
    EVENT_KIND_COMMENT_REMOVED,
    EVENT_KIND_DELIVERY,
    EVENT_KIND_FEED_REACTION,
    EVENT_KIND_MESSAGE_DELETED,
    EVENT_KIND_MESSAGE_EDIT,
    EVENT_KIND_OPTIN,
    EVENT_KIND_POSTBACK,
    EVENT_KIND_REACTION,
    EVENT_KIND_READ,
    EVENT_KIND_REFERRAL,
    ID_SPACE_USER_REF,
    SOURCE_RECOVERED,
    Attachment,
    CommentDetail,
    DeliveryDetail,
    Event,
    FeedReactionDetail,
    MessageDetail,
    MessageEditDetail,
    MessageRef,
    PostbackDetail,
    ReactionDetail,
    ReadDetail,
    ReferralDetail,
)
from pagewire_store.ingest import Ingestor
from pagewire_store.projections import Projections, project
from tests.support.deliveries import (
    NOON,
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
from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database", "database_url", "ingestor", "migrated_template", "pools", "postgres_server"]


def edit(mid: str, number: int, text: str | None, seconds: float = 50) -> Event:
    detail = MessageEditDetail(mid=mid, number=number, text=text)
    return about(EVENT_KIND_MESSAGE_EDIT, f"edit:{mid}:{number}", seconds, message_edit=detail)


def unsend(mid: str, seconds: float = 60) -> Event:
    detail = MessageRef(mid=mid)
    return about(EVENT_KIND_MESSAGE_DELETED, f"deleted:{mid}", seconds, message_deleted=detail)


def reaction(seconds: float, name: str, *, removed: bool = False, mid: str = "m_1") -> Event:
    detail = ReactionDetail(mid=mid, reaction=name, emoji="x", removed=removed)
    return about(EVENT_KIND_REACTION, f"reaction:{mid}:{name}:{seconds}", seconds, reaction=detail)


def read(seconds: float | None = None, mid: str = "") -> Event:
    detail = ReadDetail(watermark=None if seconds is None else at(seconds), mid=mid)
    return about(EVENT_KIND_READ, f"read:{PERSON}:{mid or seconds}", seconds or 0, read=detail)


def of_comment(kind: int, key: str, seconds: float = 0, **fields: Any) -> Event:
    sent_time = fields.pop("sent_time", None)
    detail = CommentDetail(comment_id="c_1", post_id="p_1", **fields)
    return about(kind, key, seconds, lane="comment:c_1", comment=detail, sent_time=sent_time)


def hiding(hidden: bool, sent: float) -> Event:
    return of_comment(EVENT_KIND_COMMENT_HIDDEN, "", sent_time=at(sent), hidden=hidden)


def comment_edit(text: str, seconds: float) -> Event:
    return of_comment(
        EVENT_KIND_COMMENT_EDITED, f"comment:c_1:edited:{seconds}", text=text, edit_time=at(seconds)
    )


def removal() -> Event:
    return of_comment(EVENT_KIND_COMMENT_REMOVED, "comment:c_1:remove", 30)


MESSAGE = "select text, edit_number, is_deleted, participant_id, direction, created_at from message"
TALK = (
    "select snippet, unread_count, last_inbound_at, last_outbound_at, updated_at from conversation"
)
COMMENT = "select text, is_hidden, is_deleted, is_own, root_id, from_name from comment"


@pytest.fixture(params=["one by one", "at once"])
def way(request: pytest.FixtureRequest) -> bool:
    """Whether events come in one delivery: what they leave behind must be the same."""
    return bool(request.param == "at once")


async def store(ingestor: Ingestor, events: list[Event], *, at_once: bool = False) -> None:
    if at_once:
        await ingestor.ingest([delivery(*events)])
        return
    for event in events:
        await ingestor.ingest([delivery(event)])


EDITS = [
    message("m_1", 1, text="first"),
    edit("m_1", 1, "second"),
    edit("m_1", 2, "third"),
    edit("m_1", 0, None),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3])
async def test_the_edit_of_the_highest_number_wins_in_any_order(
    ingestor: Ingestor, database: Database, way: bool, order: tuple[int, ...]
) -> None:
    await store(ingestor, [EDITS[number] for number in order], at_once=way)

    assert await database.rows(MESSAGE) == [
        ("third", 2, False, PERSON, "inbound", at(1).ToDatetime(NOON.tzinfo))
    ]
    assert await database.values("select snippet from conversation") == ["third"]


PICTURE = MessageDetail(mid="m_1", text="oh", attachments=[Attachment(type="image")])
UNSENDING = [message("m_1", 1, message=PICTURE), edit("m_1", 1, "ah"), unsend("m_1")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_an_unsent_message_has_no_content_whenever_that_was_told(
    ingestor: Ingestor, database: Database, way: bool, order: tuple[int, ...]
) -> None:
    await store(ingestor, [UNSENDING[number] for number in order], at_once=way)

    assert await database.rows("select text, attachments, is_deleted from message") == [
        (None, None, True)
    ]
    assert await database.values("select snippet from conversation") == [""]


async def test_an_edit_of_nobodys_unknown_message_makes_no_row(
    ingestor: Ingestor, database: Database
) -> None:
    nobodys = edit("m_9", 1, "text")
    nobodys.person_id, nobodys.lane = "", "page"

    await store(ingestor, [nobodys])

    assert await database.value("select count(*) from message") == 0


async def test_what_history_brought_is_filled_in_and_keeps_its_text(
    ingestor: Ingestor, database: Database
) -> None:
    for mid, text in (("m_1", "as edited since"), ("m_2", None)):
        await database.rows(
            "insert into message (page_id, mid, participant_id, direction, kind, text, created_at)"
            " values (%s, %s, %s, 'inbound', 'message', %s, %s)",
            PAGE, mid, PERSON, text, NOON,
        )  # fmt: skip

    await store(ingestor, [message("m_1", 1, text="old"), message("m_2", 2, text="new")])

    assert await database.values("select text from message order by mid") == [
        "as edited since",
        "new",
    ]
    assert await database.values("select state from event") == ["pending"] * 2


async def test_a_conversation_never_moves_backwards(
    ingestor: Ingestor, database: Database, way: bool
) -> None:
    await store(
        ingestor,
        [message("m_5", 5, text="newest"), echo("m_3", 3), message("m_1", 1, text="late")],
        at_once=way,
    )

    ((snippet, _, inbound, outbound, updated),) = await database.rows(TALK)
    assert snippet == "newest"
    assert (inbound - NOON).total_seconds() == 5
    assert (outbound - NOON).total_seconds() == 3
    assert updated == inbound


async def test_unread_are_the_messages_since_the_pages_last_word(
    ingestor: Ingestor, database: Database, way: bool
) -> None:
    events = [message("m_1", 1), message("m_2", 2), echo("m_3", 3), message("m_4", 4)]

    await store(ingestor, events, at_once=way)

    assert await database.values("select unread_count from conversation") == [1]


async def test_the_pages_late_word_leaves_unread_what_came_after_it(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, [message("m_2", 2), message("m_3", 3), echo("m_1", 1)])

    assert await database.values("select unread_count from conversation") == [2]


async def test_an_echo_is_an_outbound_message_of_the_recipients_conversation(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, [echo("m_1", 3, text="we answer")])

    assert await database.rows("select participant_id, direction, text, app_id from message") == [
        (PERSON, "outbound", "we answer", "77")
    ]
    assert await database.values("select snippet from conversation") == ["we answer"]


async def test_a_name_that_comes_along_is_kept(ingestor: Ingestor, database: Database) -> None:
    await store(ingestor, [message("m_1", 1, person_name="Ann"), message("m_2", 2)])

    assert await database.values("select participant_name from conversation") == ["Ann"]


async def test_watermarks_only_rise(ingestor: Ingestor, database: Database, way: bool) -> None:
    delivered = [
        about(EVENT_KIND_DELIVERY, f"delivery:{s}", s, delivery=DeliveryDetail(watermark=at(s)))
        for s in (7, 4)
    ]

    await store(ingestor, [message("m_1", 1), read(9), read(5), *delivered], at_once=way)

    ((read_at, delivered_at),) = await database.rows(
        "select read_watermark, delivered_watermark from conversation"
    )
    assert (read_at - NOON).total_seconds() == 9
    assert (delivered_at - NOON).total_seconds() == 7


async def test_a_read_of_a_message_stays_at_the_later_message(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, [echo("m_1", 1), echo("m_2", 2), read(mid="m_2"), read(mid="m_1")])

    assert await database.values("select read_mid from conversation") == ["m_2"]


async def test_a_read_alone_makes_no_conversation(ingestor: Ingestor, database: Database) -> None:
    await store(ingestor, [read(9)])

    assert await database.value("select count(*) from conversation") == 0


@pytest.mark.parametrize("reverse", [False, True])
async def test_the_last_reaction_wins_by_its_time(
    ingestor: Ingestor, database: Database, way: bool, reverse: bool
) -> None:
    events = [reaction(1, "love"), reaction(2, "wow"), reaction(3, "wow", removed=True)]

    await store(ingestor, events[::-1] if reverse else events, at_once=way)

    assert await database.rows("select target_id, person_id, reaction, removed from reaction") == [
        ("m_1", PERSON, "wow", True)
    ]


async def test_a_reaction_to_an_unknown_message_is_kept_and_opens_the_window(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, [reaction(4, "love", mid="m_unknown")])

    assert await database.values("select target_id from reaction") == ["m_unknown"]
    ((snippet, unread, inbound, outbound, _),) = await database.rows(TALK)
    assert (snippet, unread, outbound) == ("", 0, None)
    assert (inbound - NOON).total_seconds() == 4


async def test_a_referral_opens_the_window_and_writes_nothing(
    ingestor: Ingestor, database: Database
) -> None:
    came = about(EVENT_KIND_REFERRAL, "referral:1", 9, referral=ReferralDetail(ref="x"))

    await store(ingestor, [message("m_1", 1), came])

    ((snippet, unread, inbound, _, updated),) = await database.rows(TALK)
    assert (snippet, unread) == ("hello", 1)
    assert (inbound - updated).total_seconds() == 8


async def test_a_user_ref_is_no_persons_conversation(
    ingestor: Ingestor, database: Database
) -> None:
    optin = about(EVENT_KIND_OPTIN, "optin:1", 9, id_space=ID_SPACE_USER_REF, lane="page")

    await store(ingestor, [optin])

    assert await database.value("select count(*) from conversation") == 0


async def test_a_postback_is_a_message_by_its_title_where_it_has_an_id(
    ingestor: Ingestor, database: Database
) -> None:
    named = PostbackDetail(mid="m_1", title="Start", payload="GO")
    nameless = PostbackDetail(title="Start", payload="GO")

    await store(
        ingestor,
        [
            about(EVENT_KIND_POSTBACK, "postback:m_1", 1, postback=named),
            about(EVENT_KIND_POSTBACK, "postback:2", 2, postback=nameless),
        ],
    )

    assert await database.rows("select mid, kind, text from message") == [
        ("m_1", "postback", "Start")
    ]
    assert await database.values("select unread_count from conversation") == [2]


COMMENTING = [
    comment("c_1", 1, "first"),
    comment_edit("second", 5),
    comment_edit("third", 6),
    hiding(True, 11),
    hiding(False, 12),
    hiding(True, 13),
]


@pytest.mark.parametrize("seed", range(8))
async def test_a_comment_is_as_its_newest_edit_and_its_newest_hiding_say(
    ingestor: Ingestor, database: Database, way: bool, seed: int
) -> None:
    order = random.Random(seed).sample(COMMENTING, len(COMMENTING))

    await store(ingestor, order, at_once=way)

    assert await database.rows(COMMENT) == [("third", True, False, False, "c_1", "Someone")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_a_removed_comment_has_no_text_whenever_that_was_told(
    ingestor: Ingestor, database: Database, way: bool, order: tuple[int, ...]
) -> None:
    events = [comment("c_1", 1, "first"), comment_edit("second", 5), removal()]

    await store(ingestor, [events[number] for number in order], at_once=way)

    assert await database.rows("select text, is_deleted from comment") == [(None, True)]


async def test_of_two_hidings_sent_in_one_second_the_one_that_came_last_wins(
    ingestor: Ingestor, database: Database, way: bool
) -> None:
    await store(ingestor, [comment(), hiding(True, 5), hiding(False, 5)], at_once=way)

    assert await database.values("select is_hidden from comment") == [False]


async def test_an_own_comment_is_the_pages(ingestor: Ingestor, database: Database) -> None:
    await store(ingestor, [comment("c_2", person_id="", trigger=0, is_own=True)])

    assert await database.rows("select from_id, is_own from comment") == [(PAGE, True)]


async def test_a_reaction_to_a_post_is_kept_by_person(
    ingestor: Ingestor, database: Database
) -> None:
    detail = FeedReactionDetail(target_id="p_1", reaction="like")
    known = about(EVENT_KIND_FEED_REACTION, "f1", 1, lane="page", feed_reaction=detail)
    unknown = about(
        EVENT_KIND_FEED_REACTION, "f2", 1, lane="page", feed_reaction=detail, person_id=""
    )

    await store(ingestor, [known, unknown])

    assert await database.rows("select target_id, person_id, reaction from reaction") == [
        ("p_1", PERSON, "like")
    ]


def test_a_story_reply_and_a_story_mention_are_known_by_what_they_carry() -> None:
    reply = MessageDetail(mid="m_1", text="nice", story_id="s_1")
    mention = MessageDetail(mid="m_2", attachments=[Attachment(type="story_mention", url="u")])

    rows = project([message("m_1", message=reply), message("m_2", message=mention)])

    assert [row.kind for row in rows.messages] == ["story_reply", "story_mention"]


def test_a_recovered_message_says_so() -> None:
    rows = project([message(source=SOURCE_RECOVERED)])

    assert [row.recovered for row in rows.messages] == [True]


def test_a_snippet_is_the_beginning_of_a_long_text() -> None:
    rows = project([message(text="x" * 5000)])

    assert [len(row.snippet) for row in rows.conversations] == [200]


events = st.sampled_from(
    [
        *EDITS, *UNSENDING, *COMMENTING, removal(), reaction(1, "love"), reaction(2, "wow"),
        read(5), read(mid="m_1"), echo("m_3", 3), message("m_4", 4),
    ]
)  # fmt: skip


@given(st.lists(events, max_size=12))
def test_no_statement_is_given_a_key_twice_and_all_are_given_in_order(batch: list[Event]) -> None:
    rows = project(batch)

    for keys in _keys(rows):
        assert keys == sorted(set(keys))


def _keys(rows: Projections) -> list[list[tuple[str, ...]]]:
    pairs = (
        rows.conversations, rows.touches, rows.messages, rows.message_changes, rows.comments,
        rows.comment_changes,
    )  # fmt: skip
    keys: list[list[tuple[str, ...]]] = [[row[:2] for row in table] for table in pairs]
    return [*keys, [row[:3] for row in rows.reactions]]
