"""Connections of a listener: how many there are, and what is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from pagewire_webhook import connections
from pagewire_webhook.connections import Connections
from pagewire_webhook.listening import listening
from pagewire_webhook.posts import Taker
from tests.support.edge import Edge, running_edge
from tests.support.rawhttp import request

ANY = "127.0.0.1:0"
SOON = 30.0
GET = request("GET", b"/")


class App:
    """Answers 200 at once, 404 without reading a POST to /unread, or when it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        unread = scope["path"] == "/unread"
        if not unread:
            while (await receive()).get("more_body"):
                pass
        self.under_way += 1
        await self.may_answer.wait()
        self.under_way -= 1
        start: Any = {"type": "http.response.start", "status": 404 if unread else 200}
        await send({**start, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class Peer:
    """One connection to the listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def status(self) -> int:
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), SOON)
        return int(head.split()[1])

    async def rest(self) -> bytes:
        """All that comes until the listener closes."""
        return await asyncio.wait_for(self._reader.read(), SOON)

    async def trickles(self, data: bytes) -> bytes:
        """Sends it again and again until it is closed on."""

        async def trickle() -> None:
            while True:
                self._writer.write(data)
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        try:
            return await self.rest()
        except ConnectionResetError:
            return b""
        finally:
            trickling.cancel()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def peers(port: int, count: int) -> AsyncIterator[list[Peer]]:
    found = [Peer(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
    try:
        yield found
    finally:
        for each in found:
            each.close()


async def until_under_way(app: App, count: int) -> None:
    async with asyncio.timeout(SOON):
        while app.under_way < count:
            await asyncio.sleep(0.01)


class Watched(Connections):
    """Tells how often it was looked at; `last` is that of the listener made last."""

    last: Watched

    def __init__(self, most: int, seconds: float, taker: Taker | None = None) -> None:
        super().__init__(most, seconds, taker)
        self.looks = 0
        Watched.last = self

    def sweep(self, now: float) -> None:
        super().sweep(now)
        self.looks += 1

    async def until_overdue(self) -> None:
        """Returns when a look has come at which whoever had to do something was overdue."""
        await asyncio.sleep(self.seconds)
        seen = self.looks
        async with asyncio.timeout(SOON):
            while self.looks < seen + 2:
                await asyncio.sleep(0.05)

    async def until_one_holds(self, least: int) -> None:
        async with asyncio.timeout(SOON):
            while self.unfinished_bytes < least:
                await asyncio.sleep(0.01)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    monkeypatch.setattr("pagewire_webhook.listening.Connections", Watched)
    return Watched


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_head_that_does_not_come_in_time_is_closed_on(sent: bytes) -> None:
    async with listening(App(), ANY, receipt_seconds=0.5) as port, peers(port, 1) as (slow,):
        slow.send(sent)

        assert await slow.rest() == b""


async def test_a_body_that_does_not_come_in_time_is_answered_408() -> None:
    async with listening(App(), ANY, receipt_seconds=0.5) as port, peers(port, 1) as (slow,):
        slow.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")

        assert await slow.status() == 408
        assert await slow.rest() == b""


async def test_bytes_that_trickle_do_not_put_the_end_off() -> None:
    async with listening(App(), ANY, receipt_seconds=0.5) as port, peers(port, 1) as (slow,):
        slow.send(b"GET / HTTP/1.1\r\nX: ")

        assert await slow.trickles(b"x") == b""


async def test_nor_do_empty_lines_after_an_answer() -> None:
    async with listening(App(), ANY, receipt_seconds=0.5) as port, peers(port, 1) as (slow,):
        slow.send(GET)
        assert await slow.status() == 200

        assert await slow.trickles(b"\r\n") == b""


async def test_nor_does_a_body_that_was_answered_before_it_came() -> None:
    async with listening(App(), ANY, receipt_seconds=0.5) as port, peers(port, 1) as (slow,):
        slow.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        assert await slow.status() == 404

        assert await slow.trickles(b"x") == b""


async def test_who_waits_for_an_answer_is_given_all_the_time_that_it_takes(
    watched: type[Watched],
) -> None:
    app = App()
    app.may_answer.clear()
    async with listening(app, ANY, receipt_seconds=0.5) as port, peers(port, 1) as (peer,):
        peer.send(GET)
        await until_under_way(app, 1)
        await watched.last.until_overdue()

        app.may_answer.set()

        assert await peer.status() == 200


async def test_a_connection_that_asks_nothing_more_stays(watched: type[Watched]) -> None:
    async with listening(App(), ANY, receipt_seconds=0.5) as port, peers(port, 1) as (peer,):
        peer.send(GET)
        assert await peer.status() == 200
        await watched.last.until_overdue()

        peer.send(GET)

        assert await peer.status() == 200


async def test_where_there_is_no_room_the_silent_give_way() -> None:
    async with (
        listening(App(), ANY, connections_max=20) as port,
        peers(port, 20) as silent,
        peers(port, 1) as (newcomer,),
    ):
        newcomer.send(GET)

        assert await newcomer.status() == 200
        assert await silent[0].rest() == b""  # the first of them
        silent[-1].send(GET)
        assert await silent[-1].status() == 200


async def test_and_so_do_those_that_were_answered_and_ask_nothing_more() -> None:
    async with listening(App(), ANY, connections_max=20) as port, peers(port, 20) as idle:
        for each in idle:
            each.send(GET)
        assert [await each.status() for each in idle] == [200] * 20

        async with peers(port, 1) as (newcomer,):
            newcomer.send(GET)

            assert await newcomer.status() == 200


async def test_but_never_who_waits_for_an_answer() -> None:
    app = App()
    app.may_answer.clear()
    async with listening(app, ANY, connections_max=5) as port, peers(port, 5) as waiting:
        for each in waiting:
            each.send(GET)
        await until_under_way(app, 5)

        async with peers(port, 1) as (newcomer,):
            assert await newcomer.rest() == b""

        app.may_answer.set()
        assert [await each.status() for each in waiting] == [200] * 5


async def test_what_came_in_part_is_bounded_and_who_holds_it_longest_gives_way(
    monkeypatch: pytest.MonkeyPatch, watched: type[Watched]
) -> None:
    monkeypatch.setattr(connections, "UNFINISHED_MAX_BYTES", 50_000)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n"
    async with listening(App(), ANY) as port, peers(port, 2) as (first, second):
        first.send(head + b"x" * 29_000)
        await watched.last.until_one_holds(29_000)
        second.send(head + b"x" * 29_000)

        assert await first.status() == 408
        second.send(b"x" * 1_000)
        assert await second.status() == 200


@pytest.fixture
async def poor() -> AsyncIterator[Edge]:
    async with running_edge(descriptors=128) as edge:
        yield edge


async def test_where_descriptors_are_few_a_crowd_neither_stops_nor_spins_it(poor: Edge) -> None:
    await poor.takes_a_message()
    loop = asyncio.get_running_loop()

    for _ in range(2):
        crowd = [await asyncio.open_connection("127.0.0.1", poor.port) for _ in range(100)]
        began, used = loop.time(), poor.cpu_seconds()
        for _ in range(5):
            await poor.takes_a_message()
        await asyncio.sleep(1)
        assert poor.cpu_seconds() - used < 0.5 * (loop.time() - began)
        for _, writer in crowd:
            writer.close()

    await poor.takes_a_message()
