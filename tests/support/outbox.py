"""The outbox and the pages of the store in memory, with their promises, for what sync does."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1 import page_care_service_pb2 as care
from pagewire.store.v1.outbox_service_pb2 import (
    AttemptOutcome,
    ClaimedReply,
    ReadBack,
    ReadBackResult,
    Verdict,
)
from pagewire.type.v1.page_pb2 import Login, Page, PageState, Platform
from pagewire.type.v1.reply_pb2 import ReplyContent, ReplyKind, ReplyOrigin, ReplyState
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal

T = TypeVar("T")

PAGE = "104200000000001"


class PageUnknown(Refusal):
    kind = Kind.MISSING
    reason = "PAGE_UNKNOWN"


class TokenReplaced(Refusal):
    kind = Kind.STATE
    reason = "TOKEN_REPLACED"


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


LOOKED_FOR = frozenset({ReplyKind.REPLY_KIND_MESSAGE, ReplyKind.REPLY_KIND_COMMENT_REPLY})
"""What can be found at Graph by looking for it."""
ASKED_TWICE = frozenset(
    {
        ReplyKind.REPLY_KIND_HIDE_COMMENT,
        ReplyKind.REPLY_KIND_ADD_LABEL,
        ReplyKind.REPLY_KIND_REMOVE_LABEL,
    }
)
"""What does no harm when it is done again, and so is never uncertain."""
IN_FLIGHT = ("sending", "uncertain")
FIRST_LOOK, SECOND_LOOK, BETWEEN_LOOKS, AFTER_FAILED_LOOK = 20.0, 60.0, 30.0, 10.0
LOOK_LEASE = 15.0
KNOWN_FOR = 180.0
PATIENCE = 600.0
LONGEST_PAUSE = 300.0
"""Of a retry without a word from Graph: no test shall meet the next attempt by chance."""
LONGEST_WAIT = 0.05
"""Seconds; a claim may come back with nothing sooner than it was asked to."""


@dataclass
class Row:
    """A reply where it stands; times are in seconds, by the outbox's own clock."""

    lane: str
    reply: ClaimedReply
    attempts: int = 0
    state: str = "ready"
    started_at: float = 0.0
    lease_until: float = 0.0
    not_before: float = 0.0
    uncertain_at: float = 0.0
    look_due_at: float = 0.0
    look_lease_until: float | None = None
    """None where nobody looks."""
    clean_looks: int = 0
    mid: str = ""
    sent_at: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """Its lane, which is one of its page."""
        return self.reply.page_id, self.lane

    def begin(self, tag: str, now: float, lease: float) -> None:
        self.state, self.started_at, self.lease_until = "sending", now, now + lease
        self.attempts += 1
        self.reply.tag, self.reply.attempt = tag, self.attempts

    def accept(self, mid: str, now: float) -> None:
        self.sent_at = self.sent_at if self.state == "sent" else now
        self.state, self.mid = "sent", self.mid or mid

    def put_back(self, not_before: float = 0.0) -> None:
        self.state, self.not_before = "ready", not_before

    def doubt(self, now: float) -> None:
        """Nobody knows; where that does no harm, it is asked again."""
        if self.reply.kind in ASKED_TWICE:
            self.put_back(now + LONGEST_PAUSE)
        elif self.state == "sending":
            self.state, self.uncertain_at, self.clean_looks = "uncertain", now, 0
            self.look_due_at, self.look_lease_until = self.started_at + FIRST_LOOK, None

    def not_found(self, now: float) -> None:
        """A look found nothing."""
        self.clean_looks, self.look_lease_until = self.clean_looks + 1, None
        self.look_due_at = max(self.started_at + SECOND_LOOK, now + BETWEEN_LOOKS)
        if self.clean_looks == 2:
            self.try_again(now)

    def try_again(self, now: float) -> None:
        """It was sought as far as it can be."""
        self.put_back(now + LONGEST_PAUSE)
        self.reply.after_uncertain = True

    def handed_out(self) -> ClaimedReply:
        return ClaimedReply.FromString(self.reply.SerializeToString())


@dataclass
class FakeOutbox:
    """The outbox as sync sees it; `tests/contracts` holds it to the promises of the store's own."""

    lease: timedelta = timedelta(seconds=15)
    rows: list[Row] = field(default_factory=list)
    outcomes: list[AttemptOutcome] = field(default_factory=list)
    blocked: set[str] = field(default_factory=set)
    """Pages of which nothing is handed out."""
    claims: int = 0
    troubles: list[Refusal] = field(default_factory=list)
    """Raised by the next RecordOutcomes calls, one each."""
    poison: set[str] = field(default_factory=set)
    """Reply ids whose outcomes are refused for good."""

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self._tags: dict[str, Row] = {}
        self._ahead = 0.0

    def put(self, *replies: ClaimedReply, lane: str = "") -> None:
        for each in replies:
            self.rows.append(Row(lane or each.reply_id, each))
        self._changed.set()

    def pass_time(self, seconds: float) -> None:
        """For replies so much time goes by, and what it brings about happens."""
        self._ahead += seconds
        now = self._now()
        for row in self.rows:
            self._sweep(row, now)
        self._changed.set()

    def unblock(self, page_id: str) -> None:
        self.blocked.discard(page_id)
        self._changed.set()

    def row(self, number: int) -> Row:
        return next(r for r in self.rows if r.reply.reply_id.endswith(f"-{number}"))

    def state(self, number: int) -> str:
        """Where the reply stands; `waiting` where it is ready and may not go yet."""
        row = self.row(number)
        return "waiting" if row.state == "ready" and not self._may_go(row) else row.state

    def outcome(self, number: int) -> AttemptOutcome:
        """The latest."""
        row = self.row(number)
        return [o for o in self.outcomes if self._tags[o.tag] is row][-1]

    async def settled(self, *numbers: int) -> None:
        """Until each of these replies is neither ready nor being sent."""
        async with asyncio.timeout(60):
            while any(self.state(number) in ("ready", "sending") for number in numbers):
                await asyncio.sleep(0.005)

    async def ClaimReplies(self, request: pb.ClaimRepliesRequest) -> pb.ClaimRepliesResponse:
        self.claims += 1
        found = await self._awaited(request, self._claim)
        lease = Duration()
        lease.FromTimedelta(self.lease)
        return pb.ClaimRepliesResponse(replies=found, lease=lease)

    async def RecordOutcomes(self, request: pb.RecordOutcomesRequest) -> pb.RecordOutcomesResponse:
        if self.troubles:
            raise self.troubles.pop(0)
        known = [outcome for outcome in request.outcomes if outcome.tag in self._tags]
        if any(self._tags[o.tag].reply.reply_id in self.poison for o in known):
            raise InvalidArgument("outcomes", "poisoned")
        if any(o.verdict == Verdict.VERDICT_UNSPECIFIED for o in request.outcomes):
            raise InvalidArgument("outcomes.verdict", "must say how the attempt ended")
        self.outcomes.extend(known)
        for outcome in known:
            self._record(self._tags[outcome.tag], outcome)
        self._changed.set()
        return pb.RecordOutcomesResponse(states=self._states(o.tag for o in request.outcomes))

    async def ClaimReadBacks(self, request: pb.ClaimReadBacksRequest) -> pb.ClaimReadBacksResponse:
        return pb.ClaimReadBacksResponse(read_backs=await self._awaited(request, self._look))

    async def RecordReadBacks(
        self, request: pb.RecordReadBacksRequest
    ) -> pb.RecordReadBacksResponse:
        known = [result for result in request.results if result.tag in self._tags]
        if any(r.WhichOneof("result") is None for r in known):
            raise InvalidArgument("results.result", "must say what the look found")
        for result in known:
            self._found(self._tags[result.tag], result)
        self._changed.set()
        return pb.RecordReadBacksResponse(states=self._states(r.tag for r in request.results))

    async def _awaited(
        self,
        request: pb.ClaimRepliesRequest | pb.ClaimReadBacksRequest,
        claim: Callable[[int], list[T]],
    ) -> list[T]:
        if request.max_replies < 1:
            raise InvalidArgument("max_replies", "must be at least 1")
        if not (found := claim(request.max_replies)):
            self._changed.clear()
            with suppress(TimeoutError):
                wait = request.wait.ToTimedelta().total_seconds()
                async with asyncio.timeout(min(wait, LONGEST_WAIT)):
                    await self._changed.wait()
            found = claim(request.max_replies)
        return found

    def _claim(self, at_most: int) -> list[ClaimedReply]:
        first: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            if row.state in ("ready", *IN_FLIGHT):
                first.setdefault(row.key, row)
        found = [row for row in first.values() if self._may_go(row)][:at_most]
        for row in found:
            tag = f"pw1.attempt-{len(self._tags) + 1}"
            self._tags[tag] = row
            row.begin(tag, self._now(), self.lease.total_seconds())
        return [row.handed_out() for row in found]

    def _may_go(self, row: Row) -> bool:
        due = row.not_before <= self._now()
        return row.state == "ready" and due and row.reply.page_id not in self.blocked

    def _record(self, row: Row, outcome: AttemptOutcome) -> None:
        verdict, now = outcome.verdict, self._now()
        if verdict == Verdict.VERDICT_ACCEPTED:
            row.accept(outcome.mid, now)
        elif outcome.tag != row.reply.tag or row.state not in IN_FLIGHT:
            return
        elif verdict == Verdict.VERDICT_REFUSED:
            row.state = "failed"
        elif verdict == Verdict.VERDICT_EXPIRED:
            row.state = "expired"
        elif verdict == Verdict.VERDICT_UNCERTAIN:
            row.doubt(now)
        elif verdict == Verdict.VERDICT_PAGE_BLOCKED:
            row.put_back()
            self.blocked.add(row.reply.page_id)
        else:
            said = outcome.retry_after.ToTimedelta().total_seconds()
            row.put_back(now + (said if outcome.HasField("retry_after") else LONGEST_PAUSE))

    def _look(self, at_most: int) -> list[ReadBack]:
        now = self._now()
        due = [
            row
            for row in self.rows
            if row.state == "uncertain"
            and row.reply.kind in LOOKED_FOR
            and row.reply.page_id not in self.blocked
            and row.look_due_at <= now
            and (row.look_lease_until is None or row.look_lease_until <= now)
        ]
        due = sorted(due, key=lambda row: row.look_due_at)[:at_most]
        for row in due:
            row.look_lease_until = now + LOOK_LEASE
        return [self._read_back(row, now) for row in due]

    def _read_back(self, row: Row, now: float) -> ReadBack:
        began = Timestamp()
        began.FromDatetime(datetime.now(UTC) - timedelta(seconds=now - row.started_at))
        bound = [r.mid for r in self.rows if r is not row and r.mid and _same_place(r, row)]
        return ReadBack(
            reply=row.handed_out(),
            attempt_time=began,
            clean_looks=row.clean_looks,
            bound_mids=reversed(bound),
            known_mid=self._known_mid(row),
        )

    def _known_mid(self, row: Row) -> str:
        known = [
            each.mid
            for each in self.rows[: self.rows.index(row)]
            if (each.key, each.reply.kind) == (row.key, row.reply.kind)
            and each.mid
            and row.started_at - KNOWN_FOR <= each.sent_at <= row.started_at
        ]
        return known[-1] if known else ""

    def _found(self, row: Row, result: ReadBackResult) -> None:
        found = result.WhichOneof("result")
        if found in ("found_mid", "ambiguous_mid"):
            row.accept(result.found_mid or result.ambiguous_mid, self._now())
        elif (
            result.tag != row.reply.tag or row.state != "uncertain" or row.look_lease_until is None
        ) or (result.HasField("clean_looks") and result.clean_looks != row.clean_looks):
            return
        elif found == "clean":
            row.not_found(self._now())
        else:
            row.look_due_at, row.look_lease_until = self._now() + AFTER_FAILED_LOOK, None

    def _sweep(self, row: Row, now: float) -> None:
        blocked = row.reply.page_id in self.blocked
        private = row.reply.kind == ReplyKind.REPLY_KIND_PRIVATE_REPLY
        if row.state == "sending" and row.lease_until <= now:
            row.doubt(now)
        if row.state == "ready" and row.reply.expire_time.ToDatetime(UTC) <= self._time():
            row.state = "expired"
        if row.state == "uncertain" and private and row.look_due_at <= now:
            row.try_again(now)
        if row.state == "uncertain" and not blocked and row.uncertain_at + PATIENCE <= now:
            row.state = "parked"

    def _states(self, tags: Iterable[str]) -> list[ReplyState.ValueType]:
        words = [self._tags[tag].state if tag in self._tags else "unspecified" for tag in tags]
        return [ReplyState.Value(f"REPLY_STATE_{word.upper()}") for word in words]

    def _now(self) -> float:
        return time.monotonic() + self._ahead

    def _time(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._ahead)


def _same_place(one: Row, other: Row) -> bool:
    """Whether both would stand in one conversation, or below one comment."""
    a, b = one.reply, other.reply
    person = bool(a.person_id) and a.person_id == b.person_id
    comment = bool(a.comment_id) and a.comment_id == b.comment_id
    return a.page_id == b.page_id and (person or comment)


@dataclass
class FakePages:
    """Pages with their tokens, checks that are due, and what the checks found."""

    pages: dict[str, tuple[Page, str, int]] = field(default_factory=dict)
    due: list[str] = field(default_factory=list)
    found: list[care.RecordPageCheckRequest] = field(default_factory=list)
    since: dict[str, datetime] = field(default_factory=dict)
    """When a page's token came to be stored, where that is told."""
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
        answer = care.GetPageCredentialsResponse(
            page=page, access_token=token, token_version=version
        )
        if since := self.since.get(request.page_id):
            answer.token_store_time.FromDatetime(since)
        return answer

    async def ReplaceToken(self, request: care.ReplaceTokenRequest) -> care.ReplaceTokenResponse:
        if request.page_id not in self.pages:
            raise PageUnknown("there is no such page")
        page, _, version = self.pages[request.page_id]
        if request.token_version != version:
            raise TokenReplaced("another token is stored")
        page.token_expire_time.CopyFrom(request.expire_time)
        self.pages[request.page_id] = page, request.access_token, version + 1
        return care.ReplaceTokenResponse(token_version=version + 1)

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
