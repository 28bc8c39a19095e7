"""Rule books: each page's rules made ready, loaded when an event asks for a newer one."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pagewire.store.v1.rule_book_service_pb2 import GetRuleBooksRequest, RuleBook
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.rule_pb2 import Rule, TextMode
from pagewire_rules.evaluation import CompiledRule
from pagewire_rules.matching import Mode, text_condition
from pagewire_rules.validation import COMMENT_ACTIONS, trigger_names
from pagewire_runtime.errors import Unavailable

if TYPE_CHECKING:
    from pagewire.store.v1.rule_book_service_pb2_grpc import RuleBookServiceAsyncStub

MODES = {
    TextMode.TEXT_MODE_UNSPECIFIED: Mode.WORD,
    TextMode.TEXT_MODE_WORD: Mode.WORD,
    TextMode.TEXT_MODE_CONTAINS: Mode.CONTAINS,
    TextMode.TEXT_MODE_EXACT: Mode.EXACT,
    TextMode.TEXT_MODE_STARTS_WITH: Mode.STARTS_WITH,
    TextMode.TEXT_MODE_ENDS_WITH: Mode.ENDS_WITH,
}
_TRIGGERS = {value: name for name, value in trigger_names().items()}


@dataclass(frozen=True, slots=True)
class Book:
    """A page's rules at one version, as they were written and made ready; both by rank."""

    page_id: str
    version: int
    connected: bool
    platform: Platform.ValueType
    rules: Sequence[Rule]
    compiled: Sequence[CompiledRule]


class Shelf(Protocol):
    """Where rule books come from: one a page asked for, each whole and of one moment."""

    async def fetch(self, page_ids: Sequence[str]) -> Sequence[RuleBook]: ...


class StoreShelf:
    """The store's rule books, put together from the parts that messages can carry."""

    def __init__(self, store: "RuleBookServiceAsyncStub") -> None:
        self._store = store

    async def fetch(self, page_ids: Sequence[str]) -> Sequence[RuleBook]:
        request = GetRuleBooksRequest(page_ids=page_ids)
        books: dict[str, RuleBook] = {}
        while True:
            response = await self._store.GetRuleBooks(request)
            for part in response.books:
                book = books.get(part.page_id)
                if book is not None and book.version == part.version:
                    book.rules.extend(part.rules)
                else:  # the first part, or the whole of a book that changed meanwhile
                    books[part.page_id] = part
            if not response.next_page_token:
                return list(books.values())
            request.page_token = response.next_page_token


class Books:
    """Keeps a book a page; one load at a time, which whoever waits meanwhile shares."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._books: dict[str, Book] = {}
        self._loading = asyncio.Lock()

    async def at_least(self, versions: Mapping[str, int]) -> Mapping[str, Book]:
        """The books of these pages, each of at least the version asked for.

        Raises Unavailable where the store has none so new (a replica that lags) or does not answer.
        """
        if self._behind(versions):
            async with self._loading:
                if behind := self._behind(versions):
                    self._keep(await self._shelf.fetch(behind))
            if self._behind(versions):
                raise Unavailable("the newest rule book")
        return {page_id: self._books[page_id] for page_id in versions}

    async def latest(self, page_id: str) -> Book:
        """The page's book as it stands now."""
        async with self._loading:
            self._keep(await self._shelf.fetch([page_id]))
        return self._books[page_id]

    def _behind(self, versions: Mapping[str, int]) -> list[str]:
        return [
            page_id for page_id, version in versions.items() if self._version(page_id) < version
        ]

    def _version(self, page_id: str) -> int:
        book = self._books.get(page_id)
        return -1 if book is None else book.version

    def _keep(self, books: Sequence[RuleBook]) -> None:
        for book in books:
            self._books[book.page_id] = compiled(book)


def compiled(book: RuleBook) -> Book:
    """A book made ready."""
    rules = tuple(book.rules)
    ready = tuple(compiled_rule(nth, rule) for nth, rule in enumerate(rules))
    return Book(book.page_id, book.version, book.connected, book.platform, rules, ready)


def compiled_rule(position: int, rule: Rule) -> CompiledRule:
    """A rule made ready; one whose mode is not known here (by a newer release) is disabled."""
    mode = MODES.get(rule.when.text.mode)
    text = rule.when.text
    return CompiledRule(
        position=position,
        enabled=rule.enabled and mode is not None,
        triggers=frozenset(_TRIGGERS.get(trigger, "") for trigger in rule.events),
        text=text_condition(mode or Mode.WORD, text.any, text.none)
        if rule.when.HasField("text")
        else None,
        for_comments_only=all(
            action.WhichOneof("action") in COMMENT_ACTIONS for action in rule.then
        ),
    )
