"""Upserting: rows that were read from Graph, into the store; asked for until it answers."""

from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1 import mirror_service_pb2 as pb
from pagewire_runtime import metrics
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger
from pagewire_sync.asking import RunFailed
from pagewire_sync.patience import persistently

log = get_logger(__name__)

MOST_ROWS = 5_000
MOST_BYTES = 2 * 2**20
"""Of a request, which a channel takes up to 5 MiB of."""

_rows = metrics.counter("pagewire_history_rows", "Rows of history that are stored.", ["kind"])
_refused = metrics.counter(
    "pagewire_history_rows_refused",
    "What Graph showed and could not be stored, by kind and why.",
    ["kind", "reason"],
)

Row = pb.MirroredConversation | pb.MirroredMessage | pb.MirroredComment | pb.MirroredLabel


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def UpsertHistory(
        self, request: pb.UpsertHistoryRequest, /
    ) -> Awaitable[pb.UpsertHistoryResponse]: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """What was new: messages and comments in number, conversations by participant."""

    new: int = 0
    conversations: frozenset[str] = frozenset()


@dataclass(slots=True)
class Rows:
    """Rows that one call to Graph showed, of one page."""

    read_time: datetime
    conversations: list[pb.MirroredConversation] = field(default_factory=list)
    messages: list[pb.MirroredMessage] = field(default_factory=list)
    comments: list[pb.MirroredComment] = field(default_factory=list)
    labels: list[pb.MirroredLabel] = field(default_factory=list)

    def requests(self, page_id: str) -> Iterator[pb.UpsertHistoryRequest]:
        """The rows in requests of bounded size; conversations come before their messages."""
        read_time = Timestamp()
        read_time.FromDatetime(self.read_time)
        request = pb.UpsertHistoryRequest(page_id=page_id, read_time=read_time)
        room, space = MOST_ROWS, MOST_BYTES
        for name, row in self._named():
            size = row.ByteSize()
            if room <= 0 or space < size < MOST_BYTES:
                yield request
                request = pb.UpsertHistoryRequest(page_id=page_id, read_time=read_time)
                room, space = MOST_ROWS, MOST_BYTES
            getattr(request, name).append(row)
            room, space = room - 1, space - size
        if room < MOST_ROWS:
            yield request

    def _named(self) -> Iterator[tuple[str, Row]]:
        kinds: Sequence[tuple[str, Iterable[Row]]] = (
            ("conversations", self.conversations),
            ("messages", self.messages),
            ("comments", self.comments),
            ("labels", self.labels),
        )
        for name, rows in kinds:
            for row in rows:
                yield name, row


@dataclass(frozen=True)
class Upserting:
    """Stores rows of one page."""

    store: Store
    page_id: str

    async def put(self, rows: Rows) -> Stored:
        """Store them. Raises RunFailed where the page is not connected any more; waits while the
        store is away.
        """
        new = 0
        conversations: list[str] = []
        for request in rows.requests(self.page_id):
            response = await self._stored(request)
            new += len(response.new_messages) + len(response.new_comments)
            conversations += [
                request.conversations[at].participant_id for at in response.new_conversations
            ]
        return Stored(new, frozenset(conversations))

    async def _stored(self, request: pb.UpsertHistoryRequest) -> pb.UpsertHistoryResponse:
        try:
            response = await persistently(lambda: self.store.UpsertHistory(request))
        except Refusal as refusal:
            if refusal.kind is Kind.MISSING:
                raise RunFailed("page_disconnected") from None
            raise
        refused = Counter((_word_of(each.kind), each.reason) for each in response.refused)
        for kind in ("conversations", "messages", "comments", "labels"):
            of_kind = {reason: count for (word, reason), count in refused.items() if word == kind}
            if of_kind:
                log.warning("the store refused rows of history", kind=kind, **of_kind)
                count_refused(kind, of_kind)
            if count := len(getattr(request, kind)) - sum(of_kind.values()):
                _rows.labels(kind).inc(count)
        return response


def count_refused(kind: str, reasons: Mapping[str, int]) -> None:
    """So many were not stored, by why."""
    for reason, count in reasons.items():
        _refused.labels(kind, reason).inc(count)


def _word_of(kind: pb.RowKind.ValueType) -> str:
    """As requests name rows of the kind."""
    return pb.RowKind.Name(kind).removeprefix("ROW_KIND_").lower() + "s"
