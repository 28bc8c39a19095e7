from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.type.v1.conversation_pb2 import Direction
from pagewire.type.v1.event_pb2 import Trigger
from pagewire_sync.shown import (
    CURSOR_MAX,
    TEXT_MAX_BYTES,
    Refused,
    Unshown,
    add_messages,
    comment_of,
    edge_of,
    label_of,
    message_of,
    moment,
    post_of,
    text_of,
    thread_of,
)

PAGE = "104200000000001"
JO = "7100000000000001"
OWN = frozenset({PAGE})
AT = "2026-01-02T00:00:02+0000"


def message(mid: Any = "m_1", sender: Any = JO, **more: Any) -> dict[str, Any]:
    return {"id": mid, "created_time": AT, "from": {"id": sender}, "message": "hello", **more}


def thread(*messages: Any, **more: Any) -> dict[str, Any]:
    people = {"data": [{"id": JO, "name": "Jo"}, {"id": PAGE, "name": "Shop"}]}
    held = {"id": "t_1", "updated_time": AT, "participants": people}
    return held | {"messages": {"data": list(messages)}} | more


class TestThreads:
    def test_the_participant_is_the_one_who_is_not_the_page(self) -> None:
        shown = thread_of(thread(message(), snippet="hi", unread_count=2), OWN, Refused())

        assert shown.conversation is not None
        assert shown.conversation.participant_id == JO
        assert shown.conversation.participant_name == "Jo"
        assert (shown.conversation.snippet, shown.conversation.unread_count) == ("hi", 2)

    def test_where_participants_are_left_out_a_message_names_the_person(self) -> None:
        item = thread(message(sender=PAGE, to={"data": [{"id": JO}]}), participants={"data": []})

        assert thread_of(item, OWN, Refused()).participant_id == JO

    def test_one_without_anybody_beside_the_page_has_nothing_to_store(self) -> None:
        refused = Refused()

        shown = thread_of(thread(message(sender=PAGE), participants=None), OWN, refused)

        assert shown.conversation is None
        assert refused == {"participant_missing": 1}

    def test_one_bad_message_never_costs_its_neighbours(self) -> None:
        refused = Refused()
        bad = [None, "x", {}, {"id": "m_2"}, message({"x": 1}), message("m 3"), message(True)]

        shown = thread_of(thread(message("m_1"), *bad, message("m_9")), OWN, refused)

        assert [each.mid for each in shown.messages] == ["m_1", "m_9"]
        assert sum(refused.values()) == len(bad)
        assert len(shown.sources) == 2

    def test_older_messages_are_behind_the_cursor_only_where_there_is_a_next(self) -> None:
        nested = {"data": [message()], "paging": {"cursors": {"after": "c1"}}}
        last = thread_of(thread(messages=nested), OWN, Refused())
        nested["paging"]["next"] = "https://graph.example/?access_token=secret"  # type: ignore[index]

        more = thread_of(thread(messages=nested), OWN, Refused())

        assert (last.after, more.after) == ("", "c1")

    def test_a_page_of_older_messages_joins_the_thread(self) -> None:
        shown = thread_of(thread(message("m_2")), OWN, Refused())

        add_messages(shown, edge_of({"data": [message("m_1")]}), OWN, Refused())

        assert [each.mid for each in shown.messages] == ["m_2", "m_1"]


class TestMessages:
    def test_ids_that_are_numbers_keep_every_digit(self) -> None:
        row = message_of(message(12345678901234567891234, sender=98765432109876543210), JO, OWN)

        assert row.mid == "12345678901234567891234"
        assert row.direction == Direction.DIRECTION_INBOUND

    def test_what_the_page_wrote_is_outbound(self) -> None:
        row = message_of(message(sender=PAGE), JO, OWN)

        assert row.direction == Direction.DIRECTION_OUTBOUND

    def test_where_id_and_time_are_all_that_is_told_the_direction_stays_open(self) -> None:
        row = message_of({"id": "aWdf", "created_time": AT}, JO, OWN)

        assert row.direction == Direction.DIRECTION_UNSPECIFIED
        assert (row.text, row.create_time.seconds) == ("", 1_767_312_002)

    def test_what_meta_cannot_show_says_so(self) -> None:
        assert message_of(message(is_unsupported=True), JO, OWN).is_unsupported

    @pytest.mark.parametrize(
        ("story", "trigger"),
        [
            ({"reply_to": {"id": "9", "link": "l"}}, Trigger.TRIGGER_STORY_REPLY),
            ({"mention": {"id": "9", "link": "l"}}, Trigger.TRIGGER_STORY_MENTION),
            ("broken", Trigger.TRIGGER_UNSPECIFIED),
        ],
    )
    def test_a_story_is_what_a_rule_calls_it(self, story: Any, trigger: Trigger.ValueType) -> None:
        assert message_of(message(story=story), JO, OWN).trigger == trigger

    def test_attachments_of_every_kind_have_webhooks_types(self) -> None:
        held = [
            {"image_data": {"url": "u1"}, "id": "1"},
            {"image_data": {"url": "u2", "render_as_sticker": True}},
            {"video_data": {"url": "u3"}},
            {"mime_type": "audio/mpeg", "file_url": "u4"},
            {"mime_type": "application/pdf", "file_url": "u5", "name": "bill"},
            7,
        ]
        shares = {"data": [{"link": "u7", "name": "post"}]}

        row = message_of(message(attachments={"data": held}, shares=shares), JO, OWN)

        assert [(each.type, each.url) for each in row.attachments] == [
            ("image", "u1"),
            ("sticker", "u2"),
            ("video", "u3"),
            ("audio", "u4"),
            ("file", "u5"),
            ("unknown", ""),
            ("share", "u7"),
        ]

    def test_of_a_hundred_attachments_fifty_are_kept(self) -> None:
        held = {"data": [{"image_data": {"url": "u"}}] * 100}

        assert len(message_of(message(attachments=held), JO, OWN).attachments) == 50

    def test_nothing_that_is_stored_has_the_token_of_a_next_page_in_it(self) -> None:
        paging = {"next": "https://graph.example/?access_token=secret"}
        held = {"data": [{"image_data": {"url": "u"}, "paging": paging}], "paging": paging}

        assert b"secret" not in message_of(message(attachments=held), JO, OWN).SerializeToString()


class TestTimes:
    @pytest.mark.parametrize(
        "said",
        [
            AT,
            "2026-01-02T01:00:02+01:00",
            "2026-01-02T00:00:02Z",
            1_767_312_002,
            "1767312002",
            1_767_312_002_000,
            1_767_312_002.0,
        ],
    )
    def test_all_of_metas_spellings_are_one_time(self, said: Any) -> None:
        assert moment(said) == datetime(2026, 1, 2, 0, 0, 2, tzinfo=UTC).timestamp()

    @pytest.mark.parametrize(
        "said", [None, "", "soon", True, [], 10**400, 0, -5, "9999-12-31", 1e300]
    )
    def test_what_is_no_time_or_out_of_reason_is_none(self, said: Any) -> None:
        assert moment(said) is None


class TestTexts:
    def test_what_can_not_be_stored_is_replaced(self) -> None:
        assert text_of("a\x00b\ud800c") == "a\ufffdb\ufffdc"

    def test_a_long_text_is_cut_between_characters(self) -> None:
        cut = text_of("€" * 40_000)

        assert len(cut.encode()) <= TEXT_MAX_BYTES
        assert set(cut) == {"€"}


class TestComments:
    def test_a_reply_names_its_parent_and_a_top_comment_none(self) -> None:
        top = {"id": "5_8", "message": "hi", "created_time": AT, "parent": {"id": "5"}}
        reply = {"id": "5_9", "created_time": AT, "parent": {"id": "5_8"}, "from": {"id": PAGE}}
        post = post_of({"id": "5", "comments": {"data": [top, reply]}}, OWN, Refused())

        assert [(row.parent_id, row.is_own) for row in post.comments] == [
            ("", False),
            ("5_8", True),
        ]

    def test_instagrams_replies_come_nested_and_name_the_comment_above(self) -> None:
        more = {"cursors": {"after": "r2"}, "next": "x"}
        reply = {"id": "3", "text": "there", "timestamp": AT, "username": "jo"}
        top = {
            "id": "2",
            "text": "hi",
            "timestamp": AT,
            "hidden": True,
            "replies": {"data": [reply], "paging": more},
        }

        post = post_of({"id": "1", "comments": {"data": [top]}}, OWN, Refused())

        assert [(row.comment_id, row.parent_id) for row in post.comments] == [("2", ""), ("3", "2")]
        assert post.comments[0].is_hidden
        assert post.comments[1].from_name == "jo"
        assert post.replies_after == {"2": "r2"}

    def test_one_bad_comment_never_costs_its_neighbours(self) -> None:
        good = {"id": "2", "timestamp": AT}
        refused = Refused()

        post = post_of({"id": "1", "comments": {"data": [7, {}, good]}}, OWN, refused)

        assert [row.comment_id for row in post.comments] == ["2"]
        assert sum(refused.values()) == 2

    def test_a_comment_without_a_time_is_refused(self) -> None:
        with pytest.raises(Unshown, match="time_missing"):
            comment_of({"id": "2"}, "1", OWN)


def test_a_label_without_a_name_is_refused() -> None:
    assert label_of({"id": 9, "page_label_name": "lead"}).label_id == "9"
    with pytest.raises(Unshown, match="name_missing"):
        label_of({"id": "9"})


@pytest.mark.parametrize("body", [None, [], {}, {"data": {}}, {"data": None}, "x"])
def test_what_is_no_list_is_told_as_such(body: Any) -> None:
    with pytest.raises(Unshown, match="list_malformed"):
        edge_of(body)


@pytest.mark.parametrize("cursors", [None, {}, {"after": 7}, {"after": ""}])
def test_a_list_that_goes_on_without_a_cursor_is_not_taken_for_its_end(cursors: Any) -> None:
    with pytest.raises(Unshown, match="cursor_missing"):
        edge_of({"data": [], "paging": {"next": "x", "cursors": cursors}})


@pytest.mark.parametrize(("length", "taken"), [(CURSOR_MAX, True), (CURSOR_MAX + 1, False)])
def test_a_cursor_is_no_longer_than_a_checkpoint_can_bear(length: int, taken: bool) -> None:
    body = {"data": [], "paging": {"next": "x", "cursors": {"after": "c" * length}}}

    if taken:
        assert edge_of(body).after == "c" * length
    else:
        with pytest.raises(Unshown, match="cursor_missing"):
            edge_of(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "data",
                    "from",
                    "message",
                    "created_time",
                    "attachments",
                    "shares",
                    "story",
                    "participants",
                    "paging",
                    "next",
                    "cursors",
                    "after",
                    "image_data",
                    "url",
                    "replies",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "id",
                "updated_time",
                "participants",
                "messages",
                "snippet",
                "unread_count",
                "comments",
            ]
        ),
        JSON,
    )
)
def test_whatever_graph_shows_it_is_read_or_refused(item: dict[str, Any]) -> None:
    for read in (thread_of, post_of):
        try:
            shown = read(item | {"id": "t_1"}, OWN, Refused())
        except Unshown:
            continue
        for row in getattr(shown, "messages", []) or getattr(shown, "comments", []):
            assert row.SerializeToString()
