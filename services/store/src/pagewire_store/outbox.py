"""The outbox: replies are handed out one a lane and in order, and how they ended is written down.

What an ending changes is `settling`'s, what a person does about a parked one `parked`'s; here are
the calls of sync, and the page's hand on the queue.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, timedelta
from typing import Any, NamedTuple

from psycopg.rows import namedtuple_row
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    VERDICT_EXPIRED,
    VERDICT_PAGE_BLOCKED,
    VERDICT_REFUSED,
    VERDICT_RETRY,
    VERDICT_UNCERTAIN,
    AttemptOutcome,
    ClaimedReply,
    ReadBack,
    ReadBackResult,
)
from pagewire.type.v1.page_pb2 import Login, Platform
from pagewire.type.v1.reply_pb2 import (
    REPLY_STATE_UNSPECIFIED,
    TAG_HUMAN_AGENT,
    TAG_UNSPECIFIED,
    Reply,
    ReplyOrigin,
    ReplyState,
)
from pagewire_runtime import metrics
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_runtime.logs import get_logger
from pagewire_store import ids, settling
from pagewire_store.columns import BIGINT, TEXT
from pagewire_store.connections import Driver
from pagewire_store.database import driver
from pagewire_store.replies import COLUMNS, content_of, kind_of, reply_from, state_of
from pagewire_store.settling import Ending, Key, Settled
from pagewire_store.transitions import WAITS, Signal, Waits
from pagewire_store.trips import Statement, ended, within

LOOK_LEASE = timedelta(seconds=15)
CHUNK = 200
"""Replies that one transaction settles: it holds their conversations, so it must be short."""
TAG = "pw1."

log = get_logger(__name__)

_ambiguous = metrics.counter(
    "pagewire_reply_ambiguous_total", "Looks that found a reply more than once."
)


class ReplyUnknown(Refusal):
    """No reply has this id."""

    kind = Kind.MISSING
    reason = "REPLY_UNKNOWN"

    def __init__(self, reply_id: str) -> None:
        super().__init__("there is no such reply", reply_id=reply_id[:256])


_GET = f"""
select {COLUMNS} from outbox where page_id = %(page_id)s and reply_id = %(reply_id)s
"""  # noqa: S608  # the columns are a constant

# What a claim and a look hand out.
_HANDED = """
    o.page_id, o.reply_id, o.tag, o.attempt, o.kind, p.platform, p.login,
    coalesce(p.facebook_page_id, p.page_id) as node_id, p.token_version, o.person_id,
    o.comment_id, k.created_at as comment_time, o.content, o.hidden, o.label,
    c.last_inbound_at, o.origin, o.message_tag, o.expires_at, o.uncertain_before
"""


class _Handed(NamedTuple):
    """The same, as it comes."""

    page_id: str
    reply_id: int
    tag: str
    attempt: int
    kind: str
    platform: str
    login: str
    node_id: str
    token_version: int
    person_id: Any
    comment_id: Any
    comment_time: Any
    content: bytes | None
    hidden: Any
    label: Any
    last_inbound_at: Any
    origin: str
    message_tag: str | None
    expires_at: Any
    uncertain_before: bool


_BESIDE = """
    join page p on p.page_id = o.page_id
    left join conversation c on c.page_id = o.page_id and c.participant_id = o.person_id
    left join comment k on k.page_id = o.page_id and k.comment_id = o.comment_id
"""

# Page by page, so that a long queue of one page, or of a blocked one, holds up no other: `waiting`
# walks from page to page by the index of ready rows. More are found than are locked, so that claims
# at the same time seldom find nothing but each other's; `locked` takes them one by one until it has
# enough.
_CLAIM = Statement(
    f"""
with recursive waiting (page_id) as (
    (select page_id from outbox where state = 'ready' order by page_id limit 1)
    union all
    select (select o.page_id from outbox o where o.state = 'ready' and o.page_id > w.page_id
            order by o.page_id limit 1)
    from waiting w where w.page_id is not null
), found as materialized (
    select r.*
    from waiting w
    join page p on p.page_id = w.page_id and p.connected and p.state <> 'blocked'
    cross join lateral (
        select o.page_id, o.reply_id, o.created_at from outbox o
        where o.page_id = w.page_id and o.state = 'ready' and o.expires_at > now()
            and (o.not_before is null or o.not_before <= now())
            and o.ordinal = (
                select min(e.ordinal) from outbox e
                where e.page_id = o.page_id and e.lane = o.lane
                    and e.state in ('ready', 'sending', 'uncertain'))
        order by o.created_at limit $1 * 3
    ) r
    order by r.created_at limit $1 * 3
), locked as materialized (
    select o.page_id, o.reply_id
    from found f cross join lateral (
        select page_id, reply_id, state from outbox
        where page_id = f.page_id and reply_id = f.reply_id limit 1 for update skip locked) o
    where o.state = 'ready' limit $1
), due as (
    select page_id, reply_id, row_number() over () as place from locked
), claimed as (
    update outbox o set state = 'sending', state_reason = '', attempt = o.attempt + 1,
        tag = ($2::text[])[due.place], lease_owner = $3,
        lease_until = clock_timestamp() + $4 * interval '1 microsecond',
        sending_at = coalesce(o.sending_at, clock_timestamp()), not_before = null
    from due where o.page_id = due.page_id and o.reply_id = due.reply_id
    returning o.*
), begun as (
    insert into attempt (page_id, tag, reply_id, number, token_version, started_at)
    select c.page_id, c.tag, c.reply_id, c.attempt, p.token_version, clock_timestamp()
    from claimed c join page p on p.page_id = c.page_id
)
select {_HANDED} from claimed o {_BESIDE} order by o.created_at
""",  # noqa: S608
    [BIGINT.element_oid, TEXT.array_oid, TEXT.element_oid, BIGINT.element_oid],
)

DUE_LOOKS = """
    from outbox o join page p on p.page_id = o.page_id and p.connected and p.state <> 'blocked'
    where o.state = 'uncertain' and o.kind in ('message', 'comment_reply')
        and o.look_due_at <= now()
        and (o.look_lease_until is null or o.look_lease_until <= now())
"""
"""Uncertain replies that are to be looked for now, and that nobody looks for."""

_LOOK = f"""
with due as materialized (
    select o.page_id, o.reply_id {DUE_LOOKS}
    order by o.look_due_at limit %(at_most)s
    for update of o skip locked
), claimed as (
    update outbox o set look_lease_until = clock_timestamp() + %(lease)s
    from due where o.page_id = due.page_id and o.reply_id = due.reply_id
    returning o.*
)
select {_HANDED}, o.clean_looks, a.started_at,
    array(
        select b.mid from outbox b
        where b.page_id = o.page_id and b.reply_id <> o.reply_id and b.mid is not null
            and (b.person_id = o.person_id or b.comment_id = o.comment_id)
        order by b.created_at desc limit 100
    ) as bound_mids,
    (
        select b.mid from outbox b
        where b.page_id = o.page_id and b.lane = o.lane and b.ordinal < o.ordinal
            and b.kind = o.kind and b.mid is not null
            and b.sent_at between a.started_at - interval '3 minutes' and a.started_at
        order by b.ordinal desc limit 1
    ) as known_mid
from claimed o {_BESIDE}
join attempt a on a.page_id = o.page_id and a.reply_id = o.reply_id and a.tag = o.tag
order by o.look_due_at
"""  # noqa: S608

_UNSENT = """
select page_id, reply_id, tag from outbox where page_id = %(page_id)s and state = 'ready'
order by created_at limit %(at_most)s
"""

_SIGNALS = {
    VERDICT_ACCEPTED: Signal.ACCEPTED,
    VERDICT_REFUSED: Signal.REFUSED,
    VERDICT_RETRY: Signal.NOT_NOW,
    VERDICT_UNCERTAIN: Signal.UNKNOWN,
    VERDICT_EXPIRED: Signal.TOO_LATE,
    VERDICT_PAGE_BLOCKED: Signal.BLOCKED,
}

_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def new_tags(count: int) -> list[str]:
    """A fresh tag for each attempt: `pw1.` and 22 characters base64url that nobody guesses."""
    drawn = secrets.token_bytes(16 * count)
    each = (drawn[at : at + 16] for at in range(0, len(drawn), 16))
    return [TAG + urlsafe_b64encode(one).decode().rstrip("=") for one in each]


async def get(connection: Driver, reply_id: str) -> Reply:
    """The reply. Raises ReplyUnknown."""
    named = ids.parse_reply_id(reply_id)
    if named is None:
        raise ReplyUnknown(reply_id)
    found = await _rows(connection, _GET, {"page_id": named[0], "reply_id": named[1]})
    if not found:
        raise ReplyUnknown(reply_id)
    return reply_from(found[0])


async def claim(
    connection: Driver, owner: str, at_most: int, lease: timedelta
) -> list[ClaimedReply]:
    """Marks the first ready reply of up to so many lanes SENDING, each with a fresh tag.

    Commits: nothing of it may be sent before.
    """
    claim = _CLAIM.said(
        at_most.to_bytes(8),
        TEXT.packed(new_tags(at_most)),
        owner.encode(),
        (lease // timedelta(microseconds=1)).to_bytes(8),
    )
    (claimed,) = await ended(connection, claim)
    return [_claimed(_Handed(*row)) for row in claimed.rows]


async def claim_read_backs(
    connection: Driver, at_most: int, lease: timedelta = LOOK_LEASE
) -> list[ReadBack]:
    """Uncertain replies to look for, which nobody else is given before the lease ends."""
    found = await _rows(connection, _LOOK, {"at_most": at_most, "lease": lease})
    return [
        ReadBack(
            reply=_claimed(row),
            attempt_time=row.started_at,
            clean_looks=row.clean_looks,
            bound_mids=row.bound_mids,
            known_mid=row.known_mid or "",
        )
        for row in found
    ]


async def record_outcomes(
    connection: Driver,
    outcomes: Sequence[AttemptOutcome],
    *,
    person_pause: timedelta,
    waits: Waits = WAITS,
) -> tuple[list[ReplyState.ValueType], bool]:
    """Writes down how attempts ended, and commits: the replies' states in order, and whether a lane
    may go on.

    A tag that is not known has the state unspecified. Raises InvalidArgument for no verdict.
    """
    signals = [_signal(outcome) for outcome in outcomes]
    replies = await _of_attempts(connection, [outcome.tag for outcome in outcomes])
    endings = [
        _ending(outcome, signal, replies[outcome.tag].key)
        for outcome, signal in zip(outcomes, signals, strict=True)
        if outcome.tag in replies
    ]
    settled = await settling.settle(
        connection, endings, person_pause=person_pause, waits=waits, known=replies.values()
    )
    await ended(connection, *settled.left)
    return _states([outcome.tag for outcome in outcomes], replies, settled), settled.freed


async def record_read_backs(
    connection: Driver,
    results: Sequence[ReadBackResult],
    *,
    person_pause: timedelta,
    waits: Waits = WAITS,
) -> tuple[list[ReplyState.ValueType], bool]:
    """Writes down what looking found; answers as `record_outcomes` does."""
    replies = await _of_attempts(connection, [result.tag for result in results])
    endings = [
        _found(result, replies[result.tag].key) for result in results if result.tag in replies
    ]
    settled = await settling.settle(
        connection, endings, person_pause=person_pause, waits=waits, known=replies.values()
    )
    await ended(connection, *settled.left)
    return _states([result.tag for result in results], replies, settled), settled.freed


async def fail_unsent(
    connection: AsyncConnection, page_id: str, *, person_pause: timedelta = timedelta()
) -> None:
    """Fails what waits to be sent for a page that is being disconnected, in its transaction.

    Of a long queue, the first `CHUNK`: nobody is handed the rest, which the sweep fails, or the
    page's next connecting.
    """
    raw = await driver(connection)
    values = {"page_id": page_id, "at_most": CHUNK}
    rows = await (await raw.execute(_UNSENT, values)).fetchall()
    endings = [
        Ending(page, reply, tag, Signal.DISCONNECTED, Signal.DISCONNECTED.value)
        for page, reply, tag in rows
    ]
    settled = await settling.settle(raw, endings, person_pause=person_pause)
    await within(raw, *settled.left)


async def _of_attempts(connection: Driver, tags: Sequence[str]) -> dict[str, settling.Reply]:
    if not tags:
        return {}
    (found,) = await within(connection, settling.read_attempts(tags))
    return settling.by_attempt(found)


def _signal(outcome: AttemptOutcome) -> Signal:
    signal = _SIGNALS.get(outcome.verdict)
    if signal is None:
        raise InvalidArgument("outcomes.verdict", "must say how the attempt ended")
    return signal


def _ending(outcome: AttemptOutcome, signal: Signal, reply: Key) -> Ending:
    return Ending(
        *reply,
        outcome.tag,
        signal,
        reason=_word(outcome.reason),
        via="response" if signal is Signal.ACCEPTED else None,
        mid=outcome.mid,
        recipient_id=outcome.recipient_id,
        at=outcome.send_time.ToDatetime(UTC) if outcome.HasField("send_time") else None,
        retry_after=outcome.retry_after.ToTimedelta() if outcome.HasField("retry_after") else None,
        http_status=outcome.http_status,
        code=outcome.code,
        subcode=outcome.subcode,
    )


def _found(result: ReadBackResult, reply: Key) -> Ending:
    match result.WhichOneof("result"):
        case "found_mid":
            return Ending(*reply, result.tag, Signal.ACCEPTED, via="readback", mid=result.found_mid)
        case "ambiguous_mid":
            _ambiguous.inc()
            log.error("a reply was found more than once", page_id=reply[0], number=reply[1])
            return Ending(
                *reply, result.tag, Signal.ACCEPTED, via="readback", mid=result.ambiguous_mid
            )
        case "clean" if result.clean:
            reason, signal = "not_found", Signal.CLEAN_LOOK
        case "error":
            reason, signal = _word(result.error), Signal.FAILED_LOOK
        case _:
            raise InvalidArgument("results.result", "must say what the look found")
    before = result.clean_looks if result.HasField("clean_looks") else None
    return Ending(*reply, result.tag, signal, reason=reason, looks_before=before)


def _word(reason: str) -> str:
    """The reason if it is a stable word; what could hold anything is not kept."""
    return reason if not reason or _WORD.fullmatch(reason) else "unknown"


def _states(
    tags: Iterable[str], replies: Mapping[str, settling.Reply], settled: Settled
) -> list[ReplyState.ValueType]:
    return [
        state_of(settled.states[replies[tag].key]) if tag in replies else REPLY_STATE_UNSPECIFIED
        for tag in tags
    ]


def _claimed(row: Any) -> ClaimedReply:
    return ClaimedReply(
        reply_id=ids.reply_id(row.page_id, row.reply_id),
        tag=row.tag,
        attempt=row.attempt,
        kind=kind_of(row.kind),
        page_id=row.page_id,
        platform=Platform.Value(f"PLATFORM_{row.platform.upper()}"),
        login=Login.Value(f"LOGIN_{row.login.upper()}"),
        node_id=row.node_id,
        token_version=row.token_version,
        person_id=row.person_id,
        comment_id=row.comment_id,
        comment_time=row.comment_time,
        content=content_of(row.content),
        hidden=row.hidden,
        label=row.label,
        last_inbound_time=row.last_inbound_at,
        origin=ReplyOrigin.Value(f"REPLY_ORIGIN_{row.origin.upper()}"),
        message_tag=TAG_HUMAN_AGENT if row.message_tag else TAG_UNSPECIFIED,
        expire_time=row.expires_at,
        after_uncertain=row.uncertain_before,
    )


async def _rows(connection: Driver, statement: str, values: Any) -> list[Any]:
    async with connection.cursor(row_factory=namedtuple_row) as cursor:
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchall()
