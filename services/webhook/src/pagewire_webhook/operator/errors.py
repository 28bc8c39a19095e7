"""Errors: each refusal as one HTTP answer, in the one form that all of them have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pagewire_runtime.errors import Kind, Refusal

STATUSES = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.MISSING: 404,
    Kind.EXISTS: 409,
    Kind.FENCED: 409,
    Kind.STATE: 409,
    Kind.EXHAUSTED: 429,
    Kind.INTERNAL: 500,
    Kind.UNIMPLEMENTED: 501,
    Kind.TRANSIENT: 503,
}

RETRY_SECONDS = 1
"""Where a refusal that may pass does not say when."""

# What HTTP itself refuses, before an operation is reached.
_REASONS = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE"}


class Internal(Refusal):
    """Something failed that nobody foresaw; the log has it."""

    kind = Kind.INTERNAL
    reason = "INTERNAL"


class ErrorDetail(msgspec.Struct, frozen=True):
    """Why a request was refused."""

    code: int
    """The HTTP status."""
    reason: str
    """A stable word for programs."""
    message: str
    """For people; may change."""
    details: dict[str, str]
    """The values that the message names, `field` among them where one is wrong."""


class Error(msgspec.Struct, frozen=True):
    """What every answer of 400 and above holds."""

    error: ErrorDetail


def refused(refusal: Refusal) -> Response:
    """The answer for a refusal."""
    code = STATUSES[refusal.kind]
    headers = {}
    if refusal.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="pagewire"'
    if refusal.kind in (Kind.TRANSIENT, Kind.EXHAUSTED):
        headers["Retry-After"] = str(math.ceil(refusal.retry_after or RETRY_SECONDS))
    detail = ErrorDetail(code, refusal.reason, refusal.message, refusal.metadata)
    return json_response(Error(detail), code, headers)


async def refused_by_http(_: Request, error: Exception) -> Response:
    """The answer for an unknown path, a wrong method, a body too large."""
    assert isinstance(error, HTTPException)  # noqa: S101  # Starlette calls it for nothing else
    reason = _REASONS.get(error.status_code) or HTTPStatus(error.status_code).name
    detail = ErrorDetail(error.status_code, reason, error.detail, {})
    return json_response(Error(detail), error.status_code, error.headers)


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`value` as JSON that no cache keeps and no browser takes for anything else."""
    safe = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(
        msgspec.json.encode(value),
        status,
        headers=safe | dict(headers or {}),
        media_type="application/json",
    )
