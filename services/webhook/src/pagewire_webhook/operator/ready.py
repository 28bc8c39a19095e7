"""Readiness: whether every part that the API needs is serving, asked at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from grpc_health.v1 import health_pb2
from msgspec import Meta

from pagewire.store.v1.operation_service_pb2 import GetStatusRequest
from pagewire_runtime.errors import Refusal
from pagewire_webhook.operator.operation import Answer, Operation

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

SECONDS = 1.0
SERVING = "serving"
UNREACHABLE = "unreachable"


class Readiness(msgspec.Struct, frozen=True):
    """Whether the API can do its work, and how each part stands."""

    ready: bool
    parts: Annotated[
        dict[str, str],
        Meta(
            description="`store`, `rules`, `sync`: `serving`, `not_serving` or `unreachable`;"
            " `postgres`: `ok` or why not; `cache`, which nothing needs: `ok`, `off` or why not."
        ),
    ]


class Ready:
    """The operation, over the health of the services and the store's own word on its servers."""

    def __init__(self, health: Mapping[str, Any], store: OperationServiceAsyncStub) -> None:
        self._health = health
        self._store = store

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET",
                "/readyz",
                self.readiness,
                "Whether every part serves (200), or which does not (503).",
                {200: Readiness, 503: Readiness},
                is_open=True,
            )
        ]

    async def readiness(self) -> Answer:
        services = asyncio.gather(*(_health(stub) for stub in self._health.values()))
        states, servers = await asyncio.gather(services, self._servers())
        parts = dict(zip(self._health, states, strict=True)) | servers
        ready = all(state == SERVING for state in states) and parts["postgres"] == "ok"
        return Answer(Readiness(ready, parts), 200 if ready else 503)

    async def _servers(self) -> dict[str, str]:
        try:
            status = await self._store.GetStatus(GetStatusRequest(), timeout=SECONDS)
        except Refusal:
            return {"postgres": UNREACHABLE, "cache": UNREACHABLE}
        return {"postgres": status.database, "cache": status.cache}


async def _health(stub: Any) -> str:
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    except Refusal:
        return UNREACHABLE
    return SERVING if answer.status == health_pb2.HealthCheckResponse.SERVING else "not_serving"
