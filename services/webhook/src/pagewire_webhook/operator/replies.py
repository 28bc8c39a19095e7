"""Replies by hand: write to a person, answer and hide a comment, and see what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from pagewire.sync.v1 import delivery_service_pb2 as sync_pb
from pagewire.type.v1 import reply_pb2 as pb
from pagewire_webhook.operator.contents import Content, content_json
from pagewire_webhook.operator.operation import Operation
from pagewire_webhook.operator.reading import naming_fields_of
from pagewire_webhook.operator.values import ClientKey, Id, Time, Words, time_of

if TYPE_CHECKING:
    from pagewire.sync.v1.delivery_service_pb2_grpc import DeliveryServiceAsyncStub

ReplyState: TypeAlias = Literal[
    "ready", "sending", "uncertain", "sent", "failed", "expired", "parked"
]
ReplyKind: TypeAlias = Literal[
    "message", "private_reply", "comment_reply", "hide_comment", "add_label", "remove_label"
]
Origin: TypeAlias = Literal["rule", "person"]

REPLY_STATES = Words(pb.ReplyState)
REPLY_KINDS = Words(pb.ReplyKind)
ORIGINS = Words(pb.ReplyOrigin)


class NewReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to be sent in a conversation."""

    conversation_id: Id
    text: Annotated[str, Meta(min_length=1)]
    client_key: ClientKey
    tag: Annotated[
        Literal["HUMAN_AGENT"] | None,
        Meta(description="Written by a person: allows it up to 7 days after their message."),
    ] = None


class NewCommentReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer below a comment."""

    text: Annotated[str, Meta(min_length=1)]
    client_key: ClientKey


class NewHiding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comment is to be hidden, or shown again."""

    hidden: bool = True
    client_key: ClientKey | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A reply that waits for its turn, or what became of it where its key was known."""

    reply_id: Id
    state: ReplyState | None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply and what became of it."""

    reply_id: Id
    page_id: Id
    kind: ReplyKind | None
    state: ReplyState | None
    reason: Annotated[str | None, Meta(description="Why it stands there: a stable word.")]
    conversation_id: Id | None
    comment_id: str | None
    content: Content | None
    mid: Annotated[str | None, Meta(description="Meta's id of what came of it.")]
    origin: Origin | None
    client_key: str | None
    created_at: Time | None
    sending_at: Annotated[Time | None, Meta(description="When Graph was first asked.")]
    sent_at: Annotated[Time | None, Meta(description="When Graph's acceptance was learnt.")]


class Replies:
    """The operations, over sync's DeliveryService."""

    def __init__(self, sync: DeliveryServiceAsyncStub) -> None:
        self._sync = sync

    def operations(self) -> list[Operation]:
        accepted = {202: Accepted}
        return [
            Operation(
                "POST",
                "/api/replies",
                self.send,
                "Writes to a person; pauses automation there.",
                accepted,
            ),
            Operation("GET", "/api/replies/{reply_id}", self.get, "Shows a reply.", {200: Reply}),
            Operation(
                "POST",
                "/api/comments/{comment_id}/reply",
                self.reply_to_comment,
                "Answers below a comment.",
                accepted,
            ),
            Operation(
                "POST",
                "/api/comments/{comment_id}/hide",
                self.hide_comment,
                "Hides a comment or shows it again.",
                accepted,
            ),
        ]

    async def send(self, body: NewReply) -> Accepted:
        request = sync_pb.SendMessageRequest(
            conversation_id=body.conversation_id,
            content=pb.ReplyContent(text=body.text),
            client_key=body.client_key,
            tag=pb.TAG_HUMAN_AGENT if body.tag else pb.TAG_UNSPECIFIED,
        )
        with naming_fields_of("content"):
            return _accepted((await self._sync.SendMessage(request)).reply)

    async def get(self, reply_id: str) -> Reply:
        request = sync_pb.GetReplyRequest(reply_id=reply_id)
        return reply_json((await self._sync.GetReply(request)).reply)

    async def reply_to_comment(self, comment_id: str, body: NewCommentReply) -> Accepted:
        request = sync_pb.ReplyToCommentRequest(
            comment_id=comment_id, text=body.text, client_key=body.client_key
        )
        return _accepted((await self._sync.ReplyToComment(request)).reply)

    async def hide_comment(self, comment_id: str, body: NewHiding) -> Accepted:
        request = sync_pb.HideCommentRequest(
            comment_id=comment_id, hidden=body.hidden, client_key=body.client_key or ""
        )
        return _accepted((await self._sync.HideComment(request)).reply)


def _accepted(reply: pb.Reply) -> Accepted:
    return Accepted(reply_id=reply.reply_id, state=REPLY_STATES.word(reply.state))


def reply_json(reply: pb.Reply) -> Reply:
    """A reply as the API shows it."""
    return Reply(
        reply_id=reply.reply_id,
        page_id=reply.page_id,
        kind=REPLY_KINDS.word(reply.kind),
        state=REPLY_STATES.word(reply.state),
        reason=reply.state_reason or None,
        conversation_id=reply.conversation_id or None,
        comment_id=reply.comment_id or None,
        content=content_json(reply.content) if reply.HasField("content") else None,
        mid=reply.mid or None,
        origin=ORIGINS.word(reply.origin),
        client_key=reply.client_key or None,
        created_at=time_of(reply, "create_time"),
        sending_at=time_of(reply, "sending_time"),
        sent_at=time_of(reply, "sent_time"),
    )
