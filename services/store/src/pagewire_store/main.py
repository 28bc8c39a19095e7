"""The store put together: its database brought up to date, then served, swept, and drained."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

import grpc
from psycopg import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1 import (
    clock_service_pb2_grpc,
    conversation_service_pb2_grpc,
    event_service_pb2_grpc,
    ingest_service_pb2_grpc,
    lane_service_pb2_grpc,
    mirror_service_pb2_grpc,
    operation_service_pb2_grpc,
    outbox_service_pb2_grpc,
    page_care_service_pb2_grpc,
    page_service_pb2_grpc,
    rule_book_service_pb2_grpc,
    run_service_pb2_grpc,
)
from pagewire.store.v1.lane_service_pb2 import CommitDecisionsRequest, CommitDecisionsResponse
from pagewire_runtime import logs, metrics
from pagewire_runtime.clocks import COMPARED_EVERY, Clocks
from pagewire_runtime.commandline import command_line
from pagewire_runtime.errors import Unavailable
from pagewire_runtime.serving import Server, run, serving, until_signalled
from pagewire_runtime.settings import load
from pagewire_store import backlogs, committing, echoes, gaps, schedule, standing, sweeps
from pagewire_store.access import METHOD_ROLES
from pagewire_store.cache_probe import CacheProbe
from pagewire_store.claiming import Claims
from pagewire_store.clock_servicer import ClockServicer
from pagewire_store.clocks import database_time
from pagewire_store.conversation_servicer import ConversationServicer, EventServicer
from pagewire_store.database import (
    MIRROR,
    Pools,
    durability_gaps,
    in_transaction,
    is_superuser,
    open_pools,
)
from pagewire_store.ingest import Ingestor
from pagewire_store.ingest_servicer import IngestServicer
from pagewire_store.lane_servicer import LaneServicer
from pagewire_store.migrating import migrate
from pagewire_store.mirror_servicer import MirrorServicer
from pagewire_store.mirroring import Mirror
from pagewire_store.operation_servicer import OperationServicer
from pagewire_store.outbox_servicer import OutboxServicer
from pagewire_store.page_care_servicer import PageCareServicer
from pagewire_store.page_servicer import PageServicer
from pagewire_store.page_tokens import PageTokens
from pagewire_store.purging import Retention, purge
from pagewire_store.rule_book_servicer import RuleBookServicer
from pagewire_store.run_servicer import RunServicer
from pagewire_store.settings import Settings
from pagewire_store.tokens import reseal
from pagewire_store.unknown_pages import UnknownPages
from pagewire_store.waking import Waking

log = logs.get_logger(__name__)

MAX_MESSAGE_BYTES = 16 * 2**20
"""A body of 4 MiB, its events, which may be as large again, and what waited beside it."""

RETRY_FIRST, RETRY_MOST = 0.1, 2.0
"""Seconds between two tries to reach PostgreSQL, doubled from the one up to the other."""

READ_IN_AGAIN = timedelta(seconds=10)
"""A page that is connected here is read in at once; this finds what was in flight at that time, and
what is another store's."""

SHOWN_EVERY = timedelta(seconds=15)
"""What stands how is looked up so often: alarms wait for longer."""

RUNS_STARTED_EVERY = timedelta(seconds=5)
"""What is due by the schedule, and repairs, are looked for so often."""

SILENCES_SOUGHT_EVERY = timedelta(minutes=5)
"""A page is silent after an hour at the earliest."""

ROUND_SECONDS = 300.0
"""For one round of a job; the next one goes on where it was ended, for all are done in pieces."""

LONG_CALLS = {"/pagewire.store.v1.MirrorService/StreamHistory": timedelta(minutes=5)}
"""What takes longer than other calls may; its pieces are as short as they are."""

LISTENERS = 2
"""Connections beside the pools: who waits for lanes, and for the outbox, is woken by them."""


class Store:
    """The parts of one store, by the settings of one process."""

    def __init__(self, settings: Settings, pools: Pools) -> None:
        url = settings.database_url.get_secret_value()
        cache_url = settings.redis_url
        self._settings = settings
        self._pools = pools
        self._lanes = Waking(url)
        self._outbox = Waking(url, "pagewire_outbox")
        # These are rare: stores need no hint of each other's beside their own polls.
        self._looks = Waking(url)
        self._checks = Waking(url)
        self._replays = Waking(url)
        self._runs = Waking(url)
        self._to_read_in = asyncio.Event()
        self.clocks = Clocks("the store", partial(database_time, pools.live))
        self._cache = CacheProbe(cache_url.get_secret_value() if cache_url else None)
        bind_echoes = partial(echoes.bind, person_pause=settings.person_pause)
        bind_comments = partial(echoes.bind_comments, person_pause=settings.person_pause)
        self._unknown_pages = UnknownPages(
            pools.upkeep,
            outbox=self._outbox,
            bind_echoes=bind_echoes,
            bind_comments=bind_comments,
        )
        self._ingestor = Ingestor(
            pools.ingest,
            wake=self._lanes.wake,
            outbox=self._outbox,
            bind_echoes=bind_echoes,
            bind_comments=bind_comments,
        )

    def register(self, server: grpc.aio.Server) -> None:
        """Adds every service of the contract."""
        settings, pools = self._settings, self._pools
        keys = settings.token_keys
        tokens = PageTokens(keys.derived(b"page_token"))
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(
            IngestServicer(
                self._ingestor, pools.general, grace=settings.repair_grace, outage=settings.outage
            ),
            server,
        )
        claims = Claims(pools.live, self._lanes, lease=settings.lane_lease)
        lane_service_pb2_grpc.add_LaneServiceServicer_to_server(
            LaneServicer(claims, self._commit), server
        )
        outbox_service_pb2_grpc.add_OutboxServiceServicer_to_server(
            OutboxServicer(
                pools.live,
                self._outbox,
                self._looks,
                lease=settings.send_lease,
                person_pause=settings.person_pause,
                look_lease=settings.look_lease,
                waits=settings.waits,
            ),
            server,
        )
        clock_service_pb2_grpc.add_ClockServiceServicer_to_server(ClockServicer(pools.live), server)
        page_service_pb2_grpc.add_PageServiceServicer_to_server(
            PageServicer(pools.general, keys, tokens, connected=self._connected, end=self._end),
            server,
        )
        page_care_service_pb2_grpc.add_PageCareServiceServicer_to_server(
            PageCareServicer(
                pools.general,
                keys,
                self._checks,
                lease=settings.page_check_lease,
                checked=self._outbox.wake,
            ),
            server,
        )
        rule_book_service_pb2_grpc.add_RuleBookServiceServicer_to_server(
            RuleBookServicer(pools.general, tokens), server
        )
        conversation_service_pb2_grpc.add_ConversationServiceServicer_to_server(
            ConversationServicer(pools.general, tokens), server
        )
        mirror = Mirror(
            pools.mirror,
            chunk_rows=settings.history_chunk_rows,
            large_chunk_rows=settings.history_large_chunk_rows,
        )
        mirror_service_pb2_grpc.add_MirrorServiceServicer_to_server(
            MirrorServicer(mirror, pools.general), server
        )
        run_service_pb2_grpc.add_RunServiceServicer_to_server(
            RunServicer(
                pools.general,
                tokens,
                self._runs,
                settled_after=gaps.settled_after(settings.repair_grace),
                lease=settings.run_lease,
            ),
            server,
        )
        event_service_pb2_grpc.add_EventServiceServicer_to_server(EventServicer(), server)
        operation_service_pb2_grpc.add_OperationServiceServicer_to_server(
            OperationServicer(
                pools.general,
                tokens,
                self._cache,
                self._replays,
                self.clocks,
                replay_lease=settings.replay_lease,
                retried=self._retried,
            ),
            server,
        )

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Wakes, sweeps and keeps house within the block; then answers what ingest still holds."""
        settings = self._settings
        jobs = (
            self._lanes.run(),
            self._outbox.run(),
            _repeated("outbox", self._sweep, settings.sweep_interval),
            _repeated("unknown_pages", self._read_in, READ_IN_AGAIN, self._to_read_in),
            _repeated("upkeep", self._keep_house, settings.upkeep_interval),
            _repeated("runs", self._start_runs, RUNS_STARTED_EVERY),
            _repeated("silences", self._seek_silences, SILENCES_SOUGHT_EVERY),
            _repeated("clocks", self.clocks.compare, COMPARED_EVERY),
            _repeated("standing", partial(standing.show, self._pools.upkeep), SHOWN_EVERY),
        )
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            yield
        finally:
            await self._ingestor.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._cache.close()

    def end_unhurried(self) -> None:
        """Ends the polls that would wait longer than a store takes to drain."""
        for waking in (self._looks, self._checks, self._replays, self._runs):
            waking.close()

    async def _commit(self, request: CommitDecisionsRequest) -> CommitDecisionsResponse:
        return await committing.commit(
            self._pools.live,
            request,
            wake_outbox=self._outbox.wake,
            wake_lanes=self._lanes.wake,
            caps=committing.Caps(
                in_conversation=self._settings.automatic_replies_per_minute,
                on_page=self._settings.automatic_replies_per_minute_of_page,
            ),
            recovered_fresh=self._settings.recovered_fresh,
        )

    def _connected(self) -> None:
        """A page is due for a check, may send, and may have events from before."""
        self._checks.wake()
        self._outbox.wake()
        self._to_read_in.set()

    def _retried(self) -> None:
        self._lanes.wake()
        self._outbox.wake()

    async def _end(self, connection: AsyncConnection, page_id: str) -> bool:
        """Ends some of what was still to be done for a page that is not connected."""
        return await backlogs.end_some(
            connection, page_id, person_pause=self._settings.person_pause
        )

    async def _sweep(self) -> None:
        await sweeps.sweep(
            self._pools,
            person_pause=self._settings.person_pause,
            waits=self._settings.waits,
            wake_outbox=self._outbox.wake,
            wake_looks=self._looks.wake,
        )

    async def _read_in(self) -> None:
        while await self._unknown_pages.read_in():
            pass

    async def _start_runs(self) -> None:
        settings = self._settings
        repairs = partial(
            gaps.start_repairs, interval=settings.repair_interval, grace=settings.repair_grace
        )
        started = await in_transaction(self._pools.upkeep, repairs)
        if settings.sync_interval:
            due = partial(schedule.start_due, interval=settings.sync_interval)
            started += await in_transaction(self._pools.upkeep, due)
        if started:
            self._runs.wake()

    async def _seek_silences(self) -> None:
        grace = self._settings.repair_grace
        await in_transaction(self._pools.upkeep, partial(gaps.note_silences, grace=grace))

    async def _keep_house(self) -> None:
        settings = self._settings
        if gaps := await in_transaction(self._pools.upkeep, durability_gaps):
            log.error("DEGRADED: what is answered as stored may be lost by a crash", settings=gaps)
        if await in_transaction(self._pools.upkeep, is_superuser):
            log.warning("DATABASE_URL is a superuser's: the store needs no such rights")
        await reseal(self._pools.upkeep, settings.token_keys)
        retention = Retention(
            deliveries=settings.delivery_retention,
            quarantine=settings.quarantine_retention,
            attempts=settings.attempt_retention,
            runs=settings.run_retention,
        )
        await purge(self._pools.upkeep, retention)


async def _repeated(
    name: str,
    job: Callable[[], Awaitable[None]],
    pause: timedelta,
    sooner: asyncio.Event | None = None,
) -> None:
    """Does a job again and again, after each pause or `sooner`.

    A failure only ends its round, and so does it where one takes far too long.
    """
    sooner = sooner or asyncio.Event()
    while True:
        sooner.clear()
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                await job()
        except (Unavailable, TimeoutError):
            log.warning("a job could not be done now", job=name)
        except Exception:
            log.exception("a job failed", job=name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause.total_seconds()):
                await sooner.wait()


@contextlib.asynccontextmanager
async def storing(settings: Settings) -> AsyncIterator[Server]:
    """A store that serves within the block, on a database that is up to date; then drains."""
    pools = open_pools(
        settings.database_url.get_secret_value(), settings.database_pool_max - LISTENERS - MIRROR
    )
    try:
        store = Store(settings, pools)
        async with (
            store.working(),
            serving(
                settings.listen,
                store.register,
                tokens=settings.service_tokens,
                method_roles=METHOD_ROLES,
                drain=settings.drain,
                unready_wait=settings.unready_wait,
                reflection=_service_names() if settings.grpc_reflection else None,
                max_message_bytes=MAX_MESSAGE_BYTES,
                deadline_overrides=LONG_CALLS,
                tls=settings.tls,
                insecure=settings.grpc_insecure,
            ) as server,
        ):
            await store.clocks.tell(server.set_serving)
            try:
                yield server
            finally:
                store.end_unhurried()
    finally:
        await pools.dispose()


def _service_names() -> list[str]:
    return sorted({method.split("/")[1] for method in METHOD_ROLES})


async def brought_up_to_date(url: str, works_as: str | None = None) -> None:
    """Waits for PostgreSQL as long as it takes, and migrates. Raises OwnerNeeded."""
    pause = RETRY_FIRST
    while True:
        try:
            await asyncio.to_thread(migrate, url, works_as)
        except OperationalError as error:
            log.warning("waiting for PostgreSQL", kind=type(error).__name__, seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_MOST)
        else:
            return


async def _main() -> None:
    settings = load(Settings)
    logs.configure("store", settings.log_level)
    if settings.redis_url is None:
        log.info("REDIS_URL is unset: what is cached is cached in this process only")
    signalled = asyncio.create_task(until_signalled())
    ready = asyncio.create_task(brought_up_to_date(settings.migrates_as, settings.works_as))
    await asyncio.wait({signalled, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        return
    await ready
    with metrics.expose(settings.metrics_listen):
        async with storing(settings):
            await signalled


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the store until it is told to stop; exits 0 once it has drained."""
    what = "Keeps everything that Pagewire knows: the one service that speaks to PostgreSQL."
    command_line("pagewire_store", what, Settings).parse_args(arguments)
    run(_main)
