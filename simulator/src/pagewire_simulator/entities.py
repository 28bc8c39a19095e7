"""The things Meta keeps: accounts, people, conversations, messages, posts, comments, labels.

Times are Unix milliseconds. On Facebook a person who comments appears under an app-scoped id that
is not the PSID of the same person's conversation; on Instagram both are the IGSID.
"""

from enum import StrEnum
from typing import Any

import msgspec


class Platform(StrEnum):
    MESSENGER = "messenger"
    INSTAGRAM = "instagram"


class Host(StrEnum):
    """The two hosts of Graph; also how an account was connected (its login)."""

    FACEBOOK = "facebook"
    INSTAGRAM = "instagram"


class TokenState(StrEnum):
    VALID = "valid"
    EXPIRED = "expired"
    PASSWORD_CHANGED = "password_changed"
    APP_REMOVED = "app_removed"
    ROLE_LOST = "role_lost"
    CHECKPOINTED = "checkpointed"


class TokenKind(StrEnum):
    ACCOUNT = "account"
    USER = "user"


class Token(msgspec.Struct, kw_only=True):
    """An access token. ``node`` is the Page, Instagram account or user that it speaks for."""

    value: str
    node: str
    host: Host
    kind: TokenKind = TokenKind.ACCOUNT
    state: TokenState = TokenState.VALID
    issued_at: int = 0
    expires_at: int = 0


class User(msgspec.Struct, kw_only=True, frozen=True):
    """Someone who has tasks on Pages (their account ids)."""

    id: str
    name: str
    pages: tuple[str, ...]


class Account(msgspec.Struct, kw_only=True, frozen=True):
    """A Page's Messenger side, or an Instagram account.

    ``id`` is what webhooks carry as ``entry.id``; ``node`` is the path of its Graph calls: the
    linked Page for Instagram accounts connected by Facebook login, else ``id``.
    """

    id: str
    platform: Platform
    login: Host
    name: str
    username: str
    node: str
    self_igsid: str

    @property
    def object(self) -> str:
        return "page" if self.platform is Platform.MESSENGER else "instagram"


class Person(msgspec.Struct, kw_only=True):
    """Someone who writes: ``id`` is the PSID or IGSID, ``commenter_id`` the author of comments."""

    id: str
    account_id: str
    commenter_id: str
    name: str
    username: str
    blocked: bool = False


class Message(msgspec.Struct, kw_only=True):
    """``unsupported``: Meta can't show what it holds. ``story``: what of a story it speaks of,
    ``reply_to`` or ``mention`` and the story's id (Instagram). ``deleted``: unsent by its author.
    """

    mid: str
    account_id: str
    person_id: str
    inbound: bool
    created_at: int
    text: str | None = None
    attachments: tuple[dict[str, Any], ...] = ()
    app_id: str | None = None
    metadata: str | None = None
    comment_id: str | None = None
    reply_to: str | None = None
    story: tuple[str, str] | None = None
    unsupported: bool = False
    deleted: bool = False


class Conversation(msgspec.Struct, kw_only=True):
    """All messages with one person, oldest first; ``last_inbound`` opens the reply window.

    ``poison``: Graph fails on whatever shows more of it than its id and time.
    """

    thread_id: str
    account_id: str
    person_id: str
    messages: list[Message] = []
    last_inbound: int | None = None
    folder: str = "inbox"
    poison: bool = False

    @property
    def updated_at(self) -> int:
        return self.messages[-1].created_at if self.messages else 0

    @property
    def unread(self) -> int:
        """How many messages came since the account last wrote."""
        count = 0
        for message in reversed(self.messages):
            if not message.inbound:
                break
            count += 1
        return count


class Post(msgspec.Struct, kw_only=True, frozen=True):
    """A post of a Page (``ad``: shown as an advertisement only), or a medium on Instagram."""

    id: str
    account_id: str
    created_at: int
    text: str
    ad: bool = False


class Comment(msgspec.Struct, kw_only=True):
    """``person_id`` is None for the account's own; ``parent_id`` None at the top level.

    ``attachment``: a type and an address (Facebook).
    """

    id: str
    account_id: str
    post_id: str
    parent_id: str | None
    person_id: str | None
    from_id: str
    from_name: str
    text: str
    created_at: int
    attachment: tuple[str, str] | None = None
    hidden: bool = False
    deleted: bool = False
    private_reply_mid: str | None = None


class Label(msgspec.Struct, kw_only=True):
    id: str
    account_id: str
    name: str
    people: set[str] = set()
