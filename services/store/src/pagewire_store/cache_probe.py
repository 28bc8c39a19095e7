"""Whether the cache answers: a PING, and no longer than a read may wait for it."""

from __future__ import annotations

import asyncio
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis

PATIENCE = 0.05
"""Seconds: a cache that is slower than this is slower than the database."""


class CacheProbe:
    """Asks the Valkey or Redis server of a URL; nothing where there is none."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._client: Redis | None = None

    async def state(self) -> str:
        """`ok`, `off` where none is configured, or in a few words why it does not serve."""
        if self._url is None:
            return "off"
        redis = await asyncio.to_thread(_loaded)
        client = self._client = self._client or redis.Redis.from_url(
            self._url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
        )
        try:
            async with asyncio.timeout(PATIENCE):
                await client.ping()
        except TimeoutError:
            return "does not answer in time"
        except (redis.RedisError, OSError) as error:
            return f"cannot be used: {type(error).__name__}"
        return "ok"

    async def close(self) -> None:
        """Closes its connection."""
        if self._client is not None:
            await self._client.aclose()


def _loaded() -> ModuleType:
    """The client, loaded where it is first needed: that takes a seventh of a second, and nothing
    that a store needs to be back after a death."""
    return import_module("redis.asyncio")
