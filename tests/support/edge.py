"""The public part as a process of its own, with a store that takes everything."""

import asyncio
import hashlib
import hmac
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagewire.store.v1.ingest_service_pb2 import (
    DeliveryResult,
    DeliveryState,
    IngestRequest,
    IngestResponse,
)
from tests.support.rawhttp import Answer, exchange, request
from tests.support.upstreams import SERVICE_TOKENS, Upstream, running_upstream

APP_SECRET = "app-secret-0123456789"
PREVIOUS_SECRET = "previous-secret-0123456789"
VERIFY_TOKEN = "verify-token-0123456789"
WEBHOOK = b"/api/webhook"
START_SECONDS = 90.0


def signature(body: bytes, secret: str = APP_SECRET) -> bytes:
    """What Meta puts before a body."""
    return b"sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()


def post(body: bytes, *headers: tuple[str, bytes], secret: str | None = APP_SECRET) -> bytes:
    """A webhook as bytes; without a secret it is not signed."""
    claims = [] if secret is None else [("X-Hub-Signature-256", signature(body, secret))]
    return request("POST", WEBHOOK, [*claims, *headers], body)


def message(number: int) -> bytes:
    """A body with one message, an other one for each number."""
    item = {
        "sender": {"id": "2001"},
        "recipient": {"id": "1001"},
        "timestamp": 1_767_312_000_000,
        "message": {"mid": f"m_{number}", "text": "hello"},
    }
    return json.dumps(
        {"object": "page", "entry": [{"id": "1001", "time": 1, "messaging": [item]}]}
    ).encode()


@dataclass
class Edge:
    """A running process: what it calls, what was stored there, its port, and what it logged."""

    process: asyncio.subprocess.Process
    upstream: Upstream
    stored: list[bytes]
    port: int = 0
    memory_at_rest: int = 0
    logged: list[str] = field(default_factory=list)
    _posted: int = 0

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    async def ask(self, data: bytes) -> Answer:
        """The answer to these bytes, on a connection of their own."""
        return await exchange(self.port, data)

    async def takes_a_message(self) -> None:
        """Fails unless it is alive and a good request is answered and stored."""
        assert self.is_alive
        assert (await self.ask(request("GET", b"/healthz"))).status == 200
        self._posted += 1
        body = message(self._posted)
        assert (await self.ask(post(body))).status == 200
        assert body in self.stored

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.logged.append(line.decode())

    async def until_ready(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            while not any('"ready"' in line for line in self.logged):
                assert self.is_alive, self.logged
                await asyncio.sleep(0.02)
        lines = [json.loads(line) for line in self.logged]
        (self.port,) = (line["port"] for line in lines if line["event"] == "listening")


@asynccontextmanager
async def running_edge(
    *, descriptors: int | None = None, **environment: str
) -> AsyncIterator[Edge]:
    """The process, within the block; it may open so many `descriptors`."""
    stored: list[bytes] = []

    def ingest(asked: IngestRequest) -> Any:
        stored.extend(delivery.body for delivery in asked.deliveries)
        result = DeliveryResult(state=DeliveryState.DELIVERY_STATE_STORED)
        return IngestResponse(results=[result] * len(asked.deliveries))

    async with running_upstream() as (upstream, _):
        assert upstream.server is not None
        upstream.answers["Ingest"] = ingest
        process = await asyncio.create_subprocess_exec(
            *_limited(descriptors),
            *(sys.executable, "-m", "pagewire_webhook", "--parts", "public"),
            env={
                "PATH": os.environ["PATH"],
                "SERVICE_TOKENS": SERVICE_TOKENS,
                "META_APP_SECRET": f"{APP_SECRET},{PREVIOUS_SECRET}",
                "META_WEBHOOK_VERIFY_TOKEN": VERIFY_TOKEN,
                "STORE_TARGET": f"127.0.0.1:{upstream.server.port}",
                "WEBHOOK_LISTEN": "127.0.0.1:0",
                "UNREADY_SECONDS": "0",
                **environment,
            },
            stderr=asyncio.subprocess.PIPE,
        )
        edge = Edge(process, upstream, stored)
        reading = asyncio.create_task(edge.read_log())
        try:
            await edge.until_ready()
            yield edge
        finally:
            if edge.is_alive:
                process.kill()
            await process.wait()
            await reading


def _limited(descriptors: int | None) -> list[str]:
    if descriptors is None:
        return []
    return ["sh", "-c", f'ulimit -n {descriptors}; exec "$0" "$@"']
