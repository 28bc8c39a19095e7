import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1.lane_service_pb2 import (
    ClaimedLane,
    ClaimLanesRequest,
    ExtendLeasesRequest,
    LaneRef,
)
from pagewire.type.v1.event_pb2 import TRIGGER_MESSAGE
from pagewire.type.v1.page_pb2 import PLATFORM_INSTAGRAM, PLATFORM_MESSENGER
from pagewire_runtime import metrics
from pagewire_runtime.errors import InvalidArgument, Unavailable
from pagewire_store import polling
from pagewire_store.claiming import Claims
from pagewire_store.database import Pools
from pagewire_store.ids import event_id
from pagewire_store.ingest import Ingestor
from pagewire_store.waking import Waking
from tests.support.deliveries import (
    OTHER_PAGE,
    PAGE,
    PERSON,
    Database,
    at,
    comment,
    database,
    delivery,
    ingestor,
    make_ingestor,
    message,
    pools,
)
from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database", "database_url", "ingestor", "migrated_template", "pools", "postgres_server"]

LEASE = timedelta(seconds=8)


@pytest.fixture
def waking() -> Waking:
    return Waking("postgresql:///never-connected")


@pytest.fixture
def claims(pools: Pools, waking: Waking) -> Claims:
    return Claims(pools.live, waking, lease=LEASE)


async def claim(claims: Claims, lanes: int = 10, **fields: Any) -> list[ClaimedLane]:
    fields.setdefault("owner", "dispatcher-1")
    request = ClaimLanesRequest(max_lanes=lanes, **fields)
    return list((await claims.claim(request)).lanes)


def lanes_of(claimed: list[ClaimedLane]) -> list[str]:
    return [lane.ref.lane for lane in claimed]


async def send(ingestor: Ingestor, *persons: str) -> None:
    for person in persons:
        await ingestor.ingest([delivery(message(f"m_{person}", person=person))])


async def test_a_claim_hands_over_the_event_with_all_that_deciding_needs(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await database.rows("insert into rule_book values (%s, 3)", PAGE)
    await database.rows("update rule_book set version = 7 where page_id = '*'")
    await ingestor.ingest([delivery(message("m_1", 1, person_name="Ann Lee"), message("m_2", 2))])

    response = await claims.claim(ClaimLanesRequest(owner="dispatcher-1", max_lanes=5))

    (lane,) = response.lanes
    assert lane.ref == LaneRef(page_id=PAGE, lane=f"person:{PERSON}", epoch=1)
    assert lane.book_version == 7
    assert lane.platform == PLATFORM_MESSENGER
    assert response.lease.ToTimedelta() == LEASE
    numbers = await database.values("select event_id from event order by number")
    assert [event.event_id for event in lane.events] == [event_id(PAGE, n) for n in numbers]
    assert [event.event for event in lane.events] == [
        message("m_1", 1, person_name="Ann Lee"),
        message("m_2", 2),
    ]
    assert [event.person_name for event in lane.events] == ["Ann Lee", "Ann Lee"]
    assert {event.receive_time.ToJsonString() for event in lane.events} == {at(100).ToJsonString()}
    assert await database.rows(
        "select lease_owner, lease_until - now() between '7 s' and '8 s' from lane"
    ) == [("dispatcher-1", True)]


async def test_a_commenter_is_not_called_by_the_name_of_whom_messages_know_by_the_same_id(
    ingestor: Ingestor, claims: Claims
) -> None:
    await ingestor.ingest([delivery(message("m_1", person_name="Ann Lee"))])
    await ingestor.ingest([delivery(comment(person_name=""))])

    claimed = await claim(claims)

    names = {lane.ref.lane: lane.events[0].person_name for lane in claimed}
    assert names == {f"person:{PERSON}": "Ann Lee", "comment:c_1": ""}


async def test_an_instagram_lane_says_so(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await database.connect_page(OTHER_PAGE, "instagram")
    await ingestor.ingest([delivery(message(page_id=OTHER_PAGE))])

    (lane,) = await claim(claims)

    assert lane.platform == PLATFORM_INSTAGRAM


async def test_lanes_are_claimed_by_how_long_they_have_been_waiting(
    ingestor: Ingestor, claims: Claims
) -> None:
    await send(ingestor, "5", "3", "9", "1")
    await send(ingestor, "0")

    assert lanes_of(await claim(claims, 3)) == ["person:5", "person:3", "person:9"]
    assert lanes_of(await claim(claims, 3)) == ["person:1", "person:0"]


async def test_no_more_events_are_handed_over_than_asked_for(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await ingestor.ingest([delivery(*(message(f"m_{number}") for number in range(15)))])

    (by_default,) = await claim(claims)
    await database.rows("update lane set lease_until = null")
    (by_wish,) = await claim(claims, max_events=3)

    assert [event.event.message.mid for event in by_default.events] == [
        f"m_{number}" for number in range(10)
    ]
    assert len(by_wish.events) == 3


async def test_a_claim_is_no_larger_than_an_answer_may_be_and_the_rest_is_for_the_next(
    ingestor: Ingestor, pools: Pools, waking: Waking, database: Database
) -> None:
    claims = Claims(pools.live, waking, lease=LEASE, max_bytes=1_500)
    for person in "123":
        texts = (message(f"m_{person}{n}", n, person=person, text="x" * 500) for n in range(2))
        await ingestor.ingest([delivery(*texts)])

    first = await claim(claims)
    second = await claim(claims)

    assert [(lane.ref.lane, len(lane.events)) for lane in first] == [
        ("person:1", 2),
        ("person:2", 1),
    ]
    assert [(lane.ref.lane, len(lane.events)) for lane in second] == [("person:3", 2)]
    assert await database.values("select distinct pending from lane") == [2]


async def test_an_event_larger_than_that_is_handed_over_by_itself(
    ingestor: Ingestor, pools: Pools, waking: Waking
) -> None:
    claims = Claims(pools.live, waking, lease=LEASE, max_bytes=100)
    await ingestor.ingest([delivery(message("m_1", 1, text="x" * 500), message("m_2", 2))])

    (lane,) = await claim(claims)

    assert [event.event.message.mid for event in lane.events] == ["m_1"]


async def test_a_lane_has_one_holder_and_the_next_has_a_higher_epoch(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1")
    (first,) = await claim(claims)

    while_leased = await claim(claims)
    await database.rows("update lane set lease_until = now() - interval '1 ms'")
    (second,) = await claim(claims)

    assert while_leased == []
    assert (first.ref.epoch, second.ref.epoch) == (1, 2)
    assert first.events == second.events


async def lapse(database: Database) -> None:
    """Every lease is over."""
    await database.rows("update lane set lease_until = now() - interval '1 s'")


async def test_the_death_of_a_dispatcher_counts_on_the_first_event_of_its_lane_alone(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await ingestor.ingest([delivery(message("m_1", 1), message("m_2", 2))])
    await claim(claims, owner="dispatcher-1")
    await lapse(database)

    (lane,) = await claim(claims, owner="dispatcher-2")

    assert [event.attempts for event in lane.events] == [1, 0]
    assert await database.rows(
        "select attempts, first_failed_at is null, last_error from event order by number"
    ) == [(1, True, "dispatcher_died"), (0, True, None)]


async def test_what_a_dead_dispatcher_held_is_handed_out_lane_by_lane_before_anything_else(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "5", "3")
    await claim(claims, owner="dispatcher-1")
    await lapse(database)
    await send(ingestor, "9", "1")

    claimed = [lanes_of(await claim(claims, owner="dispatcher-2")) for _ in range(3)]

    assert claimed == [["person:5"], ["person:3"], ["person:9", "person:1"]]
    assert await database.rows("select attempts from event order by number") == [
        *[(1,), (1,)],
        *[(0,), (0,)],
    ]


async def test_a_lease_that_ended_in_an_outage_counts_against_nobody(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1")
    await claim(claims, owner="dispatcher-1")
    await lapse(database)

    (lane,) = await claim(claims, owner="dispatcher-1")  # it lives

    assert [event.attempts for event in lane.events] == [0]


async def test_a_lane_that_was_given_back_counts_against_nobody(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1")
    await claim(claims, owner="dispatcher-1")
    await database.rows("update lane set lease_owner = null, lease_until = null")

    (lane,) = await claim(claims, owner="dispatcher-2")

    assert [event.attempts for event in lane.events] == [0]


def taken_over(*, parked: str) -> float:
    name = "pagewire_lanes_taken_over_total"
    return metrics.registry.get_sample_value(name, {"parked": parked}) or 0


async def test_an_event_at_which_dispatchers_die_is_parked_and_its_lane_goes_on(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await ingestor.ingest([delivery(message("m_1", 1), message("m_2", 2))])
    await database.rows("update event set attempts = 7 where event_key = 'message:m_1'")
    await claim(claims, owner="dispatcher-1")
    await lapse(database)
    alarms = taken_over(parked="true")

    (lane,) = await claim(claims, owner="dispatcher-2")

    assert taken_over(parked="true") == alarms + 1
    assert [event.event.message.mid for event in lane.events] == ["m_2"]
    assert await database.values("select state from event order by number") == ["parked", "pending"]
    assert await database.rows(
        "select outcome, reason, trigger, stored_at = (select min(stored_at) from event)"
        " from decision"
    ) == [("failed", "evaluation_failed", TRIGGER_MESSAGE, True)]
    assert await database.value("select pending from lane") == 1


async def test_leases_that_lapse_again_and_again_in_a_long_outage_park_nobody(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, *map(str, range(4)))
    for owner in ("dispatcher-1", "dispatcher-2", "dispatcher-1", "dispatcher-2"):
        while await claim(claims, owner=owner):  # both live; rules is away
            pass
        await lapse(database)  # PostgreSQL stood still for longer than a lease
        await database.rows("update event set first_failed_at = now() - interval '3 minutes'")

    await claim(claims, owner="dispatcher-1")

    assert set(await database.values("select state from event")) == {"pending"}
    assert await database.rows("select 1 from decision") == []


async def test_a_lane_whose_only_event_is_parked_is_freed(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1")
    await database.rows("update event set attempts = 7")
    await claim(claims, owner="dispatcher-1")
    await lapse(database)

    claimed = await claim(claims, owner="dispatcher-2")

    assert claimed == []
    assert await database.rows("select pending, lease_until from lane") == [(0, None)]


async def test_a_death_parks_no_event_of_a_page_that_is_disconnected(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1")
    await database.rows("update event set attempts = 7")
    await claim(claims, owner="dispatcher-1")
    await lapse(database)
    await database.disconnect_page()

    await claim(claims, owner="dispatcher-2")

    assert await database.values("select state from event") == ["done"]
    assert await database.values("select reason from decision") == ["page_disconnected"]


async def test_a_blocked_lane_is_not_claimed_before_its_time(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1")
    await database.rows("update lane set blocked_until = now() + interval '1 minute'")
    blocked = await claim(claims)

    await database.rows("update lane set blocked_until = now() - interval '1 ms'")

    assert blocked == []
    assert lanes_of(await claim(claims)) == ["person:1"]


async def test_claimers_at_the_same_time_never_share_a_lane(
    ingestor: Ingestor, pools: Pools, waking: Waking
) -> None:
    await send(ingestor, *(f"{number}" for number in range(40)))
    claimers = [Claims(pool, waking, lease=LEASE) for pool in (pools.live, pools.ingest)]

    taken = await asyncio.gather(*(claim(claimers[n % 2], 7) for n in range(4)))
    taken.append(await claim(claimers[0], 40))

    lanes = [name for claimed in taken for name in lanes_of(claimed)]
    assert sorted(lanes) == sorted(f"person:{number}" for number in range(40))


async def test_a_lane_that_ingest_holds_is_left_out(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1", "2")

    async with database.connection.transaction():
        await database.rows("select from lane where lane = 'person:1' for update")
        claimed = await claim(claims)

    assert lanes_of(claimed) == ["person:2"]


async def test_an_empty_lane_is_freed_at_once_and_hides_no_other(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1", "2")
    await database.rows("update event set state = 'done' where lane = 'person:1'")

    claimed = await claim(claims, 1)

    assert lanes_of(claimed) == ["person:2"]
    assert await database.rows(
        "select pending, pending_since, lease_until from lane where lane = 'person:1'"
    ) == [(0, None, None)]


async def test_what_is_pending_for_a_disconnected_page_ends_declined(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1")
    await database.disconnect_page()

    assert await claim(claims) == []

    assert await database.values("select state from event") == ["done"]
    assert await database.rows("select outcome, reason from decision") == [
        ("declined", "page_disconnected")
    ]
    assert await database.rows("select pending, lease_until from lane") == [(0, None)]


async def test_a_long_lane_of_a_disconnected_page_is_ended_in_several_transactions(
    ingestor: Ingestor,
    claims: Claims,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pagewire_store.claiming.ENDED_AT_ONCE", 2)
    await ingestor.ingest([delivery(*(message(f"m_{n}", n, person="1") for n in range(5)))])
    await database.disconnect_page()

    assert await claim(claims) == []

    ended = await database.rows("select count(*) from decision group by xmin::text")
    assert sorted(ended) == [(1,), (2,), (2,)]
    assert await database.rows("select pending, lease_until from lane") == [(0, None)]


async def test_a_claim_that_waits_is_woken_by_ingest(
    pools: Pools,
    claims: Claims,
    waking: Waking,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unhurried = partial(polling.claimed, longest=timedelta(minutes=1))
    monkeypatch.setattr("pagewire_store.claiming.claimed", unhurried)
    ingestor = make_ingestor(pools, wake=waking.wake)
    seen = waking.count
    waiting = asyncio.ensure_future(claim(claims, wait=Duration(seconds=60)))
    await asyncio.sleep(0.05)
    still_waiting = not waiting.done()

    await send(ingestor, "1")

    assert lanes_of(await waiting) == ["person:1"]
    assert still_waiting
    assert waking.count > seen


async def test_a_claim_without_work_answers_empty_once_its_wait_is_over(
    claims: Claims, database: Database
) -> None:
    assert await claim(claims, wait=Duration(nanos=20_000_000)) == []


async def test_a_heartbeat_prolongs_the_lease_of_its_own_epoch_alone(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1", "2")
    mine, other = await claim(claims)
    await database.rows("update lane set lease_until = now()")
    await database.rows("update lane set epoch = epoch + 1 where lane = %s", other.ref.lane)
    gone = LaneRef(page_id=PAGE, lane="person:9", epoch=1)

    response = await claims.extend(ExtendLeasesRequest(lanes=[mine.ref, other.ref, gone]))

    assert list(response.lost) == [other.ref, gone]
    extended = await database.values(
        "select lane from lane where lease_until > now() + interval '5 s'"
    )
    assert extended == [mine.ref.lane]


async def test_a_late_heartbeat_does_not_take_back_a_lane_that_was_given_free(
    ingestor: Ingestor, claims: Claims, database: Database
) -> None:
    await send(ingestor, "1")
    (lane,) = await claim(claims)
    await database.rows("update lane set lease_until = null, lease_owner = null")

    response = await claims.extend(ExtendLeasesRequest(lanes=[lane.ref]))

    assert list(response.lost) == []
    assert await database.values("select lease_until from lane") == [None]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ClaimLanesRequest(max_lanes=1), "owner"),
        (ClaimLanesRequest(owner="d", max_lanes=0), "max_lanes"),
        (ClaimLanesRequest(owner="d", max_lanes=1, max_events=-1), "max_events"),
    ],
)
async def test_a_malformed_claim_is_refused_and_names_the_field(
    claims: Claims, database: Database, request_: ClaimLanesRequest, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await claims.claim(request_)

    assert refused.value.metadata == {"field": field}


async def let_go(database: Database) -> None:
    async with asyncio.timeout(60):
        while await database.value("select count(*) from lane where lease_owner is not null"):
            await asyncio.sleep(0.01)


async def test_a_claim_whose_read_is_repeated_hands_over_what_it_leased(
    ingestor: Ingestor, claims: Claims, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(ingestor, "1")
    read, failed = claims._read, list[int]()

    async def once(*args: Any) -> Any:
        if not failed:
            failed.append(1)
            raise psycopg.OperationalError("lost")
        return await read(*args)

    monkeypatch.setattr(claims, "_read", once)

    assert lanes_of(await claim(claims)) == ["person:1"]


async def test_a_claim_that_is_cut_off_leaves_no_lane_leased(
    ingestor: Ingestor, claims: Claims, database: Database, database_url: str
) -> None:
    await send(ingestor, "1")
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("lock table page in access exclusive mode")
        claiming = asyncio.ensure_future(claim(claims))
        async with asyncio.timeout(60):
            while not await database.value("select count(*) from pg_locks where not granted"):
                await asyncio.sleep(0.01)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        await other.rollback()
    await let_go(database)

    assert lanes_of(await claim(claims, owner="dispatcher-2")) == ["person:1"]


async def test_a_read_that_failed_counts_no_death(
    ingestor: Ingestor, claims: Claims, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(ingestor, "1")
    read = claims._read

    async def slow(*args: Any) -> Any:
        raise psycopg.errors.QueryCanceled("statement timeout")

    monkeypatch.setattr(claims, "_read", slow)
    with pytest.raises(Unavailable):
        await claim(claims, owner="dispatcher-1")

    monkeypatch.setattr(claims, "_read", read)
    await let_go(database)

    (lane,) = await claim(claims, owner="dispatcher-2")
    assert [event.attempts for event in lane.events] == [0]
