"""A Pagewire small enough to hold in the hand: what an operator's command calls, in memory.

The servicers stand behind the runtime's own server, with the roles that the real services admit.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from pagewire.rules.v1 import rule_service_pb2 as rules_pb
from pagewire.rules.v1.rule_service_pb2_grpc import (
    RuleServiceServicer,
    add_RuleServiceServicer_to_server,
)
from pagewire.store.v1 import operation_service_pb2 as operations_pb
from pagewire.store.v1 import page_service_pb2 as pages_pb
from pagewire.store.v1.operation_service_pb2_grpc import (
    OperationServiceServicer,
    add_OperationServiceServicer_to_server,
)
from pagewire.store.v1.page_service_pb2_grpc import (
    PageServiceServicer,
    add_PageServiceServicer_to_server,
)
from pagewire.sync.v1 import delivery_service_pb2 as delivery_pb
from pagewire.sync.v1 import history_service_pb2 as history_pb
from pagewire.sync.v1.delivery_service_pb2_grpc import (
    DeliveryServiceServicer,
    add_DeliveryServiceServicer_to_server,
)
from pagewire.sync.v1.history_service_pb2_grpc import (
    HistoryServiceServicer,
    add_HistoryServiceServicer_to_server,
)
from pagewire.type.v1.decision_pb2 import Decision
from pagewire.type.v1.page_pb2 import Page, PageState
from pagewire.type.v1.reply_pb2 import Reply, ReplyState
from pagewire.type.v1.rule_pb2 import Rule
from pagewire.type.v1.sync_run_pb2 import SyncMode, SyncRun, SyncState
from pagewire_rules.access import METHOD_ROLES as RULES_ROLES
from pagewire_runtime.auth import caller, parse_service_tokens
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.serving import serving
from pagewire_store.access import METHOD_ROLES as STORE_ROLES
from pagewire_sync.access import METHOD_ROLES as SYNC_ROLES

OPERATOR_TOKEN = "example-operator-token"
SERVICE_TOKENS = f"webhook:example-webhook-token,operator:{OPERATOR_TOKEN}"

Context = grpc.aio.ServicerContext[Any, Any]


class Unknown(Refusal):
    kind = Kind.MISSING
    reason = "PAGE_UNKNOWN"


class UnknownRun(Refusal):
    kind = Kind.MISSING
    reason = "RUN_UNKNOWN"


class Changed(Refusal):
    kind = Kind.FENCED
    reason = "RULE_CHANGED"


@dataclass
class Pagewire:
    """What it holds, and by whom it was called last; `target` serves all of its services."""

    target: str = ""
    actor: str | None = None
    tokens: dict[str, str] = field(default_factory=dict)
    pages: list[Page] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)  # oldest first
    quarantined: list[operations_pb.Quarantined] = field(default_factory=list)
    body: bytes = b""
    replayed: list[str] | None = None
    parked: list[operations_pb.Parked] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    settled: list[tuple[str, operations_pb.Settlement.ValueType]] = field(default_factory=list)
    status: operations_pb.GetStatusResponse = field(
        default_factory=lambda: operations_pb.GetStatusResponse(database="ok", cache="off")
    )
    tried: rules_pb.TryRulesResponse = field(default_factory=rules_pb.TryRulesResponse)
    sent: list[delivery_pb.SendMessageRequest] = field(default_factory=list)
    reply_states: list[ReplyState.ValueType] = field(default_factory=list)
    started: list[history_pb.StartSyncRequest] = field(default_factory=list)
    course: dict[str, list[SyncRun | Refusal]] = field(default_factory=dict)
    """By page: how a run of it goes, as what changes; a refusal ends a watch. At its end a watch
    that has told of no end stays silent, and calls `silent`."""
    runs: dict[str, SyncRun] = field(default_factory=dict)  # oldest first
    watches: int = 0
    silent: Callable[[], object] = lambda: None


class Pages(PageServiceServicer):
    def __init__(self, held: Pagewire) -> None:
        self._held = held

    async def ConnectPage(
        self, request: pages_pb.ConnectPageRequest, context: Context
    ) -> pages_pb.ConnectPageResponse:
        held, page = self._held, request.page
        held.actor = caller().actor
        known = page.page_id in held.tokens
        held.tokens[page.page_id] = request.access_token
        page.state = PageState.PAGE_STATE_DEGRADED
        page.state_reason = "not_checked"
        held.pages = [page, *(one for one in held.pages if one.page_id != page.page_id)]
        return pages_pb.ConnectPageResponse(page=page, created=not known)

    async def ListPages(
        self, request: pages_pb.ListPagesRequest, context: Context
    ) -> pages_pb.ListPagesResponse:
        begin = int(request.page_token or 0)
        end = begin + min(request.page_size, 2)  # as a store with little room would
        more = str(end) if end < len(self._held.pages) else ""
        return pages_pb.ListPagesResponse(pages=self._held.pages[begin:end], next_page_token=more)

    async def DisconnectPage(
        self, request: pages_pb.DisconnectPageRequest, context: Context
    ) -> pages_pb.DisconnectPageResponse:
        if request.page_id not in {page.page_id for page in self._held.pages}:
            raise Unknown("the page is not connected", page_id=request.page_id)
        self._held.pages = [one for one in self._held.pages if one.page_id != request.page_id]
        return pages_pb.DisconnectPageResponse()


class Rules(RuleServiceServicer):
    def __init__(self, held: Pagewire) -> None:
        self._held = held

    async def ListRules(
        self, request: rules_pb.ListRulesRequest, context: Context
    ) -> rules_pb.ListRulesResponse:
        return rules_pb.ListRulesResponse(rules=self._held.rules)

    async def CreateRule(
        self, request: rules_pb.CreateRuleRequest, context: Context
    ) -> rules_pb.CreateRuleResponse:
        rule = request.rule
        rule.rule_id, rule.version = f"rule-{len(self._held.rules) + 1}", 1
        self._held.rules.append(rule)
        return rules_pb.CreateRuleResponse(rule=rule)

    async def UpdateRule(
        self, request: rules_pb.UpdateRuleRequest, context: Context
    ) -> rules_pb.UpdateRuleResponse:
        (at,) = (n for n, one in enumerate(self._held.rules) if one.rule_id == request.rule.rule_id)
        if request.expected_version != self._held.rules[at].version:
            raise Changed("the rule was changed meanwhile")
        request.rule.version = request.expected_version + 1
        self._held.rules[at] = request.rule
        return rules_pb.UpdateRuleResponse(rule=request.rule)

    async def DeleteRule(
        self, request: rules_pb.DeleteRuleRequest, context: Context
    ) -> rules_pb.DeleteRuleResponse:
        self._held.rules = [one for one in self._held.rules if one.rule_id != request.rule_id]
        return rules_pb.DeleteRuleResponse()

    async def TryRules(
        self, request: rules_pb.TryRulesRequest, context: Context
    ) -> rules_pb.TryRulesResponse:
        if request.page_id not in {page.page_id for page in self._held.pages}:
            raise Unknown("the page is not connected", page_id=request.page_id)
        return self._held.tried


class Operations(OperationServiceServicer):
    def __init__(self, held: Pagewire) -> None:
        self._held = held

    async def ListDecisions(
        self, request: operations_pb.ListDecisionsRequest, context: Context
    ) -> operations_pb.ListDecisionsResponse:
        ids = [one.event_id for one in self._held.decisions]
        after = ids.index(request.after_event_id) + 1 if request.after_event_id else 0
        found = self._held.decisions[after:][::-1][: request.page_size]
        return operations_pb.ListDecisionsResponse(decisions=found)

    async def ListQuarantined(
        self, request: operations_pb.ListQuarantinedRequest, context: Context
    ) -> operations_pb.ListQuarantinedResponse:
        return operations_pb.ListQuarantinedResponse(quarantined=self._held.quarantined)

    async def GetQuarantined(
        self, request: operations_pb.GetQuarantinedRequest, context: Context
    ) -> operations_pb.GetQuarantinedResponse:
        (one,) = (o for o in self._held.quarantined if o.quarantine_id == request.quarantine_id)
        return operations_pb.GetQuarantinedResponse(quarantined=one, body=self._held.body)

    async def ReplayQuarantined(
        self, request: operations_pb.ReplayQuarantinedRequest, context: Context
    ) -> operations_pb.ReplayQuarantinedResponse:
        self._held.replayed = list(request.quarantine_ids)
        asked = len(request.quarantine_ids) or len(self._held.quarantined)
        return operations_pb.ReplayQuarantinedResponse(requested=asked)

    async def ListParked(
        self, request: operations_pb.ListParkedRequest, context: Context
    ) -> operations_pb.ListParkedResponse:
        return operations_pb.ListParkedResponse(parked=self._held.parked)

    async def RetryParked(
        self, request: operations_pb.RetryParkedRequest, context: Context
    ) -> operations_pb.RetryParkedResponse:
        self._held.retried.append(request.parked_id)
        return operations_pb.RetryParkedResponse()

    async def SettleParked(
        self, request: operations_pb.SettleParkedRequest, context: Context
    ) -> operations_pb.SettleParkedResponse:
        self._held.settled.append((request.parked_id, request.settlement))
        return operations_pb.SettleParkedResponse()

    async def GetStatus(
        self, request: operations_pb.GetStatusRequest, context: Context
    ) -> operations_pb.GetStatusResponse:
        return self._held.status


class History(HistoryServiceServicer):
    def __init__(self, held: Pagewire) -> None:
        self._held = held

    async def StartSync(
        self, request: history_pb.StartSyncRequest, context: Context
    ) -> history_pb.StartSyncResponse:
        held = self._held
        if request.all_pages:
            runs = [self._started(request, page.page_id) for page in held.pages]
            held.started.append(request)
            return history_pb.StartSyncResponse(runs=runs)
        if request.page_id not in {page.page_id for page in held.pages}:
            raise Unknown("the page is not connected", page_id=request.page_id)
        held.started.append(request)
        return history_pb.StartSyncResponse(run=self._started(request, request.page_id))

    def _started(self, request: history_pb.StartSyncRequest, page_id: str) -> SyncRun:
        run_id = f"run-{len(self._held.runs) + 1}"
        mode = request.mode or SyncMode.SYNC_MODE_FULL
        run = self._held.runs[run_id] = SyncRun(
            run_id=run_id,
            page_id=page_id,
            kind=request.kind,
            mode=SyncMode.SYNC_MODE_FULL if mode == SyncMode.SYNC_MODE_AUTO else mode,
            state=SyncState.SYNC_STATE_QUEUED,
        )
        return run

    async def GetSyncRun(
        self, request: history_pb.GetSyncRunRequest, context: Context
    ) -> history_pb.GetSyncRunResponse:
        return history_pb.GetSyncRunResponse(run=self._known(request.run_id))

    async def ListSyncRuns(
        self, request: history_pb.ListSyncRunsRequest, context: Context
    ) -> history_pb.ListSyncRunsResponse:
        runs = [run for run in self._held.runs.values() if request.page_id in ("", run.page_id)]
        return history_pb.ListSyncRunsResponse(runs=runs[::-1][: request.page_size])

    async def WatchSyncRun(
        self, request: history_pb.WatchSyncRunRequest, context: Context
    ) -> AsyncIterator[history_pb.WatchSyncRunResponse]:
        run = self._known(request.run_id)
        self._held.watches += 1
        yield history_pb.WatchSyncRunResponse(run=run)
        course = self._held.course.setdefault(run.page_id, [])
        while course:
            now = course.pop(0)
            if isinstance(now, Refusal):
                raise now
            run.MergeFrom(now)
            yield history_pb.WatchSyncRunResponse(run=run)
        self._held.silent()
        await asyncio.Event().wait()

    async def CancelSyncRun(
        self, request: history_pb.CancelSyncRunRequest, context: Context
    ) -> history_pb.CancelSyncRunResponse:
        run = self._known(request.run_id)
        if run.state == SyncState.SYNC_STATE_QUEUED:
            run.state = SyncState.SYNC_STATE_CANCELLED
        return history_pb.CancelSyncRunResponse(run=run)

    def _known(self, run_id: str) -> SyncRun:
        if run_id not in self._held.runs:
            raise UnknownRun("there is no such run", run_id=run_id)
        return self._held.runs[run_id]


class Delivery(DeliveryServiceServicer):
    def __init__(self, held: Pagewire) -> None:
        self._held = held

    async def SendMessage(
        self, request: delivery_pb.SendMessageRequest, context: Context
    ) -> delivery_pb.SendMessageResponse:
        self._held.sent.append(request)
        return delivery_pb.SendMessageResponse(reply=self._reply(request.client_key))

    async def GetReply(
        self, request: delivery_pb.GetReplyRequest, context: Context
    ) -> delivery_pb.GetReplyResponse:
        return delivery_pb.GetReplyResponse(reply=self._reply(self._held.sent[-1].client_key))

    def _reply(self, client_key: str) -> Reply:
        """In the next of the states that were set, the last of them for ever."""
        states = self._held.reply_states
        state = states.pop(0) if len(states) > 1 else states[0]
        failed = state == ReplyState.REPLY_STATE_FAILED
        reason = "window_closed" if failed else ""
        return Reply(reply_id="r-101-1", state=state, state_reason=reason, client_key=client_key)


@contextmanager
def operated() -> Iterator[Pagewire]:
    """Serves from a thread of its own, as the command has the loop of the test's."""
    held, ready = Pagewire(reply_states=[ReplyState.REPLY_STATE_READY]), threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_serve(held, ready, stop)))
    thread.start()
    try:
        assert ready.wait(10)
        yield held
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _serve(held: Pagewire, ready: threading.Event, stop: asyncio.Event) -> None:
    def register(server: grpc.aio.Server) -> None:
        add_PageServiceServicer_to_server(Pages(held), server)  # type: ignore[abstract]
        add_RuleServiceServicer_to_server(Rules(held), server)  # type: ignore[abstract]
        add_OperationServiceServicer_to_server(Operations(held), server)  # type: ignore[abstract]
        add_DeliveryServiceServicer_to_server(Delivery(held), server)  # type: ignore[abstract]
        add_HistoryServiceServicer_to_server(History(held), server)

    async with serving(
        "127.0.0.1:0",
        register,
        tokens=parse_service_tokens(SERVICE_TOKENS),
        method_roles={**STORE_ROLES, **RULES_ROLES, **SYNC_ROLES},
    ) as server:
        held.target = f"127.0.0.1:{server.port}"
        ready.set()
        await stop.wait()
