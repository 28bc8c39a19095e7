from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from pagewire.rules.v1 import rule_service_pb2 as pb
from pagewire.rules.v1.rule_service_pb2_grpc import (
    RuleServiceStub,
    add_RuleServiceServicer_to_server,
)
from pagewire.store.v1 import rule_book_service_pb2 as store_pb
from pagewire.store.v1.rule_book_service_pb2_grpc import (
    RuleBookServiceServicer,
    RuleBookServiceStub,
    add_RuleBookServiceServicer_to_server,
)
from pagewire.type.v1.event_pb2 import Event, Trigger
from pagewire.type.v1.page_pb2 import PLATFORM_INSTAGRAM, PLATFORM_MESSENGER
from pagewire.type.v1.rule_pb2 import (
    Action,
    HideAction,
    LabelAction,
    LeftOut,
    Rule,
    RuleVerdict,
    TextMode,
)
from pagewire_rules.access import METHOD_ROLES, SERVICE
from pagewire_rules.books import Books, StoreShelf
from pagewire_rules.servicer import RuleServicer
from pagewire_runtime.auth import parse_service_tokens
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.serving import serving

if TYPE_CHECKING:
    from pagewire.rules.v1.rule_service_pb2_grpc import RuleServiceAsyncStub

PAGE = "104200000000001"
TOKENS = parse_service_tokens(
    ",".join(
        f"{role}:{role}-token-{'x' * 16}" for role in ("operator", "reader", "webhook", "rules")
    )
)


class RuleUnknown(Refusal):
    kind = Kind.MISSING
    reason = "RULE_UNKNOWN"


class RuleChanged(Refusal):
    kind = Kind.FENCED
    reason = "RULE_CHANGED"


class FakeStore(RuleBookServiceServicer):
    """The store's rule books in memory, with its promises: versions, order by rank."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self.version = 0
        self.platform = PLATFORM_MESSENGER

    async def CreateRule(self, request: store_pb.CreateRuleRequest, context: Any) -> Any:
        rule = Rule()
        rule.CopyFrom(request.rule)
        rule.rule_id, rule.version = f"rule-{len(self.rules)}", 1
        return store_pb.CreateRuleResponse(rule=self._kept(rule))

    async def UpdateRule(self, request: store_pb.UpdateRuleRequest, context: Any) -> Any:
        current = self._found(request.rule.rule_id)
        if request.expected_version not in (0, current.version):
            raise RuleChanged("the rule has changed")
        rule = Rule()
        rule.CopyFrom(request.rule)
        rule.version = current.version + 1
        return store_pb.UpdateRuleResponse(rule=self._kept(rule))

    async def DeleteRule(self, request: store_pb.DeleteRuleRequest, context: Any) -> Any:
        self._found(request.rule_id)
        del self.rules[request.rule_id]
        self.version += 1
        return store_pb.DeleteRuleResponse()

    async def GetRule(self, request: store_pb.GetRuleRequest, context: Any) -> Any:
        return store_pb.GetRuleResponse(rule=self._found(request.rule_id))

    async def ListRules(self, request: store_pb.ListRulesRequest, context: Any) -> Any:
        return store_pb.ListRulesResponse(rules=self._ranked())

    async def GetRuleBooks(self, request: store_pb.GetRuleBooksRequest, context: Any) -> Any:
        books = [
            store_pb.RuleBook(
                page_id=page_id,
                version=self.version,
                rules=self._ranked(),
                connected=page_id == PAGE,
                platform=self.platform,
            )
            for page_id in request.page_ids
        ]
        return store_pb.GetRuleBooksResponse(books=books)

    def _kept(self, rule: Rule) -> Rule:
        self.rules[rule.rule_id] = rule
        self.version += 1
        return rule

    def _found(self, rule_id: str) -> Rule:
        if rule_id not in self.rules:
            raise RuleUnknown("no such rule")
        return self.rules[rule_id]

    def _ranked(self) -> list[Rule]:
        return sorted(self.rules.values(), key=lambda rule: -rule.priority)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def address(store: FakeStore) -> AsyncIterator[str]:
    roles = {
        f"/pagewire.store.v1.RuleBookService/{method.name}": frozenset({"rules"})
        for method in store_pb.DESCRIPTOR.services_by_name["RuleBookService"].methods
    }
    register_store = partial(add_RuleBookServiceServicer_to_server, store)
    async with (
        serving("127.0.0.1:0", register_store, tokens=TOKENS, method_roles=roles) as below,
        channel(f"127.0.0.1:{below.port}", token=TOKENS.first("rules")) as to_store,
    ):
        stub = RuleBookServiceStub(to_store)
        servicer = RuleServicer(stub, Books(StoreShelf(stub)))
        register = partial(add_RuleServiceServicer_to_server, servicer)
        async with serving(
            "127.0.0.1:0", register, tokens=TOKENS, method_roles=METHOD_ROLES
        ) as server:
            yield f"127.0.0.1:{server.port}"


@pytest.fixture
async def rules(address: str) -> AsyncIterator["RuleServiceAsyncStub"]:
    async with channel(address, token=TOKENS.first("operator")) as to_rules:
        yield RuleServiceStub(to_rules)


@pytest.fixture
async def evaluator(address: str) -> AsyncIterator["RuleServiceAsyncStub"]:
    async with channel(address, token=TOKENS.first("webhook")) as to_rules:
        yield RuleServiceStub(to_rules)


def rule(phrase: str, *, reply: str = "10 euro", **fields: Any) -> Rule:
    made = Rule(name=phrase, enabled=True, events=[Trigger.TRIGGER_MESSAGE], **fields)
    made.when.text.any.append(phrase)
    made.then.add().reply.text = reply
    return made


def message(text: str, name: str = "") -> pb.EventToEvaluate:
    event = Event(page_id=PAGE, trigger=Trigger.TRIGGER_MESSAGE)
    event.message.text = text
    return pb.EventToEvaluate(event=event, person_name=name)


async def created(rules: "RuleServiceAsyncStub", made: Rule) -> Rule:
    return (await rules.CreateRule(pb.CreateRuleRequest(rule=made))).rule


async def test_a_rule_is_made_with_an_id_and_a_version(rules: "RuleServiceAsyncStub") -> None:
    made = await created(rules, rule("price"))

    assert made.rule_id
    assert made.version == 1
    assert made.when.text.mode == TextMode.TEXT_MODE_WORD


async def test_an_invalid_rule_is_refused_by_field_and_not_kept(
    rules: "RuleServiceAsyncStub", store: FakeStore
) -> None:
    with pytest.raises(Refusal) as refused:
        await created(rules, rule("price", reply="{nobody}"))

    assert refused.value.kind is Kind.INVALID
    assert refused.value.reason == "RULE_INVALID"
    assert refused.value.metadata["field"] == "then[0].reply.text"
    assert store.rules == {}


async def test_an_update_by_mask_changes_only_what_it_names(rules: "RuleServiceAsyncStub") -> None:
    made = await created(rules, rule("price", priority=5))
    change = Rule(rule_id=made.rule_id, enabled=False, priority=99)

    updated = await rules.UpdateRule(
        pb.UpdateRuleRequest(rule=change, update_mask=FieldMask(paths=["enabled"]))
    )

    assert not updated.rule.enabled
    assert updated.rule.priority == 5
    assert updated.rule.version == 2


async def test_a_list_named_by_the_mask_is_replaced(rules: "RuleServiceAsyncStub") -> None:
    made = await created(rules, rule("price"))
    change = Rule(rule_id=made.rule_id, events=[Trigger.TRIGGER_POSTBACK])

    updated = await rules.UpdateRule(
        pb.UpdateRuleRequest(rule=change, update_mask=FieldMask(paths=["events"]))
    )

    assert list(updated.rule.events) == [Trigger.TRIGGER_POSTBACK]


@pytest.mark.parametrize("path", ["rule_id", "version", "create_time", "stats", "when.text.any"])
async def test_a_mask_cannot_name_what_is_not_the_callers(
    rules: "RuleServiceAsyncStub", path: str
) -> None:
    made = await created(rules, rule("price"))

    with pytest.raises(Refusal) as refused:
        await rules.UpdateRule(pb.UpdateRuleRequest(rule=made, update_mask=FieldMask(paths=[path])))

    assert refused.value.kind is Kind.INVALID


async def test_the_stores_refusals_reach_the_caller_as_they_are(
    rules: "RuleServiceAsyncStub",
) -> None:
    with pytest.raises(Refusal) as unknown:
        await rules.GetRule(pb.GetRuleRequest(rule_id="rule-9"))
    made = await created(rules, rule("price"))
    with pytest.raises(Refusal) as changed:
        await rules.UpdateRule(pb.UpdateRuleRequest(rule=made, expected_version=7))

    assert (unknown.value.kind, unknown.value.reason) == (Kind.MISSING, "RULE_UNKNOWN")
    assert (changed.value.kind, changed.value.reason) == (Kind.FENCED, "RULE_CHANGED")


async def test_a_rule_is_in_force_for_the_next_event_once_its_write_was_answered(
    rules: "RuleServiceAsyncStub", evaluator: "RuleServiceAsyncStub", store: FakeStore
) -> None:
    await created(rules, rule("price"))
    event = message("price")
    event.book_version = store.version
    first = await evaluator.EvaluateEvents(pb.EvaluateEventsRequest(events=[event]))
    await created(rules, rule("cost"))
    event = message("cost")
    event.book_version = store.version

    second = await evaluator.EvaluateEvents(pb.EvaluateEventsRequest(events=[event]))

    assert first.evaluations[0].candidates[0].name == "price"
    assert second.evaluations[0].candidates[0].name == "cost"
    assert second.evaluations[0].book_version == store.version


async def test_every_rule_that_matches_is_a_candidate_by_rank_with_its_texts_filled_in(
    rules: "RuleServiceAsyncStub", evaluator: "RuleServiceAsyncStub", store: FakeStore
) -> None:
    await created(rules, rule("price", reply="low", priority=1))
    await created(rules, rule("price", reply="Hi {first_name}", priority=9, continues=True))
    await created(rules, rule("hours", priority=5))
    event = message("the price", "Ana Example")
    event.book_version = store.version

    answer = await evaluator.EvaluateEvents(pb.EvaluateEventsRequest(events=[event]))

    first, second = answer.evaluations[0].candidates
    assert (first.actions[0].reply.text, first.continues) == ("Hi Ana", True)
    assert second.actions[0].reply.text == "low"
    assert [(miss.name, miss.reason) for miss in answer.evaluations[0].misses] == [
        ("hours", "text_no_match")
    ]


async def test_a_candidate_has_all_its_actions_so_that_the_store_can_say_what_it_leaves_out(
    rules: "RuleServiceAsyncStub", evaluator: "RuleServiceAsyncStub", store: FakeStore
) -> None:
    made = rule("price")
    made.events.append(Trigger.TRIGGER_COMMENT)
    made.then.append(Action(hide_comment=HideAction(hidden=True)))
    await created(rules, made)
    comment = pb.EventToEvaluate(event=Event(page_id=PAGE, trigger=Trigger.TRIGGER_COMMENT))
    comment.event.comment.text = "price"
    comment.book_version = store.version

    answer = await evaluator.EvaluateEvents(
        pb.EvaluateEventsRequest(events=[message("price"), comment])
    )

    kinds = [
        [action.WhichOneof("action") for action in evaluation.candidates[0].actions]
        for evaluation in answer.evaluations
    ]
    assert kinds == [["reply", "hide_comment"]] * 2


async def test_a_try_names_every_rule_with_its_reason_and_has_no_effect(
    rules: "RuleServiceAsyncStub", store: FakeStore
) -> None:
    await created(rules, rule("price", priority=9))
    await created(rules, rule("the", priority=5))
    await created(rules, rule("hours", priority=1))
    version = store.version

    answer = await rules.TryRules(
        pb.TryRulesRequest(page_id=PAGE, event=Trigger.TRIGGER_MESSAGE, text="the price")
    )

    def short(verdict: RuleVerdict) -> tuple[str, bool, str]:
        return verdict.name, verdict.fired, verdict.reason

    assert [short(verdict) for verdict in answer.considered] == [
        ("price", True, "fired"),
        ("the", False, "lower_priority"),
        ("hours", False, "text_no_match"),
    ]
    assert (answer.considered[0].span.start, answer.considered[0].span.end) == (4, 9)
    assert [action.reply.text for action in answer.actions] == ["10 euro"]
    assert store.version == version


async def test_a_rule_that_continues_lets_the_next_one_fire_too(
    rules: "RuleServiceAsyncStub",
) -> None:
    await created(rules, rule("price", priority=9, continues=True, reply="one"))
    await created(rules, rule("price", priority=5, reply="two"))
    await created(rules, rule("price", priority=1, reply="three"))

    answer = await rules.TryRules(
        pb.TryRulesRequest(page_id=PAGE, event=Trigger.TRIGGER_MESSAGE, text="price")
    )

    assert [action.reply.text for action in answer.actions] == ["one", "two"]


async def test_on_instagram_a_try_leaves_a_label_out_and_says_so(
    rules: "RuleServiceAsyncStub", store: FakeStore
) -> None:
    store.platform = PLATFORM_INSTAGRAM
    made = rule("price")
    made.then.append(Action(add_label=LabelAction(name="lead")))
    await created(rules, made)

    answer = await rules.TryRules(
        pb.TryRulesRequest(page_id=PAGE, event=Trigger.TRIGGER_MESSAGE, text="price")
    )

    (verdict,) = answer.considered
    assert (verdict.fired, verdict.reason) == (True, "fired")
    assert list(verdict.left_out) == [LeftOut(action="add_label", reason="label_unsupported")]
    assert [action.WhichOneof("action") for action in answer.actions] == ["reply"]


async def test_on_instagram_a_rule_with_labels_alone_does_not_fire_and_the_next_one_does(
    rules: "RuleServiceAsyncStub", store: FakeStore
) -> None:
    store.platform = PLATFORM_INSTAGRAM
    label = rule("price", priority=9)
    del label.then[:]
    label.then.append(Action(add_label=LabelAction(name="lead")))
    await created(rules, label)
    await created(rules, rule("price", priority=5, reply="next"))

    answer = await rules.TryRules(
        pb.TryRulesRequest(page_id=PAGE, event=Trigger.TRIGGER_MESSAGE, text="price")
    )

    assert [(verdict.fired, verdict.reason) for verdict in answer.considered] == [
        (False, "label_unsupported"),
        (True, "fired"),
    ]
    assert [action.reply.text for action in answer.actions] == ["next"]


async def test_on_messenger_a_rule_with_labels_alone_fires(rules: "RuleServiceAsyncStub") -> None:
    label = rule("price")
    del label.then[:]
    label.then.append(Action(add_label=LabelAction(name="lead")))
    await created(rules, label)

    answer = await rules.TryRules(
        pb.TryRulesRequest(page_id=PAGE, event=Trigger.TRIGGER_MESSAGE, text="price")
    )

    assert [verdict.reason for verdict in answer.considered] == ["fired"]


async def test_a_rule_that_was_tried_and_lost_leaves_nothing_out(
    rules: "RuleServiceAsyncStub", store: FakeStore
) -> None:
    store.platform = PLATFORM_INSTAGRAM
    await created(rules, rule("price", priority=9))
    behind = rule("price", priority=5)
    behind.then.append(Action(add_label=LabelAction(name="lead")))
    await created(rules, behind)

    answer = await rules.TryRules(
        pb.TryRulesRequest(page_id=PAGE, event=Trigger.TRIGGER_MESSAGE, text="price")
    )

    assert answer.considered[1].reason == "lower_priority"
    assert list(answer.considered[1].left_out) == []


async def test_a_draft_is_tried_in_the_place_that_its_priority_gives_it(
    rules: "RuleServiceAsyncStub",
) -> None:
    kept = await created(rules, rule("price", priority=5))
    draft = rule("price", priority=5, reply="draft")

    beside = await rules.TryRules(
        pb.TryRulesRequest(page_id=PAGE, event=Trigger.TRIGGER_MESSAGE, text="price", draft=draft)
    )
    draft.rule_id = kept.rule_id
    instead = await rules.TryRules(
        pb.TryRulesRequest(page_id=PAGE, event=Trigger.TRIGGER_MESSAGE, text="price", draft=draft)
    )

    assert [verdict.rule_id for verdict in beside.considered] == [kept.rule_id, ""]
    assert [action.reply.text for action in instead.actions] == ["draft"]


async def test_a_try_on_a_page_that_is_not_connected_is_not_found(
    rules: "RuleServiceAsyncStub",
) -> None:
    with pytest.raises(Refusal) as refused:
        await rules.TryRules(pb.TryRulesRequest(page_id="1", event=Trigger.TRIGGER_MESSAGE))

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PAGE_UNKNOWN")


async def test_backtests_say_that_they_are_not_there_yet(rules: "RuleServiceAsyncStub") -> None:
    with pytest.raises(Refusal) as refused:
        await rules.BacktestRule(pb.BacktestRuleRequest(page_id=PAGE))

    assert refused.value.kind is Kind.UNIMPLEMENTED


def test_every_method_of_the_contract_has_its_roles() -> None:
    methods = pb.DESCRIPTOR.services_by_name["RuleService"].methods

    assert {SERVICE + method.name for method in methods} == set(METHOD_ROLES)


async def test_no_role_may_call_what_it_has_no_business_with(address: str) -> None:
    for role in ("webhook", "reader", "rules"):
        async with channel(address, token=TOKENS.first(role)) as to_rules:
            with pytest.raises(Refusal) as refused:
                await RuleServiceStub(to_rules).CreateRule(pb.CreateRuleRequest(rule=rule("x")))
            assert refused.value.kind is Kind.FORBIDDEN


async def test_whoever_may_read_may_evaluate(address: str) -> None:
    for role in ("webhook", "reader", "operator"):
        async with channel(address, token=TOKENS.first(role)) as to_rules:
            answer = await RuleServiceStub(to_rules).EvaluateEvents(pb.EvaluateEventsRequest())
            assert list(answer.evaluations) == []
