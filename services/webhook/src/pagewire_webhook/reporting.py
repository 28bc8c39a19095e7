"""What an edge tells the store of itself: that it is there, and what it could not take.

The store opens gaps by it, which are repaired from Graph. What was counted is kept until a report
of it was heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.ingest_service_pb2 import ReportReceptionRequest, ReportReceptionResponse
from pagewire_runtime.errors import Refusal

REPORT_SECONDS = 5.0
"""From one report to the next; the store takes STORE_OUTAGE_SECONDS without any for an outage."""
CALL_SECONDS = 2.0
LAST_CALL_SECONDS = 1.0
"""For the one at the end, for which the whole system waits."""


class Report(Protocol):
    """The call `IngestService.ReportReception`: raises Refusal; safe to repeat."""

    def __call__(
        self, request: ReportReceptionRequest, /, *, timeout: float
    ) -> Awaitable[ReportReceptionResponse]:
        """Returns once it is written down."""
        ...


@dataclass(slots=True)
class Tally:
    """Counts of some time; times are seconds since 1970."""

    accepted: int = 0
    refused: int = 0
    bad_signatures: int = 0
    refused_since: float | None = None
    bad_since: float | None = None
    """The first that nobody's secret explained; none where a good signature came after it."""

    @property
    def is_trusted(self) -> bool:
        """Whether a signature was good."""
        return bool(self.accepted or self.refused)

    @property
    def lost_since(self) -> float | None:
        """The first that may have been lost."""
        known = [at for at in (self.refused_since, self.bad_since) if at is not None]
        return min(known, default=None)

    def before(self, later: Tally) -> Tally:
        """This and what came later, as one."""
        return Tally(
            self.accepted + later.accepted,
            self.refused + later.refused,
            self.bad_signatures + later.bad_signatures,
            _first(self.refused_since, later.refused_since),
            later.bad_since if later.is_trusted else _first(self.bad_since, later.bad_since),
        )


class Reception:
    """The counts of what was not reported yet. A good signature clears the bad ones before it."""

    def __init__(self) -> None:
        self._tally = Tally()

    def accepted(self) -> None:
        """A delivery was stored and answered 200."""
        self._tally.accepted += 1
        self._tally.bad_since = None

    def refused(self, at: float) -> None:
        """A delivery with a good signature, received then, was answered 503."""
        self._tally.refused += 1
        self._tally.refused_since = _first(self._tally.refused_since, at)
        self._tally.bad_since = None

    def unsigned(self, at: float) -> None:
        """A post was turned away whose signature was bad, or not looked at: anybody's, or Meta's.

        What was not looked at is no more than a bad one: else whoever sends large bodies could have
        pages repaired as he likes.
        """
        self._tally.bad_signatures += 1
        self._tally.bad_since = _first(self._tally.bad_since, at)

    def take(self) -> Tally:
        """What was counted; the counts begin anew."""
        taken, self._tally = self._tally, Tally()
        return taken

    def put_back(self, taken: Tally) -> None:
        """Nobody has heard of it."""
        self._tally = taken.before(self._tally)


@asynccontextmanager
async def reporting(
    report: Report, edge: str, reception: Reception, *, every: float = REPORT_SECONDS
) -> AsyncIterator[None]:
    """Reports every few seconds within the block, at its beginning first, and once at its end.

    `edge` is a name of this life of the process. A report that fails is part of the next one.
    """
    task = asyncio.create_task(_tell_again(report, edge, reception, every))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await _tell(report, edge, reception, LAST_CALL_SECONDS, is_last=True)


async def _tell_again(report: Report, edge: str, reception: Reception, every: float) -> None:
    while True:
        await _tell(report, edge, reception, CALL_SECONDS)
        await asyncio.sleep(every)


async def _tell(
    report: Report, edge: str, reception: Reception, timeout: float, *, is_last: bool = False
) -> None:
    tally, heard = reception.take(), False
    try:
        await report(_request(edge, tally, is_last=is_last), timeout=timeout)
        heard = True
    except Refusal:
        pass  # the call's own metrics tell of it; an outage of the store has its alarms
    finally:
        if not heard:
            reception.put_back(tally)


def _request(edge: str, tally: Tally, *, is_last: bool) -> ReportReceptionRequest:
    request = ReportReceptionRequest(
        edge=edge,
        accepted=tally.accepted,
        refused=tally.refused,
        bad_signatures=tally.bad_signatures,
        is_last=is_last,
    )
    if tally.lost_since is not None:
        request.first_lost_time.CopyFrom(_timestamp(tally.lost_since))
    return request


def _timestamp(at: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int(at * 1_000_000))
    return stamp


def _first(one: float | None, other: float | None) -> float | None:
    return min((at for at in (one, other) if at is not None), default=None)
