"""Whom we talk to, and whom we do not, whatever the other side says or shows."""

import asyncio
import json
import ssl
from pathlib import Path

import httpx
import pytest

from pagewire.store.v1.outbox_service_pb2 import ClaimedReply
from pagewire.type.v1.page_pb2 import Login
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_runtime.tls import Tls
from pagewire_sync.budget import Budget
from pagewire_sync.graph import App, Credentials, Graph, Hosts, NotSent, open_transport
from pagewire_sync.labels import Labels
from tests.support.authority import Authority
from tests.support.rawgraph import Behaviour, answering, http, listening, raw_graph

APP = App(app_id="880000000000010", secret="app-secret", instagram_secret="instagram-secret")
PAGE = Credentials("104", "104", Login.LOGIN_FACEBOOK, "EAAtoken", 1)


def graph_at(url: str, transport: httpx.AsyncBaseTransport) -> Graph:
    return Graph(transport, Hosts(url, url, "v25.0"), APP, Budget())


def one_after_another(*answers: bytes) -> Behaviour:
    waiting = iter(answers)

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(next(waiting))
        await writer.drain()

    return behave


async def at_once() -> None:
    pass


async def test_of_the_next_page_only_the_cursor_is_used_and_never_the_address() -> None:
    async with raw_graph(answering(http(b"{}"))) as elsewhere:
        first = {
            "data": [],
            "paging": {
                "next": f"{elsewhere.url}/v25.0/104/custom_labels?access_token=EAAtoken",
                "cursors": {"after": "c2&limit=9999"},
            },
        }
        second = {"data": [{"id": "1", "page_label_name": "lead"}]}
        answers = [http(json.dumps(each).encode()) for each in (first, second, {"success": True})]
        async with raw_graph(one_after_another(*answers)) as server, open_transport() as transport:
            wanted = ClaimedReply(
                kind=ReplyKind.REPLY_KIND_ADD_LABEL, label="lead", person_id="7", page_id="104"
            )
            await Labels(graph_at(server.url, transport)).apply(PAGE, wanted, at_once)

    assert elsewhere.requests == []
    assert [each.line.split("?")[0] for each in server.requests] == [
        "GET /v25.0/104/custom_labels",
        "GET /v25.0/104/custom_labels",
        "POST /v25.0/1/label",
    ]
    assert "after=c2%26limit%3D9999" in server.requests[1].line
    assert not any("EAAtoken" in each.line for each in server.requests)


def serving_tls(tls: Tls, newest: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = newest
    context.set_ciphers("ALL:@SECLEVEL=0")  # or it would not even offer what is too old
    return context


async def asked_over_tls(context: ssl.SSLContext) -> tuple[bool, int]:
    """Whether a call was sent to a server with this context, and the requests that it read."""
    read: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http(b'{"message_id":"m_1","recipient_id":"7"}'))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    sent = True
    async with server, open_transport() as transport:
        try:
            await graph_at(url, transport).post(PAGE, "104", "messages", {}, operation="send")
        except NotSent:
            sent = False
    return sent, len(read)


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that this machine trusts, as it trusts Meta's."""
    authority = Authority(tmp_path, "trusted")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


async def test_a_server_whose_certificate_we_trust_is_talked_to(trusted: Authority) -> None:
    context = serving_tls(trusted.issue("localhost"), ssl.TLSVersion.TLSv1_2)

    assert await asked_over_tls(context) == (True, 1)


async def test_a_server_with_a_certificate_of_its_own_making_gets_not_a_byte(
    trusted: Authority, tmp_path: Path
) -> None:
    own = Authority(tmp_path, "own").issue("localhost")

    assert await asked_over_tls(serving_tls(own, ssl.TLSVersion.TLSv1_3)) == (False, 0)


async def test_a_server_with_the_certificate_of_another_host_gets_not_a_byte(
    trusted: Authority,
) -> None:
    other = trusted.issue("graph.example")

    assert await asked_over_tls(serving_tls(other, ssl.TLSVersion.TLSv1_3)) == (False, 0)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_a_server_that_knows_no_tls_1_2_gets_not_a_byte(trusted: Authority) -> None:
    context = serving_tls(trusted.issue("localhost"), ssl.TLSVersion.TLSv1_1)

    assert await asked_over_tls(context) == (False, 0)


async def test_a_proxy_of_the_environment_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1))

    fine = answering(http(b'{"message_id":"m_1","recipient_id":"7"}'))
    async with listening(proxy) as port, raw_graph(fine) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        async with open_transport() as transport:
            await graph_at(server.url, transport).post(
                PAGE, "104", "messages", {}, operation="send"
            )

    assert seen == []
    assert len(server.requests) == 1
