"""What Graph shows of threads, messages and comments, as rows for the store.

Pure: decoded JSON in, rows out. What cannot be read costs itself alone and is counted by a stable
word. Fields and shapes: Meta's pages on conversations, on messages, on comments of the Graph API
and of Instagram. Times come as ISO 8601 without a colon in the offset, or as Unix time; they leave
here as seconds of Unix time.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.mirror_service_pb2 import (
    MirroredComment,
    MirroredConversation,
    MirroredLabel,
    MirroredMessage,
)
from pagewire.type.v1.conversation_pb2 import Direction
from pagewire.type.v1.event_pb2 import Attachment, Trigger

MAX_ATTACHMENTS = 50
TEXT_MAX_BYTES = 64 * 1024
EARLIEST = 1_072_915_200.0
"""2004-01-01, before which there was no Facebook."""
LATEST = 4_102_444_800.0
"""2100-01-01: what is said to be later is no time."""

_MILLISECONDS_FROM = 10**11
"""Numbers from here on are milliseconds: as seconds they would be the year 5138."""
_ID = re.compile(r"[A-Za-z0-9_.:=+/$-]{1,512}").fullmatch
_ID_NUMBERS = range(10**30)
_NUMBER = re.compile(r"[0-9]{1,16}").fullmatch
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
CURSOR_MAX = 1_024
"""Meta's have some two hundred characters; they stand in checkpoints."""
_encode = msgspec.json.Encoder(order="sorted").encode

INBOUND, OUTBOUND = Direction.DIRECTION_INBOUND, Direction.DIRECTION_OUTBOUND
Json = dict[str, Any]


class Unshown(Exception):
    """An item, or a whole answer, that is not what Graph is documented to show; `reason` is a
    stable word.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Edge:
    """A page of an edge: its items as they came, and the cursor of what follows; empty at the
    end.
    """

    items: list[Any]
    after: str = ""


@dataclass(slots=True)
class Thread:
    """A thread, and those of its messages that came with it, newest first."""

    thread_id: str
    updated: float
    """Its updated_time; 0 where it has none."""
    conversation: MirroredConversation | None = None
    """None where nobody stands in it beside the page, so that there is nothing to store."""
    messages: list[MirroredMessage] = field(default_factory=list)
    sources: list[Json] = field(default_factory=list)
    """The messages as they came, in the same places."""
    after: str = ""
    """The cursor of its older messages; empty where all are here."""

    @property
    def participant_id(self) -> str:
        """The person; empty where there is none."""
        return self.conversation.participant_id if self.conversation else ""

    @property
    def oldest(self) -> float:
        """When the oldest of these messages was written; 0 without any."""
        return min((each.create_time.seconds for each in self.messages), default=0)


Refused = Counter[str]
"""How many items could not be read, by why."""


def edge_of(body: Any) -> Edge:
    """A page of an edge, whatever its items are.

    Meta's page on paginated results: only the absence of `next` ends a list, and `cursors.after`
    leads on; `next` itself holds a token and is not followed. Raises Unshown.
    """
    data = body.get("data") if type(body) is dict else None
    if type(data) is not list:
        raise Unshown("list_malformed")
    paging = body.get("paging")
    if type(paging) is not dict or not paging.get("next"):
        return Edge(data)
    cursors = paging.get("cursors")
    after = cursors.get("after") if type(cursors) is dict else None
    if type(after) is not str or not 0 < len(after) <= CURSOR_MAX:
        raise Unshown("cursor_missing")
    return Edge(data, after)


def thread_of(item: Any, own: Collection[str], refused: Refused) -> Thread:
    """A thread of the conversations edge with the messages nested in it; `own` are the ids that
    the page goes by. Raises Unshown for what is no thread.
    """
    if type(item) is not dict:
        raise Unshown("not_object")
    thread = Thread(identifier(item.get("id")), moment(item.get("updated_time")) or 0.0)
    nested = item.get("messages")
    edge = Edge([]) if nested is None else edge_of(nested)
    person = _person(item, edge.items, own)
    if person is None:
        refused["participant_missing"] += 1
        return thread
    person_id, name = person
    thread.conversation = MirroredConversation(
        participant_id=person_id,
        participant_name=name,
        thread_id=thread.thread_id,
        update_time=_timestamp(thread.updated) if thread.updated else None,
        snippet=text_of(item.get("snippet")),
        unread_count=_count(item.get("unread_count")),
    )
    add_messages(thread, edge, own, refused)
    return thread


def add_messages(thread: Thread, edge: Edge, own: Collection[str], refused: Refused) -> None:
    """Put a page of its messages behind those that the thread has."""
    person_id = thread.participant_id
    for source in edge.items:
        try:
            thread.messages.append(message_of(source, person_id, own))
        except Unshown as why:
            refused[why.reason] += 1
        else:
            thread.sources.append(source)
    thread.after = edge.after


def message_of(item: Any, participant_id: str, own: Collection[str]) -> MirroredMessage:
    """A message of a thread. Raises Unshown.

    Its direction stays unspecified where Graph does not say who wrote it: of an Instagram thread
    beyond its newest 20 there are id and time alone.
    """
    if type(item) is not dict:
        raise Unshown("not_object")
    row = MirroredMessage(
        mid=identifier(item.get("id")),
        participant_id=participant_id,
        create_time=_timestamp(_needed_moment(item.get("created_time"))),
    )
    said = item.get("message")
    if said:
        row.text = text_of(said)
    writer = _id_within(item.get("from"))
    if writer:
        row.direction = OUTBOUND if writer in own else INBOUND
    if item.get("is_unsupported") is True:
        row.is_unsupported = True
    if "attachments" in item or "shares" in item:
        row.attachments.extend(attachments_of(item))
    if "story" in item:
        row.trigger = story_of(item)[0]
    return row


def story_of(item: Json) -> tuple[Trigger.ValueType, str, str]:
    """What a rule calls a message that answers or mentions a story, the story's id and address."""
    story = item.get("story")
    if type(story) is dict:
        for name, trigger in _STORIES:
            held = story.get(name)
            if type(held) is dict:
                return trigger, optional_id(held.get("id")), text_of(held.get("link"))
    return Trigger.TRIGGER_UNSPECIFIED, "", ""


_STORIES = (
    ("reply_to", Trigger.TRIGGER_STORY_REPLY),
    ("mention", Trigger.TRIGGER_STORY_MENTION),
)


def attachments_of(item: Json) -> Iterator[Attachment]:
    """A message's attachments and what it shares, at most 50 together."""
    found = [_attachment(each) for each in _listed(item.get("attachments"))]
    found += [_share(each) for each in _listed(item.get("shares"))]
    yield from found[:MAX_ATTACHMENTS]


_CONTENTS = (("image_data", "image"), ("video_data", "video"), ("generic_template", "template"))


def _attachment(item: Any) -> Attachment:
    if type(item) is not dict:
        return Attachment(type="unknown", payload=_json(item))
    kind, url = _content(item)
    title = text_of(item.get("name") or item.get("title"))
    held = {name: value for name, value in item.items() if name != "paging"}
    return Attachment(type=kind, url=url, title=title, payload=_json(held))


def _content(item: Json) -> tuple[str, str]:
    """The type by which webhooks would call it, and its address."""
    mime = item.get("mime_type")
    kind = text_of(mime).partition("/")[0]
    for name, word in _CONTENTS:
        held = item.get(name)
        if type(held) is dict:
            url = text_of(held.get("url") or held.get("preview_url"))
            return ("sticker" if held.get("render_as_sticker") is True else word), url
    if "file_url" in item:
        return (kind if kind in ("audio", "video", "image") else "file"), text_of(item["file_url"])
    payload = item.get("payload")
    url = text_of(payload.get("url")) if type(payload) is dict else ""
    return text_of(item.get("type")) or "unknown", url


def _share(item: Any) -> Attachment:
    if type(item) is not dict:
        return Attachment(type="share", payload=_json(item))
    return Attachment(
        type="share",
        url=text_of(item.get("link")),
        title=text_of(item.get("name")),
        payload=_json(item),
    )


@dataclass(slots=True)
class Post:
    """A post or an Instagram media with those of its comments that came with it."""

    post_id: str
    updated: float
    """When it was last written to, below it too; 0 where Graph does not say."""
    comments: list[MirroredComment] = field(default_factory=list)
    after: str = ""
    """The cursor of its further comments; empty where all are here."""
    replies_after: dict[str, str] = field(default_factory=dict)
    """Comments of which not all replies are here, with the cursor of the others."""


def post_of(item: Any, own: Collection[str], refused: Refused) -> Post:
    """A post of a feed, or a media, with the comments nested in it. Raises Unshown."""
    if type(item) is not dict:
        raise Unshown("not_object")
    post = Post(identifier(item.get("id")), moment(item.get("updated_time")) or 0.0)
    nested = item.get("comments")
    if nested is not None:
        add_comments(post, edge_of(nested), own, refused)
    return post


def add_comments(
    post: Post, edge: Edge, own: Collection[str], refused: Refused, *, parent_id: str = ""
) -> None:
    """Put a page of its comments behind those that the post has, each followed by its replies;
    with `parent_id` it is a page of that comment's replies.
    """
    for item in edge.items:
        try:
            row = comment_of(item, post.post_id, own, parent_id=parent_id)
            post.comments.append(row)
            if item.get("replies") is not None:
                replies = edge_of(item["replies"])
                add_comments(post, replies, own, refused, parent_id=row.comment_id)
        except Unshown as why:
            refused[why.reason] += 1
    if not parent_id:
        post.after = edge.after
    elif edge.after:
        post.replies_after[parent_id] = edge.after
    else:
        post.replies_after.pop(parent_id, None)


def comment_of(
    item: Any, post_id: str, own: Collection[str], *, parent_id: str = ""
) -> MirroredComment:
    """A comment as either platform shows it. Raises Unshown."""
    if type(item) is not dict:
        raise Unshown("not_object")
    author = item.get("from")
    writer = _id_within(author)
    said = item.get("created_time", item.get("timestamp"))
    parent = _id_within(item.get("parent")) or optional_id(item.get("parent_id")) or parent_id
    row = MirroredComment(
        comment_id=identifier(item.get("id")),
        post_id=post_id,
        parent_id="" if parent == post_id else parent,
        from_id=writer,
        from_name=_name(author) or text_of(item.get("username")),
        text=text_of(item.get("message", item.get("text"))),
        create_time=_timestamp(_needed_moment(said)),
        is_hidden=item.get("is_hidden", item.get("hidden")) is True,
        is_own=writer in own,
    )
    if type(item.get("attachment")) is dict:
        row.attachments.append(_beside_a_comment(item["attachment"]))
    return row


def _beside_a_comment(item: Json) -> Attachment:
    """A photo, video or link as Graph shows it (its page on StoryAttachment)."""
    media = item.get("media")
    image = media.get("image") if type(media) is dict else None
    shown = image.get("src") if type(image) is dict else None
    return Attachment(
        type=text_of(item.get("type")) or "unknown",
        url=text_of(item.get("url") or shown),
        title=text_of(item.get("title")),
        payload=_json(item),
    )


def label_of(item: Any) -> MirroredLabel:
    """A label of a page. Raises Unshown."""
    if type(item) is not dict:
        raise Unshown("not_object")
    name = text_of(item.get("page_label_name") or item.get("name"))
    if not name:
        raise Unshown("name_missing")
    return MirroredLabel(label_id=identifier(item.get("id")), name=name)


def identifier(value: Any) -> str:
    """An id: a string, or a JSON number with its own digits. Raises Unshown."""
    if type(value) is str and _ID(value) is not None:
        return value
    if type(value) is int and value in _ID_NUMBERS:
        return str(value)
    raise Unshown("id_missing" if value is None or value == "" else "id_malformed")


def optional_id(value: Any) -> str:
    """An id that nothing rests on; empty where there is none."""
    try:
        return identifier(value)
    except Unshown:
        return ""


def moment(value: Any) -> float | None:
    """A time; None for what is none, or is out of all reason."""
    if type(value) is str and _NUMBER(value) is None:
        found = _of_iso(value)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return None
        found = number / 1000 if number >= _MILLISECONDS_FROM else number
    else:
        return None
    return found if found is not None and EARLIEST <= found <= LATEST else None


def _of_iso(value: str) -> float | None:
    try:
        said = datetime.fromisoformat(value)
    except ValueError:
        return None
    try:
        return (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, OSError):
        return None


def text_of(value: Any) -> str:
    """A text as it may be stored: at most 64 KiB of UTF-8, with U+FFFD for NUL and for lone
    surrogates; empty for what is no text.
    """
    if type(value) is not str:
        return ""
    text: str = value
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    if not text.isascii():
        text = _LONE_SURROGATE.sub("\ufffd", text)
    if len(text) <= TEXT_MAX_BYTES // 4:  # no character is longer than four bytes
        return text
    return text.encode()[:TEXT_MAX_BYTES].decode(errors="ignore")


def _needed_moment(value: Any) -> float:
    found = moment(value)
    if found is None:
        raise Unshown("time_missing" if value is None else "time_malformed")
    return found


def _timestamp(at: float) -> Timestamp:
    seconds, milliseconds = divmod(round(at * 1000), 1000)
    return Timestamp(seconds=seconds, nanos=milliseconds * 1_000_000)


def _person(item: Json, messages: list[Any], own: Collection[str]) -> tuple[str, str] | None:
    """Who talks with the page: the participant that is not the page, else the first other one
    whom a message names (Meta leaves participants out who deleted their account).
    """
    named = [*_listed(item.get("participants")), *_listed(item.get("senders"))]
    for message in messages:
        if type(message) is dict:
            named += [message.get("from"), *_listed(message.get("to"))]
    for party in named:
        found = _id_within(party)
        if found and found not in own:
            return found, _name(party)
    return None


def _id_within(value: Any) -> str:
    return optional_id(value.get("id")) if type(value) is dict else ""


def _name(value: Any) -> str:
    return text_of(value.get("name") or value.get("username")) if type(value) is dict else ""


def _listed(value: Any) -> list[Any]:
    """The items of an edge nested in a node, or of a plain list; none where it is neither."""
    held = value.get("data") if type(value) is dict else value
    return held if type(held) is list else []


def _count(value: Any) -> int:
    return min(value, 2**31 - 1) if type(value) is int and value > 0 else 0


def _json(value: Any) -> str:
    """Its canonical JSON, left out where that is over 64 KiB, since half a document is none, or
    where it holds what has no JSON: a lone surrogate, a number beyond 64 bits.
    """
    try:
        document = _encode(value)
    except (OverflowError, ValueError):
        return ""
    return document.decode() if len(document) <= TEXT_MAX_BYTES else ""
