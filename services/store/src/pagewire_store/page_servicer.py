"""PageService: connecting, showing and disconnecting pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire.store.v1.page_service_pb2 import (
    ConnectPageRequest,
    ConnectPageResponse,
    DisconnectPageRequest,
    DisconnectPageResponse,
    GetPageRequest,
    GetPageResponse,
    ListPagesRequest,
    ListPagesResponse,
)
from pagewire.store.v1.page_service_pb2_grpc import PageServiceServicer
from pagewire_runtime import deadline
from pagewire_runtime.interception import Context
from pagewire_store import audit, pages
from pagewire_store.database import in_transaction
from pagewire_store.page_tokens import PageTokens, page_size
from pagewire_store.pages import Connected, PageStillEnding
from pagewire_store.tokens import TokenKeys

ONE_MORE_SECONDS = 1.0
"""With less of a call left, no more of a page's old backlog is ended in it."""


class PageServicer(PageServiceServicer):
    """Pages for operators and readers; no answer carries a token."""

    def __init__(
        self,
        engine: AsyncEngine,
        keys: TokenKeys,
        tokens: PageTokens,
        *,
        connected: Callable[[], None],
        end: Callable[[AsyncConnection, str], Awaitable[bool]],
    ) -> None:
        """`connected` is called after a page was; `end` ends, in the transaction that holds a
        disconnected page, some of what was still to be done for it, and says whether any was."""
        self._engine = engine
        self._keys = keys
        self._tokens = tokens
        self._connected = connected
        self._end = end

    async def ConnectPage(
        self, request: ConnectPageRequest, context: Context
    ) -> ConnectPageResponse:
        pages.check(request.page, request.access_token)
        page_id = request.page.page_id

        async def connect(connection: AsyncConnection) -> Connected | None:
            held = await pages.hold_disconnected(connection, page_id)
            if held and await self._end(connection, page_id):
                return None  # there may be more
            outcome = await pages.connect(
                connection, self._keys, request.page, request.access_token
            )
            action = "page.connect" if outcome.created else "page.update"
            await audit.record(connection, action, page_id)
            return outcome

        while (outcome := await in_transaction(self._engine, connect)) is None:
            left = deadline.remaining()
            if left is not None and left < ONE_MORE_SECONDS:
                raise PageStillEnding(page_id)
        page, created = outcome
        self._connected()
        return ConnectPageResponse(page=page, created=created)

    async def GetPage(self, request: GetPageRequest, context: Context) -> GetPageResponse:
        page = await in_transaction(
            self._engine, lambda connection: pages.get(connection, request.page_id)
        )
        return GetPageResponse(page=page)

    async def ListPages(self, request: ListPagesRequest, context: Context) -> ListPagesResponse:
        size, after = page_size(request), self._tokens.read(request)
        found = await in_transaction(
            self._engine, lambda connection: pages.list_connected(connection, after, size + 1)
        )
        part, more = self._tokens.part(request, found, size, pages.position_of)
        return ListPagesResponse(pages=part, next_page_token=more)

    async def DisconnectPage(
        self, request: DisconnectPageRequest, context: Context
    ) -> DisconnectPageResponse:
        async def disconnect(connection: AsyncConnection) -> None:
            await pages.disconnect(connection, request.page_id)
            await self._end(connection, request.page_id)
            await audit.record(connection, "page.disconnect", request.page_id)

        await in_transaction(self._engine, disconnect)
        return DisconnectPageResponse()
