"""Posts: requests that are taken straight from their connection, with no ASGI between.

Most of what an ASGI server does for a small request is for what such a request has not: a body in
parts, an answer in parts, an app that could be any. So a POST that a `Taker` wants is gathered
here, and answered by one write. Whatever is out of the ordinary in it (a body that is large or
chunked, an `Expect`, another request under way before it) goes the way of all others.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from typing import Any, NamedTuple, Protocol

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, and values, as they came."""

BODY_MAX_BYTES = 64 * 1024
"""A larger body comes in parts, so that its connection can be told to wait."""


class Reply(NamedTuple):
    """A response as it is written, but for what is of its moment."""

    head: bytes
    """Status line and headers, each with the end of its line."""
    is_last: bool = False
    """Whether the connection ends with it; the head says so then."""


class Line(Protocol):
    """The connection of a post."""

    def reply(self, reply: Reply, *, keep_alive: bool) -> None:
        """Sends it, unless the peer is gone."""
        ...

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Has work done that ends in an answer; a drain waits for it."""
        ...

    def peer(self, headers: Headers) -> str | None:
        """The address that asks, as a proxy that is trusted says it; None: a local socket."""
        ...


class _Nobody:
    @staticmethod
    def set() -> None:
        """Wakes whoever waits for more: nobody."""


class Post:
    """One such request; to its connection it is what uvicorn's cycle is for any other."""

    __slots__ = (
        *("_line", "_parts", "disconnected", "headers", "keep_alive", "more_body"),
        "response_complete",
    )

    message_event = _Nobody
    response_started = False

    def __init__(self, line: Line, headers: Headers, *, keep_alive: bool) -> None:
        self._line = line
        self._parts: list[bytes] = []
        self.headers = headers
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = False
        self.response_complete = False

    def add(self, part: bytes) -> None:
        """A part of the body has come."""
        self._parts.append(part)

    def take_body(self) -> bytes:
        """All of it that has come; kept here no longer, since an answer may be long in coming."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def peer(self) -> str | None:
        """Who sent it; None where nobody can know."""
        return self._line.peer(self.headers)

    def answer(self, reply: Reply) -> None:
        """Answers it; to be called once."""
        self.response_complete = True
        self._line.reply(reply, keep_alive=self.keep_alive)

    def answered_by(self, work: Coroutine[Any, Any, None]) -> None:
        """Leaves the answer to work that takes a while."""
        self._line.begin(work)


class Taker(Protocol):
    """Takes the posts to some addresses, and sees that each is answered."""

    @property
    def targets(self) -> Collection[bytes]:
        """The addresses, as a request's first line has them."""
        ...

    def take(self, post: Post) -> None:
        """Called once all of its body has come; never raises."""
        ...
