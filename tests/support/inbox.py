"""A page's conversations as Graph pages them, in memory; they may change with every call."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pagewire.store.v1 import ingest_service_pb2 as ingest_pb
from pagewire.store.v1 import mirror_service_pb2 as mirror_pb
from pagewire.store.v1 import run_service_pb2 as run_pb
from pagewire.type.v1.page_pb2 import Login, Platform
from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncMode, SyncRun, SyncState
from pagewire_sync.batches import Weight
from pagewire_sync.budget import Product
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Credentials
from pagewire_sync.reading import Tally
from pagewire_sync.results import Done, Failed, Outcome

PAGE = "104200000000001"
NOW = 1_767_312_000.0
"""When the run begins."""

INVALID_CURSOR = Failed(GraphError(Failure.PARAMETER, 400, 2642))
REDUCE = Failed(GraphError(Failure.SHRINK, 500, 1))
UNKNOWN = Failed(GraphError(Failure.TRANSIENT, 500, 1))
UNAVAILABLE = Failed(GraphError(Failure.TRANSIENT, 500, 2))
MISSING = Failed(GraphError(Failure.PARAMETER, 400, 100, 33))
TOKEN_DEAD = Failed(GraphError(Failure.TOKEN, 400, 190, 463))


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


def credentials(platform: Platform.ValueType = Platform.PLATFORM_MESSENGER) -> Credentials:
    return Credentials(PAGE, PAGE, Login.LOGIN_FACEBOOK, "EAAtoken", 1, platform=platform)


@dataclass
class FakeThread:
    """A thread; the messages are (mid, time, whether the person wrote it), newest last."""

    thread_id: str
    messages: list[tuple[str, float, bool]] = field(default_factory=list)
    poison: bool = False
    alone: bool = False
    """Graph names nobody in it beside the page."""

    @property
    def person(self) -> str:
        return f"7{self.thread_id.removeprefix('t_')}"

    @property
    def updated(self) -> float:
        return self.messages[-1][1]


@dataclass
class Asked:
    """A call: what was asked, and how it was asked for."""

    node: str
    edge: str
    params: Mapping[str, str]
    batched: bool


@dataclass
class FakeInbox:
    """Answers reads of one page. Cursors name the item that they stand behind and, on lists, the
    limit that they were made with, as Graph's do.
    """

    threads: list[FakeThread] = field(default_factory=list)
    weight: int = 2_500
    """Threads times messages that it gives at once."""
    asked: list[Asked] = field(default_factory=list)
    before: Callable[[int], Awaitable[None] | None] = lambda number: None
    """Called before each answer with the number of the call, to change things."""
    failing: dict[int, Outcome] = field(default_factory=dict)
    """Calls by number that end otherwise."""
    circles: bool = False
    high_volume: bool = False
    """The list fails, whatever is asked of it; single threads are shown."""
    malformed: str = ""
    """A thread whose messages are no list."""
    labels: Outcome | None = None
    """What is answered for labels instead."""
    now: float = NOW

    def left_percent(self, page_id: str) -> int:
        return 87

    async def get(
        self,
        credentials: Credentials,
        node: str,
        edge: str,
        params: Mapping[str, str],
        *,
        operation: str,
        product: Product,
        weight: Weight = Weight.LIGHT,
        batched: bool = False,
        attempts: int = 6,
        tally: Tally | None = None,
    ) -> Outcome:
        number = len(self.asked)
        self.asked.append(Asked(node, edge, dict(params), batched))
        if tally is not None:
            tally.calls += 1
        waiting = self.before(number)
        if waiting is not None:
            await waiting
        if number in self.failing:
            return self.failing[number]
        return self._answer(node, edge, params)

    @property
    def calls(self) -> int:
        return len(self.asked)

    def lists(self) -> list[Asked]:
        return [each for each in self.asked if each.edge == "conversations"]

    def _answer(self, node: str, edge: str, params: Mapping[str, str]) -> Outcome:
        if edge == "conversations":
            return self._list(params)
        if edge == "custom_labels":
            return self.labels or self._done({"data": [{"id": "9", "page_label_name": "lead"}]})
        found = next((each for each in self.threads if each.thread_id == node), None)
        if found is None:
            return MISSING
        if edge == "messages":
            return UNKNOWN if found.poison else self._messages(found, params)
        wanted = params.get("fields", "")
        if nested_in(wanted) > self.weight:
            return REDUCE
        if found.poison and "messages" in wanted:
            return UNKNOWN
        return self._done(self._thread(found, wanted))

    def _list(self, params: Mapping[str, str]) -> Outcome:
        if self.high_volume:
            return UNAVAILABLE
        limit, fields = int(params["limit"]), params["fields"]
        nested = nested_in(fields)
        if limit * nested > self.weight:
            return REDUCE
        listed = sorted(self.threads, key=lambda each: (-each.updated, each.thread_id))
        start = 0
        if after := params.get("after"):
            item, _, made_with = after.partition("/")
            names = [each.thread_id for each in listed]
            if item not in names or int(made_with) != limit:
                return INVALID_CURSOR
            start = names.index(item) + 1
        chosen = listed[start : start + limit]
        if nested and any(each.poison for each in chosen):
            return UNKNOWN
        body: dict[str, Any] = {"data": [self._thread(each, fields) for each in chosen]}
        if chosen:
            end = f"{chosen[-1].thread_id}/{limit}"
            if self.circles:
                end = params.get("after") or end
            body["paging"] = {"cursors": {"before": "x", "after": end}}
            if start + limit < len(listed) or self.circles:
                body["paging"]["next"] = "https://graph.example/next?access_token=secret"
        return self._done(body)

    def _thread(self, thread: FakeThread, fields: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": thread.thread_id, "updated_time": iso(thread.updated)}
        if nested := nested_in(fields):
            people = [{"id": thread.person, "name": "P"}, {"id": PAGE, "name": "Shop"}]
            shown["participants"] = {"data": people[thread.alone :]}
            shown["message_count"] = len(thread.messages)
            shown["messages"] = self._page(thread, nested, None)
        if thread.thread_id == self.malformed:
            shown["messages"] = {"data": 7}
        return shown

    def _messages(self, thread: FakeThread, params: Mapping[str, str]) -> Outcome:
        page = self._page(thread, int(params["limit"]), params.get("after"))
        return INVALID_CURSOR if page is None else self._done(page)

    def _page(self, thread: FakeThread, limit: int, after: str | None) -> Any:
        listed = thread.messages[::-1]
        start = 0
        if after is not None:
            names = [mid for mid, _, _ in listed]
            if after not in names:
                return None
            start = names.index(after) + 1
        chosen = listed[start : start + limit]
        shown = [
            {
                "id": mid,
                "created_time": iso(at),
                "from": {"id": thread.person if inbound else PAGE},
                "message": f"text of {mid}",
            }
            for mid, at, inbound in chosen
        ]
        page: dict[str, Any] = {"data": shown}
        if chosen:
            page["paging"] = {"cursors": {"after": chosen[-1][0]}}
            if start + limit < len(listed):
                page["paging"]["next"] = "https://graph.example/next?access_token=secret"
        return page

    def _done(self, body: dict[str, Any]) -> Done:
        return Done(body, datetime.fromtimestamp(self.now, UTC))


def nested_in(fields: str) -> int:
    """How many messages of each thread are asked for."""
    found = re.search(r"messages\.limit\((\d+)\)", fields)
    return int(found[1]) if found else 0


def inbox(*lengths: int, **fields: Any) -> FakeInbox:
    """Threads of these lengths, the first the newest; a minute between all messages."""
    threads = []
    at = NOW - 3_600
    for number, length in enumerate(lengths):
        messages = []
        for place in range(length):
            at -= 60
            messages.append((f"m_{number}_{length - place}", at, place % 2 == 0))
        threads.append(FakeThread(f"t_{number:04}", messages[::-1]))
    return FakeInbox(threads, **fields)


@dataclass
class FakeMirror:
    """Keeps what is stored, by id; tells what was new."""

    conversations: dict[str, mirror_pb.MirroredConversation] = field(default_factory=dict)
    messages: dict[str, mirror_pb.MirroredMessage] = field(default_factory=dict)
    comments: dict[str, mirror_pb.MirroredComment] = field(default_factory=dict)
    labels: dict[str, mirror_pb.MirroredLabel] = field(default_factory=dict)
    requests: list[mirror_pb.UpsertHistoryRequest] = field(default_factory=list)
    before: Callable[[int], Awaitable[None] | None] = lambda number: None
    repeated: int = 0
    """Messages that were stored before."""

    async def UpsertHistory(
        self, request: mirror_pb.UpsertHistoryRequest
    ) -> mirror_pb.UpsertHistoryResponse:
        waiting = self.before(len(self.requests))
        if waiting is not None:
            await waiting
        self.requests.append(request)
        response = mirror_pb.UpsertHistoryResponse(
            new_conversations=_new(self.conversations, request.conversations, "participant_id"),
            new_messages=_new(self.messages, request.messages, "mid"),
            new_comments=_new(self.comments, request.comments, "comment_id"),
        )
        _new(self.labels, request.labels, "label_id")
        for row in request.messages:
            assert row.participant_id in self.conversations
        self.repeated += len(request.messages) - len(response.new_messages)
        return response

    async def ListThreads(
        self, request: mirror_pb.ListThreadsRequest
    ) -> mirror_pb.ListThreadsResponse:
        assert request.page_id == PAGE
        stored = [
            mirror_pb.StoredThread(
                thread_id=each.thread_id,
                participant_id=each.participant_id,
                update_time=each.update_time,
            )
            for each in self.conversations.values()
        ]
        stored.sort(key=_place)
        if request.HasField("after"):
            stored = [each for each in stored if _place(each) > _place(request.after)]
        return mirror_pb.ListThreadsResponse(threads=stored[: request.max_threads])


def _place(thread: mirror_pb.StoredThread) -> tuple[int, str]:
    return -thread.update_time.seconds, thread.participant_id


def _new(kept: dict[str, Any], rows: Sequence[Any], name: str) -> list[int]:
    new = []
    for at, row in enumerate(rows):
        key = getattr(row, name)
        if key not in kept:
            new.append(at)
        kept[key] = row
    return new


class FakeIngest:
    """Takes deliveries, each event once; busy as often as it is told."""

    def __init__(self, busy: int = 0, refused: bool = False, cannot: str = "") -> None:
        """`cannot` is the key of an event that is refused with all that is told beside it."""
        self.cannot = cannot
        self.deliveries: list[ingest_pb.Delivery] = []
        self.known: set[str] = set()
        self.busy = busy
        self.refused = refused

    async def Ingest(self, request: ingest_pb.IngestRequest) -> ingest_pb.IngestResponse:
        (delivery,) = request.deliveries
        self.deliveries.append(delivery)
        if self.busy:
            self.busy -= 1
            return ingest_pb.IngestResponse(
                results=[ingest_pb.DeliveryResult(state=ingest_pb.DELIVERY_STATE_BUSY)]
            )
        if self.refused or self.cannot in {event.key for event in delivery.events}:
            return ingest_pb.IngestResponse(
                results=[ingest_pb.DeliveryResult(state=ingest_pb.DELIVERY_STATE_REFUSED)]
            )
        new = {event.key for event in delivery.events} - self.known
        self.known |= new
        result = ingest_pb.DeliveryResult(
            state=ingest_pb.DELIVERY_STATE_STORED,
            new_events=len(new),
            known_events=len(delivery.events) - len(new),
        )
        return ingest_pb.IngestResponse(results=[result])


def claimed(
    *,
    mode: SyncMode.ValueType = SyncMode.SYNC_MODE_FULL,
    kind: SyncKind.ValueType = SyncKind.SYNC_KIND_CONVERSATIONS,
    synced: float = 0.0,
    gap: float = 0.0,
    run_id: str = "run-aaaaaaaaaaaaaaaa",
    **fields: Any,
) -> run_pb.ClaimedRun:
    """A run of the page that was claimed at NOW."""
    run = SyncRun(
        run_id=run_id,
        page_id=PAGE,
        kind=kind,
        mode=mode,
        state=SyncState.SYNC_STATE_RUNNING,
    )
    run.start_time.FromDatetime(datetime.fromtimestamp(NOW, UTC))
    made = run_pb.ClaimedRun(run=run, epoch=1, **fields)
    if synced:
        made.synced_time.FromDatetime(datetime.fromtimestamp(synced, UTC))
    if gap:
        made.gap_start_time.FromDatetime(datetime.fromtimestamp(gap, UTC))
    return made
