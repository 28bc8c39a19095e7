"""What a live load is sent to: Pagewire as it runs, and the straight-line receiver beside it.

Both are asked the same after each load: is it done, and is everything there once?
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
from psycopg import sql

from bench.edge import uvicorn
from bench.figures import MeasuringFailed
from bench.processes import child, free_port
from bench.traffic import TRIGGER_WORD, Traffic
from bench.world import Sends, asked
from pagewire_cli.launcher import System
from pagewire_simulator.client import AccountView

SETTLED_WITHIN = 240.0


class Receiver(Protocol):
    name: str
    port: int
    pages: tuple[str, ...]
    promises: bool
    """Whether a load that is lost or doubled is a failure, or just what it is like."""

    async def backlog(self) -> int:
        """How many events are stored and not yet dealt with."""
        ...

    async def stored(self, traffic: Traffic) -> set[str]:
        """The mids of the load that are stored. MeasuringFailed: not all rows of each are."""
        ...

    async def settled(self) -> None:
        """Returns when there is no backlog and nothing is being sent. MeasuringFailed: never."""
        ...


class Pagewire:
    """The system, with its pages connected and one rule; `database` is a connection to its own."""

    name = "pagewire"
    promises = True

    def __init__(
        self, system: System, pages: list[AccountView], database: psycopg.AsyncConnection[Any]
    ) -> None:
        self.port = urlsplit(system.addresses["public"]).port or 0
        self.pages = tuple(page.id for page in pages)
        self._accounts = pages
        self._operator = system.addresses["operator"]
        self._key = system.env["API_KEYS"].split(",")[0]
        self._database = database

    async def prepare(self) -> None:
        """Connects the pages, waits until each is found healthy, and makes the rule."""
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(
            base_url=self._operator, headers=headers, trust_env=False, timeout=10
        ) as http:
            for page in self._accounts:
                body = {"platform": "messenger", "page_id": page.id, "name": page.name}
                _good(await http.post("/api/pages", json=body | {"access_token": page.token}))
            rule = {
                "name": "price",
                "events": ["message"],
                "when": {"text": {"any": [TRIGGER_WORD]}},
                "then": [{"reply": {"text": "Hi {first_name}, it is 10 euro"}}],
            }
            _good(await http.post("/api/rules", json=rule))
            async with asyncio.timeout(30):
                while not await _are_healthy(http):  # noqa: ASYNC110  # the API tells nobody
                    await asyncio.sleep(0.2)

    async def backlog(self) -> int:
        (count,) = await self._row(b"select count(*) from event where state = 'pending'")
        return int(count)

    async def settled(self) -> None:
        async with _within(SETTLED_WITHIN, "events are pending or replies unsent"):
            while any(await self._row(_UNSETTLED)):  # noqa: ASYNC110  # the database tells nobody
                await asyncio.sleep(0.1)

    async def stored(self, traffic: Traffic) -> set[str]:
        load = {"pages": list(self.pages), "first": traffic.mid_prefix}
        load["end"] = traffic.mid_prefix[:-1] + "."  # the character after "-"
        events, messages, odd, replies, unsent = await self._row(_STORED, load)
        if odd or unsent or set(events) != set(messages) or len(events) != len(messages):
            raise MeasuringFailed(
                f"{traffic.name}: {len(events)} events, {len(messages)} messages,"
                f" {odd} not done, {unsent} of {replies} replies not sent"
            )
        return set(events)

    async def _row(self, query: bytes, values: dict[str, Any] | None = None) -> tuple[Any, ...]:
        row = await (await self._database.execute(query, values)).fetchone()
        assert row is not None
        return tuple(row)


_UNSETTLED = b"""
select exists (select from event where state = 'pending'),
    exists (select from outbox where state in ('ready', 'sending', 'uncertain'))
"""

_STORED = b"""
with load as materialized (
    select page_id, event_id, event_key, state from event
    where page_id = any(%(pages)s)
        and event_key >= 'message:' || %(first)s and event_key < 'message:' || %(end)s
), reply as (
    select o.state from load e join outbox o using (page_id, event_id)
)
select
    array(select substr(event_key, 9) from load),
    array(select mid from message
        where page_id = any(%(pages)s) and mid >= %(first)s and mid < %(end)s),
    (select count(*) from load e left join decision d using (page_id, event_id)
        where e.state <> 'done' or d.event_id is null),
    (select count(*) from reply),
    (select count(*) from reply where state <> 'sent')
"""


class StraightLine:
    """The receiver that most are, with pages and a database of its own.

    Nobody tells it of its sends' echoes, which spares it work.
    """

    name = "straight line"
    promises = False

    def __init__(
        self, port: int, pages: list[AccountView], database: psycopg.AsyncConnection[Any]
    ) -> None:
        self.port = port
        self.pages = tuple(page.id for page in pages)
        self._database = database

    async def backlog(self) -> int:
        return 0  # what it does, it does before it answers

    async def settled(self) -> None:
        """It is when the last answer came, or else it goes on with what nobody waits for."""
        before = -1
        async with _within(SETTLED_WITHIN, "rows are still being written"):
            while (now := await self._count()) != before:
                before = now
                await asyncio.sleep(0.5)

    async def stored(self, traffic: Traffic) -> set[str]:
        found = await self._database.execute(_STRAIGHT, {"load": f"{traffic.mid_prefix}%"})
        row = await found.fetchone()
        assert row is not None
        events, messages = map(set, row)
        if events != messages:
            raise MeasuringFailed(f"{traffic.name}: {len(events)} events, {len(messages)} messages")
        return events

    async def _count(self) -> int:
        row = await (await self._database.execute(b"select count(*) from message")).fetchone()
        assert row is not None
        return int(row[0])


_STRAIGHT = b"""
select array(select key from event where key like %(load)s),
    array(select mid from message where mid like %(load)s)
"""


@contextlib.contextmanager
def straight_line(system: System, pages: list[AccountView], url: str, log: Path) -> Iterator[int]:
    """The straight-line receiver's process, within the block; yields its port."""
    env = {
        "PEER_DATABASE_URL": url,
        "PEER_SECRET": system.env["META_APP_SECRET"],
        "PEER_GRAPH": f"{system.addresses['simulator']}/facebook/v25.0",
        "PEER_TOKENS": json.dumps({page.id: page.token for page in pages}),
    }
    port = free_port()
    with child(uvicorn("bench.peers.straight_line:app", port), log, env=env, port=port):
        yield port


def new_database(url: str, name: str) -> str:
    """The URL of a new, empty database on the server that `url` leads to."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def check(traffic: Traffic, acknowledged: set[str], stored: set[str], sends: Sends) -> None:
    """MeasuringFailed unless what was answered 200 is stored, and each stored question answered.

    Once: exactly as many answers went to each person as that person's stored messages ask for.
    """
    if lost := acknowledged - stored:
        raise MeasuringFailed(f"{traffic.name}: {len(lost)} messages were answered 200 and lost")
    owed = asked(message for message in traffic.each() if message.mid in stored)
    check_sends(traffic.name, owed, sends)


def check_sends(load: str, owed: Counter[str], sends: Sends) -> None:
    """MeasuringFailed unless exactly what is owed was sent."""
    sent = sends.by_person()
    if missing := (owed - sent).total():
        raise MeasuringFailed(f"{load}: {missing} answers were never sent")
    if doubled := (sent - owed).total():
        raise MeasuringFailed(f"{load}: {doubled} answers were sent twice, or to nobody's question")


@contextlib.asynccontextmanager
async def _within(seconds: float, what: str) -> Any:
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise MeasuringFailed(f"after {time.monotonic() - began:.0f} s still {what}") from None


async def _are_healthy(http: httpx.AsyncClient) -> bool:
    pages = _good(await http.get("/api/pages")).json()["pages"]
    return all(page["state"] == "healthy" for page in pages)


def _good(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise MeasuringFailed(f"{answer.request.url.path}: {answer.status_code} {answer.text}")
    return answer
