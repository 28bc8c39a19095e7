"""Credentials: each page's token, fetched from the store once a version."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Protocol

from pagewire.store.v1.page_care_service_pb2 import (
    GetPageCredentialsRequest,
    GetPageCredentialsResponse,
)
from pagewire.type.v1.page_pb2 import Page
from pagewire_sync.graph import Credentials


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def GetPageCredentials(
        self, request: GetPageCredentialsRequest, /
    ) -> Awaitable[GetPageCredentialsResponse]: ...


class CredentialCache:
    """Keeps the newest token a page. Whoever knows of a newer version gets that one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, Credentials] = {}
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def of(self, page_id: str, version: int) -> Credentials:
        """The page's token, of at least this version.

        Raises Refusal: MISSING where the page is not connected any more, TRANSIENT.
        """
        async with self._asking[page_id]:  # of many who want it one asks
            kept = self._kept.get(page_id)
            if kept is None or kept.version < version:
                kept = await self.newest(page_id)
            return kept

    async def newest(self, page_id: str) -> Credentials:
        """The page's token as it is now. Raises as `of` does."""
        request = GetPageCredentialsRequest(page_id=page_id)
        response = await self._store.GetPageCredentials(request)
        page = response.page
        credentials = Credentials(
            page_id=page_id,
            node_id=page.facebook_page_id or page_id,
            login=page.login,
            token=response.access_token,
            version=response.token_version,
            since=_time(response, "token_store_time"),
            ends=_time(page, "token_expire_time"),
            platform=page.platform,
        )
        self._kept[page_id] = credentials
        return credentials


def _time(message: GetPageCredentialsResponse | Page, field: str) -> datetime | None:
    if not message.HasField(field):  # type: ignore[arg-type]  # a name of either
        return None
    time: datetime = getattr(message, field).ToDatetime(UTC)
    return time
