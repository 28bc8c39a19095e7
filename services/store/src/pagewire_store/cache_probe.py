"""Whether the cache answers: a PING, and no longer than a read may wait for it."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

PATIENCE = 0.05
"""Seconds: a cache that is slower than this is slower than the database."""


class CacheProbe:
    """Asks the Valkey or Redis server of a URL; nothing where there is none."""

    def __init__(self, url: str | None) -> None:
        self._client: Redis | None = None
        if url is not None:
            self._client = Redis.from_url(
                url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
            )

    async def state(self) -> str:
        """`ok`, `off` where none is configured, or in a few words why it does not serve."""
        if self._client is None:
            return "off"
        try:
            async with asyncio.timeout(PATIENCE):
                await self._client.ping()
        except TimeoutError:
            return "does not answer in time"
        except (RedisError, OSError) as error:
            return f"cannot be used: {type(error).__name__}"
        return "ok"

    async def close(self) -> None:
        """Closes its connection."""
        if self._client is not None:
            await self._client.aclose()
