"""What a page has to do while it is blocked waits, and goes on once the page is connected anew."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.outbox_service_pb2 import VERDICT_ACCEPTED, VERDICT_PAGE_BLOCKED
from pagewire.store.v1.page_care_service_pb2 import RecordPageCheckRequest
from pagewire.type.v1.page_pb2 import (
    PAGE_STATE_BLOCKED,
    PAGE_STATE_HEALTHY,
    PLATFORM_MESSENGER,
    Page,
)
from pagewire_store import page_care, pages, schedule
from pagewire_store.database import in_transaction
from tests.support.desk import PAGE, Desk, desk, matched, message
from tests.support.servers import migrated_template, module_database_url, postgres_server
from tests.support.stored import KEYS

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

QUARTER = timedelta(minutes=15)


async def check(desk: Desk, state: Any, reason: str = "", version: int = 1) -> None:
    """A check of the page found it so."""
    found = RecordPageCheckRequest(
        page_id=PAGE,
        state=state,
        state_reason=reason,
        token_version=version,
        next_check_time=Timestamp(seconds=4_000_000_000),
    )
    await in_transaction(desk.pools.general, lambda c: page_care.record_check(c, found))


async def connect_again(desk: Desk, token: str = "EAAanew") -> None:
    page = Page(page_id=PAGE, platform=PLATFORM_MESSENGER, name="Page")
    await in_transaction(desk.pools.general, lambda c: pages.connect(c, KEYS, page, token))


async def answered(desk: Desk, *mids: str) -> None:
    """Each person writes and is to be answered."""
    for mid in mids:
        await desk.receive(message(mid, person=f"2{mid}"))
        await desk.decide(matched())


async def test_replies_wait_while_a_check_has_found_the_page_blocked(desk: Desk) -> None:
    await answered(desk, "m_1", "m_2")

    await check(desk, PAGE_STATE_BLOCKED, "token_expired")
    waiting = await desk.claim_replies()
    await connect_again(desk)
    going = await desk.claim_replies()

    assert waiting == []
    assert [reply.token_version for reply in going] == [2, 2]


async def test_what_comes_in_meanwhile_is_decided_and_sent_afterwards(desk: Desk) -> None:
    await check(desk, PAGE_STATE_BLOCKED, "password_changed")

    await answered(desk, "m_1")
    waiting = await desk.claim_replies()
    await check(desk, PAGE_STATE_HEALTHY)
    (reply,) = await desk.claim_replies()

    assert waiting == []
    assert await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_sent") == "sent"


async def test_a_reply_that_met_the_dead_token_is_sent_with_the_new_one(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_PAGE_BLOCKED, reason="graph_190_463")

    await connect_again(desk)
    (again,) = await desk.claim_replies()

    assert (again.reply_id, again.token_version) == (reply.reply_id, 2)
    assert not again.after_uncertain


async def test_a_check_that_saw_the_dead_token_does_not_block_the_new_one(desk: Desk) -> None:
    await answered(desk, "m_1")
    await connect_again(desk)

    await check(desk, PAGE_STATE_BLOCKED, "token_expired", version=1)

    assert len(await desk.claim_replies()) == 1


@pytest.mark.parametrize("back", ["connected", "mended"])
async def test_history_stands_still_while_the_page_is_blocked_and_goes_on_by_schedule(
    desk: Desk, back: str
) -> None:
    await desk.rows.query("delete from sync_run")
    await desk.rows.query("delete from mirror")
    await desk.rows.query("update page set connected_at = now() - interval '1 day'")
    await check(desk, PAGE_STATE_BLOCKED, "token_expired")
    start_due = partial(schedule.start_due, interval=QUARTER)

    meanwhile = await in_transaction(desk.pools.upkeep, start_due)
    await (connect_again(desk) if back == "connected" else check(desk, PAGE_STATE_HEALTHY))
    afterwards = await in_transaction(desk.pools.upkeep, start_due)

    assert (meanwhile, afterwards) == (0, 2)
