"""What Graph took, shown where people look: conversations, messages, comments and labels.

Locks are taken in the one order: conversation, message and comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pagewire.type.v1.event_pb2 import Attachment, MessageDetail
from pagewire.type.v1.reply_pb2 import MediaType, ReplyContent
from pagewire_store.columns import BIGINT, BOOL, BYTES, TEXT, TIME, Bulk, micros
from pagewire_store.projecting import LOCK_CONVERSATIONS
from pagewire_store.projections import SNIPPET_LENGTH
from pagewire_store.trips import Said

_WROTE_LAST = Bulk(
    """
    insert into conversation as c (page_id, participant_id, updated_at, snippet, last_outbound_at)
    select page_id, participant_id, at, snippet, at from {rows} order by n.ord
    on conflict (page_id, participant_id) do update set
        snippet = case when excluded.updated_at >= c.updated_at
            then excluded.snippet else c.snippet end,
        unread_count = case when c.last_inbound_at > excluded.updated_at
            then c.unread_count else 0 end,
        updated_at = greatest(c.updated_at, excluded.updated_at),
        last_outbound_at = greatest(c.last_outbound_at, excluded.last_outbound_at)
    """,
    page_id=TEXT,
    participant_id=TEXT,
    at=TIME,
    snippet=TEXT,
)

# The message may be there already: its echo came first, or history, which may know its time alone.
_MESSAGES = Bulk(
    """
    insert into message as m
        (page_id, mid, participant_id, direction, kind, text, attachments, created_at, reply_id)
    select page_id, mid, participant_id, 'outbound', 'message', text, attachments, at, reply_id
    from {rows} order by n.ord
    on conflict (page_id, mid) do update set
        direction = coalesce(m.direction, excluded.direction),
        text = case when not m.is_deleted then coalesce(m.text, excluded.text) end,
        attachments = case when not m.is_deleted
            then coalesce(m.attachments, excluded.attachments) end,
        reply_id = coalesce(m.reply_id, excluded.reply_id)
    """,
    page_id=TEXT,
    mid=TEXT,
    participant_id=TEXT,
    text=TEXT,
    attachments=BYTES,
    at=TIME,
    reply_id=BIGINT,
)

_COMMENTS = Bulk(
    """
    insert into comment as c (page_id, comment_id, post_id, parent_id, root_id, from_id, text,
        created_at, is_own, reply_id)
    select n.page_id, n.mid, p.post_id, n.comment_id, coalesce(p.root_id, n.comment_id), n.page_id,
        n.text, n.at, true, n.reply_id
    from {rows} left join comment p on p.page_id = n.page_id and p.comment_id = n.comment_id
    order by n.ord
    on conflict (page_id, comment_id) do update
    set is_own = true, reply_id = coalesce(c.reply_id, excluded.reply_id)
    """,
    page_id=TEXT,
    mid=TEXT,
    comment_id=TEXT,
    text=TEXT,
    at=TIME,
    reply_id=BIGINT,
)

_ANSWERED = Bulk(
    """
    update comment c set answered_at = coalesce(c.answered_at, n.at)
    from {rows} where c.page_id = n.page_id and c.comment_id = n.comment_id
    """,
    page_id=TEXT,
    comment_id=TEXT,
    at=TIME,
)

_HIDDEN = Bulk(
    """
    update comment c set is_hidden = n.hidden, hidden_at = n.at
    from {rows} where c.page_id = n.page_id and c.comment_id = n.comment_id
      and (c.hidden_at is null or c.hidden_at <= n.at)
    """,
    page_id=TEXT,
    comment_id=TEXT,
    at=TIME,
    hidden=BOOL,
)

_LABELLED = Bulk(
    """
    with known as (
        insert into label (page_id, name) select page_id, label from {rows} on conflict do nothing
    )
    insert into person_label (page_id, person_id, name)
    select page_id, person_id, label from {rows} on conflict do nothing
    """,
    page_id=TEXT,
    person_id=TEXT,
    label=TEXT,
)

_UNLABELLED = Bulk(
    """
    delete from person_label l using {rows}
    cross join lateral (
        select p.ctid from person_label p
        where p.page_id = n.page_id and p.person_id = n.person_id and p.name = n.label limit 1) p
    where l.ctid = p.ctid
    """,
    page_id=TEXT,
    person_id=TEXT,
    label=TEXT,
)


class Taken(NamedTuple):
    """A reply that Graph took."""

    page_id: str
    reply_id: int
    kind: str
    person_id: str
    """Empty where nobody knows to whom it went."""
    comment_id: str
    content: ReplyContent
    hidden: bool | None
    label: str | None
    mid: str
    at: datetime
    echoed: bool
    """An echo told of it: that has moved the conversation itself."""

    @property
    def in_conversation(self) -> bool:
        return self.kind in ("message", "private_reply") and bool(self.person_id)

    @property
    def is_comment(self) -> bool:
        return self.kind == "comment_reply"

    @property
    def answers_comment(self) -> bool:
        return self.kind in ("comment_reply", "private_reply")


def said(taken: Sequence[Taken], also_locked: Iterable[tuple[str, str]] = ()) -> list[Said]:
    """Everything to be said so that it shows; `also_locked` are conversations to hold beside."""
    in_time = sorted(taken, key=lambda one: one.at)
    backwards = in_time[::-1]
    messages = [one for one in in_time if one.in_conversation]
    spoken = [one for one in messages if not one.echoed]
    conversations = {*also_locked, *((one.page_id, one.person_id) for one in spoken)}
    steps: tuple[tuple[Bulk, Sequence[tuple[Any, ...]]], ...] = (
        (LOCK_CONVERSATIONS, sorted(conversations)),
        (_WROTE_LAST, _once(map(_last_word, spoken))),
        (_MESSAGES, _once(_message(one) for one in messages if one.mid)),
        (_COMMENTS, _once(_comment(one) for one in in_time if one.is_comment and one.mid)),
        (_ANSWERED, _once(_answer(one) for one in backwards if one.answers_comment)),
        (_HIDDEN, _once(_hiding(one) for one in in_time if one.kind == "hide_comment")),
        (_LABELLED, [_label(one) for one in in_time if one.kind == "add_label"]),
        (_UNLABELLED, [_label(one) for one in in_time if one.kind == "remove_label"]),
    )
    return [statement.over(rows) for statement, rows in steps if rows]


def text_of(content: ReplyContent) -> str:
    """The text that is said; empty where a medium is."""
    return content.quick_replies.text or content.text


def _once(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The last row of each page and id, in their order: a statement moves a row but once."""
    last = {row[:2]: row for row in rows}
    return [last[key] for key in sorted(last)]


def _last_word(one: Taken) -> tuple[Any, ...]:
    return (one.page_id, one.person_id, micros(one.at), text_of(one.content)[:SNIPPET_LENGTH])


def _message(one: Taken) -> tuple[Any, ...]:
    text = text_of(one.content) or None
    attached = _attachments(one.content)
    return (one.page_id, one.mid, one.person_id, text, attached, micros(one.at), one.reply_id)


def _comment(one: Taken) -> tuple[Any, ...]:
    text = text_of(one.content) or None
    return (one.page_id, one.mid, one.comment_id, text, micros(one.at), one.reply_id)


def _answer(one: Taken) -> tuple[Any, ...]:
    return (one.page_id, one.comment_id, micros(one.at))


def _hiding(one: Taken) -> tuple[Any, ...]:
    return (one.page_id, one.comment_id, micros(one.at), one.hidden)


def _label(one: Taken) -> tuple[Any, ...]:
    return (one.page_id, one.person_id, one.label)


def _attachments(content: ReplyContent) -> bytes | None:
    if not content.HasField("media"):
        return None
    type_ = MediaType.Name(content.media.type).removeprefix("MEDIA_TYPE_").lower()
    sent = Attachment(type=type_, url=content.media.url)
    return MessageDetail(attachments=[sent]).SerializeToString()
