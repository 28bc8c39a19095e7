"""What Graph may answer to a read of history, over real sockets: nothing is lost, doubled or
believed that is not so, other pages go on, and the next read is good.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

import pytest

from pagewire.type.v1.event_pb2 import MessageDetail
from pagewire.type.v1.sync_run_pb2 import SyncState
from pagewire_runtime import metrics
from pagewire_sync.batches import Batches
from pagewire_sync.budget import RATES, Budget, Product, Rate
from pagewire_sync.graph import Credentials, Graph, Hosts, open_transport
from pagewire_sync.mirroring import Mirroring
from pagewire_sync.progress import Progress
from pagewire_sync.reading import Reads, Tally
from pagewire_sync.results import Done, Failed, Outcome
from pagewire_sync.shown import MAX_ATTACHMENTS
from tests.hostile import cases
from tests.hostile.cases import Case
from tests.support import inbox
from tests.support.fakegraph import APP, page
from tests.support.inbox import FakeIngest
from tests.support.mirror import service
from tests.support.rawgraph import Asked, RawGraph, http, raw_graph
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows
from tests.support.wellness import peak_of, reset_peak

if TYPE_CHECKING:
    from pagewire.store.v1.mirror_service_pb2_grpc import MirrorServiceAsyncStub

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows", "service"]

READS = [case for case in cases.of("graph") if case.answers == "a read"]
PAGES = ("104200000000001", "104200000000002", "104200000000003")
MIB = 2**20
PEAK_BYTES = 64 * MIB
"""What may be held for a moment, by Graph's part as well, which is in this process."""
BEYOND_DOUBLES = 9_007_199_254_740_993
BUSY = json.dumps({PAGES[0]: [{"type": "messenger", "call_count": 105}]})

Says = Callable[[Asked], bytes]


@dataclass
class Upon:
    """Reads upon a Graph made of bytes, which says what it says for as long as it is let."""

    says: Says
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
        writer.write(upon.says(server.requests[-1]))
        await writer.drain()

    budget = Budget({**RATES, Product.CONVERSATIONS: Rate(1_000, 1)})
    async with raw_graph(behave) as server, open_transport() as transport:
        graph = Graph(transport, Hosts(server.url, server.url, "v25.0"), APP, budget)
        batches = Batches(graph, window_seconds=0.2)

        async def nobody(*_: object) -> None:
            raise AssertionError("no token died")

        reads = Reads(batches, budget, token_died=nobody, jitter=lambda _: 0.0)
        upon = Upon(says, reads, budget, server, Tally())
        yield upon
        await batches.close()


def good(asked: Asked) -> bytes:
    """As Graph answers, also to a batch."""
    if asked.line.startswith("POST"):
        return batch(*map(entry, _operations(asked)))
    return http(json.dumps({"data": [{"id": _node(asked)}]}).encode())


def _node(asked: Asked) -> str:
    return asked.line.split()[1].removeprefix("/v25.0/").partition("/")[0]


def _operations(asked: Asked) -> list[str]:
    """Whose they are, one by one."""
    operations = json.loads(parse_qs(asked.body.decode())["batch"][0])
    return [each["relative_url"].partition("/")[0] for each in operations]


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


@dataclass(frozen=True)
class Kept:
    """The store, and what is in it."""

    mirror: "MirrorServiceAsyncStub"
    rows: Rows


async def null_entries(upon: Upon, _: Kept) -> None:
    outcomes = await upon.get_all()

    assert ids(outcomes) == list(PAGES)
    assert len(_operations(upon.server.requests[0])) == 3
    assert upon.asked() == ["POST", "GET", "GET"]
    assert sorted(map(_node, upon.server.requests[1:])) == [PAGES[0], PAGES[2]]
    assert upon.tally.calls == 5


async def a_short_batch(upon: Upon, _: Kept) -> None:
    outcomes = await upon.get_all()

    assert ids(outcomes) == list(PAGES)
    assert upon.asked() == ["POST", "GET", "GET", "GET"]


async def a_thousand_attachments(upon: Upon, kept: Kept) -> None:
    await kept.rows.add_page(PAGES[0])
    progress = Progress.of(inbox.claimed())

    await Mirroring(upon.reads, Tokens(), kept.mirror, FakeIngest()).mirror(progress)

    stored = [
        [each.url for each in MessageDetail.FromString(row.attachments).attachments]
        for row in await kept.rows.query("select attachments from message")
    ]
    assert progress.run.state == SyncState.SYNC_STATE_SUCCEEDED
    assert stored == [[URL] * MAX_ATTACHMENTS] * MESSAGES


class Tokens:
    """Of the one page."""

    async def of(self, page_id: str, version: int) -> Credentials:
        return inbox.credentials()


MESSAGES = 200
URL = "https://x.example/" + "a" * 80


def _attached() -> bytes:
    """A thread whose messages have a hundred attachments each."""
    attached = {"data": [{"id": "7", "image_data": {"url": URL}}] * 100}
    messages = [
        {
            "id": f"m_{number}",
            "created_time": "2021-07-23T09:50:48+0000",
            "from": {"id": "7100"},
            "attachments": attached,
        }
        for number in range(MESSAGES)
    ]
    thread = {
        "id": "t_1",
        "updated_time": "2021-07-23T09:50:48+0000",
        "participants": {"data": [{"id": "7100"}, {"id": PAGES[0]}]},
        "messages": {"data": messages},
    }
    return http(json.dumps({"data": [thread]}).encode())


def in_lists_of_threads(answer: bytes) -> Says:
    """These are answered so; the page has no labels."""
    none = http(json.dumps({"data": []}).encode())
    return lambda asked: answer if "/conversations" in asked.line else none


class Odd(NamedTuple):
    """What Graph says, and what comes of it."""

    says: Says
    found: Callable[[Upon, Kept], Awaitable[None]]


ODD = {
    "graph_batch_null_entries": Odd(
        in_batches(batch(None, entry(PAGES[1]), None)),
        null_entries,
    ),
    "graph_batch_short": Odd(
        in_batches(batch(entry(PAGES[1]), entry(PAGES[2]))),
        a_short_batch,
    ),
    "graph_message_1000_attachments": Odd(
        in_lists_of_threads(_attached()),
        a_thousand_attachments,
    ),
}


@pytest.mark.parametrize("case", READS, ids=[case.name for case in READS])
async def test_an_answer_to_reads_leaves_each_with_its_own_end_and_harms_nothing(
    case: Case, service: "MirrorServiceAsyncStub", rows: Rows
) -> None:
    odd = ODD[case.name]
    reset_peak(os.getpid())
    before = peak_of(os.getpid())
    async with saying(odd.says) as upon:
        await odd.found(upon, Kept(service, rows))
        peak = peak_of(os.getpid())
        upon.says = good
        next_ones = [await upon.get(PAGES[0]), *await upon.get_all()]

    assert ids(next_ones) == [PAGES[0], *PAGES]
    assert upon.asked()[-2:] == ["GET", "POST"]
    assert peak - before < PEAK_BYTES


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
