"""Who waits for a conversation holds none that comes behind it, so that no two wait in a ring."""

import asyncio
from typing import Any

import psycopg
import pytest

from pagewire.store.v1.outbox_service_pb2 import VERDICT_ACCEPTED, AttemptOutcome
from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_MESSAGE_DELETED,
    EVENT_KIND_REACTION,
    EVENT_KIND_READ,
    ID_SPACE_MESSAGING,
    Event,
    MessageRef,
    ReactionDetail,
    ReadDetail,
)
from pagewire.type.v1.reply_pb2 import REPLY_KIND_MESSAGE, ReplyContent
from pagewire.type.v1.rule_pb2 import Action
from pagewire_store import outbox
from pagewire_store.connections import Driver
from pagewire_store.database import in_live_transaction
from pagewire_store.ingest import Ingestor
from tests.support.deliveries import (
    Database,
    about,
    at,
    database,
    delivery,
    ingestor,
    message,
    pools,
)
from tests.support.desk import (
    PAGE,
    PAUSE,
    Desk,
    candidate,
    comment,
    decided,
    desk,
    echo,
    matched,
)
from tests.support.desk import message as to_the_desk
from tests.support.servers import (
    database_url,
    migrated_template,
    module_database_url,
    postgres_server,
)

__all__ = [
    "database",
    "database_url",
    "desk",
    "ingestor",
    "migrated_template",
    "module_database_url",
    "pools",
    "postgres_server",
]


def of_the_first(kind: int, key: str, **detail: Any) -> Event:
    return about(kind, key, 50, person_id="1", lane="person:1", **detail)


QUIET = {
    "read": of_the_first(EVENT_KIND_READ, "read:1", read=ReadDetail(watermark=at(50))),
    "reaction": of_the_first(EVENT_KIND_REACTION, "reaction", reaction=ReactionDetail(mid="m_1")),
    "unsend": of_the_first(
        EVENT_KIND_MESSAGE_DELETED, "deleted:m_1", message_deleted=MessageRef(mid="m_1")
    ),
}


async def somebody_waits(database: Database) -> None:
    async with asyncio.timeout(30):
        while not await database.value("select count(*) from pg_locks where not granted"):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("event", QUIET.values(), ids=QUIET)
async def test_a_batch_locks_conversations_in_order_whatever_it_says_of_them(
    ingestor: Ingestor, database: Database, database_url: str, event: Event
) -> None:
    await ingestor.ingest([delivery(message("m_1", person="1"), message("m_2", person="2"))])

    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("select from conversation where participant_id = '1' for update")
        storing = asyncio.create_task(
            ingestor.ingest([delivery(message("m_3", 9, person="2"), event)])
        )
        await somebody_waits(database)
        found = await database.values(
            "select participant_id from conversation for update skip locked"
        )
    await storing

    assert found == ["2"]


async def test_outcomes_lock_conversations_in_order_whatever_their_platforms(
    desk: Desk, module_database_url: str
) -> None:
    later = "2002"
    await desk.rows.add_page(later, platform="instagram")
    for page in (PAGE, later):
        await desk.receive(to_the_desk(f"m_{page}", page_id=page))
        await desk.decide(matched())
    outcomes = [
        AttemptOutcome(tag=reply.tag, verdict=VERDICT_ACCEPTED, mid=f"sent_{reply.page_id}")
        for reply in await desk.claim_replies()
    ]

    async def record(raw: Driver) -> Any:
        return await outbox.record_outcomes(raw, outcomes, person_pause=PAUSE)

    async with await psycopg.AsyncConnection.connect(module_database_url) as other:
        await other.execute("select from conversation where page_id = %s for update", [PAGE])
        recording = asyncio.create_task(in_live_transaction(desk.pools.live, record))
        await a_lock_is_waited_for(desk)
        found = await other.execute("select page_id from conversation for update skip locked")
        free = {row[0] for row in await found.fetchall()}
    await recording

    assert later in free


@pytest.mark.parametrize("limit", [{"once_per_person": True}, {"per_day": 1}], ids=str)
async def test_a_commit_holds_no_mark_while_it_waits_for_one_that_comes_before(
    desk: Desk, module_database_url: str, limit: dict[str, Any]
) -> None:
    rule = candidate(**limit)
    for person in ("1", "2"):
        await desk.receive(to_the_desk(f"m_{person}", person=person))
        await desk.decide(matched(rule))
    await desk.rows.query("update mark set released = true")
    for person in ("1", "2"):
        said = comment(f"c_{person}", person_id=person, id_space=ID_SPACE_MESSAGING)
        await desk.receive(said)
    lanes = {lane.ref.lane: lane for lane in await desk.claim_lanes()}
    backwards = [decided(lanes[name], matched(rule)) for name in ("comment:c_2", "comment:c_1")]

    async with await psycopg.AsyncConnection.connect(module_database_url) as other:
        await other.execute("select from mark where mark_key like '%messaging:1%' for update")
        committing = asyncio.create_task(desk.commit(*backwards))
        await a_lock_is_waited_for(desk)
        found = await other.execute("select from mark for update skip locked")
        free = len(await found.fetchall())
    await committing

    assert free == 2


async def test_two_commits_of_the_same_two_people_both_succeed_without_waiting_in_a_ring(
    desk: Desk, module_database_url: str
) -> None:
    rule = candidate(once_per_person=True)
    for person in ("1", "2"):
        said = comment(f"c_{person}", person_id=person, id_space=ID_SPACE_MESSAGING)
        await desk.receive(to_the_desk(f"m_{person}", person=person), said)
    lanes = {lane.ref.lane: lane for lane in await desk.claim_lanes()}
    forwards = [decided(lanes[name], matched(rule)) for name in ("person:1", "person:2")]
    backwards = [decided(lanes[name], matched(rule)) for name in ("comment:c_2", "comment:c_1")]

    async with await psycopg.AsyncConnection.connect(module_database_url) as other:
        await other.execute(
            """
            insert into mark (page_id, mark_key, event_id, rule_id)
            values (%s, %s, 1, %s)
            """,
            [PAGE, f"once:{rule.rule_id}:messaging:1", rule.rule_id],
        )
        both = [asyncio.create_task(desk.commit(*lanes)) for lanes in (forwards, backwards)]
        await a_lock_is_waited_for(desk, times=2)
        marked = await desk.rows.query(
            "select from pg_locks where locktype = 'advisory' and granted"
        )
        await other.rollback()
    decisions = [
        decision.reason
        for response in await asyncio.gather(*both)
        for result in response.results
        for decision in result.decisions
    ]

    assert len(marked) == 2
    assert sorted(decisions) == ["fired", "fired", "once_per_person", "once_per_person"]


async def test_echoes_hold_no_reply_while_they_wait_for_one_that_comes_before(
    desk: Desk, module_database_url: str
) -> None:
    page = "2003"
    await desk.rows.add_page(page, platform="instagram")
    to_nobody_known = candidate(Action(private_reply=ReplyContent(text="10 euro")))
    for said, rule in (
        (comment("c_9", page_id=page, person_id="", id_space=0), to_nobody_known),
        (to_the_desk("m_9", page_id=page, person="9"), candidate()),
    ):
        await desk.receive(said)
        await desk.decide(matched(rule))
    tags = {reply.kind: reply.tag for reply in await desk.claim_replies()}
    ours = echo("m_ours", tag=tags[REPLY_KIND_MESSAGE], page_id=page, person="9")
    typed = echo("m_typed", page_id=page, person="10")

    async with await psycopg.AsyncConnection.connect(module_database_url) as other:
        of = "select reply_id from outbox where page_id = %s"
        await other.execute(f"{of} and kind = 'private_reply' for update".encode(), [page])
        storing = asyncio.create_task(desk.receive(ours, typed))
        await a_lock_is_waited_for(desk)
        found = await other.execute(f"{of} for update skip locked".encode(), [page])
        free = len(await found.fetchall())
    await storing

    assert free == 2


async def a_lock_is_waited_for(desk: Desk, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(await desk.rows.query("select from pg_locks where not granted")) < times:
            await asyncio.sleep(0.01)
