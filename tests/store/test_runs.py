import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from math import inf
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st

from pagewire.store.v1.run_service_pb2 import (
    RUN_VERDICT_CANCEL,
    RUN_VERDICT_GO_ON,
    RUN_VERDICT_LOST,
    CancelRunRequest,
    ClaimedRun,
    ClaimRunsRequest,
    GetRunRequest,
    ListRunsRequest,
    RecordRunsRequest,
    RunProgress,
    RunVerdict,
    StartRunRequest,
    UnreadableThread,
)
from pagewire.store.v1.run_service_pb2_grpc import (
    RunServiceStub,
    add_RunServiceServicer_to_server,
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
    SYNC_STATE_QUEUED,
    SYNC_STATE_RUNNING,
    SYNC_STATE_SUCCEEDED,
    SyncKind,
    SyncMode,
    SyncRun,
    SyncState,
)
from pagewire_runtime import metrics
from pagewire_runtime.auth import Caller, calling_as
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store.backlogs import end_some
from pagewire_store.database import Pools, in_transaction
from pagewire_store.run_servicer import RunServicer
from pagewire_store.runs import ANSWER_BYTES, CHECKPOINT_BYTES, next_lapse
from pagewire_store.waking import Waking
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import TOKENS, Rows, channel_to, pools, rows

if TYPE_CHECKING:
    from pagewire.store.v1.run_service_pb2_grpc import RunServiceAsyncStub

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

CONVERSATIONS, COMMENTS = SYNC_KIND_CONVERSATIONS, SYNC_KIND_COMMENTS
SETTLED_AFTER = timedelta(seconds=150)
LEASE = timedelta(minutes=10)  # which no test is too slow for
UNHEARD_OF: Any = 99
NOON: Any = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Runs:
    """RunService as sync calls it."""

    def __init__(self, stub: "RunServiceAsyncStub") -> None:
        self.stub = stub

    async def start(
        self,
        page_id: str = "1",
        kind: SyncKind.ValueType = CONVERSATIONS,
        mode: SyncMode.ValueType = SYNC_MODE_AUTO,
        *,
        repair: bool = False,
    ) -> SyncRun:
        request = StartRunRequest(page_id=page_id, kind=kind, mode=mode, repair=repair)
        return (await self.stub.StartRun(request)).run

    async def get(self, run_id: str) -> SyncRun:
        return (await self.stub.GetRun(GetRunRequest(run_id=run_id))).run

    async def cancel(self, run_id: str) -> SyncRun:
        return (await self.stub.CancelRun(CancelRunRequest(run_id=run_id))).run

    async def claim(self, owner: str = "worker", at_most: int = 10) -> list[ClaimedRun]:
        request = ClaimRunsRequest(owner=owner, max_runs=at_most)
        return list((await self.stub.ClaimRuns(request)).runs)

    async def record(self, *progress: RunProgress) -> list[RunVerdict.ValueType]:
        answer = await self.stub.RecordRuns(RecordRunsRequest(runs=progress))
        return list(answer.verdicts)


@pytest.fixture
def waking(database_url: str) -> Waking:
    return Waking(database_url)


@pytest.fixture
async def runs(pools: Pools, waking: Waking) -> AsyncIterator[Runs]:
    servicer = RunServicer(pools.general, TOKENS, waking, settled_after=SETTLED_AFTER, lease=LEASE)
    async with channel_to(
        lambda server: add_RunServiceServicer_to_server(servicer, server), "sync"
    ) as channel:
        yield Runs(RunServiceStub(channel))


def progress(claimed: ClaimedRun, *, state: int = SYNC_STATE_RUNNING, **fields: Any) -> RunProgress:
    """What the worker of a run says; figures by name, all else is of RunProgress."""
    run = SyncRun()
    run.CopyFrom(claimed.run)
    run.state = state  # type: ignore[assignment]
    for name in run.DESCRIPTOR.fields_by_name.keys() & fields.keys():
        setattr(run, name, fields.pop(name))
    threads = fields.pop("threads", ())
    return RunProgress(run=run, epoch=claimed.epoch, unreadable=threads, **fields)


async def lapse(rows: Rows) -> None:
    """All workers have died some time ago."""
    await rows.query(
        "update sync_run set lease_until = now() - interval '1 s' where state = 'running'"
    )


async def watermark(rows: Rows, kind: str = "conversations") -> datetime | None:
    row = await rows.one("select synced_at from mirror where kind = :kind", kind=kind)
    at: datetime | None = row.synced_at
    return at


def counted(counter: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"pagewire_{counter}", labels) or 0


async def test_a_run_is_queued_handed_out_and_ends(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")

    queued = await runs.start()
    (claimed,) = await runs.claim()
    under_way = await runs.record(progress(claimed, conversations=5, messages=50, graph_calls=2))
    running = await runs.get(queued.run_id)
    end = claimed.run.start_time
    ended = await runs.record(
        progress(claimed, state=SYNC_STATE_SUCCEEDED, conversations=9, synced_time=end)
    )
    succeeded = await runs.get(queued.run_id)

    assert (queued.state, queued.mode) == (SYNC_STATE_QUEUED, SYNC_MODE_FULL)
    assert claimed.run.run_id == queued.run_id
    assert claimed.epoch == 1
    assert under_way == ended == [RUN_VERDICT_GO_ON]
    assert (running.state, running.conversations) == (SYNC_STATE_RUNNING, 5)
    assert (running.messages, running.graph_calls) == (50, 2)
    assert (succeeded.state, succeeded.conversations) == (SYNC_STATE_SUCCEEDED, 9)
    assert succeeded.HasField("end_time")


@pytest.mark.parametrize(
    ("asked", "synced", "expected"),
    [
        (SYNC_MODE_AUTO, False, SYNC_MODE_FULL),
        (SYNC_MODE_UNSPECIFIED, False, SYNC_MODE_FULL),
        (SYNC_MODE_AUTO, True, SYNC_MODE_INCREMENTAL),
        (SYNC_MODE_UNSPECIFIED, True, SYNC_MODE_INCREMENTAL),
        (SYNC_MODE_FULL, True, SYNC_MODE_FULL),
        (SYNC_MODE_INCREMENTAL, False, SYNC_MODE_INCREMENTAL),
    ],
)
async def test_auto_is_incremental_where_the_page_has_a_watermark_of_the_kind(
    runs: Runs,
    rows: Rows,
    asked: SyncMode.ValueType,
    synced: bool,
    expected: SyncMode.ValueType,
) -> None:
    await rows.add_page("1")
    await rows.add("mirror", page_id="1", kind="conversations", synced_at=NOON if synced else None)
    await rows.add("mirror", page_id="1", kind="comments", synced_at=NOON)

    run = await runs.start(mode=asked)

    assert run.mode == expected


@pytest.mark.parametrize("under_way", [False, True])
@pytest.mark.parametrize(
    ("first", "then", "is_the_same"),
    [
        (SYNC_MODE_FULL, SYNC_MODE_FULL, True),
        (SYNC_MODE_FULL, SYNC_MODE_INCREMENTAL, True),
        (SYNC_MODE_INCREMENTAL, SYNC_MODE_INCREMENTAL, True),
        (SYNC_MODE_INCREMENTAL, SYNC_MODE_FULL, False),
    ],
)
async def test_a_run_of_the_same_mode_or_a_wider_one_is_answered_while_it_is_not_ended(
    runs: Runs,
    rows: Rows,
    first: SyncMode.ValueType,
    then: SyncMode.ValueType,
    is_the_same: bool,
    under_way: bool,
) -> None:
    await rows.add_page("1")
    one = await runs.start(mode=first)
    if under_way:
        await runs.claim()

    other = await runs.start(mode=then)

    assert (other.run_id == one.run_id) is is_the_same


async def test_runs_of_another_kind_or_page_or_that_have_ended_are_not_answered(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await rows.add_page("2")
    one = await runs.start()
    other_kind = await runs.start(kind=COMMENTS)
    other_page = await runs.start("2")
    await runs.cancel(one.run_id)

    again = await runs.start()

    assert len({each.run_id for each in (one, other_kind, other_page, again)}) == 4


async def test_a_run_that_is_being_cancelled_is_no_answer(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    one = await runs.start()
    await runs.claim()
    await runs.cancel(one.run_id)

    other = await runs.start()

    assert other.run_id != one.run_id
    assert await runs.claim() == []


async def test_who_asks_at_the_same_time_gets_one_run(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")

    started = await asyncio.gather(*(runs.start() for _ in range(10)))

    assert len({run.run_id for run in started}) == 1
    assert len(await rows.query("select from sync_run")) == 1


async def test_a_page_that_is_not_connected_has_no_runs(runs: Runs, rows: Rows) -> None:
    await rows.add_page("2", connected=False, token=None)

    for page_id in ("1", "2", "", "\ud7ff"):
        with pytest.raises(Refusal) as refused:
            await runs.start(page_id)

        assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PAGE_UNKNOWN")


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("kind", StartRunRequest(page_id="1")),
        ("kind", StartRunRequest(page_id="1", kind=UNHEARD_OF)),
        ("mode", StartRunRequest(page_id="1", kind=CONVERSATIONS, mode=UNHEARD_OF)),
        ("repair", StartRunRequest(page_id="1", kind=COMMENTS, repair=True)),
        (
            "mode",
            StartRunRequest(page_id="1", kind=CONVERSATIONS, mode=SYNC_MODE_FULL, repair=True),
        ),
    ],
)
async def test_a_run_that_nobody_could_do_is_refused(
    runs: Runs, rows: Rows, field: str, request_: StartRunRequest
) -> None:
    await rows.add_page("1")

    with pytest.raises(Refusal) as refused:
        await runs.stub.StartRun(request_)

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, field)


async def test_runs_of_one_page_and_kind_go_one_after_the_other(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await rows.add_page("2")
    first = await runs.start(mode=SYNC_MODE_INCREMENTAL)
    second = await runs.start(mode=SYNC_MODE_FULL)
    others = [await runs.start(kind=COMMENTS), await runs.start("2")]

    claimed = await runs.claim()
    held_up = await runs.claim()
    await runs.record(progress(claimed[0], state=SYNC_STATE_FAILED))
    then = await runs.claim()

    assert [each.run.run_id for each in claimed] == [
        first.run_id,
        *(other.run_id for other in others),
    ]
    assert held_up == []
    assert [each.run.run_id for each in then] == [second.run_id]


async def test_a_run_is_handed_to_one_worker(runs: Runs, rows: Rows) -> None:
    pages = [str(number) for number in range(20)]
    for page_id in pages:
        await rows.add_page(page_id)
        await runs.start(page_id)

    claims = await asyncio.gather(*(runs.claim(f"worker {n}", at_most=7) for n in range(6)))

    handed = [each.run.page_id for claim in claims for each in claim]
    assert sorted(handed) == sorted(set(handed))
    handed += [each.run.page_id for each in await runs.claim(at_most=20)]
    assert sorted(handed) == sorted(pages)


async def test_no_two_runs_of_a_page_and_kind_are_under_way_whatever_the_clock_did(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await runs.start(mode=SYNC_MODE_INCREMENTAL)
    await runs.claim()
    before = await runs.start(mode=SYNC_MODE_FULL)
    await rows.query(
        "update sync_run set created_at = now() - interval '1 day' where run_id = :id",
        id=before.run_id,
    )

    assert await runs.claim() == []


async def test_what_was_asked_for_goes_before_what_is_scheduled(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await rows.add_page("2")
    await runs.start("1")
    await rows.query("update sync_run set origin = 'schedule'")
    await runs.start("2")

    (claimed,) = await runs.claim(at_most=1)

    assert claimed.run.page_id == "2"


async def test_an_end_of_any_sort_is_what_the_schedule_counts_from(
    runs: Runs, rows: Rows, pools: Pools
) -> None:
    async def ended() -> list[Any]:
        found = await rows.query("select run_ended_at from mirror where kind = 'conversations'")
        await rows.query("update mirror set run_ended_at = null")
        return [row.run_ended_at for row in found]

    await rows.add_page("1")
    await runs.cancel((await runs.start()).run_id)
    cancelled = await ended()
    await runs.start()
    (claimed,) = await runs.claim()
    await runs.record(progress(claimed, page_sizes={"messages": 5}))
    going_on = await ended()
    await runs.record(progress(claimed, state=SYNC_STATE_FAILED))
    failed = await ended()
    await runs.start()
    (claimed,) = await runs.claim()
    await runs.cancel(claimed.run.run_id)
    await lapse(rows)
    await runs.claim()
    withdrawn = await ended()
    await runs.start()
    await in_transaction(pools.general, lambda connection: end_some(connection, "1"))
    disconnected = await ended()

    assert going_on == [None]
    assert None not in (*cancelled, *failed, *withdrawn, *disconnected)


async def test_who_takes_a_run_over_goes_on_where_its_worker_died(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await rows.add("mirror", page_id="1", kind="conversations", synced_at=NOON)
    await runs.start()
    (first,) = await runs.claim("one")
    await runs.record(progress(first, messages=70, checkpoint=b"cursor"))
    await runs.record(progress(first, messages=80))
    too_early = await runs.claim("two")
    await lapse(rows)

    (second,) = await runs.claim("two")
    late = await runs.record(progress(first, messages=900, state=SYNC_STATE_SUCCEEDED))
    kept = await runs.get(first.run.run_id)

    assert too_early == []
    assert (second.checkpoint, second.run.messages, second.epoch) == (b"cursor", 80, 2)
    assert second.synced_time.ToDatetime(UTC) == NOON
    assert second.run.start_time == first.run.start_time
    assert late == [RUN_VERDICT_LOST]
    assert (kept.state, kept.messages) == (SYNC_STATE_RUNNING, 80)


async def test_a_lease_lasts_from_the_last_word_on_by_the_clock_of_the_database(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()
    left = "select extract(epoch from lease_until - now()) as seconds from sync_run"
    first = (await rows.one(left)).seconds
    await rows.query("update sync_run set lease_until = now() + interval '1 s'")

    await runs.record(progress(claimed))

    again = (await rows.one(left)).seconds
    assert claimed.lease.ToTimedelta() == LEASE
    assert 500 < first <= 600
    assert 500 < again <= 600


async def test_a_worker_that_is_late_but_was_not_missed_goes_on(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()
    await lapse(rows)

    verdicts = await runs.record(progress(claimed))

    assert verdicts == [RUN_VERDICT_GO_ON]
    assert await runs.claim() == []


async def test_who_waits_gets_a_run_whose_worker_died_once_its_lease_is_over(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim("one")
    await rows.query("update sync_run set lease_until = clock_timestamp() + interval '0.5 s'")

    request = ClaimRunsRequest(owner="two", max_runs=1, wait=Duration(seconds=4))
    (again,) = (await runs.stub.ClaimRuns(request)).runs

    assert (again.run.run_id, again.epoch) == (claimed.run.run_id, claimed.epoch + 1)


@pytest.mark.parametrize(
    ("left", "waited_for"), [("'1 hour'", True), ("'0 s'", False), ("'-1 s'", False)]
)
async def test_a_lease_is_waited_for_until_it_is_over_and_no_longer(
    runs: Runs, rows: Rows, pools: Pools, left: str, waited_for: bool
) -> None:
    await rows.add_page("1")
    await runs.start()
    await runs.claim()
    await rows.query(f"update sync_run set lease_until = now() + interval {left}")

    seconds = await in_transaction(pools.general, next_lapse)

    assert (0 < seconds <= 3600) if waited_for else (seconds == inf)


async def test_a_run_that_is_given_back_is_handed_out_at_once(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim("one")

    await runs.record(progress(claimed, checkpoint=b"here", release=True))

    (again,) = await runs.claim("two")
    assert (again.run.run_id, again.checkpoint) == (claimed.run.run_id, b"here")


async def test_who_waits_gets_a_run_as_soon_as_it_is_asked_for(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    request = ClaimRunsRequest(owner="worker", max_runs=1, wait=Duration(seconds=4))

    async def wait() -> list[ClaimedRun]:
        while not (found := (await runs.stub.ClaimRuns(request)).runs):
            pass
        return list(found)

    waiting = asyncio.create_task(wait())
    run = await runs.start()

    (claimed,) = await waiting
    assert claimed.run.run_id == run.run_id


@pytest.mark.parametrize(
    "end", [SYNC_STATE_SUCCEEDED, SYNC_STATE_PARTIAL, SYNC_STATE_FAILED, SYNC_STATE_CANCELLED]
)
async def test_the_end_of_a_run_wakes_who_waits_for_the_next(
    runs: Runs, rows: Rows, waking: Waking, end: SyncState.ValueType
) -> None:
    await rows.add_page("1")
    await runs.start(mode=SYNC_MODE_INCREMENTAL)
    (claimed,) = await runs.claim()
    seen = waking.count

    await runs.record(progress(claimed, messages=1))
    going_on = waking.count
    await runs.record(progress(claimed, state=end))

    assert (going_on, waking.count) == (seen, seen + 1)


async def test_a_repeat_of_what_was_recorded_changes_nothing(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()
    older = progress(claimed, messages=10, graph_calls=2, stored=7)
    newer = progress(claimed, messages=20, graph_calls=3, stored=9)

    for each in (older, newer, newer, older):
        assert await runs.record(each) == [RUN_VERDICT_GO_ON]
    run = await runs.get(claimed.run.run_id)

    assert (run.messages, run.graph_calls, run.stored) == (20, 3, 9)


async def test_a_run_that_has_ended_stays_as_it_ended(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()
    end = progress(claimed, state=SYNC_STATE_FAILED, error="token_dead", checkpoint=b"x")
    await runs.record(end)
    before = await rows.query("select * from sync_run")

    verdicts = await runs.record(end)
    cancelled = await runs.cancel(claimed.run.run_id)

    assert verdicts == [RUN_VERDICT_LOST]
    assert (cancelled.state, cancelled.error) == (SYNC_STATE_FAILED, "token_dead")
    assert await rows.query("select * from sync_run") == before
    assert before[0].checkpoint is None


async def test_an_error_that_is_no_word_is_not_kept(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()

    await runs.record(progress(claimed, state=SYNC_STATE_FAILED, error="He wrote: 'hello'"))

    assert (await runs.get(claimed.run.run_id)).error == "unknown"


@pytest.mark.parametrize(
    ("end", "moves"),
    [
        (SYNC_STATE_SUCCEEDED, True),
        (SYNC_STATE_PARTIAL, True),
        (SYNC_STATE_FAILED, False),
        (SYNC_STATE_CANCELLED, False),
        (SYNC_STATE_RUNNING, False),
    ],
)
async def test_the_watermark_moves_when_all_was_read_that_can_be(
    runs: Runs, rows: Rows, end: SyncState.ValueType, moves: bool
) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()

    await runs.record(progress(claimed, state=end, synced_time=NOON))

    assert await watermark(rows) == (NOON if moves else None)


async def test_the_watermark_never_goes_back_nor_ahead_of_the_clock(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    for synced_time in (NOON, NOON - timedelta(days=1)):
        await runs.start()
        (claimed,) = await runs.claim()
        await runs.record(progress(claimed, state=SYNC_STATE_SUCCEEDED, synced_time=synced_time))
        assert await watermark(rows) == NOON
    await runs.start()
    (claimed,) = await runs.claim()

    far = NOON + timedelta(days=36500)
    await runs.record(progress(claimed, state=SYNC_STATE_SUCCEEDED, synced_time=far))

    reached = await watermark(rows)
    assert reached is not None
    assert reached <= (await rows.one("select now() as now")).now


async def test_no_more_checkpoints_are_handed_out_at_once_than_a_message_holds(
    runs: Runs, rows: Rows
) -> None:
    pages = {f"{number}" for number in range(20)}
    for page_id in sorted(pages):
        await rows.add_page(page_id)
        await runs.start(page_id)
    for each in await runs.claim("one", at_most=100):
        await runs.record(progress(each, checkpoint=each.run.page_id.encode() * 300_000))
    await lapse(rows)

    answers = [await runs.claim("two", at_most=100) for _ in range(10)]

    sizes = [sum(len(each.checkpoint) for each in answer) for answer in answers]
    handed = [each for answer in answers for each in answer]
    assert max(sizes) <= ANSWER_BYTES
    assert sorted(each.run.page_id for each in handed) == sorted(pages)
    assert {each.epoch for each in handed} == {2}
    assert all(each.checkpoint == each.run.page_id.encode() * 300_000 for each in handed)
    assert answers[-1] == []


async def test_however_large_its_checkpoint_one_run_is_handed_out(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    await rows.query("update sync_run set checkpoint = decode(repeat('00', 3000000), 'hex')")

    (claimed,) = await runs.claim()

    assert len(claimed.checkpoint) == 3_000_000


async def test_a_checkpoint_that_is_too_large_leaves_the_one_before_and_its_run_goes_on(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await rows.add_page("2")
    await runs.start("1")
    await runs.start("2")
    large, other = await runs.claim()
    await runs.record(progress(large, checkpoint=b"before"))

    verdicts = await runs.record(
        progress(large, messages=70, checkpoint=b"x" * (CHECKPOINT_BYTES + 1)),
        progress(other, messages=80, checkpoint=b"here"),
    )

    await lapse(rows)
    again = {each.run.run_id: each for each in await runs.claim("two")}
    assert verdicts == [RUN_VERDICT_GO_ON, RUN_VERDICT_GO_ON]
    assert [
        (again[each.run.run_id].checkpoint, again[each.run.run_id].run.messages)
        for each in (large, other)
    ] == [(b"before", 70), (b"here", 80)]


async def test_of_marks_those_of_the_newest_threads_are_handed_out_as_far_as_there_is_room(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await runs.start()
    await rows.query("""
        insert into unreadable_thread (page_id, thread_id, kind, reason, updated_at)
        select '1', 't_' || lpad(n::text, 500, '0'), 'conversations', 'graph_1',
            timestamptz '2026-01-01' + n * interval '1 minute'
        from generate_series(1, 5000) n
    """)

    (claimed,) = await runs.claim()

    numbers = [int(each.thread_id.removeprefix("t_")) for each in claimed.unreadable]
    assert numbers == list(range(5_001 - len(numbers), 5_001))
    assert 1_000 < len(numbers) < 2_200
    assert claimed.ByteSize() < ANSWER_BYTES


async def test_what_was_learnt_of_page_sizes_is_handed_on(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (first,) = await runs.claim()
    await runs.record(progress(first, page_sizes={"conversations": 50, "messages": 100}))
    await runs.record(progress(first, state=SYNC_STATE_FAILED, page_sizes={"conversations": 25}))
    await runs.start()

    (second,) = await runs.claim()

    assert dict(first.page_sizes) == {}
    assert dict(second.page_sizes) == {"conversations": 25, "messages": 100}


async def test_a_full_run_begins_with_how_many_conversations_the_last_one_met(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await runs.start(mode=SYNC_MODE_FULL)
    (first,) = await runs.claim()
    met_all = progress(first, state=SYNC_STATE_PARTIAL, conversations=70, expected=70)
    met_all.synced_time.CopyFrom(first.run.start_time)
    await runs.record(met_all)
    await runs.start(mode=SYNC_MODE_FULL)
    (without_list,) = await runs.claim()
    await runs.record(progress(without_list, state=SYNC_STATE_PARTIAL, conversations=5))
    for mode in (SYNC_MODE_INCREMENTAL, SYNC_MODE_FULL):
        await runs.start(mode=mode)
        (other,) = await runs.claim()
        await runs.record(progress(other, state=SYNC_STATE_FAILED, conversations=3))
    await runs.start(mode=SYNC_MODE_INCREMENTAL)
    (news,) = await runs.claim()
    await runs.record(progress(news, state=SYNC_STATE_SUCCEEDED, conversations=2))
    await runs.start(kind=COMMENTS, mode=SYNC_MODE_FULL)
    (comments,) = await runs.claim()

    await runs.start(mode=SYNC_MODE_FULL)
    (again,) = await runs.claim()

    met = [each.run.expected for each in (first, news, comments, again)]
    assert met == [0, 0, 0, 70]


async def test_who_takes_a_full_run_over_expects_what_was_last_expected(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await runs.start(mode=SYNC_MODE_FULL)
    (claimed,) = await runs.claim()
    await runs.record(progress(claimed, expected=90))
    await rows.query("update mirror set conversations = 70")
    await lapse(rows)

    (taken,) = await runs.claim()

    assert taken.run.expected == 90


async def test_threads_that_cannot_be_read_are_marked_until_they_can(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await runs.start()
    await runs.start(kind=COMMENTS)
    (first, other) = await runs.claim()
    one = UnreadableThread(thread_id="t_1", reason="graph_1", update_time=NOON)
    two = UnreadableThread(thread_id="t_2", reason="Not a word")
    post = UnreadableThread(thread_id="p_1", reason="graph_100")
    await runs.record(
        progress(first, threads=[one, two], messages=1), progress(other, threads=[post])
    )
    await runs.record(
        progress(
            first,
            state=SYNC_STATE_PARTIAL,
            threads=[UnreadableThread(thread_id="t_1", readable_again=True)],
        )
    )
    await runs.start()

    (second,) = await runs.claim()

    assert list(second.unreadable) == [UnreadableThread(thread_id="t_2", reason="unknown")]


async def test_a_queued_run_is_cancelled_at_once_and_lets_the_next_pass(
    runs: Runs, rows: Rows, waking: Waking
) -> None:
    await rows.add_page("1")
    first = await runs.start(mode=SYNC_MODE_INCREMENTAL)
    second = await runs.start(mode=SYNC_MODE_FULL)
    seen = waking.count

    cancelled = await runs.cancel(first.run_id)

    (claimed,) = await runs.claim()
    assert cancelled.state == SYNC_STATE_CANCELLED
    assert cancelled.HasField("end_time")
    assert waking.count == seen + 1
    assert claimed.run.run_id == second.run_id


async def test_the_worker_of_a_cancelled_run_ends_it(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()
    asked = await runs.cancel(claimed.run.run_id)

    told = await runs.record(progress(claimed, messages=5))
    ended = await runs.record(progress(claimed, state=SYNC_STATE_CANCELLED, messages=6))
    run = await runs.get(claimed.run.run_id)

    assert asked.state == SYNC_STATE_RUNNING
    assert (told, ended) == ([RUN_VERDICT_CANCEL], [RUN_VERDICT_GO_ON])
    assert (run.state, run.messages) == (SYNC_STATE_CANCELLED, 6)


async def test_a_cancelled_run_whose_worker_died_ends_without_another(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()
    await runs.cancel(claimed.run.run_id)
    await lapse(rows)

    assert await runs.claim() == []
    assert (await runs.get(claimed.run.run_id)).state == SYNC_STATE_CANCELLED


async def test_a_run_whose_worker_has_died_is_cancelled_at_once(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()
    await lapse(rows)

    cancelled = await runs.cancel(claimed.run.run_id)

    assert cancelled.state == SYNC_STATE_CANCELLED
    assert await runs.claim() == []


async def test_the_runs_of_a_page_that_is_disconnected_end_and_their_workers_lose_them(
    runs: Runs, rows: Rows, pools: Pools
) -> None:
    await rows.add_page("1")
    await rows.add_page("2")
    going_on = await runs.start()
    waiting = await runs.start(kind=COMMENTS)
    other = await runs.start("2")
    claimed = await runs.claim(at_most=1)

    await in_transaction(pools.general, lambda connection: end_some(connection, "1"))

    ended = [await runs.get(run.run_id) for run in (going_on, waiting)]
    assert [run.state for run in ended] == [SYNC_STATE_FAILED, SYNC_STATE_CANCELLED]
    assert {run.error for run in ended} == {"page_disconnected"}
    assert await runs.record(progress(claimed[0])) == [RUN_VERDICT_LOST]
    assert [each.run.run_id for each in await runs.claim()] == [other.run_id]


async def audited(rows: Rows) -> list[tuple[str, ...]]:
    found = await rows.query(
        "select role, actor, action, subject, detail from audit order by audit_id"
    )
    return [tuple(row) for row in found]


async def test_who_asked_for_a_run_or_a_repair_and_cancelled_it_is_in_the_audit(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")

    with calling_as(Caller("", "anna@example.com")):
        run = await runs.start(kind=COMMENTS)
        repair = await runs.start(repair=True)
        await runs.cancel(repair.run_id)

    anna = ("sync", "anna@example.com")
    assert await audited(rows) == [
        (*anna, "run.start", run.run_id, "page 1"),
        (*anna, "run.repair", repair.run_id, "page 1"),
        (*anna, "run.cancel", repair.run_id, "page 1"),
    ]


async def test_a_repair_of_all_pages_is_one_row_of_the_audit(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await rows.add_page("2")

    await runs.stub.StartRun(StartRunRequest(all_pages=True, kind=CONVERSATIONS, repair=True))

    assert [row[2:] for row in await audited(rows)] == [("run.repair", "every page", "runs 2")]


async def test_what_starts_or_cancels_nothing_is_not_in_the_audit(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    run = await runs.start()
    await runs.start()
    await runs.stub.StartRun(StartRunRequest(all_pages=True, kind=CONVERSATIONS))
    for _ in range(2):
        await runs.cancel(run.run_id)

    assert [row[2] for row in await audited(rows)] == ["run.start", "run.cancel"]


@pytest.mark.parametrize("run_id", ["run-0123456789abcdef", "", "x" * 5000, "\0"])
async def test_a_run_that_is_not_there_is_unknown(runs: Runs, run_id: str) -> None:
    for call in (runs.get, runs.cancel):
        with pytest.raises(Refusal) as refused:
            await call(run_id)

        assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "RUN_UNKNOWN")


async def test_runs_are_listed_newest_first_of_a_page_or_of_all(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await rows.add_page("2")
    first = await runs.start()
    second = await runs.start("2")
    third = await runs.start(kind=COMMENTS)

    whole = await runs.stub.ListRuns(ListRunsRequest())
    of_page = await runs.stub.ListRuns(ListRunsRequest(page_id="1", page_size=1))
    rest = await runs.stub.ListRuns(
        ListRunsRequest(page_id="1", page_size=1, page_token=of_page.next_page_token)
    )

    assert [run.run_id for run in whole.runs] == [third.run_id, second.run_id, first.run_id]
    assert whole.next_page_token == ""
    assert [run.run_id for run in (*of_page.runs, *rest.runs)] == [third.run_id, first.run_id]
    assert rest.next_page_token == ""
    assert (await runs.stub.ListRuns(ListRunsRequest(page_id="9"))).runs == []


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("runs.run.state", {"state": SYNC_STATE_QUEUED}),
        ("runs.run.state", {"state": 99}),
        ("runs.page_sizes", {"page_sizes": {"conversations": 0}}),
        ("runs.page_sizes", {"page_sizes": {"": 1}}),
        ("runs.page_sizes", {"page_sizes": {f"edge_{n}": 1 for n in range(51)}}),
        ("runs.unreadable.thread_id", {"threads": [UnreadableThread(reason="graph_1")]}),
    ],
)
async def test_progress_that_cannot_be_written_down_is_refused(
    runs: Runs, rows: Rows, field: str, fields: dict[str, Any]
) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()

    with pytest.raises(Refusal) as refused:
        await runs.record(progress(claimed, **fields))

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, field)


async def test_one_run_twice_in_a_call_is_refused(runs: Runs, rows: Rows) -> None:
    await rows.add_page("1")
    await runs.start()
    (claimed,) = await runs.claim()

    with pytest.raises(Refusal) as refused:
        await runs.record(progress(claimed), progress(claimed))

    assert refused.value.metadata["field"] == "runs"


@pytest.mark.parametrize("request_", [{}, {"owner": "x" * 201}, {"owner": "\0"}, {"max_runs": 0}])
async def test_a_claim_of_nothing_or_by_nobody_is_refused(
    runs: Runs, request_: dict[str, Any]
) -> None:
    with pytest.raises(Refusal) as refused:
        await runs.stub.ClaimRuns(ClaimRunsRequest(**({"max_runs": 1} | request_)))

    assert refused.value.kind is Kind.INVALID


async def test_progress_of_many_runs_is_written_in_one_call(runs: Runs, rows: Rows) -> None:
    for number in range(50):
        await rows.add_page(str(number))
        await runs.start(str(number))
    claimed = await runs.claim(at_most=50)
    end = claimed[0].run.start_time

    verdicts = await runs.record(
        *(progress(each, state=SYNC_STATE_SUCCEEDED, synced_time=end) for each in claimed[:49]),
        RunProgress(run=SyncRun(run_id="run-0000000000000000"), epoch=1),
    )

    assert verdicts == [RUN_VERDICT_GO_ON] * 49 + [RUN_VERDICT_LOST]
    assert len(await rows.query("select from mirror where synced_at is not null")) == 49
    assert len(await rows.query("select from sync_run where state = 'running'")) == 1


async def test_runs_that_ended_are_counted_by_how_and_what_they_recovered(
    runs: Runs, rows: Rows
) -> None:
    await rows.add_page("1")
    labels = {"kind": "conversations", "mode": "incremental", "state": "succeeded"}
    ended, found = counted("sync_runs_total", **labels), counted("recovered_messages_total")
    await runs.start(repair=True)
    (claimed,) = await runs.claim()

    await runs.record(progress(claimed, recovered=3))
    await runs.record(progress(claimed, state=SYNC_STATE_SUCCEEDED, recovered=4))

    assert counted("sync_runs_total", **labels) == ended + 1
    assert counted("recovered_messages_total") == found + 4


@pytest.mark.parametrize(("connected", "looked_at"), [("1 hour", "1 hour"), ("9 days", "1 day")])
async def test_a_repair_on_request_looks_at_a_day_and_never_before_the_page_was_connected(
    runs: Runs, rows: Rows, connected: str, looked_at: str
) -> None:
    await rows.add_page("1")
    await rows.query("update page set connected_at = now() - cast(:ago as interval)", ago=connected)

    run = await runs.start(repair=True)

    ((is_so,),) = await rows.query(
        "select abs(extract(epoch from created_at - gap_from - cast(:ago as interval))) < 60"
        " from sync_run where run_id = :id",
        ago=looked_at,
        id=run.run_id,
    )
    assert is_so


async def test_runs_of_all_pages_are_begun_at_one_moment_and_claimed_together(
    runs: Runs, rows: Rows
) -> None:
    for page_id in ("1", "2", "3"):
        await rows.add_page(page_id)
    await rows.query("update page set connected = false where page_id = '3'")
    going_on = await runs.start("2")

    request = StartRunRequest(all_pages=True, kind=CONVERSATIONS)
    started = list((await runs.stub.StartRun(request)).runs)

    assert [run.page_id for run in started] == ["1", "2"]
    assert started[1] == going_on
    assert {claimed.run.run_id for claimed in await runs.claim()} == {run.run_id for run in started}


async def test_all_pages_and_one_page_cannot_both_be_meant(runs: Runs) -> None:
    with pytest.raises(Refusal) as refused:
        await runs.stub.StartRun(StartRunRequest(all_pages=True, page_id="1", kind=CONVERSATIONS))

    assert refused.value.kind is Kind.INVALID


KINDS = st.sampled_from([CONVERSATIONS, COMMENTS])
MODES = st.sampled_from([SYNC_MODE_AUTO, SYNC_MODE_FULL, SYNC_MODE_INCREMENTAL])
WORKERS = st.sampled_from(["one", "two"])
ENDS = st.sampled_from(
    [SYNC_STATE_SUCCEEDED, SYNC_STATE_PARTIAL, SYNC_STATE_FAILED, SYNC_STATE_CANCELLED]
)
NUMBERS = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), KINDS, MODES),
        st.tuples(st.just("repair")),
        st.tuples(st.just("claim"), WORKERS),
        st.tuples(st.just("claim at once")),
        st.tuples(st.just("go on"), WORKERS, NUMBERS),
        st.tuples(st.just("end"), WORKERS, NUMBERS, ENDS, st.integers(0, 100)),
        st.tuples(st.just("give back"), WORKERS, NUMBERS),
        st.tuples(st.just("cancel"), NUMBERS),
        st.tuples(st.just("lapse")),
        st.tuples(st.just("disconnect")),
    ),
    max_size=25,
)


class Play:
    """Two workers, and what they believe to have: also what they have lost."""

    def __init__(self, runs: Runs, rows: Rows, pools: Pools) -> None:
        self.runs, self.rows, self.pools = runs, rows, pools
        self.held: dict[str, list[ClaimedRun]] = {"one": [], "two": []}
        self.started: dict[str, SyncRun] = {}
        self.ended: dict[str, SyncRun] = {}
        self.marks: dict[str, datetime] = {}

    async def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("start", kind, mode):
                run = await self.runs.start(kind=kind, mode=mode)
                self.started[run.run_id] = run
            case ("repair",):
                run = await self.runs.start(repair=True)
                self.started[run.run_id] = run
            case ("claim", worker):
                self.held[worker] += await self.runs.claim(worker)
            case ("claim at once",):
                claims = await asyncio.gather(*map(self.runs.claim, self.held))
                for held, claimed in zip(self.held.values(), claims, strict=True):
                    held += claimed
            case ("go on", worker, number):
                await self.say(worker, number)
            case ("end", worker, number, state, hours):
                at = NOON + timedelta(hours=hours)
                await self.say(worker, number, state=state, synced_time=at)
            case ("give back", worker, number):
                await self.say(worker, number, release=True)
            case ("cancel", number) if number < len(self.started):
                await self.runs.cancel(list(self.started)[number])
            case ("lapse",):
                await lapse(self.rows)
            case ("disconnect",):
                await in_transaction(self.pools.general, lambda each: end_some(each, "1"))
        await self.check()

    async def say(self, worker: str, number: int, **fields: Any) -> None:
        held = self.held[worker]
        if number < len(held):
            await self.runs.record(progress(held[-1 - number], **fields))

    async def check(self) -> None:
        under_way = await self.rows.query(
            "select kind from sync_run where state = 'running' group by kind having count(*) > 1"
        )
        assert under_way == []
        for row in await self.rows.query("select * from mirror where synced_at is not null"):
            assert row.synced_at >= self.marks.get(row.kind, row.synced_at)
            self.marks[row.kind] = row.synced_at
        for run_id in self.started:
            run = await self.runs.get(run_id)
            assert run == self.ended.get(run_id, run)
            if run.HasField("end_time"):
                self.ended[run_id] = run

    async def finish(self) -> None:
        """One worker that lives ends all there is."""
        await lapse(self.rows)
        while claimed := await self.runs.claim("one"):
            ends = (progress(each, state=SYNC_STATE_SUCCEEDED) for each in claimed)
            await self.runs.record(*ends)
        await self.check()


@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(steps=STEPS)
async def test_whatever_two_workers_do_runs_go_one_by_one_and_each_ends_once(
    runs: Runs, rows: Rows, pools: Pools, steps: list[tuple[Any, ...]]
) -> None:
    await rows.query("truncate page, sync_run, mirror cascade")
    await rows.add_page("1")
    play = Play(runs, rows, pools)

    for step in steps:
        await play.do(step)
    await play.finish()

    assert play.ended.keys() == play.started.keys()
    stored = await rows.query("select run_id, state from sync_run")
    assert {row.run_id for row in stored} == play.started.keys()
    assert {row.state for row in stored} <= {"succeeded", "partial", "failed", "cancelled"}
