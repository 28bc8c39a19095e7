"""Batches: reads of many pages, gathered for a few milliseconds into one request.

Meta counts each operation as a call, so a batch saves round trips and no budget; it answers when
its slowest operation does, so heavy reads go in small batches, apart from light ones. Each
operation ends by itself: done, failed or unfinished. Source: Meta's page on batch requests; that an
answer may be empty, no array, or null in places, clients in public tell.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any

import msgspec

from pagewire.type.v1.page_pb2 import Login
from pagewire_runtime import metrics
from pagewire_runtime.clock import WALL
from pagewire_sync.budget import Product
from pagewire_sync.failures import Failure, GraphError, classify
from pagewire_sync.graph import Answer, Credentials, Graph, NotSent, OutcomeUnknown
from pagewire_sync.results import Done, Failed, Result, Unfinished

MOST = 50
"""Operations in a batch; Meta takes no more."""
HEAVY_MOST = 8
WINDOW_SECONDS = 0.005
IN_FLIGHT = 500
BATCH_TIMED_OUT = 960

_sizes = metrics.histogram(
    "pagewire_graph_batch_operations",
    "Operations in a request to Graph; one is a plain call.",
    buckets=(1, 2, 4, 8, 16, 25, 50),
)


class Weight(Enum):
    """How much Graph has to do for a read."""

    LIGHT = auto()
    HEAVY = auto()
    """With much nested in it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A read: of a node (`edge` empty) or of an edge of it."""

    credentials: Credentials
    node: str
    edge: str
    params: Mapping[str, str]
    name: str
    """What metrics call it."""
    weight: Weight = Weight.LIGHT
    product: Product = Product.PAGE


@dataclass(frozen=True, slots=True)
class Part:
    """What a batch's answer holds for one operation: an answer of its own, not read yet.

    The names of its headers are in lower case.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: str = field(repr=False)


@dataclass(slots=True)
class _Gathering:
    """Reads that wait to go together, each with what will be told its result."""

    waiting: list[tuple[Operation, asyncio.Future[Result]]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Batches:
    """Makes one request of reads that are asked for at about the same time."""

    def __init__(
        self,
        graph: Graph,
        *,
        heavy_most: int = HEAVY_MOST,
        instagram: bool = False,
        window_seconds: float = WINDOW_SECONDS,
        in_flight: int = IN_FLIGHT,
        now: Callable[[], datetime] = WALL.now,
    ) -> None:
        """`instagram`: whether graph.instagram.com is sent batches, of which Meta says nothing."""
        self._graph = graph
        self._most = {Weight.LIGHT: MOST, Weight.HEAVY: heavy_most}
        self._instagram = instagram
        self._window = window_seconds
        self._now = now
        self._requests = asyncio.Semaphore(in_flight)
        self._free = in_flight
        self._gathering: dict[tuple[Login.ValueType, Weight], _Gathering] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def free(self) -> int:
        """How many more requests may be on their way; negative where some wait for that."""
        return self._free

    @asynccontextmanager
    async def _on_its_way(self) -> AsyncIterator[None]:
        self._free -= 1
        try:
            async with self._requests:
                yield
        finally:
            self._free += 1

    async def alone(self, operation: Operation) -> Result:
        """Read by a call of its own."""
        async with self._on_its_way():
            return await self._alone(operation)

    async def gathered(self, operation: Operation) -> Result:
        """Read together with others, or alone where there are none."""
        login = operation.credentials.login
        if login == Login.LOGIN_INSTAGRAM and not self._instagram:
            return await self.alone(operation)
        loop = asyncio.get_running_loop()
        key = (login, operation.weight)
        gathering = self._gathering.setdefault(key, _Gathering())
        told: asyncio.Future[Result] = loop.create_future()
        gathering.waiting.append((operation, told))
        if gathering.timer is None:
            gathering.timer = loop.call_later(self._window, self._send, key)
        if len(gathering.waiting) >= self._most[operation.weight]:
            self._send(key)
        return await told

    async def close(self) -> None:
        """Drop what is gathered or under way."""
        for gathering in self._gathering.values():
            if gathering.timer:
                gathering.timer.cancel()
            for _, told in gathering.waiting:
                told.cancel()
        self._gathering.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, key: tuple[Login.ValueType, Weight]) -> None:
        gathering = self._gathering.pop(key)
        if gathering.timer:
            gathering.timer.cancel()
        task = asyncio.create_task(self._together(gathering.waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _together(self, waiting: list[tuple[Operation, asyncio.Future[Result]]]) -> None:
        async with self._on_its_way():
            wanted = [each for each in waiting if not each[1].done()]  # some have gone meanwhile
            try:
                results = await self._read([operation for operation, _ in wanted])
            except asyncio.CancelledError:
                for _, told in wanted:
                    told.cancel()
                raise
            except Exception as unforeseen:
                for _, told in wanted:
                    if not told.done():
                        told.set_exception(unforeseen)
                return
        for (_, told), result in zip(wanted, results, strict=True):
            if not told.done():
                told.set_result(result)

    async def _read(self, operations: Sequence[Operation]) -> Sequence[Result]:
        if len(operations) == 1:
            return [await self._alone(operations[0])]
        return await self._batch(operations) if operations else []

    async def _alone(self, operation: Operation) -> Result:
        _sizes.observe(1)
        read_time = self._now()
        try:
            answer = await self._graph.get(
                operation.credentials,
                operation.node,
                operation.edge,
                operation.params,
                operation=operation.name,
                product=operation.product,
            )
        except NotSent:
            return Unfinished("not_sent")
        except OutcomeUnknown as lost:
            return Unfinished(lost.reason)
        return _result(operation, answer, read_time)

    async def _batch(self, operations: Sequence[Operation]) -> Sequence[Result]:
        _sizes.observe(len(operations))
        read_time = self._now()
        urls = [
            self._graph.relative_url(each.credentials, each.node, each.edge, each.params)
            for each in operations
        ]
        try:
            status, content = await self._graph.send_batch(operations[0].credentials, urls)
        except NotSent:
            return [Unfinished("not_sent")] * len(operations)
        except OutcomeUnknown as lost:
            return [Unfinished(lost.reason)] * len(operations)
        return [
            self._heeded(operation, part, read_time) if isinstance(part, Part) else part
            for operation, part in zip(
                operations, read_batch(status, content, len(operations)), strict=True
            )
        ]

    def _heeded(self, operation: Operation, part: Part, read_time: datetime) -> Result:
        try:
            answer = self._graph.heeded(
                operation.credentials,
                part.status,
                part.headers,
                part.body,
                product=operation.product,
            )
        except OutcomeUnknown as lost:
            return Unfinished(lost.reason)
        return _result(operation, answer, read_time)


def _result(operation: Operation, answer: Answer | GraphError, read_time: datetime) -> Result:
    if isinstance(answer, Answer):
        if operation.edge and not isinstance(answer.body.get("data"), list):  # no list, yet asked
            return Unfinished("answer_unreadable")
        return Done(answer.body, read_time, answer.usage)
    return Unfinished("batch_timeout") if answer.code == BATCH_TIMED_OUT else Failed(answer)


def read_batch(status: int, content: bytes, count: int) -> Sequence[Part | Failed | Unfinished]:
    """Read a batch's answer: one result for each of the `count` operations, whatever it is.

    A refusal of the whole says nothing of its operations, save that the app must wait.
    """
    try:
        entries = msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError):
        entries = None
    if not 200 <= status < 300 or (isinstance(entries, dict) and "error" in entries):
        error = classify(status, entries)
        if error.failure is Failure.APP_THROTTLED:
            return [Failed(error)] * count
        return [Unfinished("batch_refused")] * count
    if not isinstance(entries, list):
        return [Unfinished("answer_unreadable")] * count
    if len(entries) != count:  # whose answers these are nobody knows
        return [Unfinished("batch_length")] * count
    return [_part(entry) for entry in entries]


def _part(entry: Any) -> Part | Unfinished:
    if entry is None:
        return Unfinished("batch_null")
    if not isinstance(entry, dict):
        return Unfinished("answer_unreadable")
    status, body = entry.get("code"), entry.get("body")
    if type(status) is not int or not isinstance(body, str):
        return Unfinished("answer_unreadable")
    return Part(status, _headers(entry.get("headers")), body)


def _headers(listed: Any) -> dict[str, str]:
    named = listed if isinstance(listed, list) else []
    return {
        each["name"].lower(): each["value"]
        for each in named
        if isinstance(each, dict)
        and isinstance(each.get("name"), str)
        and isinstance(each.get("value"), str)
    }
