"""A system whose Graph is made of bytes: what Graph may answer to a send, and what comes of it.

A module of such cases imports the fixture by its name.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest_asyncio
from psycopg.rows import dict_row

from pagewire_cli.launcher import System, running
from pagewire_store.ids import conversation_id
from pagewire_sync.graph import ANSWER_BYTES
from pagewire_sync.pagecare import PAGE_FIELDS
from tests.support.live import decoded, until
from tests.support.rawgraph import Asked, Behaviour, RawGraph, answering, http, raw_graph
from tests.support.wellness import memory_now, stays_well

APP_ID = "880000000000010"
PROCESSES = ("sync", "store")

Row = dict[str, Any]


class Send(NamedTuple):
    """A send that Graph was asked for: by which page, to whom, under which tag."""

    page: str
    person: str
    tag: str


@dataclass
class Graph:
    """Answers as Graph does; to a page's next sends as `odd` has it, while that lasts."""

    odd: dict[str, list[Behaviour]] = field(default_factory=dict)
    sends: list[Send] = field(default_factory=list)
    server: RawGraph | None = None
    _mids: itertools.count[int] = field(default_factory=itertools.count)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.server is not None
        asked = self.server.requests[-1]
        await self._behaviour(asked)(reader, writer)

    def _behaviour(self, asked: Asked) -> Behaviour:
        method, target, _ = asked.line.split()
        node, _, edge = target.partition("?")[0].removeprefix("/v25.0/").partition("/")
        if method == "POST" and edge == "messages":
            body = json.loads(asked.body)
            send = Send(node, body["recipient"]["id"], body["message"]["metadata"])
            self.sends.append(send)
            odd = self.odd.get(node)
            return odd.pop(0) if odd else answering(accepted(self.mid(), send.person))
        return answering(http(json.dumps(_said(node, edge)).encode()))

    def mid(self) -> str:
        """One that no message has yet."""
        return f"m_of_graph_{next(self._mids)}"


def accepted(mid: str, person: str = "7") -> bytes:
    """What Graph says of a message that it took."""
    return http(json.dumps({"recipient_id": person, "message_id": mid}).encode())


def _said(node: str, edge: str) -> Row:
    if node == "debug_token":
        return {"data": {"is_valid": True, "expires_at": 0}}
    if edge == "subscribed_apps":
        return {"data": [{"id": APP_ID, "subscribed_fields": sorted(PAGE_FIELDS)}]}
    return {"data": [], "success": True}


@dataclass
class Sending:
    """The running system, between its operator and a Graph that may say anything."""

    system: System
    graph: Graph
    server: RawGraph
    operator: httpx.AsyncClient
    edge: httpx.AsyncClient
    store: psycopg.AsyncConnection[Row]
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    good_page: str = ""
    warm: dict[str, int] = field(default_factory=dict)
    """What each process held once it was warm."""

    async def page(self) -> str:
        """A new page, connected."""
        page = f"1042{next(self._numbers):011}"
        body = {"platform": "messenger", "page_id": page, "name": "A page"}
        decoded(await self.operator.post("/api/pages", json=body | {"access_token": f"of-{page}"}))
        return page

    async def reply(self, page: str) -> Row:
        """A reply to somebody who wrote to the page, as its first attempt left it."""
        person = f"7100{next(self._numbers):011}"
        await self.deliver(page, _item(page, person, message={"mid": f"m_{person}", "text": "hi"}))
        body = {
            "conversation_id": conversation_id(page, person),
            "text": "an answer",
            "client_key": person,
        }
        decoded(await self.operator.post("/api/replies", json=body))
        return await self.one(
            "select o.*, a.reason, a.http_status, a.code from outbox o"
            " join attempt a using (page_id, reply_id)"
            " where o.person_id = %s and a.ended_at is not null",
            person,
        )

    async def echo(self, send: Send, mid: str) -> None:
        """Meta tells the page's own message back."""
        said = {"mid": mid, "text": "an answer", "is_echo": True, "metadata": send.tag}
        people = {"sender": {"id": send.page}, "recipient": {"id": send.person}}
        await self.deliver(send.page, _item(send.page, send.person, message=said) | people)

    async def deliver(self, page: str, item: Row) -> None:
        entry = {"id": page, "time": item["timestamp"], "messaging": [item]}
        body = json.dumps({"object": "page", "entry": [entry]}).encode()
        secret = self.system.env["META_APP_SECRET"].encode()
        digest = hmac.new(secret, body, hashlib.sha256).hexdigest()
        headers = {"X-Hub-Signature-256": f"sha256={digest}"}
        answer = await self.edge.post("/api/webhook", content=body, headers=headers)
        assert answer.status_code == 200

    async def one(self, statement: str, *values: object) -> Row:
        """The only row, once it is there."""

        async def found() -> list[Row]:
            answer = await self.store.execute(statement, values)
            return await answer.fetchall()

        (row,) = await until(found)
        return row

    def sends_of(self, page: str) -> list[Send]:
        return [send for send in self.graph.sends if send.page == page]

    @asynccontextmanager
    async def unharmed(self) -> AsyncIterator[None]:
        """Fails where what happens within the block leaves sync or store any worse: dead, larger,
        or unable to send the next reply.
        """
        async with stays_well(self.system, self.warm):
            yield
            ready = await self.operator.get("/readyz")
            next_one = await self.reply(self.good_page)

            assert ready.status_code == 200, ready.text
            assert next_one["state"] == "sent"


def _item(page: str, person: str, **what: Any) -> Row:
    people = {"sender": {"id": person}, "recipient": {"id": page}}
    return {**people, "timestamp": int(time.time() * 1000), **what}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sending() -> AsyncIterator[Sending]:
    graph = Graph()
    with tempfile.TemporaryDirectory(prefix="pagewire-hostile-") as folder:
        async with raw_graph(graph) as server:
            graph.server = server
            env = {
                "GRAPH_BASE_URL": server.url,
                "GRAPH_INSTAGRAM_BASE_URL": server.url,
                "META_APP_ID": APP_ID,
            }
            async with running(Path(folder), env=env) as system:
                key = system.env["API_KEYS"].split(",")[0]
                async with (
                    httpx.AsyncClient(
                        base_url=system.addresses["operator"],
                        headers={"Authorization": f"Bearer {key}"},
                        timeout=60,
                    ) as operator,
                    httpx.AsyncClient(base_url=system.addresses["public"], timeout=60) as edge,
                    await psycopg.AsyncConnection.connect(
                        system.env["DATABASE_URL"], autocommit=True, row_factory=dict_row
                    ) as store,
                ):
                    sending = Sending(system, graph, server, operator, edge, store)
                    sending.good_page = await sending.page()
                    await _warm_up(sending)
                    yield sending


async def _warm_up(sending: Sending) -> None:
    """Has the largest answer been there once: from then on memory is to stay where it is."""
    for _ in range(3):
        page = await sending.page()
        sending.graph.odd[page] = [answering(http(b" " * 2 * ANSWER_BYTES))]
        await sending.reply(page)
    sending.warm = memory_now(sending.system, PROCESSES)
