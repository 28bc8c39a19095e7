"""How long a list's page is and where it goes on: tokens that only their own query takes back.

A token is a position in the list's order, with a MAC over it and the query that it was made for:
method and filters, all of the request but its page_size and page_token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from pagewire_runtime.errors import InvalidArgument

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000

_MAC_BYTES = 16
ANSWER_BYTES = 4 * 2**20
"""What one answer carries of a list: callers take messages of 5 MiB."""

# The longest position names a time and an id of 512 characters; whatever an id may hold, it fits.
_TOKEN_MAX = 8192

Position = Sequence[str | int]
"""The values of a list's order at the last row that was handed out."""


T = TypeVar("T", bound=Message)


class ListRequest(Protocol):
    """A request for a part of a list."""

    page_size: int
    page_token: str


def page_size(request: ListRequest) -> int:
    """How many rows are handed out: 50 where the request does not say, never more than 1,000.

    Raises InvalidArgument for a negative number.
    """
    if request.page_size < 0:
        raise InvalidArgument("page_size", "must not be negative")
    return min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


class PageTokens:
    """Makes tokens with the first of its keys, and takes back those of any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    def part(
        self, request: Message, rows: Sequence[T], size: int, position_of: Callable[[T], Position]
    ) -> tuple[Sequence[T], str]:
        """The first `size` of these rows, and the token to go on by; empty where there are no more.

        Fewer where one answer can't carry so many. Who asks fetches one row more than `size`, to
        know whether there are more.
        """
        count = _carried(rows[:size])
        if count == len(rows):
            return rows, ""
        return rows[:count], self.write(request, position_of(rows[count - 1]))

    def write(self, request: Message, position: Position) -> str:
        """The token by which this query goes on behind `position`."""
        content = json.dumps(position, separators=(",", ":")).encode()
        mac = _mac(self._keys[0], request, content)
        return _encoded(mac + content)

    def read(self, request: Message) -> Position | None:
        """Where the query goes on; None at its beginning.

        Raises InvalidArgument for a token that was not made here, or for another query.
        """
        token: str = request.page_token  # type: ignore[attr-defined]  # of every list's request
        if not token:
            return None
        raw = _decoded(token)
        mac, content = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(key, request, content)) for key in self._keys):
            raise InvalidArgument("page_token", "is not one that this list has answered")
        position: list[str | int] = json.loads(content)
        return position


def _carried(rows: Sequence[Message]) -> int:
    """How many of the rows, from the first on, one answer carries; at least one."""
    total = 0
    for at, row in enumerate(rows):
        total += row.ByteSize()
        if total > ANSWER_BYTES and at:
            return at
    return len(rows)


def _mac(key: bytes, request: Message, content: bytes) -> bytes:
    query = type(request)()
    query.CopyFrom(request)
    for field in {"page_size", "page_token"} & set(query.DESCRIPTOR.fields_by_name):
        query.ClearField(field)
    bound = query.SerializeToString(deterministic=True)
    name = request.DESCRIPTOR.full_name.encode()
    framed = b"%d:%s%d:%s%s" % (len(name), name, len(bound), bound, content)
    return hmac.digest(key, framed, "sha256")[:_MAC_BYTES]


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(token: str) -> bytes:
    """What the token says; nothing where it is not spelled as we spell it."""
    if len(token) > _TOKEN_MAX:
        return b""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if _encoded(raw) == token else b""
