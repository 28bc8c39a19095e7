"""What a reply says: a text, a medium by its address, or a text with quick replies."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pagewire.type.v1 import reply_pb2 as pb
from pagewire_runtime.errors import InvalidArgument
from pagewire_webhook.operator.values import Words

MediaType: TypeAlias = Literal["image", "video", "audio", "file"]

MEDIA_TYPES = Words(pb.MediaType)


class Media(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A medium that Meta fetches."""

    type: MediaType
    url: Annotated[str, Meta(description="https only.")]


class QuickReply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A button below a text."""

    title: str
    payload: str


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`text`, or `text` and `quick_replies`, or `media`."""

    text: str | UnsetType = UNSET
    media: Media | UnsetType = UNSET
    quick_replies: list[QuickReply] | UnsetType = UNSET


def content_proto(content: Content, field: str) -> pb.ReplyContent:
    """The content on the wire; raises InvalidArgument, which names `field`."""
    has_text, has_media = content.text is not UNSET, content.media is not UNSET
    if has_text is has_media or (has_media and content.quick_replies is not UNSET):
        raise InvalidArgument(field, "must hold text, text and quick_replies, or media")
    if content.media is not UNSET:
        kind = MEDIA_TYPES.value(content.media.type)
        return pb.ReplyContent(media=pb.Media(type=kind, url=content.media.url))
    text = content.text or ""
    if content.quick_replies is UNSET:
        return pb.ReplyContent(text=text)
    buttons = [
        pb.QuickReply(title=each.title, payload=each.payload) for each in content.quick_replies
    ]
    return pb.ReplyContent(quick_replies=pb.QuickReplies(text=text, quick_replies=buttons))


def content_json(content: pb.ReplyContent) -> Content:
    """The content as the API shows it."""
    match content.WhichOneof("content"):
        case "text":
            return Content(text=content.text)
        case "media":
            kind = MEDIA_TYPES.word(content.media.type)
            return Content(media=Media(type=kind, url=content.media.url))
        case "quick_replies":
            quick = content.quick_replies
            buttons = [QuickReply(each.title, each.payload) for each in quick.quick_replies]
            return Content(text=quick.text, quick_replies=buttons)
        case _:
            return Content()
