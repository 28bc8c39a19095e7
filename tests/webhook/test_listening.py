import asyncio
import socket
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pagewire_runtime.errors import SettingsError
from pagewire_webhook.listening import listening

ANY = "127.0.0.1:0"


def app_of(endpoint: Callable[[Request], Awaitable[Response]]) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)])


async def hello(request: Request) -> Response:
    assert request.client is not None
    return PlainTextResponse(request.client.host)


async def get(port: int, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.get(f"http://127.0.0.1:{port}/", headers=headers)


async def test_it_answers_once_the_block_is_entered_and_not_after_it() -> None:
    async with listening(app_of(hello), ANY) as port:
        response = await get(port)

    assert response.text == "127.0.0.1"
    with pytest.raises(httpx.ConnectError):
        await get(port)


async def test_no_answer_names_the_server() -> None:
    async with listening(app_of(hello), ANY) as port:
        response = await get(port)

    assert "server" not in response.headers


async def test_a_request_under_way_is_finished_while_no_new_one_is_taken() -> None:
    reached, release = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        reached.set()
        await release.wait()
        return PlainTextResponse("done")

    async with asyncio.timeout(30):
        left = listening(app_of(slow), ANY)
        port = await left.__aenter__()
        under_way = asyncio.create_task(get(port))
        await reached.wait()
        leaving = asyncio.create_task(left.__aexit__(None, None, None))
        await until_refused(port)
        still_there = not leaving.done()
        release.set()
        response = await under_way
        await leaving

    assert still_there
    assert response.text == "done"


async def until_refused(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:  # refused, or reset as the listener closes
            return
        writer.close()
        await asyncio.sleep(0.01)


async def test_a_connection_that_is_idle_holds_nothing_up() -> None:
    async with asyncio.timeout(30):
        async with listening(app_of(hello), ANY) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"127.0.0.1")

        rest = await reader.read()
        writer.close()

    assert rest == b""


async def test_a_request_that_never_ends_holds_it_up_no_longer_than_the_drain() -> None:
    reached = asyncio.Event()

    async def forever(_: Request) -> Response:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(30):
        async with listening(app_of(forever), ANY, drain_seconds=1) as port:
            under_way = asyncio.create_task(get(port))
            await reached.wait()

        response = await under_way

    assert response.status_code == 500


@pytest.mark.parametrize(
    ("proxies", "client"), [((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.9")]
)
async def test_only_a_trusted_proxy_is_believed_about_who_asks(
    proxies: tuple[str, ...], client: str
) -> None:
    async with listening(app_of(hello), ANY, trusted_proxies=proxies) as port:
        response = await get(port, **{"X-Forwarded-For": "203.0.113.9"})

    assert response.text == client


@pytest.mark.parametrize("listen", ["unix:/tmp/pagewire.sock", "127.0.0.1:", "127.0.0.1"])
async def test_an_address_that_is_no_host_and_port_is_refused(listen: str) -> None:
    with pytest.raises(SettingsError, match="must be host:port"):
        async with listening(app_of(hello), listen):
            pass


async def test_a_port_that_is_taken_is_refused_and_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"

        with pytest.raises(SettingsError, match=f"can't listen on {listen}: Address already"):
            async with listening(app_of(hello), listen):
                pass


async def test_it_listens_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with (
        listening(app_of(hello), "[::1]:0") as port,
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
    ):
        response = await client.get(f"http://[::1]:{port}/")

    assert response.text == "::1"
