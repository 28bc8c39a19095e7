"""What events say of conversations, messages, comments and reactions: events in, rows out.

Rows say what to do whatever came first: nothing here knows what is stored, and `projecting` never
moves a row backwards. Times are microseconds of Unix time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_COMMENT,
    EVENT_KIND_COMMENT_EDITED,
    EVENT_KIND_COMMENT_HIDDEN,
    EVENT_KIND_COMMENT_REMOVED,
    EVENT_KIND_DELIVERY,
    EVENT_KIND_ECHO,
    EVENT_KIND_FEED_REACTION,
    EVENT_KIND_MESSAGE,
    EVENT_KIND_MESSAGE_DELETED,
    EVENT_KIND_MESSAGE_EDIT,
    EVENT_KIND_OPTIN,
    EVENT_KIND_POSTBACK,
    EVENT_KIND_REACTION,
    EVENT_KIND_READ,
    EVENT_KIND_REFERRAL,
    ID_SPACE_MESSAGING,
    SOURCE_RECOVERED,
    Attachment,
    Event,
    MessageDetail,
)

SNIPPET_LENGTH = 200
"""Characters of a conversation's newest message that a list shows."""

KINDS = ("message", "story_reply", "story_mention", "postback")
"""What a message can be; the first says the least."""


def timestamp_micros(time: Timestamp) -> int:
    """The time in microseconds of Unix time."""
    return time.seconds * 1_000_000 + time.nanos // 1_000


class ConversationRow(NamedTuple):
    """What was written in a conversation."""

    page_id: str
    participant_id: str
    participant_name: str | None
    updated_at: int
    snippet: str
    snippet_mid: str | None
    unread_count: int  # inbound messages behind the last outbound one of the same rows
    unread_mids: str  # their ids, with a space between them
    last_inbound_at: int | None
    last_outbound_at: int | None


class TouchRow(NamedTuple):
    """What happened in a conversation without a word: reads, deliveries, reactions, referrals."""

    page_id: str
    participant_id: str
    participant_name: str | None
    last_inbound_at: int | None
    read_watermark: int | None
    read_mid: str | None
    delivered_watermark: int | None


class MessageRow(NamedTuple):
    """A message whole."""

    page_id: str
    mid: str
    participant_id: str
    direction: str
    kind: str
    text: str | None
    attachments: bytes | None
    created_at: int
    is_unsupported: bool
    recovered: bool
    app_id: str | None


class MessageChange(NamedTuple):
    """What became of a message: its highest edit, and whether it was unsent."""

    page_id: str
    mid: str
    participant_id: str
    direction: str
    at: int
    edit_number: int
    edited_at: int | None
    text: str | None
    is_deleted: bool


class CommentRow(NamedTuple):
    """A comment whole."""

    page_id: str
    comment_id: str
    post_id: str | None
    parent_id: str | None
    root_id: str
    from_id: str | None
    from_name: str | None
    text: str | None
    attachments: bytes | None
    created_at: int
    is_own: bool
    is_live: bool


class CommentChange(NamedTuple):
    """What became of a comment: its newest edit, its newest hiding or showing, its removal."""

    page_id: str
    comment_id: str
    post_id: str | None
    root_id: str
    at: int
    edited_at: int | None
    text: str | None
    hidden_at: int | None
    is_hidden: bool
    is_deleted: bool


class ReactionRow(NamedTuple):
    """A person's last reaction to a message, a post or a comment."""

    page_id: str
    target_id: str
    person_id: str
    reaction: str | None
    emoji: str | None
    removed: bool
    reacted_at: int


@dataclass(frozen=True)
class Projections:
    """The rows of some events, each list sorted by key and each key in it once."""

    conversations: Sequence[ConversationRow]
    touches: Sequence[TouchRow]
    messages: Sequence[MessageRow]
    message_changes: Sequence[MessageChange]
    comments: Sequence[CommentRow]
    comment_changes: Sequence[CommentChange]
    reactions: Sequence[ReactionRow]
    echoes: Sequence[Event]
    own_comments: Sequence[Event]


_Key: TypeAlias = tuple[str, str]  # page, and an id within it
_Row = TypeVar("_Row")


def project(events: Iterable[Event]) -> Projections:
    """The rows of `events`, given in the order in which they are stored."""
    drafts = _Drafts()
    for event in events:
        read = _READERS.get(event.kind)
        if read is not None:
            read(drafts, event)
    return drafts.projections()


@dataclass
class _Talk:
    """What some messages say of their conversation."""

    name: str | None = None
    newest: MessageRow | None = None
    inbound: list[MessageRow] = field(default_factory=list)
    outbound: list[int] = field(default_factory=list)


class _Drafts:
    """Rows in the making, by key."""

    def __init__(self) -> None:
        self.talks: dict[_Key, _Talk] = {}
        self.touches: dict[_Key, TouchRow] = {}
        self.messages: dict[_Key, MessageRow] = {}
        self.message_changes: dict[_Key, MessageChange] = {}
        self.comments: dict[_Key, CommentRow] = {}
        self.comment_changes: dict[_Key, CommentChange] = {}
        self.reactions: dict[_Key, dict[str, ReactionRow]] = {}
        self.echoes: list[Event] = []
        self.own_comments: list[Event] = []

    def projections(self) -> Projections:
        return Projections(
            conversations=sorted(self._conversation(key) for key in self.talks),
            touches=_by_key(self.touches),
            messages=_by_key(self.messages),
            message_changes=_by_key(self.message_changes),
            comments=_by_key(self.comments),
            comment_changes=_by_key(self.comment_changes),
            reactions=[
                self.reactions[target][person]
                for target in sorted(self.reactions)
                for person in sorted(self.reactions[target])
            ],
            echoes=self.echoes,
            own_comments=self.own_comments,
        )

    def write(self, row: MessageRow, event: Event) -> None:
        """A message was written; one without an id leaves its trace on the conversation alone."""
        if row.mid:
            self.messages.setdefault((row.page_id, row.mid), row)
        if not _is_messaged(event):
            return
        talk = self.talks.setdefault((row.page_id, row.participant_id), _Talk())
        talk.name = event.person_name or talk.name
        if talk.newest is None or row.created_at >= talk.newest.created_at:
            talk.newest = row
        if row.direction == "inbound":
            talk.inbound.append(row)
        else:
            talk.outbound.append(row.created_at)

    def touch(
        self,
        event: Event,
        *,
        inbound: int | None = None,
        read: int | None = None,
        read_mid: str | None = None,
        delivered: int | None = None,
    ) -> None:
        """Something happened in the person's conversation."""
        if not _is_messaged(event):
            return
        key = (event.page_id, event.person_id)
        old = self.touches.get(key, TouchRow(*key, None, None, None, None, None))
        self.touches[key] = TouchRow(
            *key,
            event.person_name or old.participant_name,
            _latest(old.last_inbound_at, inbound),
            _latest(old.read_watermark, read),
            read_mid or old.read_mid,
            _latest(old.delivered_watermark, delivered),
        )

    def change_message(self, change: MessageChange) -> None:
        old = self.message_changes.get(key := (change.page_id, change.mid))
        if old is not None:
            last = change if change.edit_number > old.edit_number else old
            change = last._replace(is_deleted=old.is_deleted or change.is_deleted)
        self.message_changes[key] = change

    def change_comment(self, change: CommentChange) -> None:
        old = self.comment_changes.get(key := (change.page_id, change.comment_id))
        if old is not None:
            edit = _later(old, change, lambda row: row.edited_at)
            hiding = _later(old, change, lambda row: row.hidden_at)
            change = change._replace(
                edited_at=edit.edited_at,
                text=edit.text,
                hidden_at=hiding.hidden_at,
                is_hidden=hiding.is_hidden,
                is_deleted=old.is_deleted or change.is_deleted,
            )
        self.comment_changes[key] = change

    def react(self, row: ReactionRow) -> None:
        people = self.reactions.setdefault((row.page_id, row.target_id), {})
        old = people.get(row.person_id)
        if old is None or row.reacted_at >= old.reacted_at:
            people[row.person_id] = row

    def _conversation(self, key: _Key) -> ConversationRow:
        talk = self.talks[key]
        assert talk.newest is not None  # noqa: S101  # a talk begins with a message
        answered_at = max(talk.outbound, default=None)
        unread = [
            one for one in talk.inbound if answered_at is None or one.created_at > answered_at
        ]
        return ConversationRow(
            *key,
            talk.name,
            talk.newest.created_at,
            self._snippet(talk.newest),
            talk.newest.mid or None,
            len(unread),
            " ".join(one.mid for one in unread if one.mid),
            max((one.created_at for one in talk.inbound), default=None),
            answered_at,
        )

    def _snippet(self, message: MessageRow) -> str:
        change = self.message_changes.get((message.page_id, message.mid))
        text = message.text
        if change is not None:
            text = None if change.is_deleted else change.text or text
        return (text or "")[:SNIPPET_LENGTH]


def _message(drafts: _Drafts, event: Event) -> None:
    detail = event.message
    row = MessageRow(
        event.page_id,
        detail.mid,
        event.person_id,
        "outbound" if event.is_own or event.kind == EVENT_KIND_ECHO else "inbound",
        _message_kind(detail),
        detail.text or None,
        packed(detail.attachments),
        timestamp_micros(event.event_time),
        detail.is_unsupported,
        event.source == SOURCE_RECOVERED,
        detail.app_id or None,
    )
    drafts.write(row, event)
    if event.kind == EVENT_KIND_ECHO:
        drafts.echoes.append(event)


def _postback(drafts: _Drafts, event: Event) -> None:
    row = MessageRow(
        event.page_id,
        event.postback.mid,
        event.person_id,
        "outbound" if event.is_own else "inbound",
        "postback",
        event.postback.title or None,
        None,
        timestamp_micros(event.event_time),
        False,
        event.source == SOURCE_RECOVERED,
        None,
    )
    drafts.write(row, event)


def _message_deleted(drafts: _Drafts, event: Event) -> None:
    change = _message_change(event, event.message_deleted.mid)
    drafts.change_message(change._replace(is_deleted=True))


def _message_edit(drafts: _Drafts, event: Event) -> None:
    detail = event.message_edit
    if detail.HasField("text"):  # Instagram announces new messages as edits numbered 0 without one
        change = _message_change(event, detail.mid)
        drafts.change_message(
            change._replace(edit_number=detail.number, edited_at=change.at, text=detail.text)
        )


def _message_change(event: Event, mid: str) -> MessageChange:
    direction = "outbound" if event.is_own else "inbound"
    at = timestamp_micros(event.event_time)
    return MessageChange(
        event.page_id, mid, event.person_id, direction, at, -1, None, None, is_deleted=False
    )


def _reaction(drafts: _Drafts, event: Event) -> None:
    detail, at = event.reaction, timestamp_micros(event.event_time)
    _react(drafts, event, detail.mid, detail.reaction, detail.emoji, detail.removed)
    # A reaction opens the standard messaging window, as a message does; taking it back does not.
    drafts.touch(event, inbound=None if detail.removed or event.is_own else at)


def _feed_reaction(drafts: _Drafts, event: Event) -> None:
    detail = event.feed_reaction
    _react(drafts, event, detail.target_id, detail.reaction, "", detail.removed)


def _react(
    drafts: _Drafts, event: Event, target_id: str, reaction: str, emoji: str, removed: bool
) -> None:
    person_id = event.page_id if event.is_own else event.person_id
    if person_id and target_id:
        at = timestamp_micros(event.event_time)
        drafts.react(
            ReactionRow(
                event.page_id, target_id, person_id, reaction or None, emoji or None, removed, at
            )
        )


def _read(drafts: _Drafts, event: Event) -> None:
    detail = event.read
    watermark = timestamp_micros(detail.watermark) if detail.HasField("watermark") else None
    drafts.touch(event, read=watermark, read_mid=detail.mid or None)


def _delivery(drafts: _Drafts, event: Event) -> None:
    if event.delivery.HasField("watermark"):
        drafts.touch(event, delivered=timestamp_micros(event.delivery.watermark))


def _came(drafts: _Drafts, event: Event) -> None:
    drafts.touch(event, inbound=None if event.is_own else timestamp_micros(event.event_time))


def _comment(drafts: _Drafts, event: Event) -> None:
    detail = event.comment
    row = CommentRow(
        event.page_id,
        detail.comment_id,
        detail.post_id or None,
        detail.parent_id or None,
        _root(event),
        event.page_id if event.is_own else event.person_id or None,
        event.person_name or None,
        detail.text or None,
        packed(detail.attachments),
        timestamp_micros(event.event_time),
        event.is_own,
        detail.is_live,
    )
    drafts.comments.setdefault((row.page_id, row.comment_id), row)
    if event.is_own:
        drafts.own_comments.append(event)


def _comment_edited(drafts: _Drafts, event: Event) -> None:
    detail, change = event.comment, _comment_change(event)
    edited_at = timestamp_micros(detail.edit_time) if detail.HasField("edit_time") else change.at
    text = detail.text if detail.HasField("text") else None
    drafts.change_comment(change._replace(edited_at=edited_at, text=text))


def _comment_hidden(drafts: _Drafts, event: Event) -> None:
    change, hidden_at = _comment_change(event), timestamp_micros(event.sent_time)
    drafts.change_comment(change._replace(hidden_at=hidden_at, is_hidden=event.comment.hidden))


def _comment_removed(drafts: _Drafts, event: Event) -> None:
    drafts.change_comment(_comment_change(event)._replace(is_deleted=True))


def _comment_change(event: Event) -> CommentChange:
    return CommentChange(
        event.page_id,
        event.comment.comment_id,
        event.comment.post_id or None,
        _root(event),
        timestamp_micros(event.event_time),
        edited_at=None,
        text=None,
        hidden_at=None,
        is_hidden=False,
        is_deleted=False,
    )


_READERS: dict[int, Callable[[_Drafts, Event], None]] = {
    EVENT_KIND_MESSAGE: _message,
    EVENT_KIND_ECHO: _message,
    EVENT_KIND_POSTBACK: _postback,
    EVENT_KIND_MESSAGE_DELETED: _message_deleted,
    EVENT_KIND_MESSAGE_EDIT: _message_edit,
    EVENT_KIND_REACTION: _reaction,
    EVENT_KIND_READ: _read,
    EVENT_KIND_DELIVERY: _delivery,
    EVENT_KIND_REFERRAL: _came,
    EVENT_KIND_OPTIN: _came,
    EVENT_KIND_COMMENT: _comment,
    EVENT_KIND_COMMENT_EDITED: _comment_edited,
    EVENT_KIND_COMMENT_HIDDEN: _comment_hidden,
    EVENT_KIND_COMMENT_REMOVED: _comment_removed,
    EVENT_KIND_FEED_REACTION: _feed_reaction,
}


def _is_messaged(event: Event) -> bool:
    """Whether the event's person is one whom messages name, and so has a conversation."""
    return bool(event.person_id) and event.id_space == ID_SPACE_MESSAGING


def _message_kind(detail: MessageDetail) -> str:
    if detail.story_id or detail.story_url:
        return "story_reply"
    if any(attachment.type == "story_mention" for attachment in detail.attachments):
        return "story_mention"
    return "message"


def packed(attachments: Sequence[Attachment]) -> bytes | None:
    """Attachments as their column holds them."""
    if not attachments:
        return None
    return MessageDetail(attachments=attachments).SerializeToString()


def _root(event: Event) -> str:
    return event.lane.removeprefix("comment:")


def _latest(old: int | None, new: int | None) -> int | None:
    return new if old is None else old if new is None else max(old, new)


def _later(
    old: CommentChange, new: CommentChange, time: Callable[[CommentChange], int | None]
) -> CommentChange:
    """The later of two; the new one where both are of the same time."""
    before, now = time(old), time(new)
    return old if now is None or (before is not None and before > now) else new


def _by_key(rows: dict[_Key, _Row]) -> list[_Row]:
    return [rows[key] for key in sorted(rows)]
