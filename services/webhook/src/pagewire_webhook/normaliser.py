"""A body's events: each item read by itself, by the kind of its entry, so that none costs another.

The body of a top-level array (as a page of the documentation prints it) is unwrapped: each element
is read as a body of its own, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pagewire_webhook import changes, messaging
from pagewire_webhook.entries import Entry
from pagewire_webhook.events import Comment, Event, Kind, Source
from pagewire_webhook.fields import identifier, optional_moment
from pagewire_webhook.reading import read
from pagewire_webhook.unreadable import Unread, Unreadable

MAX_ENTRIES = 1_000
MAX_ITEMS = 5_000
"""Events and unreadable items of a body together; Meta sends at most 1,000 updates in one."""

OBJECTS = frozenset({"page", "instagram", "whatsapp_business_account"})


class Normalised(msgspec.Struct, frozen=True, gc=False):
    """What a body says: its events in order, repeats left out, and what could not be read."""

    events: tuple[Event, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def outcome(self) -> str:
        """`parsed`, `partial` or `quarantined`."""
        if not self.unreadable:
            return "parsed"
        return "partial" if self.events else "quarantined"


def normalise(raw: bytes, received_ms: int) -> Normalised:
    """The events of any bytes at all; `received_ms` is when they had come whole. Never raises.

    A body over a limit is unreadable as a whole and gives no event.
    """
    reader = _Reader(received_ms)
    try:
        reader.body(read(raw))
    except Unread as why:
        return Normalised((), (Unreadable(why.reason),))
    return Normalised(tuple(reader.events.values()), tuple(reader.unreadable))


class _Reader:
    """Gathers one body's events by what makes them one."""

    def __init__(self, received_ms: int) -> None:
        self.events: dict[tuple[object, ...], Event] = {}
        self.unreadable: list[Unreadable] = []
        self._received = received_ms
        self._items = 0
        self._entries = 0

    def body(self, value: Any) -> None:
        """Raises Unread where the body as a whole can't be read."""
        if type(value) is not list:
            self._body(value, "")
            return
        if not value:
            raise Unread("body_not_object")
        for at, each in enumerate(value):
            try:
                self._body(each, f"[{at}].")
            except _TooMany:
                raise
            except Unread as why:
                self._quarantine(why, "", f"[{at}]")

    def _body(self, value: Any, prefix: str) -> None:
        if type(value) is not dict:
            raise Unread("body_not_object")
        entries = value.get("entry")
        if type(entries) is not list:
            raise Unread("entry_missing" if "entry" not in value else "entry_not_array")
        self._entries += len(entries)
        if self._entries > MAX_ENTRIES:
            raise _TooMany("entries_too_many")
        named = value.get("object")
        is_known = type(named) is str and named in OBJECTS  # what is no text has no hash, maybe
        if not is_known:
            self._quarantine(Unread("unknown_object"), "", prefix.removesuffix("."))
        for at, entry in enumerate(entries):
            self._entry(entry, f"{prefix}entry[{at}]", is_known)

    def _entry(self, value: Any, path: str, is_known: bool) -> None:
        if type(value) is not dict:
            self._quarantine(Unread("not_object"), "", path)
            return
        items = _items(value)
        if not items:
            if is_known and not _is_bare(value):
                self._quarantine(Unread("entry_unknown"), "", path)
            return
        try:
            page_id = identifier(value.get("id"))
        except Unread as why:
            self._quarantine(why, "", path)
            return
        sent = optional_moment(value.get("time"), self._received)
        entry = Entry(page_id, self._received, sent)
        for name, read_items, held in items:
            if type(held) is not list:
                self._quarantine(Unread("not_array"), page_id, f"{path}.{name}")
                continue
            for at, item in enumerate(held):
                try:
                    for event in read_items(item, entry):
                        self._take(event, is_known)
                except _TooMany:
                    raise
                except Unread as why:
                    self._quarantine(why, page_id, f"{path}.{name}[{at}]")

    def _take(self, event: Event, is_known: bool) -> None:
        self._count()
        # Of an object that is not known, what has no known shape is no event of a page.
        if not is_known and event.kind is Kind.UNKNOWN:
            return
        identity = _identity(event)
        known = self.events.get(identity)
        if known is None or _wins(event, known):
            self.events[identity] = event

    def _quarantine(self, why: Unread, page_id: str, path: str) -> None:
        self._count()
        self.unreadable.append(Unreadable(why.reason, page_id, path))

    def _count(self) -> None:
        self._items += 1
        if self._items > MAX_ITEMS:
            raise _TooMany("events_too_many")


class _TooMany(Unread):
    """A limit of the whole body."""


_Items = tuple[str, Callable[[Any, Entry], Iterator[Event]], Any]


def _items(entry: dict[str, Any]) -> list[_Items]:
    """The kinds of items that an entry holds, each with its reader; all may stand in one entry."""
    items = [
        (name, read_items, held)
        for name, read_items in _READERS.items()
        if (held := entry.get(name)) is not None
    ]
    if "field" in entry and "value" in entry:  # comments under Instagram login, and tests
        change = {"field": entry["field"], "value": entry["value"]}
        items.append(("value", changes.events_of, [change]))
    return items


def _is_bare(entry: dict[str, Any]) -> bool:
    """Whether it says nothing, or only the names of fields that changed."""
    return all(name in _BARE or held is None for name, held in entry.items())


_BARE = frozenset({"id", "uid", "time", "changed_fields"})

_LIVE = Source.LIVE


def _live(item: Any, entry: Entry) -> Iterator[Event]:
    return messaging.events_of(item, entry, _LIVE)


def _standby(item: Any, entry: Entry) -> Iterator[Event]:
    return messaging.events_of(item, entry, Source.STANDBY)


_READERS: dict[str, Callable[[Any, Entry], Iterator[Event]]] = {
    "messaging": _live,
    "standby": _standby,
    "changes": changes.events_of,
}


def _identity(event: Event) -> tuple[object, ...]:
    """What makes two events one; a state without a key is one with the same state of its time."""
    if event.key or not isinstance(event.detail, Comment):
        return (event.page_id, event.key)
    return (event.page_id, event.kind, event.detail.comment_id, event.sent_time)


def _wins(event: Event, known: Event) -> bool:
    """The first of repeats counts, save that live beats standby, and the last state the others."""
    if not event.key:
        return True
    return event.source is Source.LIVE and known.source is Source.STANDBY
