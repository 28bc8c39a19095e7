"""Taking deliveries: what waits together is stored by one transaction, and each once for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

import psycopg

from pagewire.store.v1.ingest_service_pb2 import (
    DELIVERY_STATE_BUSY,
    DELIVERY_STATE_REFUSED,
    DELIVERY_STATE_STORED,
    Delivery,
    DeliveryResult,
)
from pagewire.type.v1.event_pb2 import SOURCE_RECOVERED, SOURCE_STANDBY, Event
from pagewire_runtime import faults, metrics
from pagewire_runtime.coalescing import Coalescer
from pagewire_runtime.errors import InvalidArgument, Unavailable
from pagewire_runtime.logs import get_logger
from pagewire_store import projecting, statements
from pagewire_store.arrivals import Arrival, Key, Lane, Parcel, parcel
from pagewire_store.columns import Bulk
from pagewire_store.connections import Connections, Driver
from pagewire_store.database import fault_of_values, in_live_transaction, sqlstate
from pagewire_store.echoes import Bound
from pagewire_store.projections import Projections, project, timestamp_micros
from pagewire_store.trips import BEGIN, COMMIT, ROLLBACK, Answer, Said, ended, trip
from pagewire_store.waking import Waking

log = get_logger(__name__)


PATIENCE = 0.08
"""Seconds that a delivery waits for a lane that another transaction holds."""
PAUSE = 0.005
"""Seconds between two looks at such a lane."""
FLUSHERS = 2
"""Batches at a time: while PostgreSQL works on one, another is made ready. They share no lane."""
NEW_LANE_TIMEOUT = "100ms"
STUCK_LANE_TIMEOUT = "10ms"

MAX_DELIVERIES = 256
MAX_BYTES = 8 * 2**20
MAX_QUEUED_BYTES = 64 * 2**20

_deliveries = metrics.counter(
    "pagewire_ingest_deliveries_total", "Deliveries, by what became of them.", ["state"]
)
_flush_seconds = metrics.histogram("pagewire_ingest_flush_seconds", "A batch, until committed.")


class Bind(Protocol):
    """Joins echoes, or own comments, to the replies that made them, in the transaction at hand."""

    def __call__(
        self, connection: Driver, events: Sequence[Event], *, first: Sequence[Said]
    ) -> Awaitable[Bound]:
        """What is to be said `first` goes along; the caller says what is left."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """Nothing was stored, since others hold these lanes: own batches, until `until` is set."""

    lanes: frozenset[Lane]
    until: asyncio.Event | None = None


@dataclass(frozen=True, slots=True)
class _Wait:
    """A delivery that stays for now: later ones of any of its lanes stay behind it."""

    lanes: frozenset[Lane]
    until: asyncio.Event | None


@dataclass(eq=False, slots=True)
class _Flight:
    """A batch on its way."""

    lanes: frozenset[Lane]
    landed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Seen:
    """What is stored already of what a batch names."""

    connected: set[str] = field(default_factory=set)
    sources: dict[Key, int] = field(default_factory=dict)
    missing_lanes: set[Lane] = field(default_factory=set)
    pressed: dict[Key, Key] = field(default_factory=dict)
    """By the key of a button's event the key of what Graph showed, which is the same."""
    shown: dict[Key, Key] = field(default_factory=dict)
    """By the key of a message the key of the button's event that it is, if a repair brought it."""

    def note(self, key: Key, source: int) -> None:
        """The event is stored, and came by this source."""
        self.sources[key] = source
        if key in self.pressed:
            self.sources[self.pressed[key]] = source
        if key in self.shown and source == SOURCE_RECOVERED:
            self.sources.setdefault(self.shown[key], source)

    def missing(self, arrivals: Iterable[Key]) -> list[Key]:
        """Of these, and of what would make them known, the keys that are not stored."""
        named = (*arrivals, *self.pressed, *self.shown)
        return [key for key in named if key not in self.sources]


@dataclass(slots=True)
class _Written:
    """How many events of each delivery were new, whether one of them all is pending, and what
    joining them to replies came to."""

    new: Counter[int] = field(default_factory=Counter)
    pending: bool = False
    bound: Bound | None = None


class Ingestor:
    """Stores deliveries; calls at the same time share a transaction."""

    def __init__(
        self,
        connections: Connections,
        *,
        wake: Callable[[], None],
        outbox: Waking,
        bind_echoes: Bind,
        bind_comments: Bind,
        patience: float = PATIENCE,
    ) -> None:
        self._connections = connections
        self._wake = wake
        self._outbox = outbox
        self._bind_echoes = bind_echoes
        self._bind_comments = bind_comments
        self._patience = patience
        self._places = count()
        self._waiting: dict[int, _Wait] = {}
        self._present: set[int] = set()  # a caller may go while its delivery is on its way
        self._flights: list[_Flight] = []
        self._batches: Coalescer[Parcel, DeliveryResult | Held] = Coalescer(
            self._flush,
            flushers=FLUSHERS,
            max_items=MAX_DELIVERIES,
            max_bytes=MAX_BYTES,
            max_queued_bytes=MAX_QUEUED_BYTES,
            size=lambda waiting: len(waiting.delivery.body) * 2,  # the events are about as large
        )

    async def ingest(self, deliveries: Sequence[Delivery]) -> list[DeliveryResult]:
        """One result a delivery, in order; a delivery is stored whole or not at all.

        Raises InvalidArgument, QueueFull, and Unavailable where PostgreSQL cannot be had; then some
        deliveries may have been stored, and it is safe to call again.
        """
        parcels = _parcels(deliveries)
        if len(parcels) == 1:
            return [await self._deliver(parcels[0])]
        return await asyncio.gather(*map(self._deliver, parcels))

    async def close(self) -> None:
        """Takes nothing more, and returns once what was taken has its answer."""
        await self._batches.close()

    async def _deliver(self, waiting: Parcel) -> DeliveryResult:
        waiting = replace(waiting, place=next(self._places))
        self._present.add(waiting.place)
        try:
            result = await self._stored_or_busy(waiting)
        except psycopg.Error as error:
            result = _refused(error)
        finally:
            self._present.discard(waiting.place)
            self._waiting.pop(waiting.place, None)
        _deliveries.labels(_STATES[result.state]).inc()
        return result

    async def _stored_or_busy(self, waiting: Parcel) -> DeliveryResult:
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + self._patience
        while isinstance(outcome := await self._batches.submit(waiting), Held):
            if outcome.until is None and loop.time() >= patient_until:
                lanes = ["/".join(lane) for lane in sorted(outcome.lanes)]
                return DeliveryResult(state=DELIVERY_STATE_BUSY, busy_lanes=lanes)
            await (outcome.until.wait() if outcome.until else asyncio.sleep(PAUSE))
        return outcome

    async def _flush(self, batch: list[Parcel]) -> list[DeliveryResult | Held]:
        """Stores what shares no lane with a batch that is on its way already."""
        stays = self._behind_flights(batch)
        free = [waiting for waiting in batch if waiting.place not in stays]
        if not free:
            return list(stays.values())
        flight = _Flight(frozenset(lane for waiting in free for lane in waiting.lanes))
        self._flights.append(flight)
        try:
            results = await self._committed(free)
        finally:
            self._flights.remove(flight)
            flight.landed.set()
        stored = iter(results)
        return [stays.get(waiting.place) or next(stored) for waiting in batch]

    def _behind_flights(self, batch: list[Parcel]) -> dict[int, Held]:
        def flight_of(waiting: Parcel) -> Held | None:
            for flight in self._flights:
                if lanes := waiting.lanes & flight.lanes:
                    return Held(lanes, flight.landed)
            return None

        return self._staying(batch, flight_of)

    def _staying(
        self, batch: list[Parcel], kept: Callable[[Parcel], Held | None]
    ) -> dict[int, Held]:
        """Which deliveries have to wait, by place: by themselves, or behind older ones that do.

        What is found to wait blocks all its lanes from now on, so that none is overtaken in any.
        """
        places = {waiting.place for waiting in batch}
        first: dict[Lane, tuple[int, _Wait]] = {}
        for at in sorted(self._waiting.keys() - places):
            wait = self._waiting[at]
            first.update((lane, (at, wait)) for lane in wait.lanes if lane not in first)
        stays: dict[int, Held] = {}
        for waiting in sorted(batch, key=lambda w: w.place):
            held = kept(waiting) or _behind(waiting, first)
            if held is not None:
                stays[waiting.place] = held
                wait = _Wait(waiting.lanes, held.until)
                if waiting.place in self._present:
                    self._waiting[waiting.place] = wait
                first.update((lane, (waiting.place, wait)) for lane in wait.lanes - first.keys())
        return stays

    async def _committed(self, batch: list[Parcel]) -> list[DeliveryResult | Held]:
        async def work(connection: Driver) -> tuple[list[DeliveryResult | Held], _Written]:
            try:
                return await self._store(connection, batch)
            except psycopg.errors.UniqueViolation as error:
                # Another lane brought the same event since we looked: it is known by now.
                raise psycopg.errors.SerializationFailure from error

        seen = self._outbox.count
        try:
            with _flush_seconds.time():
                results, written = await in_live_transaction(
                    self._connections, work, part="store.ingest", keys=_named(batch)
                )
        except psycopg.Error as error:
            if fault_of_values(error) is not None:
                raise
            log.error("ingest_failed", sqlstate=sqlstate(error), kind=type(error).__name__)
            raise Unavailable("PostgreSQL") from error
        if written.pending:
            self._wake()
        if written.bound:
            self._outbox.wake_freed(seen, freed=written.bound.freed)
        return results

    async def _store(
        self, connection: Driver, batch: list[Parcel]
    ) -> tuple[list[DeliveryResult | Held], _Written]:
        seen = await _see(connection, batch)
        left = [waiting for waiting in batch if not _is_known(waiting, seen)]
        if not left:
            return [_stored(waiting, 0) for waiting in batch], _Written()
        taken = await _begin(connection, left, seen)
        stays = self._staying(left, lambda w: Held(w.lanes & taken) if w.lanes & taken else None)
        free = sorted((w for w in left if w.place not in stays), key=lambda w: w.place)
        if free:
            written = await self._write(connection, free, seen)
        else:
            written = _Written()
            await trip(connection, ROLLBACK)
        results = [
            stays.get(waiting.place) or _stored(waiting, written.new[waiting.place])
            for waiting in batch
        ]
        return results, written

    async def _write(self, connection: Driver, batch: list[Parcel], seen: _Seen) -> _Written:
        chosen = _chosen(batch)
        fresh = [
            pair
            for key, pair in chosen.items()
            if key not in seen.sources and pair[1].pressed not in chosen
        ]
        late = [
            (waiting, arrival)
            for waiting, arrival in chosen.values()
            if arrival.awakens
            and arrival.key[0] in seen.connected
            and seen.sources.get(arrival.key) == SOURCE_STANDBY
        ]
        awakened = await _make_live(connection, late) if late else {}
        readable = [arrival for _, arrival in fresh if arrival.key[0] in seen.connected]
        pending = [arrival for arrival in readable if arrival.answerable]
        pending += [arrival for _, arrival in late if arrival.key in awakened]

        unread = [arrival for _, arrival in late if awakened.get(arrival.key)]
        rows = project(arrival.event for arrival in (*readable, *unread))
        bodies = sorted(_body_row(waiting) for waiting in batch)  # as two that share some must do
        said = [
            statements.NEW_DELIVERIES.over(bodies),
            *_said(statements.NEW_EVENTS, [_event_row(*pair, seen.connected) for pair in fresh]),
            *projecting.said(rows),
            *_said(statements.DECLINED, _declined(readable)),
            *_said(statements.PENDING, _counted(pending)),
            *_said(statements.REPLAYED, _replayed(batch)),
            *_said(statements.QUARANTINE, _unreadable(batch)),
        ]
        bound = await self._bind(connection, rows, said)
        await ended(connection, *(bound.left if bound else said))

        new = Counter(waiting.place for waiting, _ in fresh)
        new.update(waiting.place for waiting, arrival in late if arrival.key in awakened)
        return _Written(new, bool(pending), bound)

    async def _bind(
        self, connection: Driver, rows: Projections, said: Sequence[Said]
    ) -> Bound | None:
        """Says all that is said, and joins what was written by the page itself; None: nothing."""
        bound = None
        for bind, events in (
            (self._bind_echoes, rows.echoes),
            (self._bind_comments, rows.own_comments),
        ):
            if events:
                freed = bound is not None and bound.freed
                bound = await bind(connection, events, first=bound.left if bound else said)
                bound = replace(bound, freed=bound.freed or freed)
        return bound


def _behind(waiting: Parcel, first: Mapping[Lane, tuple[int, _Wait]]) -> Held | None:
    """What keeps it, where one that came before it waits for a lane of its own."""
    for lane in waiting.lanes:
        if lane in first and first[lane][0] < waiting.place:
            return Held(frozenset({lane}), first[lane][1].until)
    return None


async def _see(connection: Driver, batch: Iterable[Parcel]) -> _Seen:
    named = set()
    seen = _Seen()
    for waiting in batch:
        for key, arrival in waiting.arrivals.items():
            named.add((*key, arrival.lane[1]))
            if button := arrival.pressed:
                seen.pressed[button] = key
                named.add((*button, arrival.lane[1]))
            if message := arrival.shown:
                seen.shown[message] = key
                named.add((*message, arrival.lane[1]))
    if not named:
        return seen
    rows = list(named)
    (found,) = await trip(connection, statements.SEEN.over(rows))
    for place, connected, source, lane_missing in found.rows:
        page_id, event_key, lane = rows[place - 1]
        if connected:
            seen.connected.add(page_id)
        if source is not None:
            seen.note((page_id, event_key), source)
        if lane_missing:
            seen.missing_lanes.add((page_id, lane))
    return seen


def _is_known(waiting: Parcel, seen: _Seen) -> bool:
    """Whether nothing of the delivery is left to store: it is a pure repeat."""
    return waiting.says_only_events and all(
        key in seen.sources
        and not (
            arrival.awakens and seen.sources[key] == SOURCE_STANDBY and key[0] in seen.connected
        )
        for key, arrival in waiting.arrivals.items()
    )


async def _begin(connection: Driver, batch: list[Parcel], seen: _Seen) -> set[Lane]:
    """Begins a transaction and locks lanes; the ones that others hold, and so are not locked.

    Notes in `seen` which events have come since.
    """
    wanted = sorted({lane for waiting in batch for lane in waiting.lanes})
    unknown = seen.missing(key for w in batch for key in w.arrivals)
    said = [
        BEGIN,
        *_said(statements.LOCK_LANES, wanted),
        *_said(statements.KNOWN, unknown),
    ]
    new = [lane for lane in wanted if lane in seen.missing_lanes]
    answers = await _after_making(connection, new, said) if new else await trip(connection, *said)
    locked = answers[1].rows if wanted else []
    for page_id, event_key, source in answers[2].rows if unknown else ():
        seen.note((page_id, event_key), source)
    return set(wanted).difference(locked)


async def _after_making(connection: Driver, lanes: list[Lane], said: list[Said]) -> list[Answer]:
    """Makes the lanes, in a transaction of their own so that nobody ever waits for them long.

    One that another transaction is about to make may not be there afterwards: it counts as held.
    """
    making = [BEGIN, *_making(lanes, NEW_LANE_TIMEOUT), COMMIT]
    try:
        return (await trip(connection, *making, *said))[len(making) :]
    except psycopg.errors.LockNotAvailable:
        await trip(connection, ROLLBACK)
    for lane in lanes:
        with suppress(psycopg.errors.LockNotAvailable):
            await trip(connection, *_making([lane], STUCK_LANE_TIMEOUT))
    return await trip(connection, *said)


def _making(lanes: list[Lane], timeout: str) -> list[Said]:
    settings = statements.NEW_LANES_SETTINGS.said(timeout.encode())
    return [settings, statements.NEW_LANES.over(lanes)]


def _named(batch: Iterable[Parcel]) -> Iterator[str]:
    for waiting in batch:
        yield from faults.named(waiting.delivery.events)


def _chosen(batch: Iterable[Parcel]) -> dict[Key, tuple[Parcel, Arrival]]:
    """Each event once, in order: as it came first, but rather live than overheard."""
    chosen: dict[Key, tuple[Parcel, Arrival]] = {}
    for waiting in batch:
        for key, arrival in waiting.arrivals.items():
            known = chosen.get(key)
            if known is None or (arrival.awakens and not known[1].answerable):
                chosen[key] = (waiting, arrival)
    return chosen


def _body_row(waiting: Parcel) -> tuple[Any, ...]:
    delivery = waiting.delivery
    outcome = "parsed"
    if delivery.unreadable:
        outcome = "partial" if delivery.events else "quarantined"
    return (
        delivery.delivery_id,
        waiting.received_at,
        delivery.signed_by,
        delivery.body,
        len(delivery.events),
        outcome,
    )


def _event_row(waiting: Parcel, arrival: Arrival, connected: set[str]) -> tuple[Any, ...]:
    event = arrival.event
    state = "pending" if arrival.answerable else "done"
    return (
        *arrival.key,
        arrival.lane[1],
        event.kind,
        event.trigger,
        event.source,
        event.person_id,
        timestamp_micros(event.event_time),
        waiting.received_at,
        waiting.delivery.delivery_id,
        state if event.page_id in connected else "unknown_page",
        event.SerializeToString(),
    )


async def _make_live(connection: Driver, late: Iterable[tuple[Parcel, Arrival]]) -> dict[Key, bool]:
    """Which became live, and whether they were still to be read in."""
    rows = [
        (
            *arrival.key,
            arrival.lane[1],
            arrival.event.trigger,
            arrival.event.source,
            timestamp_micros(arrival.event.event_time),
            waiting.received_at,
            waiting.delivery.delivery_id,
            arrival.event.SerializeToString(),
        )
        for waiting, arrival in late
    ]
    (live,) = await trip(connection, statements.LIVE_EVENTS.over(rows))
    return {(page_id, event_key): unread for page_id, event_key, unread in live.rows}


def _said(statement: Bulk, rows: Sequence[tuple[Any, ...]]) -> list[Said]:
    return [statement.over(rows)] if rows else []


def _declined(arrivals: Iterable[Arrival]) -> list[tuple[Any, ...]]:
    return [
        (*arrival.key, "own_account" if arrival.event.is_own else "standby")
        for arrival in arrivals
        if arrival.event.trigger and not arrival.answerable
    ]


def _counted(pending: Iterable[Arrival]) -> list[tuple[Any, ...]]:
    added = Counter(arrival.lane for arrival in pending)
    return [(*lane, added[lane]) for lane in sorted(added)]


def _unreadable(batch: Iterable[Parcel]) -> list[tuple[Any, ...]]:
    once = {w.delivery.delivery_id.lower(): w for w in batch if w.delivery.unreadable}
    return [
        (delivery_id, item.path, item.reason, item.page_id or None, waiting.received_at)
        for delivery_id, waiting in once.items()
        for item in waiting.delivery.unreadable
    ]


def _replayed(batch: Iterable[Parcel]) -> list[tuple[Any, ...]]:
    replays = (waiting.delivery for waiting in batch if waiting.delivery.replay_of)
    return [row for replay in replays for row in _replay_rows(replay)]


def _replay_rows(replay: Delivery) -> list[tuple[Any, ...]]:
    """What it still could not read; without that, the replay itself."""
    of = (int(replay.replay_of), replay.delivery_id)
    return [(*of, item.path, item.reason) for item in replay.unreadable] or [(*of, None, None)]


def _parcels(deliveries: Sequence[Delivery]) -> list[Parcel]:
    parcels = []
    for at, delivery in enumerate(deliveries):
        try:
            parcels.append(parcel(delivery))
        except InvalidArgument as invalid:
            field_name = f"deliveries[{at}].{invalid.metadata['field']}"
            raise InvalidArgument(field_name, "is missing or malformed") from invalid
    return parcels


def _stored(waiting: Parcel, new: int) -> DeliveryResult:
    known = len(waiting.arrivals) - new
    return DeliveryResult(state=DELIVERY_STATE_STORED, new_events=new, known_events=known)


def _refused(error: psycopg.Error) -> DeliveryResult:
    log.error("delivery_refused", sqlstate=sqlstate(error), kind=type(error).__name__)
    return DeliveryResult(state=DELIVERY_STATE_REFUSED, reason=fault_of_values(error) or "")


_STATES = {
    DELIVERY_STATE_STORED: "stored",
    DELIVERY_STATE_BUSY: "busy",
    DELIVERY_STATE_REFUSED: "refused",
}
