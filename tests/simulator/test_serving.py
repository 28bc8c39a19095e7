import asyncio
from typing import Any

from pagewire_simulator.serving import serving


class Leaping(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    leapt = 0.0

    def time(self) -> float:
        return super().time() + self.leapt


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def still_answered(idle_seconds: float) -> bool:
    """Whether a connection is still good after it was idle for so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Leaping)
    async with serving(app, "127.0.0.1:0") as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        loop.leapt += idle_seconds
        await asyncio.sleep(0.05)  # what is due by now happens
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read(100)
        writer.close()
    return bool(answer)


def test_an_idle_connection_is_kept_for_longer_than_a_minute_but_not_for_ever() -> None:
    with asyncio.Runner(loop_factory=Leaping) as runner:
        kept = runner.run(still_answered(70))
        closed = not runner.run(still_answered(80))

    assert (kept, closed) == (True, True)
