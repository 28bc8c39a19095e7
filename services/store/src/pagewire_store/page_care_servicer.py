"""PageCareService: what sync needs to keep pages subscribed and their tokens checked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from pagewire.store.v1.page_care_service_pb2 import (
    ClaimPageChecksRequest,
    ClaimPageChecksResponse,
    GetPageCredentialsRequest,
    GetPageCredentialsResponse,
    RecordPageCheckRequest,
    RecordPageCheckResponse,
    ReplaceTokenRequest,
    ReplaceTokenResponse,
)
from pagewire.store.v1.page_care_service_pb2_grpc import PageCareServiceServicer
from pagewire.type.v1.page_pb2 import Page
from pagewire_runtime.interception import Context
from pagewire_store import page_care, polling
from pagewire_store.database import in_transaction
from pagewire_store.tokens import TokenKeys
from pagewire_store.waking import Waking


class PageCareServicer(PageCareServiceServicer):
    """Checks of pages, and their tokens, for sync alone."""

    def __init__(
        self,
        engine: AsyncEngine,
        keys: TokenKeys,
        checks: Waking,
        *,
        lease: timedelta,
        checked: Callable[[], None],
    ) -> None:
        """`checks` wakes who waits for a check to be due; `checked` is called after one was
        recorded, since the page may send again."""
        self._engine = engine
        self._keys = keys
        self._checks = checks
        self._lease = lease
        self._checked = checked

    async def ClaimPageChecks(
        self, request: ClaimPageChecksRequest, context: Context
    ) -> ClaimPageChecksResponse:
        at_most = polling.at_most("max_pages", request.max_pages)

        async def claim() -> list[Page]:
            return await in_transaction(
                self._engine,
                lambda connection: page_care.claim_checks(connection, at_most, self._lease),
            )

        found = await polling.claimed(
            claim,
            self._checks,
            request.wait.ToTimedelta(),
            longest=polling.LONGEST_UNHURRIED_WAIT,
        )
        return ClaimPageChecksResponse(pages=found)

    async def RecordPageCheck(
        self, request: RecordPageCheckRequest, context: Context
    ) -> RecordPageCheckResponse:
        await in_transaction(
            self._engine, lambda connection: page_care.record_check(connection, request)
        )
        self._checked()
        return RecordPageCheckResponse()

    async def ReplaceToken(
        self, request: ReplaceTokenRequest, context: Context
    ) -> ReplaceTokenResponse:
        version = await in_transaction(
            self._engine,
            lambda connection: page_care.replace_token(connection, self._keys, request),
        )
        return ReplaceTokenResponse(token_version=version)

    async def GetPageCredentials(
        self, request: GetPageCredentialsRequest, context: Context
    ) -> GetPageCredentialsResponse:
        page, access_token, token_version, since = await in_transaction(
            self._engine,
            lambda connection: page_care.credentials(connection, self._keys, request.page_id),
        )
        answer = GetPageCredentialsResponse(
            page=page, access_token=access_token, token_version=token_version
        )
        if since:
            answer.token_store_time.FromDatetime(since)
        return answer
