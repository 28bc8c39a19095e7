"""What a proxy can do to a connection, in the words of Toxiproxy's toxics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from typing import TypeAlias


class Direction(Flag):
    """UP goes to the target, DOWN comes from it."""

    UP = auto()
    DOWN = auto()
    BOTH = UP | DOWN


@dataclass(frozen=True)
class Latency:
    """Each piece comes so many seconds later, give or take `jitter`; none overtakes another."""

    seconds: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Bandwidth:
    """So much passes in a second, in each direction of each connection."""

    bytes_per_second: float


@dataclass(frozen=True)
class Slicer:
    """Pieces of about `size` bytes, give or take `variation`, with `delay` seconds before each."""

    size: int
    variation: int = 0
    delay: float = 0.0


@dataclass(frozen=True)
class Hang:
    """A black hole: connections open and stay open, and nothing passes until this is lifted.

    What was held back goes on then: bytes are never dropped from the middle of a stream, as TCP
    would not.
    """


@dataclass(frozen=True)
class Timeout:
    """Nothing passes, and after so many seconds the connection is closed."""

    seconds: float


@dataclass(frozen=True)
class ResetPeer:
    """The connection is reset after so many seconds; until then all passes."""

    seconds: float = 0.0


@dataclass(frozen=True)
class LimitData:
    """The connection is closed when so many more bytes have passed in a direction."""

    bytes: int


Toxic: TypeAlias = Latency | Bandwidth | Slicer | Hang | Timeout | ResetPeer | LimitData


@dataclass(eq=False)
class Applied:
    """A toxic that is on."""

    toxic: Toxic
    direction: Direction
    links: range
    """The numbers of the connections that it strikes."""
