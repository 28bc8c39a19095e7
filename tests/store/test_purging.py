import uuid
from datetime import timedelta
from typing import Any

import pytest

from pagewire_store import purging
from pagewire_store.database import Pools
from pagewire_store.purging import Retention, purge
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

USUAL = Retention(
    deliveries=timedelta(days=7),
    quarantine=timedelta(days=30),
    attempts=timedelta(days=30),
    runs=timedelta(days=30),
)


class Kept:
    """Deliveries and attempts of some age in days."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def delivery(self, age: float, quarantined: str = "", replayed: bool = False) -> None:
        now = (await self._rows.one("select now() as now")).now
        received_at = now - timedelta(days=age)
        delivery: dict[str, Any] = {
            "delivery_id": uuid.uuid4(),
            "received_at": received_at,
            "signed_by": "app",
            "body": b"{}",
            "events": 1,
            "outcome": "parsed",
        }
        await self._rows.add("delivery", delivery)
        if quarantined:
            await self._rows.add(
                "quarantine",
                delivery_id=delivery["delivery_id"],
                path=quarantined,
                reason="json_invalid",
                received_at=received_at,
                replayed_at=now if replayed else None,
            )

    async def attempt(self, age: float, tag: str) -> None:
        now = (await self._rows.one("select now() as now")).now
        await self._rows.add(
            "attempt",
            page_id="1",
            tag=tag,
            reply_id=1,
            number=1,
            token_version=1,
            started_at=now - timedelta(days=age),
        )

    async def ages(self) -> list[int]:
        found = await self._rows.query(
            "select round(extract(epoch from now() - received_at) / 86400)::int as age"
            " from delivery order by age"
        )
        return [row.age for row in found]


@pytest.fixture
def kept(rows: Rows) -> Kept:
    return Kept(rows)


async def test_bodies_go_after_seven_days_and_unread_ones_after_thirty(
    pools: Pools, kept: Kept, rows: Rows
) -> None:
    for age in (1, 6, 8, 40):
        await kept.delivery(age)
    await kept.delivery(9, quarantined="a")
    await kept.delivery(31, quarantined="b")
    await kept.delivery(10, quarantined="c", replayed=True)

    gone = await purge(pools.upkeep, USUAL)

    assert gone == 4
    assert await kept.ages() == [1, 6, 9]
    assert [row.path for row in await rows.query("select path from quarantine")] == ["a"]


async def test_attempts_go_after_thirty_days(pools: Pools, kept: Kept, rows: Rows) -> None:
    await kept.attempt(29, "pw1.new")
    await kept.attempt(31, "pw1.old")

    assert await purge(pools.upkeep, USUAL) == 1
    assert [row.tag for row in await rows.query("select tag from attempt")] == ["pw1.new"]


async def test_runs_go_thirty_days_after_their_end(pools: Pools, rows: Rows) -> None:
    now = (await rows.one("select now() as now")).now
    run = {"page_id": "1", "kind": "comments", "mode": "full", "origin": "request"}
    old = run | {"created_at": now - timedelta(days=40)}
    for days in (29, 31):
        ended = {"state": "failed", "finished_at": now - timedelta(days=days)}
        await rows.add("sync_run", old | ended | {"run_id": f"ended {days} days ago"})
    await rows.add("sync_run", old | {"run_id": "going on", "state": "running"})

    assert await purge(pools.upkeep, USUAL) == 1
    left = await rows.query("select run_id from sync_run order by run_id")
    assert [row.run_id for row in left] == ["ended 29 days ago", "going on"]


async def test_what_is_to_be_purged_goes_chunk_by_chunk(
    pools: Pools, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "CHUNK", 3)
    monkeypatch.setattr(purging, "PAUSE", 0)
    for _ in range(7):
        await kept.delivery(8)

    assert await purge(pools.upkeep, USUAL) == 7
    assert await kept.ages() == []


async def test_the_events_of_a_purged_body_stay(pools: Pools, kept: Kept, rows: Rows) -> None:
    await kept.delivery(8)
    await rows.query(
        """
        insert into event (page_id, event_key, event_id, number, lane, kind, trigger, source,
            event_time, received_at, delivery_id, state, detail)
        select '1', 'message:m1', 1, 1, 'page', 1, 1, 1, now(), now(), delivery_id, 'done', ''
        from delivery
        """
    )

    await purge(pools.upkeep, USUAL)

    assert len(await rows.query("select 1 from event")) == 1
