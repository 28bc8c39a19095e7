"""Conversations, their messages, and comments: what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from pagewire.store.v1 import conversation_service_pb2 as store_pb
from pagewire.type.v1 import conversation_pb2 as pb
from pagewire.type.v1 import event_pb2 as event_pb
from pagewire_webhook.operator.listing import (
    ArchivedListing,
    ArchivedPageListing,
    Listed,
    next_token,
)
from pagewire_webhook.operator.operation import Operation
from pagewire_webhook.operator.replies import REPLY_STATES, ReplyState
from pagewire_webhook.operator.values import Id, Time, Words, time_of

if TYPE_CHECKING:
    from pagewire.store.v1.conversation_service_pb2_grpc import ConversationServiceAsyncStub

Direction: TypeAlias = Literal["inbound", "outbound"]

DIRECTIONS = Words(pb.Direction)


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """All that one person and a page wrote to each other."""

    id: Id
    page_id: Id
    participant_id: str
    participant_name: str | None
    thread_id: Annotated[str | None, Meta(description="Graph's id of it.")]
    updated_time: Time | None
    snippet: Annotated[str | None, Meta(description="The beginning of the newest message.")]
    unread_count: int
    labels: list[str]
    window_open_until: Annotated[
        Time | None, Meta(description="Until when the page may answer without a tag.")
    ]


class ConversationList(Listed, frozen=True, kw_only=True):
    """Conversations, newest first."""

    conversations: list[Conversation]


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment as Meta described it."""

    type: Annotated[str, Meta(description="Meta's type.")]
    url: str | None
    title: str | None
    payload: Annotated[msgspec.Raw | None, Meta(description="Meta's payload.")]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message, or a reply of ours that is not sent yet."""

    mid: Annotated[str | None, Meta(description="Null for a reply that is not sent yet.")]
    direction: Direction | None
    text: str | None
    attachments: list[Attachment]
    created_time: Time | None
    is_archived: bool
    is_deleted: bool
    recovered: Annotated[bool, Meta(description="Whether gap repair found it.")]
    reply_state: Annotated[
        ReplyState | None, Meta(description="Null for what no reply of ours made.")
    ]


class MessageList(Listed, frozen=True, kw_only=True):
    """Messages, newest first."""

    messages: list[Message]


class Comment(msgspec.Struct, frozen=True, kw_only=True):
    """A comment below a post of a page."""

    comment_id: str
    post_id: str | None
    parent_id: Annotated[str | None, Meta(description="The comment that it answers.")]
    from_id: str | None
    text: str | None
    created_time: Time | None
    is_hidden: bool
    is_deleted: bool
    is_archived: bool
    answered_at: Annotated[
        Time | None, Meta(description="When the page answered, in public or in private.")
    ]


class CommentList(Listed, frozen=True, kw_only=True):
    """Comments, newest first."""

    comments: list[Comment]


class Conversations:
    """The operations, over the store's ConversationService."""

    def __init__(self, store: ConversationServiceAsyncStub) -> None:
        self._store = store

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET",
                "/api/conversations",
                self.list,
                "Lists a page's conversations.",
                {200: ConversationList},
            ),
            Operation(
                "GET",
                "/api/conversations/{conversation_id}/messages",
                self.messages,
                "Lists a conversation's messages, and its replies that are not sent yet.",
                {200: MessageList},
            ),
            Operation(
                "GET",
                "/api/comments",
                self.comments,
                "Lists a page's comments.",
                {200: CommentList},
            ),
        ]

    async def list(self, query: ArchivedPageListing) -> ConversationList:
        response = await self._store.ListConversations(
            store_pb.ListConversationsRequest(
                page_id=query.page_id,
                page_size=query.page_size,
                page_token=query.page_token,
                include_archived=query.archived == "include",
            )
        )
        return ConversationList(
            conversations=[conversation_json(each) for each in response.conversations],
            next_page_token=next_token(response.next_page_token),
        )

    async def messages(self, conversation_id: str, query: ArchivedListing) -> MessageList:
        response = await self._store.ListMessages(
            store_pb.ListMessagesRequest(
                conversation_id=conversation_id,
                page_size=query.page_size,
                page_token=query.page_token,
                include_archived=query.archived == "include",
            )
        )
        return MessageList(
            messages=[message_json(message) for message in response.messages],
            next_page_token=next_token(response.next_page_token),
        )

    async def comments(self, query: ArchivedPageListing) -> CommentList:
        response = await self._store.ListComments(
            store_pb.ListCommentsRequest(
                page_id=query.page_id,
                page_size=query.page_size,
                page_token=query.page_token,
                include_archived=query.archived == "include",
            )
        )
        return CommentList(
            comments=[comment_json(comment) for comment in response.comments],
            next_page_token=next_token(response.next_page_token),
        )


def conversation_json(conversation: pb.Conversation) -> Conversation:
    """A conversation as the API shows it."""
    return Conversation(
        id=conversation.conversation_id,
        page_id=conversation.page_id,
        participant_id=conversation.participant_id,
        participant_name=conversation.participant_name or None,
        thread_id=conversation.thread_id or None,
        updated_time=time_of(conversation, "update_time"),
        snippet=conversation.snippet or None,
        unread_count=conversation.unread_count,
        labels=list(conversation.labels),
        window_open_until=time_of(conversation, "window_open_until"),
    )


def message_json(message: pb.Message) -> Message:
    """A message as the API shows it."""
    return Message(
        mid=message.mid or None,
        direction=DIRECTIONS.word(message.direction),
        text=message.text or None,
        attachments=[attachment_json(each) for each in message.attachments],
        created_time=time_of(message, "create_time"),
        is_archived=message.is_archived,
        is_deleted=message.is_deleted,
        recovered=message.recovered,
        reply_state=REPLY_STATES.word(message.reply_state),
    )


def attachment_json(attachment: event_pb.Attachment) -> Attachment:
    """An attachment as the API shows it; its payload is canonical JSON and goes in as it is."""
    payload = attachment.payload.encode()
    return Attachment(
        type=attachment.type,
        url=attachment.url or None,
        title=attachment.title or None,
        payload=msgspec.Raw(payload) if payload else None,
    )


def comment_json(comment: pb.Comment) -> Comment:
    """A comment as the API shows it."""
    return Comment(
        comment_id=comment.comment_id,
        post_id=comment.post_id or None,
        parent_id=comment.parent_id or None,
        from_id=comment.from_id or None,
        text=comment.text or None,
        created_time=time_of(comment, "create_time"),
        is_hidden=comment.is_hidden,
        is_deleted=comment.is_deleted,
        is_archived=comment.is_archived,
        answered_at=time_of(comment, "answer_time"),
    )
