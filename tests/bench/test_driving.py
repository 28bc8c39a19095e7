import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bench.driving import Closed, Open, Target, drive
from bench.traffic import Traffic

TRAFFIC = Traffic(name="d", pages=("1",), people=2, messages=20, sent_ms=0)


@asynccontextmanager
async def server(answer: Callable[[int], bytes]) -> AsyncIterator[Target]:
    """Answers the nth request (from 0) with these bytes; b"" closes the connection."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                data, count = answer(count), count + 1
                if not data:
                    break
                for at in range(0, len(data), 20):  # in pieces, as networks do
                    writer.write(data[at : at + 20])
                    await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield Target(port=port, path="/api/webhook", secret="secret", connections=3)


def good(_: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\r\n\r\nok"


async def test_an_open_loop_sends_each_request_once_and_sees_each_answer() -> None:
    async with server(good) as target:
        found = await drive(Open(target=target, traffic=TRAFFIC, rate=2_000, requests=50))

    assert found.status == [200] * 50
    assert all(latency > 0 for latency in found.latency_ms)
    assert found.due == sorted(found.due)


async def test_a_refusal_is_told_from_an_answer_and_felt_as_one_that_never_came() -> None:
    refused = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"

    async with server(lambda nth: refused if nth == 4 else good(nth)) as target:
        found = await drive(Open(target=target, traffic=TRAFFIC, rate=2_000, requests=20))

    assert sorted(found.status) == [200] * 19 + [503]
    assert found.failures == 1
    assert max(found.felt_ms) == float("inf")


async def test_a_request_whose_connection_is_lost_counts_as_unanswered() -> None:
    async with server(lambda nth: b"" if nth == 4 else good(nth)) as target:
        found = await drive(Open(target=target, traffic=TRAFFIC, rate=2_000, requests=20))

    assert sorted(found.status) == [0] + [200] * 19


async def test_a_late_start_counts_as_latency() -> None:
    async with server(good) as target:
        alone = Target(port=target.port, path="/", secret="secret", connections=1)
        found = await drive(Open(target=alone, traffic=TRAFFIC, rate=1e9, requests=20))

    # All were due at once, over one connection: each waited for those before it.
    assert found.latency_ms == sorted(found.latency_ms)
    assert found.latency_ms[-1] >= found.seconds * 1000 * 0.9
    # And what each waited for is told apart from its own answer's time.
    assert found.late_ms == sorted(found.late_ms)
    assert found.late_ms[-1] >= found.latency_ms[-2]


async def test_a_closed_loop_without_a_time_sends_each_body_once() -> None:
    async with server(good) as target:
        found = await drive(Closed(target=target, traffic=TRAFFIC))

    assert found.status == [200] * TRAFFIC.messages


async def test_a_closed_loop_ends_with_its_time_and_not_with_its_bodies() -> None:
    async with server(good) as target:
        found = await drive(Closed(target=target, traffic=TRAFFIC, seconds=0.2))

    assert len(found.status) > TRAFFIC.messages
    assert set(found.status) == {200}


async def test_a_closed_loop_whose_connections_are_all_lost_ends() -> None:
    async with server(lambda _: b"") as target:
        found = await drive(Closed(target=target, traffic=TRAFFIC, seconds=0.2))

    assert found.status == [0] * 3
