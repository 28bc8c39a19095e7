"""Who calls: service tokens, the roles that a method admits, and the caller a handler sees."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from pagewire_runtime.errors import Kind, Refusal, SettingsError

ROLES = frozenset({"webhook", "rules", "sync", "reader", "operator"})
SECRET_MIN_BYTES = 16

MethodRoles = Mapping[str, frozenset[str]]
"""Which roles may call a method, by its full name "/package.Service/Method"; absent: nobody."""

OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""What anybody may call: a probe needs no identity, and learns only "serving" or not."""


class Unauthenticated(Refusal):
    """The call carries no identity that we know."""

    kind = Kind.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class Forbidden(Refusal):
    """The caller is known and its role may not do this."""

    kind = Kind.FORBIDDEN
    reason = "ROLE_NOT_ALLOWED"


@dataclass(frozen=True)
class Caller:
    """Who made the call in hand; `actor` is the person or job it names, for the audit only."""

    role: str
    actor: str | None = None


@dataclass(frozen=True)
class ServiceTokens:
    """The tokens that callers may show, each with its role, in the order they were configured."""

    tokens: Sequence[tuple[str, bytes]] = field(default=(), repr=False)

    def role_of(self, bearer: str) -> str | None:
        """The role of a token; every token is compared, each in constant time."""
        shown, found = bearer.encode("utf-8", "surrogatepass"), None
        for role, token in self.tokens:
            if hmac.compare_digest(shown, token):
                found = role
        return found

    def first(self, role: str) -> str | None:
        """The token that the service of this role sends."""
        return next((token.decode() for owner, token in self.tokens if owner == role), None)


def parse_service_tokens(text: str) -> ServiceTokens:
    """Reads `role:token`, comma-separated.

    Raises SettingsError, which names SERVICE_TOKENS and the entry's position, never its value.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    return ServiceTokens(tuple(_entry(at, entry) for at, entry in enumerate(entries, start=1)))


def _entry(at: int, entry: str) -> tuple[str, bytes]:
    role, _, token = entry.partition(":")
    if role not in ROLES:
        raise SettingsError(
            f"SERVICE_TOKENS: entry {at} does not start with a role and a colon"
            f" (roles: {', '.join(sorted(ROLES))})"
        )
    if len(token.encode()) < SECRET_MIN_BYTES:
        raise SettingsError(
            f"SERVICE_TOKENS: the token of entry {at} is shorter than {SECRET_MIN_BYTES} bytes"
        )
    if not (token.isascii() and token.isprintable()):
        raise SettingsError(f"SERVICE_TOKENS: the token of entry {at} is not printable ASCII")
    return role, token.encode()


_NOBODY = Caller(role="")
_caller: ContextVar[Caller] = ContextVar("pagewire_caller", default=_NOBODY)


def caller() -> Caller:
    """Who made the call in hand; outside of a call its role is empty and its actor None."""
    return _caller.get()


def set_caller(who: Caller) -> None:
    """Names the caller for the rest of this task, and of what it starts."""
    _caller.set(who)


@contextmanager
def calling_as(who: Caller) -> Iterator[None]:
    """Names the caller within the block, where a call comes in by something other than gRPC."""
    token = _caller.set(who)
    try:
        yield
    finally:
        _caller.reset(token)


def actor_from(value: str | bytes | None) -> str | None:
    """The actor of a call's metadata: printable ASCII of 1 to 128 characters, or else dropped."""
    if isinstance(value, str) and 0 < len(value) <= 128 and value.isascii() and value.isprintable():
        return value
    return None
