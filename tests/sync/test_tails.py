import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import msgspec

from pagewire_sync.asking import Asking
from pagewire_sync.batches import HEAVY_MOST
from pagewire_sync.budget import Product
from pagewire_sync.graph import Credentials
from pagewire_sync.progress import CHECKPOINT_BYTES, Progress
from pagewire_sync.results import Done
from pagewire_sync.tails import WAITING_BYTES, WAITING_MOST, Store, Tail, Tails
from tests.support.fakegraph import NULL, UNKNOWN, Asked, FakeGraph, Reading, Said, page
from tests.support.fakegraph import reading as upon
from tests.support.inbox import claimed
from tests.support.virtual import in_virtual_time


@dataclass
class Pages:
    """Tails of one page of items each; keeps which were stored."""

    product: Product = Product.CONVERSATIONS
    operation: str = "messages"
    stored: list[str] = field(default_factory=list)

    def most(self, tail: Tail) -> int:
        return 500

    def params(self, tail: Tail) -> dict[str, str]:
        return {"fields": "id"}

    def shown(self, tail: Tail, read: Done) -> tuple[list[str], str, Store]:
        return ["m_1"], "", partial(self._store, tail)

    async def _store(self, tail: Tail) -> None:
        self.stored.append(tail.of)


def tail(number: int, *, cursor: str = "c") -> Tail:
    thread = f"t_{number}"
    return Tail(thread, thread, "messages", f"7{number}", 0.0, 0.0, cursor, cursor)


def tails(reading: Reading, credentials: Credentials, source: Pages) -> Tails:
    progress = Progress.of(claimed())
    asking = Asking(reading.reads, credentials, progress.tally)
    return Tails(asking, progress, source, lambda: None)


async def read(of_pages: Mapping[str, int], graph: FakeGraph) -> dict[str, tuple[Tails, Pages]]:
    """So many tails of each page, all at once, read to their end."""
    reading = upon(graph)
    made = {}
    for page_id in of_pages:
        source = Pages()
        made[page_id] = tails(reading, page(page_id), source), source
    async with asyncio.TaskGroup() as tasks:
        for page_id, count in of_pages.items():
            for number in range(count):
                made[page_id][0].begin(tail(number), tasks)
    return made


def methods(graph: FakeGraph) -> list[str]:
    return [request.method for request in graph.requests]


@in_virtual_time
async def test_tails_that_wait_at_the_same_time_go_together_in_small_batches() -> None:
    graph = FakeGraph()
    pages = {str(104 + number): 2 for number in range(2 * HEAVY_MOST)}

    made = await read(pages, graph)

    assert methods(graph) == ["POST"] * 4
    assert all(sorted(source.stored) == ["t_0", "t_1"] for _, source in made.values())
    assert {each.progress.tally.calls for each, _ in made.values()} == {2}


@in_virtual_time
async def test_a_lone_tail_is_a_plain_call() -> None:
    graph = FakeGraph()

    await read({"104": 1}, graph)

    assert methods(graph) == ["GET"]


@in_virtual_time
async def test_a_tail_that_a_batch_left_unfinished_is_asked_alone_and_both_calls_count() -> None:
    graph = FakeGraph(behave=lambda asked: NULL if asked.batch and asked.node == "t_0" else Said())

    made = await read({"104": 1, "105": 1}, graph)

    assert methods(graph) == ["POST", "GET", "GET"]
    assert [each.progress.tally.calls for each, _ in made.values()] == [2, 2]
    assert [source.stored for _, source in made.values()] == [["t_0"], ["t_0"]]


@in_virtual_time
async def test_a_tail_that_fails_alone_too_is_passed_by_and_the_others_of_its_batch_are_read() -> (
    None
):
    def behave(asked: Asked) -> Said:
        poisoned = asked.token.startswith("EAAtoken-of-104") and asked.edge == "messages"
        return UNKNOWN if poisoned else Said({"data": [], "id": asked.node})

    graph = FakeGraph(behave=behave)

    made = await read({"104": 1, "105": 1}, graph)

    (poisoned, nothing), (_, other) = made.values()
    of_batches = [each for each in graph.asked if each.batch]
    assert nothing.stored == []
    assert poisoned.progress.run.unreadable == 1
    assert other.stored == ["t_0"]
    assert len(of_batches) == 2


@asynccontextmanager
async def held_up(cursor: str, count: int) -> AsyncIterator[tuple[Tails, Callable[[], None]]]:
    """So many tails that wait for Graph, and how it is told to answer."""
    may = asyncio.Event()

    async def behave(asked: Asked) -> Said:
        await may.wait()
        return Said()

    made = tails(upon(FakeGraph(behave=behave)), page(), Pages())
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            made.begin(tail(number, cursor=cursor), tasks)
        yield made, may.set
        may.set()


async def waits(room: Awaitable[None]) -> bool:
    """Whether it goes on waiting for a minute."""
    waiting = asyncio.ensure_future(room)
    done, _ = await asyncio.wait([waiting], timeout=60)
    waiting.cancel()
    return not done


@in_virtual_time
async def test_the_walk_waits_while_what_waits_is_many_or_large() -> None:
    async with held_up("c", WAITING_MOST - 1) as (few, _):
        assert not await waits(few.room())
    async with held_up("c", WAITING_MOST) as (many, _):
        assert await waits(many.room())
    async with held_up("c" * 1_000, 300) as (large, answer):
        assert await waits(large.room())
        assert WAITING_BYTES < len(msgspec.json.encode(large.waiting)) < CHECKPOINT_BYTES
        answer()
        await large.room()
        assert len(msgspec.json.encode(large.waiting)) < WAITING_BYTES
