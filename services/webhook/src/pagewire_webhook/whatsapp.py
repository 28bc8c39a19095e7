"""WhatsApp's changes: messages and statuses, kept under the account that the entry names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pagewire_webhook import keys
from pagewire_webhook.entries import PAGE_LANE, Author, Entry, kept
from pagewire_webhook.events import Event, Kind, Space
from pagewire_webhook.fields import Clip, identifier, mapping, moment, optional_id, word_id
from pagewire_webhook.unreadable import Unread


def events_of(change: dict[str, Any], value: dict[str, Any], entry: Entry) -> Iterator[Event]:
    """The events of one value; UNKNOWN where it holds neither messages nor statuses.

    Raises Unread after the last that can be read.
    """
    messages, statuses = _items(value, "messages"), _items(value, "statuses")
    if not messages and not statuses:
        yield kept(entry, Kind.UNKNOWN, change)
        return
    unread: Unread | None = None
    for read, items in ((_message, messages), (_status, statuses)):
        for item in items:
            try:
                yield read(item, value, entry)
            except Unread as why:
                unread = why
    if unread is not None:
        raise unread


def _items(value: dict[str, Any], name: str) -> list[Any]:
    held = value.get(name)
    return held if type(held) is list else []


def _message(item: Any, value: dict[str, Any], entry: Entry) -> Event:
    """Who has a user name may have no number, and is named by `from_user_id` then."""
    message = _object(item)
    key = keys.key("wamid", word_id(message.get("id")))
    person = identifier(message.get("from") or message.get("from_user_id"))
    author = Author(person, Space.MESSAGING, _name_of(person, value))
    return _kept(entry, Kind.WHATSAPP_MESSAGE, message, key, author)


def _status(item: Any, value: dict[str, Any], entry: Entry) -> Event:
    status = _object(item)
    time = keys.time_part(moment(status.get("timestamp")))
    key = keys.key("wamid", word_id(status.get("id")), keys.part(status.get("status")), time)
    person = optional_id(status.get("recipient_id"))
    author = Author(person, Space.MESSAGING if person else Space.NONE)
    return _kept(entry, Kind.WHATSAPP_STATUS, status, key, author)


def _object(item: Any) -> dict[str, Any]:
    if type(item) is not dict:
        raise Unread("not_object")
    return item


def _kept(entry: Entry, kind: Kind, item: dict[str, Any], key: str, author: Author) -> Event:
    said = moment(item.get("timestamp"))
    lane = f"person:{author.person_id}" if author.person_id else PAGE_LANE
    return kept(entry, kind, item, key=key, said=said, author=author, lane=lane)


def _name_of(person: str, value: dict[str, Any]) -> str:
    for contact in map(mapping, _items(value, "contacts")):
        if person in (contact.get("wa_id"), contact.get("user_id")):
            name = mapping(contact.get("profile")).get("name")
            return Clip().text(name)
    return ""
