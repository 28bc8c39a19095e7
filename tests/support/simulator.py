"""A running simulator on a free port, and a tiny receiver for its webhooks."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import httpx

from pagewire_simulator.client import SimulatorClient
from pagewire_simulator.meta import App
from pagewire_simulator.sender import Secrets
from pagewire_simulator.serving import serving
from pagewire_simulator.simulator import Simulator
from pagewire_simulator.tokens import proof_of

APP_SECRET = "example-app-secret"
INSTAGRAM_SECRET = "example-instagram-secret"
VERIFY_TOKEN = "example-verify-token"
APP = App(id="880000000000010", secrets=Secrets(app=APP_SECRET, instagram=INSTAGRAM_SECRET))


class Receiver:
    """Takes webhooks as an app would, and keeps them.

    ``statuses`` are given out first, in order, then 200; ``respond`` replaces all of that.
    """

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.challenge_prefix = b""
        self.respond: Callable[[bytes], Awaitable[int]] | None = None
        self.url = ""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.posts]

    @property
    def items(self) -> list[dict[str, Any]]:
        """All messaging elements, in order of arrival."""
        entries = [entry for body in self.bodies for entry in body["entry"]]
        return [item for entry in entries for item in entry.get("messaging", ())]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            query = parse_qs(scope["query_string"].decode())
            right = query["hub.verify_token"] == [VERIFY_TOKEN]
            challenge = self.challenge_prefix + query["hub.challenge"][0].encode()
            await self._answer(send, 200 if right else 403, challenge if right else b"")
            return
        body = (await receive())["body"]
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.posts.append((scope["path"], headers, body))
        if self.respond:
            status = await self.respond(body)
        else:
            status = self.statuses.pop(0) if self.statuses else 200
        await self._answer(send, status, b"")

    async def _answer(self, send: Any, status: int, body: bytes) -> None:
        length = str(len(body)).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with serving(receiver, "127.0.0.1:0") as url:
        receiver.url = url
        yield receiver


@asynccontextmanager
async def running_simulator(seed: int = 1) -> AsyncIterator[SimulatorClient]:
    simulator = Simulator(APP, seed=seed, verify_token=VERIFY_TOKEN, endpoint=None)
    async with serving(simulator, "127.0.0.1:0") as url:
        simulator.start()
        async with SimulatorClient(url) as client:
            yield client
        await simulator.close()


def verified(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """Whether both signature headers are those of the body."""
    sha1 = hmac.new(secret.encode(), body, hashlib.sha1).hexdigest()
    sha256 = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return (
        headers["x-hub-signature"] == f"sha1={sha1}"
        and headers["x-hub-signature-256"] == f"sha256={sha256}"
    )


class GraphCaller:
    """Calls the simulated Graph as a well-behaved client does: bearer token and proof."""

    def __init__(self, base: str, token: str, http: httpx.AsyncClient, secret: str) -> None:
        self.base = base
        self.token = token
        self.http = http
        self.secret = secret

    async def call(
        self, method: str, path: str, *, form: dict[str, Any] | None = None, **query: Any
    ) -> httpx.Response:
        proof = proof_of(self.secret, self.token)
        return await self.http.request(
            method,
            f"{self.base}/v25.0/{path}",
            params=query | {"appsecret_proof": proof},
            headers={"Authorization": f"Bearer {self.token}"},
            json=form if method == "POST" else None,
        )

    async def batch(self, *operations: dict[str, Any], **more: Any) -> httpx.Response:
        """A batch as a well-behaved client sends it: its token and proof in the form."""
        form = {
            "access_token": self.token,
            "appsecret_proof": proof_of(self.secret, self.token),
            "batch": json.dumps(operations),
        }
        return await self.http.post(f"{self.base}/v25.0/", data=form | more)

    async def send(self, person: str, text: str, **more: Any) -> httpx.Response:
        form = {
            "recipient": {"id": person},
            "messaging_type": "RESPONSE",
            "message": {"text": text},
        }
        return await self.call("POST", "me/messages", form=form | more)
