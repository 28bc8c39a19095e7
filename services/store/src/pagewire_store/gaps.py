"""Where webhooks may be missing, by page; and the repairs that look there.

Four things open a gap. *Outage*: no edge was heard of for half a minute (a setting). *Refused*: an
edge had to turn webhooks away. *Signatures*: an edge saw bad signatures and no good one for as long
as the grace, as when our secret is the wrong one. Anybody can send bad signatures, so one good
signature among them ends the suspicion, and where no webhooks come that could end it, strangers
bring about no more than the one repair an hour that a page has at the most. *Silence*: a page's
webhooks stay away for far longer than its conversations do.

A gap waits for the grace, since Meta sends again what was refused. It is one span a page, from the
grace before the first loss on, as webhooks come later than what they tell of was written; `runs`
closes it when a repair has read it. One that could not read all of it is tried again, ever later;
what is lost meanwhile waits no longer than otherwise.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.ingest_service_pb2 import ReportReceptionRequest
from pagewire.type.v1.event_pb2 import SOURCE_RECOVERED
from pagewire_runtime import metrics
from pagewire_runtime.errors import InvalidArgument
from pagewire_store import runs
from pagewire_store.schedule import CHUNK

OUTAGE = timedelta(seconds=30)
"""Some reports of an edge: that nobody has heard of any for so long is no accident."""
NOTED_EVERY = timedelta(seconds=30)
"""A loss that goes on is noted anew so often: the row of every page is written for it."""
LONGEST_GRACE = 5
"""Graces from the first loss on, after which a repair no longer waits for losses to end."""
FORGOTTEN = timedelta(days=1)
"""An edge that was not heard of for so long is no more."""

KNOWN_BY = 10
"""Conversations that a page must have had for its norm to be known."""
NEWEST = 100
"""As many of them tell it."""
FAR_LONGER = 20
"""Times the usual distance of two."""
SHORTEST_SILENCE = timedelta(hours=1)

_EDGE_MAX = 200

_noted = metrics.counter(
    "pagewire_gaps_total", "Gaps opened in what webhooks brought to pages, by cause.", ["cause"]
)


def settled_after(grace: timedelta) -> timedelta:
    """How long after a loss was noted last a repair finds all of it."""
    return grace + NOTED_EVERY


class Seen(NamedTuple):
    """What is known of edges when one of them reports."""

    now: datetime
    heard_at: datetime | None
    """When any was heard of last."""
    bad_since: datetime | None
    """Since when this one saw bad signatures alone."""


class Loss(NamedTuple):
    """Why webhooks may be missing, and since when."""

    cause: str
    since: datetime


def losses(
    report: ReportReceptionRequest, seen: Seen, grace: timedelta, outage: timedelta = OUTAGE
) -> tuple[list[Loss], datetime | None]:
    """What a report tells of losses, and since when its edge has seen bad signatures alone."""
    first = None
    if report.HasField("first_lost_time"):
        first = min(report.first_lost_time.ToDatetime(UTC), seen.now)
    bad_since = _bad_since(report, seen, first)
    found = []
    if seen.heard_at is not None and seen.now - seen.heard_at > outage:
        found.append(Loss("outage", seen.heard_at))
    if report.refused:
        found.append(Loss("refused", first or seen.heard_at or seen.now))
    if bad_since is not None and seen.now - bad_since >= grace:
        found.append(Loss("signatures", bad_since))
    return found, bad_since


def _bad_since(
    report: ReportReceptionRequest, seen: Seen, first: datetime | None
) -> datetime | None:
    if report.refused:  # they were signed well, and the gap that they open holds all before
        return None
    if first is not None and (report.accepted or seen.bad_since is None):
        return first
    return None if report.accepted and first is None else seen.bad_since


_SEEN = text("""
    select now() as now, max(seen_at) as heard_at,
        max(bad_since) filter (where edge = :edge) as bad_since
    from reception
""")

_HEARD = text("""
    insert into reception as r (edge, seen_at, bad_since)
    values (:edge, now(), cast(:bad_since as timestamptz))
    on conflict (edge) do update set
        seen_at = greatest(r.seen_at, excluded.seen_at), bad_since = excluded.bad_since
    returning xmax = 0 as is_new
""")

_FORGET = text("delete from reception where seen_at < now() - :forgotten")

_EVERY_PAGE = """
    select page_id, greatest(cast(:since as timestamptz), connected_at) as since
    from page where connected
"""

# What a repair brought is no sign of webhooks, nor is what history stored.
_SILENT = f"""
    select p.page_id, s.since - :grace as since
    from page p
    left join mirror m on m.page_id = p.page_id and m.kind = 'conversations'
    cross join lateral (
        select greatest(p.connected_at, m.repaired_at, (
            select e.received_at from event e
            where e.page_id = p.page_id and e.source <> {SOURCE_RECOVERED}
            order by e.event_id desc limit 1)) as since) s
    cross join lateral (
        select count(*) as number, (max(c.updated_at) - min(c.updated_at)) as span from (
            select updated_at from conversation
            where page_id = p.page_id order by updated_at desc limit {NEWEST}) c) n
    where p.connected and p.state <> 'blocked' and m.gap_from is null
        and s.since < now() - :shortest and n.number >= {KNOWN_BY}
        and s.since < now() - {FAR_LONGER} * n.span / nullif(n.number - 1, 0)
"""  # noqa: S608  # numbers


def _noting(lost: str) -> TextClause:
    return text(f"""
        with lost as materialized ({lost}), news as materialized (
            select l.page_id, l.since, m.gap_from is null as opens
            from lost l left join mirror m on m.page_id = l.page_id and m.kind = 'conversations'
            where m.gap_from is null or m.gap_from > l.since
                or m.gap_noticed_at <= now() - :noted_every
        ), noted as (
            insert into mirror as m (page_id, kind, gap_from, gap_cause, gap_noticed_at)
            select page_id, 'conversations', since, :cause, now() from news order by page_id
            on conflict (page_id, kind) do update set
                gap_from = least(m.gap_from, excluded.gap_from),
                gap_cause = case when m.gap_from is null then excluded.gap_cause
                    else m.gap_cause end,
                gap_noticed_at = now()
        )
        select count(*) from news where opens
    """)  # noqa: S608  # constants


_NOTE_EVERY_PAGE, _NOTE_SILENT = _noting(_EVERY_PAGE), _noting(_SILENT)


async def report(
    connection: AsyncConnection,
    request: ReportReceptionRequest,
    *,
    grace: timedelta,
    outage: timedelta = OUTAGE,
) -> None:
    """Takes what an edge says of itself, and notes where webhooks may be missing.

    Raises InvalidArgument.
    """
    _check(request)
    row = (await connection.execute(_SEEN, {"edge": request.edge})).one()
    found, bad_since = losses(request, Seen(*row), grace, outage)
    heard = {"edge": request.edge, "bad_since": bad_since}
    if (await connection.execute(_HEARD, heard)).one().is_new:
        await connection.execute(_FORGET, {"forgotten": FORGOTTEN})
    for loss in found:  # what came then, or would have, was written before
        await _note(connection, _NOTE_EVERY_PAGE, loss.cause, since=loss.since - grace)


def _check(request: ReportReceptionRequest) -> None:
    if not 0 < len(request.edge) <= _EDGE_MAX or "\0" in request.edge:
        raise InvalidArgument("edge", f"must be 1 to {_EDGE_MAX} characters")
    for field in ("accepted", "refused", "bad_signatures"):
        if getattr(request, field) < 0:
            raise InvalidArgument(field, "must not be negative")


async def note_silences(connection: AsyncConnection, *, grace: timedelta) -> None:
    """Looks for pages whose webhooks stay away."""
    await _note(connection, _NOTE_SILENT, "silence", grace=grace, shortest=SHORTEST_SILENCE)


async def _note(
    connection: AsyncConnection, statement: TextClause, cause: str, **values: object
) -> None:
    given = {"cause": cause, "noted_every": NOTED_EVERY, **values}
    _noted.labels(cause).inc((await connection.execute(statement, given)).scalar_one())


_DUE = text(f"""
    select m.page_id, m.kind, m.gap_from
    from page p join mirror m on m.page_id = p.page_id and m.kind = 'conversations'
    where p.connected and p.state <> 'blocked' and m.gap_from is not null
        and (m.gap_noticed_at <= now() - :settled_after or m.gap_from <= now() - :longest)
        and not exists (
            select from sync_run r
            where r.page_id = m.page_id and r.origin = 'repair'
                and (r.{runs.OPEN} or r.created_at > now() - cast(:interval as interval) * case
                    when m.gap_noticed_at > r.created_at then 1
                    else 2 ^ greatest(({runs.PARTIALS}) - 1, 0) end))
    order by m.page_id limit :chunk
    for update of m skip locked for no key update of p skip locked
""")  # noqa: S608  # a constant

# Meta unsubscribes us from a page whose webhooks failed for an hour, and says so to nobody here:
# without a check the page would hear of nothing more until that of the next day.
_CHECK_SOON = text("""
    update page set check_due_at = least(check_due_at, now()) where page_id = any(:pages)
""")


async def start_repairs(
    connection: AsyncConnection, *, interval: timedelta, grace: timedelta
) -> int:
    """Queues a repair for up to CHUNK pages whose gap has waited for the grace, and says how many.

    A page has one in an `interval`; one that was asked for counts. With its repair its check is
    due, which sees whether it is subscribed still.
    """
    values = {
        "settled_after": settled_after(grace),
        "longest": LONGEST_GRACE * grace,
        "interval": interval,
        "chunk": CHUNK,
    }
    due = (await connection.execute(_DUE, values)).all()
    if due:
        await connection.execute(_CHECK_SOON, {"pages": [row.page_id for row in due]})
    return await runs.queue(connection, "repair", [tuple(row) for row in due])
