"""Leasing lanes with pending events: each to one dispatcher at a time, fenced by its epoch."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import psycopg
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.lane_service_pb2 import (
    ClaimedEvent,
    ClaimedLane,
    ClaimLanesRequest,
    ClaimLanesResponse,
    ExtendLeasesRequest,
    ExtendLeasesResponse,
    LaneRef,
)
from pagewire.type.v1.event_pb2 import ID_SPACE_MESSAGING, Event
from pagewire.type.v1.page_pb2 import Platform
from pagewire_runtime import faults
from pagewire_runtime.errors import InvalidArgument, Unavailable
from pagewire_store.arrivals import Lane
from pagewire_store.columns import BIGINT, TEXT, Bulk
from pagewire_store.connections import Connections, Driver
from pagewire_store.database import in_live_transaction
from pagewire_store.ids import event_id
from pagewire_store.polling import at_most, claimed
from pagewire_store.takeovers import count_deaths
from pagewire_store.trips import BEGIN, COMMIT, ROLLBACK, Statement, ended, trip
from pagewire_store.waking import Waking

MICROSECOND = timedelta(microseconds=1)

DEFAULT_EVENTS = 10
MAX_EVENTS = 100
ENDED_AT_ONCE = 500
"""Events of disconnected pages that one transaction ends; the next claim ends the next."""
MAX_BYTES = 6 * 2**20
"""Of events in one answer, before the last: a message holds 16 MiB, a large event some 6."""

# Leases due lanes, the longest waiting first. The database's clock alone says what is due. A lane
# whose lease has ended by itself is deserted: its holder died. One who lives, and could not reach
# us for so long, claims it again itself. A deserted lane is handed out before others and alone: the
# event that killed its holder kills the next one alone, and is blamed alone.
_LEASE = Statement(
    """
    with due as (
        select page_id, lane, pending_since,
            lease_until is not null and lease_owner <> $2 as deserted
        from lane
        where pending > 0
            and (lease_until is null or lease_until <= now())
            and (blocked_until is null or blocked_until <= now())
        order by pending_since limit $1 for update skip locked),
    chosen as (
        select page_id, lane, deserted from due
        order by deserted desc, pending_since
        limit case when (select bool_or(deserted) from due) then 1 else $1 end),
    leased as (
        update lane l set
            epoch = l.epoch + 1, lease_owner = $2,
            lease_until = clock_timestamp() + $3 * interval '1 microsecond'
        from chosen where l.page_id = chosen.page_id and l.lane = chosen.lane
        returning l.page_id, l.lane, l.epoch, chosen.deserted, l.pending_since)
    select page_id, lane, epoch, deserted from leased order by pending_since, page_id, lane
    """,
    [BIGINT.element_oid, TEXT.element_oid, BIGINT.element_oid],
)

# The first pending events of lanes, with the name of the person where the conversation has it; and
# how many bytes those before each have.
_FIRST_EVENTS = Bulk(
    """
    select n.page_id, n.lane, e.event_id, e.detail, e.received_at, e.attempts, c.participant_name,
        sum(octet_length(e.detail)) over (order by n.ord, e.number) - octet_length(e.detail)
    from {rows}
    cross join lateral (
        select * from event p
        where p.page_id = n.page_id and p.lane = n.lane and p.state = 'pending'
        order by p.number limit n.at_most) e
    left join conversation c on c.page_id = e.page_id and c.participant_id = e.person_id
    order by n.ord, e.number
    """,
    page_id=TEXT,
    lane=TEXT,
    at_most=BIGINT,
)

# What a claim hands over of connected pages: product, and the version of their rule book.
_PAGES = Bulk(
    """
    select p.page_id, p.platform,
        (select coalesce(max(b.version), 0) from rule_book b where b.page_id in (p.page_id, '*'))
    from {rows} join page p on p.page_id = n.page_id where p.connected
    """,
    page_id=TEXT,
)

# Locks those that are still the holder's.
_HOLD = Bulk(
    """
    select l.page_id, l.lane
    from {rows} join lane l on l.page_id = n.page_id and l.lane = n.lane and l.epoch = n.epoch
    order by l.page_id, l.lane for update of l
    """,
    page_id=TEXT,
    lane=TEXT,
    epoch=BIGINT,
)

# Ends the first pending events of lanes whose page is no longer connected.
_END = Bulk(
    """
    with ending as (
        select e.page_id, e.event_key
        from {rows} cross join lateral (
            select p.page_id, p.event_key from event p
            where p.page_id = n.page_id and p.lane = n.lane and p.state = 'pending'
            order by p.number limit n.at_most) e),
    ended as (
        update event e set state = 'done' from ending
        where e.page_id = ending.page_id and e.event_key = ending.event_key
        returning e.*)
    insert into decision (
        page_id, event_id, trigger, outcome, reason, verdicts, book_version, received_at,
        stored_at)
    select page_id, event_id, trigger, 'declined', 'page_disconnected', '', 0, received_at,
        stored_at
    from ended
    on conflict (page_id, event_id) do nothing
    """,
    page_id=TEXT,
    lane=TEXT,
    at_most=BIGINT,
)

# Frees lanes in which nothing is pending.
_FREE = Bulk(
    """
    update lane l set
        pending = 0, pending_since = null, lease_owner = null, lease_until = null,
        blocked_until = null
    from {rows} where l.page_id = n.page_id and l.lane = n.lane
    """,
    page_id=TEXT,
    lane=TEXT,
)

# Gives lanes back for which an answer had no room, or that may have more to be ended.
_GIVE_BACK = Bulk(
    """
    update lane l set lease_owner = null, lease_until = null
    from {rows} where l.page_id = n.page_id and l.lane = n.lane and l.epoch = n.epoch
    """,
    page_id=TEXT,
    lane=TEXT,
    epoch=BIGINT,
)

# Prolongs leases that nobody has taken over; one that was given back stays so.
_EXTEND = Bulk(
    """
    with held as (
        select l.page_id, l.lane, n.lease
        from {rows} join lane l on l.page_id = n.page_id and l.lane = n.lane
        where l.epoch = n.epoch and l.lease_until is not null
        order by l.page_id, l.lane for update of l)
    update lane l set lease_until = clock_timestamp() + held.lease * interval '1 microsecond'
    from held where l.page_id = held.page_id and l.lane = held.lane
    """,
    page_id=TEXT,
    lane=TEXT,
    epoch=BIGINT,
    lease=BIGINT,
)

# Which lanes have another epoch by now, and so another claim.
_LOST = Bulk(
    """
    select n.page_id, n.lane, n.epoch
    from {rows} left join lane l on l.page_id = n.page_id and l.lane = n.lane
    where l.epoch is distinct from n.epoch order by n.ord
    """,
    page_id=TEXT,
    lane=TEXT,
    epoch=BIGINT,
)


class _Lease(NamedTuple):
    page_id: str
    lane: str
    epoch: int
    deserted: bool


class _Page(NamedTuple):
    page_id: str
    platform: str
    book_version: int


class _Pending(NamedTuple):
    page_id: str
    lane: str
    event_id: int
    detail: bytes
    received_at: datetime
    attempts: int
    participant_name: str | None
    bytes_before: int


@dataclass
class _Work:
    """What there is to do in leased lanes."""

    pages: dict[str, _Page]
    events: dict[Lane, list[_Pending]] = field(default_factory=lambda: defaultdict(list))
    too_much: set[Lane] = field(default_factory=set)
    """Lanes for whose events, or some of them, an answer has no room."""

    def __contains__(self, lease: _Lease) -> bool:
        return lease.page_id in self.pages and lease[:2] in self.events

    def of(self, lease: _Lease) -> ClaimedLane:
        return _claimed_lane(lease, self.pages[lease.page_id], self.events[lease[:2]])


class Claims:
    """Hands out lanes, and prolongs the leases on them."""

    def __init__(
        self,
        connections: Connections,
        waking: Waking,
        *,
        lease: timedelta,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._connections = connections
        self._waking = waking
        self._lease = lease
        self._max_bytes = max_bytes
        self._letting_go: set[asyncio.Task[None]] = set()

    async def claim(self, request: ClaimLanesRequest) -> ClaimLanesResponse:
        """Due lanes, leased to the caller; waits for one as long as the request says.

        Raises InvalidArgument, and Unavailable.
        """
        _check(request)
        wait = request.wait.ToTimedelta()
        lanes = await claimed(lambda: self._claim(request), self._waking, wait)
        response = ClaimLanesResponse(lanes=lanes)
        response.lease.FromTimedelta(self._lease)
        return response

    async def extend(self, request: ExtendLeasesRequest) -> ExtendLeasesResponse:
        """Prolongs the leases that are still the caller's; names the others. Raises Unavailable."""
        lanes = [(ref.page_id, ref.lane, ref.epoch) for ref in request.lanes]
        if not lanes:
            return ExtendLeasesResponse()

        async def work(connection: Driver) -> list[tuple[str, str, int]]:
            prolonged = [(*lane, self._lease // MICROSECOND) for lane in lanes]
            answers = await trip(
                connection, BEGIN, _EXTEND.over(prolonged), _LOST.over(lanes), COMMIT
            )
            return answers[2].rows

        lost = await in_live_transaction(self._connections, work, part="store.claim")
        return ExtendLeasesResponse(
            lost=[LaneRef(page_id=page, lane=lane, epoch=epoch) for page, lane, epoch in lost]
        )

    async def _claim(self, request: ClaimLanesRequest) -> list[ClaimedLane]:
        max_events = min(request.max_events or DEFAULT_EVENTS, MAX_EVENTS)
        while leases := await self._leased(request):
            names = (name for lease in leases for name in lease[:2])
            await faults.reach("store.claim.leased", names)
            try:
                lanes = await in_live_transaction(
                    self._connections,
                    partial(self._work_of, leases=leases, max_events=max_events),
                    part="store.claim",
                )
            except BaseException:
                self._let_go(leases)
                raise
            if lanes:  # those that were leased and found empty may hide others
                return lanes
        return []

    async def _leased(self, request: ClaimLanesRequest) -> list[_Lease]:
        """Leases, by a statement that is a transaction, so that one that finds nothing is all.

        Then nobody else works on what is read of them.
        """
        most = at_most("max_lanes", request.max_lanes)
        lease = _LEASE.said(
            most.to_bytes(8), request.owner.encode(), (self._lease // MICROSECOND).to_bytes(8)
        )

        async def work(connection: Driver) -> list[_Lease]:
            (leased,) = await trip(connection, lease)
            return [_Lease(*row) for row in leased.rows]

        return await in_live_transaction(self._connections, work, part="store.claim")

    async def _work_of(
        self, connection: Driver, *, leases: Sequence[_Lease], max_events: int
    ) -> list[ClaimedLane]:
        work = await self._read(connection, leases, max_events)
        if not all(lease in work and not lease.deserted for lease in leases):
            work = await self._put_right(connection, leases, max_events)
        return [work.of(lease) for lease in leases if lease in work]

    def _let_go(self, leases: Sequence[_Lease]) -> None:
        """Gives back, by itself, what the caller will not hear of: nobody works on it."""

        async def work(connection: Driver) -> None:
            await ended(connection, _GIVE_BACK.over([lease[:3] for lease in leases]))

        async def give_back() -> None:
            with suppress(Unavailable, psycopg.Error):  # else the leases end by themselves
                await in_live_transaction(self._connections, work)
            self._waking.wake()

        task = asyncio.create_task(give_back())
        self._letting_go.add(task)
        task.add_done_callback(self._letting_go.discard)

    async def _read(self, connection: Driver, leases: Sequence[_Lease], max_events: int) -> _Work:
        # In this order: an event is decided by no older book than there was when it was stored.
        events, pages = await trip(
            connection,
            _FIRST_EVENTS.over([(lease.page_id, lease.lane, max_events) for lease in leases]),
            _PAGES.over([(page_id,) for page_id in {x.page_id for x in leases}]),
        )
        work = _Work({row[0]: _Page(*row) for row in pages.rows})
        for row in events.rows:
            pending = _Pending(*row)
            if pending.bytes_before < self._max_bytes:
                work.events[pending.page_id, pending.lane].append(pending)
            else:
                work.too_much.add((pending.page_id, pending.lane))
        return work

    async def _put_right(
        self, connection: Driver, leases: Sequence[_Lease], max_events: int
    ) -> _Work:
        """Counts deaths, ends what needs no dispatcher, and gives back what nobody can work on."""
        _, held = await trip(connection, BEGIN, _HOLD.over([lease[:3] for lease in leases]))
        ours = [lease for lease in leases if lease[:2] in set(held.rows)]
        if not ours:
            await trip(connection, ROLLBACK)
            return _Work({})
        await count_deaths(connection, [lease[:2] for lease in ours if lease.deserted])
        work = await self._read(connection, ours, max_events)

        pending_in = work.events.keys() | work.too_much
        idle = [x for x in ours if x[:2] not in pending_in]
        ending = [x for x in ours if x[:2] in pending_in and x.page_id not in work.pages]
        given_back = [x for x in ours if x[:2] in pending_in and x not in work]
        said = []
        if ending:
            each = max(1, ENDED_AT_ONCE // len(ending))
            said.append(_END.over([(*lease[:2], each) for lease in ending]))
        if idle:
            said.append(_FREE.over([lease[:2] for lease in idle]))
        if given_back:
            said.append(_GIVE_BACK.over([lease[:3] for lease in given_back]))
        await ended(connection, *said)
        return work


def _claimed_lane(lease: _Lease, page: _Page, events: Iterable[_Pending]) -> ClaimedLane:
    return ClaimedLane(
        ref=LaneRef(page_id=lease.page_id, lane=lease.lane, epoch=lease.epoch),
        book_version=page.book_version,
        events=[_claimed_event(pending) for pending in events],
        platform=Platform.Value(f"PLATFORM_{page.platform.upper()}"),
    )


def _claimed_event(pending: _Pending) -> ClaimedEvent:
    event = Event.FromString(pending.detail)
    # A commenter's id may look like that of somebody else who writes messages.
    messaged = event.id_space == ID_SPACE_MESSAGING
    known_name = pending.participant_name if messaged else None
    receive_time = Timestamp()
    receive_time.FromDatetime(pending.received_at)
    return ClaimedEvent(
        event_id=event_id(pending.page_id, pending.event_id),
        event=event,
        receive_time=receive_time,
        attempts=pending.attempts,
        person_name=event.person_name or known_name or "",
    )


def _check(request: ClaimLanesRequest) -> None:
    if not 0 < len(request.owner) <= 200 or "\0" in request.owner:
        raise InvalidArgument("owner", "must be 1 to 200 characters")
    if request.max_events < 0:
        raise InvalidArgument("max_events", "must not be negative")
