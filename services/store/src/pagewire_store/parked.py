"""What waits for a person, who puts it back at the end of its lane, or ends it as they found it.

Locks: lane, then event or outbox row; what an ending changes is `settling`'s.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire_store import settling
from pagewire_store.database import driver
from pagewire_store.settling import Ending
from pagewire_store.transitions import Signal, State, after
from pagewire_store.trips import within

# A person who puts a reply back wants it sent; sync still knows Meta's windows.
SECOND_LIFE = timedelta(hours=24)

_LANE_OF_EVENT = """
select lane from event
where page_id = %(page_id)s and event_id = %(event_id)s and state = 'parked'
"""

_LOCK_LANE = "select 1 from lane where page_id = %(page_id)s and lane = %(lane)s for update"

_UNPARK = """
update event set state = 'pending', number = nextval('event_number'), attempts = 0,
    first_failed_at = null, last_error = null
where page_id = %(page_id)s and event_id = %(event_id)s and state = 'parked'
returning received_at
"""

_FORGET_DECISION = """
delete from decision
where page_id = %(page_id)s and event_id = %(event_id)s and outcome = 'failed'
"""

_PEND = """
update lane set pending = pending + 1,
    pending_since = coalesce(pending_since, %(received_at)s)
where page_id = %(page_id)s and lane = %(lane)s
"""

_DROP = """
update event set state = 'done'
where page_id = %(page_id)s and event_id = %(event_id)s and state = 'parked'
"""

_LANE_OF_REPLY = "select lane from outbox where page_id = %(page_id)s and reply_id = %(reply_id)s"

_DRAW_ORDINAL = """
update lane set last_ordinal = last_ordinal + 1
where page_id = %(page_id)s and lane = %(lane)s returning last_ordinal
"""

_PUT_BACK = """
update outbox set state = %(to)s, state_reason = 'retried', ordinal = %(ordinal)s, ended_at = null,
    not_before = null, uncertain_before = true,
    expires_at = greatest(expires_at, clock_timestamp() + %(second_life)s)
where page_id = %(page_id)s and reply_id = %(reply_id)s and state = %(from)s
"""

_TAG = """
select tag from outbox
where page_id = %(page_id)s and reply_id = %(reply_id)s and state = 'parked'
"""


async def retry_event(connection: AsyncConnection, page_id: str, number: int) -> bool:
    """Makes a parked event pending again, at the end of its lane and as if it had never failed.

    False where no event of this number is parked. Wake the lanes after the commit.
    """
    raw = await driver(connection)
    values: dict[str, Any] = {"page_id": page_id, "event_id": number}
    found = await (await raw.execute(_LANE_OF_EVENT, values)).fetchone()
    if found is None:
        return False
    values["lane"] = found[0]
    await raw.execute(_LOCK_LANE, values)
    unparked = await (await raw.execute(_UNPARK, values)).fetchone()
    if unparked is None:
        return False
    await raw.execute(_FORGET_DECISION, values)
    await raw.execute(_PEND, {**values, "received_at": unparked[0]})
    return True


async def drop_event(connection: AsyncConnection, page_id: str, number: int) -> bool:
    """Lets a parked event go: it stays undecided. False where none of this number is parked."""
    raw = await driver(connection)
    dropped = await raw.execute(_DROP, {"page_id": page_id, "event_id": number})
    return dropped.rowcount == 1


async def retry_reply(connection: AsyncConnection, page_id: str, number: int) -> bool:
    """Puts a parked reply back, at the end of its lane; False where none of this number is parked.

    Wake the outbox after the commit.
    """
    raw = await driver(connection)
    values: dict[str, Any] = {"page_id": page_id, "reply_id": number}
    found = await (await raw.execute(_LANE_OF_REPLY, values)).fetchone()
    if found is None:
        return False
    values["lane"] = found[0]
    drawn = await (await raw.execute(_DRAW_ORDINAL, values)).fetchone()
    assert drawn is not None  # noqa: S101  # a reply's lane is there
    values["ordinal"] = drawn[0]
    values["from"], values["to"] = State.PARKED, after(State.PARKED, Signal.RETRIED)
    put_back = await raw.execute(_PUT_BACK, {**values, "second_life": SECOND_LIFE})
    return put_back.rowcount == 1


async def settle_reply(
    connection: AsyncConnection, page_id: str, number: int, *, was_sent: bool
) -> bool:
    """Ends a parked reply as a person found it; False where none of this number is parked."""
    raw = await driver(connection)
    found = await (await raw.execute(_TAG, {"page_id": page_id, "reply_id": number})).fetchone()
    if found is None:
        return False
    signal = Signal.ACCEPTED if was_sent else Signal.DROPPED
    ending = Ending(page_id, number, found[0], signal, signal.value, via="person")
    settled = await settling.settle(raw, [ending], person_pause=timedelta())
    await within(raw, *settled.left)
    return settled.states[ending.key] == after(State.PARKED, signal)
