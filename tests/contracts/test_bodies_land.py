"""What the edge reads from each of the sixty bodies, the store keeps: one test a body."""

import re
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.ingest_service_pb2 import DeliveryState
from pagewire.store.v1.operation_service_pb2 import Replay
from pagewire.type.v1.event_pb2 import EventKind, Source, Trigger
from pagewire_store import echoes, operations
from pagewire_store.database import Pools, in_transaction
from pagewire_store.ingest import Ingestor
from pagewire_store.waking import Waking
from pagewire_webhook.deliveries import delivery_of
from tests.support.bodies import (
    BODIES,
    EVENTS,
    HASH,
    IG,
    P2,
    PAYLOADS,
    RECEIVED_MS,
    UNREADABLE,
    Expected,
    P,
    as_meta_sends,
    read,
)
from tests.support.stored import Rows


@pytest.fixture
async def ingestor(pools: Pools, rows: Rows) -> AsyncIterator[Ingestor]:
    await rows.add_page(P)
    await rows.add_page(P2)
    await rows.add_page(IG, platform="instagram")
    pause = timedelta(minutes=60)
    made = Ingestor(
        pools.ingest,
        wake=lambda: None,
        outbox=Waking(""),
        bind_echoes=partial(echoes.bind, person_pause=pause),
        bind_comments=partial(echoes.bind_comments, person_pause=pause),
    )
    yield made
    await made.close()


def known(events: Sequence[Expected]) -> list[Expected]:
    """Those of pages that are connected here."""
    return [event for event in events if event.page_id in (P, P2, IG)]


def expected_state(event: Expected) -> str:
    if event.page_id not in (P, P2, IG):
        return "unknown_page"
    waits = event.trigger != "none" and event.source == "live"
    return "pending" if waits else "done"


def word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.name)
async def test_a_body_lands_in_the_store_as_it_was_read(
    ingestor: Ingestor,
    rows: Rows,
    path: Path,
) -> None:
    raw = as_meta_sends(path)
    expected = EVENTS[path.stem]

    [first] = await ingestor.ingest([read(raw, str(uuid.uuid4()))])
    [again] = await ingestor.ingest([read(raw, str(uuid.uuid4()))])

    assert {first.state, again.state} == {DeliveryState.DELIVERY_STATE_STORED}
    assert (first.new_events, again.new_events) == (len(expected), 0)
    assert await landed(rows) == [
        (
            event.kind,
            event.page_id,
            event.lane,
            "unspecified" if event.trigger == "none" else event.trigger,
            event.source,
            expected_state(event),
        )
        for event in expected
    ]
    for event, key in zip(expected, await keys(rows), strict=True):
        assert re.sub(r"\b[0-9a-f]{32}\b", HASH, key) == event.key or event.kind == "comment_hidden"
    await assert_projected(rows, known(expected))
    assert (await rows.one("select body from delivery order by received_at limit 1")).body == raw
    quarantined = await rows.query(
        "select reason, path from quarantine q join delivery using (delivery_id)"
        " where delivery_id = (select delivery_id from delivery order by stored_at limit 1)"
        " order by quarantine_id"
    )
    assert [tuple(row) for row in quarantined] == UNREADABLE.get(path.stem, [])


@pytest.mark.parametrize("name", ["malformed_wrong_types", "malformed_mixed_good_bad"])
async def test_a_body_in_quarantine_may_be_replayed_however_often(
    ingestor: Ingestor, pools: Pools, rows: Rows, name: str
) -> None:
    raw = as_meta_sends(PAYLOADS / f"{name}.json")
    await ingestor.ingest([read(raw, str(uuid.uuid4()))])
    before = await kept(rows)

    for _ in range(2):
        (replay,) = await asked_for_again(pools)
        again = delivery_of(
            replay.body,
            delivery_id=replay.delivery_id,
            received_ms=RECEIVED_MS,
            signed_by=replay.signed_by,
            replay_of=replay.quarantine_id,
        )
        await ingestor.ingest([again])

    assert await kept(rows) == before
    assert before.open == len(UNREADABLE[name])


async def asked_for_again(pools: Pools) -> list[Replay]:
    """All that is in quarantine, as an operator asks for it and the dispatcher is given it."""

    async def work(connection: AsyncConnection) -> list[Replay]:
        await operations.request_replays(connection, [])
        return await operations.claim_replays(connection, 10, timedelta(seconds=30))

    return await in_transaction(pools.general, work)


async def kept(rows: Rows) -> Any:
    return await rows.one(
        "select (select count(*) from delivery) as deliveries, (select count(*) from event)"
        " as events, count(*) as noted, count(*) filter (where replayed_at is null) as open"
        " from quarantine"
    )


async def landed(rows: Rows) -> list[tuple[Any, ...]]:
    found = await rows.query("select * from event order by number")
    return [
        (
            word(EventKind.Name(row.kind), "EVENT_KIND_"),
            row.page_id,
            row.lane,
            word(Trigger.Name(row.trigger), "TRIGGER_"),
            word(Source.Name(row.source), "SOURCE_"),
            row.state,
        )
        for row in found
    ]


async def keys(rows: Rows) -> list[str]:
    return [
        row.event_key for row in await rows.query("select event_key from event order by number")
    ]


async def assert_projected(rows: Rows, expected: Sequence[Expected]) -> None:
    """What people read of it: messages, comments, reactions, and decisions already made."""
    kinds = [event.kind for event in expected]
    mids = {
        event.key.split(":", 1)[1]
        for event in expected
        if event.kind in ("message", "echo", "postback") and HASH not in event.key
    }
    touched = {
        event.key.split(":")[1]
        for event in expected
        if event.kind in ("message_deleted", "message_edit")
    }
    messages = {row.mid for row in await rows.query("select mid from message")}
    assert mids <= messages <= mids | touched

    comments = {row.comment_id for row in await rows.query("select comment_id from comment")}
    assert len(comments) == sum(kind.startswith("comment") for kind in kinds)

    reactions = await rows.query("select target_id from reaction")
    targets = {e.key.split(":")[1] for e in expected if e.kind in ("reaction", "feed_reaction")}
    assert {row.target_id for row in reactions} == targets

    declined = await rows.query("select reason from decision order by event_id")
    standby = [event for event in expected if event.source == "standby"]
    assert [row.reason for row in declined] == ["standby"] * len(standby)
