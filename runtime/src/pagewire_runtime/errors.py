"""Refusals: what a Pagewire process answers when it will not do what it was asked."""

from __future__ import annotations

import enum
from collections.abc import Mapping

UNREACHED = "a service that the answer needs did not answer in time, or can't be reached: try again"


class Kind(enum.Enum):
    """What sort of refusal it is; `status` gives each its one gRPC code."""

    INVALID = "invalid"
    MISSING = "missing"
    EXISTS = "exists"
    STATE = "state"
    """The request is fine, what it is about is not in the state for it."""
    FENCED = "fenced"
    """Somebody else has taken over; start again from a fresh read."""
    FORBIDDEN = "forbidden"
    UNAUTHENTICATED = "unauthenticated"
    EXHAUSTED = "exhausted"
    TRANSIENT = "transient"
    """It may well work when tried again; the outcome of this try may be unknown."""
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"


class Refusal(Exception):
    """A typed refusal: subclasses set `kind` and the stable, UPPER_SNAKE `reason`.

    `message` is for a person and may change; `metadata` holds the values that it names, as strings;
    `retry_after` is in seconds. All of it travels to the caller, so none of it is a secret or
    personal.
    """

    kind: Kind = Kind.INTERNAL
    reason: str = "INTERNAL"

    def __init__(
        self, message: str, /, *, retry_after: float | None = None, **metadata: str
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.metadata: dict[str, str] = metadata


class InvalidArgument(Refusal):
    """A field of the request can't be accepted, whatever the state of the system."""

    kind = Kind.INVALID
    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}", field=field)


class Unavailable(Refusal):
    """Something that the answer needs can't be reached now; try again."""

    kind = Kind.TRANSIENT
    reason = "UNAVAILABLE"

    def __init__(self, what: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{what} is unavailable, try again", retry_after=retry_after, what=what)


class Unreached(Refusal):
    """No service said so: the connection was lost, or there was none.

    A call that waits for a connection (`wait_for_ready`) meets this only where one was lost while
    the call was on it.
    """

    kind = Kind.TRANSIENT
    reason = "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__(UNREACHED)


def refusal_from(
    kind: Kind,
    reason: str,
    message: str,
    metadata: Mapping[str, str] | None = None,
    retry_after: float | None = None,
) -> Refusal:
    """The refusal that another process made, as it came over the wire."""
    refusal = Refusal(message, retry_after=retry_after)
    refusal.kind = kind
    refusal.reason = reason
    refusal.metadata = dict(metadata or {})
    return refusal


class SettingsError(ValueError):
    """The process can't start with these settings; the text says which and what to do."""
