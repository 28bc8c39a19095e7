"""The system behind a raw socket: what an edge case is sent to, and what is looked at afterwards.

A module of such cases imports the fixture by its name.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest_asyncio
from psycopg.rows import dict_row

from pagewire_cli.launcher import System, running
from pagewire_simulator.client import SimulatorClient
from pagewire_simulator.meta import Echoes
from pagewire_store.ids import conversation_id
from tests.support.live import Live, until
from tests.support.rawhttp import Answer, exchange, request
from tests.support.wellness import memory_now, stays_well

PRESENT, PREVIOUS = "the-secret-in-force-0001", "the-secret-before-it-0002"
TAKEN_OUT, ANOTHER_APPS = "a-secret-taken-out-00003", "a-secret-of-others-00004"
VERIFY_TOKEN = "the-token-of-the-handshake"

RULE = {
    "name": "price",
    "events": ["message"],
    "when": {"text": {"any": ["price"]}},
    "then": [{"reply": {"text": "about the price"}}],
}
PROCESSES = ("webhook", "store")
READERS = 4
"""So many bodies are read at a time, each in a thread of its own with buffers of its own."""
LARGEST = int(3.9 * 2**20)

Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A POST: its body, and every header that is not about its length."""

    body: bytes
    headers: Sequence[tuple[str, bytes]]


def signature(body: bytes, secret: str = PRESENT, algorithm: str = "sha256") -> bytes:
    """What Meta puts before a body: the algorithm and the digits."""
    digest = hmac.new(secret.encode(), body, algorithm).hexdigest()
    return f"{algorithm}={digest}".encode()


def signed(body: bytes, secret: str = PRESENT) -> Request:
    return claimed(body, signature(body, secret))


def claimed(body: bytes, *claims: bytes) -> Request:
    """With these values of the signature's header, each in one of its own."""
    return Request(body, [("X-Hub-Signature-256", claim) for claim in claims])


@dataclass(frozen=True)
class Scene:
    """What a case is about: a connected page, a person and ids that no other case has."""

    name: str
    page: str
    person: str
    other_page: str
    now: int = field(default_factory=lambda: int(time.time() * 1000))

    def mid(self, number: int | str = 1) -> str:
        return f"m_{self.name}_{number}"

    def item(self, **what: Any) -> Row:
        """Something that the person does to the page, now."""
        people = {"sender": {"id": self.person}, "recipient": {"id": self.page}}
        return {**people, "timestamp": self.now, **what}

    def message(self, number: int | str = 1, text: str = "hello", **fields: Any) -> Row:
        return self.item(message={"mid": self.mid(number), "text": text, **fields})

    def echo(self, mid: str, **fields: Any) -> Row:
        """The page's own, told back."""
        people = {"sender": {"id": self.page}, "recipient": {"id": self.person}}
        said = {"mid": mid, "text": "an answer", "is_echo": True, **fields}
        return {**people, "timestamp": self.now, "message": said}

    def entry(self, *items: Row, channel: str = "messaging", **fields: Any) -> Row:
        return {"id": self.page, "time": self.now, channel: list(items), **fields}

    def body(self, *items: Row) -> bytes:
        return document(self.entry(*items))


def document(*entries: Row) -> bytes:
    return json.dumps({"object": "page", "entry": list(entries)}).encode()


@dataclass
class Edge:
    """The running system, seen from outside and from its database."""

    live: Live
    store: psycopg.AsyncConnection[Row]
    page: str = "104200000000501"
    other_page: str = "104200000000502"
    sending: asyncio.Task[Row] | None = None
    """A reply of which a case has only the echo so far."""
    warm: dict[str, int] = field(default_factory=dict)
    """What each process held once it was warm."""
    _people: itertools.count[int] = field(default_factory=lambda: itertools.count(7_100_000_000))

    @property
    def system(self) -> System:
        return self.live.system

    @property
    def port(self) -> int:
        return urlsplit(self.system.addresses["public"]).port or 0

    def scene(self, name: str, page: str = "") -> Scene:
        return Scene(name, page or self.page, str(next(self._people)), self.other_page)

    async def post(self, asked: Request, path: bytes = b"/api/webhook") -> Answer:
        return await exchange(self.port, request("POST", path, asked.headers, asked.body))

    async def get(self, target: bytes) -> Answer:
        return await exchange(self.port, request("GET", target))

    async def rows(self, statement: str, *values: object) -> list[Row]:
        found = await self.store.execute(statement, values)
        return await found.fetchall()

    async def one(self, statement: str, *values: object) -> Row:
        """The only row, once it is there."""

        async def found() -> list[Row]:
            return await self.rows(statement, *values)

        (row,) = await until(found)
        return row

    async def deliveries(self, body: bytes) -> list[Row]:
        """Those with exactly these bytes."""
        return await self.rows("select * from delivery where body = %s", body)

    async def reasons(self, delivery: Row) -> list[str]:
        """Why items of a delivery stand in quarantine."""
        found = await self.rows(
            "select reason from quarantine where delivery_id = %s order by quarantine_id",
            delivery["delivery_id"],
        )
        return [row["reason"] for row in found]

    async def event(self, key: str, page: str = "") -> Row:
        return await self.one(
            "select * from event where page_id = %s and event_key = %s", page or self.page, key
        )

    async def message(self, mid: str, page: str = "") -> Row:
        return await self.one(
            "select * from message where page_id = %s and mid = %s", page or self.page, mid
        )

    async def decision(self, key: str, page: str = "") -> tuple[str, str]:
        """How the event ended, and why, once it has."""
        row = await self.one(
            "select d.outcome, d.reason from decision d join event e using (page_id, event_id)"
            " where e.page_id = %s and e.event_key = %s",
            page or self.page,
            key,
        )
        return row["outcome"], row["reason"]

    async def replies_to(self, person: str) -> list[Row]:
        return await self.rows("select * from outbox where person_id = %s", person)

    async def counted(self, name: str, **labels: str) -> float:
        """A counter of the webhook process."""
        answer = await self.live.operator.get("/metrics")
        shown = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        line = f"{name}{{{shown}}} " if shown else f"{name} "
        found = [each for each in answer.text.splitlines() if each.startswith(line)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def logged(self) -> str:
        """All that the four services have logged."""
        names = ("webhook", "store", "rules", "sync")
        return "".join(self.system.process(name).log.read_text() for name in names)

    async def connect(self, page: str) -> None:
        """Connects a page, which Meta's stand-in then takes as given."""
        body = {"platform": "messenger", "page_id": page, "name": "A page"}
        await self.live.post("/api/pages", body | {"access_token": f"token-of-{page}"})

    async def send_reply(self, scene: Scene) -> Row:
        """A person's reply on the scene's page to somebody who wrote, once it was sent."""
        await self.post(signed(scene.body(scene.message("first"))))
        await self.message(scene.mid("first"), scene.page)
        conversation = conversation_id(scene.page, scene.person)
        body = {"conversation_id": conversation, "text": "an answer", "client_key": scene.person}
        await self.live.post("/api/replies", body)
        return await self.one(
            "select * from outbox where person_id = %s and state = 'sent'", scene.person
        )

    async def assert_well(self) -> None:
        """Alive, ready, and the next good request is answered and stored."""
        alive = await self.get(b"/healthz")
        ready = await self.live.operator.get("/readyz")
        scene = self.scene("next")
        answer = await self.post(signed(scene.body(scene.message(scene.person))))
        stored = await self.event(f"message:{scene.mid(scene.person)}")

        assert (alive.status, alive.body) == (200, b"ok")
        assert ready.status_code == 200, ready.text
        assert answer.status == 200
        assert stored["person_id"] == scene.person

    @asynccontextmanager
    async def unharmed(self) -> AsyncIterator[None]:
        """Fails where what happens within the block leaves the system any worse."""
        async with stays_well(self.system, self.warm):
            yield
            await self.assert_well()

    async def warm_up(self) -> None:
        """Has every large buffer been there once: from then on memory is to stay where it is."""
        scene = self.scene("warm")
        items = [scene.message(number, "x" * 1_000) for number in range(1_000)]
        text = scene.body(scene.message("large", "x" * LARGEST))
        at_once = [b'"' + b"x" * LARGEST, scene.body(*items), *[text] * READERS]
        for _ in range(2):
            await asyncio.gather(*(self.post(signed(body)) for body in at_once))
        self.warm = memory_now(self.system, PROCESSES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge() -> AsyncIterator[Edge]:
    env = {
        "META_APP_SECRET": f"{PRESENT},{PREVIOUS}",
        "META_WEBHOOK_VERIFY_TOKEN": VERIFY_TOKEN,
        "SIMULATOR_ADOPT": "true",
    }
    with tempfile.TemporaryDirectory(prefix="pagewire-hostile-") as folder:
        async with running(Path(folder), env=env) as system:
            key = system.env["API_KEYS"].split(",")[0]
            async with (
                SimulatorClient(system.addresses["simulator"]) as meta,
                httpx.AsyncClient(
                    base_url=system.addresses["operator"],
                    headers={"Authorization": f"Bearer {key}"},
                    timeout=60,
                ) as operator,
                httpx.AsyncClient(base_url=system.addresses["public"], timeout=60) as public,
                await psycopg.AsyncConnection.connect(
                    system.env["DATABASE_URL"], autocommit=True, row_factory=dict_row
                ) as store,
            ):
                edge = Edge(Live(system, meta, operator, public), store)
                await meta.options(echo=Echoes(when="never"))  # the cases tell their own
                await edge.connect(edge.page)
                await edge.connect(edge.other_page)
                await edge.live.post("/api/rules", RULE)
                await edge.warm_up()
                yield edge
