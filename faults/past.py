"""Pages with a past, of which history is read while faults befall; held against what Meta has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import httpx
import psycopg

from faults.load import connect
from faults.rig import PATIENCE, Rig
from pagewire_simulator.client import AccountView

ENDED = ("succeeded", "partial", "failed", "cancelled")
MESSAGES = "select mid, text, created_at from message where page_id = %s"
CONVERSATIONS, A_PAGE = 30, 5
"""So many a page has, and so many a call shows."""


async def with_a_past(rig: Rig) -> AccountView:
    """A page of its own, connected."""
    page = await connect(rig)
    await give_a_past(rig, page.id)
    return page


async def give_a_past(rig: Rig, page: str) -> None:
    """From now on its list of conversations is longer than a call shows."""
    await rig.meta.create_history(page, conversations=CONVERSATIONS, messages=4, unsupported=0)
    await rig.meta.change_account(page, reading={"limit_max": A_PAGE})


async def begin(rig: Rig, page: str) -> str:
    """The id of a full run of the page's conversations: a new one, or the one under way."""
    body = {"pageId": page, "mode": "full"}
    async with asyncio.timeout(PATIENCE):
        while not (begun := await _asked(rig.operator.post("/api/conversations/sync", json=body))):
            await asyncio.sleep(0.1)
    run_id: str = begun["run_id"]
    return run_id


async def run_of(rig: Rig, run_id: str) -> dict[str, Any]:
    """The run as it stands; empty while nobody can tell."""
    return await _asked(rig.operator.get(f"/api/sync-runs/{run_id}"))


async def _asked(request: Awaitable[httpx.Response]) -> dict[str, Any]:
    """What is answered; empty where who knows is being started anew."""
    try:
        answer = await request
    except httpx.TransportError:
        return {}
    found: dict[str, Any] = {} if answer.is_server_error else answer.raise_for_status().json()
    return found


async def ended(rig: Rig, run_id: str, within: float = PATIENCE) -> dict[str, Any]:
    """The run as it ended. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while (run := await run_of(rig, run_id)).get("state") not in ENDED:
            await asyncio.sleep(0.1)
    return run


async def differences(rig: Rig, page: str) -> list[str]:
    """What the store lacks of the page's messages, has too much of, or has otherwise."""
    truth = await rig.meta.truth(page)
    there = {
        message.mid: (message.text or "", message.created_at // 1000)
        for thread in truth.conversations
        for message in thread.messages
        if message.shown != "gone"
    }
    connection = await psycopg.AsyncConnection.connect(rig.postgres.url)
    async with connection:
        rows = await (await connection.execute(MESSAGES, (page,))).fetchall()
    stored = {mid: (text or "", int(at.timestamp())) for mid, text, at in rows}
    return [
        f"message {mid} is {stored.get(mid)}, not {there.get(mid)}"
        for mid in sorted(stored.keys() | there.keys())
        if stored.get(mid) != there.get(mid)
    ]


async def is_whole(rig: Rig, page: str, run_id: str) -> None:
    """Waits for the run's end. Raises AssertionError where the page is not mirrored then, once."""
    run = await ended(rig, run_id)
    shown = [
        message
        for thread in (await rig.meta.truth(page)).conversations
        for message in thread.messages
        if message.shown != "gone"
    ]
    assert run["state"] == "succeeded", f"the run {run['state']}: {run['error']}"
    assert run["stored"] <= run["messages"] == len(shown), "something was skipped, or twice stored"
    wrong = await differences(rig, page)
    assert not wrong, wrong[:3]


async def past_of(rig: Rig) -> frozenset[tuple[str, str]]:
    """Page and id of every message that Meta has."""
    truths = [
        (page, await rig.meta.truth(page))
        for page in [account.id for account in await rig.meta.accounts()]
    ]
    return frozenset(
        (page, message.mid)
        for page, truth in truths
        for thread in truth.conversations
        for message in thread.messages
    )
