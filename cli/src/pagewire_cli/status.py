"""`pagewire status`: how things stand, and what a person should do about it."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pagewire.store.v1.operation_service_pb2 import GetStatusRequest
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire_cli import output
from pagewire_cli.connection import TARGETS, Connection, failure_of, find
from pagewire_cli.exits import Exit
from pagewire_cli.listing import AsJson
from pagewire_cli.shapes import Json, to_json
from pagewire_runtime.errors import Kind, Refusal

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

SECONDS = 2.0
LATE = 10.0  # seconds; a lane's lease is taken over after 8
SERVING = "serving"
UNREACHABLE = "unreachable"


def status(as_json: AsJson = False) -> None:
    """Show how things stand; exit 1 where something is not well, 3 where nothing answers.

    \b
    pagewire status
    pagewire status --json | jq .not_well
    """
    connection = find(os.environ, Path.cwd())
    standing = asyncio.run(standing_of(connection))
    standing["not_well"] = list(complaints(standing))
    if as_json:
        output.document(standing)
    else:
        _show(standing)
    answered = [standing["services"][name] for name in TARGETS]
    if answered == [UNREACHABLE] * len(TARGETS):
        raise typer.Exit(Exit.UNREACHABLE)
    if standing["not_well"]:
        raise typer.Exit(Exit.REFUSED)


async def standing_of(connection: Connection) -> Json:
    """Each service's readiness, and the store's counts where it answers.

    Raises Unreachable where nothing says where the services are, Failure where we are not admitted.
    """
    for service in TARGETS:
        connection.target(service)
    asked = (_health(connection, service) for service in TARGETS)
    states, webhook, counts = await asyncio.gather(
        asyncio.gather(*asked), _webhook(connection.operator_url), _counts(connection)
    )
    services: Json = dict(zip(TARGETS, states, strict=True))
    return {"services": services | {"webhook": webhook}} | counts


async def _health(connection: Connection, service: str) -> str:
    async with connection.channel(service) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except Refusal:
            return UNREACHABLE
    serves = answer.status == health_pb2.HealthCheckResponse.SERVING
    return SERVING if serves else "not serving"


async def _webhook(url: str | None) -> str | None:
    """Of the operator part; null where its address is not known. It answers for itself alone."""
    if url is None:
        return None
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        try:
            answer = await client.get(f"{url}/readyz")
        except httpx.HTTPError:
            return UNREACHABLE
    return SERVING if answer.status_code in (200, 503) else f"answers {answer.status_code}"


async def _counts(connection: Connection) -> Json:
    async with connection.channel("store") as channel:
        service: OperationServiceAsyncStub = OperationServiceStub(channel)
        try:
            answer = await service.GetStatus(GetStatusRequest(), timeout=SECONDS)
        except Refusal as refusal:
            if refusal.kind is not Kind.TRANSIENT:
                raise failure_of(refusal, "store", connection.target("store")) from None
            return {"database": None, "cache": None}
    counts = to_json(answer)
    for several in ("pages", "replies"):
        counts[several] = {one["state"]: one["count"] for one in counts[several]}
    return counts


def complaints(standing: Json) -> Iterator[str]:
    """What is not well, each with what to do."""
    for name, state in standing["services"].items():
        if state not in (SERVING, None):
            yield f"{name} is {state}: see its log"
    if standing["database"] != "ok":
        yield f"PostgreSQL {standing['database'] or 'is not known: the store does not answer'}"
    if standing["cache"] not in ("ok", "off", None):
        yield f"the cache {standing['cache']}; nothing is lost, reads are slower"
    if standing["database"] == "ok":
        yield from _complaints_of_counts(standing)


def _complaints_of_counts(standing: Json) -> Iterator[str]:
    if (standing["oldest_pending_seconds"] or 0) > LATE:
        waits = output.span(standing["oldest_pending_seconds"])
        yield f"an event has waited {waits} to be decided: do the dispatcher and rules run?"
    if standing["parked_events"]:
        yield f"{standing['parked_events']} events are parked: `pagewire parked list`"
    if standing["replies"].get("parked"):
        yield f"{standing['replies']['parked']} replies are parked: `pagewire parked list`"
    if standing["quarantined"]:
        yield f"{standing['quarantined']} in quarantine: `pagewire quarantine list`"
    for state in ("blocked", "degraded"):
        if count := standing["pages"].get(state):
            yield f"{count} pages are {state}: `pagewire pages list` says why"


def _show(standing: Json) -> None:
    rows = [[name, state or "address not known"] for name, state in standing["services"].items()]
    rows += [["database", standing["database"] or "–"], ["cache", standing["cache"] or "–"]]
    if standing["database"] == "ok":
        rows += _rows_of_counts(standing)
    print(output.aligned([[output.clean(cell) for cell in row] for row in rows]))
    for complaint in standing["not_well"]:
        output.remark(f"not well: {complaint}")
    if not standing["not_well"]:
        print("All is well.")


def _rows_of_counts(standing: Json) -> list[list[str]]:
    oldest = standing["oldest_pending_seconds"]
    waits = "" if oldest is None else f", the oldest for {output.span(oldest)}"
    return [
        ["pending", f"{standing['pending_events']}{waits}"],
        ["parked", str(standing["parked_events"])],
        ["quarantined", str(standing["quarantined"])],
        ["unknown page", f"{standing['unknown_page_events']} events wait for theirs"],
        ["pages", _by_state(standing["pages"])],
        ["replies", _by_state(standing["replies"])],
    ]


def _by_state(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
