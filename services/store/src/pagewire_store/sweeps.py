"""Upkeep of the outbox: what time alone brings about, for the replies of blocked pages too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire_store import settling
from pagewire_store.database import driver, in_transaction
from pagewire_store.settling import Ending
from pagewire_store.transitions import PATIENCE, Signal

CHUNK = 200
"""Replies a transaction: it holds their conversations, so it must be short."""

# Each finds the replies to which a signal applies. They are found without a lock and then settled
# under theirs, by the tag that was seen: what went on meanwhile is left alone.
_FIND = {
    # The sender died, or is too slow to be waited for.
    Signal.LAPSED: """
        select page_id, reply_id, tag from outbox
        where state = 'sending' and lease_until <= now() limit %(chunk)s
    """,
    Signal.OUT_OF_TIME: """
        select page_id, reply_id, tag from outbox
        where state = 'ready' and expires_at <= now() order by expires_at limit %(chunk)s
    """,
    # Put in while the page was being disconnected, or back after an attempt that began before.
    Signal.DISCONNECTED: """
        select o.page_id, o.reply_id, o.tag
        from page p join outbox o on o.page_id = p.page_id and o.state = 'ready'
        where not p.connected limit %(chunk)s
    """,
    Signal.NO_ECHO: """
        select page_id, reply_id, tag from outbox
        where state = 'uncertain' and kind = 'private_reply' and look_due_at <= now()
        limit %(chunk)s
    """,
    # The clock of a blocked page's stands still.
    Signal.GIVEN_UP: """
        select o.page_id, o.reply_id, o.tag from outbox o join page p on p.page_id = o.page_id
        where o.state = 'uncertain' and o.uncertain_at <= now() - %(patience)s
            and p.state <> 'blocked'
        limit %(chunk)s
    """,
}

_REASONS = {
    Signal.LAPSED: "lease_lapsed",
    Signal.OUT_OF_TIME: "expired",
    Signal.DISCONNECTED: "page_disconnected",
    Signal.NO_ECHO: "no_echo",
    Signal.GIVEN_UP: "uncertain_too_long",
}


async def sweep(
    engine: AsyncEngine, *, person_pause: timedelta, wake_outbox: Callable[[], None]
) -> int:
    """Settles what time has brought about, and says how many replies that were.

    Safe to call at any time and from any number of stores. Raises Unavailable.
    """
    count = 0
    for signal in _FIND:
        while swept := await _sweep(engine, signal, person_pause):
            count += swept
            if swept < CHUNK:
                break
    if count:
        wake_outbox()
    return count


async def _sweep(engine: AsyncEngine, signal: Signal, person_pause: timedelta) -> int:
    async def work(connection: AsyncConnection) -> int:
        raw = await driver(connection)
        found = await raw.execute(_FIND[signal].encode(), {"chunk": CHUNK, "patience": PATIENCE})
        endings = [
            Ending(page_id, reply_id, tag, signal, _REASONS[signal])
            for page_id, reply_id, tag in await found.fetchall()
        ]
        await settling.settle(raw, endings, person_pause=person_pause)
        return len(endings)

    return await in_transaction(engine, work)
