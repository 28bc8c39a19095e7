"""History at a running system: runs asked for and waited for, and what came of them."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from pagewire_simulator.client import AccountView
from tests.support import likeness
from tests.support.live import Live, decoded, until

UNHURRIED = {
    "STORE_SYNC_INTERVAL_SECONDS": "0",
    "STORE_RUN_LEASE_SECONDS": "5",
    "SYNC_CONVERSATION_CALLS_PER_SECOND": "1000",
}
"""Runs when they are asked for, and no waiting for Meta's two calls a second."""
ENDED = ("succeeded", "partial", "failed", "cancelled")


@dataclass(frozen=True)
class Mirrored:
    """A system whose pages have a past."""

    live: Live
    database: AsyncEngine

    async def sync(
        self, *pages: AccountView, mode: str = "full", kind: str = "conversations"
    ) -> list[dict[str, Any]]:
        """A run of each, side by side, once all have ended."""
        started = [await self.start(page, mode=mode, kind=kind) for page in pages]
        return [await self.ended(run_id) for run_id in started]

    async def ready(self) -> None:
        """Once every service can be reached, as after a restart of one."""

        async def answers() -> bool:
            return (await self.live.operator.get("/readyz")).status_code == 200

        await until(answers)

    async def sync_all(self, pages: Collection[AccountView]) -> list[dict[str, Any]]:
        """What is new of every connected page, begun at one moment; the runs of these, ended."""
        begun = await self.live.post("/api/conversations/sync-all", {"mode": "incremental"})
        runs = [await self.ended(run_id) for run_id in begun["run_ids"]]
        of_page = {run["page_id"]: run for run in runs}
        return [of_page[page.id] for page in pages]

    async def start(
        self, page: AccountView, *, mode: str = "full", kind: str = "conversations"
    ) -> str:
        """The id of a run that was begun, or is under way."""
        body = {"pageId": page.id, "mode": mode}
        run_id: str = (await self.live.post(f"/api/{kind}/sync", body))["run_id"]
        return run_id

    async def repair(self, page: AccountView) -> dict[str, Any]:
        """A run that looks for what webhooks missed, once it has ended."""
        run = await self.live.post(f"/api/pages/{page.id}/repair", {})
        return await self.ended(run["run_id"])

    async def connected_yesterday(self, page: AccountView) -> None:
        """A repair looks no further back than to when the page was connected."""
        await self.query(
            "update page set connected_at = now() - interval '1 day' where page_id = :page",
            page=page.id,
        )

    async def run(self, run_id: str) -> dict[str, Any]:
        return await self.live.get(f"/api/sync-runs/{run_id}")

    async def ended(self, run_id: str) -> dict[str, Any]:
        """The run as it ended."""

        async def over() -> dict[str, Any]:
            answer = await self.live.operator.get(f"/api/sync-runs/{run_id}")
            if answer.status_code >= 500:  # whoever knows of it is being started anew
                return {}
            run: dict[str, Any] = decoded(answer)
            return run if run["state"] in ENDED else {}

        return await until(over)

    async def unlike(self, page: AccountView, *, without: Collection[str] = ()) -> list[str]:
        """What of its messages differs from the truth."""
        return await likeness.differences(self.database, self.live.meta, page, without=without)

    async def calls(self, page: AccountView, after: int = 0) -> list[Any]:
        """The page's calls since a number of them, but for those of its care."""
        care = {"subscription", "subscribe", "debug_token", "person"}
        calls = await self.live.meta.calls(account=page.id)
        return [call for call in calls if call.serial > after and call.endpoint not in care]

    async def serial(self) -> int:
        """The number of calls so far."""
        return (await self.live.meta.summary()).calls

    async def query(self, statement: str, **values: Any) -> list[Any]:
        async with self.database.begin() as connection:
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []
