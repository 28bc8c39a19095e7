"""Sync's workers against the simulated Meta, and an outbox in memory."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pagewire.store.v1.outbox_service_pb2 import ClaimedReply
from pagewire.type.v1.page_pb2 import Login, Platform
from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_sync.budget import Budget
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.graph import App, Graph, Hosts, open_transport
from pagewire_sync.sender import Sender
from tests.support.outbox import FakeOutbox, FakePages, reply
from tests.support.simulator import APP, running_simulator

OUR_APP = App(APP.id, APP.secrets.app, APP.secrets.instagram)


@dataclass
class Meta:
    """The simulated Meta, and what sync knows of it."""

    simulator: SimulatorClient
    pages: FakePages
    outbox: FakeOutbox
    graph: Graph
    budget: Budget

    def sender(self, **fields: Any) -> Sender:
        outbox = fields.pop("outbox", self.outbox)
        return Sender(
            outbox, CredentialCache(self.pages), self.graph, self.budget, "test", **fields
        )

    async def page(self, number: int = 1) -> AccountView:
        """A connected Facebook page."""
        account = await self.simulator.create_account("messenger", id=f"10420000000000{number}")
        self.pages.connect(account.id, account.token)
        return account

    async def linked_account(self) -> AccountView:
        """A connected Instagram account of Facebook login, with its page."""
        page = await self.simulator.create_account("messenger", id="104200000000099")
        account = await self.simulator.create_account(
            "instagram", id="178400000000099", page_id=page.id
        )
        self.pages.connect(
            account.id,
            account.token,
            platform=Platform.PLATFORM_INSTAGRAM,
            facebook_page_id=page.id,
        )
        return account

    async def instagram_account(self) -> AccountView:
        """A connected Instagram account of Instagram login."""
        account = await self.simulator.create_account(
            "instagram", login="instagram", id="178400000000001"
        )
        self.pages.connect(
            account.id,
            account.token,
            platform=Platform.PLATFORM_INSTAGRAM,
            login=Login.LOGIN_INSTAGRAM,
        )
        return account

    async def message(
        self, account: AccountView, number: int = 1, *, ago: float = 60, **fields: Any
    ) -> ClaimedReply:
        """A reply to somebody who wrote so many seconds ago."""
        said = await self.simulator.say(account.id, "hello", ago=ago)
        return reply(number, **(addressed(account) | {"person_id": said.person} | fields))


def addressed(account: AccountView) -> dict[str, Any]:
    """What a reply of this account has from its page."""
    on_instagram = account.platform == "instagram"
    by_instagram = account.login == "instagram"
    return {
        "page_id": account.id,
        "node_id": account.node,
        "platform": Platform.PLATFORM_INSTAGRAM if on_instagram else Platform.PLATFORM_MESSENGER,
        "login": Login.LOGIN_INSTAGRAM if by_instagram else Login.LOGIN_FACEBOOK,
    }


@asynccontextmanager
async def simulated(total_seconds: float = 10.0) -> AsyncIterator[Meta]:
    async with running_simulator() as simulator, open_transport() as transport:
        budget = Budget()
        hosts = Hosts(simulator.facebook, simulator.instagram, "v25.0")
        graph = Graph(transport, hosts, OUR_APP, budget, total_seconds=total_seconds)
        yield Meta(simulator, FakePages(), FakeOutbox(), graph, budget)


@asynccontextmanager
async def running(*workers: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """The workers run within the block, and are then told to stop."""
    tasks = [asyncio.create_task(worker) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
