"""Graph for history's reads, at the transport: plain calls and batches alike, as a test says."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import httpx

from pagewire.type.v1.page_pb2 import Login
from pagewire_sync.batches import Batches
from pagewire_sync.budget import Budget
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import App, Credentials, Graph, Hosts
from pagewire_sync.reading import Reads

APP = App(app_id="880000000000010", secret="app-secret", instagram_secret="instagram-secret")
HOSTS = Hosts("https://facebook.example", "https://instagram.example", "v25.0")


def page(page_id: str = "104", *, version: int = 1) -> Credentials:
    """A page of Facebook login."""
    token = f"EAAtoken-of-{page_id}-{version}"
    return Credentials(page_id, page_id, Login.LOGIN_FACEBOOK, token, version)


def account(page_id: str = "178") -> Credentials:
    """An account of Instagram login."""
    return Credentials(page_id, page_id, Login.LOGIN_INSTAGRAM, f"IGAAtoken-of-{page_id}", 1)


@dataclass(frozen=True)
class Asked:
    """A read that arrived, by the loop's time; `batch` is the number of its batch, if any."""

    node: str
    edge: str
    params: Mapping[str, str]
    token: str
    proof: str
    at: float
    batch: int | None = None


@dataclass(frozen=True)
class Said:
    """What is answered to a read; an empty list, unless said otherwise."""

    body: object = field(default_factory=lambda: {"data": []})
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.body if isinstance(self.body, str) else json.dumps(self.body)


def error(code: int, status: int = 400, message: str = "so it is", **more: object) -> Said:
    return Said({"error": {"message": message, "code": code, **more}}, status)


REDUCE = error(1, 500, "Please reduce the amount of data you're asking for, then retry")
UNKNOWN = error(1, 500, "An unknown error occurred")
NULL = Said("null of a batch")
"""In a batch null; a connection that breaks elsewhere."""


@dataclass
class FakeGraph:
    """Answers by `behave`, each request after `latency` seconds; keeps what was asked."""

    behave: Callable[[Asked], Said | Awaitable[Said]] = lambda _: Said()
    latency: float = 0.25
    around: Callable[[bytes], httpx.Response] | None = None
    """Answers batches in its place, given what it would have said."""
    asked: list[Asked] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    batches: int = 0
    now: int = 0
    most_at_once: int = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            await asyncio.sleep(self.latency)
            return await self._answer(request)
        finally:
            self.now -= 1

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            said = await self._said(_plain(request))
            if said is NULL:
                raise httpx.ReadError("broken")
            return streamed(said.status, said.text.encode(), said.headers)
        return await self._batch(request)

    async def _batch(self, request: httpx.Request) -> httpx.Response:
        self.batches += 1
        operations = json.loads(form(request)["batch"])
        entries = [
            entry(await self._said(_operation(each["relative_url"], self.batches)))
            for each in operations
        ]
        content = json.dumps(entries).encode()
        return self.around(content) if self.around else streamed(200, content)

    async def _said(self, asked: Asked) -> Said:
        self.asked.append(asked)
        said = self.behave(asked)
        return said if isinstance(said, Said) else await said

    def calls(self) -> Counter[str]:
        """How many operations arrived, by node."""
        return Counter(each.node for each in self.asked)


def _plain(request: httpx.Request) -> Asked:
    token = request.headers["authorization"].removeprefix("Bearer ")
    return _asked(str(request.url), token, None)


def _operation(relative_url: str, batch: int) -> Asked:
    return _asked(f"https://x.example/v25.0/{relative_url}", "", batch)


def _asked(url: str, token: str, batch: int | None) -> Asked:
    parts = urlsplit(url)
    node, _, edge = parts.path.removeprefix("/v25.0/").partition("/")
    params = dict(parse_qsl(parts.query, keep_blank_values=True))
    token = params.pop("access_token", token)
    proof = params.pop("appsecret_proof")
    at = asyncio.get_running_loop().time()
    return Asked(unquote(node), edge, params, token, proof, at, batch)


def form(request: httpx.Request) -> dict[str, str]:
    """A batch's fields."""
    return {name: values[0] for name, values in parse_qs(request.content.decode()).items()}


def entry(said: Said) -> dict[str, Any] | None:
    """An answer as it stands in a batch's."""
    if said is NULL:
        return None
    headers = [{"name": name, "value": value} for name, value in said.headers.items()]
    return {"code": said.status, "headers": headers, "body": said.text}


def streamed(
    status: int, content: bytes, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """As from a socket, not read yet."""
    return httpx.Response(status, headers=headers or {}, stream=httpx.ByteStream(content))


@dataclass
class Reading:
    """Reads upon a fake Graph, with what they are made of."""

    graph: FakeGraph
    budget: Budget
    batches: Batches
    reads: Reads
    died: list[tuple[Credentials, GraphError]]


def reading(graph: FakeGraph, *, jitter: float = 0.0, of_page: int = 32, **batches: Any) -> Reading:
    """`jitter` is the share of what is allowed that is taken."""
    budget, died = Budget(), []
    gathered = Batches(
        Graph(httpx.MockTransport(graph), HOSTS, APP, budget, total_seconds=60), **batches
    )

    async def token_died(credentials: Credentials, said: GraphError) -> None:
        died.append((credentials, said))

    reads = Reads(
        gathered, budget, token_died=token_died, of_page=of_page, jitter=lambda most: jitter * most
    )
    return Reading(graph, budget, gathered, reads, died)
