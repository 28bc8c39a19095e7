"""Upkeep of the outbox: what time alone brings about, for the replies of blocked pages too.

Mostly that is nothing, which one statement tells; only what it names is looked for and settled.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire_store import settling
from pagewire_store.columns import BIGINT
from pagewire_store.connections import Driver
from pagewire_store.database import Pools, driver, in_live_transaction, in_transaction
from pagewire_store.outbox import CHUNK, DUE_LOOKS
from pagewire_store.settling import Ending
from pagewire_store.transitions import WAITS, Signal, Waits
from pagewire_store.trips import Statement, trip, within

# Each says to which replies a signal applies. They are found without a lock and then settled under
# theirs, by the tag that was seen: what went on meanwhile is left alone.
_TO = {
    # The sender died, or is too slow to be waited for.
    Signal.LAPSED: "from outbox o where o.state = 'sending' and o.lease_until <= now()",
    Signal.OUT_OF_TIME: "from outbox o where o.state = 'ready' and o.expires_at <= now()",
    # Put in while the page was being disconnected, back after an attempt that began before, or more
    # than disconnecting has failed itself.
    Signal.DISCONNECTED: """
        from page p join outbox o on o.page_id = p.page_id and o.state = 'ready'
        where not p.connected
    """,
    Signal.NO_ECHO: """
        from outbox o
        where o.state = 'uncertain' and o.kind = 'private_reply' and o.look_due_at <= now()
    """,
    # The clock of a blocked page's stands still.
    Signal.GIVEN_UP: """
        from outbox o join page p on p.page_id = o.page_id
        where o.state = 'uncertain' and p.state <> 'blocked'
            and o.uncertain_at <= now() - %(patience)s
    """,
}

_FIND = {
    signal: f"select o.page_id, o.reply_id, o.tag {to} limit %(chunk)s".encode()
    for signal, to in _TO.items()
}

_LOOK = "look"
_DUE = Statement(
    " union all ".join(
        f"select '{what}' where exists (select {of})"
        for what, of in [*_TO.items(), (_LOOK, DUE_LOOKS)]
    ).replace("%(patience)s", "$1 * interval '1 microsecond'"),
    [BIGINT.element_oid],
)

_REASONS = {
    Signal.LAPSED: "lease_lapsed",
    Signal.OUT_OF_TIME: "expired",
    Signal.DISCONNECTED: "page_disconnected",
    Signal.NO_ECHO: "no_echo",
    Signal.GIVEN_UP: "uncertain_too_long",
}


async def sweep(
    pools: Pools,
    *,
    person_pause: timedelta,
    waits: Waits = WAITS,
    wake_outbox: Callable[[], None],
    wake_looks: Callable[[], None],
) -> int:
    """Settles what time has brought about, and says how many replies that were.

    `wake_looks` is called where an uncertain reply is to be looked for by now. Safe to call at any
    time and from any number of stores. Raises Unavailable.
    """
    due = await in_live_transaction(pools.live, partial(_due, patience=waits.patience))
    count = 0
    for signal in _TO:
        if signal.value in due:
            count += await _sweep_all(pools.upkeep, signal, person_pause, waits)
    if count:
        wake_outbox()
    if _LOOK in due:
        wake_looks()
    return count


async def _due(connection: Driver, patience: timedelta) -> set[str]:
    """By a statement that is a transaction: each second, and mostly all that there is to do."""
    asked = _DUE.said((patience // timedelta(microseconds=1)).to_bytes(8))
    (found,) = await trip(connection, asked)
    return {what for (what,) in found.rows}


async def _sweep_all(
    engine: AsyncEngine, signal: Signal, person_pause: timedelta, waits: Waits
) -> int:
    count = 0
    while swept := await _sweep(engine, signal, person_pause, waits):
        count += swept
        if swept < CHUNK:
            break
    return count


async def _sweep(engine: AsyncEngine, signal: Signal, person_pause: timedelta, waits: Waits) -> int:
    async def work(connection: AsyncConnection) -> int:
        raw = await driver(connection)
        found = await raw.execute(_FIND[signal], {"chunk": CHUNK, "patience": waits.patience})
        endings = [
            Ending(page_id, reply_id, tag, signal, _REASONS[signal])
            for page_id, reply_id, tag in await found.fetchall()
        ]
        settled = await settling.settle(raw, endings, person_pause=person_pause, waits=waits)
        await within(raw, *settled.left)
        return len(endings)

    return await in_transaction(engine, work)
