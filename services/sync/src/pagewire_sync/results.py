"""Results: how a read of Graph ended. A value for each of the ways, never an exception."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.usage import Usage


@dataclass(frozen=True, slots=True)
class Done:
    """Graph's answer, decoded. `read_time` is when the call went out, in UTC.

    The body is not shown in logs: it has people's words in it, and tokens in its `paging.next`.
    """

    body: dict[str, Any] = field(repr=False)
    read_time: datetime
    usage: Usage = field(default=Usage())


@dataclass(frozen=True, slots=True)
class Failed:
    """Graph refused, or went on failing. `lost` is a stable word where no answer came at all."""

    error: GraphError
    lost: str = ""

    @property
    def reason(self) -> str:
        """A stable word, for runs and logs."""
        return f"graph_{self.lost}" if self.lost else self.error.reason


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Nobody knows: no answer came that can be read. `reason` is a stable word."""

    reason: str

    @property
    def failed(self) -> Failed:
        """The same, once nobody asks again."""
        return Failed(GraphError(Failure.TRANSIENT, 0), self.reason)


Result: TypeAlias = Done | Failed | Unfinished
"""Of one try."""
Outcome: TypeAlias = Done | Failed
"""Of a read, after all that was done for it."""
