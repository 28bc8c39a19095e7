"""The public part: what the internet may reach, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pagewire_runtime.clock import WALL
from pagewire_webhook.ingesting import Ingesting
from pagewire_webhook.receiving import TARGETS, PublicConfig, Receiving
from pagewire_webhook.reporting import Reception

__all__ = ["PublicApp", "PublicConfig", "public_app"]

_NOSNIFF = {"x-content-type-options": "nosniff"}
_NO_STORE = {"cache-control": "no-store"}
# Methods that an address may lack; any other is refused at every address, known or not.
_ORDINARY = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def public_app(
    config: PublicConfig,
    ingest: Ingesting,
    *,
    now: Callable[[], float] = WALL.seconds,
    reception: Reception | None = None,
) -> PublicApp:
    """The app of the public listener; `now` is seconds since 1970, of when bodies were received,
    `reception` is told how they fare.

    Whatever is not listed here is answered 404 with one body; errors are
    `{"error": {"code", "reason", "message", "details"}}`, but for the webhook's own, which are
    empty. No schema, no metrics, no file is served.
    """
    receiving = Receiving(config, ingest, now, reception)
    app = PublicApp(
        receiving,
        routes=[
            Route("/healthz", _alive, methods=["GET"]),
            Route("/api/data-deletion", _not_built, methods=["POST"]),
            Route("/api/data-deletion/{code}", _not_built, methods=["GET"]),
            Route("/api/deauthorize", _not_built, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


class PublicApp(Starlette):
    """Routes, but for the webhooks: for them routing would cost a quarter of the whole answer."""

    def __init__(self, receiving: Receiving, **routing: Any) -> None:
        super().__init__(**routing)
        self.taker = receiving
        """Takes posts without the app between."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in TARGETS:
            await self.taker(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _alive(_: Request) -> Response:
    return PlainTextResponse("ok", headers=_NOSNIFF)


async def _not_built(_: Request) -> Response:
    return _error(501, "NOT_IMPLEMENTED", "this address is not served yet", _NO_STORE)


async def _refused(request: Request, error: Exception) -> Response:
    if request.method not in _ORDINARY:
        return _error(405, "METHOD_NOT_ALLOWED", "not this method", {"allow": "GET, POST"})
    if isinstance(error, HTTPException) and error.status_code == 405:
        return _error(405, "METHOD_NOT_ALLOWED", "not this method", error.headers or {})
    return _error(404, "NOT_FOUND", "no such address", {})


async def _failed(_: Request, __: Exception) -> Response:
    return _error(500, "INTERNAL", "internal error", {})


def _error(status: int, reason: str, message: str, headers: Mapping[str, str]) -> Response:
    error: dict[str, Any] = {"code": status, "reason": reason, "message": message, "details": {}}
    return JSONResponse({"error": error}, status, {**_NOSNIFF, **headers})
