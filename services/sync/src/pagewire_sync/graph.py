"""The Graph client: one call at a time, its token in the header, its proof beside it, its answer
read strictly.
"""

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from pagewire.type.v1.page_pb2 import Login
from pagewire_runtime import metrics
from pagewire_sync.failures import Failure, GraphError, classify
from pagewire_sync.usage import Usage, read_usage

ANSWER_BYTES = 8 * 2**20
CONNECT_SECONDS = 3.0
TOTAL_SECONDS = 10.0
CONNECTIONS = 500

_calls = metrics.histogram(
    "pagewire_graph_seconds",
    "Calls to Graph, by operation and how they ended.",
    ["operation", "end"],
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A page's token, the way it was granted, and the node that Graph knows it by."""

    page_id: str
    node_id: str
    login: Login.ValueType
    token: str = field(repr=False)
    version: int = 0


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where Graph is, by login, and which version is asked for."""

    facebook: str
    instagram: str
    version: str

    def base(self, login: Login.ValueType) -> str:
        """The address that paths are appended to."""
        host = self.instagram if login == Login.LOGIN_INSTAGRAM else self.facebook
        return f"{host.rstrip('/')}/{self.version}"


@dataclass(frozen=True, slots=True)
class AppSecrets:
    """The secrets that sign `appsecret_proof`, by login."""

    facebook: str = field(repr=False)
    instagram: str = field(repr=False)

    def proof(self, credentials: Credentials) -> str:
        """HMAC-SHA256 of the token under the app's secret, hex (Meta's page "Securing Graph API
        calls").
        """
        by_instagram = credentials.login == Login.LOGIN_INSTAGRAM
        secret = self.instagram if by_instagram else self.facebook
        return hmac.new(secret.encode(), credentials.token.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: the decoded object, and what the headers say of the limits."""

    body: dict[str, Any]
    usage: Usage


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
    """Calls Graph. Nothing is retried here: whether a repeat is safe only the caller knows."""

    def __init__(self, client: httpx.AsyncClient, hosts: Hosts, secrets: AppSecrets) -> None:
        self._client = client
        self._hosts = hosts
        self._secrets = secrets

    async def get(
        self, credentials: Credentials, path: str, params: Mapping[str, str], *, operation: str
    ) -> tuple[Answer | GraphError, Usage]:
        """Read. Raises NotSent or OutcomeUnknown."""
        return await self._call("GET", credentials, path, dict(params), None, operation)

    async def post(
        self,
        credentials: Credentials,
        path: str,
        body: Mapping[str, Any],
        *,
        operation: str,
        params: Mapping[str, str] | None = None,
    ) -> tuple[Answer | GraphError, Usage]:
        """Write, as JSON. Raises NotSent or OutcomeUnknown."""
        return await self._call("POST", credentials, path, dict(params or {}), body, operation)

    async def delete(
        self, credentials: Credentials, path: str, params: Mapping[str, str], *, operation: str
    ) -> tuple[Answer | GraphError, Usage]:
        """Delete. Raises NotSent or OutcomeUnknown."""
        return await self._call("DELETE", credentials, path, dict(params), None, operation)

    async def _call(
        self,
        method: str,
        credentials: Credentials,
        path: str,
        params: dict[str, str],
        body: Mapping[str, Any] | None,
        operation: str,
    ) -> tuple[Answer | GraphError, Usage]:
        begun = asyncio.get_running_loop().time()
        end = "unknown"
        try:
            response, content = await self._exchange(method, credentials, path, params, body)
            usage = read_usage(response.headers)
            result = read_answer(response.status_code, content, usage)
            end = "ok" if isinstance(result, Answer) else result.failure.name.lower()
            return result, usage
        except NotSent:
            end = "not_sent"
            raise
        finally:
            _calls.labels(operation, end).observe(asyncio.get_running_loop().time() - begun)

    async def _exchange(
        self,
        method: str,
        credentials: Credentials,
        path: str,
        params: dict[str, str],
        body: Mapping[str, Any] | None,
    ) -> tuple[httpx.Response, bytes]:
        request = self._client.build_request(
            method,
            f"{self._hosts.base(credentials.login)}/{path}",
            params={**params, "appsecret_proof": self._secrets.proof(credentials)},
            headers=_headers(credentials, body),
            content=None if body is None else msgspec.json.encode(body),
        )
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                response = await self._client.send(request, stream=True)
                try:
                    return response, await _bounded(response)
                finally:
                    await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(type(error).__name__) from None
        except TimeoutError:
            raise OutcomeUnknown("timeout") from None
        except (httpx.HTTPError, aiohttp.ClientError, OSError):
            raise OutcomeUnknown("connection_lost") from None


def read_answer(status: int, content: bytes, usage: Usage) -> Answer | GraphError:
    """Read an answer's body. Raises OutcomeUnknown for a success that is no JSON object."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        body = None
    if 200 <= status < 300:
        if isinstance(body, dict) and "error" not in body and body.get("success") is not False:
            return Answer(body, usage)
        if not isinstance(body, dict):
            raise OutcomeUnknown("answer_unreadable")
    error = classify(status, body)
    if error.failure in (Failure.THROTTLED, Failure.APP_THROTTLED) and usage.regain_seconds:
        return GraphError(error.failure, status, error.code, error.subcode, usage.regain_seconds)
    return error


def _headers(credentials: Credentials, body: object) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {credentials.token}", "Accept": "application/json"}
    return headers if body is None else {**headers, "Content-Type": "application/json"}


async def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > ANSWER_BYTES:
            raise OutcomeUnknown("answer_too_large")
    return bytes(content)


def open_client() -> httpx.AsyncClient:
    """A client on aiohttp's transport: no redirects, no proxy from the environment, TLS checked."""

    def session() -> aiohttp.ClientSession:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30, ssl=context)
        return aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False)

    return httpx.AsyncClient(
        transport=AiohttpTransport(client=session),
        timeout=httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS),
        follow_redirects=False,
        trust_env=False,
    )
