"""A balancer's address leads to each of its servers in turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faults.balancing import balanced


@asynccontextmanager
async def answering(word: bytes) -> AsyncIterator[str]:
    """A server that puts a word before whatever line it is sent; its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(word + line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        yield f"{host}:{port}"


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b" says this\n")
    return await reader.readline()


async def test_each_connection_goes_to_the_next_server_and_stays_there() -> None:
    async with answering(b"one") as one, answering(b"two") as two, balanced([one, two]) as address:
        host, _, port = address.rpartition(":")
        connections = [await asyncio.open_connection(host, int(port)) for _ in range(2)]

        answers = [await asked(*each) for each in connections * 2]

        for _, writer in connections:
            writer.close()
    assert sorted(answers) == [b"one says this\n"] * 2 + [b"two says this\n"] * 2
    assert answers[:2] == answers[2:]


async def test_a_connection_ends_with_the_balancer_or_where_nobody_listens() -> None:
    async with answering(b"one") as gone:
        pass
    async with answering(b"one") as one, balanced([one, gone]) as address:
        host, _, port = address.rpartition(":")
        connections = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        firsts = [asyncio.create_task(asked(*each)) for each in connections]
        await asyncio.wait(firsts)
    ends = [await reader.read() for reader, _ in connections if not reader.exception()]

    answers = [first.result() for first in firsts if not first.exception()]
    assert b"one says this\n" in answers
    assert set(ends) <= {b""}
    for _, writer in connections:
        writer.close()
