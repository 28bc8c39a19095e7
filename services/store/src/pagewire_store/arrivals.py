"""A delivery as it waits to be stored: checked, its events keyed, its lanes known."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.ingest_service_pb2 import Delivery
from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_COMMENT_HIDDEN,
    SOURCE_LIVE,
    SOURCE_RECOVERED,
    SOURCE_STANDBY,
    Event,
)
from pagewire_runtime.errors import InvalidArgument
from pagewire_store.ids import parse_number
from pagewire_store.projections import timestamp_micros

Key: TypeAlias = tuple[str, str]
"""An event's page and row key."""
Lane: TypeAlias = tuple[str, str]
"""A lane's page and name."""

KEY_BYTES = 700
"""An entry of PostgreSQL's index holds about 2,700 bytes: a page's id, a key and what is around."""

_ID = re.compile(r"[A-Za-z0-9_.:=+/$-]{1,512}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LANE = re.compile(r"page|(?:person|comment):[A-Za-z0-9_.:=+/$-]{1,512}")
_SOURCES = (SOURCE_LIVE, SOURCE_STANDBY, SOURCE_RECOVERED)
_YEAR_10000 = 253_402_300_800


@dataclass(slots=True)
class Arrival:
    """An event as one delivery brought it."""

    event: Event
    key: Key
    lane: Lane
    answerable: bool
    """A rule may answer it, if its page is connected."""

    @property
    def awakens(self) -> bool:
        """Whether it makes one live that was overheard; what Graph shows tells of no webhook."""
        return self.answerable and self.event.source == SOURCE_LIVE

    @property
    def pressed(self) -> Key | None:
        """Of a message that Graph showed: the key it has where a button made it, which webhooks
        tell and Graph does not.
        """
        if self.event.source != SOURCE_RECOVERED or not self.key[1].startswith("message:"):
            return None
        return self.key[0], f"postback:{self.key[1].removeprefix('message:')}"

    @property
    def shown(self) -> Key | None:
        """Of a button that somebody pressed: the key by which a repair told of it, if it came
        first, as a message.
        """
        if not self.key[1].startswith("postback:"):
            return None
        return self.key[0], f"message:{self.key[1].removeprefix('postback:')}"


@dataclass(slots=True)
class Parcel:
    """A delivery with its arrivals by key, in order."""

    delivery: Delivery
    arrivals: dict[Key, Arrival]
    lanes: frozenset[Lane]
    received_at: int
    place: int = field(default=0)
    """Its place in the order of arrival."""

    @property
    def says_only_events(self) -> bool:
        """Whether nothing of it is left to store once its events are known."""
        delivery = self.delivery
        return bool(self.arrivals) and not delivery.unreadable and not delivery.replay_of


def parcel(delivery: Delivery) -> Parcel:
    """The delivery, checked. Raises InvalidArgument with the field's name."""
    _check(delivery)
    arrivals: dict[Key, Arrival] = {}
    for at, event in enumerate(delivery.events):
        try:
            arrival = _arrival(event)
        except InvalidArgument as invalid:
            field_name = invalid.metadata["field"]
            raise InvalidArgument(f"events[{at}].{field_name}", "is malformed") from None
        known = arrivals.get(arrival.key)
        if known is None or (arrival.awakens and not known.answerable):
            arrivals[arrival.key] = arrival
    return Parcel(
        delivery,
        arrivals,
        frozenset(arrival.lane for arrival in arrivals.values()),
        timestamp_micros(delivery.receive_time),
    )


def row_key(event: Event) -> str:
    """The key of the event's row: its own, or for a state without one what it says and when."""
    if event.key:
        return event.key
    hidden = "true" if event.comment.hidden else "false"
    sent_ms = timestamp_micros(event.sent_time) // 1000
    return f"comment_hidden:{event.comment.comment_id}:{sent_ms}:{hidden}"


def _check(delivery: Delivery) -> None:
    if not _UUID.fullmatch(delivery.delivery_id):
        raise InvalidArgument("delivery_id", "must be a UUID")
    if not _is_time(delivery.receive_time):
        raise InvalidArgument("receive_time", "must be given")
    if not 0 < len(delivery.signed_by) <= 64:
        raise InvalidArgument("signed_by", "must be 1 to 64 characters")
    if delivery.replay_of and parse_number(delivery.replay_of) is None:
        raise InvalidArgument("replay_of", "must be the number of a row in quarantine")


def _arrival(event: Event) -> Arrival:
    if not _ID.fullmatch(event.page_id):
        raise InvalidArgument("page_id", "is malformed")
    if not _LANE.fullmatch(event.lane):
        raise InvalidArgument("lane", "is malformed")
    if event.person_id and not _ID.fullmatch(event.person_id):
        raise InvalidArgument("person_id", "is malformed")
    if not event.kind:
        raise InvalidArgument("kind", "must be given")
    if event.source not in _SOURCES:
        raise InvalidArgument("source", "must be given")
    if not _is_time(event.event_time):
        raise InvalidArgument("event_time", "must be given")
    if not event.key and event.kind != EVENT_KIND_COMMENT_HIDDEN:
        raise InvalidArgument("key", "must be given")
    key = row_key(event)
    if len(key.encode()) > KEY_BYTES or "\0" in key:
        raise InvalidArgument("key", f"must be at most {KEY_BYTES} bytes")
    answerable = bool(event.trigger) and event.source != SOURCE_STANDBY and not event.is_own
    return Arrival(event, (event.page_id, key), (event.page_id, event.lane), answerable)


def _is_time(time: Timestamp) -> bool:
    return 0 < time.seconds < _YEAR_10000
