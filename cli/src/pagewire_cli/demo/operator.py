"""Pagewire as its operator uses it: pages and rules by HTTP, decisions and replies by gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import grpc
import httpx

from pagewire.store.v1.operation_service_pb2 import GetStatusRequest
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire.sync.v1.delivery_service_pb2 import GetReplyRequest
from pagewire.sync.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from pagewire.sync.v1.history_service_pb2 import GetSyncRunRequest
from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceStub
from pagewire_cli.decisions import following
from pagewire_cli.demo.story import Json
from pagewire_cli.launcher import System
from pagewire_cli.progress import Tell, ended
from pagewire_cli.replies import UNSETTLED, reply_json
from pagewire_cli.runs import run_json
from pagewire_cli.shapes import to_json
from pagewire_runtime.auth import parse_service_tokens
from pagewire_runtime.calling import channel

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub
    from pagewire.sync.v1.delivery_service_pb2_grpc import DeliveryServiceAsyncStub
    from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceAsyncStub

LOOK_EVERY = 0.3  # seconds; soon enough for a person, and cheap beside what is watched
AT_MOST = 1000
AT_ONCE = 16
PATIENCE = 30.0


class Refused(Exception):
    """The API answered something else than what the demo needs."""


class Operator:
    """Somebody who may operate the system. Raises Refused, httpx.HTTPError and Refusal."""

    def __init__(self, system: System) -> None:
        self._http = httpx.AsyncClient(
            base_url=system.addresses["operator"],
            headers={"Authorization": f"Bearer {system.env['API_KEYS'].split(',')[0]}"},
            trust_env=False,
            timeout=PATIENCE,
        )
        token = parse_service_tokens(system.env["SERVICE_TOKENS"]).first("operator")
        self._channels: dict[str, grpc.aio.Channel] = {
            name: channel(system.addresses[name], token=token) for name in ("store", "sync")
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with AsyncExitStack() as closing:
            for opened in self._channels.values():
                closing.push_async_callback(opened.close)
            await self._http.aclose()

    @property
    def _operations(self) -> "OperationServiceAsyncStub":
        return OperationServiceStub(self._channels["store"])

    @property
    def _delivery(self) -> "DeliveryServiceAsyncStub":
        return DeliveryServiceStub(self._channels["sync"])

    @property
    def _history(self) -> "HistoryServiceAsyncStub":
        return HistoryServiceStub(self._channels["sync"])

    async def connect(self, page: Json) -> None:
        await self._ask("POST", "/api/pages", json=page)

    async def page(self, page_id: str) -> Json:
        return await self._ask("GET", f"/api/pages/{page_id}")

    async def make_rule(self, rule: Json) -> None:
        await self._ask("POST", "/api/rules", json=rule)

    async def sync_all(self, tell: Tell) -> list[Json]:
        """Mirrors every page's conversations and comments; the runs as they ended."""
        begun = await self._ask("POST", "/api/conversations/sync-all", json={})
        run_ids = list(begun["run_ids"])
        for page in (await self._ask("GET", "/api/pages"))["pages"]:
            asked = {"pageId": page["page_id"]}
            run_ids.append((await self._ask("POST", "/api/comments/sync", json=asked))["run_id"])
        history = self._history
        answers = (history.GetSyncRun(GetSyncRunRequest(run_id=run_id)) for run_id in run_ids)
        runs = [answer.run for answer in await asyncio.gather(*answers)]
        return [run_json(run) for run in await ended(history, runs, tell)]

    async def stored_messages(self, page_id: str) -> list[Json]:
        """All messages of a page, as often as they are stored; a reply not sent yet has no mid."""
        query: dict[str, Any] = {"page_id": page_id, "page_size": AT_MOST}
        listed = await self._ask("GET", "/api/conversations", params=query)
        room = asyncio.Semaphore(AT_ONCE)

        async def messages_of(conversation: Json) -> list[Json]:
            path = f"/api/conversations/{conversation['id']}/messages"
            async with room:
                found = await self._ask("GET", path, params={"page_size": AT_MOST})
            return list(found["messages"])

        found = await asyncio.gather(*map(messages_of, listed["conversations"]))
        return [message for messages in found for message in messages]

    async def stored_comments(self, page_id: str) -> list[Json]:
        """All comments of a page, as often as they are stored."""
        query: dict[str, Any] = {"page_id": page_id, "page_size": AT_MOST}
        listed = await self._ask("GET", "/api/comments", params=query)
        return list(listed["comments"])

    async def status(self) -> Json:
        return to_json(await self._operations.GetStatus(GetStatusRequest()))

    def decisions(self) -> AsyncIterator[Json]:
        """Each decision as it is made, for ever."""
        return following(self._operations, "", AT_MOST, every=LOOK_EVERY)

    async def settled_reply(self, reply_id: str) -> Json:
        """The reply when it has ended."""
        while True:
            reply = (await self._delivery.GetReply(GetReplyRequest(reply_id=reply_id))).reply
            if reply.state not in UNSETTLED:
                return reply_json(reply)
            await asyncio.sleep(LOOK_EVERY)

    async def _ask(self, method: str, path: str, **more: Any) -> Json:
        answer = await self._http.request(method, path, **more)
        if not answer.is_success:
            raise Refused(f"{method} {path} was answered {answer.status_code}: {answer.text[:300]}")
        found: Json = answer.json()
        return found
