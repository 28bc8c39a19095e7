import asyncio

from pagewire_store.cache_probe import CacheProbe
from tests.support.servers import valkey_url

__all__ = ["valkey_url"]


async def test_a_cache_that_answers_is_ok(valkey_url: str) -> None:
    probe = CacheProbe(valkey_url)

    async with asyncio.timeout(30):
        while await probe.state() != "ok":  # the first connection may take too long
            await asyncio.sleep(0.01)
    await probe.close()


async def test_no_cache_is_off() -> None:
    probe = CacheProbe(None)

    assert await probe.state() == "off"
    await probe.close()


async def test_a_cache_that_is_not_there_says_so() -> None:
    probe = CacheProbe("unix:///nonexistent/valkey.sock")

    state = await probe.state()
    await probe.close()

    assert state.startswith("cannot be used")


async def test_a_cache_that_hangs_is_given_up_soon() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    probe = CacheProbe(f"redis://:canary@127.0.0.1:{port}")

    async with asyncio.timeout(30):
        state = await probe.state()
    await probe.close()
    server.close()
    await server.wait_closed()

    assert state != "ok"
    assert "canary" not in state
