"""Rules and the books they form, each write under a version that is newer than every one before.

A page's book is its own rules and those for every page (scope `*`); its version is the newer of the
two scopes' versions. All writes draw from one counter and hold its row until they commit, so that
the order of versions is the order in which they came into force.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.rule_book_service_pb2 import RuleBook
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.rule_pb2 import Rule
from pagewire_runtime.auth import caller
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import ids
from pagewire_store.page_tokens import ANSWER_BYTES, Position

EVERY_PAGE = "*"


class RuleUnknown(Refusal):
    """No rule of this id is in force."""

    kind = Kind.MISSING
    reason = "RULE_UNKNOWN"

    def __init__(self, rule_id: str) -> None:
        super().__init__(f"there is no rule {rule_id}", rule_id=rule_id)


class RuleChanged(Refusal):
    """Somebody has changed the rule since the caller read it."""

    kind = Kind.FENCED
    reason = "RULE_CHANGED"

    def __init__(self, rule_id: str, version: int) -> None:
        super().__init__(
            f"the rule {rule_id} is at version {version}: read it again",
            rule_id=rule_id,
            version=str(version),
        )


class PageOfRuleUnknown(Refusal):
    """A rule names a page that is not connected."""

    kind = Kind.STATE
    reason = "PAGE_UNKNOWN"

    def __init__(self, page_id: str) -> None:
        super().__init__(
            f"no page {page_id} is connected: connect it first, or leave it out", page_id=page_id
        )


class _Turn(NamedTuple):
    """One write's turn: the version that it draws, and the time of its transaction."""

    version: int
    now: datetime


_TAKE_TURN = text("""
    update rule_book set version = version + 1 where page_id = '#'
    returning version, now() as now
""")


async def _take_turn(connection: AsyncConnection) -> _Turn:
    row = (await connection.execute(_TAKE_TURN)).one()
    return _Turn(row.version, row.now)


_GET = text("select definition from rule where rule_id = :rule_id and deleted_at is null")


async def create(connection: AsyncConnection, rule: Rule) -> Rule:
    """The rule as it was written; the same once more where its rule_id was written before.

    Raises PageOfRuleUnknown.
    """
    turn = await _take_turn(connection)
    row = (await connection.execute(_GET, {"rule_id": rule.rule_id})).one_or_none()
    if row is not None:
        return Rule.FromString(row.definition)
    await _require_connected(connection, rule.page_ids)
    made = Rule()
    made.CopyFrom(rule)
    made.version = 1
    made.create_time.FromDatetime(turn.now)
    await _write(connection, made, turn)
    await _touch(connection, turn, _scopes(made))
    return made


async def update(connection: AsyncConnection, rule: Rule, expected_version: int) -> Rule:
    """The rule's next version as it was written; `expected_version` 0 is any.

    Raises RuleUnknown, RuleChanged, and PageOfRuleUnknown for a page that it did not name before:
    one that was disconnected since does not keep a rule from being changed.
    """
    turn = await _take_turn(connection)
    before = await get(connection, rule.rule_id)
    if expected_version not in (0, before.version):
        raise RuleChanged(rule.rule_id, before.version)
    await _require_connected(connection, set(rule.page_ids) - set(before.page_ids))
    after = Rule()
    after.CopyFrom(rule)
    after.version = before.version + 1
    after.create_time.CopyFrom(before.create_time)
    await _write(connection, after, turn)
    await _touch(connection, turn, _scopes(before) | _scopes(after))
    return after


_DELETE = text("""
    with gone as (
        update rule set deleted_at = now(), updated_at = now(), version = version + 1
        where rule_id = :rule_id
        returning rule_id, version, definition
    ), out_of_books as (
        delete from rule_page where rule_id = :rule_id
    )
    insert into rule_version (rule_id, version, definition, deleted, actor, changed_at)
    select rule_id, version, definition, true, :actor, now() from gone
""")


async def delete(connection: AsyncConnection, rule_id: str) -> None:
    """Takes the rule out of force; its versions stay. Raises RuleUnknown."""
    turn = await _take_turn(connection)
    before = await get(connection, rule_id)
    await connection.execute(_DELETE, {"rule_id": rule_id, "actor": _actor()})
    await _touch(connection, turn, _scopes(before))


async def get(connection: AsyncConnection, rule_id: str) -> Rule:
    """The rule in force. Raises RuleUnknown."""
    row = None
    if ids.is_rule_id(rule_id):
        row = (await connection.execute(_GET, {"rule_id": rule_id})).one_or_none()
    if row is None:
        raise RuleUnknown(rule_id)
    return Rule.FromString(row.definition)


_LIST = text("""
    select definition from rule
    where deleted_at is null
        and (:page_id = '' or exists (
            select from rule_page
            where rule_page.rule_id = rule.rule_id and rule_page.page_id in (:page_id, '*')))
        and (cast(:priority as int) is null or priority < :priority
            or (priority = :priority
                and (created_at, rule_id) > (cast(:created_at as timestamptz), :rule_id)))
    order by priority desc, created_at, rule_id
    limit :at_most
""")


async def list_rules(
    connection: AsyncConnection, page_id: str, after: Position | None, at_most: int
) -> list[Rule]:
    """Rules by priority, then the older first, behind the position of `position_of`.

    With a page those of its book, else all.
    """
    priority, created_at, rule_id = after or (None, None, None)
    values = {
        "page_id": page_id,
        "priority": priority,
        "created_at": created_at,
        "rule_id": rule_id,
        "at_most": at_most,
    }
    rows = await connection.execute(_LIST, values)
    return [Rule.FromString(row.definition) for row in rows]


def position_of(rule: Rule) -> Position:
    """Where a list goes on behind this rule."""
    return (rule.priority, rule.create_time.ToJsonString(), rule.rule_id)


_SNAPSHOT = text("set transaction isolation level repeatable read, read only")

_VERSIONS = text("select page_id, version from rule_book where page_id = any(:scopes)")

_CONNECTED = text("select page_id from page where page_id = any(:page_ids) and connected")

_PAGES = text("select page_id, platform, connected from page where page_id = any(:page_ids)")

_RULES = text("""
    select rule_page.page_id, rule.definition from rule_page join rule using (rule_id)
    where rule_page.page_id = any(:scopes) and rule.deleted_at is null
    order by rule.priority desc, rule.created_at, rule.rule_id
""")


class Place(NamedTuple):
    """Where the books go on: in that of the nth page, which had a version, behind so many rules."""

    nth: int
    version: int
    rules: int


START = Place(0, 0, 0)


async def books(
    connection: AsyncConnection, page_ids: Sequence[str], place: Place = START
) -> tuple[list[RuleBook], Place | None]:
    """The books of these pages, in their order and as of one moment, as many as one answer carries.

    And the place where the next part goes on; None at the end. A book that is too large for the
    rest of an answer is cut; one that has changed since it was cut begins anew.

    Must be the first to use its transaction: it makes it a snapshot.
    """
    await connection.execute(_SNAPSHOT)
    asked = page_ids[place.nth :]
    scopes = [*asked, EVERY_PAGE]
    rows = await connection.execute(_VERSIONS, {"scopes": scopes})
    versions = {row.page_id: row.version for row in rows}
    pages = {row.page_id: row for row in await connection.execute(_PAGES, {"page_ids": scopes})}
    rules: dict[str, list[Rule]] = {scope: [] for scope in scopes}
    for row in await connection.execute(_RULES, {"scopes": scopes}):
        rules[row.page_id].append(Rule.FromString(row.definition))
    whole = (
        (
            RuleBook(
                page_id=page_id,
                version=max(versions.get(page_id, 0), versions[EVERY_PAGE]),
                connected=page_id in pages and pages[page_id].connected,
                platform=_platform(pages[page_id].platform if page_id in pages else "unspecified"),
            ),
            list(heapq.merge(rules[page_id], rules[EVERY_PAGE], key=_rank)),
        )
        for page_id in asked
    )
    return _part(whole, place)


def _platform(word: str) -> Platform.ValueType:
    return Platform.Value(f"PLATFORM_{word.upper()}")


def _part(
    books: Iterable[tuple[RuleBook, Sequence[Rule]]], place: Place
) -> tuple[list[RuleBook], Place | None]:
    """Of the books from the place on, what one answer carries: one rule at the least."""
    part: list[RuleBook] = []
    size = 0
    for nth, (book, rules) in enumerate(books, place.nth):
        goes_on = nth == place.nth and book.version == place.version
        part.append(book)
        size += book.ByteSize()
        for at in range(place.rules if goes_on else 0, len(rules)):
            size += rules[at].ByteSize()
            if size > ANSWER_BYTES and any(each.rules for each in part):
                return part, Place(nth, book.version, at)
            book.rules.append(rules[at])
    return part, None


def _rank(rule: Rule) -> tuple[int, int, str]:
    return (-rule.priority, rule.create_time.ToNanoseconds(), rule.rule_id)


def _scopes(rule: Rule) -> set[str]:
    """Whose books the rule is in."""
    return set(rule.page_ids) or {EVERY_PAGE}


def _actor() -> str:
    who = caller()
    return who.actor or who.role


async def _require_connected(connection: AsyncConnection, page_ids: Collection[str]) -> None:
    rows = await connection.execute(_CONNECTED, {"page_ids": list(page_ids)})
    missing = set(page_ids) - {row.page_id for row in rows}
    if missing:
        raise PageOfRuleUnknown(min(missing))


_WRITE = text("""
    with written as (
        insert into rule (rule_id, version, definition, priority, created_at, updated_at)
        values (:rule_id, :version, :definition, :priority, :created_at, :now)
        on conflict (rule_id) do update set
            version = excluded.version, definition = excluded.definition,
            priority = excluded.priority, updated_at = excluded.updated_at
    )
    insert into rule_version (rule_id, version, definition, deleted, actor, changed_at)
    values (:rule_id, :version, :definition, false, :actor, :now)
""")

_LEAVE_BOOKS = text("""
    delete from rule_page where rule_id = :rule_id and page_id <> all(:scopes)
""")

_ENTER_BOOKS = text("""
    insert into rule_page (page_id, rule_id)
    select scope, :rule_id from unnest(cast(:scopes as text[])) as scope
    on conflict do nothing
""")


async def _write(connection: AsyncConnection, rule: Rule, turn: _Turn) -> None:
    rule.update_time.FromDatetime(turn.now)
    values = {
        "rule_id": rule.rule_id,
        "version": rule.version,
        "definition": rule.SerializeToString(),
        "priority": rule.priority,
        "created_at": rule.create_time.ToJsonString(),
        "now": turn.now,
        "actor": _actor(),
    }
    await connection.execute(_WRITE, values)
    books = {"rule_id": rule.rule_id, "scopes": sorted(_scopes(rule))}
    await connection.execute(_LEAVE_BOOKS, books)
    await connection.execute(_ENTER_BOOKS, books)


_TOUCH = text("""
    insert into rule_book (page_id, version)
    select scope, :version from unnest(cast(:scopes as text[])) as scope
    on conflict (page_id) do update set version = excluded.version
""")


async def _touch(connection: AsyncConnection, turn: _Turn, scopes: Iterable[str]) -> None:
    """The books of these scopes are new as of this turn."""
    await connection.execute(_TOUCH, {"version": turn.version, "scopes": sorted(scopes)})
