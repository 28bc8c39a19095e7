"""Items of `messaging` and `standby`: what people and other apps do in a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pagewire_webhook import dashboard, keys
from pagewire_webhook.attachments import attachments_of
from pagewire_webhook.entries import PAGE_LANE, Author, Entry, event, kept
from pagewire_webhook.events import (
    Deletion,
    Detail,
    Edit,
    Event,
    Kind,
    Message,
    Optin,
    Postback,
    Reaction,
    Read,
    Receipt,
    Referral,
    Source,
    Space,
    Trigger,
)
from pagewire_webhook.fields import Clip, clamped, identifier, mapping, moment, optional_id, word_id
from pagewire_webhook.unreadable import Unread

_INT32 = range(2**31)

# An enum's attribute is looked up by a function, which costs as much as a whole event's field.
_MESSAGE, _BY_MESSAGE, _MESSAGING = Kind.MESSAGE, Trigger.MESSAGE, Space.MESSAGING


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What every item has around what it reports."""

    entry: Entry
    item: dict[str, Any]
    source: Source
    sender: str
    """Who did it: the id, or the user_ref of a plugin; empty where the item names nobody."""
    said: int | None
    author: Author
    clip: Clip

    @property
    def lane(self) -> str:
        """A person's own where one can be written to, else the page's."""
        if self.author.id_space is _MESSAGING:
            return f"person:{self.author.person_id}"
        return PAGE_LANE

    def event(self, kind: Kind, key: str, detail: Detail, trigger: Trigger = Trigger.NONE) -> Event:
        """The event; no rule can answer where nobody can be written to."""
        lane = self.lane
        return event(
            self.entry,
            kind,
            key,
            detail,
            said=self.said,
            clip=self.clip,
            author=self.author,
            lane=lane,
            trigger=Trigger.NONE if lane is PAGE_LANE else trigger,
            source=self.source,
        )

    def kept(self, kind: Kind, held: Any, key: str | None = None) -> Event:
        """The event of a kind that is kept as it came: `held`, keyed by the item's hash."""
        return kept(
            self.entry,
            kind,
            held,
            key=keys.of_item(kind.word, self.item) if key is None else key,
            said=self.said,
            author=self.author,
            lane=self.lane,
            source=self.source,
        )

    def needs_sender(self) -> None:
        """Raises Unread where the item names nobody, as only some kinds may."""
        if not self.sender:
            raise Unread("sender_missing")


def events_of(item: Any, entry: Entry, source: Source) -> Iterator[Event]:
    """An item's events: one, but each known kind in it makes its own.

    Raises Unread after the last of those that can be read. An item without any known kind is an
    event of kind UNKNOWN; a known kind that is no object is unreadable.
    """
    if type(item) is not dict:
        raise Unread("not_object")
    if dashboard.is_test_of_messaging(entry.page_id, item):
        yield kept(entry, Kind.TEST, item)
        return
    frame = _frame(item, entry, source)
    names = [name for name in item if name in _READERS]
    if not names:
        yield frame.kept(Kind.UNKNOWN, item)
        return
    unread: Unread | None = None
    for name in names:
        try:
            yield _READERS[name](frame, _object(item[name]))
        except Unread as why:
            unread = why
    if unread is not None:
        raise unread


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise Unread("not_object")
    return value


def _frame(item: dict[str, Any], entry: Entry, source: Source) -> Frame:
    sender, user_ref, name = _party(item.get("sender"))
    recipient, _, recipient_name = _party(item.get("recipient"))
    said = moment(item.get("timestamp"))
    clip = Clip()
    page = entry.page_id
    is_echo = mapping(item.get("message")).get("is_echo") is True
    is_own = is_echo or (sender != "" and sender in (page, recipient))
    if not is_own and recipient not in ("", page):
        raise Unread("recipient_mismatch")
    # Old pages of the documentation print an echo's two sides the other way round.
    first, second = (recipient, sender) if is_echo or sender == page else (sender, recipient)
    person = first if first != page else second if second != page else ""
    if person:
        label = recipient_name if person == recipient else name
        author = Author(person, _MESSAGING, clip.text(label), is_own)
    elif user_ref and not sender:
        author = Author(user_ref, Space.USER_REF, clip.text(name), is_own)
    else:
        author = Author(is_own=is_own)
    return Frame(entry, item, source, sender or user_ref, said, author, clip)


def _party(value: Any) -> tuple[str, str, Any]:
    """The id, the user_ref and the name of a sender or recipient, empty where it has none."""
    if value is None:
        return "", "", None
    party = _object(value)
    found = party.get("id")
    if found is not None:
        return identifier(found), "", party.get("name")
    user_ref = party.get("user_ref")
    return "", "" if user_ref is None else identifier(user_ref), party.get("name")


def _message(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    mid = word_id(value.get("mid"))
    is_echo = value.get("is_echo") is True
    if is_echo and not frame.author.person_id:
        raise Unread("id_missing")
    if value.get("is_deleted") is True:
        return frame.event(Kind.MESSAGE_DELETED, keys.key("deleted", mid), Deletion(mid))
    message = _content(mid, value, frame.clip)
    if is_echo:
        return frame.event(Kind.ECHO, keys.key("echo", mid), message)
    return frame.event(_MESSAGE, keys.key("message", mid), message, _trigger_of(message))


def _trigger_of(message: Message) -> Trigger:
    if message.is_self:
        return Trigger.NONE
    if message.story_id or message.story_url:
        return Trigger.STORY_REPLY
    if any(each.type == "story_mention" for each in message.attachments):
        return Trigger.STORY_MENTION
    return _BY_MESSAGE


def _content(mid: str, value: dict[str, Any], clip: Clip) -> Message:
    if len(value) == 2 and "text" in value:  # beside the mid: most messages
        return Message(mid, clip.text(value["text"]))
    reply_to = mapping(value.get("reply_to"))
    story = mapping(reply_to.get("story"))
    return Message(
        mid=mid,
        text=clip.text(value.get("text")),
        attachments=attachments_of(value.get("attachments"), clip),
        quick_reply_payload=clip.text(mapping(value.get("quick_reply")).get("payload")),
        reply_to_mid=optional_id(reply_to.get("mid")),
        story_id=optional_id(story.get("id")),
        story_url=clip.text(story.get("url")),
        referral=_referral_in(value, clip),
        is_unsupported=value.get("is_unsupported") is True,
        app_id=optional_id(value.get("app_id")),
        metadata=clip.text(value.get("metadata")),
        is_self=value.get("is_self") is True,
    )


def _edit(frame: Frame, value: dict[str, Any]) -> Event:
    """On Instagram new messages come as edits numbered 0, without text, often without people."""
    mid = word_id(value.get("mid"))
    number = _edit_number(value.get("num_edit"))
    said = value.get("text")
    text = frame.clip.text(said) if type(said) is str else None
    key = keys.of_item("edit", frame.item) if number is None else keys.key("edit", mid, number)
    return frame.event(Kind.MESSAGE_EDIT, key, Edit(mid, text, number or 0))


def _edit_number(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 11:
        value = int(value)
    if type(value) is not int or value not in _INT32:
        raise Unread("number_malformed")
    return value


def _postback(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    mid = value.get("mid")
    payload = value.get("payload")
    if mid is None:  # before version 11 of the API
        time = keys.time_part(frame.said)
        hashed = keys.digest(payload if type(payload) is str else keys.canonical(payload))
        key = keys.key("postback", frame.sender, time, hashed)
    else:
        key = keys.key("postback", word_id(mid))
    detail = Postback(
        mid or "",
        frame.clip.text(value.get("title")),
        frame.clip.text(payload),
        _referral_in(value, frame.clip),
    )
    return frame.event(Kind.POSTBACK, key, detail, Trigger.POSTBACK)


def _reaction(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    mid = word_id(value.get("mid"))
    removed = value.get("action") == "unreact"
    word = "unreact" if removed else "react"
    detail = Reaction(
        mid,
        removed,
        frame.clip.text(value.get("reaction")),
        frame.clip.text(value.get("emoji")),
    )
    key = keys.key("reaction", mid, frame.sender, word, keys.time_part(frame.said))
    return frame.event(Kind.REACTION, key, detail, Trigger.NONE if removed else Trigger.REACTION)


def _read(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    watermark = moment(value.get("watermark"))
    if watermark is not None:
        time = clamped(watermark, frame.entry.received)
        return frame.event(Kind.READ, keys.key("read", frame.sender, watermark), Read(time, ""))
    mid = word_id(value.get("mid"))
    return frame.event(Kind.READ, keys.key("read", frame.sender, mid), Read(None, mid))


def _delivery(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    watermark = moment(value.get("watermark"))
    listed = value.get("mids")
    mids = tuple(filter(None, map(optional_id, listed if type(listed) is list else ())))
    if watermark is None:
        key = keys.of_item("delivery", frame.item)
        return frame.event(Kind.DELIVERY, key, Receipt(None, mids))
    time = clamped(watermark, frame.entry.received)
    key = keys.key("delivery", frame.sender, watermark)
    return frame.event(Kind.DELIVERY, key, Receipt(time, mids))


def _referral(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    detail = _referral_of(value, frame.clip)
    hashed = keys.digest(f"{detail.ref}\n{detail.ad_id}")
    key = keys.key("referral", frame.sender, keys.time_part(frame.said), hashed)
    return frame.event(Kind.REFERRAL, key, detail, Trigger.REFERRAL)


def _referral_in(value: dict[str, Any], clip: Clip) -> Referral | None:
    held = value.get("referral")
    return _referral_of(held, clip) if type(held) is dict else None


def _referral_of(value: dict[str, Any], clip: Clip) -> Referral:
    return Referral(
        ref=clip.text(value.get("ref")),
        source=clip.text(value.get("source")),
        type=clip.text(value.get("type")),
        ad_id=optional_id(value.get("ad_id")),
        payload=clip.json(value),
    )


def _optin(frame: Frame, value: dict[str, Any]) -> Event:
    """A plugin's names a user_ref instead of a sender; a stop is no permission to write."""
    user_ref = "" if value.get("user_ref") is None else identifier(value["user_ref"])
    if not frame.sender and not user_ref:
        raise Unread("sender_missing")
    if not frame.author.person_id:
        author = Author(user_ref, Space.USER_REF, is_own=frame.author.is_own)
        frame = msgspec.structs.replace(frame, author=author)
    token = value.get("notification_messages_token") or value.get("one_time_notif_token")
    status = value.get("notification_messages_status")
    key = keys.key(
        "optin",
        frame.sender or user_ref,
        keys.part(token or value.get("ref")),
        keys.part(status),
        keys.time_part(frame.said),
    )
    clip = frame.clip
    detail = Optin(
        type=clip.text(value.get("type")),
        ref=clip.text(value.get("ref")),
        payload=clip.text(value.get("payload")),
        status=clip.text(status),
        user_ref=user_ref,
    )
    trigger = Trigger.NONE if detail.status.startswith("STOP") else Trigger.OPTIN
    return frame.event(Kind.OPTIN, key, detail, trigger)


def _timed(kind: Kind) -> Callable[[Frame, dict[str, Any]], Event]:
    """For kinds without an id: keyed by who, when and what."""

    def read(frame: Frame, value: dict[str, Any]) -> Event:
        hashed = keys.digest(keys.canonical(value))
        time = keys.time_part(frame.said)
        key = keys.key(kind.word, frame.sender or keys.NONE, time, hashed)
        return frame.kept(kind, frame.item, key)

    return read


def _messaging_feedback(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    hashed = keys.digest(keys.canonical(value))
    key = keys.key("messaging_feedback", frame.sender, hashed)
    return frame.kept(Kind.MESSAGING_FEEDBACK, frame.item, key)


def _response_feedback(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    mid = word_id(value.get("mid"))
    key = keys.key("response_feedback", mid, frame.sender, keys.part(value.get("feedback")))
    return frame.kept(Kind.RESPONSE_FEEDBACK, frame.item, key)


def _customer_information(frame: Frame, value: dict[str, Any]) -> Event:
    frame.needs_sender()
    return frame.kept(Kind.CUSTOMER_INFORMATION, frame.item)


_READERS: dict[str, Callable[[Frame, dict[str, Any]], Event]] = {
    "message": _message,
    "message_edit": _edit,
    "postback": _postback,
    "reaction": _reaction,
    "read": _read,
    "delivery": _delivery,
    "referral": _referral,
    "optin": _optin,
    "account_linking": _timed(Kind.ACCOUNT_LINKING),
    "game_play": _timed(Kind.GAME_PLAY),
    "messaging_feedback": _messaging_feedback,
    "response_feedback": _response_feedback,
    "messaging_customer_information": _customer_information,
    "pass_thread_control": _timed(Kind.PASS_THREAD_CONTROL),
    "take_thread_control": _timed(Kind.TAKE_THREAD_CONTROL),
    "request_thread_control": _timed(Kind.REQUEST_THREAD_CONTROL),
    "app_roles": _timed(Kind.APP_ROLES),
    "policy_enforcement": _timed(Kind.POLICY_ENFORCEMENT),
    "policy-enforcement": _timed(Kind.POLICY_ENFORCEMENT),  # as older payloads spell it
}
