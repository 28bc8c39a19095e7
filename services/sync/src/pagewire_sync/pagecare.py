"""Page care: a connected page is subscribed to its webhook fields, which is read back; its token is
looked at, and refreshed early; all of it is checked again every day, and when a gap is repaired.

Sources: Meta's pages on subscribed_apps of a Page and of an Instagram account, on Instagram
webhooks (an account that was connected by Facebook login needs its Page to be subscribed to any
field; its own fields are the app's), on debug_token.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1 import page_care_service_pb2 as pb
from pagewire.type.v1.page_pb2 import Login, Page, PageState, Platform
from pagewire_runtime import metrics
from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync import page_states
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.crew import Crew
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import Answer, Credentials, Graph, NotSent, OutcomeUnknown
from pagewire_sync.page_states import Finding
from pagewire_sync.patience import persistently
from pagewire_sync.refreshing import Refreshed, Refresher, finding_of

log = get_logger(__name__)

CLAIM_WAIT = Duration(seconds=4)
AT_ONCE = 8

PAGE_FIELDS = frozenset(
    {
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
    }
)
INSTAGRAM_FIELDS = frozenset(
    {
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
    }
)
LINKED_FIELDS = frozenset({"feed"})
"""Of a Page that only stands for its Instagram account: any field does."""

FIRST = "not_checked"
"""The store's word for a page that was just connected."""

_checks = metrics.counter("pagewire_page_checks", "Checks of pages, by what they found.", ["state"])
_repairs = metrics.counter(
    "pagewire_subscription_repairs",
    "Pages that were found without some of their webhook fields, by how that ended.",
    ["end"],
)


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def ClaimPageChecks(
        self, request: pb.ClaimPageChecksRequest, /
    ) -> Awaitable[pb.ClaimPageChecksResponse]: ...

    def RecordPageCheck(
        self, request: pb.RecordPageCheckRequest, /
    ) -> Awaitable[pb.RecordPageCheckResponse]: ...

    def ReplaceToken(
        self, request: pb.ReplaceTokenRequest, /
    ) -> Awaitable[pb.ReplaceTokenResponse]: ...


class GraphRefused(Exception):
    """Graph refused a call of the check."""

    def __init__(self, error: GraphError) -> None:
        super().__init__(error.reason)
        self.error = error


class AppStopped(Exception):
    """Meta has the whole app wait, for so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__("app_stopped")
        self.seconds = seconds


@dataclass(frozen=True)
class PageCare:
    """Checks pages until it is cancelled."""

    store: Store
    credentials: CredentialCache
    graph: Graph
    app_id: str
    now: Callable[[], datetime] = WALL.now

    async def run(self) -> None:
        """Claim pages whose check is due, check them, write down what was found."""
        crew = Crew(AT_ONCE)
        try:
            while True:
                request = pb.ClaimPageChecksRequest(max_pages=await crew.room(), wait=CLAIM_WAIT)
                claimed = await persistently(lambda: self.store.ClaimPageChecks(request))  # noqa: B023
                for page in claimed.pages:
                    crew.start(self.check(page))
        finally:
            await crew.dismiss()

    async def check(self, page: Page) -> None:
        """Check a page, and write down what was found."""
        try:
            credentials = await self.credentials.newest(page.page_id)
            refresh = Refreshed.NOT_DUE
            if page.state != PageState.PAGE_STATE_BLOCKED:
                refresh = await self._refresher.refresh(credentials)
            if refresh in (Refreshed.DONE, Refreshed.REPLACED):
                credentials = await self.credentials.newest(page.page_id)
            finding = await self._find(page, credentials, refresh)
            _checks.labels(_word(finding.state)).inc()
            await self.store.RecordPageCheck(record_of(credentials, finding, self.now()))
        except Refusal as refusal:
            # Disconnected meanwhile, or the store is away: the lease ends and it is checked again.
            if refusal.kind is not Kind.MISSING:
                log.warning(
                    "a page check was put off", reason=refusal.reason, page=ref(page.page_id)
                )

    @property
    def _refresher(self) -> Refresher:
        return Refresher(self.store, self.graph, self.now)

    async def _find(self, page: Page, credentials: Credentials, refresh: Refreshed) -> Finding:
        try:
            if not await self._subscribe(page, credentials):
                return page_states.found("subscription_missing")
            if credentials.login != Login.LOGIN_INSTAGRAM:  # debug_token is of Facebook login
                return await self._inspect(credentials)
        except AppStopped as stopped:
            return page_states.put_off(page, stopped.seconds)
        except NotSent:
            return page_states.nothing_learnt(page, "graph_unreachable")
        except OutcomeUnknown as lost:
            return page_states.nothing_learnt(page, f"graph_{lost.reason}")
        except GraphRefused as refused:
            return page_states.refused(page, refused.error)
        return finding_of(refresh, credentials.ends, self.now())

    async def _inspect(self, credentials: Credentials) -> Finding:
        """What Graph says of a token that works now.

        It is asked as the app, so that a refusal says nothing of the page.
        """
        self._turn()
        try:
            answer = _accepted(await self.graph.inspect(credentials))
            if finding := page_states.inspected(answer.body, self.now()):
                return finding
            why = "answer_unreadable"
        except (NotSent, OutcomeUnknown, GraphRefused) as failed:
            why = str(failed)
        log.warning("a token could not be inspected", why=why)
        return page_states.ending(credentials.ends, self.now())

    async def _subscribe(self, page: Page, credentials: Credentials) -> bool:
        """Whether Graph shows all fields, after they were asked for where it did not.

        What is subscribed beyond them stays: others of the same app may want it.
        """
        shown = await self._subscribed(credentials)
        if is_enough(page, shown):
            return True
        wanted = {"subscribed_fields": ",".join(sorted(shown | fields_for(page)))}
        self._turn()
        _accepted(
            await self.graph.post(
                credentials,
                credentials.node_id,
                "subscribed_apps",
                wanted,
                operation="subscribe",
            )
        )
        mended = is_enough(page, await self._subscribed(credentials))
        if page.state_reason != FIRST:
            _repairs.labels("repaired" if mended else "missing").inc()
        return mended

    async def _subscribed(self, credentials: Credentials) -> frozenset[str]:
        self._turn()
        answer = await self.graph.get(
            credentials, credentials.node_id, "subscribed_apps", {}, operation="subscriptions"
        )
        # graph.instagram.com shows only who asks, whose id there is another.
        by_instagram = credentials.login == Login.LOGIN_INSTAGRAM
        return subscribed_fields(_accepted(answer).body, None if by_instagram else self.app_id)

    def _turn(self) -> None:
        """Before each call. Raises AppStopped.

        What else stops a page does not stop its care: that has to learn whether it is over.
        """
        if seconds := self.graph.app_stopped():
            raise AppStopped(seconds)


def record_of(
    credentials: Credentials, finding: Finding, now: datetime
) -> pb.RecordPageCheckRequest:
    """A finding as the store takes it."""
    request = pb.RecordPageCheckRequest(
        page_id=credentials.page_id,
        state=finding.state,
        state_reason=finding.reason,
        token_version=credentials.version,
    )
    request.next_check_time.FromDatetime(now + finding.again)
    if finding.token_ends:
        request.token_expire_time.FromDatetime(finding.token_ends)
    return request


def fields_for(page: Page) -> frozenset[str]:
    """The webhook fields of a page; the two logins know them by other names."""
    if page.login == Login.LOGIN_INSTAGRAM:
        return INSTAGRAM_FIELDS
    return LINKED_FIELDS if page.platform == Platform.PLATFORM_INSTAGRAM else PAGE_FIELDS


def is_enough(page: Page, subscribed: Collection[str]) -> bool:
    """Whether events of the page flow, as far as its subscription goes."""
    wanted = fields_for(page)
    return bool(subscribed) if wanted is LINKED_FIELDS else wanted <= set(subscribed)


def subscribed_fields(body: Mapping[str, Any], app_id: str | None) -> frozenset[str]:
    """The fields that an answer of subscribed_apps shows for this app; None is any app."""
    data = body.get("data")
    apps = [app for app in data if isinstance(app, dict)] if isinstance(data, list) else []
    own = [app for app in apps if app_id is None or str(app.get("id", app_id)) == app_id]
    listed = [app.get("subscribed_fields") for app in own]
    return frozenset(
        str(field) for fields in listed if isinstance(fields, list) for field in fields
    )


def _accepted(answer: Answer | GraphError) -> Answer:
    if isinstance(answer, GraphError):
        raise GraphRefused(answer)
    return answer


def _word(state: PageState.ValueType) -> str:
    return PageState.Name(state).removeprefix("PAGE_STATE_").lower()
