"""A running system for tests: the processes, Meta's stand-in, and the operator's side of it."""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from pagewire_cli.launcher import System
from pagewire_simulator.client import AccountView, SimulatorClient

T = TypeVar("T")

PATIENCE = 90.0
"""What should happen at once may take so long on a busy machine before a test calls it missing."""


@dataclass(frozen=True)
class Live:
    """`operator` is an HTTP client with a key; `edge` posts to the public listener as it is."""

    system: System
    meta: SimulatorClient
    operator: httpx.AsyncClient
    edge: httpx.AsyncClient

    async def page(self, platform: str = "messenger", login: str = "facebook") -> AccountView:
        """A new account, connected and subscribed."""
        account = await self.meta.create_account(platform, login=login, subscribed_fields=[])
        body = {
            "platform": platform,
            "page_id": account.id,
            "name": account.name,
            "access_token": account.token,
            "login": login,
        }
        await self.post("/api/pages", body)

        async def healthy() -> bool:
            state: str = (await self.get(f"/api/pages/{account.id}"))["state"]
            return state == "healthy"

        await until(healthy)
        return account

    async def rule(self, page: AccountView, phrase: str, **fields: Any) -> dict[str, Any]:
        """A rule of the page alone, which answers messages with that phrase unless told else."""
        body = {
            "name": phrase,
            "page_ids": [page.id],
            "events": ["message"],
            "when": {"text": {"any": [phrase]}},
            "then": [{"reply": {"text": f"about {phrase}"}}],
        }
        return await self.post("/api/rules", body | fields)

    async def decisions(self, page: AccountView, count: int) -> list[dict[str, Any]]:
        """The page's decisions, oldest first, once there are so many."""

        async def enough() -> list[dict[str, Any]]:
            found = await self.get(f"/api/decisions?page_id={page.id}&page_size=1000")
            decisions: list[dict[str, Any]] = found["decisions"]
            return decisions[::-1] if len(decisions) >= count else []

        return await until(enough)

    async def messages(self, page: AccountView, person: str) -> list[dict[str, Any]]:
        """The conversation as Pagewire shows it, oldest first."""
        listed = await self.get(f"/api/conversations?page_id={page.id}&page_size=1000")
        ids = [each["id"] for each in listed["conversations"] if each["participant_id"] == person]
        if not ids:
            return []
        found = await self.get(f"/api/conversations/{ids[0]}/messages")
        messages: list[dict[str, Any]] = found["messages"]
        return messages[::-1]

    async def conversation_id(self, page: AccountView, person: str) -> str:
        async def known() -> str:
            listed = await self.get(f"/api/conversations?page_id={page.id}&page_size=1000")
            ids = (e["id"] for e in listed["conversations"] if e["participant_id"] == person)
            return next(ids, "")

        return await until(known)

    async def get(self, path: str) -> dict[str, Any]:
        return decoded(await self.operator.get(path))

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return decoded(await self.operator.post(path, json=body))

    async def deliver(self, body: bytes, path: str = "/api/webhook") -> httpx.Response:
        """Post a body as Meta would, signed with the app's secret."""
        secret = self.system.env["META_APP_SECRET"].split(",")[0]
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-Hub-Signature-256": f"sha256={digest}"}
        return await self.edge.post(path, content=body, headers=headers)


def decoded(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code < 300, f"{response.status_code}: {response.text}"
    body: dict[str, Any] = response.json()
    return body


async def until(check: Callable[[], Awaitable[T]], patience: float = PATIENCE) -> T:
    """What the check answers once that is true."""
    async with asyncio.timeout(patience):
        while not (answer := await check()):
            await asyncio.sleep(0.05)
    return answer
