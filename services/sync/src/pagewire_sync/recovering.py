"""Recovering: what webhooks should have brought of a gap, told to the store as they would have.

The events have the keys and lanes of webhooks, so that whichever comes first is the one that counts
(the plan, "The event"); their source says that Graph had to be asked. They are told before their
messages are stored.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from pagewire.store.v1 import ingest_service_pb2 as pb
from pagewire.type.v1.conversation_pb2 import Direction
from pagewire.type.v1.event_pb2 import Event, EventKind, IdSpace, Source, Trigger
from pagewire_runtime import metrics
from pagewire_runtime.clock import WALL
from pagewire_runtime.logs import get_logger
from pagewire_sync.patience import persistently
from pagewire_sync.shown import Json, Thread, story_of

log = get_logger(__name__)

SIGNED_BY = "graph"
GRACE = timedelta(minutes=2)
"""What is younger a webhook may bring yet."""
BUSY_SECONDS = 0.1
"""Before a lane that another transaction holds is tried again; the store itself waits as long."""
MOST = 100
"""Events of a delivery."""

_events = metrics.counter(
    "pagewire_recovered_events", "Messages of a gap that were read from Graph, by end.", ["end"]
)


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def Ingest(self, request: pb.IngestRequest, /) -> Awaitable[pb.IngestResponse]: ...


@dataclass(frozen=True)
class Recovering:
    """Looks through what one repair reads."""

    store: Store
    page_id: str
    since: float
    """When webhooks may have begun to be missing, as seconds of Unix time."""
    now: Callable[[], datetime] = WALL.now
    grace: timedelta = GRACE
    refused: Callable[[], None] = lambda: None
    """Told of each event that the store will not have."""

    async def tell(self, threads: Sequence[Thread]) -> int:
        """Tell the store of the messages of the gap among these; how many it did not know."""
        now = self.now()
        found = [
            (event, source)
            for thread in threads
            for event, source in events_of(
                self.page_id, thread, self.since, (now - self.grace).timestamp()
            )
        ]
        found.sort(key=lambda each: (each[0].event_time.seconds, each[0].event_time.nanos))
        new = 0
        for first in range(0, len(found), MOST):
            new += await self._delivered(found[first : first + MOST], now)
        return new

    async def _delivered(self, found: Sequence[tuple[Event, Json]], now: datetime) -> int:
        delivery = pb.Delivery(
            delivery_id=new_delivery_id(now),
            body=msgspec.json.encode([source for _, source in found]),
            signed_by=SIGNED_BY,
            events=[event for event, _ in found],
        )
        delivery.receive_time.FromDatetime(now)
        request = pb.IngestRequest(deliveries=[delivery])
        while True:
            response = await persistently(lambda: self.store.Ingest(request))
            result = response.results[0]
            if result.state != pb.DELIVERY_STATE_BUSY:
                break
            await asyncio.sleep(BUSY_SECONDS)
        if result.state == pb.DELIVERY_STATE_REFUSED:
            return await self._halved(found, now, result.reason)
        _events.labels("new").inc(result.new_events)
        _events.labels("known").inc(result.known_events)
        return result.new_events

    async def _halved(self, found: Sequence[tuple[Event, Json]], now: datetime, reason: str) -> int:
        """Tell what was refused in halves, so that the one event that is refused keeps out no
        other; how many the store did not know.
        """
        if len(found) == 1:
            log.error("what a repair found was refused by the store", reason=reason)
            _events.labels("refused").inc()
            self.refused()
            return 0
        middle = len(found) // 2
        first = await self._delivered(found[:middle], now)
        return first + await self._delivered(found[middle:], now)


def events_of(
    page_id: str, thread: Thread, since: float, until: float
) -> Iterator[tuple[Event, Json]]:
    """The events of a thread's messages to the page between the two times, as webhooks would have
    made them, each with its message as it came. Graph tells whole seconds, and so the one in which
    the gap begins counts as within it: what a webhook brought of it is known by its key.
    """
    first = int(since)
    for row, source in zip(thread.messages, thread.sources, strict=True):
        at = row.create_time.seconds + row.create_time.nanos / 1e9
        if row.direction != Direction.DIRECTION_INBOUND or not first <= at <= until:
            continue
        event = Event(
            page_id=page_id,
            kind=EventKind.EVENT_KIND_MESSAGE,
            trigger=row.trigger or Trigger.TRIGGER_MESSAGE,
            source=Source.SOURCE_RECOVERED,
            key=f"message:{row.mid}",
            lane=f"person:{thread.participant_id}",
            person_id=thread.participant_id,
            id_space=IdSpace.ID_SPACE_MESSAGING,
            person_name=thread.conversation.participant_name if thread.conversation else "",
            event_time=row.create_time,
        )
        message = event.message
        message.mid, message.text = row.mid, row.text
        message.attachments.extend(row.attachments)
        message.is_unsupported = row.is_unsupported
        if row.trigger == Trigger.TRIGGER_STORY_REPLY:
            _, message.story_id, message.story_url = story_of(source)
        yield event, source


def new_delivery_id(now: datetime) -> str:
    """A UUID of version 7 (RFC 9562): the time in milliseconds, then chance."""
    milliseconds = int(now.timestamp() * 1000)
    number = milliseconds << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
