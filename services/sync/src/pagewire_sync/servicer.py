"""The sync service on the wire."""

import hashlib
from typing import TYPE_CHECKING, Any

import grpc

from pagewire.store.v1.outbox_service_pb2 import EnqueueReplyRequest, GetLastHidingRequest
from pagewire.store.v1.outbox_service_pb2 import GetReplyRequest as StoreGetReplyRequest
from pagewire.sync.v1 import delivery_service_pb2 as pb
from pagewire.sync.v1.delivery_service_pb2_grpc import DeliveryServiceServicer
from pagewire.type.v1.reply_pb2 import (
    MediaType,
    QuickReply,
    Reply,
    ReplyContent,
    ReplyKind,
    ReplyState,
    Tag,
)
from pagewire_runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from pagewire.store.v1.outbox_service_pb2_grpc import OutboxServiceAsyncStub

Context = grpc.aio.ServicerContext[Any, Any]

CLIENT_KEY_LENGTH = 200
TEXT_LENGTH = 8_000
"""Longer than any platform takes; the platform's own limit is checked before the send."""
QUICK_REPLIES = 13
QUICK_REPLY_TITLE = 20
QUICK_REPLY_PAYLOAD = 1_000

UNDER_WAY = frozenset(
    {
        ReplyState.REPLY_STATE_READY,
        ReplyState.REPLY_STATE_SENDING,
        ReplyState.REPLY_STATE_UNCERTAIN,
    }
)


class DeliveryServicer(DeliveryServiceServicer):
    """Checks what callers want said and puts it into the outbox; the sender does the rest."""

    def __init__(self, outbox: "OutboxServiceAsyncStub") -> None:
        self._outbox = outbox

    async def SendMessage(
        self, request: pb.SendMessageRequest, context: Context
    ) -> pb.SendMessageResponse:
        _check_id("conversation_id", request.conversation_id)
        _check_key(request.client_key)
        _check_content("content", request.content)
        if request.tag not in Tag.values():
            raise InvalidArgument("tag", "must be HUMAN_AGENT or left out")
        enqueued = await self._outbox.EnqueueReply(
            EnqueueReplyRequest(
                kind=ReplyKind.REPLY_KIND_MESSAGE,
                conversation_id=request.conversation_id,
                content=request.content,
                client_key=request.client_key,
                tag=request.tag,
            )
        )
        return pb.SendMessageResponse(reply=enqueued.reply)

    async def ReplyToComment(
        self, request: pb.ReplyToCommentRequest, context: Context
    ) -> pb.ReplyToCommentResponse:
        _check_id("comment_id", request.comment_id)
        _check_key(request.client_key)
        _check_text("text", request.text)
        enqueued = await self._outbox.EnqueueReply(
            EnqueueReplyRequest(
                kind=ReplyKind.REPLY_KIND_COMMENT_REPLY,
                comment_id=request.comment_id,
                content=ReplyContent(text=request.text),
                client_key=request.client_key,
            )
        )
        return pb.ReplyToCommentResponse(reply=enqueued.reply)

    async def HideComment(
        self, request: pb.HideCommentRequest, context: Context
    ) -> pb.HideCommentResponse:
        _check_id("comment_id", request.comment_id)
        if request.client_key:
            _check_key(request.client_key)
            return pb.HideCommentResponse(reply=await self._hide(request, request.client_key))
        # Repeated while it is under way it is the same; afterwards, or after the opposite, it may
        # mean to hide again what was shown in between: Graph is asked anew, and changes nothing
        # if it did not. Two who ask so at once name the same one before it, and so share a key.
        last = await self._outbox.GetLastHiding(GetLastHidingRequest(comment_id=request.comment_id))
        if last.reply.state in UNDER_WAY and last.hidden == request.hidden:
            return pb.HideCommentResponse(reply=last.reply)
        return pb.HideCommentResponse(
            reply=await self._hide(request, hide_key(request, after=last.reply.reply_id))
        )

    async def _hide(self, request: pb.HideCommentRequest, client_key: str) -> Reply:
        enqueued = await self._outbox.EnqueueReply(
            EnqueueReplyRequest(
                kind=ReplyKind.REPLY_KIND_HIDE_COMMENT,
                comment_id=request.comment_id,
                hidden=request.hidden,
                client_key=client_key,
            )
        )
        return enqueued.reply

    async def GetReply(self, request: pb.GetReplyRequest, context: Context) -> pb.GetReplyResponse:
        _check_id("reply_id", request.reply_id)
        found = await self._outbox.GetReply(StoreGetReplyRequest(reply_id=request.reply_id))
        return pb.GetReplyResponse(reply=found.reply)


def hide_key(request: pb.HideCommentRequest, *, after: str) -> str:
    """The key of a hiding that has none of its caller's; `after` is the last one's id, if any."""
    what = f"{request.comment_id}\0{request.hidden}\0{after}"
    return f"hide-{hashlib.sha256(what.encode()).hexdigest()[:32]}"


def _check_id(field: str, value: str) -> None:
    if not 1 <= len(value) <= 1_000:
        raise InvalidArgument(field, "must be given")


def _check_key(value: str) -> None:
    if not 1 <= len(value) <= CLIENT_KEY_LENGTH or not value.isprintable():
        raise InvalidArgument(
            "client_key",
            f"must have 1 to {CLIENT_KEY_LENGTH} printable characters, the same on each try",
        )


def _check_text(field: str, text: str) -> None:
    if not text.strip() or len(text) > TEXT_LENGTH:
        raise InvalidArgument(field, f"must have 1 to {TEXT_LENGTH} characters")


def _check_button(field: str, button: QuickReply) -> None:
    if not button.title.strip() or len(button.title) > QUICK_REPLY_TITLE:
        raise InvalidArgument(f"{field}.title", f"must have 1 to {QUICK_REPLY_TITLE} characters")
    if not button.payload or len(button.payload) > QUICK_REPLY_PAYLOAD:
        raise InvalidArgument(
            f"{field}.payload", f"must have 1 to {QUICK_REPLY_PAYLOAD} characters"
        )


def _check_content(field: str, content: ReplyContent) -> None:
    match content.WhichOneof("content"):
        case "text":
            _check_text(f"{field}.text", content.text)
        case "quick_replies":
            _check_text(f"{field}.quick_replies.text", content.quick_replies.text)
            buttons = content.quick_replies.quick_replies
            if not 1 <= len(buttons) <= QUICK_REPLIES:
                raise InvalidArgument(f"{field}.quick_replies", f"must hold 1 to {QUICK_REPLIES}")
            for button in buttons:
                _check_button(f"{field}.quick_replies.quick_replies", button)
        case "media":
            if not content.media.type or content.media.type not in MediaType.values():
                raise InvalidArgument(f"{field}.media.type", "must be image, video, audio or file")
            if not content.media.url.startswith("https://") or len(content.media.url) > 2_000:
                raise InvalidArgument(f"{field}.media.url", "must be an https address")
        case _:
            raise InvalidArgument(field, "must hold a text, media or quick_replies")
