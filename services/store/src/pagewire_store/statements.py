"""What ingest says to PostgreSQL: a name and a sentence each, over all the rows of a batch."""

from __future__ import annotations

from pagewire.type.v1.event_pb2 import SOURCE_STANDBY
from pagewire_store.columns import BIGINT, BYTES, INT, SMALLINT, TEXT, TIME, UUIDS, Bulk
from pagewire_store.trips import Statement

# What is stored of these events: whether their page is connected, by which source they came where
# they are known, and whether their lane is still to be made.
SEEN = Bulk(
    """
    select n.ord, p.page_id is not null, e.source, l.page_id is null
    from {rows}
    left join page p on p.page_id = n.page_id and p.connected
    left join event e on e.page_id = n.page_id and e.event_key = n.event_key
    left join lane l on l.page_id = n.page_id and l.lane = n.lane
    """,
    page_id=TEXT,
    event_key=TEXT,
    lane=TEXT,
)

# The same once their lanes are locked, so that it stays so; of events that were not there.
KNOWN = Bulk(
    """
    select e.page_id, e.event_key, e.source
    from {rows} join event e on e.page_id = n.page_id and e.event_key = n.event_key
    """,
    page_id=TEXT,
    event_key=TEXT,
)

# Makes lanes, in order. An empty lane that a crash forgets is missed by nobody, and the commit that
# fills it flushes what came before it: so this one need not wait for the disk.
NEW_LANES_SETTINGS = Statement(
    "select set_config('lock_timeout', $1, true), set_config('synchronous_commit', 'off', true)",
    [TEXT.element_oid],
)
NEW_LANES = Bulk(
    """
    insert into lane (page_id, lane) select n.page_id, n.lane from {rows} order by n.ord
    on conflict (page_id, lane) do nothing
    """,
    page_id=TEXT,
    lane=TEXT,
)

# Locks lanes, and answers which: those held by another transaction are skipped.
LOCK_LANES = Bulk(
    """
    select l.page_id, l.lane
    from {rows} join lane l on l.page_id = n.page_id and l.lane = n.lane
    order by l.page_id, l.lane for update of l skip locked
    """,
    page_id=TEXT,
    lane=TEXT,
)

# Keeps bodies, each once however often its delivery is repeated.
NEW_DELIVERIES = Bulk(
    """
    insert into delivery (delivery_id, received_at, signed_by, body, events, outcome)
    select n.delivery_id, n.received_at, n.signed_by, n.body, n.events, n.outcome from {rows}
    on conflict (delivery_id) do nothing
    """,
    delivery_id=UUIDS,
    received_at=TIME,
    signed_by=TEXT,
    body=BYTES,
    events=INT,
    outcome=TEXT,
)

# Stores events that are not there. Their lanes are locked, so the numbers drawn here are in the
# order in which others will see them. One that came by another lane meanwhile breaks it.
NEW_EVENTS = Bulk(
    """
    insert into event (
        page_id, event_key, event_id, number, lane, kind, trigger, source, person_id, event_time,
        received_at, delivery_id, state, detail)
    select d.page_id, d.event_key, d.number, d.number, d.lane, d.kind, d.trigger, d.source,
        d.person_id, d.event_time, d.received_at, d.delivery_id, d.state, d.detail
    from (select o.*, nextval('event_number') as number
        from (select n.* from {rows} order by n.ord) o) d
    """,
    page_id=TEXT,
    event_key=TEXT,
    lane=TEXT,
    kind=SMALLINT,
    trigger=SMALLINT,
    source=SMALLINT,
    person_id=TEXT,
    event_time=TIME,
    received_at=TIME,
    delivery_id=UUIDS,
    state=TEXT,
    detail=BYTES,
)

# Makes events that were only overheard (standby) pending, once, since they have now come to us;
# what was decided of them goes. Answers which, and whether they were still to be read in, since
# their page was not connected when they were overheard.
LIVE_EVENTS = Bulk(
    f"""
    with numbered as materialized (
        select o.*, nextval('event_number') as number
        from (select n.* from {{rows}} order by n.ord) o),
    live as (
        update event e set
            number = d.number, lane = d.lane, trigger = d.trigger, source = d.source,
            event_time = d.event_time, received_at = d.received_at,
            stored_at = clock_timestamp(), delivery_id = d.delivery_id, state = 'pending',
            detail = d.detail
        from numbered d join event o on o.page_id = d.page_id and o.event_key = d.event_key
        where e.page_id = d.page_id and e.event_key = d.event_key
            and e.source = {SOURCE_STANDBY} and e.state in ('done', 'unknown_page')
        returning e.page_id, e.event_key, e.event_id, o.state = 'unknown_page' as unread),
    undecided as (
        delete from decision d using live
        where d.page_id = live.page_id and d.event_id = live.event_id)
    select page_id, event_key, unread from live
    """,  # noqa: S608  # the source is a constant
    page_id=TEXT,
    event_key=TEXT,
    lane=TEXT,
    trigger=SMALLINT,
    source=SMALLINT,
    event_time=TIME,
    received_at=TIME,
    delivery_id=UUIDS,
    detail=BYTES,
)

# Records for events that no rule may answer why not.
DECLINED = Bulk(
    """
    insert into decision (
        page_id, event_id, trigger, outcome, reason, verdicts, book_version, received_at,
        stored_at)
    select e.page_id, e.event_id, e.trigger, 'declined', n.reason, '', 0, e.received_at, e.stored_at
    from {rows} join event e on e.page_id = n.page_id and e.event_key = n.event_key
    order by n.ord
    on conflict (page_id, event_id) do nothing
    """,
    page_id=TEXT,
    event_key=TEXT,
    reason=TEXT,
)

# Counts new pending events into their lanes, which are locked.
PENDING = Bulk(
    """
    update lane l set
        pending = l.pending + n.added,
        pending_since = case when l.pending = 0 then clock_timestamp() else l.pending_since end
    from {rows} where l.page_id = n.page_id and l.lane = n.lane
    """,
    page_id=TEXT,
    lane=TEXT,
    added=INT,
)

# Bodies came out of quarantine again. All that is noted of their deliveries is dealt with, but for
# what is unreadable still: a row of it each, without a path where there is none. Who asked for a
# body while it was read, and so ended its lease, is owed another look. Sets are compared as wholes
# here and below: each row with each would take a body of 5,000 bad items for ever.
REPLAYED = Bulk(
    """
    update quarantine q set
        replayed_at = case
            when (q.delivery_id, q.path, q.reason)
                in (select n.delivery_id, n.path, n.reason from {rows}) then null
            else coalesce(q.replayed_at, clock_timestamp()) end,
        replay_requested_at =
            case when q.replay_lease_until is null then q.replay_requested_at end,
        replay_lease_until = null
    where q.delivery_id = any(array(
        select named.delivery_id from quarantine named
        where named.quarantine_id = any(array(select distinct n.quarantine_id from {rows}))))
    """,
    quarantine_id=BIGINT,
    delivery_id=UUIDS,
    path=TEXT,
    reason=TEXT,
)

# Notes what could not be read of a body, unless that was noted when its delivery came before.
QUARANTINE = Bulk(
    """
    insert into quarantine (delivery_id, path, reason, page_id, received_at)
    select n.delivery_id, n.path, n.reason, n.page_id, n.received_at from {rows}
    where (n.delivery_id, n.path, n.reason) not in (
        select q.delivery_id, q.path, q.reason from quarantine q
        where q.delivery_id = any(array(select distinct n.delivery_id from {rows})))
    order by n.ord
    """,
    delivery_id=UUIDS,
    path=TEXT,
    reason=TEXT,
    page_id=TEXT,
    received_at=TIME,
)

# The next events of pages that were unknown when they came and are connected now.
READABLE_EVENTS = """
    select e.page_id, e.event_key, e.lane, e.trigger, e.detail
    from event e join page p on p.page_id = e.page_id and p.connected
    where e.state = 'unknown_page' order by e.page_id, e.number limit %s
"""

# Ends such events, found by their keys: not by their state, whose index is as long as the backlog.
READ_IN = Bulk(
    """
    update event e set state = 'done' from {rows}
    where e.page_id = n.page_id and e.event_key = n.event_key
    """,
    page_id=TEXT,
    event_key=TEXT,
)
