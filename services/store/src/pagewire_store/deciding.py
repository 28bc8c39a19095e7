"""What an evaluated event calls for, and why not: plain values in, plain values out.

The store asks `bars` first, then `plan` for each candidate in turn; the marks that a plan names are
the database's to give.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pagewire.type.v1.decision_pb2 import Outcome
from pagewire.type.v1.event_pb2 import Event, IdSpace, Source, Trigger
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import Action, Candidate, LeftOut

# A reply needs time on its way, so an event is too old five minutes before Meta's window closes.
MARGIN = timedelta(minutes=5)
DIRECT_WINDOW = timedelta(hours=24)
COMMENT_WINDOW = timedelta(days=7)
WITHOUT_WINDOW = timedelta(hours=24)

RECOVERED_FRESH = timedelta(minutes=10)
"""How old an event that no webhook brought may be and still be answered: whoever wrote it waits for
no answer hours later, and perhaps a person gave it."""

MOST_FAILURES = 8
LONGEST_FAILING = timedelta(minutes=2)
RULES_DIED = "rules_died"
"""The failure of an event that rules had alone when they died: perhaps by chance, so that only the
number of such failures counts, and not the time since the first."""
KILLS_RULES = "kills_rules"
"""The failure of an event of which rules died again and again, and of it alone: one is enough."""
LONGEST_BLOCK = timedelta(seconds=30)

Kind = Literal[
    "message", "private_reply", "comment_reply", "hide_comment", "add_label", "remove_label"
]
SENDING_KINDS: frozenset[Kind] = frozenset({"message", "private_reply", "comment_reply"})

_SPACES = {
    IdSpace.ID_SPACE_MESSAGING: "messaging",
    IdSpace.ID_SPACE_COMMENTER: "commenter",
    IdSpace.ID_SPACE_USER_REF: "user_ref",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """An event and what the store knows beside it."""

    event: Event
    platform: Platform.ValueType
    connected: bool
    other_is_page: bool
    """The other party is itself a connected page."""
    removed: bool
    """Its message or comment is deleted by now."""
    paused_until: datetime | None
    """Until when a person has the conversation."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Why no rule may answer."""

    outcome: Outcome.ValueType
    reason: str


@dataclass(frozen=True, slots=True)
class MarkWish:
    """A mark that a rule needs: `key` itself, or one of `slots` keys `key:1`, `key:2`, …"""

    reason: str
    key: str
    until: datetime | None = None
    slots: int = 0


@dataclass(frozen=True, slots=True)
class PlannedReply:
    """An outbox row to be."""

    kind: Kind
    action_index: int
    expires_at: datetime
    person_id: str | None = None
    comment_id: str | None = None
    content: ReplyContent | None = None
    hidden: bool | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What firing one candidate takes and does; `refusal` says why it can't, empty where it can."""

    candidate: Candidate
    refusal: str
    marks: tuple[MarkWish, ...]
    replies: tuple[PlannedReply, ...]
    left_out: tuple[LeftOut, ...] = ()
    """The actions that can't apply, each with its reason."""

    @property
    def sending(self) -> int:
        """How many replies it sends, apart from labels and hiding."""
        return sum(reply.kind in SENDING_KINDS for reply in self.replies)


def bars(facts: Facts, now: datetime, recovered_fresh: timedelta = RECOVERED_FRESH) -> Bar | None:
    """The first reason why no rule may answer the event; None where rules may."""
    event = facts.event
    if not facts.connected:
        return _declined("page_disconnected")
    if event.is_own:
        return _declined("own_account")
    if facts.other_is_page:
        return _declined("own_page")
    if event.source == Source.SOURCE_STANDBY:
        return _declined("standby")
    if facts.removed:
        return _declined("message_removed")
    if event.source == Source.SOURCE_RECOVERED and now - event_time(event) > recovered_fresh:
        return _declined("recovered_late")
    if now - event_time(event) > window(event) - MARGIN:
        return Bar(Outcome.OUTCOME_EXPIRED, "window_closed")
    if facts.paused_until is not None and facts.paused_until > now:
        return _declined("person_active")
    return None


def plan(facts: Facts, candidate: Candidate, now: datetime) -> Plan:
    """What firing `candidate` would take and do; actions that can't apply are left out."""
    planned = [_reply(facts, at, action, now) for at, action in enumerate(candidate.actions)]
    replies = tuple(reply for reply in planned if not isinstance(reply, str))
    left_out = tuple(
        LeftOut(action=action.WhichOneof("action") or "", reason=reply)
        for action, reply in zip(candidate.actions, planned, strict=True)
        if isinstance(reply, str)
    )
    marks = _marks(facts.event, candidate, now)
    if not replies:
        return Plan(candidate, left_out[0].reason if left_out else "no_action", (), (), left_out)
    if marks is None:
        return Plan(candidate, "person_unknown", (), (), left_out)
    return Plan(candidate, "", marks, replies, left_out)


def is_comment(event: Event) -> bool:
    """Whether the event is answered below a comment, not in a conversation."""
    return event.trigger == Trigger.TRIGGER_COMMENT


def event_time(event: Event) -> datetime:
    """When it happened, by Meta's clock."""
    return event.event_time.ToDatetime(UTC)


def window(event: Event) -> timedelta:
    """How long after it Meta lets a page answer (a comment: in private)."""
    return COMMENT_WINDOW if is_comment(event) else DIRECT_WINDOW


def parks(failures: int, first_failed_at: datetime, now: datetime, failure: str = "") -> bool:
    """Whether an event that failed so often, first then and now so, is to wait for a person."""
    if failure == KILLS_RULES or failures >= MOST_FAILURES:
        return True
    return failure != RULES_DIED and now - first_failed_at >= LONGEST_FAILING


def block(failures: int, chance: float) -> timedelta:
    """How long a lane rests when its first event failed: half to all of min(2^n, 30) s."""
    most = min(timedelta(seconds=2 ** min(failures, 16)), LONGEST_BLOCK)
    return most * (0.5 + chance / 2)


def _declined(reason: str) -> Bar:
    return Bar(Outcome.OUTCOME_DECLINED, reason)


def _marks(event: Event, candidate: Candidate, now: datetime) -> tuple[MarkWish, ...] | None:
    """The marks that the limits ask for; None where they name a person who is not known."""
    limits, wishes = candidate.limits, []
    who = f"{candidate.rule_id}:{_SPACES.get(event.id_space, '')}:{event.person_id}"
    if limits.once_per_person:
        wishes.append(MarkWish("once_per_person", f"once:{who}"))
    if limits.cooldown_seconds > 0:
        until = now + timedelta(seconds=limits.cooldown_seconds)
        wishes.append(MarkWish("cooldown", f"cooldown:{who}", until))
    if limits.per_day > 0:
        today = now.astimezone(UTC).date()
        midnight = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=1)
        wishes.append(MarkWish("per_day", f"day:{who}:{today}", midnight, limits.per_day))
    if wishes and not (event.person_id and event.id_space in _SPACES):
        return None
    return tuple(wishes)


def _reply(facts: Facts, at: int, action: Action, now: datetime) -> PlannedReply | str:
    """The outbox row of one action, or the reason why there can't be one."""
    event = facts.event
    match action.WhichOneof("action"):
        case "reply" if is_comment(event):
            return _comment_reply(event, at, action.reply, now)
        case "reply":
            return _message(event, at, action.reply)
        case "private_reply":
            return _private_reply(event, at, action.private_reply)
        case "comment_reply":
            return _comment_reply(event, at, action.comment_reply, now)
        case "hide_comment":
            return _hiding(event, at, action.hide_comment.hidden, now)
        case "add_label":
            return _label(facts, "add_label", at, action.add_label.name, now)
        case "remove_label":
            return _label(facts, "remove_label", at, action.remove_label.name, now)
        case _:
            return "action_unknown"


def _message(event: Event, at: int, content: ReplyContent) -> PlannedReply | str:
    if not _can_be_written_to(event):
        return "person_unknown"
    ends = event_time(event) + DIRECT_WINDOW
    return PlannedReply("message", at, ends, person_id=event.person_id, content=content)


def _private_reply(event: Event, at: int, content: ReplyContent) -> PlannedReply | str:
    if not is_comment(event):
        return "not_a_comment"
    return PlannedReply(
        "private_reply",
        at,
        event_time(event) + COMMENT_WINDOW - MARGIN,
        # On Instagram a commenter's id is the one to write to; on Facebook the echo will name it.
        person_id=event.person_id if _can_be_written_to(event) else None,
        comment_id=event.comment.comment_id,
        content=content,
    )


def _comment_reply(
    event: Event, at: int, content: ReplyContent, now: datetime
) -> PlannedReply | str:
    if not is_comment(event):
        return "not_a_comment"
    text = content.quick_replies.text or content.text
    if not text:
        return "text_only"
    return PlannedReply(
        "comment_reply",
        at,
        now + WITHOUT_WINDOW,
        comment_id=event.comment.comment_id,
        content=ReplyContent(text=text),
    )


def _hiding(event: Event, at: int, hidden: bool, now: datetime) -> PlannedReply | str:
    if not is_comment(event):
        return "not_a_comment"
    ends = now + WITHOUT_WINDOW
    comment_id = event.comment.comment_id
    return PlannedReply("hide_comment", at, ends, comment_id=comment_id, hidden=hidden)


def _label(
    facts: Facts, kind: Literal["add_label", "remove_label"], at: int, name: str, now: datetime
) -> PlannedReply | str:
    if facts.platform != Platform.PLATFORM_MESSENGER or not _can_be_written_to(facts.event):
        return "label_unsupported"
    ends = now + WITHOUT_WINDOW
    return PlannedReply(kind, at, ends, person_id=facts.event.person_id, label=name)


def _can_be_written_to(event: Event) -> bool:
    return bool(event.person_id) and event.id_space == IdSpace.ID_SPACE_MESSAGING
