import asyncio
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest

from pagewire.type.v1.event_pb2 import SOURCE_STANDBY, Event
from pagewire_store.connections import Driver
from pagewire_store.database import Pools
from pagewire_store.echoes import Bound
from pagewire_store.ingest import Ingestor
from pagewire_store.trips import Said
from pagewire_store.unknown_pages import CHUNK, UnknownPages
from pagewire_store.waking import Waking
from tests.support.deliveries import (
    OTHER_PAGE,
    Binder,
    Database,
    comment,
    database,
    delivery,
    echo,
    ingestor,
    message,
    pools,
)
from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database", "database_url", "ingestor", "migrated_template", "pools", "postgres_server"]


def sweep(
    pools: Pools,
    echoes: Binder | None = None,
    *,
    comments: Binder | None = None,
    outbox: Waking | None = None,
) -> UnknownPages:
    return UnknownPages(
        pools.upkeep,
        outbox=outbox or Waking(""),
        bind_echoes=echoes or Binder(),
        bind_comments=comments or Binder(),
    )


async def test_what_came_before_the_page_was_connected_is_read_in_without_rules(
    ingestor: Ingestor, pools: Pools, database: Database
) -> None:
    await ingestor.ingest([delivery(message(page_id=OTHER_PAGE, text="early"))])
    await ingestor.ingest(
        [delivery(comment(page_id=OTHER_PAGE), echo("m_2", 5, page_id=OTHER_PAGE))]
    )
    early = await sweep(pools).read_in()
    await database.connect_page(OTHER_PAGE)

    read = await sweep(pools, echoes := Binder()).read_in()

    assert (early, read) == (0, 3)
    assert await database.rows("select state, count(*) from event group by 1") == [("done", 3)]
    assert await database.values("select mid from message order by mid") == ["m_1", "m_2"]
    assert await database.values("select comment_id from comment") == ["c_1"]
    assert await database.values("select snippet from conversation") == ["we answer"]
    assert await database.values("select sum(pending) from lane") == [0]
    assert [event.key for event in echoes.events] == ["echo:m_2"]
    assert (
        await database.rows("select outcome, reason from decision")
        == [("declined", "page_unknown")] * 2
    )


async def test_an_event_that_was_read_in_is_known_when_it_comes_again(
    ingestor: Ingestor, pools: Pools, database: Database
) -> None:
    await ingestor.ingest([delivery(message(page_id=OTHER_PAGE))])
    await database.connect_page(OTHER_PAGE)
    await sweep(pools).read_in()

    (result,) = await ingestor.ingest([delivery(message(page_id=OTHER_PAGE))])

    assert (result.new_events, result.known_events) == (0, 1)
    assert await database.values("select state from event") == ["done"]


async def test_an_overheard_event_that_was_read_in_still_becomes_pending_when_it_comes_live(
    ingestor: Ingestor, pools: Pools, database: Database
) -> None:
    await ingestor.ingest([delivery(message(page_id=OTHER_PAGE, source=SOURCE_STANDBY))])
    await database.connect_page(OTHER_PAGE)
    await sweep(pools).read_in()

    await ingestor.ingest([delivery(message(page_id=OTHER_PAGE))])

    assert await database.values("select state from event") == ["pending"]
    assert await database.value("select count(*) from decision") == 0


async def test_two_sweeps_at_once_read_each_event_in_once(
    ingestor: Ingestor, pools: Pools, database: Database
) -> None:
    many = CHUNK + 50
    await ingestor.ingest(
        [delivery(*(message(f"m_{n}", page_id=OTHER_PAGE, person=f"{n}") for n in range(many)))]
    )
    await database.connect_page(OTHER_PAGE)

    first, second = (
        sweep(pools),
        UnknownPages(
            pools.general, outbox=Waking(""), bind_echoes=Binder(), bind_comments=Binder()
        ),
    )
    read = 0
    while await database.value("select count(*) from event where state = 'unknown_page'"):
        read += sum(await asyncio.gather(first.read_in(), second.read_in()))

    assert read == many
    assert await database.value("select sum(unread_count) from conversation") == many


class Freeing(Binder):
    """Finds a reply of ours in what it binds, which frees its lane."""

    async def __call__(
        self, connection: Driver, events: Sequence[Event], *, first: Sequence[Said]
    ) -> Bound:
        bound = await super().__call__(connection, events, first=first)
        return replace(bound, freed=True)


@pytest.mark.parametrize(
    ("echoes", "comments", "woken"),
    [(Freeing(), Binder(), 1), (Binder(), Freeing(), 1), (Binder(), Binder(), 0)],
    ids=["an echo", "a comment", "neither"],
)
async def test_who_waits_to_send_is_woken_where_what_was_read_in_frees_a_lane(
    ingestor: Ingestor,
    pools: Pools,
    database: Database,
    echoes: Binder,
    comments: Binder,
    woken: int,
) -> None:
    own = comment("c_2", page_id=OTHER_PAGE, is_own=True)
    await ingestor.ingest([delivery(own, echo("m_2", 5, page_id=OTHER_PAGE))])
    await database.connect_page(OTHER_PAGE)
    outbox = Waking("")

    await sweep(pools, echoes, comments=comments, outbox=outbox).read_in()

    assert outbox.count == woken


async def test_a_held_lane_is_left_for_the_next_sweep(
    ingestor: Ingestor, pools: Pools, database: Database, database_url: str
) -> None:
    await ingestor.ingest([delivery(message("m_1", page_id=OTHER_PAGE, person="1"))])
    await ingestor.ingest([delivery(message("m_2", page_id=OTHER_PAGE, person="2"))])
    await database.connect_page(OTHER_PAGE)

    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("select from lane where lane = 'person:1' for update")
        while_held = await sweep(pools).read_in()
    afterwards = await sweep(pools).read_in()

    assert (while_held, afterwards) == (1, 1)


async def test_an_overheard_event_that_comes_live_before_it_is_read_in_is_pending_and_shown(
    ingestor: Ingestor, pools: Pools, database: Database
) -> None:
    await ingestor.ingest([delivery(message(page_id=OTHER_PAGE, source=SOURCE_STANDBY))])
    await database.connect_page(OTHER_PAGE)

    await ingestor.ingest([delivery(message(page_id=OTHER_PAGE))])
    await sweep(pools).read_in()

    assert await database.values("select state from event") == ["pending"]
    assert await database.values("select pending from lane") == [1]
    assert await database.values("select text from message") == ["hello"]
    assert await database.value("select count(*) from decision") == 0
