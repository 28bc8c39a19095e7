"""The outbox and the pages of the store in memory, with their promises, for what sync does."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1 import page_care_service_pb2 as care
from pagewire.store.v1.outbox_service_pb2 import AttemptOutcome, ClaimedReply, Verdict
from pagewire.type.v1.page_pb2 import Login, Page, PageState, Platform
from pagewire.type.v1.reply_pb2 import ReplyContent, ReplyKind, ReplyOrigin
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal

PAGE = "104200000000001"


class PageUnknown(Refusal):
    kind = Kind.MISSING
    reason = "PAGE_UNKNOWN"


def reply(number: int = 1, **fields: Any) -> ClaimedReply:
    """A rule's answer to a person who wrote a minute ago; a `text` of None says nothing."""
    now = datetime.now(UTC)
    text = fields.pop("text", f"answer {number}")
    defaults: dict[str, Any] = {
        "reply_id": f"r-{PAGE}-{number}",
        "tag": f"pw1.{number}",
        "attempt": 1,
        "kind": ReplyKind.REPLY_KIND_MESSAGE,
        "page_id": PAGE,
        "platform": Platform.PLATFORM_MESSENGER,
        "login": Login.LOGIN_FACEBOOK,
        "node_id": fields.get("page_id", PAGE),
        "token_version": 1,
        "person_id": "7000000000000001",
        "last_inbound_time": now - timedelta(minutes=1),
        "expire_time": now + timedelta(hours=23),
        "origin": ReplyOrigin.REPLY_ORIGIN_RULE,
    }
    if text is not None:
        defaults["content"] = ReplyContent(text=text)
    return ClaimedReply(**(defaults | fields))


@dataclass
class Row:
    """A reply where it stands: ready, sending, waiting (to be retried), or a verdict's name."""

    lane: str
    reply: ClaimedReply
    state: str = "ready"


@dataclass
class FakeOutbox:
    """Hands out the first ready reply of each lane, marked as sending under a fresh tag; takes an
    outcome by its tag at any time. What shall be retried waits for `due`.
    """

    lease: timedelta = timedelta(seconds=15)
    rows: list[Row] = field(default_factory=list)
    outcomes: list[AttemptOutcome] = field(default_factory=list)
    claims: int = 0
    troubles: list[Refusal] = field(default_factory=list)
    """Raised by the next RecordOutcomes calls, one each."""
    poison: set[str] = field(default_factory=set)
    """Reply ids whose outcomes are refused for good."""

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self._attempts = 0
        self._tags: dict[str, Row] = {}

    def put(self, *replies: ClaimedReply, lane: str = "") -> None:
        for each in replies:
            self.rows.append(Row(lane or each.reply_id, each))
        self._changed.set()

    def due(self) -> None:
        for row in self.rows:
            row.state = "ready" if row.state == "waiting" else row.state
        self._changed.set()

    def state(self, number: int) -> str:
        return next(r.state for r in self.rows if r.reply.reply_id.endswith(f"-{number}"))

    def outcome(self, number: int) -> AttemptOutcome:
        """The latest."""
        row = next(r for r in self.rows if r.reply.reply_id.endswith(f"-{number}"))
        return [o for o in self.outcomes if self._tags[o.tag] is row][-1]

    async def settled(self, *numbers: int) -> None:
        """Until each of these replies is neither ready nor being sent."""
        async with asyncio.timeout(20):
            while any(self.state(number) in ("ready", "sending") for number in numbers):
                await asyncio.sleep(0.005)

    async def ClaimReplies(self, request: pb.ClaimRepliesRequest) -> pb.ClaimRepliesResponse:
        self.claims += 1
        if not (found := self._claim(request.max_replies)):
            self._changed.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self._changed.wait()
            except TimeoutError:
                pass
            found = self._claim(request.max_replies)
        lease = Duration()
        lease.FromTimedelta(self.lease)
        return pb.ClaimRepliesResponse(replies=found, lease=lease)

    def _claim(self, at_most: int) -> list[ClaimedReply]:
        found: list[ClaimedReply] = []
        held = {row.lane for row in self.rows if row.state in ("sending", "uncertain")}
        for row in self.rows:
            if row.lane in held or row.state not in ("ready", "waiting"):
                continue
            held.add(row.lane)
            if row.state == "ready" and len(found) < at_most:
                self._attempts += 1
                row.state = "sending"
                row.reply.tag = f"pw1.attempt-{self._attempts}"
                self._tags[row.reply.tag] = row
                found.append(ClaimedReply.FromString(row.reply.SerializeToString()))
        return found

    async def RecordOutcomes(self, request: pb.RecordOutcomesRequest) -> pb.RecordOutcomesResponse:
        if self.troubles:
            raise self.troubles.pop(0)
        if any(self._tags[o.tag].reply.reply_id in self.poison for o in request.outcomes):
            raise InvalidArgument("outcomes", "poisoned")
        for outcome in request.outcomes:
            self.outcomes.append(outcome)
            self._settle(self._tags[outcome.tag], outcome.verdict)
        self._changed.set()
        return pb.RecordOutcomesResponse()

    def _settle(self, row: Row, verdict: Verdict.ValueType) -> None:
        word = Verdict.Name(verdict).removeprefix("VERDICT_").lower()
        row.state = {"retry": "waiting", "page_blocked": "waiting"}.get(word, word)
        row.reply.attempt += 1
        row.reply.after_uncertain = row.reply.after_uncertain or row.state == "uncertain"


@dataclass
class FakePages:
    """Pages with their tokens, checks that are due, and what the checks found."""

    pages: dict[str, tuple[Page, str, int]] = field(default_factory=dict)
    due: list[str] = field(default_factory=list)
    found: list[care.RecordPageCheckRequest] = field(default_factory=list)
    asked: int = 0

    def connect(
        self,
        page_id: str,
        token: str,
        *,
        platform: Platform.ValueType = Platform.PLATFORM_MESSENGER,
        login: Login.ValueType = Login.LOGIN_FACEBOOK,
        facebook_page_id: str = "",
        state: PageState.ValueType = PageState.PAGE_STATE_DEGRADED,
    ) -> Page:
        """Again is a new version of the token."""
        version = self.pages[page_id][2] + 1 if page_id in self.pages else 1
        page = Page(
            page_id=page_id,
            platform=platform,
            login=login,
            facebook_page_id=facebook_page_id,
            state=state,
            state_reason="not_checked",
        )
        self.pages[page_id] = page, token, version
        return page

    def disconnect(self, page_ids: Iterable[str]) -> None:
        for page_id in page_ids:
            del self.pages[page_id]

    async def GetPageCredentials(
        self, request: care.GetPageCredentialsRequest
    ) -> care.GetPageCredentialsResponse:
        self.asked += 1
        await asyncio.sleep(0)
        if request.page_id not in self.pages:
            raise PageUnknown("there is no such page")
        page, token, version = self.pages[request.page_id]
        return care.GetPageCredentialsResponse(page=page, access_token=token, token_version=version)

    async def ClaimPageChecks(
        self, request: care.ClaimPageChecksRequest
    ) -> care.ClaimPageChecksResponse:
        if not self.due:
            await asyncio.sleep(0.01)
        claimed, self.due = self.due[: request.max_pages], self.due[request.max_pages :]
        return care.ClaimPageChecksResponse(pages=[self.pages[name][0] for name in claimed])

    async def RecordPageCheck(
        self, request: care.RecordPageCheckRequest
    ) -> care.RecordPageCheckResponse:
        self.found.append(request)
        return care.RecordPageCheckResponse()
