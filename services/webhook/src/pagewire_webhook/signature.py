"""Whether Meta signed a body: HMAC-SHA256 over the raw bytes, by any of the app's secrets."""

from __future__ import annotations

import hmac
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

    @cached_property
    def _keyed(self) -> hmac.HMAC:
        # Copied for each body: to begin with the key costs more than a body of usual size.
        return hmac.new(self.key, digestmod="sha256")

    def signature(self, raw: bytes) -> bytes:
        """The HMAC-SHA256 of `raw`."""
        code = self._keyed.copy()
        code.update(raw)
        return code.digest()


def secrets_of(app: Sequence[str], instagram: Sequence[str] = ()) -> tuple[Secret, ...]:
    """The secrets that verify, likeliest first.

    `app`: the app's own, the first in force ("app"), the others rotated out ("app-previous").
    `instagram`: those of the app's Instagram login, which Meta signs that product's webhooks with.
    """
    return (
        *(Secret("app" if at == 0 else "app-previous", key.encode()) for at, key in enumerate(app)),
        *(Secret("instagram", key.encode()) for key in instagram),
    )


def signer(raw: bytes, headers: Sequence[bytes], secrets: Sequence[Secret]) -> str | None:
    """The name of the secret that `raw` was signed with; None where none was. Never raises.

    `headers` are the values of every X-Hub-Signature-256 of the request: exactly one is wanted, so
    that no two readers disagree on which counts. X-Hub-Signature (SHA-1) is not looked at.
    """
    if len(headers) != 1:
        return None
    claim = _CLAIM.fullmatch(headers[0])
    if claim is None:
        return None
    digest = bytes.fromhex(claim[1].decode("ascii"))
    for secret in secrets:
        if hmac.compare_digest(secret.signature(raw), digest):
            return secret.name
    return None
