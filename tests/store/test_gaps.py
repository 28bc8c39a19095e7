import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from pagewire.store.v1.ingest_service_pb2 import ReportReceptionRequest
from pagewire.store.v1.ingest_service_pb2_grpc import (
    IngestServiceStub,
    add_IngestServiceServicer_to_server,
)
from pagewire.store.v1.run_service_pb2 import RunProgress
from pagewire.type.v1.event_pb2 import SOURCE_LIVE, SOURCE_RECOVERED
from pagewire.type.v1.sync_run_pb2 import (
    SYNC_KIND_CONVERSATIONS,
    SYNC_MODE_AUTO,
    SYNC_MODE_INCREMENTAL,
    SYNC_ORIGIN_REPAIR,
    SYNC_STATE_FAILED,
    SYNC_STATE_PARTIAL,
    SYNC_STATE_SUCCEEDED,
    SyncRun,
    SyncState,
)
from pagewire_runtime import metrics
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import gaps, page_care, runs
from pagewire_store.database import Pools, in_transaction
from pagewire_store.gaps import Loss, Seen, losses
from pagewire_store.ingest_servicer import IngestServicer
from tests.support.deliveries import make_ingestor
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, channel_to, pools, rows

if TYPE_CHECKING:
    from pagewire.store.v1.ingest_service_pb2_grpc import IngestServiceAsyncStub

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GRACE, HOUR, MINUTE = timedelta(minutes=2), timedelta(hours=1), timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def stamp(at: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(at)
    return found


def report(lost: datetime | None = None, **counts: Any) -> ReportReceptionRequest:
    return ReportReceptionRequest(
        edge="edge", first_lost_time=None if lost is None else stamp(lost), **counts
    )


def seen(heard: timedelta | None = 5 * SECOND, bad: timedelta | None = None) -> Seen:
    """An edge was heard of, and this one has seen bad signatures alone, since so long."""
    return Seen(NOW, None if heard is None else NOW - heard, None if bad is None else NOW - bad)


class TestWhatAReportTells:
    def test_an_edge_that_takes_everything_tells_of_no_loss(self) -> None:
        assert losses(report(accepted=5), seen(), GRACE) == ([], None)

    def test_what_was_refused_opens_a_gap_at_once(self) -> None:
        lost = NOW - 3 * SECOND

        assert losses(report(lost, accepted=9, refused=1), seen(), GRACE) == (
            [Loss("refused", lost)],
            None,
        )

    def test_half_a_minute_without_any_edge_is_a_gap_from_the_last_report_on(self) -> None:
        before, _ = losses(report(), seen(30 * SECOND), GRACE)
        after, _ = losses(report(), seen(31 * SECOND), GRACE)

        assert before == []
        assert after == [Loss("outage", NOW - 31 * SECOND)]

    def test_the_first_report_of_all_tells_of_no_loss(self) -> None:
        assert losses(report(), seen(None), GRACE) == ([], None)

    def test_bad_signatures_are_no_loss_before_they_have_lasted_for_the_grace(self) -> None:
        lost = NOW - SECOND

        assert losses(report(lost, bad_signatures=1), seen(), GRACE) == ([], lost)

    def test_bad_signatures_alone_for_as_long_as_the_grace_are_a_gap(self) -> None:
        found, bad_since = losses(report(NOW, bad_signatures=1), seen(bad=GRACE), GRACE)

        assert found == [Loss("signatures", NOW - GRACE)]
        assert bad_since == NOW - GRACE

    def test_a_pause_of_strangers_proves_nothing(self) -> None:
        assert losses(report(), seen(bad=MINUTE), GRACE) == ([], NOW - MINUTE)

    def test_one_good_signature_ends_the_suspicion(self) -> None:
        assert losses(report(accepted=1), seen(bad=HOUR), GRACE) == ([], None)

    def test_after_a_good_signature_the_suspicion_begins_anew(self) -> None:
        lost = NOW - SECOND
        told = report(lost, accepted=1, bad_signatures=500)

        assert losses(told, seen(bad=HOUR), GRACE) == ([], lost)

    def test_what_was_refused_was_signed_well(self) -> None:
        told = report(NOW - SECOND, refused=1, bad_signatures=500)

        found, bad_since = losses(told, seen(bad=HOUR), GRACE)

        assert found == [Loss("refused", NOW - SECOND)]
        assert bad_since is None

    def test_an_edge_whose_clock_is_ahead_lost_nothing_in_the_future(self) -> None:
        assert losses(report(NOW + HOUR, refused=1), seen(), GRACE)[0] == [Loss("refused", NOW)]


@pytest.fixture
async def ingest(pools: Pools) -> AsyncIterator["IngestServiceAsyncStub"]:
    ingestor = make_ingestor(pools)
    servicer = IngestServicer(ingestor, pools.general, grace=GRACE)
    async with channel_to(
        lambda server: add_IngestServiceServicer_to_server(servicer, server), "webhook"
    ) as channel:
        yield IngestServiceStub(channel)
    await ingestor.close()


class Page:
    """The page "1" that is connected for a day, its gap and its runs."""

    def __init__(self, rows: Rows, pools: Pools) -> None:
        self.rows, self.pools = rows, pools

    async def now(self) -> datetime:
        now: datetime = (await self.rows.one("select now() as now")).now
        return now

    async def gap(self, page_id: str = "1") -> tuple[timedelta, str] | None:
        """Its cause, and how old it is: whole half minutes, which no test takes."""
        found = await self.rows.query(
            "select now() - gap_from as age, gap_cause from mirror"
            " where page_id = :page_id and kind = 'conversations' and gap_from is not null",
            page_id=page_id,
        )
        for row in found:
            return row.age // (30 * SECOND) * (30 * SECOND), row.gap_cause
        return None

    async def open_gap(self, age: timedelta, noticed: timedelta, page_id: str = "1") -> None:
        now = await self.now()
        await self.rows.query(
            "insert into mirror (page_id, kind, gap_from, gap_cause, gap_noticed_at)"
            " values (:page_id, 'conversations', :gap_from, 'refused', :noticed)"
            " on conflict (page_id, kind) do update set gap_from = excluded.gap_from,"
            " gap_cause = excluded.gap_cause, gap_noticed_at = excluded.gap_noticed_at",
            page_id=page_id,
            gap_from=now - age,
            noticed=now - noticed,
        )

    async def repairs(self) -> int:
        return await in_transaction(
            self.pools.upkeep,
            lambda each: gaps.start_repairs(each, interval=HOUR, grace=GRACE),
        )

    async def seek_silence(self) -> None:
        await in_transaction(self.pools.upkeep, lambda each: gaps.note_silences(each, grace=GRACE))

    async def talk(self, spacing: timedelta, latest: timedelta, number: int = 20) -> None:
        """So many conversations, each written in so long before the next."""
        now = await self.now()
        await self.rows.add(
            "conversation",
            *(
                {
                    "page_id": "1",
                    "participant_id": str(at),
                    "updated_at": now - latest - at * spacing,
                }
                for at in range(number)
            ),
        )

    async def hear(self, ago: timedelta, number: int = 1, source: int = SOURCE_LIVE) -> None:
        """A webhook came so long ago."""
        at = await self.now() - ago
        await self.rows.add(
            "event",
            page_id="1",
            event_key=f"message:{number}",
            event_id=number,
            number=number,
            lane="page",
            kind=1,
            trigger=1,
            source=source,
            event_time=at,
            received_at=at,
            delivery_id=uuid.uuid4(),
            state="done",
            detail=b"",
        )


@pytest.fixture
async def page(rows: Rows, pools: Pools) -> Page:
    await rows.add_page("1")
    await rows.query("update page set connected_at = now() - interval '1 day'")
    return Page(rows, pools)


async def test_an_edge_that_refused_opens_a_gap_of_every_connected_page(
    ingest: "IngestServiceAsyncStub", rows: Rows, page: Page
) -> None:
    await rows.add_page("2")  # just now
    await rows.add_page("3", connected=False, token=None)
    counted = opened("refused")

    await ingest.ReportReception(report(await page.now() - MINUTE, refused=3))

    assert await page.gap("1") == (MINUTE + GRACE, "refused")  # it was written before it came
    assert await page.gap("2") == (timedelta(), "refused")
    assert await page.gap("3") is None
    assert opened("refused") == counted + 2


def opened(cause: str) -> float:
    return metrics.registry.get_sample_value("pagewire_gaps_total", {"cause": cause}) or 0


async def test_a_gap_is_one_span_from_the_first_loss_on(
    ingest: "IngestServiceAsyncStub", page: Page
) -> None:
    now = await page.now()
    counted = opened("refused")

    for lost in (now - MINUTE, now - HOUR, now):
        await ingest.ReportReception(report(lost, refused=1))

    assert await page.gap() == (HOUR + GRACE, "refused")
    assert opened("refused") == counted + 1


async def test_losses_that_go_on_are_noted_anew_but_not_by_every_report(
    ingest: "IngestServiceAsyncStub", rows: Rows, page: Page
) -> None:
    await page.open_gap(HOUR, noticed=SECOND)
    before = await rows.query("select * from mirror")

    await ingest.ReportReception(report(await page.now(), refused=1))
    same = await rows.query("select * from mirror")
    await rows.query("update mirror set gap_noticed_at = now() - interval '31 s'")
    await ingest.ReportReception(report(await page.now(), refused=1))

    assert same == before
    assert await rows.query("select from mirror where gap_noticed_at > now() - interval '20 s'")


async def test_a_time_without_any_edge_is_a_gap(
    ingest: "IngestServiceAsyncStub", rows: Rows, page: Page
) -> None:
    await ingest.ReportReception(ReportReceptionRequest(edge="one"))
    none_yet = await page.gap()
    await rows.query("update reception set seen_at = now() - interval '10 minutes'")

    await ingest.ReportReception(ReportReceptionRequest(edge="two"))

    assert none_yet is None
    assert await page.gap() == (10 * MINUTE + GRACE, "outage")


async def test_while_one_edge_is_heard_of_the_others_may_come_and_go(
    ingest: "IngestServiceAsyncStub", rows: Rows, page: Page
) -> None:
    for edge in ("one", "two"):
        await ingest.ReportReception(ReportReceptionRequest(edge=edge))
    await rows.query("update reception set seen_at = now() - interval '1 hour' where edge = 'one'")

    await ingest.ReportReception(ReportReceptionRequest(edge="one"))

    assert await page.gap() is None


async def test_bad_signatures_are_remembered_of_the_edge_that_saw_them(
    ingest: "IngestServiceAsyncStub", rows: Rows, page: Page
) -> None:
    lost = await page.now() - GRACE
    await ingest.ReportReception(report(lost + SECOND * 60, bad_signatures=5))
    too_early = await page.gap()
    await ingest.ReportReception(ReportReceptionRequest(edge="other", accepted=5))
    await rows.query(
        "update reception set bad_since = bad_since - interval '2 minutes' where edge = 'edge'"
    )

    await ingest.ReportReception(report())

    assert too_early is None
    assert await page.gap() == (3 * MINUTE + GRACE, "signatures")


async def test_strangers_among_good_webhooks_bring_about_no_gap(
    ingest: "IngestServiceAsyncStub", rows: Rows, page: Page
) -> None:
    await ingest.ReportReception(report(await page.now(), bad_signatures=500))
    await rows.query("update reception set bad_since = bad_since - interval '1 hour'")

    await ingest.ReportReception(report(accepted=1, bad_signatures=500))
    await ingest.ReportReception(report())

    assert await page.gap() is None


async def test_edges_of_long_ago_are_forgotten_but_not_when_any_was_heard_of_last(
    ingest: "IngestServiceAsyncStub", rows: Rows, page: Page
) -> None:
    await ingest.ReportReception(ReportReceptionRequest(edge="one"))
    await rows.query("update reception set seen_at = now() - interval '2 days'")

    await ingest.ReportReception(ReportReceptionRequest(edge="two"))

    assert [row.edge for row in await rows.query("select edge from reception")] == ["two"]
    assert await page.gap() == (timedelta(days=1), "outage")  # it is connected since then


async def test_edges_that_report_at_the_same_time_hold_up_nobody(
    ingest: "IngestServiceAsyncStub", rows: Rows, page: Page
) -> None:
    for number in range(30):
        await rows.add_page(f"1{number}")
    lost = await page.now() - MINUTE

    await asyncio.gather(
        *(
            ingest.ReportReception(
                ReportReceptionRequest(edge=f"edge {n}", refused=1, first_lost_time=stamp(lost))
            )
            for n in range(8)
        )
    )

    assert len(await rows.query("select from mirror where gap_from is not null")) == 31


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("edge", {"edge": ""}),
        ("edge", {"edge": "x" * 201}),
        ("edge", {"edge": "\0"}),
        ("refused", {"edge": "edge", "refused": -1}),
    ],
)
async def test_a_report_that_cannot_be_is_refused(
    ingest: "IngestServiceAsyncStub", field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(Refusal) as refused:
        await ingest.ReportReception(ReportReceptionRequest(**fields))

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, field)


class TestSilence:
    async def test_a_page_whose_webhooks_stay_away_for_far_longer_than_usual_has_a_gap(
        self, page: Page
    ) -> None:
        await page.talk(spacing=6 * MINUTE, latest=2 * HOUR + MINUTE)
        await page.hear(2 * HOUR + MINUTE)

        await page.seek_silence()

        assert await page.gap() == (2 * HOUR + MINUTE + GRACE, "silence")

    async def test_what_history_stores_does_not_hide_that_webhooks_stay_away(
        self, page: Page
    ) -> None:
        await page.talk(spacing=6 * MINUTE, latest=MINUTE)
        await page.hear(3 * HOUR)
        await page.hear(MINUTE, number=2, source=SOURCE_RECOVERED)

        await page.seek_silence()

        assert await page.gap() == (3 * HOUR + GRACE, "silence")

    @pytest.mark.parametrize(
        ("spacing", "heard", "number"),
        [
            pytest.param(6 * MINUTE, 119 * MINUTE, 20, id="not for long enough"),
            pytest.param(SECOND, 59 * MINUTE, 20, id="less than an hour"),
            pytest.param(SECOND, 23 * HOUR, 9, id="too few conversations to know"),
        ],
    )
    async def test_a_page_that_is_quiet_as_usual_has_none(
        self, page: Page, spacing: timedelta, heard: timedelta, number: int
    ) -> None:
        await page.talk(spacing=spacing, latest=heard, number=number)
        await page.hear(heard)

        await page.seek_silence()

        assert await page.gap() is None

    async def test_a_page_that_was_never_heard_of_is_silent_since_it_was_connected(
        self, page: Page
    ) -> None:
        await page.talk(spacing=MINUTE, latest=MINUTE)

        await page.seek_silence()

        assert await page.gap() == (24 * HOUR + GRACE, "silence")

    async def test_a_repair_that_found_the_page_quiet_is_good_for_as_long_again(
        self, page: Page, rows: Rows
    ) -> None:
        await page.talk(spacing=6 * MINUTE, latest=5 * HOUR)
        await page.hear(5 * HOUR)
        await rows.query(
            "insert into mirror (page_id, kind, repaired_at)"
            " values ('1', 'conversations', now() - interval '119 minutes')"
        )

        await page.seek_silence()
        quiet = await page.gap()
        await rows.query("update mirror set repaired_at = now() - interval '121 minutes'")
        await page.seek_silence()

        assert quiet is None
        assert await page.gap() == (123 * MINUTE, "silence")

    async def test_a_page_without_conversations_or_with_one_is_not_looked_at(
        self, page: Page
    ) -> None:
        await page.seek_silence()
        await page.talk(spacing=MINUTE, latest=HOUR, number=1)
        await page.seek_silence()

        assert await page.gap() is None


class TestRepairs:
    async def queued(self, rows: Rows) -> list[Any]:
        return await rows.query("select * from sync_run where state = 'queued'")

    async def test_a_gap_is_repaired_when_its_grace_is_over(self, page: Page, rows: Rows) -> None:
        await page.open_gap(10 * MINUTE, noticed=100 * SECOND)
        await rows.query("update mirror set gap_from = now() - interval '9 minutes'")
        too_early = await page.repairs()
        await page.open_gap(9 * MINUTE, noticed=151 * SECOND)

        started = await page.repairs()

        (run,) = await self.queued(rows)
        gap = (await rows.one("select gap_from from mirror")).gap_from
        assert (too_early, started) == (0, 1)
        assert (run.kind, run.mode, run.origin) == ("conversations", "incremental", "repair")
        assert run.gap_from == gap

    async def test_losses_that_do_not_end_are_not_waited_for_for_ever(self, page: Page) -> None:
        await page.open_gap(9 * MINUTE, noticed=SECOND)
        waited = await page.repairs()
        await page.open_gap(11 * MINUTE, noticed=SECOND)

        assert (waited, await page.repairs()) == (0, 1)

    @pytest.mark.parametrize(("minutes", "expected"), [(59, 0), (60, 1)])
    async def test_a_page_has_one_repair_an_hour(
        self, page: Page, rows: Rows, minutes: int, expected: int
    ) -> None:
        await page.open_gap(HOUR, noticed=HOUR)
        run = {"run_id": "r1", "page_id": "1", "kind": "conversations", "mode": "incremental"}
        await rows.add("sync_run", run | {"origin": "repair", "state": "failed"})
        await rows.query(
            "update sync_run set created_at = now() - make_interval(mins => :minutes)",
            minutes=minutes,
        )

        assert await page.repairs() == expected

    async def test_pages_that_are_blocked_or_not_connected_wait(
        self, page: Page, rows: Rows
    ) -> None:
        await page.open_gap(HOUR, noticed=HOUR)
        await rows.query("update page set state = 'blocked'")
        blocked = await page.repairs()
        await rows.query("update page set state = 'healthy', connected = false")

        assert (blocked, await page.repairs()) == (0, 0)

    async def test_a_page_that_is_repaired_is_checked_since_meta_may_have_unsubscribed_it(
        self, page: Page, rows: Rows
    ) -> None:
        await rows.add_page("2")
        await rows.query("update page set check_due_at = now() + interval '1 day'")
        await page.open_gap(HOUR, noticed=HOUR)

        await page.repairs()

        checks = await in_transaction(
            page.pools.general, lambda each: page_care.claim_checks(each, 10, MINUTE)
        )
        assert [each.page_id for each in checks] == ["1"]

    async def test_a_page_that_another_transaction_holds_is_repaired_at_the_next_look(
        self, page: Page, rows: Rows
    ) -> None:
        await page.open_gap(HOUR, noticed=HOUR)
        async with page.pools.general.begin() as asking:
            await asking.execute(text("select from page where page_id = '1' for share"))
            meanwhile = await page.repairs()

        assert (meanwhile, await page.repairs()) == (0, 1)

    async def test_stores_that_look_at_the_same_time_start_one_repair(
        self, page: Page, rows: Rows
    ) -> None:
        await page.open_gap(HOUR, noticed=HOUR)

        async def look() -> int:
            return await in_transaction(
                page.pools.general,
                lambda each: gaps.start_repairs(each, interval=HOUR, grace=GRACE),
            )

        started = await asyncio.gather(*(look() for _ in range(4)))

        assert sum(started) == 1
        assert len(await self.queued(rows)) == 1

    async def test_a_repair_goes_behind_a_run_that_is_open(self, page: Page, rows: Rows) -> None:
        run = await self.asked(page, repair=False)
        await page.open_gap(HOUR, noticed=HOUR)

        started = await page.repairs()

        assert started == 1
        assert len(await self.queued(rows)) == 2
        assert run.mode == SYNC_MODE_INCREMENTAL

    async def asked(self, page: Page, *, repair: bool) -> SyncRun:
        """A run on request, of a page that was mirrored before."""
        await page.rows.query(
            "insert into mirror (page_id, kind, synced_at)"
            " values ('1', 'conversations', now() - interval '1 minute')"
            " on conflict (page_id, kind) do update set synced_at = excluded.synced_at"
        )
        run, _ = await in_transaction(
            page.pools.general,
            lambda each: runs.start(
                each, "1", SYNC_KIND_CONVERSATIONS, SYNC_MODE_AUTO, repair=repair
            ),
        )
        return run

    @pytest.mark.parametrize(
        ("arrange", "expected"),
        [
            pytest.param("update mirror set gap_from = now() - interval '3 h'", 3, id="its gap"),
            pytest.param("update mirror set synced_at = null", 24, id="never mirrored"),
            pytest.param("update mirror set synced_at = now()", 24, id="just mirrored"),
            pytest.param(
                "update mirror set synced_at = now() - interval '50 h'", 50, id="long not mirrored"
            ),
        ],
    )
    async def test_a_repair_on_request_looks_back_as_far_as_something_may_be_missing(
        self, page: Page, rows: Rows, arrange: str, expected: int
    ) -> None:
        await rows.query("update page set connected_at = now() - interval '90 days'")
        await rows.add("mirror", page_id="1", kind="conversations")
        await rows.query(arrange)

        run, _ = await in_transaction(
            page.pools.general,
            lambda each: runs.start(
                each, "1", SYNC_KIND_CONVERSATIONS, SYNC_MODE_AUTO, repair=True
            ),
        )

        (stored,) = await self.queued(rows)
        back = stored.created_at - stored.gap_from
        assert (run.origin, run.mode) == (SYNC_ORIGIN_REPAIR, SYNC_MODE_INCREMENTAL)
        assert round(back / HOUR) == expected

    async def test_an_incremental_is_no_answer_to_who_wants_a_repair_but_the_repair_is_to_both(
        self, page: Page
    ) -> None:
        incremental = await self.asked(page, repair=False)
        repair = await self.asked(page, repair=True)
        again = await self.asked(page, repair=True)
        await page.rows.query("delete from sync_run where run_id = :id", id=incremental.run_id)

        other = await self.asked(page, repair=False)

        assert repair.run_id != incremental.run_id
        assert {again.run_id, other.run_id} == {repair.run_id}

    async def test_a_gap_that_begins_earlier_wants_a_repair_of_its_own(self, page: Page) -> None:
        first = await self.asked(page, repair=True)
        await page.open_gap(48 * HOUR, noticed=HOUR)

        second = await self.asked(page, repair=True)

        assert second.run_id != first.run_id

    async def ended(
        self, page: Page, state: SyncState.ValueType, began: timedelta = timedelta()
    ) -> None:
        """The repair is done; it began so long ago."""
        (claimed,) = await in_transaction(
            page.pools.general,
            lambda each: runs.claim(each, "worker", 1, runs.LEASE),
        )
        await page.rows.query(
            "update sync_run set started_at = now() - make_interval(secs => :seconds)",
            seconds=began.total_seconds(),
        )
        claimed.run.state = state
        end = RunProgress(
            run=claimed.run, epoch=claimed.epoch, synced_time=stamp(await page.now() - MINUTE)
        )
        await in_transaction(
            page.pools.general,
            lambda each: runs.record(
                each, [end], lease=runs.LEASE, settled_after=gaps.settled_after(GRACE)
            ),
        )

    @pytest.mark.parametrize(
        ("state", "is_closed"),
        [
            (SYNC_STATE_SUCCEEDED, True),
            (SYNC_STATE_PARTIAL, False),
            (SYNC_STATE_FAILED, False),
        ],
    )
    async def test_a_repair_that_has_read_it_closes_the_gap(
        self, page: Page, rows: Rows, state: SyncState.ValueType, is_closed: bool
    ) -> None:
        await page.open_gap(HOUR, noticed=10 * MINUTE)
        await page.repairs()

        await self.ended(page, state)

        mirror = await rows.one("select repaired_at, synced_at from mirror")
        assert (await page.gap() is None) is is_closed
        assert (mirror.repaired_at is not None) is is_closed
        assert mirror.synced_at is None  # it never was mirrored, and a repair does not do that

    async def partial(self, page: Page, times: int, *, ago: timedelta) -> None:
        """So many repairs of the gap were partial, the last of them so long ago."""
        await page.rows.add(
            "sync_run",
            *(
                {
                    "run_id": f"partial-{number}",
                    "page_id": "1",
                    "kind": "conversations",
                    "mode": "incremental",
                    "origin": "repair",
                    "state": "partial",
                }
                for number in range(times)
            ),
        )
        await page.rows.query(
            "update sync_run set created_at = now() - make_interval(secs => :ago),"
            " gap_from = (select gap_from from mirror) where state = 'partial'",
            ago=ago.total_seconds(),
        )

    async def test_a_thread_that_can_never_be_read_keeps_a_gap_open_for_so_many_repairs(
        self, page: Page, rows: Rows
    ) -> None:
        await page.open_gap(HOUR, noticed=HOUR)
        open_after = []

        for _ in range(runs.PARTIAL_REPAIRS):
            await rows.query("update sync_run set created_at = created_at - interval '1 day'")
            assert await page.repairs() == 1
            await self.ended(page, SYNC_STATE_PARTIAL)
            open_after.append(await page.gap() is not None)

        mirror = await rows.one("select repaired_at from mirror")
        assert open_after == [True] * (runs.PARTIAL_REPAIRS - 1) + [False]
        assert mirror.repaired_at is not None

    async def test_one_that_reads_it_all_after_some_that_could_not_closes_the_gap(
        self, page: Page
    ) -> None:
        await page.open_gap(HOUR, noticed=10 * HOUR)
        await self.partial(page, 2, ago=9 * HOUR)
        await page.repairs()

        await self.ended(page, SYNC_STATE_SUCCEEDED)

        assert await page.gap() is None

    @pytest.mark.parametrize(
        ("times", "pause"), [(1, HOUR), (2, 2 * HOUR), (3, 4 * HOUR), (4, 8 * HOUR)]
    )
    async def test_what_could_not_be_read_is_tried_again_ever_later(
        self, page: Page, rows: Rows, times: int, pause: timedelta
    ) -> None:
        await page.open_gap(10 * HOUR, noticed=10 * HOUR)
        await self.partial(page, times, ago=pause - MINUTE)
        early = await page.repairs()
        await rows.query("update sync_run set created_at = created_at - interval '2 minutes'")

        assert (early, await page.repairs()) == (0, 1)

    async def test_a_loss_that_comes_then_does_not_wait_for_what_could_not_be_read(
        self, page: Page
    ) -> None:
        await page.open_gap(10 * HOUR, noticed=10 * HOUR)
        await self.partial(page, 4, ago=HOUR + MINUTE)
        before = await page.repairs()
        await page.rows.query("update mirror set gap_noticed_at = now() - interval '30 minutes'")

        assert (before, await page.repairs()) == (0, 1)

    async def test_the_repairs_of_another_gap_are_none_of_this_one(
        self, page: Page, rows: Rows
    ) -> None:
        await page.open_gap(20 * HOUR, noticed=20 * HOUR)
        await self.partial(page, runs.PARTIAL_REPAIRS, ago=2 * HOUR)
        await page.open_gap(90 * MINUTE, noticed=90 * MINUTE)

        started = await page.repairs()
        await self.ended(page, SYNC_STATE_PARTIAL)

        assert started == 1
        assert await page.gap() is not None

    async def test_what_is_lost_while_a_repair_runs_is_left_for_the_next(self, page: Page) -> None:
        await page.open_gap(HOUR, noticed=10 * MINUTE)
        await page.repairs()
        await page.rows.query("update mirror set gap_noticed_at = now()")

        await self.ended(page, SYNC_STATE_SUCCEEDED, began=5 * MINUTE)

        gap = await page.gap()
        assert gap == (5 * MINUTE + gaps.settled_after(GRACE), "refused")

    async def test_a_loss_from_before_all_that_a_repair_read_stays(self, page: Page) -> None:
        await page.open_gap(HOUR, noticed=10 * MINUTE)
        await page.repairs()
        await page.open_gap(3 * HOUR, noticed=10 * MINUTE)

        await self.ended(page, SYNC_STATE_SUCCEEDED)

        assert await page.gap() == (3 * HOUR, "refused")

    async def test_another_run_closes_no_gap(self, page: Page) -> None:
        await self.asked(page, repair=False)
        await page.open_gap(HOUR, noticed=10 * MINUTE)

        await self.ended(page, SYNC_STATE_SUCCEEDED)

        assert await page.gap() == (HOUR, "refused")

    async def test_a_repair_of_a_page_that_was_mirrored_moves_its_watermark(
        self, page: Page
    ) -> None:
        await self.asked(page, repair=True)
        before = (await page.rows.one("select synced_at from mirror")).synced_at
        await page.rows.query("update mirror set synced_at = synced_at - interval '1 hour'")

        await self.ended(page, SYNC_STATE_SUCCEEDED)

        after = (await page.rows.one("select synced_at from mirror")).synced_at
        assert after >= before
