from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.store.v1.outbox_service_pb2 import ClaimedReply, Verdict
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import (
    Media,
    MediaType,
    QuickReplies,
    ReplyContent,
    ReplyKind,
    ReplyOrigin,
    Tag,
)
from pagewire_sync.policy import Refused, examine, needs_tag
from tests.support.outbox import reply

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
LATER = NOW + 30 * timedelta(days=1)

PERSON = ReplyOrigin.REPLY_ORIGIN_PERSON
RULE = ReplyOrigin.REPLY_ORIGIN_RULE
EXPIRED = Verdict.VERDICT_EXPIRED
REFUSED = Verdict.VERDICT_REFUSED
INSTAGRAM = Platform.PLATFORM_INSTAGRAM


def message(age: timedelta = SECOND, **fields: Any) -> ClaimedReply:
    """A message to a person who wrote so long ago."""
    times: dict[str, Any] = {"last_inbound_time": NOW - age, "expire_time": LATER}
    return reply(**(times | fields))


def private_reply(age: timedelta, **fields: Any) -> ClaimedReply:
    kind = ReplyKind.REPLY_KIND_PRIVATE_REPLY
    return reply(kind=kind, comment_time=NOW - age, expire_time=LATER, comment_id="1_2", **fields)


def test_a_reply_inside_the_window_may_be_sent() -> None:
    assert examine(message(24 * HOUR - SECOND), NOW) is None


def test_a_rule_s_reply_outside_the_window_expires() -> None:
    assert examine(message(24 * HOUR), NOW) == Refused(EXPIRED, "window_closed")


def test_a_person_s_reply_outside_the_window_is_refused() -> None:
    late = message(24 * HOUR, origin=PERSON)

    assert examine(late, NOW) == Refused(REFUSED, "window_closed")


def test_whoever_never_wrote_cannot_be_written_to() -> None:
    stranger = message()
    stranger.ClearField("last_inbound_time")

    assert examine(stranger, NOW) == Refused(EXPIRED, "window_closed")


@pytest.mark.parametrize(
    ("age", "tagged"),
    [(HOUR, False), (24 * HOUR, True), (7 * 24 * HOUR - SECOND, True)],
)
def test_a_person_may_write_for_seven_days_with_the_tag_which_is_used_only_outside_of_the_window(
    age: timedelta, tagged: bool
) -> None:
    by_hand = message(age, origin=PERSON, message_tag=Tag.TAG_HUMAN_AGENT)

    assert examine(by_hand, NOW) is None
    assert needs_tag(by_hand, NOW) is tagged


def test_after_seven_days_the_tag_helps_no_more() -> None:
    by_hand = message(7 * 24 * HOUR, origin=PERSON, message_tag=Tag.TAG_HUMAN_AGENT)

    assert examine(by_hand, NOW) == Refused(REFUSED, "window_closed")


@given(st.timedeltas(timedelta(), timedelta(days=9)))
def test_an_automatic_reply_never_carries_the_tag_of_a_human(age: timedelta) -> None:
    automatic = message(age, origin=RULE, message_tag=Tag.TAG_HUMAN_AGENT)

    assert not needs_tag(automatic, NOW)
    assert (examine(automatic, NOW) is None) is (age < 24 * HOUR)


def test_what_is_past_its_time_is_not_sent() -> None:
    assert examine(message(expire_time=NOW), NOW) == Refused(EXPIRED, "too_late")
    assert examine(message(expire_time=NOW + SECOND), NOW) is None


def test_a_private_reply_has_seven_days_from_the_comment_and_no_other_window() -> None:
    assert examine(private_reply(7 * 24 * HOUR - SECOND, last_inbound_time=None), NOW) is None
    assert examine(private_reply(7 * 24 * HOUR), NOW) == Refused(EXPIRED, "window_closed")


def test_where_nobody_knows_the_age_of_a_comment_graph_is_asked() -> None:
    undated = private_reply(HOUR)
    undated.ClearField("comment_time")

    assert examine(undated, NOW) is None


@pytest.mark.parametrize(
    "kind", [ReplyKind.REPLY_KIND_ADD_LABEL, ReplyKind.REPLY_KIND_REMOVE_LABEL]
)
def test_labels_are_messenger_s_alone(kind: ReplyKind.ValueType) -> None:
    assert examine(message(kind=kind, text=None), NOW) is None
    assert examine(message(kind=kind, text=None, platform=INSTAGRAM), NOW) == Refused(
        REFUSED, "label_unsupported"
    )


@pytest.mark.parametrize(
    ("platform", "text", "fits"),
    [
        (Platform.PLATFORM_MESSENGER, "x" * 1_999, True),
        (Platform.PLATFORM_MESSENGER, "x" * 2_000, False),
        (Platform.PLATFORM_MESSENGER, "ä" * 1_999, True),
        (INSTAGRAM, "x" * 1_000, True),
        (INSTAGRAM, "x" * 1_001, False),
        (INSTAGRAM, "ä" * 500, True),
        (INSTAGRAM, "ä" * 501, False),
    ],
)
@pytest.mark.parametrize("kind", ["message", "private_reply", "quick_replies"])
def test_texts_of_messages_have_the_platform_s_length(
    kind: str, platform: Platform.ValueType, text: str, fits: bool
) -> None:
    if kind == "private_reply":
        asked = private_reply(HOUR, text=text, platform=platform)
    elif kind == "quick_replies":
        content = ReplyContent(quick_replies=QuickReplies(text=text))
        asked = message(text=None, content=content, platform=platform)
    else:
        asked = message(text=text, platform=platform)

    assert examine(asked, NOW) == (None if fits else Refused(REFUSED, "text_too_long"))


@pytest.mark.parametrize(
    "kind",
    [
        ReplyKind.REPLY_KIND_MESSAGE,
        ReplyKind.REPLY_KIND_PRIVATE_REPLY,
        ReplyKind.REPLY_KIND_COMMENT_REPLY,
    ],
)
def test_an_empty_text_is_not_sent(kind: ReplyKind.ValueType) -> None:
    asked = message(kind=kind, text=" \n", comment_time=NOW - HOUR)

    assert examine(asked, NOW) == Refused(REFUSED, "text_empty")


def test_a_medium_needs_no_text_but_no_comment_can_carry_it() -> None:
    picture = ReplyContent(media=Media(type=MediaType.MEDIA_TYPE_IMAGE, url="https://a.example/b"))
    below = ReplyKind.REPLY_KIND_COMMENT_REPLY

    assert examine(message(text=None, content=picture), NOW) is None
    assert examine(message(kind=below, text=None, content=picture), NOW) == Refused(
        REFUSED, "comment_reply_must_be_text"
    )


def test_a_hiding_says_nothing_and_has_no_window() -> None:
    hiding = message(100 * HOUR, kind=ReplyKind.REPLY_KIND_HIDE_COMMENT, text=None)

    assert examine(hiding, NOW) is None
