"""An entry of a body: the account it is about, when it was sent, and the events made of it."""

from __future__ import annotations

from typing import Any

import msgspec

from pagewire_webhook import keys
from pagewire_webhook.events import Detail, Event, Kind, Other, Source, Space, Trigger
from pagewire_webhook.fields import Clip, clamped

PAGE_LANE = "page"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What the items of one entry share."""

    page_id: str
    """The account, from entry.id: the only field that names it whatever the direction."""
    received: int
    """When the body had come whole, in milliseconds."""
    sent: int | None
    """entry.time, clamped; None where it is absent or no time."""


class Author(msgspec.Struct, frozen=True, gc=False):
    """Whom an event is about."""

    person_id: str = ""
    id_space: Space = Space.NONE
    name: str = ""
    is_own: bool = False
    """Whether the page itself wrote it."""


def event(
    entry: Entry,
    kind: Kind,
    key: str,
    detail: Detail,
    *,
    said: int | None,
    clip: Clip,
    author: Author,
    lane: str,
    trigger: Trigger = Trigger.NONE,
    source: Source = Source.LIVE,
) -> Event:
    """The event; `said` is its own time as Meta gave it.

    The trigger stands only where a rule could ever answer, so never on the page's own.
    """
    time = entry.received if said is None else clamped(said, entry.received)
    return Event(
        page_id=entry.page_id,
        kind=kind,
        trigger=Trigger.NONE if author.is_own else trigger,
        source=source,
        key=key,
        lane=lane,
        person_id=author.person_id,
        id_space=author.id_space,
        person_name=author.name,
        event_time=time,
        clock_suspect=time != said,
        sent_time=entry.sent,
        is_own=author.is_own,
        truncated=clip.cut,
        detail=detail,
    )


def kept(
    entry: Entry,
    kind: Kind,
    item: Any,
    *,
    key: str | None = None,
    said: int | None = None,
    author: Author | None = None,
    lane: str = PAGE_LANE,
    source: Source = Source.LIVE,
) -> Event:
    """The event for an item that is kept as it came; keyed by its hash where it has no key."""
    clip = Clip()
    detail = Other(clip.json(item))
    return event(
        entry,
        kind,
        keys.of_item(kind.word, item) if key is None else key,
        detail,
        said=said,
        clip=clip,
        author=author or Author(),
        lane=lane,
        source=source,
    )
