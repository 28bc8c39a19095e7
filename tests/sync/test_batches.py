import asyncio
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_sync.batches import HEAVY_MOST, MOST, Batches, Operation, Part, Weight, read_batch
from pagewire_sync.budget import Product
from pagewire_sync.failures import Failure
from pagewire_sync.graph import BATCH_ANSWER_BYTES, Credentials
from pagewire_sync.results import Done, Failed, Result, Unfinished
from tests.support.fakegraph import (
    NULL,
    FakeGraph,
    Reading,
    Said,
    account,
    error,
    form,
    page,
    reading,
    streamed,
)
from tests.support.virtual import in_virtual_time

PRODUCT = Product.CONVERSATIONS


def read_of(credentials: Credentials, weight: Weight = Weight.LIGHT) -> Operation:
    params = {"fields": "id", "limit": "5"}
    return Operation(
        credentials, credentials.page_id, "conversations", params, "threads", weight, PRODUCT
    )


def pages(count: int) -> list[Credentials]:
    return [page(str(1000 + number)) for number in range(count)]


async def asked(batches: Batches, operations: Sequence[Operation]) -> list[Result]:
    return await asyncio.gather(*map(batches.gathered, operations))


def naming(graph: FakeGraph) -> None:
    """Answers name the node they are of."""
    graph.behave = lambda asked: Said({"data": [], "id": asked.node})


def proof(token: str, secret: str = "app-secret") -> str:
    return hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()


def reasons(results: Sequence[Result]) -> list[str]:
    return [r.reason if isinstance(r, Unfinished | Failed) else "done" for r in results]


@in_virtual_time
async def test_reads_of_many_pages_go_in_one_request_each_with_its_own_token_and_proof() -> None:
    graph = FakeGraph()
    naming(graph)
    batches = reading(graph).batches

    results = await asked(batches, [read_of(each) for each in pages(3)])

    (request,) = graph.requests
    top = "880000000000010|app-secret"
    fields = form(request)
    assert (request.method, str(request.url)) == ("POST", "https://facebook.example/v25.0/")
    assert (fields["access_token"], fields["appsecret_proof"]) == (top, proof(top))
    assert fields["include_headers"] == "true"
    assert [(each["method"], each["omit_response_on_success"]) for each in _batch(request)] == [
        ("GET", False)
    ] * 3
    assert [(each.node, each.token, each.proof) for each in graph.asked] == [
        (each.page_id, each.token, proof(each.token)) for each in pages(3)
    ]
    assert [each.params for each in graph.asked] == [{"fields": "id", "limit": "5"}] * 3
    assert [result.body["id"] for result in results if isinstance(result, Done)] == [
        each.page_id for each in pages(3)
    ]


@in_virtual_time
async def test_a_lone_read_is_a_plain_call_after_a_few_milliseconds() -> None:
    graph = FakeGraph()
    begun = asyncio.get_running_loop().time()

    result = await reading(graph).batches.gathered(read_of(page()))

    (request,) = graph.requests
    assert isinstance(result, Done)
    assert request.method == "GET"
    assert page().token not in str(request.url)
    assert graph.asked[0].at - begun == pytest.approx(0.005 + graph.latency)


@in_virtual_time
async def test_no_batch_has_more_than_fifty() -> None:
    graph = FakeGraph()
    naming(graph)

    results = await asked(reading(graph).batches, [read_of(each) for each in pages(2 * MOST + 1)])

    assert Counter(each.batch for each in graph.asked) == {1: MOST, 2: MOST, None: 1}
    assert graph.most_at_once == 3
    assert [result.body["id"] for result in results if isinstance(result, Done)] == [
        each.page_id for each in pages(2 * MOST + 1)
    ]


@in_virtual_time
async def test_heavy_reads_go_in_small_batches_apart_from_light_ones() -> None:
    graph = FakeGraph()
    heavy = pages(2 * HEAVY_MOST)
    light = [page(str(2000 + number)) for number in range(20)]

    await asked(
        reading(graph).batches,
        [*(read_of(each, Weight.HEAVY) for each in heavy), *map(read_of, light)],
    )

    of_batch = [{each.node for each in graph.asked if each.batch == number} for number in (1, 2, 3)]
    assert sorted(map(len, of_batch)) == [HEAVY_MOST, HEAVY_MOST, 20]
    assert {each.page_id for each in light} in of_batch


@in_virtual_time
async def test_instagrams_own_host_is_sent_no_batches_unless_that_is_switched_on() -> None:
    off, on = FakeGraph(), FakeGraph()
    operations = [read_of(account("178")), read_of(account("179"))]

    await asked(reading(off).batches, operations)
    await asked(reading(on, instagram=True).batches, operations)

    assert [request.method for request in off.requests] == ["GET", "GET"]
    (request,) = on.requests
    token = account("178").token
    assert str(request.url) == "https://instagram.example/v25.0/"
    assert form(request)["access_token"] == token
    assert form(request)["appsecret_proof"] == proof(token, "instagram-secret")


@in_virtual_time
async def test_the_hosts_are_never_mixed() -> None:
    graph = FakeGraph()
    operations = [read_of(each) for each in (page("1"), account("2"), page("3"), account("4"))]

    await asked(reading(graph, instagram=True).batches, operations)

    nodes = [{each.node for each in graph.asked if each.batch == number} for number in (1, 2)]
    assert sorted(nodes, key=min) == [{"1", "3"}, {"2", "4"}]


@in_virtual_time
async def test_each_operation_ends_by_itself() -> None:
    said = {
        "1000": Said({"data": [], "id": "1000"}),
        "1001": NULL,
        "1002": error(960, 500, "Request aborted."),
        "1003": error(100, 400),
        "1004": Said("no JSON"),
        "1005": Said("[1]"),
        "1006": error(190, 401),
        "1007": Said({"success": False}),
    }
    graph = FakeGraph(behave=lambda asked: said[asked.node])

    results = await asked(reading(graph).batches, [read_of(each) for each in pages(8)])

    assert reasons(results) == [
        "done",
        "batch_null",
        "batch_timeout",
        "graph_100",
        "answer_unreadable",
        "answer_unreadable",
        "graph_190",
        "http_200",
    ]


WHOLE = {
    "nothing": (200, b"", "answer_unreadable"),
    "a proxy's page": (200, b"<p>Back soon</p>", "answer_unreadable"),
    "an object": (200, b"{}", "answer_unreadable"),
    "null": (200, b"null", "answer_unreadable"),
    "too few": (200, b'[{"code":200,"body":"{}"}]', "batch_length"),
    "too many": (200, b'[{"code":200,"body":"{}"},null,null]', "batch_length"),
    "entries of other types": (200, b'[[],{"code":"200","body":"{}"}]', "answer_unreadable"),
    "bodies that are no strings": (200, b'[{"code":200,"body":{}},7]', "answer_unreadable"),
    "refused": (400, b'{"error":{"message":"no","type":"GraphBatchException"}}', "batch_refused"),
    "its own token refused": (400, b'{"error":{"code":190}}', "batch_refused"),
    "an error with 200": (200, b'{"error":{"code":1}}', "batch_refused"),
    "a server's error": (502, b"<p>Sorry</p>", "batch_refused"),
    "an array that is no success": (500, b"[null,null]", "batch_refused"),
}


@pytest.mark.parametrize(("status", "content", "reason"), WHOLE.values(), ids=WHOLE.keys())
@in_virtual_time
async def test_of_an_answer_that_is_none_each_operation_is_unfinished(
    status: int, content: bytes, reason: str
) -> None:
    graph = FakeGraph(around=lambda _: streamed(status, content))

    results = await asked(reading(graph).batches, [read_of(each) for each in pages(2)])

    assert results == [Unfinished(reason)] * 2
    assert len(graph.requests) == 1


@in_virtual_time
async def test_what_befalls_the_connection_leaves_each_operation_unfinished() -> None:
    def broken(_: bytes) -> httpx.Response:
        raise httpx.ReadError("broken")

    graph = FakeGraph(around=broken)

    results = await asked(reading(graph).batches, [read_of(each) for each in pages(2)])

    assert results == [Unfinished("connection_lost")] * 2
    assert len(graph.requests) == 1


@in_virtual_time
async def test_of_a_batch_more_is_read_than_of_a_call_and_not_without_bound() -> None:
    sizes = {"1000": 5, "1001": 9}
    graph = FakeGraph(
        behave=lambda asked: Said({"data": [], "text": "x" * (sizes[asked.node] * 2**20)})
    )
    batches = reading(graph).batches

    fine = await asked(batches, [read_of(each) for each in pages(2)])
    graph.around = lambda _: streamed(200, b" " * (BATCH_ANSWER_BYTES + 1))
    beyond = await asked(batches, [read_of(each) for each in pages(2)])

    assert reasons(fine) == ["done", "done"]
    assert beyond == [Unfinished("answer_too_large")] * 2


@in_virtual_time
async def test_each_operations_headers_correct_its_own_pages_budget() -> None:
    usage = json.dumps({"1001": [{"call_count": 99, "estimated_time_to_regain_access": 2}]})
    headers = {"X-Business-Use-Case-Usage": usage}
    graph = FakeGraph(behave=lambda asked: Said(headers=headers if asked.node == "1001" else {}))
    upon = reading(graph)

    await asked(upon.batches, [read_of(each) for each in pages(3)])

    assert stopped(upon, "1000", "1001", "1002") == [0, 120, 0]
    assert upon.budget.left_percent("1001") == 1
    assert upon.budget.wait("1001", Product.SEND, asyncio.get_running_loop().time()) == 0


@in_virtual_time
async def test_only_code_four_about_the_whole_stops_all() -> None:
    graph = FakeGraph(around=lambda _: streamed(403, b'{"error":{"code":4}}'))
    upon = reading(graph)

    results = await asked(upon.batches, [read_of(each) for each in pages(2)])

    assert [r.error.failure for r in results if isinstance(r, Failed)] == [
        Failure.APP_THROTTLED
    ] * 2
    assert stopped(upon, "1000", "77") == [60, 60]


@in_virtual_time
async def test_whoever_goes_meanwhile_is_left_out_and_takes_nobody_along() -> None:
    graph = FakeGraph()
    naming(graph)
    batches = reading(graph).batches
    first, second, third = (
        asyncio.create_task(batches.gathered(read_of(each))) for each in pages(3)
    )
    await asyncio.sleep(0)

    second.cancel()
    results = await asyncio.gather(first, third)

    assert [each.node for each in graph.asked] == ["1000", "1002"]
    assert [result.body["id"] for result in results if isinstance(result, Done)] == ["1000", "1002"]


@in_virtual_time
async def test_what_is_under_way_ends_when_it_is_closed() -> None:
    graph = FakeGraph(latency=1_000)
    batches = reading(graph).batches
    sent = asyncio.create_task(asked(batches, [read_of(each) for each in pages(2)]))
    await asyncio.sleep(1)
    gathered = asyncio.create_task(batches.gathered(read_of(page())))
    await asyncio.sleep(0)

    await batches.close()
    ended = await asyncio.gather(sent, gathered, return_exceptions=True)

    assert [type(each) for each in ended] == [asyncio.CancelledError] * 2
    assert graph.now == 0


@in_virtual_time
async def test_requests_on_their_way_are_bounded() -> None:
    graph = FakeGraph()
    batches = reading(graph, in_flight=3, heavy_most=2).batches

    await asked(batches, [read_of(each, Weight.HEAVY) for each in pages(20)])

    assert graph.batches == 10
    assert graph.most_at_once == 3


@in_virtual_time
async def test_a_done_read_tells_when_its_call_went_out_and_hides_what_it_says() -> None:
    graph = FakeGraph(behave=lambda _: Said({"data": [], "message": "a secret", "usage": 1}))

    result = await reading(graph).batches.gathered(read_of(page()))

    assert isinstance(result, Done)
    assert result.read_time.tzinfo is not None
    assert "a secret" not in repr(result)


def _batch(request: httpx.Request) -> list[dict[str, Any]]:
    batch: list[dict[str, Any]] = json.loads(form(request)["batch"])
    return batch


def stopped(upon: Reading, *page_ids: str) -> list[float]:
    now = asyncio.get_running_loop().time()
    return [round(upon.budget.wait(each, Product.CONVERSATIONS, now)) for each in page_ids]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
part = st.fixed_dictionaries(
    {},
    optional={
        "code": anything | st.integers(-1, 700),
        "body": anything | anything.map(json.dumps),
        "headers": anything
        | st.lists(st.fixed_dictionaries({}, optional={"name": anything, "value": anything})),
    },
)
answers = anything | st.lists(st.none() | part | anything, max_size=5)


@given(st.integers(100, 599), answers.map(json.dumps).map(str.encode) | st.binary(), st.integers(2))
def test_whatever_is_answered_there_is_one_result_an_operation(
    status: int, content: bytes, count: int
) -> None:
    count = 2 + count % 4

    results = read_batch(status, content, count)

    assert len(results) == count
    assert all(isinstance(result, Part | Failed | Unfinished) for result in results)


@given(st.lists(st.none() | part | anything, min_size=2, max_size=5))
def test_whatever_an_operation_is_answered_it_ends(entries: list[Any]) -> None:
    content = json.dumps(entries).encode()

    @in_virtual_time
    async def run() -> None:
        graph = FakeGraph(around=lambda _: streamed(200, content))
        results = await asked(
            reading(graph).batches, [read_of(each) for each in pages(len(entries))]
        )

        assert len(results) == len(entries)
        assert all(isinstance(result, Done | Failed | Unfinished) for result in results)

    run()
