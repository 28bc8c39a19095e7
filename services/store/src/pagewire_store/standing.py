"""How things stand, as gauges for alarms: looked up now and then, by indexes that hold only that.

Several stores show the same figures; an alarm takes the greatest.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire_runtime import metrics
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

_STATES = ("healthy", "expiring", "degraded", "blocked")

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

_BY_STATE = text("select state, count(*) from page where connected group by state")


async def show(engine: AsyncEngine) -> None:
    """Looks it up and sets the gauges. Raises Unavailable; they then stay as they were."""

    async def look(connection: AsyncConnection) -> tuple[list[float], dict[str, int]]:
        figures = (await connection.execute(_STANDING)).one()
        pages = (await connection.execute(_BY_STATE)).all()
        return [float(figure) for figure in figures], {row[0]: row[1] for row in pages}

    figures, pages = await in_transaction(engine, look)
    gauges = (
        *(_pending, _oldest_pending, _uncertain, _oldest_uncertain),
        *(_parked.labels("event"), _parked.labels("reply"), _quarantined, _unknown),
    )
    for gauge, figure in zip(gauges, figures, strict=True):
        gauge.set(figure)
    for state in _STATES:
        _pages.labels(state).set(pages.get(state, 0))
