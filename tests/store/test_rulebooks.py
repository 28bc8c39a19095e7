import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from pagewire.store.v1.rule_book_service_pb2 import (
    CreateRuleRequest,
    DeleteRuleRequest,
    GetRuleBooksRequest,
    GetRuleBooksResponse,
    GetRuleRequest,
    ListRulesRequest,
    RuleBook,
    UpdateRuleRequest,
)
from pagewire.store.v1.rule_book_service_pb2_grpc import (
    RuleBookServiceStub,
    add_RuleBookServiceServicer_to_server,
)
from pagewire.type.v1.event_pb2 import TRIGGER_MESSAGE
from pagewire.type.v1.page_pb2 import (
    PLATFORM_INSTAGRAM,
    PLATFORM_MESSENGER,
    PLATFORM_UNSPECIFIED,
)
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import Action, Rule
from pagewire_runtime.auth import Caller, calling_as
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import rulebooks
from pagewire_store.database import Pools, in_transaction
from pagewire_store.page_tokens import ANSWER_BYTES
from pagewire_store.rule_book_servicer import RuleBookServicer
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import TOKENS, Rows, channel_to, pools, rows

if TYPE_CHECKING:
    from pagewire.store.v1.rule_book_service_pb2_grpc import RuleBookServiceAsyncStub

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]


@pytest.fixture
async def service(pools: Pools, rows: Rows) -> "AsyncIterator[RuleBookServiceAsyncStub]":
    await rows.add_page("1")
    await rows.add_page("2")
    await rows.add_page("3", connected=False, token=None)
    servicer = RuleBookServicer(pools.general, TOKENS)
    async with channel_to(
        lambda server: add_RuleBookServiceServicer_to_server(servicer, server), "rules"
    ) as channel:
        yield RuleBookServiceStub(channel)


def rule(name: str = "price", *page_ids: str, **fields: Any) -> Rule:
    values: dict[str, Any] = {
        "enabled": True,
        "events": [TRIGGER_MESSAGE],
        "then": [Action(reply=ReplyContent(text="10 euro"))],
    }
    return Rule(name=name, page_ids=page_ids, **(values | fields))


async def create(service: "RuleBookServiceAsyncStub", *args: Any, **fields: Any) -> Rule:
    return (await service.CreateRule(CreateRuleRequest(rule=rule(*args, **fields)))).rule


async def book(service: "RuleBookServiceAsyncStub", page_id: str = "1") -> RuleBook:
    (found,) = (await service.GetRuleBooks(GetRuleBooksRequest(page_ids=[page_id]))).books
    return found


def names(book: RuleBook) -> list[str]:
    return [rule.name for rule in book.rules]


async def test_a_rule_is_kept_as_it_was_written_with_an_id_and_a_version(
    service: "RuleBookServiceAsyncStub",
) -> None:
    made = await create(service, "price", "1", rule_id="mine", version=99, priority=-3)

    again = (await service.GetRule(GetRuleRequest(rule_id=made.rule_id))).rule
    assert again == made
    assert made.rule_id.startswith("rule-")
    assert (made.version, made.name, made.priority, list(made.page_ids)) == (1, "price", -3, ["1"])
    assert made.then[0].reply.text == "10 euro"
    assert made.create_time == made.update_time


async def test_a_rule_stands_in_the_books_of_its_pages_only(
    service: "RuleBookServiceAsyncStub",
) -> None:
    await create(service, "of one", "1")
    await create(service, "of all")

    assert names(await book(service, "1")) == ["of one", "of all"]
    assert names(await book(service, "2")) == ["of all"]


async def test_a_books_version_rises_with_writes_to_it_and_not_with_others(
    service: "RuleBookServiceAsyncStub",
) -> None:
    before_one, before_two = await book(service, "1"), await book(service, "2")

    await create(service, "a", "1")

    assert (await book(service, "1")).version > before_one.version
    assert (await book(service, "2")).version == before_two.version


async def test_a_rule_for_every_page_renews_every_book(
    service: "RuleBookServiceAsyncStub",
) -> None:
    await create(service, "a", "1")
    before = {page_id: (await book(service, page_id)).version for page_id in ("1", "2")}

    await create(service, "b")

    for page_id, version in before.items():
        assert (await book(service, page_id)).version > version


async def test_moving_a_rule_renews_the_book_that_it_leaves_and_the_one_that_it_enters(
    service: "RuleBookServiceAsyncStub",
) -> None:
    made = await create(service, "a", "1")
    before = {page_id: (await book(service, page_id)).version for page_id in ("1", "2")}
    made.page_ids[:] = ["2"]

    moved = (await service.UpdateRule(UpdateRuleRequest(rule=made, expected_version=1))).rule

    one, two = await book(service, "1"), await book(service, "2")
    assert moved.version == 2
    assert (names(one), names(two)) == ([], ["a"])
    assert one.version > before["1"]
    assert two.version > before["2"]


async def test_a_deleted_rule_leaves_its_book_and_cannot_be_had(
    service: "RuleBookServiceAsyncStub", rows: Rows
) -> None:
    made = await create(service, "a", "1")
    before = await book(service)

    await service.DeleteRule(DeleteRuleRequest(rule_id=made.rule_id))

    after = await book(service)
    assert names(after) == []
    assert after.version > before.version
    for call in (
        service.GetRule(GetRuleRequest(rule_id=made.rule_id)),
        service.DeleteRule(DeleteRuleRequest(rule_id=made.rule_id)),
        service.UpdateRule(UpdateRuleRequest(rule=made)),
    ):
        with pytest.raises(Refusal) as refused:
            await call
        assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "RULE_UNKNOWN")


@pytest.mark.parametrize("rule_id", ["", "rule-", "x", "rule-0000000000000000", "rule-\0"])
async def test_a_rule_that_does_not_exist_is_unknown(
    service: "RuleBookServiceAsyncStub", rule_id: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await service.GetRule(GetRuleRequest(rule_id=rule_id))

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "RULE_UNKNOWN")


async def test_a_change_of_a_rule_that_has_changed_since_is_refused(
    service: "RuleBookServiceAsyncStub",
) -> None:
    made = await create(service, "a", "1")
    made.name = "b"
    await service.UpdateRule(UpdateRuleRequest(rule=made, expected_version=1))
    before = await book(service)
    made.name = "c"

    with pytest.raises(Refusal) as refused:
        await service.UpdateRule(UpdateRuleRequest(rule=made, expected_version=1))

    assert (refused.value.kind, refused.value.reason) == (Kind.FENCED, "RULE_CHANGED")
    assert await book(service) == before


@pytest.mark.parametrize("page_id", ["3", "4"])
async def test_a_rule_cannot_name_a_page_that_is_not_connected(
    service: "RuleBookServiceAsyncStub", rows: Rows, page_id: str
) -> None:
    made = await create(service, "a", "1")
    made.page_ids.append(page_id)

    for call in (
        service.CreateRule(CreateRuleRequest(rule=rule("b", "1", page_id))),
        service.UpdateRule(UpdateRuleRequest(rule=made)),
    ):
        with pytest.raises(Refusal) as refused:
            await call
        assert (refused.value.kind, refused.value.reason) == (Kind.STATE, "PAGE_UNKNOWN")
        assert refused.value.metadata["page_id"] == page_id
    assert len(await rows.query("select 1 from rule")) == 1


async def test_a_rule_of_a_page_disconnected_since_can_still_be_changed(
    service: "RuleBookServiceAsyncStub", rows: Rows
) -> None:
    made = await create(service, "a", "1")
    await rows.query("update page set connected = false where page_id = '1'")
    made.enabled = False

    changed = (await service.UpdateRule(UpdateRuleRequest(rule=made))).rule

    assert not changed.enabled
    assert list(changed.page_ids) == ["1"]


async def test_every_version_of_a_rule_is_kept_with_who_wrote_it(
    service: "RuleBookServiceAsyncStub", rows: Rows
) -> None:
    with calling_as(Caller(role="", actor="ops@example.org")):
        made = await create(service, "a", "1")
        made.name = "b"
        await service.UpdateRule(UpdateRuleRequest(rule=made))
    await service.DeleteRule(DeleteRuleRequest(rule_id=made.rule_id))

    kept = await rows.query(
        "select version, definition, deleted, actor from rule_version order by version"
    )
    assert [(row.version, row.deleted, row.actor) for row in kept] == [
        (1, False, "ops@example.org"),
        (2, False, "ops@example.org"),
        (3, True, "rules"),
    ]
    assert [Rule.FromString(row.definition).name for row in kept] == ["a", "b", "b"]


async def test_a_book_is_ordered_by_priority_and_then_the_older_first(
    service: "RuleBookServiceAsyncStub",
) -> None:
    await create(service, "low", "1", priority=-1)
    await create(service, "older", "1")
    await create(service, "newer")
    await create(service, "high", priority=5)
    await create(service, "off", "1", enabled=False, priority=9)

    assert names(await book(service)) == ["off", "high", "older", "newer", "low"]


async def test_books_come_in_the_order_asked_for_and_say_which_pages_are_connected(
    service: "RuleBookServiceAsyncStub",
) -> None:
    await create(service, "a")

    asked = ["2", "9", "3", "1"]
    answer = await service.GetRuleBooks(GetRuleBooksRequest(page_ids=asked))

    assert [book.page_id for book in answer.books] == asked
    assert [book.connected for book in answer.books] == [True, False, False, True]
    assert [names(book) for book in answer.books] == [["a"]] * 4


async def test_a_book_names_its_pages_product(
    service: "RuleBookServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("5", platform="instagram", login="instagram")

    answer = await service.GetRuleBooks(GetRuleBooksRequest(page_ids=["1", "5", "9"]))

    assert [book.platform for book in answer.books] == [
        PLATFORM_MESSENGER,
        PLATFORM_INSTAGRAM,
        PLATFORM_UNSPECIFIED,
    ]


def large(name: str, *page_ids: str) -> Rule:
    """A rule of a mebibyte, which may have up to three."""
    made = rule(name, *page_ids)
    made.when.text.any.extend(f"{number:04}" + "é" * 262 for number in range(1986))
    return made


async def parts(
    service: "RuleBookServiceAsyncStub", *page_ids: str
) -> AsyncIterator[GetRuleBooksResponse]:
    request = GetRuleBooksRequest(page_ids=page_ids)
    while True:
        part = await service.GetRuleBooks(request)
        yield part
        request.page_token = part.next_page_token
        if not request.page_token:
            return


async def test_books_too_large_for_one_answer_come_in_parts_none_of_them_larger_than_one(
    service: "RuleBookServiceAsyncStub",
) -> None:
    for number in range(4):
        await service.CreateRule(CreateRuleRequest(rule=large(f"of one {number}", "1")))
    await service.CreateRule(CreateRuleRequest(rule=large("of all")))
    await create(service, "small", "2")

    answers = [part async for part in parts(service, "1", "2")]

    told = [[(book.page_id, names(book)) for book in part.books] for part in answers]
    assert told == [
        [("1", ["of one 0", "of one 1", "of one 2"])],
        [("1", ["of one 3", "of all"]), ("2", ["of all", "small"])],
    ]
    assert all(part.ByteSize() <= ANSWER_BYTES for part in answers)
    assert (
        len({book.version for part in answers for book in part.books if book.page_id == "1"}) == 1
    )


async def test_a_book_that_changes_between_its_parts_begins_anew(
    service: "RuleBookServiceAsyncStub",
) -> None:
    for number in range(5):
        await service.CreateRule(CreateRuleRequest(rule=large(f"r{number}", "1")))
    walk = parts(service, "1")
    first = await anext(walk)
    await create(service, "first of all", "1", priority=9)

    second = await anext(walk)

    assert names(first.books[0]) == ["r0", "r1", "r2"]
    assert names(second.books[0]) == ["first of all", "r0", "r1", "r2"]
    assert second.books[0].version > first.books[0].version
    assert [names(part.books[0]) async for part in walk] == [["r3", "r4"]]


async def test_the_place_in_the_books_of_some_pages_is_none_in_those_of_others(
    service: "RuleBookServiceAsyncStub",
) -> None:
    for number in range(5):
        await service.CreateRule(CreateRuleRequest(rule=large(f"r{number}")))
    first = await anext(parts(service, "1"))

    with pytest.raises(Refusal) as refused:
        await service.GetRuleBooks(
            GetRuleBooksRequest(page_ids=["2"], page_token=first.next_page_token)
        )

    assert refused.value.kind is Kind.INVALID


async def test_a_book_is_of_one_moment(pools: Pools, service: "RuleBookServiceAsyncStub") -> None:
    await create(service, "a", "1")
    started, written = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        await started.wait()
        await create(service, "b", "1")
        written.set()

    writer = asyncio.create_task(write())
    async with pools.general.begin() as connection:
        (first,), _ = await rulebooks.books(connection, ["1"])
        started.set()
        await written.wait()
        isolation = await connection.exec_driver_sql("show transaction_isolation")
        rules = await connection.exec_driver_sql("select count(*) from rule")

        assert isolation.scalar_one() == "repeatable read"
        assert rules.scalar_one() == len(first.rules) == 1
    await writer


async def test_versions_are_in_the_order_of_commits_however_many_write(
    service: "RuleBookServiceAsyncStub",
) -> None:
    seen: list[tuple[int, int]] = []
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            now = await book(service)
            seen.append((now.version, len(now.rules)))

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(create(service, f"r{number}", "1") for number in range(10)))
    done.set()
    await watching

    assert seen == sorted(seen)
    assert len({version for version, _ in seen}) == len({count for _, count in seen})
    assert len((await book(service)).rules) == 10


async def test_a_create_that_is_repeated_makes_one_rule(
    pools: Pools, service: "RuleBookServiceAsyncStub"
) -> None:
    named = rule("a", "1", rule_id="rule-0123456789abcdef")

    first = await in_transaction(
        pools.general, lambda connection: rulebooks.create(connection, named)
    )
    again = await in_transaction(
        pools.general, lambda connection: rulebooks.create(connection, named)
    )

    assert again == first
    assert names(await book(service)) == ["a"]


async def test_rules_are_listed_part_by_part_by_priority(
    service: "RuleBookServiceAsyncStub",
) -> None:
    for number in range(7):
        await create(service, f"r{number}", *(["2"] if number == 3 else []), priority=number % 2)

    seen, token = [], ""
    while True:
        request = ListRulesRequest(page_id="1", page_size=2, page_token=token)
        part = await service.ListRules(request)
        seen.append([rule.name for rule in part.rules])
        token = part.next_page_token
        if not token:
            break

    assert seen == [["r1", "r5"], ["r0", "r2"], ["r4", "r6"]]


async def test_all_rules_are_listed_where_no_page_is_named(
    service: "RuleBookServiceAsyncStub",
) -> None:
    await create(service, "a", "1")
    await create(service, "b", "2")

    assert [rule.name for rule in (await service.ListRules(ListRulesRequest())).rules] == ["a", "b"]
