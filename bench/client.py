"""The Graph client by itself: 500 reads on their way, each answered after 250 ms, by a server that
does nothing else; beside stock httpx, and beside bare sockets, which is the limit.

`in_flight` measures; run as a program this is what it starts: the server, or one of the clients,
each a process with the client's core to itself.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import cast

import httpx
import msgspec
import uvloop

from bench.figures import Goal, Measure, MeasuringFailed
from bench.processes import CLIENT_CORE, SERVER_CORE, child, free_port
from pagewire.type.v1.page_pb2 import Login
from pagewire_sync.batches import Batches
from pagewire_sync.budget import RATES, Budget, Product, Rate
from pagewire_sync.graph import App, Credentials, Graph, Hosts, open_transport
from pagewire_sync.reading import Reads
from pagewire_sync.results import Done

IN_FLIGHT = 500
LATENCY = 0.25
IDEAL = IN_FLIGHT / LATENCY
OURS, STOCK, BARE, THE_IDEAL = "pagewire", "stock httpx", "bare sockets", "ideal"
_WARM_UP = 2.0

Get = Callable[[int], Awaitable[None]]
"""One read, of the page of this number. Raises MeasuringFailed for a wrong answer."""


class Found(msgspec.Struct):
    """What a client did in its time; `peak_mib` is the most memory that it had."""

    rate: float
    cpu_us: float
    peak_mib: float


async def in_flight(folder: Path, *, quick: bool) -> list[Measure]:
    """Reads a second and the most memory, of each client, a value a round."""
    rounds, seconds = (1, 3.0) if quick else (3, 8.0)
    found: dict[str, list[Found]] = {name: [] for name in CLIENTS}
    port = free_port()
    with child(
        ["-m", "bench.client", "server", str(port)],
        folder / "graph.log",
        core=SERVER_CORE,
        port=port,
    ):
        for _ in range(rounds):
            for name in CLIENTS:
                found[name].append(await asyncio.to_thread(_run, folder, name, port, seconds))
    return _measures(found)


def _run(folder: Path, name: str, port: int, seconds: float) -> Found:
    log = folder / "client.log"
    argv = ["-m", "bench.client", name, str(port), str(seconds)]
    with child(argv, log, core=CLIENT_CORE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
    if not line:
        raise MeasuringFailed(f"{name}: ended without a word:\n{log.read_text()[-2000:]}")
    return msgspec.json.decode(line, type=Found)


def _measures(found: dict[str, list[Found]]) -> list[Measure]:
    rate = {name: [each.rate for each in of] for name, of in found.items()}
    ideal = [IDEAL] * len(rate[OURS])
    return [
        Measure(
            "in_flight_500",
            "reads/s",
            rate[OURS],
            goal=Goal(0.65, THE_IDEAL),
            limit=rate[BARE],
            peers={THE_IDEAL: ideal},
        ),
        Measure(
            "in_flight_500_beside_httpx",
            "reads/s",
            rate[OURS],
            goal=Goal(20, STOCK),
            peers={STOCK: rate[STOCK]},
        ),
        Measure(
            "in_flight_500_cpu",
            "µs/read",
            [each.cpu_us for each in found[OURS]],
            higher=False,
            limit=[each.cpu_us for each in found[BARE]],
            peers={STOCK: [each.cpu_us for each in found[STOCK]]},
        ),
        Measure(
            "in_flight_500_memory",
            "MiB",
            [each.peak_mib for each in found[OURS]],
            higher=False,
            goal=Goal(128),
            peers={STOCK: [each.peak_mib for each in found[STOCK]]},
        ),
    ]


def _answer() -> bytes:
    """A page of threads as Graph lists them, 11 kB."""
    threads = [
        {
            "id": f"t_{10**15 + number}",
            "updated_time": "2021-07-23T09:50:48+0000",
            "snippet": "What is the price of the red one? " * 2,
            "participants": {
                "data": [
                    {"id": str(7 * 10**15 + number), "name": "A person"},
                    {"id": "104200000000001", "name": "A page"},
                ]
            },
        }
        for number in range(40)
    ]
    body = json.dumps({"data": threads, "paging": {"cursors": {"after": "QV"}}}).encode()
    usage = json.dumps({"104": [{"type": "messenger", "call_count": 3}]})
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\n"
        f"X-Business-Use-Case-Usage: {usage}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Late(asyncio.Protocol):
    """Answers each request after the latency; one at a time a connection, as HTTP/1.1 has it."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._request = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is not one by type

    def data_received(self, data: bytes) -> None:
        self._request += data
        if self._request.endswith(b"\r\n\r\n"):
            self._request = b""
            asyncio.get_running_loop().call_later(LATENCY, self._say)

    def _say(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(self._answer)


async def late_graph(port: int) -> asyncio.Server:
    """A server that answers whatever it is asked, late."""
    answer = _answer()
    return await asyncio.get_running_loop().create_server(
        lambda: _Late(answer), "127.0.0.1", port, backlog=1024
    )


async def _serve(port: int) -> None:
    await (await late_graph(port)).serve_forever()


@asynccontextmanager
async def _ours(port: int) -> AsyncIterator[Get]:
    base = f"http://127.0.0.1:{port}"
    budget = Budget({**RATES, Product.CONVERSATIONS: Rate(1e6, 1)})
    async with open_transport() as transport:
        graph = Graph(transport, Hosts(base, base, "v25.0"), App("1", "secret", "secret"), budget)
        batches = Batches(graph)
        reads = Reads(batches, budget, token_died=_nobody)

        async def get(number: int) -> None:
            page_id = str(10**14 + number)
            outcome = await reads.get(
                Credentials(page_id, page_id, Login.LOGIN_FACEBOOK, f"EAAtoken{number}", 1),
                page_id,
                "conversations",
                _PARAMS,
                operation="conversations",
                product=Product.CONVERSATIONS,
            )
            if not isinstance(outcome, Done):
                raise MeasuringFailed(f"a read failed: {outcome.reason}")
            _check(len(outcome.body["data"]))

        yield get
        await batches.close()


async def _nobody(*_: object) -> None:
    raise MeasuringFailed("a token died")


_PARAMS = {"platform": "messenger", "fields": "id,updated_time,participants", "limit": "40"}


@asynccontextmanager
async def _stock(port: int) -> AsyncIterator[Get]:
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:  # noqa: S113  # it is to wait

        async def get(number: int) -> None:
            answer = await client.get(
                f"http://127.0.0.1:{port}/v25.0/{10**14 + number}/conversations",
                params=_PARAMS,
                headers={"Authorization": f"Bearer EAAtoken{number}"},
            )
            _check(len(answer.json()["data"]))

        yield get


@asynccontextmanager
async def _bare(port: int) -> AsyncIterator[Get]:
    size = len(_answer())
    kept: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def get(number: int) -> None:
        if number not in kept:
            kept[number] = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = kept[number]
        writer.write(
            b"GET /v25.0/%d/conversations?platform=messenger HTTP/1.1\r\nHost: graph\r\n"
            b"Authorization: Bearer EAAtoken\r\n\r\n" % number
        )
        _check(len(await reader.readexactly(size)) - size + 40)

    yield get
    for _, writer in kept.values():
        writer.close()


Client = Callable[[int], AbstractAsyncContextManager[Get]]
"""Given the port, within the block."""
CLIENTS: dict[str, Client] = {OURS: _ours, STOCK: _stock, BARE: _bare}


def _check(threads: int) -> None:
    if threads != 40:
        raise MeasuringFailed(f"{threads} threads were read of 40")


async def _measure(name: str, port: int, seconds: float) -> Found:
    loop = asyncio.get_running_loop()
    counted = 0
    begun = loop.time() + _WARM_UP

    async def keep_reading(get: Get, number: int) -> None:
        nonlocal counted
        while loop.time() < begun + seconds:
            await get(number)
            counted += begun <= loop.time() < begun + seconds

    async with CLIENTS[name](port) as get, asyncio.TaskGroup() as readers:
        tasks = [readers.create_task(keep_reading(get, number)) for number in range(IN_FLIGHT)]
        await asyncio.sleep(_WARM_UP)
        cpu = _cpu_seconds()
        await asyncio.sleep(begun + seconds - loop.time())
        cpu = _cpu_seconds() - cpu
        for task in tasks:
            task.cancel()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Found(counted / seconds, cpu * 1e6 / max(counted, 1), peak)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(what: str, port: str, seconds: str = "0") -> None:
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)  # as our services have it
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if what == "server":
            runner.run(_serve(int(port)))
        else:
            found = runner.run(_measure(what, int(port), float(seconds)))
            print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
