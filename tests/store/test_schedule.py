import asyncio
from datetime import timedelta

import pytest

from pagewire_store import schedule
from pagewire_store.database import Pools, in_transaction
from pagewire_store.runs import queue
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

INTERVAL = timedelta(minutes=15)
BOTH = [("1", "comments"), ("1", "conversations")]


async def start_due(pools: Pools, interval: timedelta = INTERVAL) -> int:
    return await in_transaction(pools.upkeep, lambda each: schedule.start_due(each, interval))


async def add_page(rows: Rows, page_id: str = "1", minutes: float = 60, **values: object) -> None:
    """A page that was connected so long ago."""
    await rows.add_page(page_id, **values)
    await rows.query(
        "update page set connected_at = now() - make_interval(secs => :seconds)"
        " where page_id = :page_id",
        seconds=minutes * 60,
        page_id=page_id,
    )


async def queued(rows: Rows) -> list[tuple[str, str]]:
    """Of which pages and kinds, and that they are as scheduled ones are."""
    found = await rows.query("select * from sync_run where state = 'queued'")
    assert {(row.mode, row.origin) for row in found} <= {("incremental", "schedule")}
    return sorted((row.page_id, row.kind) for row in found)


async def test_a_run_of_each_kind_is_due_an_interval_after_connecting(
    rows: Rows, pools: Pools
) -> None:
    await add_page(rows, "1", minutes=15)
    await add_page(rows, "2", minutes=14)

    started = await start_due(pools)

    assert started == 2
    assert await queued(rows) == BOTH


@pytest.mark.parametrize(("minutes", "expected"), [(14, 1), (15, 2)])
async def test_the_next_is_due_an_interval_after_the_end_of_the_last_of_its_kind(
    rows: Rows, pools: Pools, minutes: int, expected: int
) -> None:
    await add_page(rows)
    await rows.query(
        "insert into mirror (page_id, kind, run_ended_at)"
        " values ('1', 'conversations', now() - make_interval(mins => :minutes))",
        minutes=minutes,
    )

    await start_due(pools)

    assert await queued(rows) == BOTH[:expected]


@pytest.mark.parametrize("state", ["queued", "running"])
@pytest.mark.parametrize("mode", ["full", "incremental"])
async def test_nothing_is_due_while_a_run_of_the_kind_is_open(
    rows: Rows, pools: Pools, state: str, mode: str
) -> None:
    await add_page(rows)
    run = {"run_id": "r1", "page_id": "1", "kind": "conversations", "origin": "request"}
    await rows.add("sync_run", run | {"mode": mode, "state": state})

    started = await start_due(pools)
    again = await start_due(pools)

    assert (started, again) == (1, 0)


async def test_pages_that_are_blocked_or_not_connected_are_left_out(
    rows: Rows, pools: Pools
) -> None:
    await add_page(rows, "1", state="blocked")
    await add_page(rows, "2", connected=False, token=None)
    await add_page(rows, "3", state="degraded")

    await start_due(pools)

    assert {page_id for page_id, _ in await queued(rows)} == {"3"}


async def test_stores_that_look_at_the_same_time_queue_each_run_once(
    rows: Rows, pools: Pools, database_url: str
) -> None:
    for number in range(20):
        await add_page(rows, str(number))

    def work() -> "asyncio.Future[int]":
        return asyncio.ensure_future(
            in_transaction(pools.general, lambda each: schedule.start_due(each, INTERVAL))
        )

    await asyncio.gather(*(work() for _ in range(4)))
    await start_due(pools)

    found = await queued(rows)
    assert len(found) == len(set(found)) == 40


async def test_a_run_that_was_asked_for_meanwhile_leaves_none_to_be_queued(
    rows: Rows, pools: Pools
) -> None:
    await add_page(rows)
    run = {"run_id": "r1", "page_id": "1", "kind": "conversations", "origin": "request"}
    await rows.add("sync_run", run | {"mode": "full", "state": "queued"})

    async def as_found_before(connection: object) -> int:
        due = [("1", "conversations", None), ("1", "comments", None)]
        return await queue(connection, "schedule", due)  # type: ignore[arg-type]  # of SQLAlchemy

    assert await in_transaction(pools.upkeep, as_found_before) == 1


async def test_of_many_that_are_due_one_look_queues_some(
    rows: Rows, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "CHUNK", 3)
    await add_page(rows, "1")
    await add_page(rows, "2")

    assert [await start_due(pools) for _ in range(3)] == [3, 1, 0]
