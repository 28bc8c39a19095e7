"""Whom Graph tells no name of: asked for a day later, not sooner and not never."""

from datetime import timedelta

import pytest

from pagewire.store.v1.mirror_service_pb2 import PersonName
from pagewire_store import nameless
from pagewire_store.database import Pools, in_transaction
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]


@pytest.fixture
async def person(rows: Rows) -> str:
    """Somebody who wrote to page 1."""
    await rows.add_page("1")
    await rows.query(
        "insert into conversation (page_id, participant_id, last_inbound_at, updated_at)"
        " values ('1', '7', now(), now())"
    )
    await rows.query("insert into lane (page_id, lane) values ('1', 'person:7')")
    return "7"


async def handed_out(pools: Pools) -> list[str]:
    people = await in_transaction(pools.general, lambda c: nameless.hand_out(c, 10))
    return [each.participant_id for each in people]


async def told(pools: Pools, person: str, name: str) -> None:
    names = [PersonName(page_id="1", participant_id=person, name=name)]
    await in_transaction(pools.general, lambda c: nameless.record(c, names))


async def later(rows: Rows, **time: float) -> None:
    await rows.query(
        "update conversation set name_asked_at = name_asked_at - :by", by=timedelta(**time)
    )


async def test_who_has_no_name_for_us_is_asked_for_a_day_later(
    rows: Rows, pools: Pools, person: str
) -> None:
    await handed_out(pools)
    await told(pools, person, "")

    await later(rows, hours=23.5)
    within_the_day = await handed_out(pools)
    await later(rows, hours=0.6)

    assert within_the_day == []
    assert await handed_out(pools) == [person]
    assert (await rows.one("select participant_name from conversation")).participant_name is None


async def test_who_was_put_off_is_asked_for_an_hour_later(
    rows: Rows, pools: Pools, person: str
) -> None:
    await handed_out(pools)

    at_once = await handed_out(pools)
    await later(rows, hours=1.1)

    assert at_once == []
    assert await handed_out(pools) == [person]


async def test_a_name_that_a_webhook_told_meanwhile_stays(
    rows: Rows, pools: Pools, person: str
) -> None:
    await handed_out(pools)
    await rows.query("update conversation set participant_name = 'Anna Berg'")

    await told(pools, person, "")

    row = await rows.one(
        "select participant_name, name_asked_at < now() as asked from conversation"
    )
    assert tuple(row) == ("Anna Berg", True)


async def test_who_is_named_is_asked_for_no_more(rows: Rows, pools: Pools, person: str) -> None:
    await handed_out(pools)

    await told(pools, person, "Anna Berg")

    await later(rows, days=30)
    assert await handed_out(pools) == []
    assert (await rows.one("select participant_name as name from conversation")).name == "Anna Berg"
