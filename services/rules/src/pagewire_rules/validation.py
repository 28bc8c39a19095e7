"""Validation: which rules may be saved; one that could never do what it says is refused."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pagewire.type.v1.event_pb2 import Trigger
from pagewire.type.v1.reply_pb2 import MediaType, ReplyContent
from pagewire.type.v1.rule_pb2 import Action, Condition, Limits, Rule, TextCondition, TextMode
from pagewire_rules import templates
from pagewire_rules.folding import fold
from pagewire_runtime.errors import InvalidArgument

PAGE_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
COMMENT_ACTIONS = ("private_reply", "comment_reply", "hide_comment")

NAME_LENGTH = 200
PAGES = 1_000
PHRASES = 500
PHRASE_LENGTH = 500
ACTIONS = 10
TEXT_LENGTH = 2_000  # Messenger's limit (Send API page); Instagram's is checked before the send.
QUICK_REPLIES = 13  # Meta's limit, quick replies page.
QUICK_REPLY_TITLE = 20
PAYLOAD_LENGTH = 1_000
LABEL_LENGTH = 100
PRIORITY = 1_000_000
COOLDOWN_SECONDS = 366 * 86_400
PER_DAY = 1_000


class RuleInvalid(InvalidArgument):
    """A rule cannot be saved as it is."""

    reason = "RULE_INVALID"


def check(rule: Rule) -> None:
    """Raise RuleInvalid for the first field that is wrong, with what to write instead."""
    for field, why in _wrong(rule):
        raise RuleInvalid(field, why)


def _wrong(rule: Rule) -> Iterator[tuple[str, str]]:
    if not 1 <= len(rule.name.strip()) <= NAME_LENGTH:
        yield "name", f"must have 1 to {NAME_LENGTH} characters"
    if len(rule.page_ids) > PAGES:
        yield "page_ids", f"must name at most {PAGES} pages; leave it empty for every page"
    if len(set(rule.page_ids)) < len(rule.page_ids):
        yield "page_ids", "names a page twice"
    for nth, page_id in enumerate(rule.page_ids):
        if not PAGE_ID.fullmatch(page_id):
            yield f"page_ids[{nth}]", "is not a page's id"
    if abs(rule.priority) > PRIORITY:
        yield "priority", f"must lie between -{PRIORITY} and {PRIORITY}"
    yield from _wrong_events(rule)
    yield from _wrong_condition(rule.when)
    yield from _wrong_actions(rule)
    yield from _wrong_limits(rule.limits)


def _wrong_events(rule: Rule) -> Iterator[tuple[str, str]]:
    if not rule.events:
        yield "events", "must name at least one of " + ", ".join(sorted(trigger_names()))
    for nth, trigger in enumerate(rule.events):
        if trigger not in trigger_names().values():
            yield f"events[{nth}]", "must be one of " + ", ".join(sorted(trigger_names()))
    if len(set(rule.events)) < len(rule.events):
        yield "events", "names one twice"


def trigger_names() -> dict[str, Trigger.ValueType]:
    """What a rule can name, as people write it: message, comment, …"""
    return {
        name.removeprefix("TRIGGER_").lower(): value for name, value in Trigger.items() if value
    }


def _wrong_condition(when: Condition) -> Iterator[tuple[str, str]]:
    if not when.HasField("text"):
        yield (
            "when",
            'must say something: {"text": {"any": ["price"]}}, or {"text": {}} for any event',
        )
        return
    yield from _wrong_text(when.text)


def _wrong_text(text: TextCondition) -> Iterator[tuple[str, str]]:
    if text.mode == TextMode.TEXT_MODE_REGEX:
        yield (
            "when.text.mode",
            "regex is not offered yet; use word, contains, exact, starts_with or ends_with",
        )
    elif text.mode not in TextMode.values():
        yield "when.text.mode", "must be word, contains, exact, starts_with or ends_with"
    for name, phrases in (("any", text.any), ("none", text.none)):
        if len(phrases) > PHRASES:
            yield f"when.text.{name}", f"must hold at most {PHRASES} phrases"
        for nth, phrase in enumerate(phrases):
            if len(phrase) > PHRASE_LENGTH:
                yield f"when.text.{name}[{nth}]", f"must have at most {PHRASE_LENGTH} characters"
            elif not fold(phrase).text:
                yield f"when.text.{name}[{nth}]", "is blank"


def _wrong_actions(rule: Rule) -> Iterator[tuple[str, str]]:
    if not 1 <= len(rule.then) <= ACTIONS:
        yield "then", f"must hold 1 to {ACTIONS} actions"
    kinds = [action.WhichOneof("action") for action in rule.then]
    if kinds.count("private_reply") > 1:
        yield "then", "Meta allows one private reply to a comment"
    for nth, (action, kind) in enumerate(zip(rule.then, kinds, strict=True)):
        field = f"then[{nth}]"
        if kind is None:
            yield (
                field,
                "must be reply, private_reply, comment_reply, hide_comment, add_label"
                " or remove_label",
            )
        elif kind in COMMENT_ACTIONS and Trigger.TRIGGER_COMMENT not in rule.events:
            yield f"{field}.{kind}", "needs the event comment"
        else:
            yield from _wrong_action(f"{field}.{kind}", kind, action)


def _wrong_action(field: str, kind: str, action: Action) -> Iterator[tuple[str, str]]:
    if kind in ("add_label", "remove_label"):
        if not 1 <= len(getattr(action, kind).name.strip()) <= LABEL_LENGTH:
            yield f"{field}.name", f"must have 1 to {LABEL_LENGTH} characters"
    elif kind in ("reply", "private_reply", "comment_reply"):
        content: ReplyContent = getattr(action, kind)
        if kind == "comment_reply" and content.WhichOneof("content") != "text":
            yield field, "must be a text"
        else:
            yield from _wrong_content(field, content)


def _wrong_content(field: str, content: ReplyContent) -> Iterator[tuple[str, str]]:
    match content.WhichOneof("content"):
        case "text":
            yield from _wrong_reply_text(f"{field}.text", content.text)
        case "media":
            if content.media.type not in MediaType.values() or not content.media.type:
                yield f"{field}.media.type", "must be image, video, audio or file"
            if not _is_public_https(content.media.url):
                yield f"{field}.media.url", "must be an https address that Meta can reach"
        case "quick_replies":
            yield from _wrong_reply_text(f"{field}.quick_replies.text", content.quick_replies.text)
            replies = content.quick_replies.quick_replies
            if not 1 <= len(replies) <= QUICK_REPLIES:
                yield f"{field}.quick_replies", f"must hold 1 to {QUICK_REPLIES}"
            for nth, reply in enumerate(replies):
                if not 1 <= len(reply.title) <= QUICK_REPLY_TITLE:
                    yield (
                        f"{field}.quick_replies[{nth}].title",
                        f"must have 1 to {QUICK_REPLY_TITLE} characters",
                    )
                if not 1 <= len(reply.payload) <= PAYLOAD_LENGTH:
                    yield (
                        f"{field}.quick_replies[{nth}].payload",
                        f"must have 1 to {PAYLOAD_LENGTH} characters",
                    )
        case _:
            yield field, "must hold a text, media or quick_replies"


def _wrong_reply_text(field: str, text: str) -> Iterator[tuple[str, str]]:
    if not text.strip() or len(text) > TEXT_LENGTH:
        yield field, f"must have 1 to {TEXT_LENGTH} characters"
    try:
        templates.check(text)
    except templates.TemplateInvalid as error:
        yield field, str(error)


def _is_public_https(url: str) -> bool:
    """Whether Meta may fetch it: https, a host name with a dot, no credentials, no bare address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    named = (
        "." in host
        and not re.fullmatch(r"[0-9.]+|.*:.*", host)
        and not host.endswith((".local", ".internal"))
    )
    return len(url) <= 2_000 and parts.scheme == "https" and named and "@" not in parts.netloc


def _wrong_limits(limits: Limits) -> Iterator[tuple[str, str]]:
    if not 0 <= limits.cooldown_seconds <= COOLDOWN_SECONDS:
        yield "limits.cooldown_seconds", f"must lie between 0 and {COOLDOWN_SECONDS}"
    if not 0 <= limits.per_day <= PER_DAY:
        yield "limits.per_day", f"must lie between 0 and {PER_DAY}"
