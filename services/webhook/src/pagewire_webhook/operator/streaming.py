"""Server-sent events: values as they come, with a sign of life where none comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from pagewire_runtime.errors import Refusal

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_SECONDS = 15.0
"""Less than what balancers usually give a silent connection, which is a minute."""

_HEARTBEAT = b": still here\n\n"


@dataclass(frozen=True)
class Stream:
    """An answer of server-sent events, the data of each being `of` as JSON."""

    of: Any


def streamed(
    values: AsyncIterator[Any],
    stopping: asyncio.Event,
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> Response:
    """The values as events; it ends with them, where they are refused, and when we are stopping."""
    headers = {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Accel-Buffering": "no",  # a proxy that collects an answer first would show nothing
    }
    events = _events(values, stopping, heartbeat_seconds)
    return StreamingResponse(events, headers=headers, media_type=MEDIA_TYPE)


async def _events(
    values: AsyncIterator[Any], stopping: asyncio.Event, heartbeat_seconds: float
) -> AsyncGenerator[bytes]:
    stop = asyncio.ensure_future(stopping.wait())
    coming = asyncio.ensure_future(anext(values))
    try:
        while not stop.done():
            awaited = {coming, stop}
            await asyncio.wait(awaited, timeout=heartbeat_seconds, return_when="FIRST_COMPLETED")
            if coming.done():
                yield b"data: %b\n\n" % msgspec.json.encode(coming.result())
                coming = asyncio.ensure_future(anext(values))
            elif not stop.done():
                yield _HEARTBEAT
    except (StopAsyncIteration, Refusal):
        pass  # whoever has not seen an end asks again
    finally:
        stop.cancel()
        coming.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration, Refusal):
            await coming
