"""The rules service has a page's whole book from the store, however large it is."""

from pagewire.store.v1.rule_book_service_pb2 import CreateRuleRequest
from pagewire.store.v1.rule_book_service_pb2_grpc import (
    RuleBookServiceStub,
    add_RuleBookServiceServicer_to_server,
)
from pagewire.type.v1.event_pb2 import TRIGGER_MESSAGE
from pagewire.type.v1.page_pb2 import PLATFORM_INSTAGRAM
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import Action, Condition, Rule, TextCondition
from pagewire_rules import validation
from pagewire_rules.books import Books, StoreShelf
from pagewire_runtime.calling import MAX_MESSAGE_BYTES
from pagewire_store.database import Pools
from pagewire_store.rule_book_servicer import RuleBookServicer
from tests.support.stored import TOKENS, Rows, channel_to


def largest(number: int) -> Rule:
    """As many phrases as a rule may have, as long as they may be."""
    phrases = [
        f"{each:04}" + "価" * (validation.PHRASE_LENGTH - 4) for each in range(validation.PHRASES)
    ]
    made = Rule(
        name=f"rule {number}",
        enabled=True,
        events=[TRIGGER_MESSAGE],
        when=Condition(text=TextCondition(any=phrases, none=phrases)),
        then=[Action(reply=ReplyContent(text="10 euro"))],
    )
    validation.check(made)
    return made


async def test_a_book_larger_than_a_message_arrives_whole(pools: Pools, rows: Rows) -> None:
    await rows.add_page("1", platform="instagram", login="instagram")
    await rows.add_page("2")
    servicer = RuleBookServicer(pools.general, TOKENS)
    async with channel_to(
        lambda server: add_RuleBookServiceServicer_to_server(servicer, server), "rules"
    ) as channel:
        store = RuleBookServiceStub(channel)
        for number in range(5):
            await store.CreateRule(CreateRuleRequest(rule=largest(number)))

        books = await Books(StoreShelf(store)).at_least({"1": 1, "2": 1})

    assert sum(rule.ByteSize() for rule in books["1"].rules) > MAX_MESSAGE_BYTES
    assert [rule.name for rule in books["1"].rules] == [f"rule {number}" for number in range(5)]
    assert books["2"].rules == books["1"].rules
    assert books["1"].platform == PLATFORM_INSTAGRAM
