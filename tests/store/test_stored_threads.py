"""The threads that are stored of a page, for when Graph gives no list of them."""

from typing import TYPE_CHECKING

import pytest

from pagewire.store.v1.mirror_service_pb2 import ListThreadsRequest, StoredThread
from pagewire_runtime.errors import Kind, Refusal
from tests.support.deliveries import PAGE, Database, database, pools
from tests.support.mirror import history, service, thread
from tests.support.servers import database_url, migrated_template, postgres_server

if TYPE_CHECKING:
    from pagewire.store.v1.mirror_service_pb2_grpc import MirrorServiceAsyncStub

__all__ = ["database", "database_url", "migrated_template", "pools", "postgres_server", "service"]


async def listed(
    service: "MirrorServiceAsyncStub", most: int = 10, after: StoredThread | None = None
) -> list[StoredThread]:
    request = ListThreadsRequest(page_id=PAGE, max_threads=most, after=after)
    return list((await service.ListThreads(request)).threads)


async def test_threads_are_listed_newest_first_and_on_from_any_of_them(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    times = {"7": 10, "8": 30, "9": 20, "10": 20, "11": 20}
    people = [thread(person, at, thread_id=f"t_{person}") for person, at in times.items()]
    await service.UpsertHistory(history(conversations=people))

    found: list[str] = []
    after: StoredThread | None = None
    while some := await listed(service, 2, after):
        found += [each.thread_id for each in some]
        after = some[-1]

    assert found == ["t_8", "t_10", "t_11", "t_9", "t_7"]


async def test_what_graph_has_no_id_for_is_left_out(
    service: "MirrorServiceAsyncStub", database: Database
) -> None:
    await service.UpsertHistory(history(conversations=[thread("7"), thread("8", thread_id="t_8")]))

    assert [each.thread_id for each in await listed(service)] == ["t_8"]


@pytest.mark.parametrize("most", [0, -1, 1_001])
async def test_none_or_too_many_are_refused(
    service: "MirrorServiceAsyncStub", database: Database, most: int
) -> None:
    with pytest.raises(Refusal) as refused:
        await listed(service, most)

    assert refused.value.kind is Kind.INVALID
