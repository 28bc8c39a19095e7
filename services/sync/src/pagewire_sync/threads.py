"""Threads: a page's conversations, walked newest first, with their messages nested in the list.

Meta's page on conversations: the list knows no times to begin or to end at, so a run walks from the
newest and stops behind what it knows. The list moves while it is walked: a thread that is written
to jumps to the top, so a walk of more than one page is followed by a look at the first pages, down
to when it began. The next page is asked for before the last one is stored; a checkpoint names no
more than what is stored.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import inf
from typing import Any

import msgspec

from pagewire.store.v1.mirror_service_pb2 import MirroredConversation
from pagewire_runtime import faults
from pagewire_runtime.logs import get_logger
from pagewire_sync import shapes
from pagewire_sync.asking import Asking, RunFailed
from pagewire_sync.budget import Product
from pagewire_sync.known import Known
from pagewire_sync.listing import (
    LIST,
    CursorRefused,
    Head,
    Listed,
    Listing,
    ListUnavailable,
    TooMuch,
    head_of,
    message_fields,
)
from pagewire_sync.progress import CLOCKS_DIFFER, Progress
from pagewire_sync.results import Done
from pagewire_sync.shapes import Shape
from pagewire_sync.shown import Refused, Thread, Unshown, add_messages, edge_of, thread_of
from pagewire_sync.tails import Store, Tail, Tails
from pagewire_sync.trail import Trail, TrailLost
from pagewire_sync.upserting import Rows, Upserting, count_refused

log = get_logger(__name__)

LOOKS = 5
"""So many looks after a walk at the most; each is one call, unless much is written meanwhile."""
READ_AT_ONCE = 10
"""Threads whose messages are read before others have a turn: first of all the next page's call."""
KNOWN = 100
"""Threads that an incremental run reads of a page whose list Graph does not give."""

Recover = Callable[[Sequence[Thread]], Awaitable[int]]
"""Tells the store what webhooks missed of these threads; answers how much was new."""


class Checkpoint(msgspec.Struct):
    """How far a run is, for who takes it over."""

    until: float
    """The walk ends behind what is older; 0 is at the list's end."""
    began: float
    """When the walk began: a look goes back to then."""
    looks: int = 0
    """How many looks were begun; 0 in the walk itself."""
    cursor: str = ""
    shape: Shape | None = None
    """What the cursor was made with."""
    tails: list[Tail] = []
    tried_labels: bool = False
    """Whether the page's labels, which are read beside the walk, were read, or could not be."""


def read_checkpoint(content: bytes) -> Checkpoint | None:
    """What a worker before wrote down; None where there is nothing that can be read."""
    try:
        return msgspec.json.decode(content, type=Checkpoint) if content else None
    except msgspec.MsgspecError:
        return None


@dataclass
class Threads:
    """The threads of one page, in one run."""

    asking: Asking
    store: Upserting
    progress: Progress
    recover: Recover | None = None
    known: Known | None = None
    """What to read where Graph gives no list; None: the run fails then."""

    def __post_init__(self) -> None:
        credentials = self.asking.credentials
        self._own = frozenset({credentials.page_id, credentials.node_id})
        self._refused = Refused()
        self._listing = Listing(self.asking, self.progress)
        self._tails = Tails(self.asking, self.progress, OlderMessages(self), self._save)
        self._seen: dict[str, float] = {}
        self._at = read_checkpoint(self.progress.checkpoint) or Checkpoint(
            until=self.progress.bound, began=self.progress.began
        )
        self._shape = self._at.shape or self._listing.room().within(self._first_shape())
        self._settled = self._at.shape is not None

    async def run(self) -> None:
        """Read them all, or what is new. Raises RunFailed."""
        async with asyncio.TaskGroup() as tasks:
            for tail in self._at.tails:
                self._tails.begin(tail, tasks)
            try:
                await self._walks(tasks)
            except ListUnavailable:
                if not await self._read_known(tasks):
                    raise
        if self._refused:
            log.warning("Graph showed what is no thread or message", **self._refused)
            count_refused("conversations", self._refused)

    async def _walks(self, tasks: asyncio.TaskGroup) -> None:
        trail = Trail(["", *filter(None, [self._at.cursor])])
        look: asyncio.Task[Listed] | None = None
        while True:
            look = await self._walk(trail, tasks, look)
            if not self._at.looks and not self._at.until:
                self.progress.run.expected = self.progress.run.conversations
            if look is None:
                return
            until = self._at.began - CLOCKS_DIFFER.total_seconds()
            self._at = Checkpoint(until, self.asking.now().timestamp(), self._at.looks + 1)
            self._shape, self._settled = self._listing.room().within(shapes.NEWS), True
            trail = Trail()
            self._move(trail)

    async def _walk(
        self, trail: Trail, tasks: asyncio.TaskGroup, ahead: "asyncio.Task[Listed] | None"
    ) -> "asyncio.Task[Listed] | None":
        """Walk to the end, or behind what is known; `ahead` is the first page where it is asked for
        already. The look at the top that follows is begun before the last page is stored; None
        where there is to be none. Raises RunFailed.
        """
        try:
            while True:
                page = await self._answer(trail, ahead)
                ahead = None
                if page is None or self._begins_again(trail, page):
                    continue
                ends = self._is_last(page)
                if ends:
                    ahead = self._look(trail)
                else:
                    times = [each.updated for each in page.heads]
                    span = (max(times), min(times)) if times else (-inf, inf)
                    trail.goes_on(page.after, page.heads, span)
                    ahead = asyncio.create_task(self._page(trail))
                await faults.reach("sync.page.after_read", self.progress.page_id)
                await self._take(page, tasks)
                if ends:
                    look, ahead = ahead, None
                    return look
                self._move(trail)
                await self._tails.room()
        except TrailLost as lost:
            raise RunFailed(lost.reason) from None
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _read_known(self, tasks: asyncio.TaskGroup) -> bool:
        """Read what is known here by itself; whether there was any. Raises RunFailed."""
        if self.known is None:
            return False
        most = KNOWN if self._at.until else inf
        async for page in self.known.pages(self._listing, most):
            self.progress.without_list = True
            await self._take(page, tasks)
            await self._tails.room()
        return self.progress.without_list

    def _look(self, trail: Trail) -> "asyncio.Task[Listed] | None":
        if len(trail.cursors) <= 1 or self._at.looks >= LOOKS:
            return None
        shape = self._listing.room().within(shapes.NEWS)
        return asyncio.create_task(self._listing.page("", shape))

    async def _answer(self, trail: Trail, ahead: "asyncio.Task[Listed] | None") -> Listed | None:
        """The page to be read now; None where another is to be asked for in its place."""
        try:
            return await (ahead or self._page(trail))
        except TooMuch:
            self._shrink()
            trail.restart()
        except CursorRefused:
            trail.refused()
        return None

    async def _page(self, trail: Trail) -> Listed:
        """The first page of news is asked for together with those of other pages."""
        news = not trail.here and not self._at.looks and self._at.until > 0
        if news and self.progress.unreadable:
            page = await self._listing.news(self._shape, self._at.until)
            if page is not None:
                return page
        return await self._listing.page(trail.here, self._shape, batched=news)

    # --- how much at once

    def _first_shape(self) -> Shape:
        return shapes.NEWS if self._at.until else shapes.FIRST

    def _shrink(self) -> None:
        """Half of it from now on."""
        threads, messages = self._shape.threads, self._shape.messages
        if self._shape.weight <= 1:
            raise RunFailed("graph_too_much")
        self.progress.sizes.shrink(LIST, max(self._shape.weight // shapes.FIRST.messages, 1))
        self._shape = Shape(threads // 2, messages) if threads > 1 else Shape(1, messages // 2)
        self._settled = True

    def _begins_again(self, trail: Trail, page: Listed) -> bool:
        """Whether the walk begins again in another shape, which costs fewer calls in all. It is
        asked once, with the first answer.
        """
        if self._settled or trail.here:
            return False
        self._settled = True
        if page.unreadable:  # it has cost enough
            return False
        if self._at.until:
            is_all_new = page.after and all(each.updated >= self._at.until for each in page.heads)
            found = self._listing.room().within(shapes.FIRST) if is_all_new else None
        else:
            found = self._cheaper(page)
        if found is None or found == self._shape:
            return False
        self._shape = found
        return True

    def _cheaper(self, page: Listed) -> Shape | None:
        said = [item.get("message_count") for item in page.items if type(item) is dict]
        counts = [count for count in said if isinstance(count, int)]
        if len(counts) < len(said):
            return None
        return shapes.better(self._listing.room(), self._shape, counts, ended=not page.after)

    def _is_last(self, page: Listed) -> bool:
        self.progress.sizes.well(LIST, shapes.FIRST.threads)
        times = [each.updated for each in page.heads]
        if times == sorted(times, reverse=True):
            del times[:-1]  # as Graph's lists are, though no page of Meta's promises it
        known = bool(times) and max(times) < self._at.until
        return not page.after or known

    # --- what is written down

    def _move(self, trail: Trail) -> None:
        """All behind the page to be read now is stored."""
        self._at.cursor, self._at.shape = trail.here, self._shape
        self._save()

    def _save(self) -> None:
        self._at.tails = self._tails.waiting
        self._at.tried_labels = self.progress.tried_labels
        self.progress.reached(msgspec.json.encode(self._at))

    # --- one page

    async def _take(self, page: Listed, tasks: asyncio.TaskGroup) -> None:
        """Store what is new of a page, and begin what of it did not come along."""
        threads: list[tuple[Thread, float]] = []
        for number, item in enumerate(page.items):
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
            head = head_of(item)
            if head is None:
                self._refused["id_malformed"] += 1
            elif (since := self._meet(head)) is not None:
                threads += [(thread, since) for thread in self._shown(item, head)]
        for head, reason in page.unreadable.items():
            if self._meet(head) is not None:
                self.progress.pass_by(head.thread_id, reason, head.updated)
        new = await self._keep(page.read_time, [thread for thread, _ in threads])
        for thread, since in threads:
            self._finish(thread, 0.0 if thread.participant_id in new else since, tasks)

    def _meet(self, head: Head) -> float | None:
        """Back to when a thread is to be read, 0 being its first message; None where it has
        nothing new.
        """
        known = self._seen.get(head.thread_id)
        if known is None:
            self.progress.add(conversations=1)
        self._seen[head.thread_id] = head.updated
        if known == head.updated or 0 < head.updated < self._at.until:
            return None
        if head.thread_id in self.progress.unreadable:  # nobody knows what of it is missing
            return 0.0
        return known or self.progress.bound

    def _shown(self, item: Any, head: Head) -> list[Thread]:
        try:
            return [thread_of(item, self._own, self._refused)]
        except Unshown as why:
            self._refused[why.reason] += 1
            self.progress.pass_by(head.thread_id, why.reason, head.updated)
            return []

    def _finish(self, thread: Thread, since: float, tasks: asyncio.TaskGroup) -> None:
        """Read on where older messages are missing."""
        if not thread.participant_id:  # nothing of it is stored
            return
        known = bool(since and thread.messages) and thread.oldest < since
        if not thread.after or known:
            self.progress.readable(thread.thread_id)
            return
        node, whose, after = thread.thread_id, thread.participant_id, thread.after
        tail = Tail(node, node, "messages", whose, thread.updated, since, after, after)
        self._tails.begin(tail, tasks)

    def older(self, tail: Tail, read: Done) -> Thread:
        """A page of a thread's older messages. Raises Unshown."""
        person = MirroredConversation(participant_id=tail.whose, thread_id=tail.of)
        thread = Thread(tail.of, 0.0, person)
        add_messages(thread, edge_of(read.body), self._own, self._refused)
        return thread

    async def keep_older(self, read: Done, thread: Thread) -> None:
        """Store them."""
        await self._keep(read.read_time, [thread], nested=False)

    async def _keep(
        self, read_time: datetime, threads: Sequence[Thread], *, nested: bool = True
    ) -> frozenset[str]:
        """Store threads, and the messages that they have here; the people who are new."""
        shown = [each for each in threads if each.conversation is not None]
        if not shown:
            return frozenset()
        if self.recover is not None:
            self.progress.run.recovered += await self.recover(shown)
        rows = Rows(read_time)
        for thread in shown:
            if nested and thread.conversation:
                rows.conversations.append(thread.conversation)
            rows.messages += thread.messages
        stored = await self.store.put(rows)
        await faults.reach("sync.page.after_upsert", self.progress.page_id)
        self.progress.add(messages=len(rows.messages), stored=stored.new)
        return stored.conversations


@dataclass(frozen=True)
class OlderMessages:
    """The messages of threads that did not come nested in the list."""

    threads: Threads
    product: Product = Product.CONVERSATIONS
    operation: str = "messages"

    def most(self, tail: Tail) -> int:
        """How many a page holds at the most."""
        return shapes.TAIL

    def params(self, tail: Tail) -> dict[str, str]:
        """What is asked for."""
        return {"fields": message_fields(self.threads.asking.credentials.platform)}

    def shown(self, tail: Tail, read: Done) -> tuple[list[str], str, Store]:
        """A page of them; none that are older are wanted where the page reaches back enough."""
        thread = self.threads.older(tail, read)
        ids = [each.mid for each in thread.messages]
        known = bool(tail.since and ids) and thread.oldest < tail.since
        store = partial(self.threads.keep_older, read, thread)
        return ids, "" if known else thread.after, store
