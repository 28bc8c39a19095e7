"""Certificates that are replaced while everything runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from pagewire_runtime import renewing
from pagewire_runtime.auth import caller
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Refusal, SettingsError
from pagewire_runtime.tls import Files, Tls
from tests.support.authority import HOUR, Authority, replace

from .conftest import Serve, stream, unary


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "LOOK_EVERY", 0.02)


def copies(folder: Path, of: Tls, name: str) -> Tls:
    """The same content in files of its own, to be replaced."""
    there = Tls(*(folder / f"{name}.{kind}" for kind in ("crt", "key", "ca")))
    replace(there, of)
    return there


async def role(request: bytes, context: Any) -> bytes:
    return caller().role.encode()


@asynccontextmanager
async def fresh_connection(target: str, tls: Tls) -> AsyncIterator[Any]:
    """A call on a connection of its own, as another process would make it."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = tls.channel_credentials()
    async with grpc.aio.secure_channel(target, credentials, options=options) as client:
        yield unary(client)


async def test_a_server_takes_new_files_without_a_restart_and_refuses_the_old_authority(
    serve: Serve, ours: Authority, tmp_path: Path
) -> None:
    theirs = Authority(tmp_path, "theirs")
    files = copies(tmp_path, ours.issue("localhost"), "server")
    async with serve(role, tls=files) as echo:
        target = f"localhost:{echo.server.port}"
        async with fresh_connection(target, ours.issue("sync")) as call:
            before = await call(b"", timeout=30)

        replace(files, theirs.issue("localhost"))
        async with fresh_connection(target, theirs.issue("sync")) as call:
            after = await call(b"", timeout=30)
        stale = trusting(ours.issue("sync"), theirs.file)
        async with fresh_connection(target, stale) as call:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", timeout=30)

    assert (before, after) == (b"sync", b"sync")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_expired_certificate_is_refused_until_a_new_one_is_there(
    serve: Serve, ours: Authority, tmp_path: Path
) -> None:
    expired = ours.issue("sync", "expired", ends_in=-HOUR)
    files = copies(tmp_path, expired, "client")
    async with AsyncExitStack() as stack:
        echo = await stack.enter_async_context(serve(role, tls=ours.issue("localhost")))
        target = f"localhost:{echo.server.port}"
        client = await stack.enter_async_context(channel(target, token=None, tls=files))
        with pytest.raises(Refusal) as refused:
            await unary(client)(b"", timeout=30)
        replace(files, ours.issue("sync"))
        answer = await until_answered(unary(client))

    assert refused.value.reason == "UNAVAILABLE"
    assert answer == b"sync"


def trusting(tls: Tls, authority: Path) -> Tls:
    return Tls(tls.cert_file, tls.key_file, authority)


async def until_answered(call: Any) -> bytes:
    async with asyncio.timeout(30):
        while True:
            try:
                return bytes(await call(b"", timeout=30))
            except Refusal:
                await asyncio.sleep(0.05)


async def until_renewed(client: grpc.aio.Channel, before: grpc.aio.Channel) -> None:
    """Returns once the channel goes on over another than before."""
    assert isinstance(client, renewing.RenewingChannel)
    async with asyncio.timeout(30):
        while client._channel is before:
            await asyncio.sleep(0.01)


async def test_no_call_fails_while_all_change_to_another_authority(
    serve: Serve, ours: Authority, tmp_path: Path
) -> None:
    theirs = Authority(tmp_path, "theirs")
    both = tmp_path / "both.pem"
    both.write_bytes(ours.file.read_bytes() + theirs.file.read_bytes())
    server = copies(tmp_path, ours.issue("localhost"), "server")
    client_files = copies(tmp_path, ours.issue("sync"), "client")
    old_client, old_server = ours.issue("sync"), ours.issue("localhost")
    new_client, new_server = theirs.issue("sync"), theirs.issue("localhost")
    steps = [
        # Whom to trust comes first, everywhere; then the certificates, in any order.
        (client_files, trusting(old_client, both)),
        (server, trusting(old_server, both)),
        (client_files, trusting(new_client, both)),
        (server, new_server),
        (client_files, new_client),
    ]
    answers: list[bytes] = []

    async def calls(call: Any, done: asyncio.Event) -> None:
        while not done.is_set():
            answers.append(await call(b"", timeout=30))

    async with serve(role, tls=server) as echo:
        target = f"localhost:{echo.server.port}"
        async with channel(target, token=None, tls=client_files) as client:
            done = asyncio.Event()
            call = unary(client)
            busy = [asyncio.create_task(calls(call, done)) for _ in range(4)]
            for there, by in steps:
                await until_more(answers, busy)
                before = client._channel  # type: ignore[attr-defined]  # a RenewingChannel
                replace(there, by)
                if there is client_files:
                    await until_renewed(client, before)
            await until_more(answers, busy)
            done.set()
            await asyncio.gather(*busy)
        async with fresh_connection(target, ours.issue("sync")) as stale:
            with pytest.raises(grpc.aio.AioRpcError):
                await stale(b"", timeout=30)

    assert set(answers) == {b"sync"}
    assert len(answers) > 100


async def until_more(answers: list[bytes], busy: list[asyncio.Task[None]]) -> None:
    """Returns after many calls more, none of which failed."""
    seen = len(answers)
    async with asyncio.timeout(30):
        while len(answers) < seen + 40:
            assert not any(each.done() for each in busy), "a call failed"
            await asyncio.sleep(0.01)


async def test_a_stream_under_way_ends_on_the_connection_that_it_began_on(
    serve: Serve, ours: Authority, tmp_path: Path
) -> None:
    may_end = asyncio.Event()

    async def slow(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await may_end.wait()
        yield b"last"

    files = copies(tmp_path, ours.issue("sync"), "client")
    async with AsyncExitStack() as stack:
        echo = await stack.enter_async_context(serve(role, slow, tls=ours.issue("localhost")))
        target = f"localhost:{echo.server.port}"
        client = await stack.enter_async_context(channel(target, token=None, tls=files))
        items = aiter(stream(client)(b""))
        first = await anext(items)
        before = client._channel  # type: ignore[attr-defined]  # a RenewingChannel
        replace(files, ours.issue("sync"))
        await until_renewed(client, before)
        while_open = await unary(client)(b"", timeout=30)
        may_end.set()
        last = await anext(items)

    assert (first, while_open, last) == (b"first", b"sync", b"last")


async def test_files_that_do_not_belong_together_yet_change_nothing(
    ours: Authority, tmp_path: Path
) -> None:
    there = copies(tmp_path, ours.issue("sync"), "client")
    files = Files(there)
    before = files.current
    other = ours.issue("sync")

    there.cert_file.write_bytes(other.cert_file.read_bytes())
    halfway = files.renewed()
    there.key_file.write_bytes(other.key_file.read_bytes())
    whole = files.renewed()

    assert halfway is None
    assert whole is not None
    assert whole.certificate == other.cert_file.read_bytes() != before.certificate
    assert files.renewed() is None


@pytest.mark.parametrize("lost", ["cert_file", "key_file", "ca_file"])
def test_a_file_that_is_no_certificate_stops_the_start_by_name(
    ours: Authority, tmp_path: Path, lost: str
) -> None:
    there = copies(tmp_path, ours.issue("sync"), "client")
    getattr(there, lost).write_text("no PEM")

    with pytest.raises(SettingsError, match="TLS_CERT_FILE, TLS_KEY_FILE, TLS_CA_FILE: "):
        there.read()


async def test_a_certificate_of_several_roles_may_do_what_each_may(
    serve: Serve, ours: Authority
) -> None:
    async with serve(role, tls=ours.issue("localhost")) as echo:
        target = f"localhost:{echo.server.port}"
        async with channel(target, token=None, tls=ours.issue("webhook", "sync")) as client:
            assert await unary(client)(b"", timeout=30) == b"sync"


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
async def test_other_machines_are_served_without_tls_only_where_that_is_allowed(
    serve: Serve, listen: str
) -> None:
    with pytest.raises(SettingsError, match="GRPC_INSECURE"):
        await serve(listen=listen).__aenter__()
    async with serve(listen=listen, insecure=True) as echo:
        assert echo.server.port > 0
