"""The rules service on the wire."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from pagewire.rules.v1 import rule_service_pb2 as pb
from pagewire.rules.v1.rule_service_pb2_grpc import RuleServiceServicer
from pagewire.store.v1 import rule_book_service_pb2 as store_pb
from pagewire.type.v1.event_pb2 import Trigger
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import (
    Action,
    Candidate,
    Evaluation,
    LeftOut,
    Rule,
    RuleVerdict,
    Span,
    TextMode,
)
from pagewire_rules import templates, validation
from pagewire_rules.applying import left_out
from pagewire_rules.books import Book, Books, compiled_rule
from pagewire_rules.evaluation import MISSES, Match, Miss, evaluate, examine
from pagewire_rules.matching import Found
from pagewire_rules.subjects import subject_of, subject_of_try
from pagewire_runtime import faults
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_runtime.logs import get_logger

if TYPE_CHECKING:
    from pagewire.store.v1.rule_book_service_pb2_grpc import RuleBookServiceAsyncStub

log = get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

CHANGEABLE = (
    "name",
    "page_ids",
    "enabled",
    "priority",
    "events",
    "when",
    "then",
    "limits",
    "continues",
)


class PageUnknown(Refusal):
    """The page is not connected."""

    kind = Kind.MISSING
    reason = "PAGE_UNKNOWN"


class NotYet(Refusal):
    """The contract has it, this release does not."""

    kind = Kind.UNIMPLEMENTED
    reason = "NOT_IMPLEMENTED"


class RuleServicer(RuleServiceServicer):
    """Management passes through to the store once it is checked; evaluation is all in memory."""

    def __init__(self, store: "RuleBookServiceAsyncStub", books: Books) -> None:
        self._store = store
        self._books = books

    async def CreateRule(
        self, request: pb.CreateRuleRequest, context: Context
    ) -> pb.CreateRuleResponse:
        rule = _checked(request.rule)
        response = await self._store.CreateRule(store_pb.CreateRuleRequest(rule=rule))
        return pb.CreateRuleResponse(rule=response.rule)

    async def UpdateRule(
        self, request: pb.UpdateRuleRequest, context: Context
    ) -> pb.UpdateRuleResponse:
        rule, expected = request.rule, request.expected_version
        if request.HasField("update_mask"):
            current = await self._store.GetRule(store_pb.GetRuleRequest(rule_id=rule.rule_id))
            rule = _merged(current.rule, rule, request.update_mask)
            expected = expected or current.rule.version
        stored = await self._store.UpdateRule(
            store_pb.UpdateRuleRequest(rule=_checked(rule), expected_version=expected)
        )
        return pb.UpdateRuleResponse(rule=stored.rule)

    async def GetRule(self, request: pb.GetRuleRequest, context: Context) -> pb.GetRuleResponse:
        response = await self._store.GetRule(store_pb.GetRuleRequest(rule_id=request.rule_id))
        return pb.GetRuleResponse(rule=response.rule)

    async def ListRules(
        self, request: pb.ListRulesRequest, context: Context
    ) -> pb.ListRulesResponse:
        response = await self._store.ListRules(
            store_pb.ListRulesRequest(
                page_id=request.page_id, page_size=request.page_size, page_token=request.page_token
            )
        )
        return pb.ListRulesResponse(rules=response.rules, next_page_token=response.next_page_token)

    async def DeleteRule(
        self, request: pb.DeleteRuleRequest, context: Context
    ) -> pb.DeleteRuleResponse:
        await self._store.DeleteRule(store_pb.DeleteRuleRequest(rule_id=request.rule_id))
        return pb.DeleteRuleResponse()

    async def TryRules(self, request: pb.TryRulesRequest, context: Context) -> pb.TryRulesResponse:
        if request.event not in validation.trigger_names().values():
            raise InvalidArgument(
                "event", "must be one of " + ", ".join(sorted(validation.trigger_names()))
            )
        book = await self._books.latest(request.page_id)
        if not book.connected:
            raise PageUnknown("the page is not connected", page_id=request.page_id)
        return _tried(request, book.platform, _with_draft(book, request))

    async def BacktestRule(
        self, request: pb.BacktestRuleRequest, context: Context
    ) -> pb.BacktestRuleResponse:
        raise NotYet("backtests are not in this release; try a rule with TryRules")

    async def EvaluateEvents(
        self, request: pb.EvaluateEventsRequest, context: Context
    ) -> pb.EvaluateEventsResponse:
        await faults.reach("rules.evaluate", faults.named(item.event for item in request.events))
        versions: dict[str, int] = {}
        for item in request.events:
            page_id = item.event.page_id
            versions[page_id] = max(versions.get(page_id, 0), item.book_version)
        books = await self._books.at_least(versions)
        evaluations = [_evaluated(item, books[item.event.page_id]) for item in request.events]
        return pb.EvaluateEventsResponse(evaluations=evaluations)


def _checked(rule: Rule) -> Rule:
    validation.check(rule)
    saved = Rule()
    saved.CopyFrom(rule)
    if saved.when.text.mode == TextMode.TEXT_MODE_UNSPECIFIED:
        saved.when.text.mode = TextMode.TEXT_MODE_WORD
    return saved


def _merged(current: Rule, change: Rule, mask: FieldMask) -> Rule:
    for path in mask.paths:
        if path not in CHANGEABLE:
            raise InvalidArgument("update_mask", f"may name only {', '.join(CHANGEABLE)}")
    merged = Rule()
    merged.CopyFrom(current)
    for path in mask.paths:
        merged.ClearField(path)  # type: ignore[arg-type]  # one of CHANGEABLE
    picked = Rule()
    mask.MergeMessage(change, picked)
    merged.MergeFrom(picked)
    return merged


def _evaluated(item: pb.EventToEvaluate, book: Book) -> Evaluation:
    try:
        matches, misses = evaluate(subject_of(item.event), book.compiled)
    except Exception:
        # Pure code failed on this very event: it alone answers for it, its neighbours go on.
        log.exception("an event could not be evaluated", kind=item.event.kind)
        return Evaluation(book_version=book.version, error="evaluation_failed")
    name = item.event.person_name or item.person_name
    return Evaluation(
        candidates=[_candidate(match, book, name) for match in matches],
        misses=[_missed(miss, book.rules[miss.rule.position]) for miss in misses[:MISSES]],
        book_version=book.version,
    )


def _candidate(match: Match, book: Book, name: str) -> Candidate:
    rule = book.rules[match.rule.position]
    return Candidate(
        rule_id=rule.rule_id,
        version=rule.version,
        name=rule.name,
        limits=rule.limits,
        continues=rule.continues,
        actions=[_rendered(action, name) for action in rule.then],
        span=_span(match.found),
    )


def _rendered(action: Action, name: str) -> Action:
    rendered = Action()
    rendered.CopyFrom(action)
    kind = action.WhichOneof("action")
    if kind in ("reply", "private_reply", "comment_reply"):
        content: ReplyContent = getattr(rendered, kind)
        match content.WhichOneof("content"):
            case "text":
                content.text = templates.render(content.text, name)
            case "quick_replies":
                content.quick_replies.text = templates.render(content.quick_replies.text, name)
    return rendered


def _missed(miss: Miss, rule: Rule) -> RuleVerdict:
    return RuleVerdict(
        rule_id=rule.rule_id, version=rule.version, name=rule.name, reason=miss.reason
    )


def _span(found: Found | None) -> Span | None:
    return None if found is None else Span(start=found.start, end=found.end)


def _with_draft(book: Book, request: pb.TryRulesRequest) -> list[Rule]:
    """The page's rules by rank, with the draft in its place where there is one."""
    if not request.HasField("draft"):
        return list(book.rules)
    draft = _checked(request.draft)
    others = [rule for rule in book.rules if not draft.rule_id or rule.rule_id != draft.rule_id]
    ahead = [rule for rule in others if rule.priority >= draft.priority]
    return [*ahead, draft, *others[len(ahead) :]]


def _tried(
    request: pb.TryRulesRequest, platform: Platform.ValueType, rules: Iterable[Rule]
) -> pb.TryRulesResponse:
    event = subject_of_try(request.event, request.text, request.payload)
    response = pb.TryRulesResponse()
    open_to_more = True
    for nth, rule in enumerate(rules):
        verdict = examine(event, compiled_rule(nth, rule))
        considered = response.considered.add(
            rule_id=rule.rule_id, version=rule.version, name=rule.name
        )
        if isinstance(verdict, Miss):
            considered.reason = verdict.reason
        elif open_to_more:
            actions, not_done = _applied(rule, request, platform)
            considered.left_out.extend(not_done)
            response.actions.extend(actions)
            considered.fired = bool(actions)
            considered.reason = "fired" if actions else not_done[0].reason
            open_to_more = rule.continues or not actions
        else:
            considered.reason = "lower_priority"
        if isinstance(verdict, Match) and verdict.found is not None:
            considered.span.CopyFrom(Span(start=verdict.found.start, end=verdict.found.end))
    return response


def _applied(
    rule: Rule, request: pb.TryRulesRequest, platform: Platform.ValueType
) -> tuple[list[Action], list[LeftOut]]:
    """What the rule would do, texts filled in, and what it would leave out."""
    comment = request.event == Trigger.TRIGGER_COMMENT
    actions: list[Action] = []
    not_done: list[LeftOut] = []
    for action in rule.then:
        rendered = _rendered(action, request.person_name)
        why = left_out(rendered, platform, comment=comment)
        if why is None:
            actions.append(rendered)
        else:
            not_done.append(why)
    return actions, not_done
