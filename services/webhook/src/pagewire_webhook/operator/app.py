"""The operator's app, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from pagewire.rules.v1.rule_service_pb2_grpc import RuleServiceStub
from pagewire.store.v1.conversation_service_pb2_grpc import ConversationServiceStub
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire.store.v1.page_service_pb2_grpc import PageServiceStub
from pagewire.sync.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceStub
from pagewire_runtime import metrics
from pagewire_webhook.operator import openapi, unbuilt
from pagewire_webhook.operator.auth import KeyGuard
from pagewire_webhook.operator.conversations import Conversations
from pagewire_webhook.operator.decisions import Decisions
from pagewire_webhook.operator.errors import refused_by_http
from pagewire_webhook.operator.operation import Operation, routes
from pagewire_webhook.operator.pages import Pages
from pagewire_webhook.operator.ready import Ready
from pagewire_webhook.operator.replies import Replies
from pagewire_webhook.operator.rules import Rules
from pagewire_webhook.operator.sync_runs import SyncRuns

REPEATABLE = (
    "/grpc.health.v1.Health/Check",
    *(f"/pagewire.store.v1.PageService/{method}" for method in ("GetPage", "ListPages")),
    *(
        f"/pagewire.store.v1.ConversationService/{method}"
        for method in ("ListConversations", "ListMessages", "ListComments")
    ),
    "/pagewire.store.v1.OperationService/ListDecisions",
)
"""What the channels may try again: reads of the store, without effect.

Not what rules and sync read there for us: they try that again themselves, and one layer that does
is enough.
"""


@dataclass(frozen=True)
class Upstreams:
    """Channels to the services behind the API, each with the role `operator`."""

    store: grpc.aio.Channel
    rules: grpc.aio.Channel
    sync: grpc.aio.Channel


def operator_app(
    upstreams: Upstreams, api_keys: Sequence[str], *, stopping: asyncio.Event | None = None
) -> ASGIApp:
    """The API over these services, for whoever shows one of the keys.

    When `stopping` is set, answers that have no end of their own end.
    """
    operations = operations_of(upstreams, stopping)
    app = Starlette(
        routes=routes(operations),
        exception_handlers={HTTPException: refused_by_http},
    )
    app.router.redirect_slashes = False
    open_paths = frozenset(operation.path for operation in operations if operation.is_open)
    return KeyGuard(app, api_keys, open_paths)


def operations_of(upstreams: Upstreams, stopping: asyncio.Event | None = None) -> list[Operation]:
    """Every operation; where two paths match, the first counts."""
    pages = PageServiceStub(upstreams.store)
    store = OperationServiceStub(upstreams.store)
    health = {
        "store": HealthStub(upstreams.store),
        "rules": HealthStub(upstreams.rules),
        "sync": HealthStub(upstreams.sync),
    }
    operations = [
        *unbuilt.operations(),
        *Pages(pages).operations(),
        *SyncRuns(
            HistoryServiceStub(upstreams.sync), pages, stopping or asyncio.Event()
        ).operations(),
        *Rules(RuleServiceStub(upstreams.rules)).operations(),
        *Decisions(store).operations(),
        *Conversations(ConversationServiceStub(upstreams.store)).operations(),
        *Replies(DeliveryServiceStub(upstreams.sync)).operations(),
        *Ready(health, store).operations(),
        Operation("GET", "/metrics", _metrics, "Metrics, for Prometheus.", {200: None}, True),
    ]

    async def show() -> dict[str, Any]:
        return described

    operations.append(
        Operation("GET", "/api/openapi.json", show, "This document.", {200: dict[str, Any]})
    )
    described = openapi.document(operations)
    return operations


async def _metrics() -> Response:
    return Response(metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})
