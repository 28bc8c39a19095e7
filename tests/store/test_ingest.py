import asyncio
import contextlib
import random
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pagewire.store.v1.ingest_service_pb2 import (
    DELIVERY_STATE_BUSY,
    DELIVERY_STATE_REFUSED,
    DELIVERY_STATE_STORED,
    Delivery,
    DeliveryResult,
    Unreadable,
)
from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_APP_ROLES,
    EVENT_KIND_COMMENT_HIDDEN,
    EVENT_KIND_POSTBACK,
    SOURCE_LIVE,
    SOURCE_RECOVERED,
    SOURCE_STANDBY,
    TRIGGER_POSTBACK,
    CommentDetail,
    Event,
    PostbackDetail,
    Source,
)
from pagewire_runtime import faults
from pagewire_runtime.errors import InvalidArgument, Unavailable
from pagewire_store.connections import Driver
from pagewire_store.database import Pools, open_pools
from pagewire_store.echoes import Bound
from pagewire_store.ingest import Ingestor
from pagewire_store.trips import Said, trip
from tests.support.deliveries import (
    OTHER_PAGE,
    PAGE,
    PERSON,
    Binder,
    Database,
    Nudges,
    about,
    at,
    comment,
    database,
    delivery,
    echo,
    ingestor,
    make_ingestor,
    message,
    pools,
)
from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database", "database_url", "ingestor", "migrated_template", "pools", "postgres_server"]

COUNTS = """
    select (select count(*) from event), (select count(*) from message),
        (select count(*) from conversation), (select coalesce(sum(pending), 0) from lane)
"""


async def counts(database: Database) -> tuple[int, ...]:
    """Events, messages, conversations, pending."""
    (row,) = await database.rows(COUNTS)
    return tuple(row)


async def store(ingestor: Ingestor, *deliveries: Delivery) -> list[DeliveryResult]:
    results = await ingestor.ingest(deliveries)
    assert [result.state for result in results] == [DELIVERY_STATE_STORED] * len(deliveries)
    return results


async def test_a_message_is_stored_whole(ingestor: Ingestor, database: Database) -> None:
    (result,) = await store(ingestor, delivery(message(), body=b'{"as":"it came"}'))

    assert (result.new_events, result.known_events) == (1, 0)
    assert await database.rows("select body, events, outcome, signed_by from delivery") == [
        (b'{"as":"it came"}', 1, "parsed", "app")
    ]
    ((state, lane, number, event_id, detail),) = await database.rows(
        "select state, lane, number, event_id, detail from event"
    )
    assert (state, lane, number) == ("pending", f"person:{PERSON}", event_id)
    assert Event.FromString(detail) == message()
    ((lane, pending, since),) = await database.rows("select lane, pending, pending_since from lane")
    assert (lane, pending) == (f"person:{PERSON}", 1)
    assert since is not None
    assert await database.rows("select mid, direction, kind, text from message") == [
        ("m_1", "inbound", "message", "hello")
    ]
    assert await database.rows(
        "select participant_id, snippet, unread_count from conversation"
    ) == [(PERSON, "hello", 1)]


async def test_an_event_is_stored_once_in_one_body(ingestor: Ingestor, database: Database) -> None:
    (result,) = await store(ingestor, delivery(message(), message()))

    assert result.new_events == 1
    assert await counts(database) == (1, 1, 1, 1)


async def test_an_event_is_stored_once_across_bodies_of_one_call(
    ingestor: Ingestor, database: Database
) -> None:
    first, second = await store(ingestor, delivery(message()), delivery(message()))

    assert (first.new_events, second.new_events, second.known_events) == (1, 0, 1)
    assert await counts(database) == (1, 1, 1, 1)


async def test_an_event_is_stored_once_in_parallel_by_two_stores(
    pools: Pools, database: Database, database_url: str
) -> None:
    others = open_pools(database_url, 13)
    stores = [make_ingestor(pools, patience=10), make_ingestor(others, patience=10)]
    events = [message(f"m_{number}", person=f"{number % 3}") for number in range(10)]

    async def send(number: int) -> list[DeliveryResult]:
        mine = random.Random(number).sample(events, 4)
        return await stores[number % 2].ingest([delivery(*mine)])

    results = await asyncio.gather(*(send(number) for number in range(60)))
    await others.dispose()

    assert {result.state for (result,) in results} == {DELIVERY_STATE_STORED}
    assert sum(result.new_events for (result,) in results) == 10
    assert await counts(database) == (10, 10, 3, 10)


async def test_an_event_that_comes_again_after_a_day_is_known(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message()))
    await database.rows(
        "update event set stored_at = stored_at - %s, received_at = received_at - %s",
        timedelta(days=1),
        timedelta(days=1),
    )
    await database.rows("delete from delivery")

    (result,) = await store(ingestor, delivery(message()))

    assert (result.new_events, result.known_events) == (0, 1)
    assert await counts(database) == (1, 1, 1, 1)


async def test_a_pure_repeat_stores_nothing_not_even_its_body(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message(), comment()))
    before = await database.value("select pg_current_wal_insert_lsn()")

    (result,) = await store(ingestor, delivery(comment(), message()))

    assert result.known_events == 2
    assert await database.value("select count(*) from delivery") == 1
    assert await database.value("select pg_current_wal_insert_lsn()") == before


async def test_a_pure_repeat_is_answered_though_its_lane_is_held(
    ingestor: Ingestor, database: Database, database_url: str
) -> None:
    await store(ingestor, delivery(message()))

    async with holding(database_url, PAGE, f"person:{PERSON}"):
        (result,) = await ingestor.ingest([delivery(message())])

    assert result.state == DELIVERY_STATE_STORED


async def test_mids_that_differ_in_case_are_two_messages(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message("m_a"), message("m_A")))

    assert await counts(database) == (2, 2, 1, 2)


async def test_one_mid_on_two_pages_is_two_messages(ingestor: Ingestor, database: Database) -> None:
    await database.connect_page(OTHER_PAGE)

    await store(ingestor, delivery(message(), message(page_id=OTHER_PAGE)))

    assert await counts(database) == (2, 2, 2, 2)


async def test_a_delivery_of_a_thousand_events_is_stored_whole(
    ingestor: Ingestor, database: Database
) -> None:
    events = [message(f"m_{number}", person=f"{number % 40}") for number in range(1000)]

    (result,) = await store(ingestor, delivery(*events))

    assert result.new_events == 1000
    assert await counts(database) == (1000, 1000, 40, 1000)
    keys = await database.values("select event_key from event order by number")
    assert keys == [event.key for event in events]


async def test_a_repeated_call_with_the_same_delivery_changes_nothing(
    ingestor: Ingestor, database: Database
) -> None:
    same = delivery(message(), unreadable=[Unreadable(reason="id_malformed", path="entry[1]")])
    await store(ingestor, same)

    await store(ingestor, same)

    assert await counts(database) == (1, 1, 1, 1)
    assert await database.value("select count(*) from delivery") == 1
    assert await database.value("select count(*) from quarantine") == 1


async def test_numbers_are_in_the_order_in_which_events_become_visible(
    pools: Pools, database: Database, database_url: str
) -> None:
    """Writers that dawdle before they commit never let a lower number appear after a higher one."""
    others = open_pools(database_url, 13)
    dawdler = random.Random(1)

    async def dawdle(connection: Driver, events: Any, *, first: Sequence[Said]) -> Bound:
        await trip(connection, *first)
        await asyncio.sleep(dawdler.uniform(0, 0.01))
        return Bound([], freed=False)

    stores = [make_ingestor(some, patience=20, bind_echoes=dawdle) for some in (pools, others)]

    async def write(writer: int) -> None:
        for number in range(12):
            await store(stores[writer % 2], delivery(echo(f"m_{writer}_{number}")))

    seen: list[int] = []
    writers = asyncio.gather(*(write(writer) for writer in range(6)))
    while not writers.done():
        seen += await database.values(
            "select number from event where number <> all(%s) order by number", seen
        )
        await asyncio.sleep(0)
    await writers
    await others.dispose()

    assert len(seen) >= 10
    assert seen == sorted(seen)


async def test_a_standby_event_is_done_at_once_and_says_why(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message(source=SOURCE_STANDBY)))

    assert await database.values("select state from event") == ["done"]
    assert await database.rows("select outcome, reason from decision") == [("declined", "standby")]
    assert await counts(database) == (1, 1, 1, 0)


@pytest.mark.parametrize("one_batch", [True, False])
async def test_standby_then_live_becomes_pending_once_under_a_new_number(
    pools: Pools, database: Database, one_batch: bool
) -> None:
    ingestor = make_ingestor(pools, wake=(nudges := Nudges()))
    standby, live = delivery(message(source=SOURCE_STANDBY)), delivery(message())

    if one_batch:
        await store(ingestor, standby, live)
    else:
        await store(ingestor, standby)
        await store(ingestor, delivery(echo("m_between")))
        (result,) = await store(ingestor, live)
        assert result.new_events == 1
        numbers = await database.values("select number from event order by event_id")
        assert numbers[0] > numbers[1]
    await store(ingestor, delivery(message()))
    await store(ingestor, delivery(message(source=SOURCE_RECOVERED)))

    rows = await database.rows("select state, source from event where event_key = 'message:m_1'")
    assert rows == [("pending", message().source)]
    assert await database.value("select count(*) from decision") == 0
    assert await database.values("select pending from lane") == [1]
    assert nudges.count == 1


async def test_what_a_repair_read_is_pending_and_its_message_is_marked(
    ingestor: Ingestor, database: Database
) -> None:
    recovered = delivery(message(source=SOURCE_RECOVERED), body=b"", signed_by="graph")

    (result,) = await store(ingestor, recovered)

    assert result.new_events == 1
    assert await database.rows("select state, source from event") == [("pending", SOURCE_RECOVERED)]
    assert await database.values("select recovered from message") == [True]
    assert await database.values("select signed_by from delivery") == ["graph"]


@pytest.mark.parametrize("source", [SOURCE_LIVE, SOURCE_RECOVERED])
async def test_a_message_that_history_brought_is_marked_by_a_repair_alone(
    ingestor: Ingestor, database: Database, source: Source.ValueType
) -> None:
    await database.rows(
        "insert into message (page_id, mid, participant_id, direction, kind, text, created_at)"
        f" values ('{PAGE}', 'm_1', '{PERSON}', 'inbound', 'message', 'hello', now())"
    )

    await store(ingestor, delivery(message(source=source)))

    expected = source == SOURCE_RECOVERED
    assert await database.values("select recovered from message") == [expected]


async def test_a_webhook_that_comes_after_its_repair_is_known(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message(source=SOURCE_RECOVERED)))

    (result,) = await store(ingestor, delivery(message()))

    assert result.known_events == 1
    assert await database.values("select recovered from message") == [True]
    assert await database.values("select pending from lane") == [1]


def pressed(mid: str = "m_1") -> Event:
    """A button, as webhooks tell of it; Graph shows a message of the same mid."""
    return about(
        EVENT_KIND_POSTBACK,
        f"postback:{mid}",
        trigger=TRIGGER_POSTBACK,
        postback=PostbackDetail(mid=mid, title="Prices", payload="PRICES"),
    )


@pytest.mark.parametrize("one_batch", [True, False])
async def test_a_button_that_a_webhook_told_of_is_no_message_to_recover(
    ingestor: Ingestor, database: Database, one_batch: bool
) -> None:
    button = delivery(pressed())
    recovered = delivery(
        message(source=SOURCE_RECOVERED), message("m_2", 1, source=SOURCE_RECOVERED)
    )

    if one_batch:
        _, result = await store(ingestor, button, recovered)
    else:
        await store(ingestor, button)
        (result,) = await store(ingestor, recovered)

    assert (result.new_events, result.known_events) == (1, 1)
    assert await database.values("select event_key from event order by event_key") == [
        "message:m_2",
        "postback:m_1",
    ]
    assert await database.rows("select mid, kind, recovered from message order by mid") == [
        ("m_1", "postback", False),
        ("m_2", "message", True),
    ]
    assert await database.values("select pending from lane") == [2]


async def test_a_button_whose_webhook_comes_after_a_repair_brought_its_message_is_known(
    ingestor: Ingestor, database: Database
) -> None:
    recovered = message("m_1", source=SOURCE_RECOVERED)
    await store(ingestor, delivery(recovered))

    (alone,) = await store(ingestor, delivery(pressed()))
    (beside,) = await store(ingestor, delivery(pressed(), message("m_2", 1)))
    (both,) = await store(ingestor, delivery(pressed(), recovered))

    assert (alone.new_events, alone.known_events) == (0, 1)
    assert (beside.new_events, beside.known_events) == (1, 1)
    assert (both.new_events, both.known_events) == (0, 2)
    assert await database.values("select event_key from event order by event_key") == [
        "message:m_1",
        "message:m_2",
    ]
    assert await database.values("select pending from lane") == [2]
    assert await database.values("select unread_count from conversation") == [2]


async def test_a_button_that_a_repair_brings_as_a_message_meanwhile_is_one_event(
    pools: Pools, database: Database, database_url: str
) -> None:
    others = open_pools(database_url, 13)
    one, two = make_ingestor(pools, patience=10), make_ingestor(others, patience=10)

    for number in range(15):
        mid = f"m_{number}"
        await asyncio.gather(
            one.ingest([delivery(message(mid, source=SOURCE_RECOVERED))]),
            two.ingest([delivery(pressed(mid))]),
        )
    await others.dispose()

    assert await database.value("select count(*) from event") == 15
    assert await database.value("select pending from lane") == 15


@pytest.mark.parametrize("source", [SOURCE_LIVE, SOURCE_STANDBY])
async def test_a_button_is_one_beside_a_message_of_its_mid_that_a_webhook_brought(
    ingestor: Ingestor, database: Database, source: Source.ValueType
) -> None:
    await store(ingestor, delivery(message(source=source)))

    (result,) = await store(ingestor, delivery(pressed()))

    assert (result.new_events, result.known_events) == (1, 0)


async def test_what_a_webhook_brings_as_a_message_is_one_beside_a_button_of_its_mid(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(pressed()))

    (result,) = await store(ingestor, delivery(message()))

    assert (result.new_events, result.known_events) == (1, 0)


@pytest.mark.parametrize("one_batch", [True, False])
async def test_a_repair_makes_nothing_live_that_was_overheard(
    ingestor: Ingestor, database: Database, one_batch: bool
) -> None:
    standby = delivery(message(source=SOURCE_STANDBY))
    recovered = delivery(message(source=SOURCE_RECOVERED))

    if one_batch:
        await store(ingestor, standby, recovered)
    else:
        await store(ingestor, standby)
        await store(ingestor, recovered)

    assert await database.rows("select state, source from event") == [("done", SOURCE_STANDBY)]
    assert await database.values("select reason from decision") == ["standby"]


async def test_live_then_standby_changes_nothing(ingestor: Ingestor, database: Database) -> None:
    await store(ingestor, delivery(message()))
    before = await database.rows("select * from event")

    await store(ingestor, delivery(message(source=SOURCE_STANDBY)))

    assert await database.rows("select * from event") == before
    assert await database.value("select count(*) from decision") == 0


async def test_standby_and_live_at_once_in_two_stores_is_pending_once(
    pools: Pools, database: Database, database_url: str
) -> None:
    others = open_pools(database_url, 13)
    one, two = make_ingestor(pools, patience=10), make_ingestor(others, patience=10)

    for number in range(15):
        mid = f"m_{number}"
        await asyncio.gather(
            one.ingest([delivery(message(mid, source=SOURCE_STANDBY))]),
            two.ingest([delivery(message(mid))]),
        )
    await others.dispose()

    assert await database.rows("select state, count(*) from event group by 1") == [("pending", 15)]
    assert await database.value("select pending from lane") == 15
    assert await database.value("select count(*) from decision") == 0


async def test_the_pages_own_words_are_never_pending(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message(is_own=True), echo("m_2")))

    assert await database.rows("select state, count(*) from event group by 1") == [("done", 2)]
    assert await database.rows("select reason from decision") == [("own_account",)]


async def test_an_unknown_page_keeps_the_event_and_nothing_else(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message(page_id=OTHER_PAGE), comment(page_id=OTHER_PAGE)))

    assert await database.values("select state from event") == ["unknown_page"] * 2
    assert await counts(database) == (2, 0, 0, 0)
    assert await database.value("select count(*) from comment") == 0
    assert await database.value("select count(*) from delivery") == 1


async def test_a_disconnected_page_makes_no_rows(ingestor: Ingestor, database: Database) -> None:
    await store(ingestor, delivery(message("m_1")))
    await database.disconnect_page()

    await store(ingestor, delivery(message("m_2")))

    states = await database.values("select state from event order by number")
    assert states == ["pending", "unknown_page"]
    assert await database.values("select mid from message") == ["m_1"]


class holding:  # reads as a verb
    """Holds a lane's lock in another transaction within the block; makes the lane where missing."""

    def __init__(self, url: str, page_id: str, lane: str, *, make: bool = False) -> None:
        self._url, self._key, self._make = url, (page_id, lane), make

    async def __aenter__(self) -> None:
        self._connection = await psycopg.AsyncConnection.connect(self._url)
        if self._make:
            await self._connection.execute(
                "insert into lane (page_id, lane) values (%s, %s)", self._key
            )
        await self._connection.execute(
            "select from lane where page_id = %s and lane = %s for update", self._key
        )

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def test_who_goes_while_its_delivery_is_on_its_way_holds_no_lane_from_then_on(
    database_url: str, ingestor: Ingestor, capsys: pytest.CaptureFixture[str]
) -> None:
    await ingestor.ingest([delivery(message("m_1"))])
    async with holding(database_url, PAGE, f"person:{PERSON}"), asyncio.timeout(60):
        with faults.armed("store.ingest.begun=sleep:300ms"):
            gone = asyncio.create_task(ingestor.ingest([delivery(message("m_2"))]))
            while "a fault struck" not in capsys.readouterr().out:
                await asyncio.sleep(0.01)
            gone.cancel()
            while ingestor._flights:
                await asyncio.sleep(0.01)

    (result,) = await ingestor.ingest([delivery(message("m_3"))])

    assert result.state == DELIVERY_STATE_STORED


@pytest.mark.parametrize("new", [False, True], ids=["known lane", "lane being made"])
async def test_a_held_lane_delays_only_its_own_deliveries(
    ingestor: Ingestor, database: Database, database_url: str, new: bool
) -> None:
    if not new:
        await store(ingestor, delivery(echo("m_0")))
    stuck, both = delivery(message("m_1")), delivery(message("m_2"), message("m_3", person="9"))
    others = [delivery(message(f"n_{number}", person=f"{number}")) for number in range(20)]

    async with holding(database_url, PAGE, f"person:{PERSON}", make=new):
        results = await ingestor.ingest([stuck, *others, both])

    states = [result.state for result in results]
    assert states == [DELIVERY_STATE_BUSY, *[DELIVERY_STATE_STORED] * 20, DELIVERY_STATE_BUSY]
    assert results[0].busy_lanes == [f"{PAGE}/person:{PERSON}"]
    stored = await database.values("select event_key from event where kind = %s", message().kind)
    assert set(stored) == {f"message:n_{number}" for number in range(20)}
    assert await database.value("select count(*) from delivery") == 20 + (not new)
    await store(ingestor, stuck, both)


async def test_a_delivery_waits_for_a_lane_that_is_soon_free_and_goes_before_later_ones(
    pools: Pools, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = make_ingestor(pools, patience=20)
    await store(patient, delivery(echo("m_0")))
    tries: list[Any] = []
    hand_out = pools.ingest.handed_out

    def counted() -> contextlib.AbstractAsyncContextManager[Driver]:
        tries.append(None)
        return hand_out()

    monkeypatch.setattr(pools.ingest, "handed_out", counted)

    async def tried(times: int) -> None:
        async with asyncio.timeout(60):
            while len(tries) < times:
                await asyncio.sleep(0.001)

    async with holding(database_url, PAGE, f"person:{PERSON}"):
        first = asyncio.ensure_future(patient.ingest([delivery(message("m_1"))]))
        await tried(2)
        second = asyncio.ensure_future(patient.ingest([delivery(message("m_2"))]))
        await tried(6)
    results = [*await first, *await second]

    assert [result.state for result in results] == [DELIVERY_STATE_STORED] * 2
    keys = await database.values("select event_key from event order by number")
    assert keys == ["echo:m_0", "message:m_1", "message:m_2"]


async def test_batches_overlap_but_never_in_a_lane(pools: Pools, database: Database) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def dawdle(connection: Driver, events: Any, *, first: Sequence[Said]) -> Bound:
        begun.set()
        await finish.wait()
        return Bound([*first], freed=False)

    ingestor = make_ingestor(pools, bind_echoes=dawdle, patience=0)
    first = asyncio.ensure_future(ingestor.ingest([delivery(echo("m_1"))]))
    async with asyncio.timeout(60):
        await begun.wait()
        behind = asyncio.ensure_future(ingestor.ingest([delivery(message("m_2"))]))
        (beside,) = await ingestor.ingest([delivery(message("m_3", person="beside"))])
        waited = not behind.done()
        finish.set()
        results = [*await first, beside, *await behind]

    assert waited
    assert [result.state for result in results] == [DELIVERY_STATE_STORED] * 3
    keys = await database.values(
        "select event_key from event where lane = %s order by number", f"person:{PERSON}"
    )
    assert keys == ["echo:m_1", "message:m_2"]


async def test_one_refused_delivery_does_not_sink_its_neighbours(
    ingestor: Ingestor, database: Database
) -> None:
    await database.rows("alter table message add constraint no_curses check (text <> 'curse')")
    good = [delivery(message(f"m_{number}", person=f"{number}")) for number in range(5)]
    bad = delivery(message("m_bad", text="curse"))

    results = await ingestor.ingest([*good[:2], bad, *good[2:]])

    assert [result.state for result in results] == [
        DELIVERY_STATE_STORED,
        DELIVERY_STATE_STORED,
        DELIVERY_STATE_REFUSED,
        *[DELIVERY_STATE_STORED] * 3,
    ]
    assert results[2].reason == "integrity_violation"
    assert await counts(database) == (5, 5, 5, 5)
    assert await database.value("select count(*) from delivery") == 5


async def test_a_refused_body_is_kept_when_it_comes_as_unreadable(
    ingestor: Ingestor, database: Database
) -> None:
    body = delivery(
        body=b"\xff\x00", unreadable=[Unreadable(reason="integrity_violation", page_id=PAGE)]
    )

    await store(ingestor, body)

    assert await database.rows("select body, outcome, events from delivery") == [
        (b"\xff\x00", "quarantined", 0)
    ]
    assert await database.rows("select reason, page_id, path from quarantine") == [
        ("integrity_violation", PAGE, "")
    ]


async def test_a_body_of_which_some_could_not_be_read_is_partial(
    ingestor: Ingestor, database: Database
) -> None:
    items = [Unreadable(reason="id_malformed", path=f"entry[{number}]") for number in (1, 2)]

    await store(ingestor, delivery(message(), unreadable=items))

    assert await database.values("select outcome from delivery") == ["partial"]
    assert await database.rows("select path, page_id from quarantine order by 1") == [
        ("entry[1]", None),
        ("entry[2]", None),
    ]


QUARANTINED = """
    select path, reason, replayed_at is not null from quarantine order by quarantine_id
"""


def bad(*numbers: int, reason: str = "id_malformed") -> list[Unreadable]:
    return [Unreadable(reason=reason, path=f"entry[{number}]") for number in numbers]


async def replayed(
    ingestor: Ingestor, database: Database, *events: Event, unreadable: Sequence[Unreadable] = ()
) -> DeliveryResult:
    """Reads again what came first, as its first row in quarantine says."""
    ((row, first),) = await database.rows(
        "select quarantine_id::text, delivery_id::text from quarantine order by 1 limit 1"
    )
    again = delivery(*events, delivery_id=first, unreadable=unreadable, replay_of=row)
    (result,) = await store(ingestor, again)
    return result


async def test_a_body_that_can_be_read_by_now_has_all_its_rows_marked_and_its_events_once(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message("m_1"), unreadable=bad(1, 2)))

    all_of_it = [message(f"m_{number}") for number in (1, 2, 3)]
    first = await replayed(ingestor, database, *all_of_it)
    again = await replayed(ingestor, database, *all_of_it)

    assert (first.new_events, again.new_events) == (2, 0)
    assert await database.rows(QUARANTINED) == [
        ("entry[1]", "id_malformed", True),
        ("entry[2]", "id_malformed", True),
    ]
    assert await counts(database) == (3, 3, 1, 3)
    assert await database.value("select count(*) from delivery") == 1
    assert await database.value("select count(distinct delivery_id) from event") == 1


async def test_a_body_that_still_cannot_be_read_stays_in_quarantine_as_it_was(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message("m_1"), unreadable=bad(1, 2)))
    await database.rows(
        "update quarantine set replay_requested_at = now(), replay_lease_until = now()"
    )

    for _ in range(2):
        await replayed(ingestor, database, message("m_1"), unreadable=bad(1, 2))

    assert await database.rows(QUARANTINED) == [
        ("entry[1]", "id_malformed", False),
        ("entry[2]", "id_malformed", False),
    ]
    assert await database.value("select count(*) from delivery") == 1
    assert await database.values("select replay_requested_at from quarantine") == [None, None]


async def test_only_what_is_still_unreadable_stays_and_what_is_newly_so_is_noted(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(unreadable=bad(1, 2, 3)))

    for _ in range(2):
        still = [*bad(2), *bad(3, reason="id_missing")]
        await replayed(ingestor, database, message(), unreadable=still)

    assert await database.rows(QUARANTINED) == [
        ("entry[1]", "id_malformed", True),
        ("entry[2]", "id_malformed", False),
        ("entry[3]", "id_malformed", True),
        ("entry[3]", "id_missing", False),
    ]


async def test_what_was_read_once_and_cannot_be_read_any_more_is_in_quarantine_again(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(unreadable=bad(1)))
    await replayed(ingestor, database, message())

    await replayed(ingestor, database, unreadable=bad(1))

    assert await database.rows(QUARANTINED) == [("entry[1]", "id_malformed", False)]


async def test_a_replay_that_was_asked_for_while_the_body_was_read_is_owed_still(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(unreadable=bad(1)))
    await database.rows("update quarantine set replay_requested_at = now()")

    await replayed(ingestor, database, unreadable=bad(1))

    assert await database.value("select replay_requested_at is not null from quarantine")


async def test_replays_of_several_bodies_at_once_touch_their_own_rows(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, *(delivery(unreadable=bad(1, 2)) for _ in range(3)))
    rows = await database.rows(
        "select min(quarantine_id)::text, delivery_id::text from quarantine group by 2 order by 1"
    )

    (read, first), (half, second), _ = rows
    await store(
        ingestor,
        delivery(message(), delivery_id=first, replay_of=read),
        delivery(delivery_id=second, replay_of=half, unreadable=bad(2)),
    )

    assert await database.rows(QUARANTINED) == [
        ("entry[1]", "id_malformed", True),
        ("entry[2]", "id_malformed", True),
        ("entry[1]", "id_malformed", True),
        ("entry[2]", "id_malformed", False),
        ("entry[1]", "id_malformed", False),
        ("entry[2]", "id_malformed", False),
    ]


async def test_a_body_of_as_many_bad_items_as_there_can_be_is_noted_and_replayed(
    ingestor: Ingestor, database: Database
) -> None:
    many = bad(*range(5_000))
    await store(ingestor, delivery(unreadable=many))

    await replayed(ingestor, database, message(), unreadable=many[1:])  # or the statement times out

    assert await database.rows(
        "select replayed_at is null, count(*) from quarantine group by 1 order by 1"
    ) == [(False, 1), (True, 4_999)]


async def test_a_body_without_events_is_kept(ingestor: Ingestor, database: Database) -> None:
    await store(ingestor, delivery(body=b'{"object":"page","entry":[]}'))

    assert await database.values("select outcome from delivery") == ["parsed"]


async def test_hiding_has_the_key_of_its_state(ingestor: Ingestor, database: Database) -> None:
    def hidden(value: bool, sent: float) -> Event:
        detail = CommentDetail(comment_id="c_1", post_id="p_1", hidden=value)
        return about(
            EVENT_KIND_COMMENT_HIDDEN, "", 0, lane="comment:c_1", comment=detail, sent_time=at(sent)
        )

    await store(ingestor, delivery(hidden(True, 1)))
    await store(ingestor, delivery(hidden(True, 1)), delivery(hidden(False, 2)))
    await store(ingestor, delivery(hidden(True, 3)))

    assert await database.value("select count(*) from event") == 3
    assert await database.values("select is_hidden from comment") == [True]


async def test_what_names_nobody_is_stored_in_the_pages_lane(
    ingestor: Ingestor, database: Database
) -> None:
    roles = about(EVENT_KIND_APP_ROLES, "app_roles:none:1:ab", lane="page", person_id="")

    await store(ingestor, delivery(roles))

    assert await database.values("select lane from event") == ["page"]
    assert await counts(database) == (1, 0, 0, 0)


async def test_only_what_is_pending_wakes_the_dispatchers(pools: Pools, database: Database) -> None:
    ingestor = make_ingestor(pools, wake=(nudges := Nudges()))

    await store(ingestor, delivery(echo("m_1")))
    before = nudges.count
    await store(ingestor, delivery(message("m_2")))
    await store(ingestor, delivery(message("m_2")))

    assert (before, nudges.count) == (0, 1)


async def test_new_echoes_and_own_comments_are_handed_on_to_be_bound(
    pools: Pools, database: Database
) -> None:
    echoes, comments = Binder(), Binder()
    ingestor = make_ingestor(pools, bind_echoes=echoes, bind_comments=comments)
    own = comment("c_2", is_own=True, trigger=0, person_id="")

    await store(ingestor, delivery(echo("m_1"), own, comment("c_1")))
    await store(ingestor, delivery(echo("m_1"), own))

    assert [event.key for event in echoes.events] == ["echo:m_1"]
    assert [event.key for event in comments.events] == ["comment:c_2:add"]


async def test_nul_in_a_text_is_stored_as_the_replacement_character(
    ingestor: Ingestor, database: Database
) -> None:
    await store(ingestor, delivery(message(text="a\0b")))

    assert await database.values("select text from message") == ["a\ufffdb"]


async def test_connections_that_the_server_has_ended_are_made_anew_unnoticed(
    ingestor: Ingestor, pools: Pools, database: Database
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(pools.ingest.size):
            await stack.enter_async_context(pools.ingest.handed_out())
    await database.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )

    await store(ingestor, delivery(message("m_1")))

    assert await counts(database) == (1, 1, 1, 1)


async def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path: Path) -> None:
    nowhere = open_pools(f"postgresql:///pagewire?host={tmp_path}", 4)

    with pytest.raises(Unavailable):
        await make_ingestor(nowhere).ingest([delivery(message()), delivery(message("m_2"))])

    await nowhere.dispose()


async def test_a_transaction_that_was_rolled_back_unnoticed_is_not_answered_as_stored(
    pools: Pools, database: Database
) -> None:
    async def swallow(connection: Driver, events: Any, *, first: Sequence[Said]) -> Bound:
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            await connection.execute("select 1 / 0")
        return Bound([], freed=False)

    with pytest.raises(RuntimeError, match="rolled back"):
        await make_ingestor(pools, bind_echoes=swallow).ingest([delivery(echo("m_1"))])

    assert await database.value("select count(*) from event") == 0


async def test_a_fault_that_is_no_deliverys_own_refuses_none(
    ingestor: Ingestor, database: Database
) -> None:
    await database.rows("alter table message rename to not_here")

    with pytest.raises(Unavailable):
        await ingestor.ingest([delivery(message())])

    assert await database.value("select count(*) from event") == 0


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (delivery(message(), delivery_id="7"), "deliveries[0].delivery_id"),
        (delivery(message(), replay_of="x"), "deliveries[0].replay_of"),
        (delivery(message(), message(page_id="")), "deliveries[0].events[1].page_id"),
        (delivery(message(page_id="a b")), "deliveries[0].events[0].page_id"),
        (delivery(message(lane="person:")), "deliveries[0].events[0].lane"),
        (delivery(message(lane="thread:1")), "deliveries[0].events[0].lane"),
        (delivery(message(key="")), "deliveries[0].events[0].key"),
        (delivery(message(key="k" * 701)), "deliveries[0].events[0].key"),
        (delivery(message(key="a\0b")), "deliveries[0].events[0].key"),
        (delivery(message(kind=0)), "deliveries[0].events[0].kind"),
        (delivery(message(source=0)), "deliveries[0].events[0].source"),
        (delivery(message(event_time=None)), "deliveries[0].events[0].event_time"),
        (delivery(message(person_id="\0")), "deliveries[0].events[0].person_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_malformed_request_is_refused_and_names_the_field(
    ingestor: Ingestor, database: Database, broken: Delivery, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await ingestor.ingest([broken])

    assert refused.value.metadata == {"field": field}
    assert await database.value("select count(*) from delivery") == 0


async def test_a_key_as_long_as_one_may_be_is_stored(
    ingestor: Ingestor, database: Database
) -> None:
    random_key = "".join(random.Random(5).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=700))
    page_id, person = random_key[:512], random_key[100:612]
    await database.connect_page(page_id)
    event = message("m_1", key=random_key, page_id=page_id, person=person)

    await store(ingestor, delivery(event))

    assert await database.values("select event_key from event") == [random_key]


async def test_a_delivery_id_may_be_spelt_in_capitals(
    ingestor: Ingestor, database: Database
) -> None:
    shouted = str(uuid.uuid4()).upper()

    await store(
        ingestor, delivery(delivery_id=shouted, unreadable=[Unreadable(reason="json_invalid")])
    )

    assert await database.value("select count(*) from quarantine") == 1


async def order(database: Database, person: str) -> list[str]:
    return await database.values(
        "select event_key from event where lane = %s order by number", f"person:{person}"
    )


async def test_who_waits_for_a_batch_on_its_way_is_overtaken_in_none_of_its_lanes(
    pools: Pools, database: Database
) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def dawdle(connection: Driver, events: Any, *, first: Sequence[Said]) -> Bound:
        begun.set()
        await finish.wait()
        return Bound([*first], freed=False)

    ingestor = make_ingestor(pools, bind_echoes=dawdle)
    async with asyncio.timeout(60):
        flying = asyncio.ensure_future(ingestor.ingest([delivery(echo("m_0"))]))
        await begun.wait()
        both = delivery(message("m_1"), message("b_1", person="9"))
        first = asyncio.ensure_future(ingestor.ingest([both]))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(ingestor.ingest([delivery(message("b_2", person="9"))]))
        await asyncio.sleep(0.1)
        finish.set()
        results = [*await flying, *await first, *await second]

    assert [result.state for result in results] == [DELIVERY_STATE_STORED] * 3
    assert await order(database, "9") == ["message:b_1", "message:b_2"]


async def test_who_waits_for_a_lane_that_another_holds_is_overtaken_in_none_of_its_lanes(
    pools: Pools, database: Database, database_url: str
) -> None:
    ingestor = make_ingestor(pools, patience=20)
    await store(ingestor, delivery(echo("m_0")))
    both = delivery(message("m_1"), message("b_1", person="9"))
    behind = delivery(message("b_2", person="9"))

    async with asyncio.timeout(60):
        async with holding(database_url, PAGE, f"person:{PERSON}"):
            storing = asyncio.ensure_future(ingestor.ingest([both, behind]))
            await asyncio.sleep(0.1)
        results = await storing

    assert [result.state for result in results] == [DELIVERY_STATE_STORED] * 2
    assert await order(database, "9") == ["message:b_1", "message:b_2"]
