import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pagewire_runtime import metrics
from pagewire_sync.batches import IN_FLIGHT, Weight
from pagewire_sync.budget import STOP_SECONDS, Product
from pagewire_sync.failures import Failure
from pagewire_sync.graph import ANSWER_BYTES, Credentials
from pagewire_sync.reading import ATTEMPTS, BACKOFF_MOST, PATIENCE_SECONDS, Tally
from pagewire_sync.results import Done, Failed, Outcome
from tests.support.fakegraph import NULL, UNKNOWN, Asked, FakeGraph, Reading, Said, error, page
from tests.support.fakegraph import reading as upon
from tests.support.virtual import in_virtual_time

PRODUCT = Product.CONVERSATIONS


async def get(reading: Reading, credentials: Credentials, number: int = 0, **given: Any) -> Outcome:
    """A read of the page's threads; another `number` is another read."""
    how: dict[str, Any] = {"operation": "threads", "product": PRODUCT} | given
    params = {"fields": "id", "after": str(number)}
    return await reading.reads.get(credentials, credentials.page_id, "conversations", params, **how)


async def get_many(
    reading: Reading, credentials: Credentials, count: int, **how: Any
) -> list[Outcome]:
    return await asyncio.gather(
        *(get(reading, credentials, number, **how) for number in range(count))
    )


def times(graph: FakeGraph, node: str = "104") -> list[float]:
    """When reads of the node went out, since the first of all."""
    first = graph.asked[0].at
    return [round(each.at - first, 3) for each in graph.asked if each.node == node]


def now() -> float:
    return asyncio.get_running_loop().time()


def in_turn(*said: Said) -> Callable[[Asked], Said]:
    """One after the other, the last for ever."""
    left = list(said)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def failures(outcomes: Sequence[Outcome]) -> list[Failure]:
    return [each.error.failure for each in outcomes if isinstance(each, Failed)]


def business(page_id: str, percent: int, minutes: int = 0) -> dict[str, str]:
    entry = {"call_count": percent, "estimated_time_to_regain_access": minutes}
    return {"X-Business-Use-Case-Usage": json.dumps({page_id: [entry]})}


@in_virtual_time
async def test_of_a_page_two_reads_a_second_go_out_and_of_each_page_by_itself() -> None:
    graph = FakeGraph()
    reading = upon(graph)

    await asyncio.gather(*(get_many(reading, page(node), 5) for node in ("104", "105", "106")))

    for node in ("104", "105", "106"):
        assert times(graph, node) == [0, 0.5, 1.0, 1.5, 2.0]


@in_virtual_time
async def test_a_look_for_a_reply_waits_for_no_more_than_the_call_before_it() -> None:
    reading = upon(FakeGraph())
    many = asyncio.create_task(get_many(reading, page(), 100))
    await asyncio.sleep(3.1)

    wait = reading.budget.wait("104", PRODUCT, now())
    reading.budget.spend("104", PRODUCT, now() + wait)
    await many

    assert wait <= 0.5
    gaps = [b - a for a, b in zip(times(reading.graph), times(reading.graph)[1:], strict=False)]
    assert [round(gap, 1) for gap in sorted(gaps)[-2:]] == [0.5, 1.0]


@in_virtual_time
async def test_from_75_per_cent_a_page_goes_slower_and_no_other_does() -> None:
    graph = FakeGraph(
        behave=lambda asked: Said(headers=business("104", 80) if asked.node == "104" else {})
    )
    reading = upon(graph)

    await asyncio.gather(*(get_many(reading, page(node), 4) for node in ("104", "105")))

    assert times(graph, "105") == [0, 0.5, 1.0, 1.5]
    assert times(graph, "104")[1:] == [0.5, 2.5, 4.5]


@in_virtual_time
async def test_at_95_per_cent_a_page_stops_until_the_time_that_meta_names_and_some_more() -> None:
    said = {"104": Said(headers=business("104", 96, minutes=19)), "105": Said()}
    graph = FakeGraph(behave=lambda asked: said[asked.node])
    reading = upon(graph, jitter=0.5)

    await get(reading, page("104"))
    await asyncio.gather(get(reading, page("104"), 1), get_many(reading, page("105"), 3))

    (_, again) = times(graph, "104")
    assert again == pytest.approx(19 * 60 + 5, abs=0.3)
    assert times(graph, "105")[-1] < 2
    assert reading.reads.left_percent("104") == 4


@in_virtual_time
async def test_code_four_stops_every_page_and_they_begin_again_apart() -> None:
    graph = FakeGraph(behave=in_turn(error(4, 403), Said()))
    reading = upon(graph)
    shares = iter([0.1, 0.9, 0.4, *[0.0] * 10])
    reading.reads._jitter = lambda most: most * next(shares)

    stopping = asyncio.create_task(get(reading, page("104")))
    await asyncio.sleep(0.3)
    outcomes = await asyncio.gather(
        stopping, *(get(reading, page(node)) for node in ("105", "106"))
    )

    assert [type(each) for each in outcomes] == [Done] * 3
    later = sorted(each.at - graph.asked[0].at for each in graph.asked[1:])
    assert later[0] >= STOP_SECONDS
    assert len({round(at) for at in later}) > 1


@pytest.mark.parametrize("code", [17, 32, 613, 80001, 80006])
@in_virtual_time
async def test_a_throttled_page_is_asked_again_when_its_stop_is_over_and_no_other_waits(
    code: int,
) -> None:
    graph = FakeGraph(behave=in_turn(error(code), Said()))
    reading = upon(graph)

    throttled = asyncio.create_task(get(reading, page("104")))
    await asyncio.sleep(0.3)
    begun = now()
    await get(reading, page("105"))
    other = now() - begun
    outcome = await throttled

    assert isinstance(outcome, Done)
    assert other == pytest.approx(graph.latency)
    stop = 5 if code == 613 else 60
    assert times(graph)[1] == pytest.approx(stop + 0.25, abs=0.5)


@pytest.mark.parametrize(
    ("product", "code"),
    [
        (Product.CONVERSATIONS, 613),
        (Product.CONVERSATIONS, 80001),
        (Product.PAGE, 613),
        (Product.PAGE, 32),
        (Product.PAGE, 80001),
        (Product.PAGE, 80002),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
@in_virtual_time
async def test_sends_do_not_wait_for_the_stops_of_history(
    product: Product, code: int, batched: bool
) -> None:
    graph = FakeGraph(behave=lambda _: error(code))
    reading = upon(graph)

    reads = asyncio.gather(
        *(get(reading, page(), n, product=product, batched=batched) for n in (1, 2))
    )
    await asyncio.sleep(1)

    sends = [Product.SEND, Product.SEND_INSTAGRAM, Product.SEND_MEDIA, Product.PRIVATE_REPLY]
    assert reading.budget.stopped("104", product, now()) > 0
    assert [reading.budget.wait("104", each, now()) for each in sends] == [0] * 4
    reads.cancel()


@in_virtual_time
async def test_who_would_wait_longer_than_an_hour_is_told_at_once() -> None:
    graph = FakeGraph(behave=lambda _: Said(headers=business("104", 100, minutes=600)))
    reading = upon(graph)
    await get(reading, page())
    begun = now()

    outcome = await get(reading, page(), 1)

    assert isinstance(outcome, Failed)
    assert (outcome.error.failure, outcome.reason) == (Failure.THROTTLED, "graph_throttled")
    assert outcome.error.retry_after == pytest.approx(36_000)
    assert now() == begun
    assert len(graph.asked) == 1


@in_virtual_time
async def test_equal_reads_on_their_way_share_one_call() -> None:
    graph = FakeGraph(behave=lambda asked: Said({"data": [], "id": asked.params["after"]}))
    reading = upon(graph)
    tallies = [Tally() for _ in range(100)]

    outcomes = await asyncio.gather(
        *(get(reading, page(), number % 2, tally=tally) for number, tally in enumerate(tallies))
    )

    assert len(graph.asked) == 2
    assert sum(tally.calls for tally in tallies) == 2
    assert [each.body["id"] for each in outcomes if isinstance(each, Done)] == ["0", "1"] * 50


@in_virtual_time
async def test_equal_reads_of_two_pages_and_one_after_the_other_are_calls_of_their_own() -> None:
    graph = FakeGraph()
    reading = upon(graph)
    as_two = [
        reading.reads.get(page(node), "7", "", {}, operation="thread", product=PRODUCT)
        for node in ("104", "105")
    ]

    await asyncio.gather(*as_two)
    await get(reading, page())
    await get(reading, page())

    assert [each.token for each in graph.asked[:2]] == [page("104").token, page("105").token]
    assert len(graph.asked) == 4


@in_virtual_time
async def test_a_shared_read_goes_on_while_anybody_wants_it_and_ends_with_the_last() -> None:
    graph = FakeGraph(latency=10)
    reading = upon(graph)
    first, second = (asyncio.create_task(get(reading, page())) for _ in range(2))
    await asyncio.sleep(1)

    first.cancel()
    kept = await second
    third = asyncio.create_task(get(reading, page()))
    await asyncio.sleep(1)
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    anew = asyncio.create_task(get(reading, page()))

    assert isinstance(kept, Done)
    assert isinstance(await anew, Done)
    assert graph.now == 0
    assert len(graph.requests) == 3


@in_virtual_time
async def test_an_operation_that_a_batch_left_unfinished_is_asked_again_alone() -> None:
    left = {"1003"}

    def behave(asked: Asked) -> Said:
        if asked.node in left:
            left.remove(asked.node)
            return NULL
        return Said({"data": [], "id": asked.node})

    graph, tally = FakeGraph(behave=behave), Tally()
    reading = upon(graph)

    outcomes = await asyncio.gather(
        *(get(reading, page(str(1000 + n)), batched=True, tally=tally) for n in range(5))
    )

    assert [type(each) for each in outcomes] == [Done] * 5
    assert [(each.node, each.batch) for each in graph.asked[5:]] == [("1003", None)]
    assert tally.calls == 6


@pytest.mark.parametrize("said", [UNKNOWN, error(2), error(1200), Said("", 503), Said(""), NULL])
@in_virtual_time
async def test_what_may_pass_is_asked_again_ever_later_and_not_for_ever(said: Said) -> None:
    graph, tally = FakeGraph(behave=lambda _: said), Tally()
    reading = upon(graph, jitter=1.0)

    outcome = await get(reading, page(), tally=tally)

    gaps = [b - a for a, b in zip(times(graph), times(graph)[1:], strict=False)]
    assert failures([outcome]) == [Failure.TRANSIENT]
    assert len(graph.asked) == tally.calls == ATTEMPTS
    assert gaps == sorted(gaps)
    assert gaps[-1] <= BACKOFF_MOST + 1


@pytest.mark.parametrize("body", [{}, {"data": {}}, {"id": "104"}, {"data": None}])
@in_virtual_time
async def test_an_object_without_a_list_answers_no_read_of_one(body: dict[str, object]) -> None:
    passing = FakeGraph(behave=in_turn(Said(body), Said()))
    lasting = FakeGraph(behave=lambda _: Said(body))

    done = await get(upon(passing), page())
    failed = await get(upon(lasting), page())

    assert isinstance(done, Done)
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.error.failure) == (
        "graph_answer_unreadable",
        Failure.TRANSIENT,
    )
    assert (len(passing.asked), len(lasting.asked)) == (2, ATTEMPTS)


@in_virtual_time
async def test_a_node_is_read_whatever_is_in_it() -> None:
    reading = upon(FakeGraph(behave=lambda _: Said({})))

    outcome = await reading.reads.get(page(), "7", "", {}, operation="thread", product=PRODUCT)

    assert isinstance(outcome, Done)


@pytest.mark.parametrize("code", [100, 10, 200, 368, 803, 9000001])
@in_virtual_time
async def test_what_stays_as_it_is_costs_one_call(code: int) -> None:
    graph = FakeGraph(behave=lambda _: error(code))

    outcome = await get(upon(graph), page())

    assert isinstance(outcome, Failed)
    assert outcome.reason == f"graph_{code}"
    assert len(graph.asked) == 1


@in_virtual_time
async def test_too_much_data_is_the_callers_to_shrink() -> None:
    small = Said({"error": {"code": 1, "message": "Please reduce the amount of data"}}, 500)
    large = Said(" " * (ANSWER_BYTES + 1))
    outcomes = []

    for said in (small, large):
        graph = FakeGraph(behave=in_turn(said))
        outcomes.append(await get(upon(graph), page()))
        assert len(graph.asked) == 1

    assert failures(outcomes) == [Failure.SHRINK] * 2


@in_virtual_time
async def test_what_times_out_twice_is_not_asked_a_third_time() -> None:
    graph = FakeGraph(latency=61)

    outcome = await get(upon(graph), page())

    assert isinstance(outcome, Failed)
    assert outcome.reason == "graph_timeout"
    assert len(graph.requests) == 2


@in_virtual_time
async def test_a_dead_token_costs_no_more_calls_and_is_told_of_once() -> None:
    graph = FakeGraph(behave=lambda _: error(190, error_subcode=460))
    reading = upon(graph)

    outcomes = await get_many(reading, page(), 40)
    outcomes += await get_many(reading, page(), 10)

    assert set(failures(outcomes)) == {Failure.TOKEN}
    assert len(graph.asked) <= 3
    assert [(each.version, said.reason) for each, said in reading.died] == [(1, "graph_190_460")]


@in_virtual_time
async def test_only_a_newer_token_opens_a_dead_page_again_and_others_were_never_shut() -> None:
    graph = FakeGraph(behave=lambda asked: Said() if asked.token != page().token else error(190))
    reading = upon(graph)
    await get(reading, page())

    shut = await get(reading, page())
    other = await get(reading, page("105"))
    anew = await get(reading, page(version=2))
    late = await get(reading, page())

    assert failures([shut, other, anew, late]) == [Failure.TOKEN] * 2
    assert [each.token for each in graph.asked] == [
        page().token,
        page("105").token,
        page(version=2).token,
    ]


@in_virtual_time
async def test_a_token_that_was_mended_at_metas_is_found_so_after_an_hour_by_one_call() -> None:
    graph = FakeGraph(behave=lambda _: error(190))
    reading = upon(graph)
    await get(reading, page())

    await asyncio.sleep(3_601)
    still_dead = await get_many(reading, page(), 10)
    asked = len(graph.asked)
    graph.behave = lambda _: Said()
    await asyncio.sleep(3_601)
    mended = [await get(reading, page()) for _ in range(3)]

    assert set(failures(still_dead)) == {Failure.TOKEN}
    assert asked == 2
    assert [type(each) for each in mended] == [Done] * 3
    assert len(reading.died) == 1


@in_virtual_time
async def test_when_the_version_is_gone_one_call_a_minute_asks_whether_it_still_is() -> None:
    graph = FakeGraph(behave=lambda _: error(2635))
    reading = upon(graph)
    await get(reading, page("1"))
    first = len(graph.asked)

    async def at_it(node: str) -> None:
        for number in range(600):
            await get(reading, page(node), number)
            await asyncio.sleep(1)

    await asyncio.gather(*(at_it(str(node)) for node in range(2, 12)))
    gone = metrics.registry.get_sample_value("pagewire_graph_version_gone")
    graph.behave = lambda _: Said()
    await asyncio.sleep(60)
    back = await get(reading, page("1"))

    assert first == 1
    assert len(graph.asked) - 1 - first <= 600 / 60 + 1
    assert gone == 1
    assert isinstance(back, Done)
    assert metrics.registry.get_sample_value("pagewire_graph_version_gone") == 0


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 8),
        ("315360000", 3_600, 3_602),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 2),
        ("-5", 0, 2),
    ],
)
@in_virtual_time
async def test_a_server_that_says_when_to_come_again_is_believed_up_to_an_hour(
    header: str, least: float, most: float
) -> None:
    said = Said("", 503, {"Retry-After": header})
    graph = FakeGraph(behave=in_turn(said, Said()))

    outcome = await get(upon(graph), page())

    assert isinstance(outcome, Done)
    assert least <= times(graph)[1] <= most
    assert most < PATIENCE_SECONDS + 3


@in_virtual_time
async def test_of_one_page_so_many_are_on_their_way_and_a_slow_one_holds_up_no_other() -> None:
    graph = FakeGraph(latency=59)
    reading = upon(graph, of_page=4)
    slow = asyncio.create_task(get_many(reading, page("104"), 12))
    await asyncio.sleep(10)
    on_their_way = graph.now

    graph.latency = 0.25
    begun = now()
    await get(reading, page("105"))
    took = now() - begun
    await slow

    assert on_their_way == 4
    assert took == pytest.approx(0.25)


@in_virtual_time
async def test_forty_pages_whose_reads_stall_delay_no_other_page() -> None:
    async def stalls(asked: Asked) -> Said:
        await asyncio.sleep(0 if asked.node == "999" else 3_600)
        return Said()

    reading = upon(FakeGraph(behave=stalls))
    stalled = [
        asyncio.create_task(get_many(reading, page(str(100 + number)), 60)) for number in range(40)
    ]
    took = []
    for number in range(20):
        await asyncio.sleep(6.1)
        begun = now()
        await get(reading, page("999"), number)
        took.append(round(now() - begun, 3))
    for each in stalled:
        each.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)

    assert took == [reading.graph.latency] * 20
    assert reading.graph.most_at_once < IN_FLIGHT


@in_virtual_time
async def test_a_page_has_more_on_its_way_again_once_others_have_less() -> None:
    graph = FakeGraph(latency=30)
    reading = upon(graph, in_flight=64)
    others = [
        asyncio.create_task(get_many(reading, page(str(105 + number)), 4)) for number in range(10)
    ]
    mine = asyncio.create_task(get_many(reading, page("104"), 60))
    await asyncio.sleep(20)
    beside_others = sum("/104/" in str(request.url) for request in graph.requests)
    await asyncio.gather(*others)
    graph.most_at_once = 0
    await asyncio.sleep(60)
    alone = graph.most_at_once
    await mine

    assert 1 <= beside_others < alone
    assert alone == 64 // 9, "an eighth of what is free beside them"
    assert len(graph.asked) == 100


@in_virtual_time
async def test_reads_that_wait_for_one_limit_keep_none_waiting_that_falls_under_another() -> None:
    graph = FakeGraph()
    reading = upon(graph, of_page=4)
    many = asyncio.create_task(get_many(reading, page(), 20))
    await asyncio.sleep(1)
    begun = now()

    await get(reading, page(), 100, product=Product.PAGE)

    assert now() - begun == pytest.approx(graph.latency)
    assert not many.done()
    await many


@in_virtual_time
async def test_a_read_that_is_given_up_while_it_waits_leaves_its_place_to_others() -> None:
    graph = FakeGraph()
    reading = upon(graph, of_page=1)
    tasks = [asyncio.create_task(get(reading, page(), number)) for number in range(4)]
    await asyncio.sleep(0.6)

    for task in tasks[1:3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    after = await get(reading, page(), 7)

    assert isinstance(tasks[3].result(), Done)
    assert isinstance(after, Done)


@in_virtual_time
async def test_heavy_reads_of_many_pages_go_together_in_small_batches() -> None:
    graph = FakeGraph()
    reading = upon(graph)

    await asyncio.gather(
        *(get(reading, page(str(n)), batched=True, weight=Weight.HEAVY) for n in range(16))
    )

    assert [request.method for request in graph.requests] == ["POST", "POST"]


@in_virtual_time
async def test_ids_that_are_numbers_keep_every_digit() -> None:
    graph = FakeGraph(
        behave=lambda _: Said('{"data":[],"id":9007199254740993,"to":123456789012345678901}')
    )
    reading = upon(graph)

    alone = await get(reading, page())
    gathered = await asyncio.gather(*(get(reading, page(str(n)), batched=True) for n in range(2)))

    assert graph.batches == 1
    for outcome in (alone, *gathered):
        assert isinstance(outcome, Done)
        assert outcome.body["id"] == 9007199254740993
        assert outcome.body["to"] == 123456789012345678901


@in_virtual_time
async def test_no_token_stands_in_an_address_or_a_log(caplog: pytest.LogCaptureFixture) -> None:
    graph = FakeGraph(behave=in_turn(error(1), error(190), Said(), NULL, Said()))
    reading = upon(graph)

    with caplog.at_level(logging.DEBUG):
        await get(reading, page("1"))
        await asyncio.gather(*(get(reading, page(str(n)), batched=True) for n in range(2, 6)))

    assert graph.batches
    assert not [record for record in caplog.records if "EAAtoken" in record.getMessage()]
    assert not [request for request in graph.requests if "EAAtoken" in str(request.url)]


@in_virtual_time
async def test_reads_and_their_ends_are_counted() -> None:
    graph = FakeGraph(behave=in_turn(NULL, error(613), Said()))

    await get(upon(graph), page(), operation="counted")

    ends = {
        end: metrics.registry.get_sample_value(
            "pagewire_graph_reads_total", {"operation": "counted", "end": end}
        )
        for end in ("unfinished", "throttled", "done")
    }
    assert ends == {"unfinished": 1, "throttled": 1, "done": 1}
