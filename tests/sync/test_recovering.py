import re
from collections.abc import Callable
from datetime import UTC, datetime

from pagewire.type.v1.event_pb2 import Source, Trigger
from pagewire_sync.recovering import MOST, Recovering, events_of, new_delivery_id
from pagewire_sync.shown import Refused, Thread, thread_of
from tests.support.inbox import NOW, PAGE, FakeIngest, iso

JO = "7100000000000001"


def thread(*times: float, sender: str = JO) -> Thread:
    messages = [
        {"id": f"m_{at:.0f}", "created_time": iso(at), "from": {"id": sender}, "message": "hi"}
        for at in times
    ]
    people = {"data": [{"id": JO, "name": "Jo"}, {"id": PAGE}]}
    item = {"id": "t_1", "participants": people, "messages": {"data": messages}}
    return thread_of(item, {PAGE}, Refused())


def recovering(
    store: FakeIngest, since: float = NOW - 3_600, refused: Callable[[], None] = lambda: None
) -> Recovering:
    now = datetime.fromtimestamp(NOW, UTC)
    return Recovering(store, PAGE, since, lambda: now, refused=refused)


async def test_what_people_wrote_in_the_gap_is_told_and_counted_where_it_is_new() -> None:
    store = FakeIngest()
    store.known = {f"message:m_{NOW - 600:.0f}"}

    new = await recovering(store).tell([thread(NOW - 300, NOW - 600, NOW - 7_200)])

    assert new == 1
    assert [event.key for event in store.deliveries[0].events] == [
        f"message:m_{NOW - 600:.0f}",
        f"message:m_{NOW - 300:.0f}",
    ]
    assert store.deliveries[0].signed_by == "graph"
    assert {event.source for event in store.deliveries[0].events} == {Source.SOURCE_RECOVERED}


async def test_webhooks_have_two_minutes_of_grace() -> None:
    store = FakeIngest()

    assert await recovering(store).tell([thread(NOW - 119)]) == 0
    assert store.deliveries == []


async def test_a_gap_begins_with_the_second_in_which_it_begins_as_graph_tells_no_less() -> None:
    store = FakeIngest()

    assert await recovering(store, NOW - 300 + 0.9).tell([thread(NOW - 300, NOW - 301)]) == 1


async def test_what_the_page_wrote_is_no_event() -> None:
    store = FakeIngest()

    assert await recovering(store).tell([thread(NOW - 300, sender=PAGE)]) == 0
    assert store.deliveries == []


async def test_a_lane_that_is_held_is_tried_again_with_the_same_delivery() -> None:
    store = FakeIngest(busy=2)

    assert await recovering(store).tell([thread(NOW - 300)]) == 1
    assert len({each.delivery_id for each in store.deliveries}) == 1
    assert len(store.deliveries) == 3


async def test_a_refused_delivery_does_not_hold_up_the_run() -> None:
    refused: list[None] = []
    repair = recovering(FakeIngest(refused=True), refused=lambda: refused.append(None))

    assert await repair.tell([thread(NOW - 300, NOW - 400)]) == 0
    assert len(refused) == 2


async def test_an_event_that_the_store_refuses_keeps_out_no_other() -> None:
    times = [NOW - 200 - n for n in range(MOST + 50)]
    store = FakeIngest(cannot=f"message:m_{times[70]:.0f}")
    refused: list[None] = []

    new = await recovering(store, refused=lambda: refused.append(None)).tell([thread(*times)])

    assert (new, len(refused)) == (MOST + 49, 1)
    assert store.known == {f"message:m_{at:.0f}" for at in times} - {store.cannot}
    assert len({each.delivery_id for each in store.deliveries}) == len(store.deliveries)


async def test_many_are_told_in_deliveries_of_bounded_size_the_oldest_first() -> None:
    store = FakeIngest()
    times = [NOW - 200 - n for n in range(MOST + 50)]

    assert await recovering(store).tell([thread(*times)]) == MOST + 50
    assert [len(each.events) for each in store.deliveries] == [MOST, 50]
    told = [event.event_time.seconds for each in store.deliveries for event in each.events]
    assert told == sorted(told)


def test_a_story_reply_is_what_a_rule_calls_it() -> None:
    shown = thread(NOW - 300)
    shown.messages[0].trigger = Trigger.TRIGGER_STORY_REPLY
    shown.sources[0]["story"] = {"reply_to": {"id": "17", "link": "https://cdn.example/s"}}

    ((event, _),) = events_of(PAGE, shown, NOW - 3_600, NOW)

    assert event.trigger == Trigger.TRIGGER_STORY_REPLY
    assert (event.message.story_id, event.message.story_url) == ("17", "https://cdn.example/s")


def test_a_delivery_id_is_a_uuid_of_version_seven() -> None:
    made = new_delivery_id(datetime.fromtimestamp(NOW, UTC))

    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made
    )
    assert int(made.replace("-", "")[:12], 16) == NOW * 1000
