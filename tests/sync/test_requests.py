from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import (
    Media,
    MediaType,
    QuickReplies,
    QuickReply,
    ReplyContent,
    ReplyKind,
    ReplyOrigin,
    Tag,
)
from pagewire_sync.budget import Product
from pagewire_sync.requests import GraphRequest, product_of, request_for
from tests.support.outbox import PAGE, reply

NOW = datetime.now(UTC)
MESSENGER, INSTAGRAM = Platform.PLATFORM_MESSENGER, Platform.PLATFORM_INSTAGRAM


def medium(type_: MediaType.ValueType) -> ReplyContent:
    return ReplyContent(media=Media(type=type_, url="https://files.example/1"))


def test_a_message_goes_to_the_person_with_its_tag_as_metadata() -> None:
    request = request_for(reply(text="hi", tag="pw1.abc"), NOW)

    assert request == GraphRequest(
        node=PAGE,
        edge="messages",
        body={
            "recipient": {"id": "7000000000000001"},
            "message": {"text": "hi", "metadata": "pw1.abc"},
            "messaging_type": "RESPONSE",
        },
        operation="send",
    )


def test_a_person_s_late_message_carries_the_human_agent_tag() -> None:
    late = reply(
        origin=ReplyOrigin.REPLY_ORIGIN_PERSON,
        message_tag=Tag.TAG_HUMAN_AGENT,
        last_inbound_time=NOW - timedelta(days=2),
    )

    body = request_for(late, NOW).body

    assert (body["messaging_type"], body["tag"]) == ("MESSAGE_TAG", "HUMAN_AGENT")


def test_an_instagram_account_of_facebook_login_speaks_by_the_node_of_its_page() -> None:
    request = request_for(reply(platform=INSTAGRAM, page_id="178414", node_id="1042"), NOW)

    assert (request.node, request.edge) == ("1042", "messages")


def test_a_private_reply_names_the_comment_and_never_a_tag() -> None:
    private = reply(
        kind=ReplyKind.REPLY_KIND_PRIVATE_REPLY,
        comment_id="1_2",
        origin=ReplyOrigin.REPLY_ORIGIN_PERSON,
        message_tag=Tag.TAG_HUMAN_AGENT,
        last_inbound_time=NOW - timedelta(days=2),
    )

    request = request_for(private, NOW)

    assert (request.node, request.operation) == (PAGE, "private_reply")
    assert request.body["recipient"] == {"comment_id": "1_2"}
    assert request.body["messaging_type"] == "RESPONSE"


@pytest.mark.parametrize(
    ("platform", "edge", "field"),
    [(MESSENGER, "comments", "is_hidden"), (INSTAGRAM, "replies", "hide")],
)
@pytest.mark.parametrize("hidden", [True, False])
def test_comments_are_answered_and_hidden_as_their_platform_knows_it(
    platform: Platform.ValueType, edge: str, field: str, hidden: bool
) -> None:
    answer = reply(
        kind=ReplyKind.REPLY_KIND_COMMENT_REPLY, comment_id="1_2", platform=platform, text="ok"
    )
    hiding = reply(
        kind=ReplyKind.REPLY_KIND_HIDE_COMMENT,
        comment_id="1_2",
        platform=platform,
        text=None,
        hidden=hidden,
    )

    assert request_for(answer, NOW) == GraphRequest("1_2", edge, {"message": "ok"}, "comment_reply")
    assert request_for(hiding, NOW) == GraphRequest("1_2", "", {field: hidden}, "hide_comment")


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        (MediaType.MEDIA_TYPE_IMAGE, "image"),
        (MediaType.MEDIA_TYPE_VIDEO, "video"),
        (MediaType.MEDIA_TYPE_AUDIO, "audio"),
        (MediaType.MEDIA_TYPE_FILE, "file"),
    ],
)
def test_a_medium_goes_by_its_address(type_: MediaType.ValueType, name: str) -> None:
    message = request_for(reply(text=None, content=medium(type_)), NOW).body["message"]

    payload = {"url": "https://files.example/1", "is_reusable": False}
    assert message["attachment"] == {"type": name, "payload": payload}
    assert "text" not in message


def test_quick_replies_stand_below_their_text() -> None:
    buttons = QuickReplies(text="Which?", quick_replies=[QuickReply(title="Red", payload="r")])

    message = request_for(reply(text=None, content=ReplyContent(quick_replies=buttons)), NOW).body[
        "message"
    ]

    assert message["text"] == "Which?"
    assert message["quick_replies"] == [{"content_type": "text", "title": "Red", "payload": "r"}]


@pytest.mark.parametrize(
    ("fields", "product"),
    [
        ({}, Product.SEND),
        ({"platform": INSTAGRAM}, Product.SEND_INSTAGRAM),
        ({"text": None, "content": medium(MediaType.MEDIA_TYPE_AUDIO)}, Product.SEND_MEDIA),
        ({"text": None, "content": medium(MediaType.MEDIA_TYPE_VIDEO)}, Product.SEND_MEDIA),
        ({"text": None, "content": medium(MediaType.MEDIA_TYPE_IMAGE)}, Product.SEND),
        ({"kind": ReplyKind.REPLY_KIND_PRIVATE_REPLY}, Product.PRIVATE_REPLY),
        ({"kind": ReplyKind.REPLY_KIND_COMMENT_REPLY}, Product.PAGE),
        ({"kind": ReplyKind.REPLY_KIND_HIDE_COMMENT}, Product.PAGE),
        ({"kind": ReplyKind.REPLY_KIND_ADD_LABEL}, Product.PAGE),
    ],
)
def test_each_reply_counts_against_its_own_limit(fields: dict[str, Any], product: Product) -> None:
    assert product_of(reply(**fields)) is product
