"""How single fields of Meta's are read: ids, texts and times, whatever type they come in."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

from pagewire_webhook.keys import canonical
from pagewire_webhook.unreadable import Unread

TEXT_MAX_BYTES = 64 * 1024

DAY_MS = 86_400_000
EARLIEST_MS = 1_072_915_200_000
"""2004-01-01, before which there was no Facebook."""

_ID = re.compile(r"[A-Za-z0-9_.:=+/$-]{1,512}").fullmatch
_ID_NUMBERS = range(10**30)
_DIGITS = re.compile(r"-?[0-9]{1,40}").fullmatch
_INT64 = range(-(2**63), 2**63)
# Numbers below are seconds, others milliseconds: the one is 2001 then, the other the year 33658.
_FIRST_MS = 10**12


def identifier(value: Any) -> str:
    """An id of an account, a person or an object: a string, or a JSON number with its own digits.

    Raises Unread: `id_missing` for none or an empty one, `id_malformed` for any other.
    """
    if type(value) is str and _ID(value) is not None:
        return value
    if type(value) is int and value in _ID_NUMBERS:
        return str(value)
    return word_id(value)


def word_id(value: Any) -> str:
    """An id that Meta never sends as a number, such as a mid. Raises as `identifier`."""
    if isinstance(value, str) and _ID(value) is not None:
        return value
    raise Unread("id_missing" if value is None or value == "" else "id_malformed")


def optional_id(value: Any) -> str:
    """An id that nothing rests on; empty where it is missing or no id."""
    try:
        return identifier(value)
    except Unread:
        return ""


class Clip:
    """Takes texts as they may be stored, and remembers whether one had to be cut."""

    __slots__ = ("cut",)

    def __init__(self) -> None:
        self.cut = False

    def text(self, value: Any) -> str:
        """The text with U+FFFD for NUL, its first 64 KiB in UTF-8; empty if it is none."""
        if not isinstance(value, str):
            return ""
        text: str = value.replace("\x00", "\ufffd") if "\x00" in value else value
        if not _is_long(text):
            return text
        self.cut = True
        return text.encode()[:TEXT_MAX_BYTES].decode(errors="ignore")

    def json(self, value: Any) -> str:
        """Its canonical JSON, left out where that is over 64 KiB: half a document is none."""
        document = canonical(value)
        if not _is_long(document):
            return document
        self.cut = True
        return ""


def _is_long(value: str) -> bool:
    # No character is longer than four bytes, so most need no encoding to see.
    return len(value) > TEXT_MAX_BYTES // 4 and len(value.encode()) > TEXT_MAX_BYTES


def mapping(value: Any) -> dict[str, Any]:
    """An object; an empty one where it is none."""
    return value if type(value) is dict else {}


def moment(value: Any) -> int | None:
    """A time in milliseconds; None where there is none.

    Takes seconds and milliseconds, as a number or as digits, and ISO 8601. Not clamped: what Meta
    said stands in keys. Raises Unread: `timestamp_malformed`, or `timestamp_out_of_range` beyond
    64 bits.
    """
    if type(value) is int:
        number = value
    elif value is None:
        return None
    elif type(value) is str and _DIGITS(value) is not None:
        number = int(value)
    elif type(value) is str:
        return _moment_of_iso(value)
    elif type(value) is float and math.isfinite(value):
        number = int(value)
    else:
        raise Unread("timestamp_out_of_range" if type(value) is float else "timestamp_malformed")
    if number not in _INT64:
        raise Unread("timestamp_out_of_range")
    return number if number >= _FIRST_MS else number * 1000


def _moment_of_iso(value: str) -> int:
    try:
        said = datetime.fromisoformat(value)
    except ValueError:
        raise Unread("timestamp_malformed") from None
    if said.tzinfo is None:
        said = said.replace(tzinfo=UTC)
    return round(said.timestamp() * 1000)


def clamped(moment_ms: int, received_ms: int) -> int:
    """The time, but not before 2004 and not over a day after receipt."""
    return min(max(moment_ms, EARLIEST_MS), received_ms + DAY_MS)


def optional_moment(value: Any, received_ms: int) -> int | None:
    """A time that nothing rests on, clamped; None where there is none."""
    try:
        said = moment(value)
    except Unread:
        return None
    return None if said is None else clamped(said, received_ms)
