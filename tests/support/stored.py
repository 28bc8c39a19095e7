"""A store's database to arrange and look at, and a channel to servicers of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from pagewire_runtime.auth import ROLES, ServiceTokens
from pagewire_runtime.calling import channel
from pagewire_runtime.serving import serving
from pagewire_store.access import METHOD_ROLES
from pagewire_store.database import Pools, open_pools
from pagewire_store.page_tokens import PageTokens
from pagewire_store.tokens import TokenKeys

KEYS = TokenKeys({"k1": b"1" * 32})
TOKENS = PageTokens(KEYS.derived(b"page_token"))
SERVICE_TOKENS = ServiceTokens([(role, f"{role}-token-of-the-tests".encode()) for role in ROLES])


class Rows:
    """Rows put straight into tables, and read out of them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, table: str, *rows: dict[str, Any], **values: Any) -> None:
        """One row of these values, or several."""
        given = list(rows) or [values]
        names = ", ".join(given[0])
        places = ", ".join(f":{name}" for name in given[0])
        async with self._engine.begin() as connection:
            await connection.execute(
                text(f"insert into {table} ({names}) values ({places})"), given
            )

    async def query(self, statement: str, **values: Any) -> list[Row[Any]]:
        """The rows of a statement, committed."""
        async with self._engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    async def one(self, statement: str, **values: Any) -> Row[Any]:
        (row,) = await self.query(statement, **values)
        return row

    async def add_page(self, page_id: str, **values: Any) -> None:
        """A connected page of Messenger, unless said otherwise."""
        row = {
            "page_id": page_id,
            "platform": "messenger",
            "login": "facebook",
            "name": f"Page {page_id}",
            "token": KEYS.seal(page_id, f"token-of-{page_id}"),
            "token_version": 1,
            "state": "healthy",
            "connected": True,
        }
        row |= values
        row.setdefault("connected_at", (await self.one("select now() as now")).now)
        await self.add("page", row)


@pytest.fixture
async def pools(database_url: str) -> AsyncIterator[Pools]:
    opened = open_pools(database_url, 13)
    yield opened
    await opened.dispose()


@pytest.fixture
def rows(pools: Pools) -> Rows:
    return Rows(pools.upkeep)


@asynccontextmanager
async def channel_to(
    register: Callable[[grpc.aio.Server], None], role: str
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel, as a service of this role has it, to a server with the store's own rules."""
    async with (
        serving(
            "127.0.0.1:0", register, tokens=SERVICE_TOKENS, method_roles=METHOD_ROLES
        ) as server,
        channel(f"127.0.0.1:{server.port}", token=SERVICE_TOKENS.first(role)) as opened,
    ):
        yield opened
