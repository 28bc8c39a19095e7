"""The sync service, put together."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc

from pagewire.store.v1.clock_service_pb2 import GetTimeRequest
from pagewire.store.v1.clock_service_pb2_grpc import ClockServiceStub
from pagewire.store.v1.ingest_service_pb2_grpc import IngestServiceStub
from pagewire.store.v1.mirror_service_pb2_grpc import MirrorServiceStub
from pagewire.store.v1.outbox_service_pb2_grpc import OutboxServiceStub
from pagewire.store.v1.page_care_service_pb2_grpc import PageCareServiceStub
from pagewire.store.v1.run_service_pb2_grpc import RunServiceStub
from pagewire.sync.v1.delivery_service_pb2_grpc import add_DeliveryServiceServicer_to_server
from pagewire.sync.v1.history_service_pb2_grpc import add_HistoryServiceServicer_to_server
from pagewire_runtime import logs, metrics
from pagewire_runtime.calling import channel
from pagewire_runtime.clocks import Clocks
from pagewire_runtime.commandline import command_line
from pagewire_runtime.serving import run, serving, until_signalled
from pagewire_runtime.settings import load
from pagewire_sync.access import HISTORY, METHOD_ROLES
from pagewire_sync.batches import Batches
from pagewire_sync.blocking import Blocking
from pagewire_sync.board import Board
from pagewire_sync.budget import RATES, Budget, Product
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.graph import App, Graph, Hosts, open_transport
from pagewire_sync.history import History
from pagewire_sync.history_servicer import HistoryServicer
from pagewire_sync.mirroring import Mirroring
from pagewire_sync.naming import Naming
from pagewire_sync.pagecare import PageCare
from pagewire_sync.readback import Reader
from pagewire_sync.reading import Reads
from pagewire_sync.sender import Sender
from pagewire_sync.servicer import DeliveryServicer
from pagewire_sync.settings import Settings

OUTBOX = "/pagewire.store.v1.OutboxService/"
REPEATABLE = tuple(OUTBOX + name for name in ("EnqueueReply", "GetReply", "GetLastHiding"))
WATCHED_AT_MOST = timedelta(minutes=15)
"""Longer than a connection lives: who watches a run asks again then."""
REFLECTED = ("pagewire.sync.v1.DeliveryService", "pagewire.sync.v1.HistoryService")


async def serve(settings: Settings) -> None:
    """Serve and send until a signal comes; then finish what is under way."""
    to_store = channel(
        settings.store_target,
        token=settings.own_token("sync"),
        repeatable=REPEATABLE,
        tls=settings.tls,
    )
    budget, page_care = _budget(settings), PageCareServiceStub(to_store)
    async with (
        to_store,
        open_transport() as transport,
        reading(settings, budget, Blocking(page_care)) as reads,
    ):
        outbox, mirror = OutboxServiceStub(to_store), MirrorServiceStub(to_store)
        clock, runs = ClockServiceStub(to_store), RunServiceStub(to_store)

        async def database_time() -> datetime:
            return (await clock.GetTime(GetTimeRequest())).time.ToDatetime(UTC)

        clocks, board = Clocks("sync", database_time), Board()

        def register(server: grpc.aio.Server) -> None:
            add_DeliveryServiceServicer_to_server(DeliveryServicer(outbox), server)
            add_HistoryServiceServicer_to_server(HistoryServicer(runs, board), server)

        credentials, owner = CredentialCache(page_care), owner_name()
        graph = Graph(
            transport,
            _hosts(settings),
            _app(settings),
            budget,
            total_seconds=settings.graph_timeout_seconds,
        )
        mirroring = Mirroring(
            reads, credentials, mirror, IngestServiceStub(to_store), grace=settings.repair_grace
        )
        workers = (
            Sender(outbox, credentials, graph, budget, owner, ready=clocks.near).run(),
            Reader(outbox, credentials, graph, budget, owner).run(),
            PageCare(page_care, credentials, graph, settings.app_id).run(),
            Naming(mirror, credentials, reads).run(),
            History(
                runs, mirroring.mirror, reads.left_percent, owner, board, ready=clocks.near
            ).run(),
            clocks.run(),
        )
        async with (
            serving(
                settings.listen,
                register,
                tokens=settings.service_tokens,
                method_roles=METHOD_ROLES,
                unready_wait=settings.unready_wait,
                deadline_overrides={HISTORY + "WatchSyncRun": WATCHED_AT_MOST},
                reflection=REFLECTED if settings.grpc_reflection else None,
                tls=settings.tls,
                insecure=settings.grpc_insecure,
            ) as server,
            asyncio.TaskGroup() as tasks,
        ):
            await clocks.tell(server.set_serving)
            working = [tasks.create_task(worker) for worker in workers]
            await until_signalled()
            for task in working:
                task.cancel()


def owner_name() -> str:
    """A name of this process, for operators to see in leases."""
    return f"{socket.gethostname()}/{os.getpid()}"


@asynccontextmanager
async def reading(settings: Settings, budget: Budget, blocking: Blocking) -> AsyncIterator[Reads]:
    """What history reads by, within the block: on connections of its own, so that no send waits
    for one.
    """
    async with open_transport() as transport:
        graph = Graph(
            transport,
            _hosts(settings),
            _app(settings),
            budget,
            total_seconds=settings.read_timeout_seconds,
        )
        batches = Batches(
            graph, heavy_most=settings.heavy_batch, instagram=settings.instagram_batches
        )
        try:
            yield Reads(batches, budget, token_died=blocking.token_died)
        finally:
            await batches.close()


def _budget(settings: Settings) -> Budget:
    conversations = replace(
        RATES[Product.CONVERSATIONS], per_second=settings.conversation_calls_per_second
    )
    return Budget({**RATES, Product.CONVERSATIONS: conversations})


def _hosts(settings: Settings) -> Hosts:
    return Hosts(
        facebook=settings.graph_base_url,
        instagram=settings.graph_instagram_base_url,
        version=settings.graph_api_version,
    )


def _app(settings: Settings) -> App:
    of_instagram = settings.instagram_app_secrets or settings.app_secrets
    return App(
        app_id=settings.app_id,
        secret=settings.app_secrets[0].get_secret_value(),
        instagram_secret=of_instagram[0].get_secret_value(),
    )


async def start() -> None:
    """Read the settings, then serve."""
    settings = load(Settings)
    logs.configure("sync", settings.log_level)
    with metrics.expose(settings.metrics_listen):
        await serve(settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the service until it is told to stop."""
    what = "Talks to Meta's Graph API: sends what was decided, and sees after connected pages."
    command_line("pagewire_sync", what, Settings).parse_args(arguments)
    run(start)
