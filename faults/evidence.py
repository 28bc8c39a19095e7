"""The evidence of a run: what Meta saw, what the store has, what was written down and measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from faults.history import (
    AttemptRow,
    DecisionRow,
    End,
    EventRow,
    GraphCall,
    Happened,
    History,
    OutboxRow,
    Rows,
    Traces,
    Usage,
)

Key = tuple[str, int]
"""A page and the number of its event, or of its reply."""
Lane = tuple[str, str]


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong: against which invariant, at what, and why."""

    invariant: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.what}: {self.why}"


@dataclass(frozen=True)
class Bounds:
    """How long things may take, in seconds; a run that shortens a setting says so here.

    `uncertain` is how long nobody may know, `second_look` and `between_looks` how long after the
    attempt, and after the first, the second look may be at the soonest; `slowest` how long a POST
    may take (in pause faults 5), `slack` what is added to each. `sender_waits` is how long Meta's
    sender waits for an answer. `growth` is a share of what a process held before.
    """

    uncertain: float = 600.0
    second_look: float = 60.0
    between_looks: float = 30.0
    slowest: float = 2.5
    slack: float = 5.0
    sender_waits: float = 5.0
    growth: float = 0.05


@dataclass(frozen=True)
class Catchup:
    """How long the backlog of a fault took to be gone once that had ended, and how long it may."""

    seconds: float
    backlog: int
    arrivals_a_second: float
    recovery: float = 10.0
    """What recovery itself may take."""

    @property
    def allowed(self) -> float:
        catching_up = 3 * self.arrivals_a_second
        return self.recovery + (self.backlog / catching_up if catching_up else 0.0)


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run that has come to rest: faults off, recovery's time gone by.

    `canaries` are texts that must not be written down (tokens, names, texts, ids of people), by
    what each is. `poisoned` are the lanes on which an event fails on purpose, `blocked` the pages
    that a fault keeps from sending, `instagram` those that are Instagram accounts. `besides` are
    faults that hold single lanes, each with p95 of the others' acks meanwhile and before any fault,
    in seconds; none where that is not measured. `is_definite` says that no
    fault left anybody in doubt about a send, `has_echoes` that all that Graph took was echoed.
    `given` are the pages and keys of events in bodies that Meta was told to send byte for byte.
    `past` are the pages and ids of messages that Meta has, which history may have brought.
    `silences` are the spans in which an edge could not answer, in Unix seconds.
    `usage` has what each life of a process held before the fault, or when it was warm, and at rest.
    """

    history: History
    rows: Rows
    traces: Traces = field(default_factory=lambda: Traces((), {}))
    canaries: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds = Bounds()  # frozen
    poisoned: frozenset[Lane] = frozenset()
    blocked: frozenset[str] = frozenset()
    instagram: frozenset[str] = frozenset()
    given: frozenset[tuple[str, str]] = frozenset()
    past: frozenset[tuple[str, str]] = frozenset()
    besides: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    catchups: Sequence[Catchup] = ()
    silences: Sequence[tuple[float, float]] = ()
    usage: Mapping[str, tuple[Usage, Usage]] = field(default_factory=dict)
    is_definite: bool = False
    has_echoes: bool = False

    @cached_property
    def ends(self) -> dict[str, set[End]]:
        """How the POSTs of each event ended, by its ref."""
        return self.history.ends()

    @cached_property
    def happened(self) -> dict[tuple[str, str], Happened]:
        """By page and key; of one that came on standby too, the live one if it was delivered."""
        found: dict[tuple[str, str], Happened] = {}
        for event in self.history.happened:
            place = event.page_id, event.key or ""
            if event.key and (place not in found or self._counts_more(event, found[place])):
                found[place] = event
        return found

    def _counts_more(self, event: Happened, other: Happened) -> bool:
        return other.is_standby and not event.is_standby and bool(self.ends[event.ref])

    @cached_property
    def events(self) -> dict[Key, EventRow]:
        return {(row.page_id, row.event_id): row for row in self.rows.events}

    @cached_property
    def decisions(self) -> dict[Key, DecisionRow]:
        return {(row.page_id, row.event_id): row for row in self.rows.decisions}

    @cached_property
    def replies(self) -> dict[Key, list[OutboxRow]]:
        """What rules made of each event, by rule and action."""
        found: dict[Key, list[OutboxRow]] = defaultdict(list)
        for row in self.rows.outbox:
            if row.event_id is not None:
                found[row.page_id, row.event_id].append(row)
        for made in found.values():
            made.sort(key=lambda row: (row.rule_id or "", row.action_index or 0))
        return dict(found)

    @cached_property
    def attempts(self) -> dict[Key, list[AttemptRow]]:
        """Of each reply, in their order."""
        found: dict[Key, list[AttemptRow]] = defaultdict(list)
        for row in sorted(self.rows.attempts, key=lambda row: row.number):
            found[row.page_id, row.reply_id].append(row)
        return dict(found)

    @cached_property
    def acceptances(self) -> dict[Key, list[GraphCall]]:
        """What Graph took of each reply, in the order in which it did.

        Told by the tag; of what bears none by its id, then by what was said to whom.
        """
        by_tag = {row.tag: (row.page_id, row.reply_id) for row in self.rows.attempts}
        by_mid = {
            (page_id, mid): (page_id, reply_id)
            for page_id, mid, reply_id in (
                *((row.page_id, row.mid, row.reply_id) for row in self.rows.attempts),
                *((row.page_id, row.mid, row.reply_id) for row in self.rows.outbox),
            )
            if mid
        }
        alike: dict[tuple[str | None, ...], list[Key]] = defaultdict(list)
        for row in self.rows.outbox:
            alike[row.page_id, row.kind, row.comment_id, row.text].append(
                (row.page_id, row.reply_id)
            )
        found: dict[Key, list[GraphCall]] = defaultdict(list)
        for call in self.history.accepted:
            key = by_tag.get(call.tag or "") or by_mid.get((call.page_id or "", call.created or ""))
            if key is None and call.tag is None:
                same = alike[call.page_id, call.endpoint, call.comment_id, call.text]
                key = min(same, key=lambda each: len(found.get(each, ())), default=None)
            if key is not None:
                found[key].append(call)
        return dict(found)


def event_name(row: EventRow | Happened) -> str:
    """An event as a report names it."""
    return f"event {row.page_id}/{row.key}"


def reply_name(row: OutboxRow) -> str:
    return f"reply r-{row.page_id}-{row.reply_id}"
