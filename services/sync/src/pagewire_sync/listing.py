"""Listing: a page of a page's threads, however much trouble one of them makes.

One thread that Graph cannot show fails every list with its content in it (code 1), while lists of
ids go on working: clients in public found that. So the ids are read then, after them the threads in
small pieces, and those of a piece that fails one by one; what still fails is told apart from a
Graph in trouble by asking for its id alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from math import isqrt
from typing import Any

from pagewire.type.v1.page_pb2 import Platform
from pagewire_sync.asking import (
    Asking,
    GraphUnavailable,
    RunFailed,
    is_cursor,
    is_too_much,
    is_trouble,
)
from pagewire_sync.budget import Product
from pagewire_sync.progress import Progress
from pagewire_sync.results import Done, Failed, Outcome
from pagewire_sync.shapes import FIRST, Room, Shape
from pagewire_sync.shown import Edge, Json, Unshown, edge_of, moment, optional_id

HEADS = "id,updated_time"
LIST = "conversations"
"""What the list's page size is remembered under."""
SINGLE_MESSAGES = 25
ROUNDS = 2
"""So many times a thread is asked for, with a Graph that answers otherwise, before it is marked."""

_MESSAGE = "id,created_time,from{id},message,attachments,shares{link,name},is_unsupported"
_OF_PLATFORM = {
    Platform.PLATFORM_MESSENGER: ("messenger", "participants{id,name}", _MESSAGE),
    Platform.PLATFORM_INSTAGRAM: (
        "instagram",
        "participants{id,username}",
        f"{_MESSAGE},story",
    ),
}


class TooMuch(Exception):
    """Graph gives less at once than was asked for."""


class ListUnavailable(GraphUnavailable):
    """Graph went on failing on the list, whatever was asked of it. Single threads it may show yet:
    Meta's page on rate limits tells so of pages with very much traffic.
    """


class CursorRefused(Exception):
    """Graph does not take the cursor (any more)."""


@dataclass(frozen=True, slots=True)
class Head:
    """A thread's id, or a post's, and when it was written to last; 0 where Graph does not say."""

    thread_id: str
    updated: float


@dataclass(slots=True)
class Listed:
    """A page of a list: its items as they came, newest first, and the cursor of the next."""

    items: list[Any]
    after: str
    read_time: datetime
    unreadable: dict[Head, str] = field(default_factory=dict)
    """Those that Graph does not show, by why; they do not stand among the items."""
    listed: list[Head] | None = None
    """What the list held, where its items were read one by one or in pieces: these may have moved
    since, and others come with them.
    """

    @property
    def heads(self) -> list[Head]:
        """All that the list held, in its order."""
        return heads_of(self.items) if self.listed is None else self.listed

    def emptied(self) -> "Listed":
        """The same page, to be filled with its items as they are read by themselves."""
        return Listed([], self.after, self.read_time, listed=self.heads)

    def join(self, part: "Listed", wanted: Iterable[Head]) -> list[Head]:
        """Put in what a piece holds; those of `wanted` that are still missing."""
        self.items += part.items
        self.unreadable |= part.unreadable
        there = {head.thread_id for head in part.heads}
        return [head for head in wanted if head.thread_id not in there]


def heads_of(items: Iterable[Any]) -> list[Head]:
    """Ids and times of items; what has no id is left out."""
    return [head for item in items if (head := head_of(item)) is not None]


def head_of(item: Any) -> Head | None:
    """An item's id and time; None where it has no id."""
    if type(item) is not dict or not (thread_id := optional_id(item.get("id"))):
        return None
    return Head(thread_id, moment(item.get("updated_time")) or 0.0)


def message_fields(platform: Platform.ValueType) -> str:
    """What is asked of a message."""
    return _words(platform)[2]


def thread_fields(platform: Platform.ValueType, messages: int) -> str:
    """What is asked of a thread, with so many of its messages."""
    _, people, fields = _words(platform)
    nested = f"messages.limit({messages}){{{fields}}}"
    return f"{HEADS},message_count,snippet,unread_count,{people},{nested}"


def _words(platform: Platform.ValueType) -> tuple[str, str, str]:
    return _OF_PLATFORM.get(platform, _OF_PLATFORM[Platform.PLATFORM_MESSENGER])


@dataclass(frozen=True)
class Listing:
    """Reads the list of one page's threads."""

    asking: Asking
    progress: Progress

    def room(self) -> Room:
        """What the page takes at once. Remembered are threads with 20 messages each."""
        units = self.progress.sizes.of(LIST, FIRST.threads)
        return Room(units * FIRST.messages)

    async def page(self, cursor: str, shape: Shape, *, batched: bool = False) -> Listed:
        """The page behind the cursor. Raises TooMuch, CursorRefused, RunFailed."""
        outcome = await self._list(cursor, shape, batched=batched)
        if isinstance(outcome, Failed) and is_too_much(outcome) and shape.weight > 1:
            raise TooMuch
        if is_trouble(outcome):
            return await self._around(cursor, shape)
        return page_of(outcome, cursor)

    async def news(self, shape: Shape, until: float) -> Listed | None:
        """The first page of a list with threads that cannot be read, as far as it is new: each new
        thread by itself, or all at once where none of those is among them. None where there are too
        many of them. Raises TooMuch, RunFailed.
        """
        heads = await self._heads("", shape.threads, batched=True)
        new = [head for head in heads.heads if not 0 < head.updated < until]
        tried = [head for head in new if not self._is_hopeless(head)]
        if len(tried) > shape.threads // 2:
            return None
        page, missing = heads.emptied(), new
        if len(new) > 1 and not any(head.thread_id in self.progress.unreadable for head in new):
            piece = await self._piece("", Shape(len(new), shape.messages))
            missing = page.join(piece, new)
        await self.singly(page, missing)
        known = {head.thread_id for head in (*heads_of(page.items), *page.unreadable)}
        page.items += [item for item in heads.items if _is_other(item, known)]
        return page

    async def _list(self, cursor: str, shape: Shape, *, batched: bool = False) -> Outcome:
        platform = self.asking.credentials.platform
        return await self.asking.once(
            self.asking.credentials.node_id,
            "conversations",
            self._params(cursor, shape.threads, thread_fields(platform, shape.messages)),
            operation="conversations",
            heavy=not batched,
            batched=batched,
        )

    async def _heads(self, cursor: str, limit: int, *, batched: bool = False) -> Listed:
        """Ids alone. Raises TooMuch, CursorRefused, RunFailed."""
        try:
            outcome = await self.asking.patiently(
                self.asking.credentials.node_id,
                "conversations",
                self._params(cursor, limit, HEADS),
                operation="conversation_ids",
                batched=batched,
            )
        except GraphUnavailable:
            raise ListUnavailable from None
        if isinstance(outcome, Failed) and is_too_much(outcome) and limit > 1:
            raise TooMuch
        return page_of(outcome, cursor)

    def _params(self, cursor: str, limit: int, fields: str) -> dict[str, str]:
        platform = _words(self.asking.credentials.platform)[0]
        params = {"platform": platform, "fields": fields, "limit": str(limit)}
        return params | ({"after": cursor} if cursor else {})

    async def _around(self, cursor: str, shape: Shape) -> Listed:
        """The page, although Graph fails on it: around what it fails on."""
        heads = await self._heads(cursor, shape.threads)
        again = await self._list(cursor, shape)
        if isinstance(again, Done):  # Graph was in trouble, and no more
            return page_of(again, cursor)
        page = heads.emptied()
        wanted = heads.heads
        piece = Shape(max(isqrt(shape.threads), 1), shape.messages)
        at = cursor
        while wanted:
            try:
                part = await self._piece(at, piece)
            except CursorRefused:  # made with another page size
                break
            before, wanted = wanted, page.join(part, wanted)
            if not part.after or wanted == before:  # the others have moved up, or are gone
                break
            at = part.after
        await self.singly(page, wanted)
        return page

    async def _piece(self, cursor: str, shape: Shape) -> Listed:
        outcome = await self._list(cursor, shape)
        if isinstance(outcome, Done) or (cursor and is_cursor(outcome)):
            return page_of(outcome, cursor)
        heads = await self._heads(cursor, shape.threads)
        page = heads.emptied()
        await self.singly(page, heads.heads)
        return page

    async def singly(self, page: Listed, heads: Iterable[Head]) -> None:
        """Put each of these threads into the page, by a read of its own."""
        for head in heads:
            if self._is_hopeless(head):
                page.unreadable[head] = self.progress.unreadable[head.thread_id].reason
                continue
            outcome = await self._single(head.thread_id)
            if isinstance(outcome, Failed):
                page.unreadable[head] = outcome.reason
            elif head_of(outcome.body) is None:
                page.unreadable[head] = "graph_answer_unreadable"
            else:
                page.items.append(outcome.body)
                page.read_time = min(page.read_time, outcome.read_time)

    async def _single(self, thread_id: str) -> Outcome:
        """The thread with as many of its messages as Graph gives."""
        messages = min(SINGLE_MESSAGES, self.room().weight)
        while True:
            fields = thread_fields(self.asking.credentials.platform, messages)
            outcome = await of_node(
                self.asking, thread_id, "", {"fields": fields}, operation="conversation"
            )
            if isinstance(outcome, Done) or not is_too_much(outcome) or messages == 1:
                return outcome
            messages //= 2

    def _is_hopeless(self, head: Head) -> bool:
        return self.progress.is_hopeless(head.thread_id, head.updated)


async def of_node(
    asking: Asking,
    node: str,
    edge: str,
    params: dict[str, str],
    *,
    operation: str,
    product: Product = Product.CONVERSATIONS,
) -> Outcome:
    """Read something of a thread or a post; where that fails although Graph answers for its id, the
    failure is its own. So is an answer without its id, the second time. Raises RunFailed.
    """
    outcome = await asking.once(node, edge, params, operation=operation, product=product)
    for _ in range(ROUNDS - 1):
        if isinstance(outcome, Done):
            if edge or head_of(outcome.body) is not None:
                break
        elif is_too_much(outcome) or not is_trouble(outcome):
            break
        else:
            probe = {"fields": "id"}
            await asking.patiently(node, "", probe, operation="probe", product=product)
        outcome = await asking.once(node, edge, params, operation=operation, product=product)
    return outcome


def page_of(outcome: Outcome, cursor: str) -> Listed:
    """The page behind the cursor. Raises CursorRefused, RunFailed."""
    if isinstance(outcome, Failed):
        raise CursorRefused if cursor and is_cursor(outcome) else RunFailed(outcome.reason)
    try:
        edge: Edge = edge_of(outcome.body)
    except Unshown as why:
        raise RunFailed(f"graph_{why.reason}") from None
    return Listed(edge.items, edge.after, outcome.read_time)


def _is_other(item: Json, known: set[str]) -> bool:
    head = head_of(item)
    return head is not None and head.thread_id not in known
