"""What is due by the schedule: an incremental run of each kind, an interval after a page's last.

An interval also goes by after a page was connected, so that connecting alone starts no sync.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire_store import runs

CHUNK = 500
"""Runs that one transaction queues: it holds the rows of their pages."""

_MAKE_MIRRORS = text("""
    insert into mirror (page_id, kind)
    select p.page_id, k.kind
    from page p cross join (values ('conversations'), ('comments')) k (kind)
    where p.connected and not exists (
        select from mirror m where m.page_id = p.page_id and m.kind = k.kind)
    order by p.page_id, k.kind
    on conflict do nothing
""")

# A blocked page's token is dead: no run of it would come to anything.
_DUE = text(f"""
    select m.page_id, m.kind
    from page p join mirror m on m.page_id = p.page_id
    where p.connected and p.state <> 'blocked'
        and greatest(p.connected_at, m.run_ended_at) <= now() - :interval
        and not exists (
            select from sync_run r
            where r.page_id = m.page_id and r.kind = m.kind and r.{runs.OPEN})
    order by m.page_id, m.kind limit :chunk
    for update of m skip locked for share of p skip locked
""")  # noqa: S608  # a constant


async def start_due(connection: AsyncConnection, interval: timedelta) -> int:
    """Queues up to CHUNK runs that are due, and says how many.

    Safe to call at any time and from any number of stores.
    """
    await connection.execute(_MAKE_MIRRORS)
    due = await connection.execute(_DUE, {"interval": interval, "chunk": CHUNK})
    return await runs.queue(connection, "schedule", [(row.page_id, row.kind, None) for row in due])
