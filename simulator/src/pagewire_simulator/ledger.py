"""The ledger of truth: what was delivered, called and created, to score a system against.

Pure records and questions about them. Times are Unix milliseconds. ``serial`` numbers follow the
order in which things began.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec


class EventRecord(msgspec.Struct, kw_only=True):
    """An event for the app; ``told`` counts its deliveries that were answered 200."""

    ref: str
    account_id: str
    person_id: str | None
    field: str
    shape: str
    subject: str | None
    value: dict[str, Any]
    published_at: int
    subscribed: bool
    attempts: int = 0
    told: int = 0


class DeliveryRecord(msgspec.Struct, kw_only=True):
    """One POST. ``outcome``: ok (200), fail (anything else, or never connected), unknown.

    ``unknown`` means that no answer came, in time or at all: it may have been stored or not.
    """

    serial: int
    path: str
    refs: list[str]
    attempt: int
    repeat: bool
    size: int
    started_at: int
    ended_at: int
    outcome: str
    status: int | None


class CallRecord(msgspec.Struct, kw_only=True):
    """One Graph call as it came in and as it was answered.

    ``batch`` is the serial of the batch that it was an operation of. ``shape`` is the path with ids
    replaced; ``proof`` is ok, wrong, missing or unused (app tokens). ``answer`` is normal, refused,
    none (a call still going on), unfinished (its batch ended before), or the fault's way of
    answering. ``token_in_url`` is the caller's token, ``input_token_in_url`` one that is asked
    about. ``person_id`` is who is written to, or whose conversation is read. ``created`` is the
    message or comment that now exists because of it.
    """

    serial: int
    started_at: int
    host: str
    method: str
    shape: str
    endpoint: str
    token_in_url: bool
    input_token_in_url: bool = False
    batch: int | None = None
    account_id: str | None = None
    proof: str = "missing"
    person_id: str | None = None
    comment_id: str | None = None
    text: str | None = None
    metadata: str | None = None
    tag: str | None = None
    created: str | None = None
    fault: str | None = None
    answer: str = "none"
    status: int | None = None
    code: int | None = None
    subcode: int | None = None
    ended_at: int | None = None


class BatchRecord(msgspec.Struct, kw_only=True):
    """One batch as a whole; its operations are calls of their own. ``answer`` as in a call."""

    serial: int
    started_at: int
    host: str
    token_in_url: bool
    operations: int = 0
    fault: str | None = None
    answer: str = "none"
    status: int | None = None
    ended_at: int | None = None


class CallTotals(msgspec.Struct, kw_only=True):
    """An account's calls; each operation of a batch and each id of a read of several is one.

    ``wasted`` brought nothing: refused, broken or unfinished; ``throttled`` are those of them that
    were too many. ``rendered`` were answered as rendered before.
    """

    calls: int
    wasted: int
    throttled: int
    tokens_in_urls: int
    rendered: int
    by_endpoint: dict[str, int]


THROTTLED = {4, 17, 32, 613, 80001, 80002, 80006}
SENDS = {"send", "private_reply", "comment_reply"}


class Ledger:
    def __init__(self) -> None:
        self.events: dict[str, EventRecord] = {}
        self.deliveries: list[DeliveryRecord] = []
        self.calls: list[CallRecord] = []
        self.sends: list[CallRecord] = []
        self.batches: list[BatchRecord] = []
        self.rendered: Counter[str] = Counter()
        self.on_change: Callable[[], None] = lambda: None

    def publish(self, record: EventRecord) -> None:
        self.events[record.ref] = record

    def delivered(self, record: DeliveryRecord) -> None:
        record.serial = len(self.deliveries) + 1
        self.deliveries.append(record)
        for ref in record.refs:
            if event := self.events.get(ref):
                event.attempts += 1
                event.told += record.outcome == "ok"
        self.on_change()

    def begin(self, record: CallRecord) -> CallRecord:
        record.serial = len(self.calls) + 1
        self.calls.append(record)
        return record

    def created(self, call: CallRecord, created: str) -> None:
        """The call took effect: from here on a message or comment exists, whatever is answered."""
        call.created = created
        self.sends.append(call)
        self.on_change()

    def finish(self, call: CallRecord, answer: str, status: int | None, at: int) -> None:
        call.answer, call.status, call.ended_at = answer, status, at
        self.on_change()

    def begin_batch(self, record: BatchRecord) -> BatchRecord:
        record.serial = len(self.batches) + 1
        self.batches.append(record)
        return record

    def finish_batch(self, batch: BatchRecord, answer: str, status: int | None, at: int) -> None:
        batch.answer, batch.status, batch.ended_at = answer, status, at
        self.on_change()

    def accepted(self, **wanted: str) -> list[CallRecord]:
        """The sends that created something, in the order of creation; filters as ``received``."""
        return chosen(self.sends, **wanted)

    def received(self, **wanted: str) -> list[CallRecord]:
        """All calls, in the order in which they came."""
        return chosen(self.calls, **wanted)

    def totals(self, account: str) -> CallTotals:
        own = self.received(account=account)
        rendered = self.rendered[account]
        return CallTotals(
            calls=len(own) + rendered,
            wasted=sum(call.answer != "normal" for call in own),
            throttled=sum(call.code in THROTTLED for call in own),
            tokens_in_urls=sum(call.token_in_url for call in own),
            rendered=rendered,
            by_endpoint=Counter(call.endpoint for call in own),
        )

    def duplicates(self) -> list[list[CallRecord]]:
        """Sends that say the same to the same person or comment, where there are several."""
        groups: dict[tuple[Any, ...], list[CallRecord]] = defaultdict(list)
        for call in self.sends:
            target = call.comment_id or call.person_id
            groups[call.account_id, call.endpoint, target, call.text].append(call)
        return [group for group in groups.values() if len(group) > 1]

    def overlaps(self) -> Iterator[tuple[CallRecord, CallRecord]]:
        """Pairs of send calls to one person that were under way at the same time."""
        latest: dict[tuple[str | None, str], CallRecord] = {}
        for call in self.calls:
            if call.endpoint not in SENDS or call.person_id is None:
                continue
            key = call.account_id, call.person_id
            before = latest.get(key)
            if before and (before.ended_at is None or before.ended_at > call.started_at):
                yield before, call
            latest[key] = call

    def tokens_in_urls(self) -> int:
        """Requests with a token in their address; operations of a batch have none of their own."""
        alone = sum(call.token_in_url for call in self.calls)
        return alone + sum(batch.token_in_url for batch in self.batches)

    def input_tokens(self) -> int:
        """Requests with a token in their address that they ask about: debug_token's alone."""
        return sum(call.input_token_in_url for call in self.calls)

    def untold(self) -> list[EventRecord]:
        """Events that flow to the app and have not been answered 200 yet."""
        return [e for e in self.events.values() if e.subscribed and not e.told]


def chosen(
    calls: list[CallRecord],
    *,
    account: str | None = None,
    person: str | None = None,
    metadata: str | None = None,
    comment: str | None = None,
) -> list[CallRecord]:
    return [
        call
        for call in calls
        if account in (None, call.account_id)
        and person in (None, call.person_id)
        and metadata in (None, call.metadata)
        and comment in (None, call.comment_id)
    ]
