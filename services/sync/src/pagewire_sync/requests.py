"""Requests: what each kind of reply asks of Graph.

Sources: Meta's Send API page, private replies, comments of the Graph API and of Instagram.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pagewire.store.v1.outbox_service_pb2 import ClaimedReply
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import MediaType, ReplyContent, ReplyKind
from pagewire_sync.budget import Product
from pagewire_sync.policy import MESSAGES, needs_tag

_MEDIA = {
    MediaType.MEDIA_TYPE_IMAGE: "image",
    MediaType.MEDIA_TYPE_VIDEO: "video",
    MediaType.MEDIA_TYPE_AUDIO: "audio",
    MediaType.MEDIA_TYPE_FILE: "file",
}
_HEAVY = (MediaType.MEDIA_TYPE_VIDEO, MediaType.MEDIA_TYPE_AUDIO)


@dataclass(frozen=True, slots=True)
class GraphRequest:
    """A POST: its node, the edge of it (empty: the node itself) and its JSON body."""

    node: str
    edge: str
    body: Mapping[str, Any]
    operation: str


def request_for(reply: ClaimedReply, now: datetime) -> GraphRequest:
    """What a message, a comment reply or a hiding asks; `labels` does labels."""
    if reply.kind in MESSAGES:
        return _message(reply, now)
    if reply.kind == ReplyKind.REPLY_KIND_COMMENT_REPLY:
        edge = "replies" if _on_instagram(reply) else "comments"
        body = {"message": reply.content.text}
        return GraphRequest(reply.comment_id, edge, body, "comment_reply")
    name = "hide" if _on_instagram(reply) else "is_hidden"
    return GraphRequest(reply.comment_id, "", {name: reply.hidden}, "hide_comment")


def product_of(reply: ClaimedReply) -> Product:
    """Which limit the reply counts against."""
    if reply.kind == ReplyKind.REPLY_KIND_PRIVATE_REPLY:
        return Product.PRIVATE_REPLY
    if reply.kind != ReplyKind.REPLY_KIND_MESSAGE:
        return Product.PAGE
    if reply.content.media.type in _HEAVY:
        return Product.SEND_MEDIA
    return Product.SEND_INSTAGRAM if _on_instagram(reply) else Product.SEND


def _message(reply: ClaimedReply, now: datetime) -> GraphRequest:
    private = reply.kind == ReplyKind.REPLY_KIND_PRIVATE_REPLY
    body: dict[str, Any] = {
        "recipient": {"comment_id": reply.comment_id} if private else {"id": reply.person_id},
        "message": {**_content(reply.content), "metadata": reply.tag},
        "messaging_type": "RESPONSE",
    }
    if not private and needs_tag(reply, now):
        body |= {"messaging_type": "MESSAGE_TAG", "tag": "HUMAN_AGENT"}
    return GraphRequest(reply.node_id, "messages", body, "private_reply" if private else "send")


def _content(content: ReplyContent) -> dict[str, Any]:
    match content.WhichOneof("content"):
        case "media":
            payload = {"url": content.media.url, "is_reusable": False}
            return {"attachment": {"type": _MEDIA[content.media.type], "payload": payload}}
        case "quick_replies":
            buttons = [
                {"content_type": "text", "title": button.title, "payload": button.payload}
                for button in content.quick_replies.quick_replies
            ]
            return {"text": content.quick_replies.text, "quick_replies": buttons}
        case _:
            return {"text": content.text}


def _on_instagram(reply: ClaimedReply) -> bool:
    return reply.platform == Platform.PLATFORM_INSTAGRAM
