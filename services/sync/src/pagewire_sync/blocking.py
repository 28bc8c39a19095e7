"""Blocking: whoever meets a dead token or a missing permission marks the page, and sends wait."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pagewire.store.v1 import page_care_service_pb2 as pb
from pagewire.type.v1.page_pb2 import PAGE_STATE_BLOCKED
from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import Credentials
from pagewire_sync.page_states import HOURLY, reason_of

log = get_logger(__name__)


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def RecordPageCheck(
        self, request: pb.RecordPageCheckRequest, /
    ) -> Awaitable[pb.RecordPageCheckResponse]: ...


@dataclass(frozen=True)
class Blocking:
    """Marks pages."""

    store: Store
    now: Callable[[], datetime] = WALL.now

    async def token_died(self, credentials: Credentials, error: GraphError) -> None:
        """What a read of Graph tells of a token that is refused as dead."""
        await self.mark_blocked(credentials.page_id, credentials.version, reason_of(error))

    async def mark_blocked(self, page_id: str, token_version: int, reason: str) -> None:
        """Write down that Graph refuses this token, for a reason of `page_states.reason_of`.

        Nothing happens where the page has another token by now, or is gone. It is not tried again
        where the store is away: the next refusal says the same.
        """
        request = pb.RecordPageCheckRequest(
            page_id=page_id,
            state=PAGE_STATE_BLOCKED,
            state_reason=reason,
            token_version=token_version,
        )
        request.next_check_time.FromDatetime(self.now() + HOURLY)
        try:
            await self.store.RecordPageCheck(request)
        except Refusal as refusal:
            log.warning("a page was not marked", reason=refusal.reason, page=ref(page_id))
