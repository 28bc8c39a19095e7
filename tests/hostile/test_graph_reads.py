"""What Graph may answer to a read of history, over real sockets: nothing is lost, doubled or
believed that is not so, and other pages go on.
"""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs

import pytest

from pagewire_runtime import metrics
from pagewire_sync.batches import Batches
from pagewire_sync.budget import RATES, Budget, Product, Rate
from pagewire_sync.graph import Graph, Hosts, open_transport
from pagewire_sync.reading import Reads, Tally
from pagewire_sync.results import Done, Failed, Outcome
from pagewire_sync.shown import MAX_ATTACHMENTS, Refused, thread_of
from tests.hostile import cases
from tests.hostile.cases import Case
from tests.support.fakegraph import APP, page
from tests.support.rawgraph import Asked, RawGraph, http, raw_graph

READS = [case for case in cases.of("graph") if case.answers == "a read"]
PAGES = ("104200000000001", "104200000000002", "104200000000003")
MIB = 2**20
PEAK_BYTES = 64 * MIB
BEYOND_DOUBLES = 9_007_199_254_740_993
BUSY = json.dumps({PAGES[0]: [{"type": "messenger", "call_count": 105}]})

Says = Callable[[Asked], bytes]


@dataclass
class Upon:
    """Reads upon a Graph made of bytes."""

    reads: Reads
    budget: Budget
    server: RawGraph
    tally: Tally

    async def get(self, page_id: str, *, batched: bool = False) -> Outcome:
        """A page's newest threads."""
        return await self.reads.get(
            page(page_id),
            page_id,
            "conversations",
            {"fields": "id"},
            operation="hostile",
            product=Product.CONVERSATIONS,
            batched=batched,
            tally=self.tally,
        )

    async def get_all(self) -> list[Outcome]:
        """Of all pages together."""
        return await asyncio.gather(*(self.get(each, batched=True) for each in PAGES))

    def wait(self, page_id: str) -> float:
        """How long the page's next read must wait."""
        now = asyncio.get_running_loop().time()
        return self.budget.wait(page_id, Product.CONVERSATIONS, now)

    def asked(self) -> list[str]:
        """The methods of what was asked."""
        return [each.line.split()[0] for each in self.server.requests]


@asynccontextmanager
async def saying(says: Says) -> AsyncIterator[Upon]:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says(server.requests[-1]))
        await writer.drain()

    budget = Budget({**RATES, Product.CONVERSATIONS: Rate(1_000, 1)})
    async with raw_graph(behave) as server, open_transport() as transport:
        graph = Graph(transport, Hosts(server.url, server.url, "v25.0"), APP, budget)
        batches = Batches(graph, window_seconds=0.2)

        async def nobody(*_: object) -> None:
            raise AssertionError("no token died")

        reads = Reads(batches, budget, token_died=nobody, jitter=lambda _: 0.0)
        yield Upon(reads, budget, server, Tally())
        await batches.close()


def good(asked: Asked) -> bytes:
    return http(json.dumps({"data": [{"id": _node(asked)}]}).encode())


def _node(asked: Asked) -> str:
    return asked.line.split()[1].removeprefix("/v25.0/").partition("/")[0]


def _operations(asked: Asked) -> int:
    return len(json.loads(parse_qs(asked.body.decode())["batch"][0]))


def entry(page_id: str, **headers: str) -> object:
    listed = [{"name": name.replace("_", "-"), "value": said} for name, said in headers.items()]
    body = json.dumps({"data": [{"id": page_id}]})
    return {"code": 200, "headers": listed, "body": body}


def batch(*entries: object) -> bytes:
    return http(json.dumps(entries).encode())


def in_batches(answer: bytes) -> Says:
    """Batches are answered so, plain calls as they should be."""
    return lambda asked: answer if asked.line.startswith("POST") else good(asked)


def ids(outcomes: list[Outcome]) -> list[str]:
    return [each.body["data"][0]["id"] for each in outcomes if isinstance(each, Done)]


async def null_entries() -> None:
    async with saying(in_batches(batch(None, entry(PAGES[1]), None))) as upon:
        outcomes = await upon.get_all()

    assert ids(outcomes) == list(PAGES)
    assert _operations(upon.server.requests[0]) == 3
    assert upon.asked() == ["POST", "GET", "GET"]
    assert sorted(map(_node, upon.server.requests[1:])) == [PAGES[0], PAGES[2]]
    assert upon.tally.calls == 5


async def a_short_batch() -> None:
    short = batch(entry(PAGES[1]), entry(PAGES[2]))
    async with saying(in_batches(short)) as upon:
        outcomes = await upon.get_all()

    assert ids(outcomes) == list(PAGES)
    assert upon.asked() == ["POST", "GET", "GET", "GET"]


async def a_thousand_attachments() -> None:
    attached = {"data": [{"id": "7", "image_data": {"url": "https://x.example/" + "a" * 80}}] * 100}
    people = {"data": [{"id": "7100"}, {"id": PAGES[0]}]}
    messages = [
        {
            "id": f"m_{number}",
            "created_time": "2021-07-23T09:50:48+0000",
            "from": {"id": "7100"},
            "attachments": attached,
        }
        for number in range(200)
    ]
    thread = {
        "id": "t_1",
        "updated_time": "2021-07-23T09:50:48+0000",
        "participants": people,
        "messages": {"data": messages},
    }
    answer = http(json.dumps({"data": [thread]}).encode())
    async with saying(lambda _: answer) as upon:
        tracemalloc.start()
        try:
            outcome = await upon.get(PAGES[0])
            assert isinstance(outcome, Done)
            shown = thread_of(outcome.body["data"][0], {PAGES[0]}, Refused())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert {len(message.attachments) for message in shown.messages} == {MAX_ATTACHMENTS}
    assert len(shown.messages) == 200
    assert peak < PEAK_BYTES


ODD = {
    "graph_batch_null_entries": null_entries,
    "graph_batch_short": a_short_batch,
    "graph_message_1000_attachments": a_thousand_attachments,
}


@pytest.mark.parametrize("case", READS, ids=[case.name for case in READS])
async def test_an_answer_to_reads_leaves_each_with_its_own_end(case: Case) -> None:
    await ODD[case.name]()


async def test_ids_that_are_numbers_keep_every_digit() -> None:
    body = json.dumps({"data": [{"id": BEYOND_DOUBLES}]})
    whole = batch(*[{"code": 200, "headers": [], "body": body}] * 3)
    async with saying(lambda asked: whole if asked.line[0] == "P" else http(body.encode())) as upon:
        outcomes = [await upon.get(PAGES[0]), *await upon.get_all()]

    assert [each.body["data"][0]["id"] for each in outcomes if isinstance(each, Done)] == [
        BEYOND_DOUBLES
    ] * 4


async def test_usage_headers_that_are_none_are_counted_and_those_above_a_hundred_believed() -> None:
    def unreadable() -> float:
        return metrics.registry.get_sample_value("pagewire_graph_usage_unreadable_total") or 0

    garbage = entry(PAGES[1], X_Business_Use_Case_Usage="{nonsense", X_App_Usage="\xff[[")
    busy = entry(PAGES[0], X_Business_Use_Case_Usage=BUSY)
    odd = {"code": 200, "headers": {"X-App-Usage": 7}, "body": json.dumps({"data": [{"id": "7"}]})}
    before = unreadable()
    async with saying(in_batches(batch(busy, garbage, odd))) as upon:
        outcomes = await upon.get_all()
        waits = [upon.wait(each) for each in PAGES]

    assert all(isinstance(each, Done) for each in outcomes)
    assert waits[0] > 30
    assert max(waits[1:]) < 1
    assert unreadable() == before + 2


@pytest.mark.parametrize("said", ["315360000", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_limit_with_any_retry_after_makes_the_page_wait_for_an_hour_at_the_most(
    said: str,
) -> None:
    limit = b'{"error":{"message":"calls within one second","code":613}}'
    answer = http(limit, f"Retry-After: {said}", status="400 Bad Request")
    async with saying(lambda _: answer) as upon:
        read = asyncio.create_task(upon.get(PAGES[0]))
        async with asyncio.timeout(60):
            while upon.wait(PAGES[0]) <= 1:
                await asyncio.sleep(0.01)
        wait = upon.wait(PAGES[0])
        read.cancel()

    assert wait <= 3_600
    assert len(upon.server.requests) == 1


async def test_an_endless_batch_is_read_to_its_bound_and_its_reads_go_singly() -> None:
    large = http(b"[" + b" " * 34 * MIB + b"]")
    async with saying(in_batches(large)) as upon:
        outcomes = await upon.get_all()

    assert ids(outcomes) == list(PAGES)
    assert upon.asked() == ["POST", "GET", "GET", "GET"]


async def test_a_redirect_takes_no_token_along() -> None:
    answer = http(b"", "Location: /caught", status="302 Found")
    async with saying(lambda _: answer) as upon:
        outcome = await upon.get(PAGES[0])

    assert isinstance(outcome, Failed)
    assert not [each for each in upon.server.requests if "caught" in each.line]


async def test_the_catalogue_names_what_is_made_here() -> None:
    assert {case.name for case in READS} == ODD.keys()
