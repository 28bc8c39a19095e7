"""The rules of the Send API: who may be written to, when, and with what.

Pure. Refuses as Graph does (raises ``Refused``, nothing changed) or creates the message. There is
no idempotency: the same request twice makes two messages. Source: the Send API, private reply and
rate limit pages; codes as in ``refusals``.
"""

from typing import Any

import msgspec

from pagewire_simulator import refusals
from pagewire_simulator.entities import Account, Comment, Host, Message, Person, Platform
from pagewire_simulator.limits import SendLimits
from pagewire_simulator.refusals import Refused, parameter
from pagewire_simulator.world import World

HOUR = 3_600_000
DAY = 24 * HOUR
TEXT_CHARACTERS = 2000
INSTAGRAM_TEXT_BYTES = 1000
METADATA_CHARACTERS = 1000
QUICK_REPLIES = 13
MESSAGING_TYPES = {"RESPONSE", "UPDATE", "MESSAGE_TAG", "UTILITY"}
SENDER_ACTIONS = {"typing_on", "typing_off", "mark_seen", "react", "unreact"}
HEAVY = {"audio", "video"}


class Content(msgspec.Struct, kw_only=True):
    """The parameter ``message``."""

    text: str | None = None
    attachment: dict[str, Any] | None = None
    quick_replies: list[Any] = []
    metadata: str | None = None


class SendRequest(msgspec.Struct, kw_only=True):
    """The parameters of ``POST /{node}/messages``, already decoded from JSON or form."""

    recipient: dict[str, Any] = {}
    message: Content | None = None
    messaging_type: str | None = None
    tag: str | None = None
    sender_action: str | None = None


class Sent(msgspec.Struct, kw_only=True):
    """What a request did; ``message`` is None for a sender action."""

    recipient_id: str
    message: Message | None


def account_addressed(world: World, account: Account, request: SendRequest) -> Account:
    """Which account of the node is meant: a Page speaks for its linked Instagram account too."""
    comment = world.find_comment(str(request.recipient.get("comment_id", "")))
    person_id = str(request.recipient.get("id", ""))
    for candidate in world.accounts_of(account.node):
        if comment and comment.account_id == candidate.id:
            return candidate
        if world.find_person(candidate, person_id):
            return candidate
    return account


def accept(
    world: World,
    limits: SendLimits,
    account: Account,
    request: SendRequest,
    *,
    host: Host,
    now: int,
) -> Sent:
    """Takes a send for the account, or raises Refused."""
    check_shape(account, request)
    if request.sender_action:
        return Sent(recipient_id=recipient(world, account, request).id, message=None)

    comment = None
    if "comment_id" in request.recipient:
        comment = commented(world, account, str(request.recipient["comment_id"]), now)
        person = world.person(account, comment.person_id or "")
    else:
        person = recipient(world, account, request)
        check_window(world, account, person, request, host, now)
    if person.blocked:
        raise Refused(refusals.PERSON_UNAVAILABLE)
    content = request.message or Content()
    heavy = (content.attachment or {}).get("type") in HEAVY
    limits.take(account, person, heavy=heavy, private=comment is not None, now=now)
    message = create(world, account, person, content, comment, now)
    return Sent(recipient_id=person.id, message=message)


def create(
    world: World,
    account: Account,
    person: Person,
    content: Content,
    comment: Comment | None,
    now: int,
) -> Message:
    return world.send(
        account,
        person,
        now,
        app_id=world.app_id,
        text=content.text,
        attachments=(content.attachment,) if content.attachment else (),
        metadata=content.metadata,
        comment=comment,
    )


def check_shape(account: Account, request: SendRequest) -> None:
    """What can be refused by looking at the request alone."""
    if request.sender_action and request.message:
        raise Refused(refusals.MESSAGE_AND_ACTION)
    if request.sender_action:
        if request.sender_action.lower() not in SENDER_ACTIONS:
            raise Refused(parameter("Param sender_action must be one of the known actions"))
        return
    check_content(account, request.message or Content())
    kind = request.messaging_type
    if kind is not None and kind not in MESSAGING_TYPES:
        raise Refused(parameter("Param messaging_type must be one of the known types"))
    if kind is None and account.platform is Platform.MESSENGER:
        raise Refused(parameter("The parameter messaging_type is required"))
    if (kind == "MESSAGE_TAG") != (request.tag is not None):
        raise Refused(parameter("A tag is required with messaging_type MESSAGE_TAG, and only then"))
    if request.tag not in (None, "HUMAN_AGENT"):
        raise Refused(parameter("Invalid message tag: retired, or not allowed for this message"))


def check_content(account: Account, content: Content) -> None:
    text = content.text or ""
    on_instagram = account.platform is Platform.INSTAGRAM
    if not text and not content.attachment:
        raise Refused(refusals.MESSAGE_EMPTY)
    if not on_instagram and len(text) >= TEXT_CHARACTERS:
        raise Refused(parameter("Length of param message[text] must be less than 2000"))
    if on_instagram and len(text.encode()) > INSTAGRAM_TEXT_BYTES:
        raise Refused(parameter("Length of param message[text] must be at most 1000 bytes"))
    if len(content.metadata or "") >= METADATA_CHARACTERS:
        raise Refused(parameter("Length of param message[metadata] must be less than 1000"))
    if len(content.quick_replies) > QUICK_REPLIES:
        raise Refused(parameter("Param message[quick_replies] has too many elements"))


def recipient(world: World, account: Account, request: SendRequest) -> Person:
    person = world.find_person(account, str(request.recipient.get("id", "")))
    if person is None:
        on_messenger = account.platform is Platform.MESSENGER
        raise Refused(refusals.NO_MATCHING_USER if on_messenger else refusals.NO_MATCHING_IGSID)
    return person


def check_window(
    world: World, account: Account, person: Person, request: SendRequest, host: Host, now: int
) -> None:
    """24 hours from the person's last message; 7 days with HUMAN_AGENT."""
    allowed = 7 * DAY if request.tag == "HUMAN_AGENT" else DAY
    last = world.conversation(account, person).last_inbound
    if last is not None and now - last <= allowed:
        return
    if account.platform is Platform.MESSENGER:
        raise Refused(refusals.WINDOW_MESSENGER)
    on_own_host = host is Host.INSTAGRAM
    raise Refused(refusals.WINDOW_INSTAGRAM_HOST if on_own_host else refusals.WINDOW_INSTAGRAM)


def commented(world: World, account: Account, comment_id: str, now: int) -> Comment:
    """The comment that a private reply answers: a person's, not older than 7 days, only once."""
    comment = world.find_comment(comment_id)
    answerable = (
        comment is not None
        and comment.account_id == account.id
        and comment.person_id is not None
        and comment.private_reply_mid is None
        and now - comment.created_at <= 7 * DAY
    )
    if comment is None or not answerable:
        raise Refused(refusals.PRIVATE_REPLY_REFUSED)
    return comment
