"""Strict JSON: bytes to values, bounded in depth and width, or one word why not."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import msgspec

from pagewire_webhook.unreadable import Unread

MAX_DEPTH = 32
MAX_KEYS = 1_000
MAX_VALUES = 250_000
"""50 for each of 5,000 events. Two million, which 4 MiB have room for, would take seconds and some
hundred MiB to read, so a body of them would never be answered in time."""

# A smaller body has no room for so many keys, each at least `"":0,`.
_MIN_BYTES_FOR_MAX_KEYS = 5 * MAX_KEYS
_BOM = b"\xef\xbb\xbf"
# One of them stands before each value but the first.
_BEFORE_VALUES = (b",", b"[", b"{")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_decode = msgspec.json.Decoder().decode


def read(raw: bytes) -> Any:
    """The value that `raw` is the JSON of. Raises Unread, and nothing else.

    - UTF-8 only; one byte order mark in front is skipped, as RFC 8259 section 8.1 allows.
    - Integers keep every digit. What is no finite number here (1e400, 5,000 digits) comes as
      infinity, which no other value can be, so that only what uses it is unreadable.
    - NaN and Infinity, comments, trailing commas, a second document: json_invalid.
    - A lone surrogate becomes U+FFFD. Of repeated keys the last one counts.
    - Over 32 levels: json_too_deep. Over 1,000 keys in an object: keys_too_many. Over 250,000
      values, or so many commas and brackets in texts: values_too_many.
    """
    body = raw.removeprefix(_BOM)
    if len(body) > MAX_VALUES and sum(map(body.count, _BEFORE_VALUES)) > MAX_VALUES:
        raise Unread("values_too_many")
    try:
        value = _decode(body)
    except RecursionError:
        raise Unread("json_too_deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _read_patiently(body)
    if len(body) >= _MIN_BYTES_FOR_MAX_KEYS or body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_bounds(value)
    return value


def _read_patiently(body: bytes) -> Any:
    """For what the fast reader refuses though it is JSON: huge numbers and lone surrogates."""
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_int=_integer,
            parse_float=float,  # what overflows is infinite
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise Unread("json_too_deep") from None
    except ValueError:
        raise Unread("json_invalid") from None
    _check_bounds(value)
    return _mended(value)


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python's bound of 4,300 digits
        return math.inf


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_bounds(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in _children(node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise Unread("json_too_deep")


def _children(node: Any) -> Any:
    if type(node) is list:
        return node
    if type(node) is not dict:
        return ()
    if len(node) > MAX_KEYS:
        raise Unread("keys_too_many")
    return node.values()


def _mended(value: Any) -> Any:
    """With U+FFFD for lone surrogates, which UTF-8 can't hold; recursion is bounded by then."""
    if type(value) is str:
        return _LONE_SURROGATE.sub("\ufffd", value)
    if type(value) is list:
        return [_mended(each) for each in value]
    if type(value) is dict:
        return {_mended(key): _mended(each) for key, each in value.items()}
    return value
