"""What must come of events: a plain reading of the design, which a run's outcome is compared with.

Nothing here is the services' own: the model takes the bodies as Meta sent them, the rules as they
stood, and the order in which things were decided, and says which rules fire and what is sent. It
knows what fault loads use: texts of one language's words, all of a rule's actions and limits, the
reasons that keep any rule from answering. It does not know `regex`, nor two rules of one event that
contend for one limit.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from faults.history import Happened, RuleVersionRow
from pagewire.type.v1 import rule_pb2
from pagewire.type.v1.event_pb2 import Trigger

MARGIN = 5 * 60.0
DIRECT_WINDOW = 24 * 3600.0
COMMENT_WINDOW = 7 * DIRECT_WINDOW
PERSON_PAUSE = 60 * 60.0
INBOX_APP_ID = 263902037430900
"""Meta's own inbox: what comes from it a person wrote."""

ComeToNothing = Callable[[str, float, float], bool]
"""Whether what a rule fired at a time had come to nothing by another: rule, fired at, now."""

SENDING = frozenset({"message", "private_reply", "comment_reply"})
COMMENT_ACTIONS = frozenset({"private_reply", "comment_reply", "hide_comment"})
WORDLESS = frozenset({"hide_comment", "add_label", "remove_label"})

_TRIGGERS = {
    value: name.removeprefix("TRIGGER_").lower()
    for name, value in Trigger.items()
    if value != Trigger.TRIGGER_UNSPECIFIED
}
_MODES = ("word", "word", "contains", "exact", "starts_with", "ends_with")
"""By the number of `TextMode`; unspecified is `word`."""


# An event, as far as rules look at it.


@dataclass(frozen=True)
class Told:
    """What an event says. `trigger` is None where no rule could ever answer it."""

    page_id: str
    lane: str
    trigger: str | None
    texts: tuple[str, ...] = ()
    person_id: str | None = None
    name: str = ""
    comment_id: str | None = None
    happened_at: float | None = None
    is_standby: bool = False
    is_instagram: bool = False

    @property
    def is_comment(self) -> bool:
        return self.trigger == "comment"

    @property
    def may_be_written_to(self) -> bool:
        """A Facebook commenter's id is none that takes messages."""
        return self.person_id is not None and (self.is_instagram or not self.is_comment)


def told(event: Happened) -> Told:
    """Reads the body that Meta sent."""
    value = event.value
    if "item" in value or "media" in value or event.lane.startswith("comment:"):
        return _comment(event)
    trigger, texts = _messaging(value)
    return Told(
        event.page_id,
        event.lane,
        trigger if event.person_id else None,
        tuple(text for text in texts if text),
        person_id=event.person_id,
        happened_at=event.happened_at,
        is_standby=event.is_standby,
    )


def _messaging(value: Mapping[str, Any]) -> tuple[str | None, Sequence[str | None]]:
    """The trigger and the texts of a messaging item."""
    if message := value.get("message"):
        if message.get("is_echo") or message.get("is_deleted"):
            return None, ()
        texts = (message.get("text"), message.get("quick_reply", {}).get("payload"))
        if message.get("reply_to", {}).get("story"):
            return "story_reply", texts
        if any(each["type"] == "story_mention" for each in message.get("attachments", ())):
            return "story_mention", texts
        return "message", texts
    if postback := value.get("postback"):
        return "postback", (postback.get("title"), postback.get("payload"))
    if reaction := value.get("reaction"):
        if reaction.get("action") == "unreact":
            return None, ()
        return "reaction", (reaction.get("emoji"), reaction.get("reaction"))
    if referral := value.get("referral"):
        return "referral", (referral.get("ref"), referral.get("ad_id"))
    if optin := value.get("optin"):
        is_stop = str(optin.get("notification_messages_status", "")).startswith("STOP")
        return None if is_stop else "optin", (optin.get("ref"), optin.get("payload"))
    return None, ()


def _comment(event: Happened) -> Told:
    """A comment of the Page's feed, or of an Instagram media. Only a new one, of another."""
    value = event.value
    author = value.get("from", {})
    is_instagram = "media" in value
    is_new = is_instagram or (value.get("item") == "comment" and value.get("verb") == "add")
    is_own = author.get("id") == event.page_id or "self_ig_scoped_id" in author
    said = value.get("text") if is_instagram else value.get("message")
    return Told(
        event.page_id,
        event.lane,
        "comment" if is_new and not is_own else None,
        (said,) if said else (),
        person_id=author.get("id"),
        name=author.get("username" if is_instagram else "name") or "",
        comment_id=value.get("comment_id") or value.get("id"),
        happened_at=event.happened_at,
        is_instagram=is_instagram,
    )


def is_inbox_echo(event: Happened) -> bool:
    """Whether a person answered by hand, which rests automation there."""
    message = event.value.get("message", {})
    return bool(message.get("is_echo")) and message.get("app_id") == INBOX_APP_ID


# A rule.


@dataclass(frozen=True)
class Action:
    """One thing that a rule does; `text` is what it says, or the label's name."""

    kind: str
    text: str = ""


@dataclass(frozen=True)
class Rule:
    """A rule as it stood at one version."""

    rule_id: str
    version: int = 1
    page_ids: frozenset[str] = frozenset()
    is_enabled: bool = True
    priority: int = 0
    made_at: float = 0.0
    triggers: frozenset[str] = frozenset({"message"})
    mode: str = "word"
    any: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    once_per_person: bool = False
    cooldown: float = 0.0
    per_day: int = 0
    continues: bool = False

    def is_for(self, page_id: str) -> bool:
        return not self.page_ids or page_id in self.page_ids

    @property
    def rank(self) -> tuple[int, float, str]:
        """The highest priority first, then the older."""
        return -self.priority, self.made_at, self.rule_id


def rule(row: RuleVersionRow) -> Rule:
    """Reads a stored version."""
    said = rule_pb2.Rule.FromString(row.definition)
    text, limits = said.when.text, said.limits
    return Rule(
        row.rule_id,
        row.version,
        frozenset(said.page_ids),
        said.enabled,
        said.priority,
        said.create_time.ToNanoseconds() / 1e9,
        frozenset(_TRIGGERS[trigger] for trigger in said.events),
        _MODES[text.mode],
        tuple(text.any),
        tuple(text.none),
        tuple(_action(action) for action in said.then),
        limits.once_per_person,
        float(limits.cooldown_seconds),
        limits.per_day,
        said.continues,
    )


def _action(action: rule_pb2.Action) -> Action:
    kind = action.WhichOneof("action") or ""
    if kind in ("add_label", "remove_label"):
        return Action(kind, getattr(action, kind).name)
    if kind == "hide_comment":
        return Action(kind)
    content = getattr(action, kind)
    return Action(kind, content.text or content.quick_replies.text)


# What a rule says of an event.


def miss(event: Told, asked: Rule) -> str:
    """Why the rule does not match; empty where it does."""
    if not asked.is_enabled:
        return "disabled"
    if event.trigger not in asked.triggers:
        return "event_kind"
    if not event.is_comment and all(action.kind in COMMENT_ACTIONS for action in asked.actions):
        return "not_a_comment"
    texts = [folded(text) for text in event.texts]
    if any(is_in(text, folded(phrase), asked.mode) for text in texts for phrase in asked.none):
        return "text_excluded"
    if asked.any and not texts:
        return "text_absent"
    if asked.any and not any(
        is_in(text, folded(phrase), asked.mode) for text in texts for phrase in asked.any
    ):
        return "text_no_match"
    return ""


def folded(text: str) -> str:
    """Without case, accents, and more than one space at a time."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return " ".join("".join(c for c in plain if not unicodedata.combining(c)).split())


def is_in(text: str, phrase: str, mode: str) -> bool:
    """Whether the phrase stands in the text in that way; both are folded."""
    match mode:
        case "exact":
            return text == phrase
        case "starts_with":
            return text.startswith(phrase)
        case "ends_with":
            return text.endswith(phrase)
        case "contains":
            return phrase in text
        case _:
            return any(
                text.startswith(phrase, at)
                and not _joined(text, at)
                and not _joined(text, at + len(phrase))
                for at in range(len(text))
            )


def _joined(text: str, at: int) -> bool:
    """Whether the characters beside this place are of one word."""
    return 0 < at < len(text) and all(c.isalnum() or c == "_" for c in text[at - 1 : at + 1])


# What is sent.


@dataclass(frozen=True)
class Sent:
    """A reply that must stand in the outbox; `action` is its place among the rule's actions."""

    kind: str
    action: int
    to: str | None
    """The person of a message or label, the comment of the rest."""
    text: str = ""


@dataclass(frozen=True)
class Fired:
    """A rule that fires, and the replies that it makes."""

    rule_id: str
    version: int
    sends: tuple[Sent, ...]


@dataclass(frozen=True)
class Expected:
    """What must be decided of an event. None stands in its place where it gets no decision."""

    outcome: str
    reason: str
    fired: tuple[Fired, ...] = ()


def sends(event: Told, fired: Rule) -> tuple[Sent, ...]:
    """The replies that a rule makes of an event; what cannot apply is left out."""
    made = (_send(event, at, action) for at, action in enumerate(fired.actions))
    return tuple(send for send in made if send is not None)


def _unfit(asked: Rule) -> str:
    """Why nothing that the rule does applies: the reason of its first action."""
    kind = asked.actions[0].kind
    if kind in COMMENT_ACTIONS:
        return "not_a_comment"
    return "label_unsupported" if kind in ("add_label", "remove_label") else "person_unknown"


def _send(event: Told, at: int, action: Action) -> Sent | None:
    text = "" if action.kind in WORDLESS else filled(action.text, event.name)
    kind = action.kind
    if kind == "reply":
        kind = "comment_reply" if event.is_comment else "message"
    if kind in COMMENT_ACTIONS:
        return Sent(kind, at, event.comment_id, text) if event.is_comment else None
    if kind in ("add_label", "remove_label"):
        has_labels = event.may_be_written_to and not event.is_instagram
        return Sent(kind, at, event.person_id) if has_labels else None
    return Sent(kind, at, event.person_id, text) if event.may_be_written_to else None


def filled(text: str, name: str) -> str:
    """The text with the person's name in it; of one unknown, its fallback, or nothing."""
    first, *rest = text.split("{")
    for part in rest:
        inside, _, behind = part.partition("}")
        asked, _, fallback = inside.partition("|")
        value = (name if asked == "name" else name.split(" ")[0]) or fallback
        first = first + value + behind if value else first.removesuffix(" ") + behind
    return first.strip()


# Deciding, one after the other.


@dataclass(frozen=True)
class Moment:
    """What the model is told of one decision, of which it says what it must have been.

    `book` are the rules that were asked, at their versions; `at` is when, by the store's clock.
    """

    event: Told
    book: Sequence[Rule]
    at: float
    is_connected: bool = True
    is_removed: bool = False
    """Its message or comment was taken back before."""
    paused_until: float = 0.0
    """A person wrote there by hand."""


@dataclass
class Memory:
    """What limits remember: whom a rule has answered, and when.

    `has_come_to_nothing` says whether the reply of a firing failed or expired: then it counts for
    no limit.
    """

    has_come_to_nothing: ComeToNothing = lambda rule_id, fired_at, now: False
    fired: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def limit(self, event: Told, asked: Rule, at: float) -> str:
        """The limit that keeps the rule from answering; empty where none does."""
        limited = asked.once_per_person or asked.cooldown or asked.per_day
        if limited and event.person_id is None:
            return "person_unknown"
        times = [
            when
            for when in self.fired.get(self._key(event, asked.rule_id), [])
            if not self.has_come_to_nothing(asked.rule_id, when, at)
        ]
        if asked.once_per_person and times:
            return "once_per_person"
        if asked.cooldown and any(at < when + asked.cooldown for when in times):
            return "cooldown"
        if asked.per_day and sum(_day(when) == _day(at) for when in times) >= asked.per_day:
            return "per_day"
        return ""

    def note(self, event: Told, rule_id: str, at: float) -> None:
        self.fired.setdefault(self._key(event, rule_id), []).append(at)

    @staticmethod
    def _key(event: Told, rule_id: str) -> tuple[str, str, str]:
        space = "messaging" if event.may_be_written_to else "commenter"
        return rule_id, space, event.person_id or ""


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def expected(moment: Moment, memory: Memory) -> Expected | None:
    """What must have been decided; notes it in `memory`. None: such an event gets no decision."""
    if moment.event.trigger is None:
        return None
    if bar := _bar(moment):
        return bar
    fired, first = [], ""
    for asked in sorted(moment.book, key=lambda each: each.rank):
        if not asked.is_for(moment.event.page_id) or miss(moment.event, asked):
            continue
        made = sends(moment.event, asked)
        refusal = memory.limit(moment.event, asked, moment.at) if made else _unfit(asked)
        first = first or refusal or "fired"
        if not refusal:
            memory.note(moment.event, asked.rule_id, moment.at)
            fired.append(Fired(asked.rule_id, asked.version, made))
            if not asked.continues:
                break
    if fired:
        return Expected("answered", "fired", tuple(fired))
    return Expected("declined", first or "no_rule_matched")


def _bar(moment: Moment) -> Expected | None:
    """The first reason for which no rule may answer."""
    event = moment.event
    if not moment.is_connected:
        return Expected("declined", "page_disconnected")
    if event.is_standby:
        return Expected("declined", "standby")
    if moment.is_removed:
        return Expected("declined", "message_removed")
    window = COMMENT_WINDOW if event.is_comment else DIRECT_WINDOW
    if event.happened_at is not None and moment.at - event.happened_at > window - MARGIN:
        return Expected("expired", "window_closed")
    if moment.paused_until > moment.at:
        return Expected("declined", "person_active")
    return None
