"""The webhook service, put together: its parts in one process, or apart."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any

import grpc
from pydantic import SecretStr

from pagewire.rules.v1.rule_service_pb2_grpc import RuleServiceStub
from pagewire.store.v1.clock_service_pb2 import GetTimeRequest
from pagewire.store.v1.clock_service_pb2_grpc import ClockServiceStub
from pagewire.store.v1.ingest_service_pb2_grpc import IngestServiceStub
from pagewire.store.v1.lane_service_pb2_grpc import LaneServiceStub
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire_runtime import logs, metrics
from pagewire_runtime.calling import channel
from pagewire_runtime.clocks import Clocks
from pagewire_runtime.commandline import command_line
from pagewire_runtime.logs import get_logger
from pagewire_runtime.serving import run, until_signalled
from pagewire_runtime.settings import load
from pagewire_webhook.dispatcher import Dispatcher, Pace
from pagewire_webhook.ingesting import Ingesting, ingest_over
from pagewire_webhook.listening import listening, room_for
from pagewire_webhook.operator.app import REPEATABLE, Upstreams, operator_app
from pagewire_webhook.public import PublicConfig, public_app
from pagewire_webhook.replaying import Replaying
from pagewire_webhook.reporting import Reception, reporting
from pagewire_webhook.settings import PARTS, Settings
from pagewire_webhook.signature import secrets_of

log = get_logger(__name__)

MESSAGE_BYTES = 16 * 2**20
"""What the services allow each other: a call may hold many deliveries, or whole lanes."""

DRAIN_SECONDS = 5
"""For requests under way: the edge answers within 2 s, a call behind the API takes at most 5."""


async def serve(settings: Settings) -> None:
    """Run the parts until a signal comes, then drain: the public part first, so that what it has
    taken still finds a dispatcher."""
    parts = {"operator": operator_part, "dispatcher": dispatcher_part, "public": public_part}
    async with AsyncExitStack() as stack:
        for name, part in parts.items():
            if name in settings.parts:
                await stack.enter_async_context(part(settings))
        log.info("ready", parts=sorted(settings.parts))
        await until_signalled()
        if settings.parts - {"dispatcher"}:  # which no balancer knows
            await asyncio.sleep(settings.unready_wait.total_seconds())


@asynccontextmanager
async def public_part(settings: Settings) -> AsyncIterator[int]:
    """The face to the internet, within the block; yields its port."""
    room = room_for(settings.connections_max)
    config = PublicConfig(
        secrets=secrets_of(
            _plain(settings.app_secrets),
            _plain(settings.instagram_app_secrets),
            previous_until=_seconds(settings.previous_secrets_until),
        ),
        verify_token=_plain((settings.verify_token,))[0].encode(),
        strangers_max=room // 4,
    )
    async with AsyncExitStack() as stack:
        to_store = _channel(settings, settings.store_target, "webhook")
        await stack.enter_async_context(to_store)
        if "dispatcher" not in settings.parts:  # which compares them itself
            await stack.enter_async_context(working(clocks_of(to_store).run()))
        ingesting = Ingesting(ingest_over(to_store))
        reception = Reception()
        app = public_app(config, ingesting, reception=reception)
        report = IngestServiceStub(to_store).ReportReception
        async with (
            reporting(report, new_owner(), reception, every=settings.report_seconds),
            listening(
                app,
                settings.webhook_listen,
                taker=app.taker,
                trusted_proxies=settings.forwarded_allow_ips,
                connections_max=room,
                receipt_seconds=settings.receipt_seconds,
                drain_seconds=DRAIN_SECONDS,
            ) as port,
        ):
            yield port
        await ingesting.close()


@asynccontextmanager
async def dispatcher_part(settings: Settings) -> AsyncIterator[None]:
    """Deciding, and reading again what an operator asks for, within the block."""
    async with (
        _channel(settings, settings.store_target, "webhook") as to_store,
        _channel(settings, settings.rules_target, "webhook") as to_rules,
    ):
        clocks = clocks_of(to_store)
        dispatcher = Dispatcher(
            LaneServiceStub(to_store),
            RuleServiceStub(to_rules),
            new_owner(),
            Pace(heartbeat_seconds=settings.heartbeat_seconds),
            ready=clocks.near,
        )
        ingesting = Ingesting(ingest_over(to_store))
        replaying = Replaying(OperationServiceStub(to_store), ingesting)
        async with working(clocks.run()), working(dispatcher.run()), working(replaying.run()):
            yield
        await ingesting.close()


def clocks_of(to_store: grpc.aio.Channel) -> Clocks:
    """This process's and the database's."""
    clock = ClockServiceStub(to_store)

    async def database_time() -> datetime:
        return (await clock.GetTime(GetTimeRequest())).time.ToDatetime(UTC)

    return Clocks("the webhook service", database_time)


def new_owner() -> str:
    """A name for one life of a dispatcher: in a container the process has its number again after a
    restart, and must not pass for the one that died."""
    return f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"


@asynccontextmanager
async def operator_part(settings: Settings) -> AsyncIterator[int]:
    """The operator's HTTP API, within the block; yields its port."""
    stopping = asyncio.Event()
    async with (
        _channel(settings, settings.store_target, "operator", REPEATABLE) as store,
        _channel(settings, settings.rules_target, "operator", REPEATABLE) as rules,
        _channel(settings, settings.sync_target, "operator", REPEATABLE) as sync,
        listening(
            operator_app(
                Upstreams(store, rules, sync), _plain(settings.api_keys), stopping=stopping
            ),
            settings.operator_listen,
            drain_seconds=DRAIN_SECONDS,
        ) as port,
    ):
        try:
            yield port
        finally:
            stopping.set()


@asynccontextmanager
async def working(job: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs the job within the block and cancels it at the end; its failure ends the block."""
    whole = asyncio.current_task()
    task = asyncio.ensure_future(job)

    def ended(task: asyncio.Future[None]) -> None:
        if whole is not None and not task.cancelled():
            whole.cancel()

    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _channel(
    settings: Settings, target: str, role: str, repeatable: Iterable[str] = ()
) -> grpc.aio.Channel:
    return channel(
        target,
        token=settings.service_tokens.first(role),
        repeatable=repeatable,
        max_message_bytes=MESSAGE_BYTES,
        tls=settings.tls,
    )


def _seconds(until: datetime | None) -> float:
    return math.inf if until is None else until.timestamp()


def _plain(secrets: Iterable[SecretStr | None] | None) -> list[str]:
    return [secret.get_secret_value() for secret in secrets or () if secret]


async def start(parts: frozenset[str] | None = None) -> None:
    """Read the settings, then serve; `parts` stands before WEBHOOK_PARTS."""
    settings = load(Settings)
    if parts is not None:
        settings = settings.model_copy(update={"parts": parts})
    settings.checked()
    logs.configure("webhook", settings.log_level)
    with metrics.expose(settings.metrics_listen):
        await serve(settings)


def arguments() -> argparse.ArgumentParser:
    """The command line, whose help tells of every setting."""
    parser = command_line(
        "pagewire_webhook",
        "Takes Meta's signed webhooks, answers them by rule, and serves operators.",
        Settings,
    )
    parser.add_argument(
        "--parts",
        type=_parts,
        metavar="PART,…",
        help="which parts run, of public, operator, dispatcher; all of them unless said",
    )
    return parser


def _parts(text: str) -> frozenset[str]:
    parts = frozenset(part.strip() for part in text.split(","))
    if parts <= PARTS:
        return parts
    raise argparse.ArgumentTypeError(f"must name some of {', '.join(sorted(PARTS))}")


def main(arguments_given: Sequence[str] | None = None) -> None:
    """Run the service until it is told to stop."""
    run(partial(start, arguments().parse_args(arguments_given).parts))
