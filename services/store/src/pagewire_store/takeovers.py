"""Taking lanes over from a dispatcher that died: perhaps of the event that it had before it.

Each such death counts on the lane's first event alone, like a failure to evaluate it; the event
that has had enough of them is parked, and the lane goes on. Only their number counts, never the
time since the first: a lease also ends of itself where PostgreSQL stands still for longer than it
lasts, and an outage of minutes would park what waits for its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from pagewire_runtime import metrics
from pagewire_runtime.logs import get_logger
from pagewire_store import deciding
from pagewire_store.arrivals import Lane
from pagewire_store.columns import TEXT, Bulk
from pagewire_store.connections import Driver
from pagewire_store.trips import trip

log = get_logger(__name__)

_taken_over = metrics.counter(
    "pagewire_lanes_taken_over_total",
    "Lanes whose dispatcher died, by whether their first event was parked for it.",
    ["parked"],
)

# What is pending for a page that is not connected ends with its claim, and is nobody's fault.
_COUNT = Bulk(
    """
    with first as (
        select p.page_id, p.event_key
        from {rows} join page on page.page_id = n.page_id and page.connected
        cross join lateral (
            select e.page_id, e.event_key from event e
            where e.page_id = n.page_id and e.lane = n.lane and e.state = 'pending'
            order by e.number limit 1) p)
    update event e set attempts = e.attempts + 1, last_error = 'dispatcher_died'
    from first where e.page_id = first.page_id and e.event_key = first.event_key
    returning e.page_id, e.event_key, e.event_id, e.attempts
    """,
    page_id=TEXT,
    lane=TEXT,
)

_PARK = Bulk(
    """
    with parked as (
        update event e set state = 'parked' from {rows}
        where e.page_id = n.page_id and e.event_key = n.event_key
        returning e.*),
    shorter as (
        update lane l set pending = l.pending - 1
        from parked where l.page_id = parked.page_id and l.lane = parked.lane)
    insert into decision (
        page_id, event_id, trigger, outcome, reason, verdicts, book_version, received_at,
        stored_at)
    select page_id, event_id, trigger, 'failed', 'evaluation_failed', '', 0, received_at, stored_at
    from parked
    """,
    page_id=TEXT,
    event_key=TEXT,
)


async def count_deaths(connection: Driver, lanes: Sequence[Lane]) -> None:
    """Counts a death on the first event of each of these lanes, which the caller has locked."""
    if not lanes:
        return
    (counted,) = await trip(connection, _COUNT.over(lanes))
    parked = []
    for page_id, event_key, number, attempts in counted.rows:
        is_enough = attempts >= deciding.MOST_FAILURES
        _taken_over.labels(str(is_enough).lower()).inc()
        if is_enough:
            log.error("an event is parked", page_id=page_id, number=number)
            parked.append((page_id, event_key))
    if parked:
        await trip(connection, _PARK.over(parked))
