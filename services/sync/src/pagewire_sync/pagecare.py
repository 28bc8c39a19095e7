"""Page care: a connected page is subscribed to its webhook fields, which is read back and checked
again.

Fields: Meta's pages on subscribed_apps of a Page and of an Instagram account. An Instagram account
that was connected by Facebook login gets its webhooks through the Page that it is linked to.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1 import page_care_service_pb2 as pb
from pagewire.type.v1.page_pb2 import Login, Page, PageState
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Answer, Credentials, Graph, NotSent, OutcomeUnknown
from pagewire_sync.sender import persistently

log = get_logger(__name__)

CLAIM_WAIT = Duration(seconds=1)
AT_ONCE = 8

PAGE_FIELDS = (
    "messages",
    "message_echoes",
    "message_edits",
    "message_reactions",
    "message_reads",
    "message_deliveries",
    "messaging_postbacks",
    "messaging_referrals",
    "messaging_optins",
    "messaging_handovers",
    "messaging_policy_enforcement",
    "standby",
    "feed",
    "mention",
)
INSTAGRAM_FIELDS = (
    "messages",
    "message_edit",
    "message_reactions",
    "messaging_seen",
    "messaging_postbacks",
    "messaging_referral",
    "messaging_optins",
    "messaging_handover",
    "standby",
    "comments",
    "live_comments",
    "mentions",
)

HEALTHY_AGAIN = timedelta(days=1)
"""Meta advises to check a token at least daily."""
TROUBLED_AGAIN = timedelta(minutes=5)
BLOCKED_AGAIN = timedelta(hours=1)


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def ClaimPageChecks(
        self, request: pb.ClaimPageChecksRequest, /
    ) -> Awaitable[pb.ClaimPageChecksResponse]: ...

    def RecordPageCheck(
        self, request: pb.RecordPageCheckRequest, /
    ) -> Awaitable[pb.RecordPageCheckResponse]: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says of a page, and how soon it is to be checked again."""

    state: PageState.ValueType
    reason: str
    again: timedelta


HEALTHY = Finding(PageState.PAGE_STATE_HEALTHY, "", HEALTHY_AGAIN)


@dataclass(frozen=True)
class PageCare:
    """Checks pages until it is cancelled."""

    store: Store
    credentials: CredentialCache
    graph: Graph
    app_id: str

    async def run(self) -> None:
        """Claim pages whose check is due, check them, write down what was found."""
        request = pb.ClaimPageChecksRequest(max_pages=AT_ONCE, wait=CLAIM_WAIT)
        while True:
            response = await persistently(lambda: self.store.ClaimPageChecks(request))
            await asyncio.gather(*(self.check(page) for page in response.pages))

    async def check(self, page: Page) -> None:
        """Subscribe the page, read that back, and write it down."""
        try:
            credentials = await self.credentials.newest(page.page_id)
            finding = await self._subscribed(credentials)
            await self._record(credentials, finding)
        except Refusal as refusal:
            # Disconnected meanwhile, or the store is away: the lease ends and it is checked again.
            if refusal.kind is not Kind.MISSING:
                log.warning(
                    "a page check was put off", reason=refusal.reason, page=ref(page.page_id)
                )

    async def _subscribed(self, credentials: Credentials) -> Finding:
        path = f"{credentials.node_id}/subscribed_apps"
        fields = fields_for(credentials.login)
        try:
            asked, _ = await self.graph.post(
                credentials, path, {"subscribed_fields": ",".join(fields)}, operation="subscribe"
            )
            if isinstance(asked, GraphError):
                return troubled(asked)
            shown, _ = await self.graph.get(credentials, path, {}, operation="subscriptions")
        except NotSent:
            return Finding(PageState.PAGE_STATE_DEGRADED, "graph_unreachable", TROUBLED_AGAIN)
        except OutcomeUnknown as lost:
            return Finding(PageState.PAGE_STATE_DEGRADED, f"graph_{lost.reason}", TROUBLED_AGAIN)
        return troubled(shown) if isinstance(shown, GraphError) else self._read_back(shown, fields)

    def _read_back(self, shown: Answer, fields: tuple[str, ...]) -> Finding:
        missing = set(fields) - subscribed_fields(shown.body, self.app_id)
        if not missing:
            return HEALTHY
        return Finding(PageState.PAGE_STATE_DEGRADED, "subscription_missing", TROUBLED_AGAIN)

    async def _record(self, credentials: Credentials, finding: Finding) -> None:
        request = pb.RecordPageCheckRequest(
            page_id=credentials.page_id,
            state=finding.state,
            state_reason=finding.reason,
            token_version=credentials.version,
        )
        request.next_check_time.FromDatetime(datetime.now(UTC) + finding.again)
        await self.store.RecordPageCheck(request)


def fields_for(login: Login.ValueType) -> tuple[str, ...]:
    """The webhook fields of a page; the two logins know them by other names."""
    return INSTAGRAM_FIELDS if login == Login.LOGIN_INSTAGRAM else PAGE_FIELDS


def subscribed_fields(body: dict[str, Any], app_id: str) -> set[str]:
    """The fields that an answer of subscribed_apps shows for this app."""
    data = body.get("data")
    apps = [app for app in data if isinstance(app, dict)] if isinstance(data, list) else []
    own = [app for app in apps if str(app.get("id", app_id)) == app_id]
    return {str(field) for app in own for field in app.get("subscribed_fields") or ()}


def troubled(error: GraphError) -> Finding:
    """What an error of Graph says of a page."""
    match error.failure:
        case Failure.TOKEN:
            return Finding(PageState.PAGE_STATE_BLOCKED, "token_invalid", BLOCKED_AGAIN)
        case Failure.PERMISSION:
            return Finding(PageState.PAGE_STATE_BLOCKED, "permission_missing", BLOCKED_AGAIN)
        case _:
            return Finding(PageState.PAGE_STATE_DEGRADED, error.reason, TROUBLED_AGAIN)
