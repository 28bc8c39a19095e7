"""The bytes of a webhook: JSON escaped as Meta escapes it, and the signatures over those bytes."""

import hashlib
import hmac
import json
from typing import Any

import msgspec

USER_AGENT = "facebookexternalua"


def encode(body: Any) -> bytes:
    r"""Compact ASCII JSON: ``/`` as ``\/``, all else above ASCII as lower-case ``\uXXXX``."""
    encoded = msgspec.json.encode(body)
    if not encoded.isascii():
        encoded = json.dumps(body, separators=(",", ":")).encode()
    return encoded.replace(b"/", b"\\/")


def signed(body: bytes, secret: str) -> dict[str, str]:
    """The headers of a delivery: type, agent, and both signatures of exactly these bytes."""
    key = secret.encode()
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "X-Hub-Signature": "sha1=" + hmac.new(key, body, hashlib.sha1).hexdigest(),
        "X-Hub-Signature-256": "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest(),
    }
