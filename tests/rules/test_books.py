import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import pytest

from pagewire.store.v1.rule_book_service_pb2 import (
    GetRuleBooksRequest,
    GetRuleBooksResponse,
    RuleBook,
)
from pagewire.type.v1.event_pb2 import Trigger
from pagewire.type.v1.rule_pb2 import Rule
from pagewire_rules.books import Books, StoreShelf, compiled_rule
from pagewire_runtime.errors import Unavailable

if TYPE_CHECKING:
    from pagewire.store.v1.rule_book_service_pb2_grpc import RuleBookServiceAsyncStub


class FakeShelf:
    """Rule books by page, and how often they were asked for."""

    def __init__(self, **versions: int) -> None:
        self.versions = versions
        self.asked: list[Sequence[str]] = []
        self.gate: asyncio.Event | None = None

    async def fetch(self, page_ids: Sequence[str]) -> Sequence[RuleBook]:
        self.asked.append(tuple(page_ids))
        if self.gate is not None:
            await self.gate.wait()
        return [
            RuleBook(page_id=page_id, version=self.versions[page_id], connected=True)
            for page_id in page_ids
        ]


async def test_a_book_that_is_new_enough_is_not_loaded_again() -> None:
    shelf = FakeShelf(page=7)
    books = Books(shelf)

    await books.at_least({"page": 7})
    await books.at_least({"page": 5})

    assert shelf.asked == [("page",)]


async def test_a_replica_that_is_behind_loads_first() -> None:
    shelf = FakeShelf(page=7)
    books = Books(shelf)
    await books.at_least({"page": 7})
    shelf.versions["page"] = 8

    loaded = await books.at_least({"page": 8})

    assert loaded["page"].version == 8


async def test_a_page_without_any_rule_has_an_empty_book() -> None:
    loaded = await Books(FakeShelf(page=0)).at_least({"page": 0})

    assert loaded["page"].compiled == ()


async def test_only_the_pages_that_are_behind_are_asked_for() -> None:
    shelf = FakeShelf(one=3, two=4)
    books = Books(shelf)
    await books.at_least({"one": 3})

    await books.at_least({"one": 3, "two": 4})

    assert shelf.asked == [("one",), ("two",)]


async def test_whoever_waits_meanwhile_shares_the_load() -> None:
    shelf = FakeShelf(page=1)
    shelf.gate = asyncio.Event()
    books = Books(shelf)

    waiting = [asyncio.create_task(books.at_least({"page": 1})) for _ in range(5)]
    await asyncio.sleep(0)
    shelf.gate.set()
    await asyncio.gather(*waiting)

    assert shelf.asked == [("page",)]


class FakeStore:
    """A store that answers with these parts, and remembers by which tokens they were asked for."""

    def __init__(self, *parts: Sequence[RuleBook]) -> None:
        self.parts = parts
        self.tokens: list[str] = []

    async def GetRuleBooks(self, request: GetRuleBooksRequest) -> GetRuleBooksResponse:
        self.tokens.append(request.page_token)
        nth = int(request.page_token or 0)
        more = str(nth + 1) if nth + 1 < len(self.parts) else ""
        return GetRuleBooksResponse(books=self.parts[nth], next_page_token=more)


def part(page_id: str, version: int, *names: str) -> RuleBook:
    rules = [Rule(name=name) for name in names]
    return RuleBook(page_id=page_id, version=version, connected=True, rules=rules)


async def fetched(store: FakeStore, *page_ids: str) -> list[tuple[str, int, list[str]]]:
    books = await StoreShelf(cast("RuleBookServiceAsyncStub", store)).fetch(page_ids)
    return [(book.page_id, book.version, [rule.name for rule in book.rules]) for book in books]


async def test_books_that_come_in_parts_are_put_together() -> None:
    store = FakeStore(
        [part("1", 7, "a"), part("2", 5, "b")],
        [part("2", 5, "c")],
        [part("2", 5, "d"), part("3", 0)],
    )

    books = await fetched(store, "1", "2", "3")

    assert books == [("1", 7, ["a"]), ("2", 5, ["b", "c", "d"]), ("3", 0, [])]
    assert store.tokens == ["", "1", "2"]


async def test_of_a_book_that_changed_between_its_parts_only_the_new_one_is_kept() -> None:
    store = FakeStore([part("1", 7, "a", "b")], [part("1", 8, "x", "a")], [part("1", 8, "b")])

    books = await fetched(store, "1")

    assert books == [("1", 8, ["x", "a", "b"])]


async def test_a_store_that_lags_behind_the_claim_makes_the_call_try_again() -> None:
    books = Books(FakeShelf(page=3))

    with pytest.raises(Unavailable):
        await books.at_least({"page": 4})


def test_a_rule_with_a_mode_from_a_newer_release_is_out_of_force() -> None:
    rule = Rule(enabled=True, events=[Trigger.TRIGGER_MESSAGE])
    rule.when.text.mode = 99  # type: ignore[assignment]  # an enum is open on the wire

    assert not compiled_rule(0, rule).enabled
