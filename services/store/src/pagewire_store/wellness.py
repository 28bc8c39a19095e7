"""How pages are, as gauges for alarms: why they are not healthy, how soon their tokens end."""

from __future__ import annotations

from math import inf

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire_runtime import metrics

_unwell = metrics.gauge(
    "pagewire_pages_unwell", "Connected pages that are not healthy, and why.", ["state", "reason"]
)
_token_ends = metrics.gauge(
    "pagewire_page_token_expires_seconds",
    "How soon the first token of a connected page in that state ends; infinite where none does.",
    ["state"],
)

_STATES = ("healthy", "expiring", "degraded", "blocked")

_UNWELL = text("""
    select state, regexp_replace(state_reason, '_[0-9].*$', '') as reason, count(*) as pages
    from page where connected and state <> 'healthy' group by 1, 2
""")
"""Without Graph's codes, which are many."""

_TOKEN_ENDS = text("""
    select state, extract(epoch from min(token_expires_at) - now()) as seconds
    from page where connected and token_expires_at is not null group by state
""")


async def show(connection: AsyncConnection) -> None:
    """Looks it up and sets the gauges."""
    unwell = (await connection.execute(_UNWELL)).all()
    ends = {row.state: float(row.seconds) for row in await connection.execute(_TOKEN_ENDS)}
    _unwell.clear()
    for row in unwell:
        _unwell.labels(row.state, row.reason).set(row.pages)
    for state in _STATES:
        _token_ends.labels(state).set(ends.get(state, inf))
