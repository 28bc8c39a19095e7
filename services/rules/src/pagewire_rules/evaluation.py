"""Evaluation: what the rules of a page say of one event. Plain values in, plain values out."""

from collections.abc import Sequence
from dataclasses import dataclass

from pagewire_rules.folding import Folded, fold
from pagewire_rules.matching import Found, TextCondition

MISSES = 50
"""So many rules that did not match are told of with their reasons; a record, not a log."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule may look at: the trigger's name, what the event says, and what it is about.

    `texts` holds the text first, then a button's payload; empty where the event says nothing.
    """

    trigger: str
    texts: tuple[Folded, ...]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule made ready: `position` is its place in the definition that it came from.

    `for_comments_only` holds for a rule of which every action needs a comment.
    """

    position: int
    enabled: bool
    triggers: frozenset[str]
    text: TextCondition | None
    for_comments_only: bool


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that matched, and where its phrase stands."""

    rule: CompiledRule
    found: Found | None


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that did not match: a stable word says why."""

    rule: CompiledRule
    reason: str


def subject(trigger: str, *texts: str) -> Subject:
    """What an event says, folded once for all the rules."""
    return Subject(trigger, tuple(fold(text) for text in texts if text))


def evaluate(event: Subject, rules: Sequence[CompiledRule]) -> tuple[list[Match], list[Miss]]:
    """The rules that match, and those that do not with the reason; both in the book's order."""
    matches: list[Match] = []
    misses: list[Miss] = []
    for rule in rules:
        verdict = examine(event, rule)
        if isinstance(verdict, Match):
            matches.append(verdict)
        else:
            misses.append(verdict)
    return matches, misses


def examine(event: Subject, rule: CompiledRule) -> Match | Miss:
    """What one rule says, with the first reason against it."""
    if not rule.enabled:
        return Miss(rule, "disabled")
    if event.trigger not in rule.triggers:
        return Miss(rule, "event_kind")
    if rule.for_comments_only and event.trigger != "comment":
        return Miss(rule, "not_a_comment")
    if rule.text is None:
        return Match(rule, None)
    result = rule.text.match(event.texts)
    return Match(rule, result.found) if result.holds else Miss(rule, result.reason)
