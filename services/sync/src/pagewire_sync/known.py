"""Known: the threads that are stored of a page, each read by itself where Graph gives no list."""

from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Protocol

from pagewire.store.v1 import mirror_service_pb2 as pb
from pagewire_sync.listing import Head, Listed, Listing
from pagewire_sync.patience import persistently

AT_ONCE = 25


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def ListThreads(
        self, request: pb.ListThreadsRequest, /
    ) -> Awaitable[pb.ListThreadsResponse]: ...


@dataclass(frozen=True)
class Known:
    """The threads of one page."""

    store: Store
    page_id: str

    async def pages(self, listing: Listing, most: float) -> AsyncIterator[Listed]:
        """Them, newest first, as pages of a list. Raises RunFailed."""
        after: pb.StoredThread | None = None
        while most > 0:
            at_once = int(min(most, AT_ONCE))
            request = pb.ListThreadsRequest(page_id=self.page_id, max_threads=at_once, after=after)
            stored = (await persistently(lambda: self.store.ListThreads(request))).threads  # noqa: B023
            if not stored:
                return
            page = Listed([], "", listing.asking.now())
            await listing.singly(
                page, [Head(each.thread_id, each.update_time.seconds) for each in stored]
            )
            yield page
            most, after = most - len(stored), stored[-1]
