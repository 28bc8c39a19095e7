"""The Graph half over HTTP: reads a request, has it answered, and writes what goes back.

A plain ASGI application, to be cheap: ``/facebook/...`` and ``/instagram/...`` stand for the two
hosts. ``scope["extensions"]["pagewire.cut"]`` (see ``serving``) closes the connection.
"""

from collections.abc import Callable
from typing import Any

from pagewire_simulator import calls
from pagewire_simulator.answering import answer
from pagewire_simulator.batches import Batch
from pagewire_simulator.calls import Receive, Scope, Send
from pagewire_simulator.faults import Answer
from pagewire_simulator.meta import Meta
from pagewire_simulator.replies import Reply


class Graph:
    """``meta`` is asked for at each call, since a reset replaces it."""

    def __init__(self, meta: Callable[[], Meta]) -> None:
        self._meta = meta

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        meta = self._meta()
        call = calls.read(scope, await calls.body_of(receive))
        if call.method == "POST" and "batch" in call.params:
            reply = await Batch(meta, call).answer()
        else:
            reply = await answer(meta, call)
        await write(reply, scope["extensions"]["pagewire.cut"], send)


async def write(reply: Reply, cut: Callable[[], None], send: Send) -> None:
    if reply.way is Answer.CUT:
        cut()
        return
    await send(start(reply))
    if reply.way is Answer.HALF:
        half = reply.body[: len(reply.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        cut()
        return
    await send({"type": "http.response.body", "body": reply.body})


def start(reply: Reply) -> dict[str, Any]:
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    return {"type": "http.response.start", "status": reply.status, "headers": headers}
