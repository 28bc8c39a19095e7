import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from faults.postgres import Commits, Loss, Lost
from faults.proxy import Proxy
from faults.toxics import (
    Bandwidth,
    Direction,
    Hang,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    Timeout,
)
from pagewire_store.trips import BEGIN, COMMIT, Statement, ended, trip
from tests.support.servers import PostgresServer, postgres_server

__all__ = ["postgres_server"]  # fixtures

Saying = Callable[[psycopg.AsyncConnection], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SOON = 0.05
"""Long enough that what is not held back has come; nothing is measured against it."""


class Echoing:
    """A server that says back what it hears, and keeps it."""

    def __init__(self) -> None:
        self.heard = b""
        self.pieces: list[int] = []
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.heard += data
                self.pieces.append(len(data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.ended.set()
            writer.close()


@asynccontextmanager
async def standing(listen: str = "127.0.0.1:0") -> AsyncIterator[tuple[Proxy, Echoing]]:
    """A proxy before an echoing server."""
    echoing = Echoing()
    server = await asyncio.start_server(echoing.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Proxy(f"127.0.0.1:{port}", listen=listen) as proxy:
        yield proxy, echoing
    server.close()


@asynccontextmanager
async def client(proxy: Proxy) -> AsyncIterator[Streams]:
    if proxy.address.startswith("unix:"):
        streams = await asyncio.open_unix_connection(proxy.address.removeprefix("unix:"))
    else:
        host, _, port = proxy.address.rpartition(":")
        streams = await asyncio.open_connection(host, int(port))
    try:
        yield streams
    finally:
        streams[1].close()


async def asked(streams: Streams, data: bytes, within: float = 5.0) -> bytes:
    streams[1].write(data)
    async with asyncio.timeout(within):
        return await streams[0].readexactly(len(data))


async def said_nothing(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(SOON):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_what_is_sent_comes_back_and_is_counted() -> None:
    async with standing() as (proxy, _), client(proxy) as streams:
        assert await asked(streams, b"x" * 300_000) == b"x" * 300_000

        assert (proxy.connections, proxy.open) == (1, 1)
        assert proxy.bytes == {Direction.UP: 300_000, Direction.DOWN: 300_000}


async def test_an_end_of_one_side_reaches_the_other() -> None:
    async with standing() as (proxy, echoing), client(proxy) as (reader, writer):
        writer.write(b"last words")
        writer.write_eof()

        assert await reader.read() == b"last words"
        await echoing.ended.wait()


async def test_it_stands_at_a_unix_socket_too(tmp_path: Path) -> None:
    async with standing(f"unix:{tmp_path}/s") as (proxy, _):
        async with client(proxy) as streams:
            assert await asked(streams, b"hello") == b"hello"
        proxy.refuse()
        with pytest.raises(FileNotFoundError):
            async with client(proxy):
                pass


async def test_while_it_refuses_nobody_connects_and_afterwards_the_port_is_the_same() -> None:
    async with standing() as (proxy, _), client(proxy) as before:
        assert await asked(before, b"hello") == b"hello"

        proxy.refuse()

        with pytest.raises(ConnectionError):
            await before[0].readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            async with client(proxy):
                pass
        await proxy.accept()
        async with client(proxy) as after:
            assert await asked(after, b"hello") == b"hello"


async def test_refusing_new_ones_only_leaves_established_connections_alone() -> None:
    async with standing() as (proxy, _), client(proxy) as before:
        assert await asked(before, b"one") == b"one"

        proxy.refuse(established=False)

        assert await asked(before, b"two") == b"two"
        with pytest.raises(ConnectionRefusedError):
            async with client(proxy):
                pass


async def test_a_target_that_is_not_there_resets_the_connection() -> None:
    async with Proxy() as proxy, client(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read(1)


async def test_a_black_hole_keeps_connections_open_and_lets_go_on_what_it_held() -> None:
    async with standing() as (proxy, echoing), client(proxy) as (reader, writer):
        with proxy.suffering(Hang()):
            writer.write(b"held")
            assert await said_nothing(reader)
            assert echoing.heard == b""
            async with client(proxy) as (_, other):
                assert not other.is_closing()

        assert await reader.readexactly(4) == b"held"


@pytest.mark.parametrize(("direction", "arrives"), [(Direction.UP, False), (Direction.DOWN, True)])
async def test_a_black_hole_of_one_direction_leaves_the_other_open(
    direction: Direction, arrives: bool
) -> None:
    async with standing() as (proxy, echoing), client(proxy) as (reader, writer):
        proxy.add(Hang(), direction)

        writer.write(b"question")

        assert await said_nothing(reader)
        assert (echoing.heard == b"question") is arrives


async def test_new_only_spares_who_was_there_before() -> None:
    async with standing() as (proxy, _), client(proxy) as before:
        assert await asked(before, b"one") == b"one"

        proxy.add(Hang(), new_only=True)

        assert await asked(before, b"two") == b"two"
        async with client(proxy) as (reader, writer):
            writer.write(b"three")
            assert await said_nothing(reader)


async def test_old_only_spares_who_comes_later() -> None:
    async with standing() as (proxy, _), client(proxy) as before:
        assert await asked(before, b"one") == b"one"

        proxy.add(Hang(), old_only=True)

        before[1].write(b"two")
        async with client(proxy) as later:
            assert await asked(later, b"three") == b"three"
        assert await said_nothing(before[0])


async def test_latency_makes_it_late_and_in_order() -> None:
    clock = asyncio.get_running_loop().time
    async with standing() as (proxy, _), client(proxy) as streams:
        proxy.add(Latency(0.1, jitter=0.05), Direction.DOWN)
        begun = clock()
        streams[1].write(b"first,")
        await asyncio.sleep(0.01)
        streams[1].write(b"second")

        answer = await streams[0].readexactly(12)

        assert answer == b"first,second"
        assert clock() - begun >= 0.05


async def test_lifted_latency_lets_what_waits_go_at_once() -> None:
    async with standing() as (proxy, _), client(proxy) as (reader, writer):
        lift = proxy.add(Latency(60))
        writer.write(b"hello")
        assert await said_nothing(reader)

        lift()

        async with asyncio.timeout(5):
            assert await reader.readexactly(5) == b"hello"


async def test_a_narrow_bandwidth_takes_its_time() -> None:
    clock = asyncio.get_running_loop().time
    async with standing() as (proxy, _), client(proxy) as streams:
        proxy.add(Bandwidth(20_000), Direction.UP)
        begun = clock()

        await asked(streams, b"x" * 4_000)

        assert clock() - begun >= 0.18


async def test_slices_arrive_in_small_pieces() -> None:
    async with standing() as (proxy, echoing), client(proxy) as streams:
        proxy.add(Slicer(size=10, variation=2, delay=0.001), Direction.UP)

        assert await asked(streams, b"abcdefghij" * 20) == b"abcdefghij" * 20

        assert len(echoing.pieces) > 10


async def test_reset_peer_ends_it_without_farewell() -> None:
    async with standing() as (proxy, _), client(proxy) as streams:
        await asked(streams, b"hello")

        proxy.add(ResetPeer())

        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(5):
                await streams[0].readexactly(1)


async def test_a_timeout_passes_nothing_and_then_closes() -> None:
    async with standing() as (proxy, echoing), client(proxy) as (reader, writer):
        proxy.add(Timeout(0.05))
        writer.write(b"hello")

        async with asyncio.timeout(5):
            assert await reader.read() == b""
        assert echoing.heard == b""


async def test_limited_data_is_cut_after_just_so_many_bytes() -> None:
    async with standing() as (proxy, _), client(proxy) as (reader, writer):
        proxy.add(LimitData(7), Direction.DOWN)

        writer.write(b"0123456789")

        async with asyncio.timeout(5):
            assert await reader.read() == b"0123456"


async def test_clearing_lifts_everything() -> None:
    async with standing() as (proxy, _):
        proxy.add(Hang())
        proxy.refuse()

        await proxy.clear()

        async with client(proxy) as streams:
            assert await asked(streams, b"hello") == b"hello"


# What happens to commits.


@pytest.fixture
def commits() -> Commits:
    return Commits()


@pytest.fixture
def table(postgres_server: PostgresServer) -> Iterator[str]:
    with postgres_server.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute("create table said (word text primary key)")
        yield url


@asynccontextmanager
async def proxied(url: str, commits: Commits) -> AsyncIterator[psycopg.AsyncConnection]:
    parts = psycopg.conninfo.conninfo_to_dict(url)
    host, port = str(parts["host"]), parts.get("port", 5432)
    target = f"unix:{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"
    async with Proxy(target, watch=commits.watch) as proxy:
        host, _, port = proxy.address.rpartition(":")
        connection = await psycopg.AsyncConnection.connect(
            url, host=host, port=int(port), prepare_threshold=0
        )
        try:
            yield connection
        finally:
            await connection.close()


def words(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("select word from said order by 1")]


SAY = Statement("insert into said values ($1)", [25])


async def by_a_trip(connection: psycopg.AsyncConnection) -> None:
    await ended(connection, SAY.said(b"lost"))


async def by_a_trip_of_its_own(connection: psycopg.AsyncConnection) -> None:
    await trip(connection, SAY.said(b"lost"))


async def by_two_trips(connection: psycopg.AsyncConnection) -> None:
    await trip(connection, BEGIN, SAY.said(b"lost"))
    await trip(connection, COMMIT)


async def by_the_driver(connection: psycopg.AsyncConnection) -> None:
    await connection.execute("insert into said values (%s)", ["lost"])
    await connection.commit()


WAYS = [by_a_trip, by_a_trip_of_its_own, by_two_trips, by_the_driver]


@pytest.mark.parametrize("say", WAYS)
async def test_a_lost_answer_to_commit_leaves_it_committed_and_its_client_in_doubt(
    say: Saying, table: str, commits: Commits
) -> None:
    seen: list[list[str]] = []

    async def look() -> None:
        seen.append(await asyncio.to_thread(words, table))

    loss = commits.lose(Lost.ANSWER, saying="insert into said", then=look)
    async with proxied(table, commits) as connection:
        with pytest.raises(psycopg.OperationalError):
            await say(connection)

    await loss.happened()
    assert words(table) == ["lost"]
    assert seen == [["lost"]]


@pytest.mark.parametrize("say", WAYS)
async def test_a_lost_commit_undoes_the_transaction(
    say: Saying, table: str, commits: Commits
) -> None:
    loss = commits.lose(Lost.REQUEST, saying="insert into said")
    async with proxied(table, commits) as connection:
        with pytest.raises(psycopg.OperationalError):
            await say(connection)

    await loss.happened()
    assert words(table) == []


async def test_only_the_transaction_that_says_so_is_struck_and_only_so_often(
    table: str, commits: Commits
) -> None:
    loss = commits.lose(Lost.ANSWER, saying="INSERT INTO said", times=1)
    async with proxied(table, commits) as connection:
        await connection.execute("select 1")
        await connection.commit()
        assert loss.left == 1
        with pytest.raises(psycopg.OperationalError):
            await by_a_trip(connection)
    async with proxied(table, commits) as connection:
        await trip(connection, SAY.said(b"told"))

    assert loss.struck == 1
    assert words(table) == ["lost", "told"]


async def test_a_transaction_that_fails_is_told_and_the_loss_waits_for_the_next(
    table: str, commits: Commits
) -> None:
    loss: Loss = commits.lose(Lost.ANSWER, saying="insert into said")
    with psycopg.connect(table) as beside:
        beside.execute("insert into said values ('lost')")
    async with proxied(table, commits) as connection:
        with pytest.raises(errors.UniqueViolation):
            await by_a_trip(connection)
        await connection.rollback()
        assert loss.left == 1

        with pytest.raises(psycopg.OperationalError):
            await ended(connection, SAY.said(b"other"))

    assert words(table) == ["lost", "other"]
