"""How things stand, as gauges for alarms: looked up now and then, by indexes that hold only that.

Several stores show the same figures; an alarm takes the greatest.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire_runtime import metrics
from pagewire_store import wellness
from pagewire_store.database import in_transaction

_pending = metrics.gauge("pagewire_pending_events", "Events that wait to be decided.")
_oldest_pending = metrics.gauge(
    "pagewire_oldest_pending_seconds", "How long the oldest of them has waited."
)
_uncertain = metrics.gauge(
    "pagewire_uncertain_replies", "Replies of which nobody knows whether they were sent."
)
_oldest_uncertain = metrics.gauge(
    "pagewire_oldest_uncertain_seconds", "How long the oldest of them has been so."
)
_parked = metrics.gauge("pagewire_parked", "What waits for a person: event or reply.", ["what"])
_quarantined = metrics.gauge("pagewire_quarantined", "Items that could not be read, not yet again.")
_unknown = metrics.gauge(
    "pagewire_unknown_page_events", "Events of pages that are not connected here."
)
_pages = metrics.gauge("pagewire_pages", "Connected pages by state.", ["state"])

_synced = metrics.gauge(
    "pagewire_oldest_synced_seconds",
    "How long ago the page that is furthest behind was mirrored, by kind; of pages that ever were.",
    ["kind"],
)
_runs = metrics.gauge(
    "pagewire_open_sync_runs", "Runs of history not ended.", ["kind", "mode", "state"]
)
_gaps = metrics.gauge("pagewire_open_gaps", "Pages of which webhooks may be missing.")

_STATES = ("healthy", "expiring", "degraded", "blocked")
_KINDS = ("conversations", "comments")


class _Figures(NamedTuple):
    """What was looked up: the standing ones in their order, all else by its labels."""

    standing: list[float]
    pages: dict[str, int]
    synced: dict[str, float]
    gaps: int
    runs: dict[tuple[str, ...], int]


_STANDING = text("""
    select
        (select coalesce(sum(pending), 0) from lane where pending > 0),
        (select coalesce(extract(epoch from now() - min(pending_since)), 0)
            from lane where pending > 0),
        looked_for.replies, looked_for.oldest,
        (select count(*) from event where state = 'parked'),
        (select count(*) from outbox where state = 'parked'),
        (select count(*) from quarantine where replayed_at is null),
        (select count(*) from event where state = 'unknown_page')
    from (
        select count(*) as replies,
            coalesce(extract(epoch from now() - min(o.uncertain_at)), 0) as oldest
        from outbox o join page p on p.page_id = o.page_id
        where o.state = 'uncertain' and p.state <> 'blocked') looked_for
""")
"""A blocked page's uncertain replies are left out: nobody can look for them, and it has an alarm of
its own."""

_BY_STATE = text("select state, count(*) as number from page where connected group by state")

_SYNCED = text("""
    select m.kind, extract(epoch from now() - min(m.synced_at)), count(m.gap_from)
    from page p join mirror m on m.page_id = p.page_id
    where p.connected and p.state <> 'blocked' group by m.kind
""")

_OPEN_RUNS = text("""
    select kind, mode, state, count(*) from sync_run
    where state in ('queued', 'running') group by kind, mode, state
""")


async def show(engine: AsyncEngine) -> None:
    """Looks it up and sets the gauges. Raises Unavailable; they then stay as they were."""

    async def look(connection: AsyncConnection) -> _Figures:
        figures = (await connection.execute(_STANDING)).one()
        pages = (await connection.execute(_BY_STATE)).all()
        mirrors = (await connection.execute(_SYNCED)).all()
        runs = (await connection.execute(_OPEN_RUNS)).all()
        await wellness.show(connection)
        return _Figures(
            [float(figure) for figure in figures],
            {row.state: row.number for row in pages},
            {kind: float(age) for kind, age, _ in mirrors if age is not None},
            sum(gaps for _, _, gaps in mirrors),
            {tuple(labels): count for *labels, count in runs},
        )

    figures, pages, synced, gaps, runs = await in_transaction(engine, look)
    gauges = (
        *(_pending, _oldest_pending, _uncertain, _oldest_uncertain),
        *(_parked.labels("event"), _parked.labels("reply"), _quarantined, _unknown),
    )
    for gauge, figure in zip(gauges, figures, strict=True):
        gauge.set(figure)
    for state in _STATES:
        _pages.labels(state).set(pages.get(state, 0))
    _gaps.set(gaps)
    for kind in _KINDS:
        _synced.labels(kind).set(synced.get(kind, 0))
    for labels in product(_KINDS, ("full", "incremental"), ("queued", "running")):
        _runs.labels(*labels).set(runs.get(labels, 0))
