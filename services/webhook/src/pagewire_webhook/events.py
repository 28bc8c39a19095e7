"""The normalised event: plain values, named and numbered as the contract's type.v1.Event.

Times are milliseconds since 1970 in UTC. An empty text stands for an absent one. None of these
values can be part of a cycle, so the collector need not look at them (`gc=False`).
"""

from __future__ import annotations

import enum

import msgspec


class Kind(enum.IntEnum):
    """What an event reports; the numbers are those of EventKind."""

    MESSAGE = 1
    ECHO = 2
    MESSAGE_DELETED = 3
    MESSAGE_EDIT = 4
    POSTBACK = 5
    REACTION = 6
    READ = 7
    DELIVERY = 8
    REFERRAL = 9
    OPTIN = 10
    ACCOUNT_LINKING = 11
    GAME_PLAY = 12
    MESSAGING_FEEDBACK = 13
    RESPONSE_FEEDBACK = 14
    CUSTOMER_INFORMATION = 15
    PASS_THREAD_CONTROL = 16
    TAKE_THREAD_CONTROL = 17
    REQUEST_THREAD_CONTROL = 18
    APP_ROLES = 19
    POLICY_ENFORCEMENT = 20
    COMMENT = 21
    COMMENT_EDITED = 22
    COMMENT_REMOVED = 23
    COMMENT_HIDDEN = 24
    FEED_REACTION = 25
    FEED_OTHER = 26
    MENTION = 27
    WHATSAPP_MESSAGE = 28
    WHATSAPP_STATUS = 29
    TEST = 30
    UNKNOWN = 31

    @property
    def word(self) -> str:
        """How keys and metrics name it."""
        return self.name.lower()


class Trigger(enum.IntEnum):
    """What a rule can name an event by; the numbers are those of Trigger."""

    NONE = 0
    MESSAGE = 1
    COMMENT = 2
    POSTBACK = 3
    STORY_MENTION = 4
    STORY_REPLY = 5
    REFERRAL = 6
    REACTION = 7
    OPTIN = 8


class Source(enum.IntEnum):
    """How an event came; the numbers are those of Source. Recovered ones come by no webhook."""

    LIVE = 1
    STANDBY = 2


class Space(enum.IntEnum):
    """The space in which a person's id is unique; the numbers are those of IdSpace."""

    NONE = 0
    MESSAGING = 1
    COMMENTER = 2
    USER_REF = 3


class Attachment(msgspec.Struct, frozen=True, gc=False):
    """As Attachment; `payload` is canonical JSON."""

    type: str
    url: str = ""
    title: str = ""
    payload: str = ""


class Referral(msgspec.Struct, frozen=True, gc=False):
    """As ReferralDetail; `payload` is the whole of it as canonical JSON."""

    ref: str
    source: str
    type: str
    ad_id: str
    payload: str


class Message(msgspec.Struct, frozen=True, gc=False):
    """As MessageDetail: a message's or an echo's content."""

    mid: str
    text: str
    attachments: tuple[Attachment, ...] = ()
    quick_reply_payload: str = ""
    reply_to_mid: str = ""
    story_id: str = ""
    story_url: str = ""
    referral: Referral | None = None
    is_unsupported: bool = False
    app_id: str = ""
    metadata: str = ""
    is_self: bool = False


class Deletion(msgspec.Struct, frozen=True, gc=False):
    """As MessageRef: the message that was unsent."""

    mid: str


class Edit(msgspec.Struct, frozen=True, gc=False):
    """As MessageEditDetail."""

    mid: str
    text: str | None
    number: int


class Postback(msgspec.Struct, frozen=True, gc=False):
    """As PostbackDetail."""

    mid: str
    title: str
    payload: str
    referral: Referral | None


class Reaction(msgspec.Struct, frozen=True, gc=False):
    """As ReactionDetail."""

    mid: str
    removed: bool
    reaction: str
    emoji: str


class Read(msgspec.Struct, frozen=True, gc=False):
    """As ReadDetail: a watermark on Messenger, a mid on Instagram."""

    watermark: int | None
    mid: str


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """As DeliveryDetail."""

    watermark: int | None
    mids: tuple[str, ...]


class Optin(msgspec.Struct, frozen=True, gc=False):
    """As OptinDetail."""

    type: str
    ref: str
    payload: str
    status: str
    user_ref: str


class Comment(msgspec.Struct, frozen=True, gc=False):
    """As CommentDetail."""

    comment_id: str
    post_id: str
    parent_id: str
    text: str | None = None
    attachments: tuple[Attachment, ...] = ()
    hidden: bool = False
    edit_time: int | None = None
    is_live: bool = False
    ad_id: str = ""


class FeedReaction(msgspec.Struct, frozen=True, gc=False):
    """As FeedReactionDetail."""

    target_id: str
    reaction: str
    removed: bool


class Mention(msgspec.Struct, frozen=True, gc=False):
    """As MentionDetail."""

    media_id: str
    comment_id: str


class Other(msgspec.Struct, frozen=True, gc=False):
    """As OtherDetail: canonical JSON, left out where it is over the limit."""

    json: str


Detail = (
    Message
    | Deletion
    | Edit
    | Postback
    | Reaction
    | Read
    | Receipt
    | Referral
    | Optin
    | Comment
    | FeedReaction
    | Mention
    | Other
)


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """As Event."""

    page_id: str
    kind: Kind
    trigger: Trigger = Trigger.NONE
    source: Source = Source.LIVE
    key: str
    lane: str
    person_id: str = ""
    id_space: Space = Space.NONE
    person_name: str = ""
    event_time: int
    clock_suspect: bool
    sent_time: int | None
    is_own: bool = False
    truncated: bool = False
    detail: Detail
