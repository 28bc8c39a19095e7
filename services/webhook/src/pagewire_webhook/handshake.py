"""The subscription handshake: whoever knows the token hears the challenge that it gave."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

CHALLENGE_MAX_BYTES = 1_024

# Room for a challenge with every byte escaped, the token and the names.
_QUERY_MAX_BYTES = 8_192
_MODE, _TOKEN, _CHALLENGE = b"hub.mode", b"hub.verify_token", b"hub.challenge"


def challenge_of(query: bytes, verify_token: bytes) -> bytes | None:
    """The challenge to answer with, byte for byte; None where anything at all is wrong.

    Wrong is: a mode other than `subscribe`, a token that differs (compared in constant time), a
    challenge that is empty or over 1,024 bytes, a parameter that is missing or comes twice.
    """
    if len(query) > _QUERY_MAX_BYTES:
        return None
    said: dict[bytes, bytes] = {}
    for name, value in _parameters(query):
        if name in said:
            return None
        said[name] = value
    challenge = said.get(_CHALLENGE, b"")
    is_right = hmac.compare_digest(said.get(_TOKEN, b""), verify_token)
    if not is_right or not verify_token or said.get(_MODE) != b"subscribe":
        return None
    return challenge if 0 < len(challenge) <= CHALLENGE_MAX_BYTES else None


def _parameters(query: bytes) -> Iterator[tuple[bytes, bytes]]:
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            yield _decoded(name), _decoded(value)


def _decoded(value: bytes) -> bytes:
    return unquote_to_bytes(value.replace(b"+", b" "))
