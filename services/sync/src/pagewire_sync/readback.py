"""Read-back: whether Graph accepted a reply of which nobody knows, looked for where it would stand.

A message is sought among the conversation's messages, a comment reply among the replies of its
comment, and of the one above that, where Instagram puts a reply to a reply: written by the page,
with the same text, not before the attempt, and bound to no other reply. What was known last before
the attempt is a sharper bound, as no clocks are compared: a match before that is a forgotten copy
of another reply, and where it does not stand among the messages, Graph shows what was some time
ago. Pages are read as far back, up to a limit; what was not read proves nothing. A private reply
cannot be found that way (the person's id is not known before Graph names it): it counts as looked
for, is tried again, and Graph's "already replied" then tells. Fields: Meta's pages on conversations
and comments.
"""

import asyncio
import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1.outbox_service_pb2 import ClaimedReply, ReadBack, ReadBackResult
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_runtime import faults, metrics
from pagewire_runtime.errors import Refusal
from pagewire_runtime.logs import get_logger
from pagewire_sync.budget import Budget, Product
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.crew import Crew
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import Graph, NotSent, OutcomeUnknown
from pagewire_sync.patience import persistently
from pagewire_sync.policy import text_of

log = get_logger(__name__)

CLAIM_WAIT = Duration(seconds=4)
AT_ONCE = 16
PAGE_SIZE = 50
PAGES = 8
"""Of a conversation, or of a comment's replies: with two calls a second, well within a look's
lease. Who has more than 400 since the attempt is looked for again."""
CLOCKS_DIFFER = timedelta(minutes=2)
"""Meta's clock may be behind ours by so much; the store, settling echoes, reckons with as much."""
PATIENCE_SECONDS = 5.0
_CURSOR = re.compile(r"[A-Za-z0-9+/_=:.-]{1,1024}")

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


class LookFailed(Exception):
    """Nothing is known after this look; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Seen:
    """A message or comment as Graph shows it; `from_id` is empty where Graph does not tell."""

    mid: str
    from_id: str
    text: str
    created: datetime | None
    attached: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What stands there; `more` is behind it, after that cursor; `newest_first` where Graph sorts
    so.
    """

    seen: Sequence[Seen]
    more: bool
    newest_first: bool = True
    cursor: str = ""

    def followed_by(self, page: "View") -> "View":
        """Both, as one."""
        return replace(page, seen=[*self.seen, *page.seen])

    def reaches(self, earliest: datetime) -> bool:
        """Whether whatever was made since then is in it."""
        if not self.more:
            return True
        oldest = self.seen[-1].created if self.seen else None
        return self.newest_first and oldest is not None and oldest < earliest

    def shows(self, mid: str) -> bool:
        return any(each.mid == mid for each in self.seen)

    def behind(self, mid: str) -> Sequence[Seen]:
        """What was made after that; all, where it does not stand here."""
        if not mid or not self.shows(mid):
            return self.seen
        place = [each.mid for each in self.seen].index(mid)
        return self.seen[:place] if self.newest_first else self.seen[place + 1 :]


@dataclass(frozen=True)
class Reader:
    """Looks for uncertain replies until it is cancelled."""

    outbox: Outbox
    credentials: CredentialCache
    graph: Graph
    budget: Budget
    owner: str

    async def run(self) -> None:
        """Claim, look, write down: each beside the others, so that no page holds up another."""
        crew = Crew(AT_ONCE)
        try:
            while True:
                request = pb.ClaimReadBacksRequest(
                    owner=self.owner, max_replies=await crew.room(), wait=CLAIM_WAIT
                )
                claimed = await persistently(lambda: self.outbox.ClaimReadBacks(request))  # noqa: B023
                for read_back in claimed.read_backs:
                    crew.start(self._settle(read_back))
        finally:
            await crew.dismiss()

    async def _settle(self, read_back: ReadBack) -> None:
        names = read_back.reply.reply_id, read_back.reply.page_id
        await faults.reach("sync.look.claimed", names)
        result = await self.look(read_back)
        result.clean_looks = read_back.clean_looks
        await faults.reach("sync.look.looked", names)
        _looks.labels(result.WhichOneof("result")).inc()
        try:
            await self.outbox.RecordReadBacks(pb.RecordReadBacksRequest(results=[result]))
        except Refusal as refusal:  # it will be looked for again
            log.warning("a look was not written down", reason=refusal.reason)
        await faults.reach("sync.look.recorded", names)

    async def look(self, read_back: ReadBack) -> ReadBackResult:
        """Look once. A successful answer without a match is clean, an error is not."""
        reply = read_back.reply
        if reply.kind == ReplyKind.REPLY_KIND_PRIVATE_REPLY:
            return ReadBackResult(tag=reply.tag, clean=True)
        try:
            return judge(read_back, *await self._views(read_back))
        except (LookFailed, OutcomeUnknown) as failed:
            return ReadBackResult(tag=reply.tag, error=failed.reason)
        except NotSent:
            return ReadBackResult(tag=reply.tag, error="connect_failed")
        except Refusal as refusal:
            return ReadBackResult(tag=reply.tag, error=refusal.reason.lower())

    async def _views(self, read_back: ReadBack) -> list[View]:
        """What stands in each place where the reply could be, as far back as it could be."""
        reply = read_back.reply
        places: list[Callable[[str], Awaitable[View]]] = [partial(self._messages, reply)]
        if reply.kind == ReplyKind.REPLY_KIND_COMMENT_REPLY:
            comments = await self._comments(reply)
            places = [partial(self._replies, reply, comment_id) for comment_id in comments]
        return [await _read(place, read_back) for place in places]

    async def _messages(self, reply: ClaimedReply, after: str) -> View:
        params = conversation_params(reply, after)
        body = await self._get(reply, reply.node_id, "conversations", params, Product.CONVERSATIONS)
        return conversation_view(body)

    async def _comments(self, reply: ClaimedReply) -> list[str]:
        """The comment that was answered, and the one above it."""
        fields = {"fields": "parent_id" if _on_instagram(reply) else "parent"}
        comment = await self._get(reply, reply.comment_id, "", fields, Product.PAGE)
        return [reply.comment_id, *filter(None, [parent_of(comment)])]

    async def _replies(self, reply: ClaimedReply, comment_id: str, after: str) -> View:
        edge, params = comment_edge(reply, after)
        body = await self._get(reply, comment_id, edge, params, Product.PAGE)
        return comment_view(body, newest_first=not _on_instagram(reply))

    async def _get(
        self,
        reply: ClaimedReply,
        node: str,
        edge: str,
        params: Mapping[str, str],
        product: Product,
    ) -> Mapping[str, Any]:
        await self._turn(reply.page_id, product)
        credentials = await self.credentials.of(reply.page_id, reply.token_version)
        answer = await self.graph.get(
            credentials, node, edge, params, operation="read_back", product=product
        )
        if isinstance(answer, GraphError):
            raise LookFailed(answer.reason)
        return answer.body

    async def _turn(self, page_id: str, product: Product) -> None:
        clock = asyncio.get_running_loop().time
        wait = self.budget.wait(page_id, product, clock())
        if wait > PATIENCE_SECONDS:
            raise LookFailed("budget_spent")
        self.budget.spend(page_id, product, clock())
        if wait:
            await asyncio.sleep(wait)
        if self.budget.stopped(page_id, product, clock()):
            raise LookFailed("budget_spent")


async def _read(page_after: Callable[[str], Awaitable[View]], read_back: ReadBack) -> View:
    """The first page, and as many more as it takes to tell."""
    view = await page_after("")
    for _ in range(PAGES - 1):
        if not view.cursor or _is_enough(read_back, view):
            break
        view = view.followed_by(await page_after(view.cursor))
    return view


def _is_enough(read_back: ReadBack, view: View) -> bool:
    if _has_known(read_back):
        return not view.more or view.shows(read_back.known_mid)
    return view.reaches(_earliest(read_back)) or bool(matches(read_back, view.seen))


def _has_known(read_back: ReadBack) -> bool:
    """Whether something is known that must stand before the reply. A comment's replies stand in
    several places.
    """
    return bool(read_back.known_mid) and read_back.reply.kind == ReplyKind.REPLY_KIND_MESSAGE


def conversation_params(reply: ClaimedReply, after: str = "") -> Mapping[str, str]:
    """What is asked of the page's conversations: the one thread with the person.

    A thread's messages have a cursor of their own, inside the list of their fields.
    """
    further = f".after({after})" if after else ""
    messages = f"messages.limit({PAGE_SIZE}){further}"
    return {
        "platform": "instagram" if _on_instagram(reply) else "messenger",
        "user_id": reply.person_id,
        "fields": f"{messages}{{id,message,from,created_time,attachments}}",
    }


def comment_edge(reply: ClaimedReply, after: str = "") -> tuple[str, Mapping[str, str]]:
    """The edge of a comment where its replies stand, and what is asked of it."""
    paging = {"limit": str(PAGE_SIZE)} | ({"after": after} if after else {})
    if _on_instagram(reply):
        return "replies", {"fields": "id,text,from,timestamp"} | paging
    fields = "id,message,from,created_time"
    return "comments", {"fields": fields, "order": "reverse_chronological"} | paging


def conversation_view(body: Mapping[str, Any]) -> View:
    """The messages of the one thread that was asked for. Raises LookFailed."""
    threads = [thread.get("messages") for thread in _list(body)]
    pages = [page for page in threads if isinstance(page, dict)]
    seen = [_seen(message) for page in pages for message in _list(page)]
    # Of two threads with one person neither's cursor would lead on in both.
    cursor = _cursor(pages[0]) if len(pages) == 1 else ""
    return View(seen, any(map(_more, pages)), cursor=cursor)


def comment_view(body: Mapping[str, Any], *, newest_first: bool) -> View:
    """The replies of a comment. Raises LookFailed."""
    seen = [_seen(comment) for comment in _list(body)]
    return View(seen, _more(body), newest_first, _cursor(body))


def parent_of(comment: Mapping[str, Any]) -> str:
    """The comment that this one stands below; empty at the top."""
    parent = comment.get("parent")
    return str(parent.get("id", "") if isinstance(parent, dict) else comment.get("parent_id") or "")


def judge(read_back: ReadBack, *views: View) -> ReadBackResult:
    """What the views together say of the reply."""
    tag, earliest, known = read_back.reply.tag, _earliest(read_back), read_back.known_mid
    if _has_known(read_back) and not any(view.shows(known) for view in views):
        is_all = not any(view.more for view in views)
        return ReadBackResult(tag=tag, error="known_missing" if is_all else "too_much_to_read")
    seen = [each for view in views for each in view.behind(known)]
    found = matches(read_back, seen)
    if len(found) == 1:
        return ReadBackResult(tag=tag, found_mid=found[0].mid)
    if found:
        return ReadBackResult(tag=tag, ambiguous_mid=found[0].mid)
    if not _has_known(read_back) and not all(view.reaches(earliest) for view in views):
        return ReadBackResult(tag=tag, error="too_much_to_read")
    if _is_in_the_dark(read_back, seen):
        return ReadBackResult(tag=tag, error="details_missing")
    return ReadBackResult(tag=tag, clean=True)


def _is_in_the_dark(read_back: ReadBack, seen: Sequence[Seen]) -> bool:
    """Whether the reply could be one of those messages of which Graph shows id and time alone: on
    Instagram all but the newest 20 of a thread. One that is another reply's is not it.
    """
    earliest, bound = _earliest(read_back), set(read_back.bound_mids)
    return read_back.reply.kind == ReplyKind.REPLY_KIND_MESSAGE and any(
        not each.from_id and each.mid not in bound and _since(each, earliest) for each in seen
    )


def matches(read_back: ReadBack, seen: Sequence[Seen]) -> list[Seen]:
    """What could be the reply, as Graph lists it; of a medium only its presence can be told."""
    reply, earliest = read_back.reply, _earliest(read_back)
    text, is_medium = _plain(text_of(reply.content)), reply.content.HasField("media")
    own, bound = {reply.page_id, reply.node_id}, set(read_back.bound_mids)
    return [
        each
        for each in seen
        if each.mid
        and each.from_id in own
        and each.mid not in bound
        and _since(each, earliest)
        and _plain(each.text) == text
        and (each.attached or not is_medium)
    ]


def _earliest(read_back: ReadBack) -> datetime:
    return read_back.attempt_time.ToDatetime(UTC) - CLOCKS_DIFFER


def _since(seen: Seen, earliest: datetime) -> bool:
    return seen.created is None or seen.created >= earliest


def _list(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    data = body.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise LookFailed("answer_unreadable")
    return data


def _more(page: Mapping[str, Any]) -> bool:
    paging = page.get("paging")
    return isinstance(paging, dict) and "next" in paging


def _cursor(page: Mapping[str, Any]) -> str:
    """Where the next page begins; empty for what is no cursor: it goes into a list of fields."""
    paging = page.get("paging")
    cursors = paging.get("cursors") if isinstance(paging, dict) else None
    after = cursors.get("after") if isinstance(cursors, dict) else None
    return after if isinstance(after, str) and _CURSOR.fullmatch(after) else ""


def _seen(item: Mapping[str, Any]) -> Seen:
    author = item.get("from")
    return Seen(
        mid=str(item.get("id", "")),
        from_id=str(author.get("id", "")) if isinstance(author, dict) else "",
        text=str(item.get("message", item.get("text", ""))),
        created=_time(item.get("created_time", item.get("timestamp"))),
        attached=bool(item.get("attachments")),
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


def _on_instagram(reply: ClaimedReply) -> bool:
    return reply.platform == Platform.PLATFORM_INSTAGRAM
