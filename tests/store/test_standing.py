import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pagewire.type.v1.event_pb2 import EVENT_KIND_MESSAGE, SOURCE_LIVE, TRIGGER_MESSAGE
from pagewire_runtime import metrics
from pagewire_runtime.errors import Unavailable
from pagewire_store import standing
from pagewire_store.database import Pools, open_pools
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def shown(gauge: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"pagewire_{gauge}", labels)


def by_state() -> dict[str, float | None]:
    return {s: shown("pages", state=s) for s in ("healthy", "expiring", "degraded", "blocked")}


async def ago(rows: Rows, seconds: float) -> datetime:
    """By the database's clock, which the ages are taken by."""
    now: datetime = (await rows.one("select now() as now")).now
    return now - timedelta(seconds=seconds)


async def add_lane(rows: Rows, lane: str, pending: int, since: datetime | None = None) -> None:
    await rows.add("lane", page_id="1", lane=lane, pending=pending, pending_since=since)


async def add_event(rows: Rows, number: int, state: str) -> None:
    row: dict[str, Any] = {
        "page_id": "1",
        "event_key": f"message:{number}",
        "event_id": number,
        "number": number,
        "lane": "person:anna",
        "kind": EVENT_KIND_MESSAGE,
        "trigger": TRIGGER_MESSAGE,
        "source": SOURCE_LIVE,
        "event_time": NOON,
        "received_at": NOON,
        "delivery_id": uuid.uuid4(),
        "state": state,
        "detail": b"",
    }
    await rows.add("event", row)


async def add_reply(
    rows: Rows, number: int, state: str, since: datetime | None = None, page_id: str = "1"
) -> None:
    """In a lane of its own: one reply of a lane is in flight."""
    row: dict[str, Any] = {
        "page_id": page_id,
        "reply_id": number,
        "lane": f"person:{number}",
        "ordinal": number,
        "kind": "message",
        "origin": "rule",
        "person_id": "anna",
        "state": state,
        "uncertain_at": since,
        "expires_at": NOON,
    }
    await rows.add("outbox", row)


async def quarantine(rows: Rows, replayed_at: datetime | None) -> None:
    delivery = uuid.uuid4()
    await rows.add(
        "delivery",
        delivery_id=delivery,
        received_at=NOON,
        signed_by="app",
        body=b"{broken",
        events=0,
        outcome="quarantined",
    )
    await rows.add(
        "quarantine",
        delivery_id=delivery,
        path="",
        reason="json_invalid",
        received_at=NOON,
        replayed_at=replayed_at,
    )


async def test_what_waits_to_be_decided_is_shown_with_the_age_of_its_oldest(
    rows: Rows, pools: Pools
) -> None:
    await add_lane(rows, "a", 2, await ago(rows, 90))
    await add_lane(rows, "b", 1, await ago(rows, 5))
    await add_lane(rows, "c", 0)

    await standing.show(pools.upkeep)

    oldest = shown("oldest_pending_seconds")
    assert shown("pending_events") == 3
    assert oldest is not None
    assert 90 <= oldest < 150


async def test_uncertain_replies_are_shown_with_the_age_of_the_oldest_and_no_others(
    rows: Rows, pools: Pools
) -> None:
    await rows.add_page("1")
    await rows.add_page("2", state="blocked")  # where nobody can look, its alarm is another
    await add_reply(rows, 1, "uncertain", await ago(rows, 200))
    await add_reply(rows, 2, "uncertain", await ago(rows, 10))
    await add_reply(rows, 5, "uncertain", await ago(rows, 4000), page_id="2")
    await add_reply(rows, 3, "parked", await ago(rows, 4000))
    await add_reply(rows, 4, "sent", await ago(rows, 4000))

    await standing.show(pools.upkeep)

    oldest = shown("oldest_uncertain_seconds")
    assert shown("uncertain_replies") == 2
    assert oldest is not None
    assert 200 <= oldest < 260


async def test_history_is_shown_by_how_far_behind_it_is_and_by_what_is_under_way(
    rows: Rows, pools: Pools
) -> None:
    for page_id, state in (("1", "healthy"), ("2", "degraded"), ("3", "blocked")):
        await rows.add_page(page_id, state=state)
    mirrors = [("1", "conversations", 100), ("2", "conversations", 3000), ("1", "comments", 50)]
    for page_id, kind, seconds in [*mirrors, ("3", "conversations", 9000)]:
        synced_at = await ago(rows, seconds)
        await rows.add("mirror", page_id=page_id, kind=kind, synced_at=synced_at, gap_from=None)
    await rows.query("update mirror set gap_from = now() where page_id in ('2', '3')")
    run = {"kind": "conversations", "mode": "full", "origin": "request"}
    states = ("running", "queued", "queued", "succeeded")
    for number, state in enumerate(states):
        await rows.add("sync_run", run | {"run_id": f"r{number}", "page_id": "1", "state": state})

    await standing.show(pools.upkeep)

    behind = [shown("oldest_synced_seconds", kind=kind) for kind in ("conversations", "comments")]
    assert None not in behind
    assert [round(seconds or 0, -3) for seconds in behind] == [3000, 0]
    assert shown("open_gaps") == 1
    of = {"kind": "conversations", "mode": "full"}
    assert shown("open_sync_runs", state="running", **of) == 1
    assert shown("open_sync_runs", state="queued", **of) == 2
    assert shown("open_sync_runs", kind="comments", mode="incremental", state="queued") == 0


async def test_what_waits_for_a_person_is_shown_by_what_it_is(rows: Rows, pools: Pools) -> None:
    for number, state in enumerate(("parked", "parked", "unknown_page", "done", "pending")):
        await add_event(rows, number, state)
    await add_reply(rows, 1, "parked")
    await add_reply(rows, 2, "failed")
    await quarantine(rows, None)
    await quarantine(rows, NOON)

    await standing.show(pools.upkeep)

    assert shown("parked", what="event") == 2
    assert shown("parked", what="reply") == 1
    assert shown("unknown_page_events") == 1
    assert shown("quarantined") == 1


async def test_connected_pages_are_shown_by_state_and_every_state_is_there(
    rows: Rows, pools: Pools
) -> None:
    await rows.add_page("1")
    await rows.add_page("2")
    await rows.add_page("3", state="blocked")
    await rows.add_page("4", state="blocked", connected=False, token=None)

    await standing.show(pools.upkeep)

    assert by_state() == {"healthy": 2, "expiring": 0, "degraded": 0, "blocked": 1}


async def test_what_has_gone_is_shown_as_gone(rows: Rows, pools: Pools) -> None:
    await rows.add_page("1", state="degraded")
    await add_lane(rows, "a", 2, await ago(rows, 90))
    await add_reply(rows, 1, "uncertain", await ago(rows, 200))
    await add_reply(rows, 2, "parked")
    await standing.show(pools.upkeep)
    for change in (
        "update lane set pending = 0, pending_since = null",
        "update outbox set state = 'sent'",
        "update page set state = 'healthy'",
    ):
        await rows.query(change)

    await standing.show(pools.upkeep)

    assert (shown("pending_events"), shown("oldest_pending_seconds")) == (0, 0)
    assert (shown("uncertain_replies"), shown("oldest_uncertain_seconds")) == (0, 0)
    assert shown("parked", what="reply") == 0
    assert by_state() == {"healthy": 1, "expiring": 0, "degraded": 0, "blocked": 0}


async def test_without_a_database_what_was_shown_stays(rows: Rows, pools: Pools) -> None:
    await add_lane(rows, "a", 7, await ago(rows, 1))
    await standing.show(pools.upkeep)
    away = open_pools("postgresql://nobody@/none?host=/nonexistent", 4)

    with pytest.raises(Unavailable):
        await standing.show(away.upkeep)

    await away.dispose()
    assert shown("pending_events") == 7
