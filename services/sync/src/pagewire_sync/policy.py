"""Policy: what the platforms forbid, decided before the call, with a reason.

Sources: Meta's Send API page and Instagram's messaging page (24-hour window, HUMAN_AGENT up to 7
days, texts under 2,000 characters on Messenger and of at most 1,000 bytes on Instagram), private
replies (7 days), custom labels (Messenger only). Of a comment's length Meta publishes nothing.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pagewire.store.v1.outbox_service_pb2 import ClaimedReply, Verdict
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import ReplyContent, ReplyKind, ReplyOrigin, Tag

WINDOW = timedelta(hours=24)
HUMAN_AGENT_WINDOW = timedelta(days=7)
PRIVATE_REPLY_WINDOW = timedelta(days=7)
MESSENGER_CHARACTERS = 1_999
INSTAGRAM_BYTES = 1_000

LABELS = (ReplyKind.REPLY_KIND_ADD_LABEL, ReplyKind.REPLY_KIND_REMOVE_LABEL)
MESSAGES = (ReplyKind.REPLY_KIND_MESSAGE, ReplyKind.REPLY_KIND_PRIVATE_REPLY)


@dataclass(frozen=True, slots=True)
class Refused:
    """A reply that must not be sent."""

    verdict: Verdict.ValueType
    reason: str


def examine(reply: ClaimedReply, now: datetime) -> Refused | None:
    """The first rule of the platform that forbids this reply; None where it may be sent."""
    if reply.HasField("expire_time") and now >= reply.expire_time.ToDatetime(UTC):
        return Refused(Verdict.VERDICT_EXPIRED, "too_late")
    if reply.kind == ReplyKind.REPLY_KIND_MESSAGE and not _in_window(reply, now):
        return _closed(reply)
    if reply.kind == ReplyKind.REPLY_KIND_PRIVATE_REPLY and not _comment_is_fresh(reply, now):
        return _closed(reply)
    if reply.kind in LABELS and reply.platform != Platform.PLATFORM_MESSENGER:
        return Refused(Verdict.VERDICT_REFUSED, "label_unsupported")
    if wrong := _content_wrong(reply):
        return Refused(Verdict.VERDICT_REFUSED, wrong)
    return None


def needs_tag(reply: ClaimedReply, now: datetime) -> bool:
    """Whether a person's message goes out by the HUMAN_AGENT tag; an automatic reply never does."""
    return _allowed_tag(reply) and not _within(reply, WINDOW, now)


def text_of(content: ReplyContent) -> str:
    """The text of a content; empty for a medium."""
    if content.WhichOneof("content") == "quick_replies":
        return content.quick_replies.text
    return content.text


def _in_window(reply: ClaimedReply, now: datetime) -> bool:
    return _within(reply, WINDOW, now) or (
        _allowed_tag(reply) and _within(reply, HUMAN_AGENT_WINDOW, now)
    )


def _allowed_tag(reply: ClaimedReply) -> bool:
    by_person = reply.origin == ReplyOrigin.REPLY_ORIGIN_PERSON
    return by_person and reply.message_tag == Tag.TAG_HUMAN_AGENT


def _within(reply: ClaimedReply, window: timedelta, now: datetime) -> bool:
    if not reply.HasField("last_inbound_time"):
        return False
    return now < reply.last_inbound_time.ToDatetime(UTC) + window


def _comment_is_fresh(reply: ClaimedReply, now: datetime) -> bool:
    """Where nobody knows when the comment was written, Graph does."""
    if not reply.HasField("comment_time"):
        return True
    return now < reply.comment_time.ToDatetime(UTC) + PRIVATE_REPLY_WINDOW


def _closed(reply: ClaimedReply) -> Refused:
    """A rule's reply came in time and waited too long; a person's was refused."""
    by_rule = reply.origin == ReplyOrigin.REPLY_ORIGIN_RULE
    verdict = Verdict.VERDICT_EXPIRED if by_rule else Verdict.VERDICT_REFUSED
    return Refused(verdict, "window_closed")


def _content_wrong(reply: ClaimedReply) -> str:
    said, text = reply.content.WhichOneof("content"), text_of(reply.content)
    if reply.kind == ReplyKind.REPLY_KIND_COMMENT_REPLY:
        if said != "text":
            return "comment_reply_must_be_text"
        return "" if text.strip() else "text_empty"
    if reply.kind not in MESSAGES or said == "media":
        return ""
    if not text.strip():
        return "text_empty"
    return "text_too_long" if _too_long(text, reply.platform) else ""


def _too_long(text: str, platform: Platform.ValueType) -> bool:
    if platform == Platform.PLATFORM_INSTAGRAM:
        return len(text.encode()) > INSTAGRAM_BYTES
    return len(text) > MESSENGER_CHARACTERS
