import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from pagewire.store.v1 import run_service_pb2 as pb
from pagewire.store.v1.run_service_pb2_grpc import (
    RunServiceStub,
    add_RunServiceServicer_to_server,
)
from pagewire.type.v1.sync_run_pb2 import SyncKind
from pagewire_runtime.calling import MAX_MESSAGE_BYTES
from pagewire_store.database import Pools
from pagewire_store.run_servicer import RunServicer
from pagewire_store.waking import Waking
from pagewire_sync.history import MESSAGE_BYTES, History, Store
from pagewire_sync.progress import Progress
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import TOKENS, Rows, channel_to, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

PAGES = [f"{number}" for number in range(20)]
LARGE = 336_000
"""Six hundred tails with cursors of two hundred characters; twenty are more than a message."""


class Watched:
    """The store over a real channel; keeps how large what was recorded was."""

    def __init__(self, stub: Store) -> None:
        self._stub = stub
        self.sizes: list[int] = []

    def ClaimRuns(self, request: pb.ClaimRunsRequest, /) -> Awaitable[pb.ClaimRunsResponse]:
        return self._stub.ClaimRuns(request)

    def RecordRuns(self, request: pb.RecordRunsRequest, /) -> Awaitable[pb.RecordRunsResponse]:
        self.sizes.append(request.ByteSize())
        return self._stub.RecordRuns(request)


@pytest.fixture
async def store(pools: Pools, rows: Rows, database_url: str) -> AsyncIterator[Watched]:
    """With a run of each page that waits."""
    servicer = RunServicer(
        pools.general,
        TOKENS,
        Waking(database_url),
        settled_after=timedelta(seconds=150),
        lease=timedelta(minutes=10),
    )
    async with channel_to(
        lambda server: add_RunServiceServicer_to_server(servicer, server), "sync"
    ) as channel:
        stub = RunServiceStub(channel)
        for page_id in PAGES:
            await rows.add_page(page_id)
            kind = SyncKind.SYNC_KIND_CONVERSATIONS
            await stub.StartRun(pb.StartRunRequest(page_id=page_id, kind=kind))
        yield Watched(stub)


@asynccontextmanager
async def at_work(
    store: Store, mirror: Callable[[Progress], Awaitable[None]]
) -> AsyncIterator[None]:
    worker = History(store, mirror, lambda page_id: 87, "test", record_seconds=0.05)
    task = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(120):
            yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    while not await true():
        await asyncio.sleep(0.02)


async def recorded(rows: Rows, size: int) -> bool:
    """Whether the checkpoint of every run is that large."""
    found = await rows.query("select octet_length(checkpoint) as size from sync_run")
    return {row.size for row in found} == {size}


async def test_runs_with_large_checkpoints_are_written_down_and_taken_over(
    store: Watched, rows: Rows
) -> None:
    assert len(PAGES) * LARGE > MAX_MESSAGE_BYTES
    begun: dict[str, int] = {}

    async def far(progress: Progress) -> None:
        progress.reached(b"x" * LARGE)
        await asyncio.Event().wait()

    async def taken_over(progress: Progress) -> None:
        begun[progress.page_id] = len(progress.checkpoint)
        await asyncio.Event().wait()

    async def all_begun() -> bool:
        return len(begun) == len(PAGES)

    async with at_work(store, far):
        await until(lambda: recorded(rows, LARGE))
    async with at_work(store, taken_over):
        await until(all_begun)

    assert begun == dict.fromkeys(PAGES, LARGE)
    assert max(store.sizes) <= MESSAGE_BYTES
    epochs = await rows.query("select epoch from sync_run")
    assert {row.epoch for row in epochs} == {2}


async def test_a_run_whose_checkpoint_is_too_large_keeps_the_one_before_and_holds_up_no_other(
    store: Watched, rows: Rows
) -> None:
    async def reach(progress: Progress) -> None:
        progress.reached(b"before")
        if progress.page_id == PAGES[3]:
            progress.reached(b"x" * (6 * 2**20))
            progress.add(messages=70)
        else:
            progress.reached(b"behind")
        await asyncio.Event().wait()

    async def written_down() -> bool:
        found = await rows.query("select checkpoint from sync_run where state = 'running'")
        return len(found) == len(PAGES) and all(row.checkpoint for row in found)

    async with at_work(store, reach):
        await until(written_down)

    kept = await rows.query("select page_id, checkpoint, messages from sync_run")
    assert {row.page_id: (row.checkpoint, row.messages) for row in kept} == {
        page_id: (b"before", 70) if page_id == PAGES[3] else (b"behind", 0) for page_id in PAGES
    }
