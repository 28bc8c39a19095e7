"""The Graph client: one request at a time, its token in the header, its proof beside it, its answer
read strictly. A batch is such a request too; what its operations mean is `batches`' matter.
"""

import asyncio
import hashlib
import hmac
import ssl
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import httpx
import msgspec
from aiohttp.connector import Connection
from httpx_aiohttp import AiohttpTransport

from pagewire.type.v1.page_pb2 import LOGIN_FACEBOOK, LOGIN_INSTAGRAM, Login, Platform
from pagewire_runtime import faults, metrics
from pagewire_runtime.errors import Refusal
from pagewire_sync.budget import Budget, Product, regain_seconds, stopped_by
from pagewire_sync.failures import Failure, GraphError, classify
from pagewire_sync.usage import Usage, read_usage

ANSWER_BYTES = 8 * 2**20
BATCH_ANSWER_BYTES = 32 * 2**20
"""Of a batch, whose answers stand in it as strings: four of the largest, or fifty usual ones."""
CONNECT_SECONDS = 3.0
TOTAL_SECONDS = 10.0
CONNECTIONS = 500
IDLE_SECONDS = 4.0
"""How long an unused connection is kept. A POST written to one that its server is just closing is
lost with an unknown end, so ours must go first. Meta documents no time and announces none; its
open-source proxy takes 60 s, common servers and balancers between 5 s and 75 s: this is below them
all. A busy page's connections are never idle for so long; a quiet one's reply pays a handshake.
"""

PAUSES = {
    Failure.APP_THROTTLED: 60.0,
    Failure.THROTTLED: 60.0,
    Failure.SUSPENDED: 900.0,
    Failure.TOKEN: 5.0,
    Failure.PERMISSION: 5.0,
    Failure.SECRET: 5.0,
}
"""Seconds without calls after an error, where Meta does not say: Meta prolongs the block of who
goes on calling. With a dead token it is the time in which the outbox learns of it.
"""
_WRITTEN_SECONDS = 0.005
"""In a rehearsal: the loop's time to write a small request out, which aiohttp leaves to a task."""
LIMIT_CODE = 613
LIMIT_SECONDS = 5.0
"""Code 613 is a limit by the second, of one product or thread."""
TOKEN_LIMIT_CODE = 17
"""A limit of all that is asked with the token."""
_GZIP = zlib.MAX_WBITS | 16  # how zlib is told that its header is gzip's

_calls = metrics.histogram(
    "pagewire_graph_seconds",
    "Calls to Graph, by operation and how they ended.",
    ["operation", "end"],
)
_calls_that_ended = cache(_calls.labels)  # looked up once, as that takes longer than to count


@dataclass(frozen=True, slots=True)
class Credentials:
    """A page's token, the way it was granted, and the node that Graph knows it by.

    `since` is when the token came to be stored, so it is at least that old; `ends` is its end. None
    where nobody knows.
    """

    page_id: str
    node_id: str
    login: Login.ValueType
    token: str = field(repr=False)
    version: int = 0
    platform: Platform.ValueType = Platform.PLATFORM_UNSPECIFIED
    since: datetime | None = None
    ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where Graph is, by login, and which version is asked for."""

    facebook: str
    instagram: str
    version: str

    def base(self, login: Login.ValueType) -> str:
        """The address that paths are appended to."""
        host = self.instagram if login == LOGIN_INSTAGRAM else self.facebook
        return f"{host.rstrip('/')}/{self.version}"


@dataclass(frozen=True, slots=True)
class App:
    """The app as Meta knows it: its id, and the secrets that sign `appsecret_proof`, by login."""

    app_id: str
    secret: str = field(repr=False)
    instagram_secret: str = field(repr=False)

    def proof(self, credentials: Credentials) -> str:
        """HMAC-SHA256 of the token under the app's secret, hex (Meta's page "Securing Graph API
        calls").
        """
        by_instagram = credentials.login == LOGIN_INSTAGRAM
        secret = self.instagram_secret if by_instagram else self.secret
        return hmac.digest(secret.encode(), credentials.token.encode(), hashlib.sha256).hex()

    def credentials(self) -> Credentials:
        """The app's own token, for what it asks as itself (Meta's page on access tokens)."""
        token = f"{self.app_id}|{self.secret}"
        return Credentials("", "", LOGIN_FACEBOOK, token)


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: the decoded object, and what its headers said."""

    body: dict[str, Any]
    usage: Usage = field(default=Usage(), compare=False)


class NotSent(Exception):
    """Nothing of the request left this machine: it may be sent again without a doubt."""


class OutcomeUnknown(Exception):
    """The request left, or may have; no answer that can be read came back. `reason` is a stable
    word.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Graph:
    """Calls Graph, and lets each answer correct the budget; the waiting for it is the caller's.

    A POST is never repeated here: whether that is safe only the caller knows. aiohttp repeats a GET
    or DELETE once where the connection breaks; both change nothing the second time.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        hosts: Hosts,
        app: App,
        budget: Budget,
        *,
        total_seconds: float = TOTAL_SECONDS,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        """`total_seconds` is how long a call may take from its first step to its last byte, and
        `connect_seconds` until it has a connection, new or used.
        """
        self._transport = transport
        # The pool's time is aiohttp's for the connection as a whole, name and TLS included. The
        # rest of a call is limited by `total_seconds`.
        self._timing = {"timeout": {"connect": connect_seconds, "pool": connect_seconds}}
        self._hosts = hosts
        self._app = app
        self._budget = budget
        self.total_seconds = total_seconds

    def app_stopped(self) -> float:
        """Seconds for which Meta has the whole app wait: who calls without a turn in the budget
        calls nothing meanwhile.
        """
        return self._budget.app_stopped(asyncio.get_running_loop().time())

    async def get(
        self,
        credentials: Credentials,
        node: str,
        edge: str,
        params: Mapping[str, str],
        *,
        operation: str,
        product: Product = Product.PAGE,
    ) -> Answer | GraphError:
        """Read a node (`edge` empty) or an edge of it. `product` is what the call counts as, and
        what its answer may stop. Raises NotSent or OutcomeUnknown.
        """
        return await self._call("GET", credentials, node, edge, params, None, operation, product)

    async def post(
        self,
        credentials: Credentials,
        node: str,
        edge: str,
        body: Mapping[str, Any],
        *,
        operation: str,
        product: Product = Product.PAGE,
    ) -> Answer | GraphError:
        """Write, as JSON. Raises NotSent or OutcomeUnknown."""
        return await self._call("POST", credentials, node, edge, {}, body, operation, product)

    async def delete(
        self,
        credentials: Credentials,
        node: str,
        edge: str,
        params: Mapping[str, str],
        *,
        operation: str,
        product: Product = Product.PAGE,
    ) -> Answer | GraphError:
        """Delete. Raises NotSent or OutcomeUnknown."""
        return await self._call("DELETE", credentials, node, edge, params, None, operation, product)

    async def inspect(self, credentials: Credentials) -> Answer | GraphError:
        """What Graph says of a token of Facebook login (Meta's page on debug_token).

        The one call with a page's token in its address: it is what is asked about.
        """
        params = {"input_token": credentials.token}
        own = self._app.credentials()
        return await self._call("GET", own, "debug_token", "", params, None, "debug_token")

    def relative_url(
        self, credentials: Credentials, node: str, edge: str, params: Mapping[str, str]
    ) -> str:
        """A read as an operation of a batch: it has its token and its proof in it, so it stands in
        the batch's body and nowhere else (Meta's page on batch requests).
        """
        own = {"access_token": credentials.token, "appsecret_proof": self._app.proof(credentials)}
        return f"{_path(node, edge)}?{urlencode({**params, **own})}"

    async def send_batch(
        self, credentials: Credentials, relative_urls: Sequence[str]
    ) -> tuple[int, bytes]:
        """Ask for these reads in one request: the answer's status, and its body as it came. Raises
        NotSent or OutcomeUnknown.

        A batch has a token of its own, besides those of its operations. On graph.facebook.com that
        is the app's, which dies with no page; on graph.instagram.com `credentials` have it.
        """
        by_instagram = credentials.login == LOGIN_INSTAGRAM
        own = credentials if by_instagram else self._app.credentials()
        batch = [
            {"method": "GET", "relative_url": url, "omit_response_on_success": False}
            for url in relative_urls
        ]
        form = {
            "batch": msgspec.json.encode(batch),
            "access_token": own.token,
            "appsecret_proof": self._app.proof(own),
            "include_headers": "true",
        }
        request = httpx.Request(
            "POST",
            f"{self._hosts.base(own.login)}/",
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            content=urlencode(form).encode(),
            extensions=self._timing,
        )
        with _timed("batch") as ended:
            response, content = await self._exchange(request, BATCH_ANSWER_BYTES)
            ended.word = "ok" if response.is_success else f"http_{response.status_code}"
        if not content.lstrip().startswith(b"["):  # no answers: perhaps the app must wait
            with suppress(OutcomeUnknown):
                self.heeded(own, response.status_code, _named(response), content)
        return response.status_code, content

    async def _call(
        self,
        method: str,
        credentials: Credentials,
        node: str,
        edge: str,
        params: Mapping[str, str],
        body: Mapping[str, Any] | None,
        operation: str,
        product: Product = Product.PAGE,
    ) -> Answer | GraphError:
        query = urlencode({**params, "appsecret_proof": self._app.proof(credentials)})
        request = httpx.Request(
            method,
            f"{self._hosts.base(credentials.login)}/{_path(node, edge)}?{query}",
            headers=_headers(credentials, body),
            content=None if body is None else msgspec.json.encode(body),
            extensions=self._timing,
        )
        with _timed(operation) as ended:
            response, content = await self._exchange(request, ANSWER_BYTES)
            result = self.heeded(
                credentials,
                response.status_code,
                _named(response),
                content,
                product=product,
                is_write=method != "GET",
            )
            ended.word = "ok" if isinstance(result, Answer) else result.failure.name.lower()
        return result

    async def _exchange(self, request: httpx.Request, most: int) -> tuple[httpx.Response, bytes]:
        try:
            async with asyncio.timeout(self.total_seconds):
                response = await self._transport.handle_async_request(request)
                try:
                    return response, await _bounded(response, most)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise OutcomeUnknown("timeout") from None
        except zlib.error:
            raise OutcomeUnknown("answer_unreadable") from None
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            if _while_connecting(error):
                raise NotSent(type(error).__name__) from None
            raise OutcomeUnknown("connection_lost") from None

    def heeded(
        self,
        credentials: Credentials,
        status: int,
        headers: Mapping[str, str],
        content: bytes | str,
        *,
        product: Product = Product.PAGE,
        is_write: bool = False,
    ) -> Answer | GraphError:
        """The answer, after the budget was corrected by it and by its headers, whose names are in
        lower case. Raises OutcomeUnknown for a success that is no JSON object.

        A page that lacks the permission for a read can still send, and who has read too much can
        where Meta counts that apart.
        """
        now, page_id = asyncio.get_running_loop().time(), credentials.page_id
        usage = read_usage(headers, {page_id, credentials.node_id})
        result: Answer | GraphError | None = None
        try:
            result = read_answer(status, content)
        finally:
            is_success = isinstance(result, Answer)
            self._budget.observe(page_id, product, usage, now, is_success=is_success)
        if isinstance(result, Answer):
            return replace(result, usage=usage)
        is_of_this_read = result.failure is Failure.PERMISSION and not is_write
        if result.failure not in PAUSES or is_of_this_read:
            return replace(result, retry_after=usage.retry_after or None)
        own = LIMIT_SECONDS if result.code == LIMIT_CODE else PAUSES[result.failure]
        pause = regain_seconds(usage, result.code, product) or own
        if result.failure is Failure.APP_THROTTLED:
            self._budget.stop_app(now, pause)
        elif result.failure is Failure.THROTTLED and result.code != TOKEN_LIMIT_CODE:
            self._budget.stop(page_id, now, pause, stopped_by(result.code, product))
        else:
            self._budget.stop(page_id, now, pause)
        return replace(result, retry_after=pause)


def read_answer(status: int, content: bytes | str) -> Answer | GraphError:
    """Read an answer's body. Raises OutcomeUnknown for a success that is no JSON object."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError):
        body = None
    if 200 <= status < 300:
        if not isinstance(body, dict):
            raise OutcomeUnknown("answer_unreadable")
        if "error" not in body and body.get("success") is not False:
            return Answer(body)
    return classify(status, body)


class _Ended:
    """The word for how a call ended."""

    word = "unknown"


@contextmanager
def _timed(operation: str) -> Iterator[_Ended]:
    """Measures a call, however it ends."""
    clock = asyncio.get_running_loop().time
    begun, ended = clock(), _Ended()
    try:
        yield ended
    except NotSent:
        ended.word = "not_sent"
        raise
    finally:
        _calls_that_ended(operation, ended.word).observe(clock() - begun)


def _path(node: str, edge: str) -> str:
    return quote(node, safe="") + (f"/{edge}" if edge else "")


def _named(response: httpx.Response) -> dict[str, str]:
    """Its headers by name, in lower case: httpx goes through all of them for each that is asked."""
    raw = response.headers.raw
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def _headers(credentials: Credentials, body: object) -> dict[str, str]:
    headers = {
        "Authorization": f"Bearer {credentials.token}",
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
    }
    return headers if body is None else {**headers, "Content-Type": "application/json"}


def _while_connecting(error: Exception) -> bool:
    """Whether nothing of the request had been written when this came.

    Only aiohttp's own exception tells: its transport for httpx calls each lost connection, also of
    a request that was sent, a ConnectTimeout. aiohttp raises these two while it connects, and never
    afterwards.
    """
    cause = error.__cause__
    return isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


async def _bounded(response: httpx.Response, most: int) -> bytes:
    """The body, unpacked here, and never further than may be read: httpx unpacks as often as the
    answer says, which makes a GiB of a few KiB.
    """
    is_packed = response.headers.get("content-encoding", "").lower() == "gzip"
    unpacking = zlib.decompressobj(_GZIP) if is_packed else None
    content = bytearray()
    async for chunk in response.aiter_raw():
        room = most + 1 - len(content)
        content += unpacking.decompress(chunk, room) if unpacking else chunk
        if len(content) > most:
            raise OutcomeUnknown("answer_too_large")
    return bytes(content)


class _Telling(aiohttp.ClientRequest):
    """A request that reaches a fault point when its last byte is out, before the answer is read."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        response = await super().send(conn)
        await asyncio.sleep(_WRITTEN_SECONDS)
        try:
            await faults.step("after_write")
        except Refusal as struck:  # whatever it is, from here on it is a connection that breaks
            raise aiohttp.ServerDisconnectedError from struck
        return response


def open_transport(idle_seconds: float = IDLE_SECONDS) -> AiohttpTransport:
    """Connections to Graph: no redirects, no proxy from the environment, no cookies, TLS checked.
    One that was idle for `idle_seconds` is not used again.

    The transport by itself: what a client of httpx puts around it, redirects, cookies and so on, is
    what must not be, and a fifth of what a read costs.
    """

    def session() -> aiohttp.ClientSession:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        connector = aiohttp.TCPConnector(
            limit=CONNECTIONS, keepalive_timeout=idle_seconds, ssl=context
        )
        return aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=_Telling if faults.on else aiohttp.ClientRequest,
        )

    return AiohttpTransport(client=session, trust_env=False)
