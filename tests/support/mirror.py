"""What Graph shows, by hand, and a mirror of it: one line each, about one connected page."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from pagewire.store.v1.mirror_service_pb2 import (
    MirroredComment,
    MirroredConversation,
    MirroredMessage,
    UpsertHistoryRequest,
)
from pagewire.store.v1.mirror_service_pb2_grpc import (
    MirrorServiceStub,
    add_MirrorServiceServicer_to_server,
)
from pagewire.type.v1.conversation_pb2 import DIRECTION_INBOUND
from pagewire_store.database import Pools
from pagewire_store.mirror_servicer import MirrorServicer
from pagewire_store.mirroring import Mirror
from tests.support.deliveries import PAGE, PERSON, at
from tests.support.stored import channel_to

if TYPE_CHECKING:
    from pagewire.store.v1.mirror_service_pb2_grpc import MirrorServiceAsyncStub

READ = 3_600
"""Seconds after noon at which Graph was asked, unless said otherwise."""


def thread(person: str = PERSON, seconds: float = 0, **fields: Any) -> MirroredConversation:
    values: dict[str, Any] = {"participant_id": person, "update_time": at(seconds)}
    return MirroredConversation(**(values | fields))


def shown(mid: str = "m_1", seconds: float = 0, **fields: Any) -> MirroredMessage:
    """A message as Graph shows it: the person's, unless said otherwise."""
    values: dict[str, Any] = {
        "mid": mid,
        "participant_id": PERSON,
        "direction": DIRECTION_INBOUND,
        "text": "hello",
        "create_time": at(seconds),
    }
    return MirroredMessage(**(values | fields))


def shown_comment(comment_id: str = "c_1", seconds: float = 0, **fields: Any) -> MirroredComment:
    values: dict[str, Any] = {
        "comment_id": comment_id,
        "post_id": "p_1",
        "from_id": "3001",
        "text": "price?",
        "create_time": at(seconds),
    }
    return MirroredComment(**(values | fields))


def history(*, read: float = READ, **fields: Any) -> UpsertHistoryRequest:
    """Rows of the page, which Graph showed so many seconds after noon."""
    values: dict[str, Any] = {"page_id": PAGE, "read_time": at(read)}
    return UpsertHistoryRequest(**(values | fields))


def make_mirror(pools: Pools, **others: Any) -> Mirror:
    """One that takes chunks of 500."""
    values: dict[str, Any] = {
        "chunk_rows": 500,
        "large_chunk_rows": 2_500,
    }
    return Mirror(pools.mirror, **(values | others))


@pytest.fixture
async def service(pools: Pools) -> "AsyncIterator[MirrorServiceAsyncStub]":
    """MirrorService as sync calls it."""
    servicer = MirrorServicer(make_mirror(pools), pools.general)
    async with channel_to(
        lambda server: add_MirrorServiceServicer_to_server(servicer, server), "sync"
    ) as channel:
        yield MirrorServiceStub(channel)
