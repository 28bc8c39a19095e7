"""Putting in what a person or a service says: once a client key, in its turn, and rules rest.

The audit says who it was; what rules say comes by another way, and stands in their decisions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg.rows import namedtuple_row

from pagewire.store.v1.outbox_service_pb2 import EnqueueReplyRequest
from pagewire.type.v1.reply_pb2 import (
    REPLY_KIND_COMMENT_REPLY,
    REPLY_KIND_HIDE_COMMENT,
    REPLY_KIND_MESSAGE,
    TAG_HUMAN_AGENT,
    Reply,
    ReplyContent,
    ReplyKind,
)
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_store import audit, ids
from pagewire_store.connections import Driver
from pagewire_store.pages import PageUnknown
from pagewire_store.reads import ConversationUnknown
from pagewire_store.replies import COLUMNS, reply_from

KEY_MAX = 200
TIME_TO_SEND = timedelta(hours=24)

_ACTIONS = {
    REPLY_KIND_MESSAGE: "reply.send",
    REPLY_KIND_COMMENT_REPLY: "reply.comment",
    REPLY_KIND_HIDE_COMMENT: "reply.hide",
}
"""What the audit calls each."""


class CommentUnknown(Refusal):
    """No comment has this id."""

    kind = Kind.MISSING
    reason = "COMMENT_UNKNOWN"

    def __init__(self, comment_id: str) -> None:
        super().__init__("there is no such comment", comment_id=comment_id[:512])


class ClientKeyReused(Refusal):
    """The page's client key stands for a reply with other content."""

    kind = Kind.EXISTS
    reason = "CLIENT_KEY_REUSED"

    def __init__(self, page_id: str) -> None:
        super().__init__("the client_key stands for another reply already", page_id=page_id)


class PageDisconnected(Refusal):
    """The page was disconnected: nothing can be sent before it is connected again."""

    kind = Kind.STATE
    reason = "PAGE_DISCONNECTED"

    def __init__(self, page_id: str) -> None:
        super().__init__(f"the page {page_id} is disconnected: connect it again", page_id=page_id)


@dataclass(frozen=True)
class _Target:
    """Where a reply goes."""

    page_id: str
    lane: str
    person_id: str | None = None
    comment_id: str | None = None


_PAGE = "select connected from page where page_id = %(page_id)s"

_CONVERSATION = """
select 1 from conversation where page_id = %(page_id)s and participant_id = %(person_id)s
"""

# A page a probe, since the key starts with it; a comment's page needs no naming.
_COMMENT = """
select page_id, root_id from comment
where page_id = any(case when %(page_id)s = '' then array(select page_id from page)
        else array[%(page_id)s::text] end)
    and comment_id = %(comment_id)s
"""

_KNOWN = f"""
select {COLUMNS}, request_hash from outbox
where page_id = %(page_id)s and client_key = %(client_key)s
"""  # noqa: S608  # the columns are a constant

# Draws the ordinal under the lane's lock, and makes the lane where there is none.
_LANE = """
insert into lane as l (page_id, lane, last_ordinal) values (%(page_id)s, %(lane)s, 1)
on conflict (page_id, lane) do update set last_ordinal = l.last_ordinal + 1
returning last_ordinal
"""

_PAUSE = """
update conversation
set automation_paused_until = greatest(automation_paused_until, clock_timestamp() + %(pause)s)
where page_id = %(page_id)s and participant_id = %(person_id)s
"""

_INSERT = f"""
insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, client_key, request_hash,
    person_id, comment_id, content, hidden, message_tag, state, expires_at)
values (%(page_id)s, nextval('reply_number'), %(lane)s, %(ordinal)s, %(kind)s, 'person',
    %(client_key)s, %(hash)s, %(person_id)s, %(comment_id)s, %(content)s, %(hidden)s,
    %(message_tag)s, 'ready', clock_timestamp() + %(time_to_send)s)
on conflict (page_id, client_key) where client_key is not null do nothing
returning {COLUMNS}
"""  # noqa: S608


# Materialized: the comment's few replies are sorted, and not all of the page's looked through.
_LAST_HIDING = f"""
with hidings as materialized (
    select {COLUMNS}, hidden from outbox
    where page_id = %(page_id)s and comment_id = %(comment_id)s and kind = 'hide_comment')
select * from hidings order by reply_id desc limit 1
"""  # noqa: S608


async def enqueue(
    connection: Driver, request: EnqueueReplyRequest, *, person_pause: timedelta
) -> Reply:
    """The reply, put in now or by an earlier call with the same client_key and content.

    Raises InvalidArgument, PageUnknown, ConversationUnknown, CommentUnknown, ClientKeyReused, and
    PageDisconnected.
    """
    check(request)
    target = await _target(connection, request)
    values = {**vars(target), **_values(request, target)}
    if (known := await _known(connection, values)) is not None:
        return known
    page = await _one(connection, _PAGE, values)
    if not page.connected:
        raise PageDisconnected(target.page_id)
    values["ordinal"] = (await _one(connection, _LANE, values)).last_ordinal
    # Again, now that nobody else can put the same in.
    if (known := await _known(connection, values)) is not None:
        return known
    if request.kind == REPLY_KIND_MESSAGE:
        await connection.execute(_PAUSE, {**values, "pause": person_pause})
    made = await _one(connection, _INSERT, values)
    if made is None:  # the key was used in another lane at the same time
        raise ClientKeyReused(target.page_id)
    reply = reply_from(made)
    await audit.record_live(connection, *_done(request, reply))
    return reply


async def last_hiding(connection: Driver, comment_id: str) -> tuple[Reply, bool] | None:
    """The newest reply that hides or shows the comment, and whether it hides it.

    Raises CommentUnknown.
    """
    target = await _comment(connection, "", comment_id)
    row = await _one(connection, _LAST_HIDING, vars(target))
    return None if row is None else (reply_from(row), row.hidden)


def check(request: EnqueueReplyRequest) -> None:
    """Raises InvalidArgument, with the field's name, for what can't be a reply."""
    if not 1 <= len(request.client_key) <= KEY_MAX or "\0" in request.client_key:
        raise InvalidArgument("client_key", f"must be 1 to {KEY_MAX} characters")
    said = request.content.WhichOneof("content")
    match request.kind:
        case kind if kind == REPLY_KIND_MESSAGE:
            if not _says_something(request.content):
                raise InvalidArgument("content", "must say something")
        case kind if kind == REPLY_KIND_COMMENT_REPLY:
            if said != "text" or not request.content.text:
                raise InvalidArgument("content", "must be a text")
        case kind if kind == REPLY_KIND_HIDE_COMMENT:
            if said is not None:
                raise InvalidArgument("content", "must be absent: hiding says nothing")
        case _:
            raise InvalidArgument("kind", "must be a message, a comment reply or a hiding")


def _done(request: EnqueueReplyRequest, reply: Reply) -> tuple[str, str, str]:
    """What the audit says of it: action, subject and detail."""
    detail = ""
    if request.kind == REPLY_KIND_HIDE_COMMENT:
        detail = "hidden" if request.hidden else "shown"
    return _ACTIONS[request.kind], reply.reply_id, detail


def _says_something(content: ReplyContent) -> bool:
    match content.WhichOneof("content"):
        case "media":
            return bool(content.media.url)
        case "quick_replies":
            return bool(content.quick_replies.text and content.quick_replies.quick_replies)
        case _:
            return bool(content.text)


async def _target(connection: Driver, request: EnqueueReplyRequest) -> _Target:
    if request.kind == REPLY_KIND_MESSAGE:
        return await _conversation(connection, request.conversation_id)
    return await _comment(connection, request.page_id, request.comment_id)


async def _conversation(connection: Driver, conversation_id: str) -> _Target:
    named = ids.parse_conversation_id(conversation_id)
    if named is None:
        raise ConversationUnknown(conversation_id)
    page_id, person_id = named
    values = {"page_id": page_id, "person_id": person_id}
    if await _one(connection, _PAGE, values) is None:
        raise PageUnknown(page_id)
    if await _one(connection, _CONVERSATION, values) is None:
        raise ConversationUnknown(conversation_id)
    return _Target(page_id, f"person:{person_id}", person_id=person_id)


async def _comment(connection: Driver, page_id: str, comment_id: str) -> _Target:
    values = {"page_id": page_id, "comment_id": comment_id}
    if page_id and await _one(connection, _PAGE, values) is None:
        raise PageUnknown(page_id)
    found = await _one(connection, _COMMENT, values)
    if found is None:
        raise CommentUnknown(comment_id)
    return _Target(found.page_id, f"comment:{found.root_id}", comment_id=comment_id)


def _values(request: EnqueueReplyRequest, target: _Target) -> dict[str, Any]:
    says = request.content.WhichOneof("content") is not None
    hiding = request.kind == REPLY_KIND_HIDE_COMMENT
    return {
        "kind": ReplyKind.Name(request.kind).removeprefix("REPLY_KIND_").lower(),
        "client_key": request.client_key,
        "hash": _hash(request, target),
        "content": request.content.SerializeToString() if says else None,
        "hidden": request.hidden if hiding else None,
        "message_tag": "HUMAN_AGENT" if request.tag == TAG_HUMAN_AGENT else None,
        "time_to_send": TIME_TO_SEND,
    }


def _hash(request: EnqueueReplyRequest, target: _Target) -> bytes:
    """Stands for all that a repeat must repeat."""
    content = EnqueueReplyRequest()
    content.CopyFrom(request)
    content.page_id, content.client_key = target.page_id, ""
    return hashlib.sha256(content.SerializeToString(deterministic=True)).digest()


async def _known(connection: Driver, values: dict[str, Any]) -> Reply | None:
    row = await _one(connection, _KNOWN, values)
    if row is None:
        return None
    if row.request_hash != values["hash"]:
        raise ClientKeyReused(values["page_id"])
    return reply_from(row)


async def _one(connection: Driver, statement: str, values: dict[str, Any]) -> Any:
    async with connection.cursor(row_factory=namedtuple_row) as cursor:
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchone()
