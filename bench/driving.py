"""The load generator: a process that plays Meta, told by lines of JSON what to send.

An open loop sends when a request is due, however long the answers take, and counts from when it
was due: a late start is the server's latency or the generator's, never left out; a connection that
is closed on it is replaced. A closed loop keeps so many connections busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import ClassVar, TypeAlias, cast

import msgspec
import uvloop

from bench.pacing import poisson
from bench.traffic import Traffic, request

PATIENCE = 30.0
"""Seconds that the last answers are waited for; Meta gives five."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where to, signed with what, over how many connections."""

    port: int
    path: str
    secret: str
    connections: int


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """So many requests at `rate` a second by chance; bodies come again where there are fewer."""

    target: Target
    traffic: Traffic
    rate: float
    requests: int
    seed: int = 1


class Closed(msgspec.Struct, frozen=True, kw_only=True, tag="closed"):
    """Each connection sends when it was answered, for `seconds`, or until each body was sent."""

    target: Target
    traffic: Traffic
    seconds: float | None = None


Job: TypeAlias = Open | Closed


class Outcome(msgspec.Struct, kw_only=True):
    """What came of each request, in the order they were due. Status 0: no answer at all."""

    began: float
    """Unix seconds."""
    seconds: float
    """From the start to the last answer."""
    due: list[float]
    """Seconds from the start; for a closed loop, when it was sent."""
    latency_ms: list[float]
    """From when it was due."""
    late_ms: list[float]
    """From when it was due to when it was sent: the generator's own part, and the wait for a
    connection that is free."""
    status: list[int]
    busy: float
    """The share of a core that the generator used."""

    @property
    def felt_ms(self) -> list[float]:
        """The latencies; infinite where the answer was not 200."""
        pairs = zip(self.latency_ms, self.status, strict=True)
        return [latency if status == 200 else math.inf for latency, status in pairs]

    @property
    def failures(self) -> int:
        return sum(status != 200 for status in self.status)


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request under way."""

    # Shared: servers repeat their heads.
    _heads: ClassVar[dict[bytes, tuple[int, int, bool]]] = {}

    def __init__(self, lost: Callable[[], None] = lambda: None) -> None:
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._answered: Callable[[Connection, int], None] | None = None
        self._received = b""

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, data: bytes, answered: Callable[[Connection, int], None]) -> None:
        """Sends a request; `answered` is given the status, 0 where the connection was lost."""
        if self._transport is None:
            answered(self, 0)
            return
        self._answered = answered
        self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        head, found, rest = received.partition(b"\r\n\r\n")
        if found:
            status, length, is_last = self._heads.get(head) or self._read(head)
            if len(rest) >= length:
                self._received = b""
                if is_last:
                    self.close()
                self._end(status)
                return
        self._received = received

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._end(0)
        self._lost()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _end(self, status: int) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(self, status)

    def _read(self, head: bytes) -> tuple[int, int, bool]:
        length = _LENGTH.search(head)
        is_last = b"\r\nconnection: close" in head.lower()
        found = int(head[9:12]), int(length[1]) if length else 0, is_last
        if len(self._heads) > 100:  # a server's date makes a new one each second
            self._heads.clear()
        self._heads[head] = found
        return found


class Tally:
    """What is kept of each request while the loop runs; `finished` once nothing is left."""

    def __init__(self, due: Sequence[float] = (), left: int = 0) -> None:
        self.due = list(due)
        self.latency = [0.0] * len(due)
        self.late = [0.0] * len(due)
        self.status = [0] * len(due)
        self.left = left
        self.finished = asyncio.Event()
        self.began, self._busy = time.time(), time.process_time()
        self.started = time.perf_counter()

    def begin(self) -> int:
        """A further request, due now."""
        self.due.append(time.perf_counter() - self.started)
        self.latency.append(0.0)
        self.late.append(0.0)
        self.status.append(0)
        return len(self.due) - 1

    def sending(self, number: int) -> None:
        """One that was due is about to be sent."""
        self.late[number] = time.perf_counter() - self.started - self.due[number]

    def end(self, number: int, status: int) -> None:
        self.latency[number] = time.perf_counter() - self.started - self.due[number]
        self.status[number] = status

    def less(self) -> None:
        """One thing less is left."""
        self.left -= 1
        if self.left == 0:
            self.finished.set()

    async def outcome(self, within: float) -> Outcome:
        """Once finished; what has no answer `within` seconds keeps its status of 0."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.finished.wait()
        busy = time.process_time() - self._busy
        ends = (due + latency for due, latency in zip(self.due, self.latency, strict=True))
        seconds = max(ends, default=0.0)
        return Outcome(
            began=self.began,
            seconds=seconds,
            due=self.due,
            latency_ms=[latency * 1e3 for latency in self.latency],
            late_ms=[late * 1e3 for late in self.late],
            status=self.status,
            busy=busy / seconds if seconds else 0.0,
        )


async def open_loop(job: Open) -> Outcome:
    requests = _requests(job.traffic, job.target)
    due = poisson(job.rate, job.requests, job.seed)
    async with _connected(job.target, lambda: is_lost()) as connections:
        free, waiting = deque(connections), deque[int]()
        replacing, over = set[asyncio.Task[None]](), asyncio.Event()
        tally = Tally(due, left=len(due))

        def is_free(connection: Connection) -> None:
            if waiting:
                send(connection, waiting.popleft())
            else:
                free.append(connection)

        def is_lost() -> None:
            if over.is_set():
                return
            replacing.add(task := asyncio.create_task(replace()))
            task.add_done_callback(replacing.discard)

        async def replace() -> None:
            with contextlib.suppress(OSError):
                connections.append(await _connection(job.target, is_lost))
                is_free(connections[-1])

        def send(connection: Connection, number: int) -> None:
            def answered(connection: Connection, status: int) -> None:
                tally.end(number, status)
                tally.less()
                if connection.is_open:
                    is_free(connection)

            tally.sending(number)
            connection.send(requests[number % len(requests)], answered)

        def are_due(numbers: range) -> None:
            for number in numbers:
                while free and not free[-1].is_open:
                    free.pop()
                if free:
                    send(free.pop(), number)
                else:
                    waiting.append(number)

        pace = threading.Thread(target=_pace, args=(tally, asyncio.get_running_loop(), are_due))
        pace.start()
        outcome = await tally.outcome(due[-1] + PATIENCE)
        pace.join()
        over.set()
        for task in replacing:
            task.cancel()
    return outcome


def _pace(tally: Tally, loop: asyncio.AbstractEventLoop, are_due: Callable[[range], None]) -> None:
    """In a thread, since a loop's timers tick in milliseconds only."""
    due, at = tally.due, 0
    while at < len(due):
        wait = tally.started + due[at] - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        now, first = time.perf_counter() - tally.started, at
        while at < len(due) and due[at] <= now:
            at += 1
        if at > first:
            loop.call_soon_threadsafe(are_due, range(first, at))


async def closed_loop(job: Closed) -> Outcome:
    requests = _requests(job.traffic, job.target)
    source = iter(requests) if job.seconds is None else itertools.cycle(requests)
    async with _connected(job.target) as connections:
        tally = Tally(left=len(connections))
        until = math.inf if job.seconds is None else tally.started + job.seconds

        def send(connection: Connection) -> None:
            data = next(source, None) if time.perf_counter() < until else None
            if data is None or not connection.is_open:
                tally.less()
                return
            number = tally.begin()

            def answered(connection: Connection, status: int) -> None:
                tally.end(number, status)
                send(connection)

            connection.send(data, answered)

        for connection in connections:
            send(connection)
        return await tally.outcome((job.seconds or 10 * PATIENCE) + PATIENCE)


@contextlib.asynccontextmanager
async def _connected(
    target: Target, lost: Callable[[], None] = lambda: None
) -> AsyncIterator[list[Connection]]:
    """Its connections, within the block; in it no garbage is collected. `lost` hears of each that
    the server closes."""
    connections = [await _connection(target, lost) for _ in range(target.connections)]
    gc.collect()
    gc.disable()
    try:
        yield connections
    finally:
        gc.enable()
        for connection in connections:
            connection.close()


async def _connection(target: Target, lost: Callable[[], None]) -> Connection:
    loop = asyncio.get_running_loop()
    made = await loop.create_connection(lambda: Connection(lost), "127.0.0.1", target.port)
    return made[1]


def _requests(traffic: Traffic, target: Target) -> list[bytes]:
    return [request(body, target.secret, target.path) for body in traffic.bodies()]


async def drive(job: Job) -> Outcome:
    """Does the job, from the first connection to the last answer."""
    return await (open_loop(job) if isinstance(job, Open) else closed_loop(job))


def main() -> None:
    """A line of JSON in, a line of JSON out, until there are no more."""
    sys.setswitchinterval(0.0001)  # the pacing thread must not wait for the loop's
    decoder = msgspec.json.Decoder(Job)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin.buffer:
            outcome = runner.run(drive(decoder.decode(line)))
            sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
