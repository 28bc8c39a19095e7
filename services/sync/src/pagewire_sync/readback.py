"""Read-back: whether Graph accepted a reply of which nobody knows, looked for where it would stand.

A message is sought among the conversation's newest messages, a comment reply among the comment's
replies: written by the page, with the same text, not before the attempt, and bound to no other
reply. A private reply cannot be found that way (the person's id is not known before Graph names
it): it counts as looked for, is tried again, and Graph's "already replied" then tells. Fields:
Meta's pages on conversations and comments.
"""

import asyncio
import unicodedata
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1.outbox_service_pb2 import ClaimedReply, ReadBack, ReadBackResult
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_runtime import metrics
from pagewire_runtime.errors import Refusal
from pagewire_sync.budget import Budget, Product
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import Credentials, Graph, NotSent, OutcomeUnknown
from pagewire_sync.policy import text_of
from pagewire_sync.sender import persistently

CLAIM_WAIT = Duration(seconds=1)
AT_ONCE = 8
NEWEST = "20"
CLOCK_SLACK = timedelta(seconds=120)
"""Meta's clock may be behind ours by so much."""
PATIENCE_SECONDS = 5.0

_looks = metrics.counter(
    "pagewire_read_backs", "Looks for uncertain replies, by result.", ["result"]
)


class Outbox(Protocol):
    """What is asked of the store; the generated stub is one."""

    def ClaimReadBacks(
        self, request: pb.ClaimReadBacksRequest, /
    ) -> Awaitable[pb.ClaimReadBacksResponse]: ...

    def RecordReadBacks(
        self, request: pb.RecordReadBacksRequest, /
    ) -> Awaitable[pb.RecordReadBacksResponse]: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A message or comment as Graph shows it."""

    mid: str
    from_id: str
    text: str
    created: datetime | None


@dataclass(frozen=True)
class Reader:
    """Looks for uncertain replies until it is cancelled."""

    outbox: Outbox
    credentials: CredentialCache
    graph: Graph
    budget: Budget
    owner: str

    async def run(self) -> None:
        """Claim, look, write down."""
        request = pb.ClaimReadBacksRequest(owner=self.owner, max_replies=AT_ONCE, wait=CLAIM_WAIT)
        while True:
            claimed = await persistently(lambda: self.outbox.ClaimReadBacks(request))
            if not claimed.read_backs:
                continue
            results = await asyncio.gather(*(self.look(each) for each in claimed.read_backs))
            record = partial(
                self.outbox.RecordReadBacks, pb.RecordReadBacksRequest(results=results)
            )
            await persistently(record)

    async def look(self, read_back: ReadBack) -> ReadBackResult:
        """Look once. A successful answer without a match is clean, an error is not."""
        reply = read_back.reply
        result = ReadBackResult(tag=reply.tag)
        if reply.kind == ReplyKind.REPLY_KIND_PRIVATE_REPLY:
            result.clean = True
        else:
            seen = await self._seen(reply)
            if isinstance(seen, str):
                result.error = seen
            else:
                _judge(result, matches(read_back, seen))
        _looks.labels(result.WhichOneof("result")).inc()
        return result

    async def _seen(self, reply: ClaimedReply) -> Sequence[Seen] | str:
        """What stands there now, or why that could not be read."""
        loop = asyncio.get_running_loop()
        wait = self.budget.wait(reply.page_id, Product.CONVERSATIONS, loop.time())
        if wait > PATIENCE_SECONDS:
            return "budget_spent"
        self.budget.spend(reply.page_id, Product.CONVERSATIONS, loop.time())
        await asyncio.sleep(wait)
        try:
            credentials = await self.credentials.of(reply.page_id, reply.token_version)
            return await self._read(reply, credentials)
        except Refusal as refused:
            return refused.reason.lower()
        except NotSent:
            return "connect_failed"
        except OutcomeUnknown as lost:
            return lost.reason

    async def _read(self, reply: ClaimedReply, credentials: Credentials) -> Sequence[Seen] | str:
        path, params = where(reply)
        answer, usage = await self.graph.get(credentials, path, params, operation="read_back")
        self.budget.observe(reply.page_id, usage, asyncio.get_running_loop().time())
        if isinstance(answer, GraphError):
            return answer.reason
        return seen_in(reply.kind, answer.body)


def where(reply: ClaimedReply) -> tuple[str, Mapping[str, str]]:
    """The path and parameters of the read that would show the reply."""
    instagram = reply.platform == Platform.PLATFORM_INSTAGRAM
    if reply.kind == ReplyKind.REPLY_KIND_COMMENT_REPLY:
        if instagram:
            return f"{reply.comment_id}/replies", {"fields": "id,text,from,timestamp"}
        params = {"fields": "id,message,from,created_time", "order": "reverse_chronological"}
        return f"{reply.comment_id}/comments", params
    return f"{reply.node_id}/conversations", {
        "platform": "instagram" if instagram else "messenger",
        "user_id": reply.person_id,
        "fields": f"messages.limit({NEWEST}){{id,message,from,created_time}}",
    }


def seen_in(kind: ReplyKind.ValueType, body: Mapping[str, Any]) -> list[Seen]:
    """The messages or comments of an answer; what is malformed is passed over."""
    data = body.get("data")
    items = data if isinstance(data, list) else []
    if kind == ReplyKind.REPLY_KIND_COMMENT_REPLY:
        return [_seen(item) for item in items if isinstance(item, dict)]
    threads = [item.get("messages") for item in items if isinstance(item, dict)]
    return [
        _seen(message)
        for thread in threads
        if isinstance(thread, dict)
        for message in thread.get("data") or ()
        if isinstance(message, dict)
    ]


def matches(read_back: ReadBack, seen: Sequence[Seen]) -> list[Seen]:
    """What could be the reply, newest first as Graph lists it."""
    reply = read_back.reply
    text = _plain(text_of(reply.content))
    earliest = read_back.attempt_time.ToDatetime(tzinfo=UTC) - CLOCK_SLACK
    own = {reply.page_id, reply.node_id}
    bound = set(read_back.bound_mids)
    return [
        each
        for each in seen
        if each.from_id in own
        and each.mid not in bound
        and (each.created is None or each.created >= earliest)
        and _plain(each.text) == text
    ]


def _judge(result: ReadBackResult, found: Sequence[Seen]) -> None:
    if not found:
        result.clean = True
    elif len(found) == 1:
        result.found_mid = found[0].mid
    else:
        result.ambiguous_mid = found[0].mid


def _seen(item: Mapping[str, Any]) -> Seen:
    author = item.get("from")
    return Seen(
        mid=str(item.get("id", "")),
        from_id=str(author.get("id", "")) if isinstance(author, dict) else "",
        text=str(item.get("message", item.get("text", ""))),
        created=_time(item.get("created_time", item.get("timestamp"))),
    )


def _time(value: Any) -> datetime | None:
    """Graph's `2021-07-23T09:28:50+0000`, or seconds of Unix time."""
    try:
        if isinstance(value, int):
            return datetime.fromtimestamp(value, UTC)
        parsed = datetime.fromisoformat(str(value))
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
