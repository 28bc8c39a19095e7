"""What operators see: decisions, what could not be read, what waits for a person."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.operation_service_pb2 import (
    SETTLEMENT_DROPPED,
    SETTLEMENT_SENT,
    Parked,
    ParkedEvent,
    Quarantined,
    Replay,
    Settlement,
)
from pagewire.type.v1.decision_pb2 import Decision, Outcome
from pagewire.type.v1.reply_pb2 import Reply
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_store import ids
from pagewire_store.page_tokens import Position
from pagewire_store.parked import drop_event, retry_event, retry_reply, settle_reply
from pagewire_store.replies import COLUMNS, reply_from


class QuarantinedUnknown(Refusal):
    """Nothing in quarantine has this id."""

    kind = Kind.MISSING
    reason = "QUARANTINED_UNKNOWN"

    def __init__(self, quarantine_id: str) -> None:
        super().__init__("nothing in quarantine has this id", quarantine_id=quarantine_id[:64])


class ParkedUnknown(Refusal):
    """Nothing that waits for a person has this id."""

    kind = Kind.MISSING
    reason = "PARKED_UNKNOWN"

    def __init__(self, parked_id: str) -> None:
        super().__init__("nothing of this id is parked", parked_id=parked_id[:256])


_DECISIONS = """
    select
        decision.page_id, decision.event_id, trigger, outcome, reason, verdicts, book_version,
        received_at, stored_at, decided_at, replies.sent_at, replies.reply_ids
    from decision
        left join lateral (
            select min(sending_at) as sent_at, array_agg(reply_id order by reply_id) as reply_ids
            from outbox
            where outbox.page_id = decision.page_id and outbox.event_id = decision.event_id
        ) as replies on true
    where {of_page} (decided_at, decision.event_id) < (cast(:decided_at as timestamptz), :event_id)
        and (decided_at, decision.event_id) > (cast(:since as timestamptz), :since_event)
        and decided_at < cast(:settled as timestamptz)
    order by decided_at desc, decision.event_id desc
    limit :at_most
"""

_LIST_DECISIONS = text(_DECISIONS.format(of_page=""))
_LIST_DECISIONS_OF_PAGE = text(_DECISIONS.format(of_page="decision.page_id = :page_id and"))

_DECIDED_AT = text("""
    select decided_at from decision where page_id = :page_id and event_id = :event_id
""")

# A transaction that has not committed yet may hold a decision older than the newest that is seen.
_SETTLED = text("""
    select least(min(xact_start), statement_timestamp()) from pg_stat_activity
    where datname = current_database() and backend_xid is not null
""")

_BIGINT_MAX = 2**63 - 1
_BEGINNING: Position = ("infinity", _BIGINT_MAX)


class Since(NamedTuple):
    """A place in the order of decisions."""

    decided_at: Any
    event_id: int


EVER = Since("-infinity", 0)


async def decisions(
    connection: AsyncConnection,
    page_id: str,
    after: Position | None,
    at_most: int,
    *,
    after_event_id: str,
) -> list[Decision]:
    """Decisions of a page, or of all, newest first, behind the position of `position_of_decision`.

    With `after_event_id` only those decided later than that event, for following: then such as a
    transaction under way may still come before are left for the next call, so that none is missed.
    Raises InvalidArgument where nothing was decided of that event.
    """
    since, settled = EVER, "infinity"
    if after_event_id:
        since = await _since(connection, after_event_id)
        settled = (await connection.execute(_SETTLED)).scalar_one()
    decided_at, event_id = after or _BEGINNING
    values = {
        "page_id": page_id,
        "decided_at": decided_at,
        "event_id": event_id,
        "since": since.decided_at,
        "since_event": since.event_id,
        "settled": settled,
        "at_most": at_most,
    }
    statement = _LIST_DECISIONS_OF_PAGE if page_id else _LIST_DECISIONS
    return [_decision(row) for row in await connection.execute(statement, values)]


async def _since(connection: AsyncConnection, event_id: str) -> Since:
    named = ids.parse_event_id(event_id)
    if named is not None:
        values = {"page_id": named[0], "event_id": named[1]}
        row = (await connection.execute(_DECIDED_AT, values)).one_or_none()
        if row is not None:
            return Since(row.decided_at, named[1])
    raise InvalidArgument("after_event_id", "is not the id of a decided event")


def position_of_decision(decision: Decision) -> Position:
    """Where a list goes on behind this decision."""
    named = ids.parse_event_id(decision.event_id)
    assert named is not None  # noqa: S101  # its id was made of a row
    return (decision.decide_time.ToJsonString(), named[1])


def _decision(row: Row[Any]) -> Decision:
    return Decision(
        event_id=ids.event_id(row.page_id, row.event_id),
        page_id=row.page_id,
        kind=row.trigger,
        outcome=Outcome.Value(f"OUTCOME_{row.outcome.upper()}"),
        reason=row.reason,
        rules=Decision.FromString(row.verdicts).rules,
        book_version=row.book_version,
        receive_time=row.received_at,
        store_time=row.stored_at,
        decide_time=row.decided_at,
        sent_time=row.sent_at,
        reply_ids=[ids.reply_id(row.page_id, number) for number in row.reply_ids or ()],
    )


_QUARANTINED = """
    select
        quarantine_id, delivery_id, path, reason, page_id, quarantine.received_at,
        octet_length(body) as size, replayed_at, replay_requested_at
    from quarantine join delivery using (delivery_id)
"""

_LIST_QUARANTINED = text(f"""
    {_QUARANTINED}
    where quarantine_id < :before and (:include_replayed or replayed_at is null)
    order by quarantine_id desc
    limit :at_most
""")  # all of it is constant

_GET_QUARANTINED = text(f"{_QUARANTINED} where quarantine_id = :number")

_BODY = text("""
    select body from quarantine join delivery using (delivery_id) where quarantine_id = :number
""")


async def quarantined(
    connection: AsyncConnection, after: Position | None, at_most: int, *, include_replayed: bool
) -> list[Quarantined]:
    """What could not be read, newest first, behind the position of `position_of_quarantined`."""
    values = {
        "before": after[0] if after else _BIGINT_MAX,
        "include_replayed": include_replayed,
        "at_most": at_most,
    }
    return [_quarantined(row) for row in await connection.execute(_LIST_QUARANTINED, values)]


async def get_quarantined(
    connection: AsyncConnection, quarantine_id: str
) -> tuple[Quarantined, bytes]:
    """What could not be read, and the body it is in. Raises QuarantinedUnknown."""
    number = {"number": _quarantine_number(quarantine_id)}
    row = (await connection.execute(_GET_QUARANTINED, number)).one_or_none()
    if row is None:
        raise QuarantinedUnknown(quarantine_id)
    return _quarantined(row), (await connection.execute(_BODY, number)).scalar_one()


def position_of_quarantined(row: Quarantined) -> Position:
    """Where a list goes on behind this row."""
    return (int(row.quarantine_id),)


def _quarantine_number(quarantine_id: str) -> int:
    number = ids.parse_number(quarantine_id)
    if number is None:
        raise QuarantinedUnknown(quarantine_id)
    return number


def _quarantined(row: Row[Any]) -> Quarantined:
    return Quarantined(
        quarantine_id=str(row.quarantine_id),
        delivery_id=str(row.delivery_id),
        reason=row.reason,
        path=row.path,
        page_id=row.page_id,
        receive_time=row.received_at,
        size=row.size,
        replay_time=row.replayed_at,
        replay_requested=row.replay_requested_at is not None,
    )


_REQUEST_ALL_REPLAYS = text("""
    update quarantine set replay_requested_at = now(), replay_lease_until = null
    where replayed_at is null
""")

_REQUEST_REPLAYS = text("""
    update quarantine
    set replay_requested_at = now(), replay_lease_until = null, replayed_at = null
    where quarantine_id = any(:numbers)
    returning quarantine_id
""")


async def request_replays(connection: AsyncConnection, quarantine_ids: Collection[str]) -> int:
    """Has these read again, or without ids all that were not; returns how many.

    One that is named is read again even where it was before. Raises QuarantinedUnknown; then none.
    """
    if not quarantine_ids:
        return (await connection.execute(_REQUEST_ALL_REPLAYS)).rowcount
    numbers = {_quarantine_number(each) for each in quarantine_ids}
    found = await connection.execute(_REQUEST_REPLAYS, {"numbers": sorted(numbers)})
    missing = numbers - {row.quarantine_id for row in found}
    if missing:
        raise QuarantinedUnknown(str(min(missing)))
    return len(numbers)


# As many bodies as one answer may carry: a message holds little more than the largest body.
_REPLAY_BYTES = 4 * 2**20

# A body is read as a whole, so it is claimed as a whole: by the first of its rows that is due.
_CLAIM_REPLAYS = text("""
    with due as materialized (
        select quarantine_id, delivery_id from quarantine as open
        where replayed_at is null and replay_requested_at is not null
            and (replay_lease_until is null or replay_lease_until < now())
            and not exists (
                select from quarantine as earlier
                where earlier.delivery_id = open.delivery_id
                    and earlier.quarantine_id < open.quarantine_id
                    and earlier.replayed_at is null and earlier.replay_requested_at is not null)
        order by quarantine_id limit :at_most
        for update of open skip locked
    ), measured as (
        select
            quarantine_id, delivery_id, row_number() over earlier as place,
            sum(octet_length(body)) over earlier as bytes
        from due join delivery using (delivery_id)
        window earlier as (order by quarantine_id)
    ), chosen as (
        select quarantine_id, delivery_id from measured where place = 1 or bytes <= :bytes
    ), leased as (
        update quarantine set replay_lease_until = now() + :lease
        from chosen
        where quarantine.delivery_id = chosen.delivery_id
            and replayed_at is null and replay_requested_at is not null
    )
    select quarantine_id, delivery_id, body, received_at, signed_by
    from chosen join delivery using (delivery_id)
    order by quarantine_id
""")


async def claim_replays(
    connection: AsyncConnection, at_most: int, lease: timedelta
) -> list[Replay]:
    """Bodies to be read again, each once, which nobody else is given before the lease ends."""
    values = {"at_most": at_most, "lease": lease, "bytes": _REPLAY_BYTES}
    return [
        Replay(
            quarantine_id=str(row.quarantine_id),
            delivery_id=str(row.delivery_id),
            body=row.body,
            receive_time=row.received_at,
            signed_by=row.signed_by,
        )
        for row in await connection.execute(_CLAIM_REPLAYS, values)
    ]


# What is parked, the last first, of a kind and a number: events that were not decided and replies
# that nobody knows to be sent.
_PARKED = text("""
    select * from (
        select
            'e' as kind, event.page_id, event.event_id as number,
            coalesce(decided_at, event.stored_at) as parked_at,
            coalesce(last_error, 'evaluation_failed') as reason, event.kind as event_kind, attempts
        from event left join decision using (page_id, event_id)
        where state = 'parked'
        union all
        select
            'r', page_id, reply_id, coalesce(ended_at, created_at), state_reason, null, null
        from outbox
        where state = 'parked'
    ) as parked
    where (:page_id = '' or page_id = :page_id)
        and (parked_at, kind, number) < (cast(:parked_at as timestamptz), :kind, :number)
    order by parked_at desc, kind desc, number desc
    limit :at_most
""")

_REPLIES = text(f"""
    select {COLUMNS}
    from unnest(cast(:page_ids as text[]), cast(:numbers as bigint[])) as wanted (page, number)
        join outbox on page_id = page and reply_id = number
""")  # noqa: S608  # the columns are a constant


async def parked(
    connection: AsyncConnection, page_id: str, after: Position | None, at_most: int
) -> list[Parked]:
    """What waits for a person, newest first, behind the position of `position_of_parked`."""
    parked_at, kind, number = after or ("infinity", "", 0)
    values = {
        "page_id": page_id,
        "parked_at": parked_at,
        "kind": kind,
        "number": number,
        "at_most": at_most,
    }
    found = (await connection.execute(_PARKED, values)).all()
    replies = await _replies(connection, [row for row in found if row.kind == "r"])
    return [
        _parked_event(row)
        if row.kind == "e"
        else _parked_reply(row, replies[row.page_id, row.number])
        for row in found
    ]


async def _replies(
    connection: AsyncConnection, rows: Sequence[Row[Any]]
) -> dict[tuple[str, int], Reply]:
    wanted = {
        "page_ids": [row.page_id for row in rows],
        "numbers": [row.number for row in rows],
    }
    found = await connection.execute(_REPLIES, wanted)
    return {(row.page_id, row.reply_id): reply_from(row) for row in found}


def position_of_parked(row: Parked) -> Position:
    """Where a list goes on behind this row."""
    kind = row.parked_id[0]
    named = (ids.parse_event_id if kind == "e" else ids.parse_reply_id)(row.parked_id)
    assert named is not None  # noqa: S101  # its id was made of a row
    return (row.park_time.ToJsonString(), kind, named[1])


def _parked_event(row: Row[Any]) -> Parked:
    event_id = ids.event_id(row.page_id, row.number)
    return Parked(
        parked_id=event_id,
        page_id=row.page_id,
        event=ParkedEvent(event_id=event_id, kind=row.event_kind, attempts=row.attempts),
        reason=row.reason,
        park_time=row.parked_at,
    )


def _parked_reply(row: Row[Any], reply: Reply) -> Parked:
    return Parked(
        parked_id=reply.reply_id,
        page_id=row.page_id,
        reply=reply,
        reason=row.reason,
        park_time=row.parked_at,
    )


async def retry_parked(connection: AsyncConnection, parked_id: str) -> None:
    """Puts a parked event or reply back, at the end of its lane. Raises ParkedUnknown."""
    event, reply = ids.parse_event_id(parked_id), ids.parse_reply_id(parked_id)
    put_back = False
    if event is not None:
        put_back = await retry_event(connection, *event)
    elif reply is not None:
        put_back = await retry_reply(connection, *reply)
    if not put_back:
        raise ParkedUnknown(parked_id)


async def settle_parked(
    connection: AsyncConnection, parked_id: str, end: Settlement.ValueType
) -> None:
    """Ends what is parked as a person found it. Raises InvalidArgument and ParkedUnknown."""
    if end not in (SETTLEMENT_SENT, SETTLEMENT_DROPPED):
        raise InvalidArgument("settlement", "must be SENT or DROPPED")
    event, reply = ids.parse_event_id(parked_id), ids.parse_reply_id(parked_id)
    ended = False
    if event is not None:
        if end == SETTLEMENT_SENT:
            raise InvalidArgument("settlement", "must be DROPPED: an event cannot have been sent")
        ended = await drop_event(connection, *event)
    elif reply is not None:
        was_sent = end == SETTLEMENT_SENT
        ended = await settle_reply(connection, *reply, was_sent=was_sent)
    if not ended:
        raise ParkedUnknown(parked_id)
