"""Whether Meta signed a body: HMAC-SHA256 over the raw bytes, by any of the app's secrets."""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

HEADER = b"x-hub-signature-256"

KEY_NAMES = ("app", "app-previous", "instagram")
"""What a delivery may say that it was signed by."""

# One spelling of the prefix; upper-case hex is the same digest, so it is taken.
_CLAIM = re.compile(rb"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Secret:
    """A secret that a webhook may be signed with, and what a delivery says it was signed by."""

    name: str
    key: bytes = field(repr=False)
    until: float = math.inf
    """When it stops to verify, in seconds since 1970."""

    @cached_property
    def _keyed(self) -> hmac.HMAC:
        # Copied for each body: to begin with the key costs more than a body of usual size.
        return hmac.new(self.key, digestmod="sha256")

    def signature(self, raw: bytes) -> bytes:
        """The HMAC-SHA256 of `raw`."""
        code = self._keyed.copy()
        code.update(raw)
        return code.digest()


def secrets_of(
    app: Sequence[str], instagram: Sequence[str] = (), *, previous_until: float = math.inf
) -> tuple[Secret, ...]:
    """The secrets that verify, likeliest first.

    `app`: the app's own, the first in force ("app"), the others rotated out ("app-previous").
    `instagram`: those of the app's Instagram login, which Meta signs that product's webhooks with.
    All but the first of each verify until `previous_until`, in seconds since 1970.
    """
    previous = "app-previous"
    return (
        *(Secret("app", key.encode()) for key in app[:1]),
        *(Secret(previous, key.encode(), previous_until) for key in app[1:]),
        *(Secret("instagram", key.encode()) for key in instagram[:1]),
        *(Secret("instagram", key.encode(), previous_until) for key in instagram[1:]),
    )


def signer(
    raw: bytes, headers: Sequence[bytes], secrets: Sequence[Secret], now: float
) -> str | None:
    """The name of the secret that `raw` was signed with; None where none was. Never raises.

    `headers` are the values of every X-Hub-Signature-256 of the request: exactly one is wanted, so
    that no two readers disagree on which counts. X-Hub-Signature (SHA-1) is not looked at. `now` is
    in seconds since 1970.
    """
    if len(headers) != 1:
        return None
    claim = _CLAIM.fullmatch(headers[0])
    if claim is None:
        return None
    digest = bytes.fromhex(claim[1].decode("ascii"))
    for secret in secrets:
        if now < secret.until and hmac.compare_digest(secret.signature(raw), digest):
            return secret.name
    return None
