"""What befell a system, as the simulated Meta saw it, and what its store has: plain values.

`History` is the truth from outside, `Rows` the state within; a checker compares the two. All times
are Unix seconds, by one machine's clock. Ids are those of the database: an event is named by its
page and a number (`e-<page>-<number>` outside), a reply likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class End(StrEnum):
    """How one POST ended, seen by its sender."""

    OK = "ok"
    """200: acknowledged."""
    FAIL = "fail"
    """Any other status, or never connected: not acknowledged."""
    UNKNOWN = "unknown"
    """No answer in time or at all: what was in it may be stored or not."""


@dataclass(frozen=True)
class Happened:
    """One event that Meta had for the app; it may be in many POSTs, or in none.

    `key` is the key that its one row must have, where the event has a natural one, else None (of
    those the key is a hash: count them). `person_id` is the id that replies go to; None where the
    page itself did it. `lane` is the lane that it must be in.
    """

    ref: str
    page_id: str
    key: str | None
    lane: str
    kind: str
    """As in the key: message, echo, postback, comment, … ; `other` without a key."""
    person_id: str | None
    text: str | None
    tag: str | None
    """Of an echo: the metadata that it tells back."""
    happened_at: float | None
    """As Meta says in the event itself; to the second for comments, None where it says nothing."""
    published_at: float
    is_standby: bool
    is_subscribed: bool
    """Whether it flows to the app at all; where not, it must not be stored."""
    value: Mapping[str, Any]
    """The messaging item or the change's value, as Meta sent it."""


@dataclass(frozen=True)
class Delivered:
    """One POST of one or more events, with its end. In the order in which they *ended*."""

    serial: int
    path: str
    refs: tuple[str, ...]
    """Of `Happened`; none where the body was given byte for byte."""
    attempt: int
    """From 1: of the same body."""
    is_repeat: bool
    """A second copy of what was, or is being, delivered."""
    started_at: float
    ended_at: float
    end: End
    status: int | None


@dataclass(frozen=True)
class GraphCall:
    """One call that Graph received, in the order in which they came.

    `created` is the mid or comment id that exists because of it: the call was *accepted*, whatever
    the caller was told. `person_id` and `comment_id` are to, or of, whom or what it was, also where
    it read. `accepted_order` numbers the accepted sends as they took effect. `answer`
    is `normal`, `refused`, `error`, `cut`, `half`, `empty`, `html`, `truncated`, `bare`, or `none`
    while it goes on.
    """

    serial: int
    endpoint: str
    """`send`, `private_reply`, `comment_reply`, or a name of the simulator for other calls."""
    page_id: str | None
    person_id: str | None
    comment_id: str | None
    text: str | None
    tag: str | None
    """The attempt's tag, from the message's metadata; None where the endpoint has none."""
    created: str | None
    accepted_order: int | None
    fault: str | None
    """The simulator's fault that struck it."""
    answer: str
    status: int | None
    code: int | None
    started_at: float
    ended_at: float | None

    @property
    def is_accepted(self) -> bool:
        return self.created is not None


@dataclass(frozen=True)
class History:
    """All of it, up to the moment of asking. `seed` is the simulator's."""

    seed: int
    happened: tuple[Happened, ...]
    delivered: tuple[Delivered, ...]
    calls: tuple[GraphCall, ...]

    @property
    def accepted(self) -> tuple[GraphCall, ...]:
        """The sends that created something, in the order in which they took effect."""
        sends = [call for call in self.calls if call.accepted_order is not None]
        return tuple(sorted(sends, key=lambda call: call.accepted_order or 0))

    def ends(self) -> dict[str, set[End]]:
        """Of each event, by ref, how the POSTs that held it ended; empty where there was none."""
        found: dict[str, set[End]] = {event.ref: set() for event in self.happened}
        for post in self.delivered:
            for ref in post.refs:
                found[ref].add(post.end)
        return found


# What the store has. Each of these is one row; names are the columns' where they are the same.


@dataclass(frozen=True)
class EventRow:
    page_id: str
    event_id: int
    key: str
    number: int
    """Its order in the lane is the order of commits."""
    lane: str
    kind: str
    """`message`, `echo`, `comment`, …: the enum's name in lower case without its prefix."""
    trigger: str
    """Likewise; `unspecified` where no rule may answer."""
    source: str
    """`live`, `standby` or `recovered`."""
    person_id: str
    state: str
    """`pending`, `done`, `parked` or `unknown_page`."""
    attempts: int
    delivery_id: str
    event_time: float
    received_at: float
    stored_at: float


@dataclass(frozen=True)
class Verdict:
    """What was decided of one rule for one event."""

    rule_id: str
    version: int
    fired: bool
    reason: str


@dataclass(frozen=True)
class DecisionRow:
    page_id: str
    event_id: int
    outcome: str
    """`answered`, `declined`, `expired` or `failed`."""
    reason: str
    verdicts: tuple[Verdict, ...]
    book_version: int
    decided_at: float
    epoch: int | None = None
    """Of its lane, under which a dispatcher decided it; None where none did."""


@dataclass(frozen=True)
class FiredRow:
    page_id: str
    event_id: int
    rule_id: str
    rule_version: int


@dataclass(frozen=True)
class OutboxRow:
    page_id: str
    reply_id: int
    lane: str
    ordinal: int
    kind: str
    """`message`, `private_reply`, `comment_reply`, `hide_comment`, `add_label`, `remove_label`."""
    origin: str
    """`rule` or `person`."""
    event_id: int | None
    rule_id: str | None
    action_index: int | None
    client_key: str | None
    person_id: str | None
    comment_id: str | None
    text: str | None
    state: str
    """`ready`, `sending`, `uncertain`, `sent`, `failed`, `expired` or `parked`."""
    state_reason: str
    attempt: int
    tag: str | None
    mid: str | None
    settled_by: str | None
    uncertain_before: bool
    clean_looks: int
    lease_until: float | None
    not_before: float | None
    expires_at: float
    created_at: float
    sending_at: float | None
    """When its first attempt was claimed."""
    uncertain_at: float | None
    sent_at: float | None
    ended_at: float | None


@dataclass(frozen=True)
class AttemptRow:
    page_id: str
    tag: str
    reply_id: int
    number: int
    """From 1, of the reply."""
    started_at: float
    ended_at: float | None
    verdict: str | None
    reason: str | None
    mid: str | None
    settled_by: str | None


@dataclass(frozen=True)
class LaneRow:
    page_id: str
    lane: str
    epoch: int
    lease_owner: str | None
    lease_until: float | None
    blocked_until: float | None
    pending: int
    last_ordinal: int


@dataclass(frozen=True)
class LeaseRow:
    """That a lane was claimed, as the rig's own trigger saw it, under the lane's lock."""

    page_id: str
    lane: str
    epoch: int
    owner: str
    leased_at: float


@dataclass(frozen=True)
class DoubtRow:
    """That a reply came to be in doubt after this attempt, as the rig's own trigger saw it."""

    page_id: str
    reply_id: int
    tag: str
    doubted_at: float


@dataclass(frozen=True)
class MessageRow:
    page_id: str
    mid: str
    participant_id: str
    direction: str
    """`inbound` or `outbound`."""
    text: str | None
    is_deleted: bool
    reply_id: int | None


@dataclass(frozen=True)
class CommentRow:
    page_id: str
    comment_id: str
    text: str | None
    is_own: bool
    is_deleted: bool
    reply_id: int | None


@dataclass(frozen=True)
class MarkRow:
    page_id: str
    mark_key: str
    event_id: int
    rule_id: str
    reply_id: int | None
    released: bool


@dataclass(frozen=True)
class RawRow:
    """A signed POST as it came; `quarantined` where its whole body, or a part, was not read."""

    delivery_id: str
    received_at: float
    body: bytes
    events: int
    outcome: str
    """`parsed`, `partial` or `quarantined`."""
    quarantined: bool


@dataclass(frozen=True)
class RuleVersionRow:
    """A rule as it was from `changed_at` on, until its next version."""

    rule_id: str
    version: int
    definition: bytes
    """`pagewire.type.v1.Rule` as protobuf."""
    deleted: bool
    changed_at: float


@dataclass(frozen=True)
class Rows:
    """What the store has, read in one transaction; `read_at` is the database's clock then."""

    read_at: float
    pages: frozenset[str]
    """Those that are connected."""
    raw: tuple[RawRow, ...]
    events: tuple[EventRow, ...]
    decisions: tuple[DecisionRow, ...]
    fired: tuple[FiredRow, ...]
    outbox: tuple[OutboxRow, ...]
    attempts: tuple[AttemptRow, ...]
    lanes: tuple[LaneRow, ...]
    messages: tuple[MessageRow, ...]
    comments: tuple[CommentRow, ...]
    marks: tuple[MarkRow, ...]
    rule_versions: tuple[RuleVersionRow, ...]
    leases: tuple[LeaseRow, ...] = ()
    doubts: tuple[DoubtRow, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What one process holds."""

    open_files: int
    connections: int
    """TCP, established."""
    threads: int
    memory_bytes: int
    """Resident."""


@dataclass(frozen=True)
class Traces:
    """What a run left in writing: to be searched for what must not be in it."""

    logs: tuple[Path, ...]
    metrics: Mapping[str, str]
    """Prometheus text by process."""
