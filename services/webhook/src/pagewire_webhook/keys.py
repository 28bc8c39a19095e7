"""Natural keys: one event has one key within its page, however and how often it is delivered.

A key never holds entry.time, for nothing says that a redelivery repeats it. Times stand in it as
Meta said them, in milliseconds, not clamped; "none" stands for what is missing.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

NONE = "none"
MAX_BYTES = 700
"""An index entry of the store's has room for so much of a key; two of the longest ids have more."""

_canonical = msgspec.json.Encoder(order="sorted").encode
_WORD = re.compile(r"[ -~]{1,128}").fullmatch


def canonical(value: Any) -> str:
    """The one JSON text of a value: compact, keys sorted."""
    return _canonical(value).decode()


def digest(data: str) -> str:
    """The first 32 hex digits of its SHA-256."""
    return hashlib.sha256(data.encode()).hexdigest()[:32]


def key(*parts: str | int) -> str:
    """The parts, the kind's word first, with colons between them; hashed where over 700 bytes."""
    joined = ":".join(map(str, parts))
    return joined if len(joined) <= MAX_BYTES else f"{parts[0]}:{digest(joined)}"


def of_item(word: str, item: Any) -> str:
    """For what has no id: the hash of the item."""
    return f"{word}:{digest(canonical(item))}"


def part(value: Any) -> str:
    """A text of Meta's or the developer's as part of a key: itself where short and plain ASCII."""
    if value is None or value == "":
        return NONE
    if type(value) is str and _WORD(value) is not None:
        return value
    return digest(canonical(value))


def time_part(moment_ms: int | None) -> str | int:
    """A time as part of a key."""
    return NONE if moment_ms is None else moment_ms
