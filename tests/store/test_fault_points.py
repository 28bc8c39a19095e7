import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from pagewire.store.v1.lane_service_pb2 import ExtendLeasesRequest
from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    AttemptOutcome,
    ClaimRepliesRequest,
    RecordOutcomesRequest,
)
from pagewire_runtime import faults
from pagewire_runtime.errors import Refusal
from pagewire_store.outbox_servicer import OutboxServicer
from pagewire_store.waking import Waking
from tests.support.desk import PAUSE, Desk, candidate, decided, desk, matched, message
from tests.support.servers import (
    migrated_template,
    module_database_url,
    postgres_server,
)

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

STORE = [point for point in faults.POINTS if point.startswith("store.")]
NO_CONTEXT = cast("Any", None)
FEW_STATEMENTS = 30


@pytest.fixture(autouse=True)
def unarmed_afterwards() -> Iterator[None]:
    yield
    faults.arm()


@pytest.fixture
def struck(tmp_path: Path) -> Callable[[], set[str]]:
    """The points at which a rule struck that does so once."""
    file = tmp_path / "faults.struck"

    def points() -> set[str]:
        lines = file.read_text().splitlines() if file.exists() else []
        return {line.split()[1].partition("=")[0] for line in lines}

    return points


def outbox(desk: Desk) -> OutboxServicer:
    return OutboxServicer(
        desk.pools.live,
        Waking(""),
        Waking(""),
        lease=timedelta(seconds=15),
        person_pause=PAUSE,
    )


async def answered(desk: Desk, mid: str) -> None:
    """An event comes, is decided, answered, and its reply is sent."""
    await desk.receive(message(mid))
    (lane,) = await desk.claim_lanes()
    await desk._claims.extend(ExtendLeasesRequest(lanes=[lane.ref]))
    await desk.commit(decided(lane, matched(candidate())))
    await sent(desk)


async def sent(desk: Desk) -> None:
    servicer = outbox(desk)
    claimed = await servicer.ClaimReplies(
        ClaimRepliesRequest(owner="s", max_replies=10), NO_CONTEXT
    )
    outcomes = [
        AttemptOutcome(tag=reply.tag, verdict=VERDICT_ACCEPTED, mid=f"sent_{reply.reply_id}")
        for reply in claimed.replies
    ]
    await servicer.RecordOutcomes(RecordOutcomesRequest(outcomes=outcomes), NO_CONTEXT)


async def test_every_point_of_the_store_is_reached_on_the_way_of_an_answer_and_of_a_takeover(
    desk: Desk, tmp_path: Path, struck: Callable[[], set[str]]
) -> None:
    points = [point.replace("stmtN", "stmt2") for point in STORE]
    faults.arm("; ".join(f"{point}=block:0s once" for point in points), tmp_path / "faults")

    await answered(desk, "m_1")
    await desk.receive(message("m_2"))
    await desk.claim_lanes()
    await desk.rows.query("update lane set lease_until = now(), lease_owner = 'who died'")
    await desk.claim_lanes()

    assert struck() == set(points)
    row = await desk.rows.one("select state from outbox")
    assert row.state == "sent"


async def test_a_point_knows_the_event_the_page_the_lane_and_the_attempt_it_is_about(
    desk: Desk, tmp_path: Path, struck: Callable[[], set[str]]
) -> None:
    named = {
        "store.ingest.begun": "message:m_2",
        "store.ingest.before_commit": "1001",
        "store.ingest.after_commit": "person:2001",
        "store.claim.leased": "person:2001",
        "store.decide.begun": "person:2001",
        "store.decide.before_commit": "1001",
        "store.outbox.claimed": "1001",
    }
    rules = "; ".join(f"{point}=sleep:0s once if:{key}" for point, key in named.items())
    faults.arm(rules, tmp_path / "faults")
    await desk.receive(message("m_1", person="2009"))
    before = struck()
    await desk.receive(message("m_2"))
    for lane in await desk.claim_lanes():
        await desk.commit(decided(lane, matched(candidate())))
    await sent(desk)

    assert before == {"store.ingest.before_commit"}
    assert struck() == set(named)


@pytest.mark.parametrize("part", ["store.ingest", "store.decide"])
async def test_a_failure_at_any_statement_leaves_all_or_nothing_and_a_repeat_mends_it(
    desk: Desk, tmp_path: Path, struck: Callable[[], set[str]], part: str
) -> None:
    file = tmp_path / "faults"
    point = ""
    for number in range(1, FEW_STATEMENTS):
        point, mid = f"{part}.stmt{number}", f"m_{number}"
        file.write_text(f"{point}=raise:ABORTED once")
        faults.arm("", file)
        while True:
            try:
                await desk.receive(message(mid))
                lanes = await desk.claim_lanes()
                for lane in lanes:
                    await desk.commit(decided(lane, matched(candidate())))
            except Refusal:
                await desk.rows.query("update lane set lease_until = null, lease_owner = null")
                assert await halves(desk) == []
                continue
            break
        if point not in struck():
            break
        assert await halves(desk) == []
        decisions = await desk.rows.one("select count(*) as n from decision")
        replies = await desk.rows.one("select count(*) as n from outbox")
        assert (decisions.n, replies.n) == (number, number)

    assert 5 < number < FEW_STATEMENTS  # all of its statements, and there were some


async def halves(desk: Desk) -> list[Any]:
    """What stands without what must stand beside it."""
    return await desk.rows.query(
        """
        select 'no body' from event e left join delivery d using (delivery_id)
        where d.delivery_id is null
        union all select 'no count' from (
            select page_id, lane, count(*) as n from event where state = 'pending' group by 1, 2) p
        join lane l using (page_id, lane) where l.pending <> p.n
        union all select 'no decision' from event e left join decision d using (page_id, event_id)
        where e.state = 'done' and e.trigger <> 0 and d.event_id is null
        union all select 'decided and pending'
        from event e join decision d using (page_id, event_id) where e.state = 'pending'
        union all select 'no reply' from fired_rule f left join outbox o
            on o.page_id = f.page_id and o.event_id = f.event_id
        where o.reply_id is null
        """
    )


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_conflict_is_mended_by_the_store_itself(
    desk: Desk, tmp_path: Path, struck: Callable[[], set[str]], state: str
) -> None:
    points = ["store.ingest.begun", "store.decide.before_commit", "store.settle.begun"]
    faults.arm("; ".join(f"{point}=raise:{state} once" for point in points), tmp_path / "faults")

    await answered(desk, "m_1")

    assert struck() == set(points)
    assert (await desk.rows.one("select count(*) as n from event")).n == 1


async def test_statements_before_the_one_that_is_struck_are_with_the_server(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a lane that is there: a look, BEGIN, the locks, and then what is known by now."""
    await desk.receive(message("m_1"))
    seen: list[int] = []
    blocked, looked = threading.Event(), threading.Event()
    url = desk.pools.live._url

    def block(_: float) -> None:
        blocked.set()
        looked.wait(20)

    monkeypatch.setattr(faults, "time", SimpleNamespace(sleep=block))

    def look_on() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            blocked.wait(20)
            until = time.monotonic() + 20
            while not seen and time.monotonic() < until:
                found = connection.execute(
                    "select count(*) from pg_locks l join pg_class c on c.oid = l.relation"
                    " where c.relname = 'lane' and l.mode = 'RowShareLock' and l.granted"
                    " and l.database = (select oid from pg_database"
                    " where datname = current_database())"
                ).fetchone()
                if found and found[0]:
                    seen.append(found[0])
                time.sleep(0.01)
        looked.set()

    looking = asyncio.create_task(asyncio.to_thread(look_on))
    with faults.armed("store.ingest.stmt4=block:1s"):
        await desk.receive(message("m_2"))
    await looking

    assert seen == [1]


async def test_a_claim_that_is_lost_on_its_way_back_leaves_the_lane_to_the_lease(
    desk: Desk,
) -> None:
    await desk.receive(message("m_1"))
    with faults.armed("store.claim.leased=raise:UNAVAILABLE"), pytest.raises(Refusal):
        await desk.claim_lanes()
    meanwhile = await desk.claim_lanes()
    await desk.rows.query("update lane set lease_until = now()")

    assert meanwhile == []
    assert len(await desk.claim_lanes()) == 1


async def test_a_store_without_rules_is_the_same_code_without_a_walk(desk: Desk) -> None:
    await answered(desk, "m_1")

    assert faults._walk.get() is None
    assert (await desk.rows.one("select state from outbox")).state == "sent"
