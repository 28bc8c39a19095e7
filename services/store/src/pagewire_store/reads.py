"""Reading conversations, messages and comments, newest first; what is disconnected stays readable.

Lists go on behind a position, and begin behind one that is newer than any row: so first and later
parts are the same statement, and the same range of the same index.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.type.v1.conversation_pb2 import (
    DIRECTION_OUTBOUND,
    Comment,
    Conversation,
    Direction,
    Message,
)
from pagewire.type.v1.event_pb2 import Attachment, MessageDetail
from pagewire.type.v1.reply_pb2 import (
    MediaType,
    ReplyContent,
)
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import ids
from pagewire_store.page_tokens import Position
from pagewire_store.replies import state_of

BEGINNING: Position = ("infinity", "")
"""Behind it comes the newest row."""


class ConversationUnknown(Refusal):
    """No conversation has this id."""

    kind = Kind.MISSING
    reason = "CONVERSATION_UNKNOWN"

    def __init__(self, conversation_id: str) -> None:
        super().__init__("there is no such conversation", conversation_id=conversation_id[:2048])


_CONVERSATION = """
    select
        page_id, participant_id, participant_name, thread_id, updated_at, snippet, unread_count,
        case when last_inbound_at > now() - interval '24 hours'
            then last_inbound_at + interval '24 hours' end as window_open_until,
        case when automation_paused_until > now()
            then automation_paused_until end as automation_paused_until,
        array(
            select name from person_label
            where person_label.page_id = conversation.page_id
                and person_label.person_id = conversation.participant_id
            order by name
        ) as labels
    from conversation
"""

# A scalar subquery, since it is asked row by row until the list is full; of an `exists` beside an
# `or` the planner may make a hash of every unarchived message first.
_LIST_CONVERSATIONS = text(f"""
    {_CONVERSATION}
    where page_id = :page_id
        and updated_at <= cast(:updated_at as timestamptz)
        and (updated_at < cast(:updated_at as timestamptz) or participant_id > :participant_id)
        and (:include_archived or (
            select true from message
            where message.page_id = conversation.page_id
                and message.participant_id = conversation.participant_id
                and not message.is_archived
            limit 1))
    order by updated_at desc, participant_id
    limit :at_most
""")  # noqa: S608  # all of it is constant

_GET_CONVERSATION = text(f"""
    {_CONVERSATION}
    where page_id = :page_id and participant_id = :participant_id
""")


async def list_conversations(
    connection: AsyncConnection,
    page_id: str,
    after: Position | None,
    at_most: int,
    *,
    include_archived: bool,
) -> list[Conversation]:
    """A page's conversations behind the position of `position_of_conversation`.

    Without archived ones, those with an unarchived message.
    """
    updated_at, participant_id = after or BEGINNING
    values = {
        "page_id": page_id,
        "updated_at": updated_at,
        "participant_id": participant_id,
        "include_archived": include_archived,
        "at_most": at_most,
    }
    return [_conversation(row) for row in await connection.execute(_LIST_CONVERSATIONS, values)]


async def get_conversation(connection: AsyncConnection, conversation_id: str) -> Conversation:
    """The conversation of this id. Raises ConversationUnknown."""
    named = ids.parse_conversation_id(conversation_id)
    if named is None:
        raise ConversationUnknown(conversation_id)
    values = {"page_id": named[0], "participant_id": named[1]}
    row = (await connection.execute(_GET_CONVERSATION, values)).one_or_none()
    if row is None:
        raise ConversationUnknown(conversation_id)
    return _conversation(row)


def position_of_conversation(conversation: Conversation) -> Position:
    """Where a list goes on behind this conversation."""
    return (conversation.update_time.ToJsonString(), conversation.participant_id)


def _conversation(row: Row[Any]) -> Conversation:
    return Conversation(
        conversation_id=ids.conversation_id(row.page_id, row.participant_id),
        page_id=row.page_id,
        participant_id=row.participant_id,
        participant_name=row.participant_name,
        thread_id=row.thread_id,
        update_time=row.updated_at,
        snippet=row.snippet,
        unread_count=row.unread_count,
        labels=row.labels,
        window_open_until=row.window_open_until,
        automation_paused_until=row.automation_paused_until,
    )


# Messages, and the replies that are none yet, in one order: by time, then by mid. A reply without
# a mid takes its number for one, behind a character that no mid holds.
_LIST_MESSAGES = """
    select * from (
        (select
            message.page_id, message.mid as key, message.mid, direction, text, attachments,
            message.created_at, is_archived, is_deleted, recovered, message.reply_id,
            outbox.state, null::bytea as content
        from message
            left join outbox using (page_id, reply_id)
        where message.page_id = :page_id and participant_id = :participant_id {unarchived}
            and message.created_at <= cast(:created_at as timestamptz)
            and (message.created_at < cast(:created_at as timestamptz) or message.mid > :key)
        order by message.created_at desc, message.mid
        limit :at_most)
        union all
        (select
            page_id, key, mid, 'outbound', null, null,
            created_at, false, false, false, reply_id,
            state, content
        from outbox
            cross join lateral (
                select coalesce(mid, '~r' || lpad(reply_id::text, 19, '0')) collate "C" as key
            ) as keyed
        where page_id = :page_id and person_id = :participant_id
            and kind in ('message', 'private_reply')
            and created_at <= cast(:created_at as timestamptz)
            and (created_at < cast(:created_at as timestamptz) or key > :key)
            and (mid is null or not exists (
                select from message
                where message.page_id = outbox.page_id and message.mid = outbox.mid))
        order by created_at desc, key
        limit :at_most)
    ) as written
    order by created_at desc, key
    limit :at_most
"""

_LIST_ALL_MESSAGES = text(_LIST_MESSAGES.format(unarchived=""))
_LIST_UNARCHIVED_MESSAGES = text(_LIST_MESSAGES.format(unarchived="and not is_archived"))


async def list_messages(
    connection: AsyncConnection,
    conversation: Conversation,
    after: Position | None,
    at_most: int,
    *,
    include_archived: bool,
) -> list[Message]:
    """A conversation's messages and replies of ours, behind the position of `position_of_message`.

    A reply stands for itself, without a mid, until its message is stored.
    """
    created_at, key = after or BEGINNING
    values = {
        "page_id": conversation.page_id,
        "participant_id": conversation.participant_id,
        "created_at": created_at,
        "key": key,
        "at_most": at_most,
    }
    statement = _LIST_ALL_MESSAGES if include_archived else _LIST_UNARCHIVED_MESSAGES
    return [_message(row) for row in await connection.execute(statement, values)]


def position_of_message(message: Message) -> Position:
    """Where a list goes on behind this message."""
    key = message.mid
    if not key:
        named = ids.parse_reply_id(message.reply_id)
        assert named is not None  # noqa: S101  # what has no mid is a reply of ours
        key = f"~r{named[1]:019}"
    return (message.create_time.ToJsonString(), key)


def _message(row: Row[Any]) -> Message:
    message = Message(
        mid=row.mid,
        direction=row.direction and Direction.Value(f"DIRECTION_{row.direction.upper()}"),
        text=row.text,
        create_time=row.created_at,
        is_archived=row.is_archived,
        is_deleted=row.is_deleted,
        recovered=row.recovered,
        reply_state=row.state and state_of(row.state),
        reply_id=row.reply_id and ids.reply_id(row.page_id, row.reply_id),
    )
    if row.attachments is not None:
        message.attachments.extend(MessageDetail.FromString(row.attachments).attachments)
    if row.content is not None:
        _say(message, ReplyContent.FromString(row.content))
    return message


def _say(message: Message, content: ReplyContent) -> None:
    """Shows what a reply will say as the message that it will be."""
    message.direction = DIRECTION_OUTBOUND
    match content.WhichOneof("content"):
        case "text":
            message.text = content.text
        case "quick_replies":
            message.text = content.quick_replies.text
        case "media":
            kind = MediaType.Name(content.media.type).removeprefix("MEDIA_TYPE_").lower()
            message.attachments.append(Attachment(type=kind, url=content.media.url))


# Meta tells a comment's time in whole seconds, and an answer often falls into the second of what it
# answers. Of one second the greater id is the newer comment, as Meta mostly counts them up; whether
# it is or not, the order is whole.
_LIST_COMMENTS = text("""
    select
        comment_id, page_id, post_id, parent_id, from_id, from_name, text, created_at, is_hidden,
        is_deleted, is_archived, is_own, answered_at
    from comment
    where page_id = :page_id
        and created_at <= cast(:created_at as timestamptz)
        and (created_at < cast(:created_at as timestamptz) or comment_id < :comment_id)
        and (:include_archived or not is_archived)
    order by created_at desc, comment_id desc
    limit :at_most
""")


async def list_comments(
    connection: AsyncConnection,
    page_id: str,
    after: Position | None,
    at_most: int,
    *,
    include_archived: bool,
) -> list[Comment]:
    """A page's comments behind the position of `position_of_comment`."""
    created_at, comment_id = after or BEGINNING
    values = {
        "page_id": page_id,
        "created_at": created_at,
        "comment_id": comment_id,
        "include_archived": include_archived,
        "at_most": at_most,
    }
    return [_comment(row) for row in await connection.execute(_LIST_COMMENTS, values)]


def position_of_comment(comment: Comment) -> Position:
    """Where a list goes on behind this comment."""
    return (comment.create_time.ToJsonString(), comment.comment_id)


def _comment(row: Row[Any]) -> Comment:
    return Comment(
        comment_id=row.comment_id,
        page_id=row.page_id,
        post_id=row.post_id,
        parent_id=row.parent_id,
        from_id=row.from_id,
        from_name=row.from_name,
        text=row.text,
        create_time=row.created_at,
        is_hidden=row.is_hidden,
        is_deleted=row.is_deleted,
        is_archived=row.is_archived,
        is_own=row.is_own,
        answer_time=row.answered_at,
    )
