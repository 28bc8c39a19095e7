"""Runs of history as rows: asked for, handed out to one worker at a time, and written down.

A run belongs to who has its lease; what another one records is refused by its epoch. The row of
`mirror` is the lock under which runs of a page and kind are made, so that those who ask at the same
time get one run.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.run_service_pb2 import (
    RUN_VERDICT_CANCEL,
    RUN_VERDICT_GO_ON,
    RUN_VERDICT_LOST,
    ClaimedRun,
    RunProgress,
    RunVerdict,
    UnreadableThread,
)
from pagewire.type.v1.sync_run_pb2 import (
    SYNC_KIND_COMMENTS,
    SYNC_KIND_CONVERSATIONS,
    SYNC_MODE_AUTO,
    SYNC_MODE_FULL,
    SYNC_MODE_INCREMENTAL,
    SYNC_MODE_UNSPECIFIED,
    SYNC_STATE_CANCELLED,
    SYNC_STATE_FAILED,
    SYNC_STATE_PARTIAL,
    SYNC_STATE_RUNNING,
    SYNC_STATE_SUCCEEDED,
    SYNC_STATE_UNSPECIFIED,
    SyncKind,
    SyncMode,
    SyncOrigin,
    SyncRun,
    SyncState,
)
from pagewire_runtime import metrics
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_store import audit, ids
from pagewire_store.columns import BIGINT, BOOL, BYTES, INT, TEXT, TIME, Bulk, micros
from pagewire_store.database import driver
from pagewire_store.page_tokens import Position
from pagewire_store.pages import PageUnknown
from pagewire_store.projections import timestamp_micros
from pagewire_store.trips import within

log = get_logger(__name__)

LEASE = timedelta(seconds=8)
"""Four of its renewals; who waits for runs has one within milliseconds of its end."""
LONGEST_REPAIR = timedelta(hours=24)
"""How far a repair looks back that is asked for where no gap is known."""
PARTIAL_REPAIRS = 5
"""So many repairs may leave the same gap open for what they could not read; with the last of them
it closes, or one thread that can never be read would keep a page's repairs going for ever.
"""

CHECKPOINT_BYTES = 2**20
"""A larger one is not kept: its run goes on, and who takes it over begins at the last that was."""
ANSWER_BYTES = 2 * 2**20
"""Of checkpoints that are handed out at once, well within what a message may hold; and of marks
half of it, those of the threads that were written to last."""
_EDGES_MAX = 50
_ITEMS_MAX = 1_000
_THREAD_MAX = 512
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_ENDS = {SYNC_STATE_SUCCEEDED, SYNC_STATE_PARTIAL, SYNC_STATE_FAILED, SYNC_STATE_CANCELLED}
_GOES_ON = {SYNC_STATE_UNSPECIFIED, SYNC_STATE_RUNNING}
_MIRRORED = {SYNC_STATE_SUCCEEDED, SYNC_STATE_PARTIAL}

_ended = metrics.counter(
    "pagewire_sync_runs_total", "Runs that ended, by how.", ["kind", "mode", "state"]
)
_recovered = metrics.counter(
    "pagewire_recovered_messages_total",
    "What webhooks should have brought and repairs found, of repairs that ended.",
)


class RunUnknown(Refusal):
    """No run has this id."""

    kind = Kind.MISSING
    reason = "RUN_UNKNOWN"

    def __init__(self, run_id: str) -> None:
        super().__init__("there is no such run", run_id=run_id[:256])


class Recorded(NamedTuple):
    """What became of progress: a verdict a run, in order; those that have ended by it, as they
    are stored; and whether a run may be claimed now.
    """

    verdicts: list[RunVerdict.ValueType]
    ended: list[SyncRun]
    freed: bool


COLUMNS = """
    run_id, page_id, kind, mode, origin, state, conversations, messages, comments, graph_calls,
    stored, recovered, unreadable, expected, budget_left_percent, error, created_at, started_at,
    finished_at
"""
"""What `run_from` reads of a row of table sync_run."""

OPEN = "state in ('queued', 'running')"


def run_from(row: Any) -> SyncRun:
    """The run as callers see it."""
    return SyncRun(
        run_id=row.run_id,
        page_id=row.page_id,
        kind=SyncKind.Value(f"SYNC_KIND_{row.kind.upper()}"),
        mode=SyncMode.Value(f"SYNC_MODE_{row.mode.upper()}"),
        origin=SyncOrigin.Value(f"SYNC_ORIGIN_{row.origin.upper()}"),
        state=SyncState.Value(f"SYNC_STATE_{row.state.upper()}"),
        conversations=row.conversations,
        messages=row.messages,
        comments=row.comments,
        graph_calls=row.graph_calls,
        stored=row.stored,
        recovered=row.recovered,
        unreadable=row.unreadable,
        expected=row.expected,
        budget_left_percent=row.budget_left_percent,
        error=row.error,
        create_time=row.created_at,
        start_time=row.started_at,
        end_time=row.finished_at,
    )


_HOLD_PAGE = text("select 1 from page where page_id = :page_id and connected for share")

_MAKE_MIRROR = text("""
    insert into mirror (page_id, kind) values (:page_id, :kind) on conflict do nothing
""")

# A repair on request where no gap is known looks at a day, or at all since the watermark: what
# scheduled runs have stored by then is no less missed by webhooks. Before the page was connected
# there were none to miss.
_AS_MIRRORED = """
    m.synced_at, coalesce(m.gap_from,
        greatest(least(m.synced_at, now() - cast(:longest as interval)), p.connected_at))
        as repair_from
"""
_HOLD_MIRROR = text(f"""
    select {_AS_MIRRORED} from mirror m join page p using (page_id)
    where m.page_id = :page_id and m.kind = :kind for update of m
""")  # noqa: S608

# One that is being cancelled does not go on. A repair does all that an incremental does.
_GOES_ON_ALREADY = text(f"""
    select {COLUMNS} from sync_run
    where page_id = :page_id and kind = :kind and {OPEN} and cancel_requested_at is null
        and case when cast(:gap_from as timestamptz) is null then mode in (:mode, 'full')
            else gap_from <= :gap_from end
    order by created_at, run_id limit 1
""")  # noqa: S608  # the columns are constants

_QUEUE = text(f"""
    insert into sync_run (run_id, page_id, kind, mode, origin, state, gap_from)
    values (:run_id, :page_id, :kind, :mode, :origin, 'queued', :gap_from)
    returning {COLUMNS}
""")  # noqa: S608


async def start(
    connection: AsyncConnection,
    page_id: str,
    kind: SyncKind.ValueType,
    mode: SyncMode.ValueType,
    *,
    repair: bool = False,
) -> tuple[SyncRun, bool]:
    """A run on request, and whether it is new.

    One that waits or goes on is answered where it is of the same mode or wider; a new one is queued
    behind all others of its page and kind. Raises PageUnknown and InvalidArgument.
    """
    _check(kind, mode, repair=repair)
    values = {"page_id": page_id, "kind": _word_of(SyncKind, "SYNC_KIND_", kind)}
    if (await connection.execute(_HOLD_PAGE, values)).one_or_none() is None:
        raise PageUnknown(page_id)
    await connection.execute(_MAKE_MIRROR, values)
    mirror = (await connection.execute(_HOLD_MIRROR, values | {"longest": LONGEST_REPAIR})).one()
    wanted = values | {
        "mode": _mode_of(mode, mirror, repair=repair),
        "gap_from": mirror.repair_from if repair else None,
    }
    known = (await connection.execute(_GOES_ON_ALREADY, wanted)).one_or_none()
    if known is not None:
        return run_from(known), False
    wanted |= {"run_id": ids.new_run_id(), "origin": "repair" if repair else "request"}
    run = run_from((await connection.execute(_QUEUE, wanted)).one())
    await audit.record(connection, _starting(repair=repair), run.run_id, f"page {page_id}")
    return run, True


_MAKE_MIRRORS = text("""
    with connected as (select page_id from page where connected order by page_id for share)
    insert into mirror (page_id, kind) select page_id, :kind from connected
    on conflict do nothing
""")

_HOLD_ALL_MIRRORS = text(f"""
    select m.page_id, {_AS_MIRRORED} from mirror m join page p using (page_id)
    where p.connected and m.kind = :kind order by m.page_id for update of m
""")  # noqa: S608

_OPEN_OF_ALL = text(f"""
    select {COLUMNS}, gap_from from sync_run
    where page_id = any(:pages) and kind = :kind and {OPEN} and cancel_requested_at is null
    order by created_at, run_id
""")  # noqa: S608

_QUEUE_EACH = text(f"""
    insert into sync_run (run_id, page_id, kind, mode, origin, state, gap_from)
    select n.run_id, n.page_id, :kind, n.mode, :origin, 'queued', n.gap_from
    from unnest(cast(:run_ids as text[]), cast(:pages as text[]), cast(:modes as text[]),
        cast(:gaps as timestamptz[])) as n (run_id, page_id, mode, gap_from)
    returning {COLUMNS}
""")  # noqa: S608


async def start_all(
    connection: AsyncConnection,
    kind: SyncKind.ValueType,
    mode: SyncMode.ValueType,
    *,
    repair: bool = False,
) -> tuple[list[SyncRun], bool]:
    """`start`, of every connected page, and whether any is new.

    They are committed together, so they can be claimed together.
    """
    _check(kind, mode, repair=repair)
    values = {"kind": _word_of(SyncKind, "SYNC_KIND_", kind), "longest": LONGEST_REPAIR}
    await connection.execute(_MAKE_MIRRORS, values)
    mirrors = (await connection.execute(_HOLD_ALL_MIRRORS, values)).all()
    pages = {"pages": [mirror.page_id for mirror in mirrors]}
    open_runs = defaultdict(list)
    for row in await connection.execute(_OPEN_OF_ALL, values | pages):
        open_runs[row.page_id].append(row)
    started, wanted = [], []
    for mirror in mirrors:
        each = _mode_of(mode, mirror, repair=repair), mirror.repair_from if repair else None
        known = next((row for row in open_runs[mirror.page_id] if _goes_on(row, *each)), None)
        if known is not None:
            started.append(run_from(known))
        else:
            wanted.append((ids.new_run_id(), mirror.page_id, *each))
    if wanted:
        columns = zip(("run_ids", "pages", "modes", "gaps"), zip(*wanted, strict=True), strict=True)
        new = {name: list(column) for name, column in columns}
        new["origin"] = "repair" if repair else "request"  # type: ignore[assignment]
        started += map(run_from, await connection.execute(_QUEUE_EACH, values | new))
        detail = f"runs {len(wanted)}"
        await audit.record(connection, _starting(repair=repair), "every page", detail)
    return sorted(started, key=lambda run: run.page_id), bool(wanted)


def _starting(*, repair: bool) -> str:
    """What the audit calls it."""
    return "run.repair" if repair else "run.start"


def _goes_on(row: Any, mode: str, gap_from: datetime | None) -> bool:
    """Whether the open run does what is wanted: a repair does all that an incremental does."""
    if gap_from is None:
        return row.mode in (mode, "full")
    return row.gap_from is not None and row.gap_from <= gap_from


def _mode_of(mode: SyncMode.ValueType, mirror: Any, *, repair: bool) -> str:
    incremental = repair or mode == SYNC_MODE_INCREMENTAL or mirror.synced_at is not None
    return "full" if mode == SYNC_MODE_FULL or not incremental else "incremental"


def _check(kind: SyncKind.ValueType, mode: SyncMode.ValueType, *, repair: bool) -> None:
    if kind not in (SYNC_KIND_CONVERSATIONS, SYNC_KIND_COMMENTS):
        raise InvalidArgument("kind", "must be conversations or comments")
    known = (SYNC_MODE_UNSPECIFIED, SYNC_MODE_AUTO, SYNC_MODE_INCREMENTAL, SYNC_MODE_FULL)
    if mode not in known:
        raise InvalidArgument("mode", "must be auto, full or incremental")
    if repair and kind != SYNC_KIND_CONVERSATIONS:
        raise InvalidArgument("repair", "is for conversations alone")
    if repair and mode == SYNC_MODE_FULL:
        raise InvalidArgument("mode", "must not be full: a repair looks at what is newer")


_QUEUE_ALL = Bulk(
    """
    insert into sync_run (run_id, page_id, kind, mode, origin, state, gap_from)
    select n.run_id, n.page_id, n.kind, 'incremental', n.origin, 'queued', n.gap_from
    from {rows}
    where not exists (
        select from sync_run r
        where r.page_id = n.page_id and r.kind = n.kind and r.state in ('queued', 'running')
            and (n.gap_from is null or r.gap_from is not null))
    order by n.ord
    returning run_id
    """,
    run_id=TEXT,
    page_id=TEXT,
    kind=TEXT,
    origin=TEXT,
    gap_from=TIME,
)


async def queue(
    connection: AsyncConnection,
    origin: str,
    due: Iterable[tuple[str, str, datetime | None]],
) -> int:
    """Queues an incremental run for each page and kind, with the gap that it is to repair.

    The caller has locked the pages and their rows of `mirror`. Where a run, or for a gap a repair,
    is open by now there is no other; says how many there are.
    """
    rows = [(ids.new_run_id(), page, kind, origin, micros(gap)) for page, kind, gap in due]
    if not rows:
        return 0
    (queued,) = await within(await driver(connection), _QUEUE_ALL.over(rows))
    return len(queued.rows)


_GET = text(f"select {COLUMNS} from sync_run where run_id = :run_id")  # noqa: S608


async def get(connection: AsyncConnection, run_id: str) -> SyncRun:
    """The run. Raises RunUnknown."""
    row = (await connection.execute(_GET, {"run_id": _storable(run_id)})).one_or_none()
    if row is None:
        raise RunUnknown(run_id)
    return run_from(row)


_LIST = """
    select {columns} from sync_run
    where {of} (cast(:created_at as text) is null
        or (created_at, run_id) < (cast(:created_at as timestamptz), :run_id))
    order by created_at desc, run_id desc
    limit :at_most
"""
_LIST_ALL = text(_LIST.format(columns=COLUMNS, of=""))
_LIST_OF_PAGE = text(_LIST.format(columns=COLUMNS, of="page_id = :page_id and"))


async def list_newest(
    connection: AsyncConnection, page_id: str, after: Position | None, at_most: int
) -> list[SyncRun]:
    """Runs of the page, or of all, newest first, behind the position of `position_of`."""
    created_at, run_id = after or (None, None)
    values = {"created_at": created_at, "run_id": run_id, "at_most": at_most}
    if page_id:
        found = await connection.execute(_LIST_OF_PAGE, values | {"page_id": _storable(page_id)})
    else:
        found = await connection.execute(_LIST_ALL, values)
    return [run_from(row) for row in found]


def position_of(run: SyncRun) -> Position:
    """Where a list goes on behind this run."""
    return (run.create_time.ToJsonString(), run.run_id)


# Nobody works on a run that waits, nor on one whose lease is over.
_CANCEL = text(f"""
    update sync_run set cancel_requested_at = coalesce(cancel_requested_at, now()),
        state = case when lease_until > now() then state else 'cancelled' end,
        finished_at = case when lease_until > now() then finished_at else clock_timestamp() end,
        checkpoint = case when lease_until > now() then checkpoint end
    where run_id = :run_id and {OPEN}
    returning {COLUMNS}
""")  # noqa: S608


async def cancel(connection: AsyncConnection, run_id: str) -> tuple[SyncRun, bool]:
    """The run, and whether that has ended it; one that had ended stays so. Raises RunUnknown."""
    row = (await connection.execute(_CANCEL, {"run_id": _storable(run_id)})).one_or_none()
    if row is None:
        return await get(connection, run_id), False
    await audit.record(connection, "run.cancel", row.run_id, f"page {row.page_id}")
    ended = row.state == "cancelled"
    if ended:
        await _note_ends(connection, [row])
    return run_from(row), ended


# Its worker died before it knew.
_END_WITHDRAWN = text("""
    update sync_run set state = 'cancelled', finished_at = clock_timestamp(), checkpoint = null
    where run_id in (
        select run_id from sync_run
        where state = 'running' and cancel_requested_at is not null and lease_until <= now()
        order by run_id for update skip locked)
    returning page_id, kind, mode, state
""")

# Somebody waits for what was asked for; scheduled ones may be as many as there are pages. A full
# run begins with what the last one met, so that somebody can be told how long it takes.
_CLAIM = text(f"""
    with due as materialized (
        select r.run_id as due_id, r.origin = 'schedule' as waits, r.created_at as made_at,
            coalesce(octet_length(r.checkpoint), 0) as size
        from sync_run r
        where (r.state = 'queued' or (r.state = 'running' and r.lease_until <= now()))
            and not exists (
                select from sync_run e
                where e.page_id = r.page_id and e.kind = r.kind and e.run_id <> r.run_id
                    and (e.state = 'running' or (e.state = 'queued'
                        and (e.created_at, e.run_id) < (r.created_at, r.run_id))))
        order by r.origin = 'schedule', r.created_at, r.run_id limit :at_most
        for update of r skip locked
    ), summed as (
        select due_id, row_number() over next as nth, sum(size) over next as sum_size from due
        window next as (order by waits, made_at, due_id)
    ), claimed as (
        update sync_run set state = 'running', epoch = epoch + 1, lease_owner = :owner,
            lease_until = clock_timestamp() + :lease,
            started_at = coalesce(started_at, clock_timestamp()),
            expected = case when mode = 'full' and started_at is null then coalesce((
                select m.conversations from mirror m
                where m.page_id = sync_run.page_id and m.kind = sync_run.kind), 0)
                else expected end
        from summed where run_id = due_id and (nth = 1 or sum_size <= :most_bytes)
        returning {COLUMNS}, epoch, checkpoint, gap_from
    )
    select c.*, m.synced_at, m.page_sizes, p.token_version from claimed c
    join page p on p.page_id = c.page_id
    left join mirror m on m.page_id = c.page_id and m.kind = c.kind
    order by c.created_at, c.run_id
""")  # noqa: S608

# One that is left out is asked for once more.
_UNREADABLE = text("""
    select page_id, kind, thread_id, reason, updated_at from (
        select u.*, sum(octet_length(thread_id) + octet_length(reason) + 32)
            over (order by updated_at desc nulls last, page_id, thread_id) as sum_size
        from unreadable_thread u where page_id = any(:pages)) as marks
    where sum_size <= :most_bytes order by page_id, thread_id
""")


async def claim(
    connection: AsyncConnection, owner: str, at_most: int, lease: timedelta
) -> list[ClaimedRun]:
    """Runs whose turn it is, each the caller's for the lease: the oldest of its page and kind;
    fewer than `at_most` where their checkpoints are large.

    Two who claim at once may want two runs of one page: the second then fails by the index
    `sync_run_one_running`, and may claim again.
    """
    await _note_ends(connection, (await connection.execute(_END_WITHDRAWN)).all())
    values = {"owner": owner, "at_most": at_most, "lease": lease, "most_bytes": ANSWER_BYTES}
    rows = (await connection.execute(_CLAIM, values)).all()
    if not rows:
        return []
    marked: dict[tuple[str, str], list[UnreadableThread]] = defaultdict(list)
    pages = sorted({row.page_id for row in rows})
    marks = {"pages": pages, "most_bytes": ANSWER_BYTES // 2}
    for each in await connection.execute(_UNREADABLE, marks):
        marked[each.page_id, each.kind].append(
            UnreadableThread(
                thread_id=each.thread_id, reason=each.reason, update_time=each.updated_at
            )
        )
    return [_claimed(row, marked[row.page_id, row.kind], lease) for row in rows]


_NEXT_LAPSE = text("""
    select extract(epoch from min(lease_until) - clock_timestamp()) from sync_run
    where state = 'running' and lease_until > now()
""")


async def next_lapse(connection: AsyncConnection) -> float:
    """In how many seconds the next lease will be over, where nobody renews it; at no time: inf."""
    left = (await connection.execute(_NEXT_LAPSE)).scalar_one()
    return inf if left is None else float(left)


def _claimed(row: Any, unreadable: list[UnreadableThread], lease: timedelta) -> ClaimedRun:
    seconds = Duration()
    seconds.FromTimedelta(lease)
    return ClaimedRun(
        run=run_from(row),
        epoch=row.epoch,
        token_version=row.token_version,
        checkpoint=row.checkpoint,
        synced_time=row.synced_at,
        gap_start_time=row.gap_from,
        page_sizes=row.page_sizes,
        unreadable=unreadable,
        lease=seconds,
    )


_HOLD_RUNS = Bulk(
    """
    select r.run_id, r.page_id, r.kind, r.mode, r.gap_from, r.started_at,
        r.cancel_requested_at is not null as withdrawn
    from {rows} join sync_run r on r.run_id = n.run_id
    where r.epoch = n.epoch and r.state = 'running'
    order by r.run_id for update of r
    """,
    run_id=TEXT,
    epoch=BIGINT,
)

# Figures are totals: one that comes late, behind a newer, changes nothing.
_RECORD = Bulk(
    """
    update sync_run r set
        conversations = greatest(r.conversations, n.conversations),
        messages = greatest(r.messages, n.messages),
        comments = greatest(r.comments, n.comments),
        graph_calls = greatest(r.graph_calls, n.graph_calls),
        stored = greatest(r.stored, n.stored),
        recovered = greatest(r.recovered, n.recovered),
        unreadable = greatest(r.unreadable, n.unreadable),
        expected = n.expected,
        budget_left_percent = n.budget_left_percent,
        state = coalesce(n.ending, r.state),
        error = n.error,
        finished_at = case when n.ending is not null then clock_timestamp() end,
        checkpoint = case when n.ending is null then coalesce(n.checkpoint, r.checkpoint) end,
        lease_owner = case when not n.released then r.lease_owner end,
        lease_until = clock_timestamp() + n.lease * interval '1 microsecond'
    from {rows} where r.run_id = n.run_id
    returning r.kind, r.mode, r.state, r.recovered
    """,
    run_id=TEXT,
    conversations=BIGINT,
    messages=BIGINT,
    comments=BIGINT,
    graph_calls=BIGINT,
    stored=BIGINT,
    recovered=BIGINT,
    unreadable=BIGINT,
    expected=BIGINT,
    budget_left_percent=INT,
    ending=TEXT,
    error=TEXT,
    checkpoint=BYTES,
    released=BOOL,
    lease=BIGINT,
)

_HOLD_MIRRORS = Bulk(
    """
    select from {rows} join mirror m on m.page_id = n.page_id and m.kind = n.kind
    order by m.page_id, m.kind for update of m
    """,
    page_id=TEXT,
    kind=TEXT,
)

PARTIALS = """
    select count(*) from sync_run e
    where e.page_id = m.page_id and e.kind = m.kind and e.origin = 'repair'
        and e.state = 'partial' and e.gap_from = m.gap_from
"""
"""How many repairs of the gap of row `m` of table mirror have not read all of it."""

# A repair has read all of its gap up to some time before it began. What may have been lost later,
# or was noticed so late that it may have been, is left for the next one; so is, some times, all of
# it where a thread could not be read. It does not make a page mirrored that never was.
_REACHED = Bulk(
    f"""
    update mirror m set
        synced_at = case
            when n.synced_at is null or (n.gap_from is not null and m.synced_at is null)
                then m.synced_at
            else greatest(m.synced_at, least(n.synced_at, now())) end,
        page_sizes = m.page_sizes || n.page_sizes::jsonb,
        conversations = coalesce(n.conversations, m.conversations),
        run_ended_at = case when n.ended then clock_timestamp() else m.run_ended_at end,
        repaired_at = case when n.mends then clock_timestamp() else m.repaired_at end,
        gap_from = case
            when not n.mends or m.gap_from is null or m.gap_from < n.gap_from then m.gap_from
            when m.gap_noticed_at > n.mended_to then greatest(m.gap_from, n.mended_to) end
    from (
        select n.*,
            n.mended_to is not null and (n.is_whole or ({PARTIALS}) >= {PARTIAL_REPAIRS}) as mends
        from {{rows}} join mirror m on m.page_id = n.page_id and m.kind = n.kind
    ) n where m.page_id = n.page_id and m.kind = n.kind
    """,  # noqa: S608  # constants
    page_id=TEXT,
    kind=TEXT,
    synced_at=TIME,
    page_sizes=TEXT,
    conversations=BIGINT,
    ended=BOOL,
    gap_from=TIME,
    mended_to=TIME,
    is_whole=BOOL,
)

_MARK = Bulk(
    """
    insert into unreadable_thread (page_id, thread_id, kind, reason, updated_at)
    select page_id, thread_id, kind, reason, updated_at from {rows} order by n.ord
    on conflict (page_id, thread_id) do update set
        kind = excluded.kind, reason = excluded.reason, updated_at = excluded.updated_at,
        found_at = now()
    """,
    page_id=TEXT,
    thread_id=TEXT,
    kind=TEXT,
    reason=TEXT,
    updated_at=TIME,
)

_UNMARK = Bulk(
    """
    delete from unreadable_thread u using {rows}
    where u.page_id = n.page_id and u.thread_id = n.thread_id
    """,
    page_id=TEXT,
    thread_id=TEXT,
)


class _Held(NamedTuple):
    """A run that may be written."""

    run_id: str
    page_id: str
    kind: str
    mode: str
    gap_from: datetime | None
    started_at: datetime
    withdrawn: bool


async def record(
    connection: AsyncConnection,
    progress: Sequence[RunProgress],
    *,
    lease: timedelta,
    settled_after: timedelta,
) -> Recorded:
    """Writes down how far runs are, or how they ended.

    A loss that was noticed less than `settled_after` before a repair began is not taken for
    repaired. Raises InvalidArgument.
    """
    _check_progress(progress)
    if not progress:
        return Recorded([], [], freed=False)
    raw = await driver(connection)
    (found,) = await within(raw, _HOLD_RUNS.over([(p.run.run_id, p.epoch) for p in progress]))
    held = {row[0]: _Held(*row) for row in found.rows}
    written = [(p, held[p.run.run_id]) for p in progress if p.run.run_id in held]
    if written:
        await _write(connection, written, lease, settled_after)
    freed = any(p.release or p.run.state in _ENDS for p, _ in written)
    over = [p.run.run_id for p, _ in written if p.run.state in _ENDS]
    ended = await connection.execute(_GET_ALL, {"run_ids": over}) if over else ()
    verdicts = [_verdict(p, held.get(p.run.run_id)) for p in progress]
    return Recorded(verdicts, [run_from(row) for row in ended], freed)


_GET_ALL = text(f"select {COLUMNS} from sync_run where run_id = any(:run_ids)")  # noqa: S608


def _verdict(progress: RunProgress, held: _Held | None) -> RunVerdict.ValueType:
    if held is None:
        return RUN_VERDICT_LOST
    ended = progress.run.state in _ENDS
    return RUN_VERDICT_CANCEL if held.withdrawn and not ended else RUN_VERDICT_GO_ON


async def _write(
    connection: AsyncConnection,
    written: Sequence[tuple[RunProgress, _Held]],
    lease: timedelta,
    settled_after: timedelta,
) -> None:
    said = [_RECORD.over([_run_row(progress, lease) for progress, _ in written])]
    reached = [
        _mirror_row(progress, held, settled_after)
        for progress, held in written
        if progress.run.state in _ENDS or progress.page_sizes
    ]
    if reached:
        said.append(_HOLD_MIRRORS.over(sorted(row[:2] for row in reached)))
        said.append(_REACHED.over(reached))
    marked, unmarked = _marks(written)
    if marked:
        said.append(_MARK.over(marked))
    if unmarked:
        said.append(_UNMARK.over(unmarked))
    recorded = (await within(await driver(connection), *said))[0]
    for kind, mode, state, recovered in recorded.rows:
        if state != "running":
            _ended.labels(kind, mode, state).inc()
            _recovered.inc(recovered)


def _run_row(progress: RunProgress, lease: timedelta) -> tuple[Any, ...]:
    run = progress.run
    ends = run.state in _ENDS
    error = run.error if not run.error or _WORD.fullmatch(run.error) else "unknown"
    return (
        *(run.run_id, run.conversations, run.messages, run.comments, run.graph_calls),
        *(run.stored, run.recovered, run.unreadable, run.expected, run.budget_left_percent),
        _word_of(SyncState, "SYNC_STATE_", run.state) if ends else None,
        error,
        _kept(progress),
        progress.release or ends,
        0 if progress.release or ends else lease // timedelta(microseconds=1),
    )


def _kept(progress: RunProgress) -> bytes | None:
    """Its checkpoint; None leaves the one before."""
    if len(progress.checkpoint) <= CHECKPOINT_BYTES:
        return progress.checkpoint or None
    log.warning("a checkpoint is too large, the one before stays", page=ref(progress.run.page_id))
    return None


def _mirror_row(progress: RunProgress, held: _Held, settled_after: timedelta) -> tuple[Any, ...]:
    state = progress.run.state
    reached = state in _MIRRORED and progress.HasField("synced_time")
    mends = state in _MIRRORED and held.gap_from is not None
    return (
        *(held.page_id, held.kind),
        timestamp_micros(progress.synced_time) if reached else None,
        json.dumps(dict(progress.page_sizes)),
        progress.run.conversations if reached and held.mode == "full" else None,
        state in _ENDS,
        micros(held.gap_from),
        micros(held.started_at - settled_after) if mends else None,
        state == SYNC_STATE_SUCCEEDED,
    )


def _marks(
    written: Iterable[tuple[RunProgress, _Held]],
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Threads to be marked, and to be marked no more; sorted, each once: what was said last."""
    last = {
        (held.page_id, thread.thread_id): (held.kind, thread)
        for progress, held in written
        for thread in progress.unreadable
    }
    marked, unmarked = [], []
    for key in sorted(last):
        kind, thread = last[key]
        if thread.readable_again:
            unmarked.append(key)
            continue
        at = timestamp_micros(thread.update_time) if thread.HasField("update_time") else None
        reason = thread.reason if _WORD.fullmatch(thread.reason) else "unknown"
        marked.append((*key, kind, reason, at))
    return marked, unmarked


def _check_progress(progress: Sequence[RunProgress]) -> None:
    if len({each.run.run_id for each in progress}) < len(progress):
        raise InvalidArgument("runs", "name one run twice")
    for each in progress:
        if each.run.state not in _ENDS | _GOES_ON:
            raise InvalidArgument("runs.run.state", "must be running, or how the run ended")
        _check_sizes(each.page_sizes)
        if not all(_is_thread(thread.thread_id) for thread in each.unreadable):
            raise InvalidArgument("runs.unreadable.thread_id", "must be an id of Graph's")


def _check_sizes(sizes: Mapping[str, int]) -> None:
    named = len(sizes) <= _EDGES_MAX and all(_WORD.fullmatch(edge) for edge in sizes)
    if not named or not all(0 < size <= _ITEMS_MAX for size in sizes.values()):
        raise InvalidArgument("runs.page_sizes", f"must be 1 to {_ITEMS_MAX} of each edge")


def _is_thread(thread_id: str) -> bool:
    return 0 < len(thread_id) <= _THREAD_MAX and "\0" not in thread_id


_END_OF_PAGE = text(f"""
    update sync_run set finished_at = clock_timestamp(), checkpoint = null, lease_until = null,
        state = case when state = 'queued' then 'cancelled' else 'failed' end,
        error = 'page_disconnected'
    where run_id in (
        select run_id from sync_run where page_id = :page_id and {OPEN}
        order by run_id for update)
    returning page_id, kind, mode, state
""")  # noqa: S608


async def end_of_page(connection: AsyncConnection, page_id: str) -> None:
    """Ends the runs of a page in the transaction that disconnects it: their workers lose them."""
    values = {"page_id": page_id}
    await _note_ends(connection, (await connection.execute(_END_OF_PAGE, values)).all())


_RUN_ENDED = Bulk(
    """
    update mirror m set run_ended_at = clock_timestamp()
    from {rows} where m.page_id = n.page_id and m.kind = n.kind
    """,
    page_id=TEXT,
    kind=TEXT,
)


async def _note_ends(connection: AsyncConnection, rows: Iterable[Any]) -> None:
    """That of runs which did not come to their own end: the next one is due an interval later."""
    ended = Counter((row.page_id, row.kind, row.mode, row.state) for row in rows)
    if not ended:
        return
    mirrors = sorted({(page_id, kind) for page_id, kind, _, _ in ended})
    said = (_HOLD_MIRRORS.over(mirrors), _RUN_ENDED.over(mirrors))
    await within(await driver(connection), *said)
    for (_, *labels), count in ended.items():
        _ended.labels(*labels).inc(count)


def _word_of(enum: Any, prefix: str, value: int) -> str:
    """The word by which rows name a value: SYNC_KIND_COMMENTS is `comments`."""
    name: str = enum.Name(value)
    return name.removeprefix(prefix).lower()


def _storable(value: str) -> str:
    """A key as PostgreSQL can compare it: what holds NUL is no key of ours."""
    return value.replace("\0", "\ufffd")
