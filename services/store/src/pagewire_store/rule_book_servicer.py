"""RuleBookService: rules and their books, for the rules service."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from pagewire.store.v1.rule_book_service_pb2 import (
    CreateRuleRequest,
    CreateRuleResponse,
    DeleteRuleRequest,
    DeleteRuleResponse,
    GetRuleBooksRequest,
    GetRuleBooksResponse,
    GetRuleRequest,
    GetRuleResponse,
    ListRulesRequest,
    ListRulesResponse,
    UpdateRuleRequest,
    UpdateRuleResponse,
)
from pagewire.store.v1.rule_book_service_pb2_grpc import RuleBookServiceServicer
from pagewire.type.v1.rule_pb2 import Rule
from pagewire_runtime.interception import Context
from pagewire_store import ids, rulebooks
from pagewire_store.database import in_transaction
from pagewire_store.page_tokens import PageTokens, page_size
from pagewire_store.rulebooks import START, Place


class RuleBookServicer(RuleBookServiceServicer):
    """Writes and reads of rules that the rules service has checked."""

    def __init__(self, engine: AsyncEngine, tokens: PageTokens) -> None:
        self._engine = engine
        self._tokens = tokens

    async def CreateRule(self, request: CreateRuleRequest, context: Context) -> CreateRuleResponse:
        # Named before the transaction: where nobody knows whether a commit came through, the repeat
        # finds the rule by its name and makes no second one.
        named = Rule()
        named.CopyFrom(request.rule)
        named.rule_id = ids.new_rule_id()
        rule = await in_transaction(
            self._engine, lambda connection: rulebooks.create(connection, named)
        )
        return CreateRuleResponse(rule=rule)

    async def UpdateRule(self, request: UpdateRuleRequest, context: Context) -> UpdateRuleResponse:
        rule = await in_transaction(
            self._engine,
            lambda connection: rulebooks.update(connection, request.rule, request.expected_version),
        )
        return UpdateRuleResponse(rule=rule)

    async def DeleteRule(self, request: DeleteRuleRequest, context: Context) -> DeleteRuleResponse:
        await in_transaction(
            self._engine, lambda connection: rulebooks.delete(connection, request.rule_id)
        )
        return DeleteRuleResponse()

    async def GetRule(self, request: GetRuleRequest, context: Context) -> GetRuleResponse:
        rule = await in_transaction(
            self._engine, lambda connection: rulebooks.get(connection, request.rule_id)
        )
        return GetRuleResponse(rule=rule)

    async def ListRules(self, request: ListRulesRequest, context: Context) -> ListRulesResponse:
        size, after = page_size(request), self._tokens.read(request)
        found = await in_transaction(
            self._engine,
            lambda connection: rulebooks.list_rules(connection, request.page_id, after, size + 1),
        )
        part, more = self._tokens.part(request, found, size, rulebooks.position_of)
        return ListRulesResponse(rules=part, next_page_token=more)

    async def GetRuleBooks(
        self, request: GetRuleBooksRequest, context: Context
    ) -> GetRuleBooksResponse:
        after = self._tokens.read(request)
        place = Place(*map(int, after)) if after is not None else START
        books, rest = await in_transaction(
            self._engine, lambda connection: rulebooks.books(connection, request.page_ids, place)
        )
        more = self._tokens.write(request, rest) if rest is not None else ""
        return GetRuleBooksResponse(books=books, next_page_token=more)
