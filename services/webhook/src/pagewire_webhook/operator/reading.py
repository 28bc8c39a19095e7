"""Reading a request: its body and its query as typed values, or the field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from pagewire_runtime.errors import InvalidArgument, Refusal, refusal_from
from pagewire_webhook.operator.values import ID_PATTERN

T = TypeVar("T")

BODY_BYTES = 2**20

# How msgspec says where: "Expected `int`, got `str` - at `$.limits.per_day`".
_AT = re.compile(r"(?P<why>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `(?P<name>.*)`")


async def read_body(request: Request, wanted: type[T]) -> T:
    """The body's JSON as `wanted`.

    Raises InvalidArgument, which names the field; HTTPException 413 over 1 MiB.
    """
    raw = await _whole(request)
    try:
        body = msgspec.json.decode(raw, type=wanted)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidArgument("body", "must be one JSON object in UTF-8") from None
    if rb"\u0000" in raw and _holds_nul(msgspec.to_builtins(body)):
        raise InvalidArgument("body", "must not hold the character U+0000")
    return body


async def _whole(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES:
                raise _too_large()
    except ClientDisconnect:
        raise InvalidArgument("body", "ended before it was whole") from None
    return bytes(body)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body is larger than {BODY_BYTES} bytes")


def _holds_nul(value: Any) -> bool:
    """Whether a text is in it that PostgreSQL cannot keep."""
    if isinstance(value, Mapping):
        return any(_holds_nul(each) for each in value.values())
    if isinstance(value, list):
        return any(_holds_nul(each) for each in value)
    return isinstance(value, str) and "\0" in value


def read_query(request: Request, wanted: type[T]) -> T:
    """The query's parameters as `wanted`; of one that is repeated the last counts.

    Raises InvalidArgument, which names the parameter.
    """
    try:
        return msgspec.convert(dict(request.query_params), wanted, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None


@contextmanager
def naming_fields_of(message: str) -> Iterator[None]:
    """Within the block: what a service refuses as `message.name` is called `name` in the body."""
    prefix = f"{message}."
    try:
        yield
    except Refusal as refusal:
        field = refusal.metadata.get("field", "")
        if not field.startswith(prefix):
            raise
        named = refusal.metadata | {"field": field.removeprefix(prefix)}
        said = refusal.message.removeprefix(prefix)
        raise refusal_from(refusal.kind, refusal.reason, said, named) from refusal


def _invalid(error: msgspec.ValidationError) -> InvalidArgument:
    found = _AT.fullmatch(str(error))
    why, path = (found["why"], found["path"] or "") if found else (str(error), "")
    if named := _FIELD.fullmatch(why):
        path = f"{path}.{named['name']}".lstrip(".")
        why = "is missing" if "missing" in why else "is not a field of it"
    elif ID_PATTERN in why:
        why = "must be an id: 1 to 1,024 of A-Z a-z 0-9 . _ ~ -"
    return InvalidArgument(path or "body", why)
