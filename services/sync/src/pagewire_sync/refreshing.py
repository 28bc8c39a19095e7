"""Refreshing: a token of Instagram login lives for 60 days and is exchanged for a new one early.

Meta's page "Refresh Access Token": the token must be at least 24 hours old and not have ended. The
page gives it as a parameter; here it goes in the header, as everywhere, and the proof beside it. A
new token is used for one call before it takes the old one's place, which works until its own end.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from pagewire.store.v1 import page_care_service_pb2 as pb
from pagewire.type.v1.page_pb2 import Login
from pagewire_runtime import metrics
from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync import page_states
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import Credentials, Graph, NotSent, OutcomeUnknown
from pagewire_sync.page_states import HOURLY, PASSING, Finding
from pagewire_sync.patience import persistently

log = get_logger(__name__)

YOUNGEST = timedelta(hours=24)
BEFORE_THE_END = timedelta(days=10)
"""Ten daily tries, the last three of them with the page shown as expiring."""


class Refreshed(StrEnum):
    """How a refresh ended."""

    NOT_DUE = "not_due"
    DONE = "done"
    REPLACED = "replaced"
    """The page was connected anew meanwhile, which is as good."""
    REFUSED = "refused"
    """Graph will not have it: the page has to be connected again before its token ends."""
    FAILED = "failed"
    """Nobody knows; it is tried again."""


_refreshes = metrics.counter(
    "pagewire_token_refreshes",
    "Refreshes of tokens of Instagram login, by how they ended.",
    ["end"],
)


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def ReplaceToken(
        self, request: pb.ReplaceTokenRequest, /
    ) -> Awaitable[pb.ReplaceTokenResponse]: ...


class NotRefreshed(Exception):
    """No new token: `end` says why."""

    def __init__(self, end: Refreshed, reason: str) -> None:
        super().__init__(reason)
        self.end = end


@dataclass(frozen=True, slots=True)
class Fresh:
    """A token that Graph has made, and when it ends; None where it does not say."""

    token: str
    ends: datetime | None


@dataclass(frozen=True)
class Refresher:
    """Refreshes a page's token where that is due."""

    store: Store
    graph: Graph
    now: Callable[[], datetime] = WALL.now

    async def refresh(self, credentials: Credentials) -> Refreshed:
        """Refresh the token where it is time. Raises Refusal where the page is gone or its new
        token is refused by the store.
        """
        if not is_due(credentials, self.now()):
            return Refreshed.NOT_DUE
        try:
            end = await self._replace(credentials, await self._ask(credentials))
        except NotRefreshed as failed:
            log.warning("a token was not refreshed", why=str(failed), page=ref(credentials.page_id))
            end = failed.end
        _refreshes.labels(end.value).inc()
        return end

    async def _ask(self, credentials: Credentials) -> Fresh:
        body = await self._get(
            credentials, "refresh_access_token", {"grant_type": "ig_refresh_token"}, "refresh_token"
        )
        fresh = read_fresh(body, self.now())
        if fresh is None:
            raise NotRefreshed(Refreshed.FAILED, "answer_unreadable")
        anew = replace(credentials, token=fresh.token)
        await self._get(anew, "me", {"fields": "id"}, "token_trial")
        return fresh

    async def _get(
        self, credentials: Credentials, node: str, params: dict[str, str], operation: str
    ) -> dict[str, Any]:
        if self.graph.app_stopped():
            raise NotRefreshed(Refreshed.FAILED, page_states.APP_STOPPED)
        try:
            answer = await self.graph.get(credentials, node, "", params, operation=operation)
        except NotSent:
            raise NotRefreshed(Refreshed.FAILED, "graph_unreachable") from None
        except OutcomeUnknown as lost:
            raise NotRefreshed(Refreshed.FAILED, f"graph_{lost.reason}") from None
        if isinstance(answer, GraphError):
            passing = answer.failure in PASSING
            raise NotRefreshed(Refreshed.FAILED if passing else Refreshed.REFUSED, answer.reason)
        return answer.body

    async def _replace(self, credentials: Credentials, fresh: Fresh) -> Refreshed:
        """Until the store has it: nobody else knows the new token."""
        request = pb.ReplaceTokenRequest(
            page_id=credentials.page_id,
            access_token=fresh.token,
            token_version=credentials.version,
        )
        if fresh.ends:
            request.expire_time.FromDatetime(fresh.ends)
        try:
            await persistently(lambda: self.store.ReplaceToken(request))
        except Refusal as refusal:
            if refusal.kind is not Kind.STATE:
                raise
            return Refreshed.REPLACED
        return Refreshed.DONE


def is_due(credentials: Credentials, now: datetime) -> bool:
    """Whether a token is to be refreshed: of Instagram login, old enough, and near its end or of
    an end that nobody has told yet.
    """
    since, ends = credentials.since, credentials.ends
    if credentials.login != Login.LOGIN_INSTAGRAM or since is None or since > now - YOUNGEST:
        return False
    return ends is None or now < ends <= now + BEFORE_THE_END


def finding_of(end: Refreshed, token_ends: datetime | None, now: datetime) -> Finding:
    """What is to be written down of a page of Instagram login whose token works."""
    if end is Refreshed.REFUSED:
        return page_states.found("token_refresh_refused", token_ends)
    finding = page_states.ending(token_ends, now)
    return replace(finding, again=HOURLY) if end is Refreshed.FAILED else finding


def read_fresh(body: dict[str, Any], now: datetime) -> Fresh | None:
    """The new token of an answer, whose `expires_in` is in seconds; None where there is none."""
    token, seconds = body.get("access_token"), body.get("expires_in")
    if not isinstance(token, str) or not token:
        return None
    if not isinstance(seconds, int) or not 0 < seconds < 2**31:
        return Fresh(token, None)
    return Fresh(token, now + timedelta(seconds=seconds))
