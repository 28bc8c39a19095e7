"""Who may use the API: whoever shows one of the keys; and as whom the audit names them."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pagewire_runtime.auth import Caller, Unauthenticated, actor_from, calling_as
from pagewire_webhook.operator.errors import refused

ACTOR_HEADER = "X-Pagewire-Actor"


class KeyGuard:
    """Stands before an app: without a key there is one answer, whatever was asked.

    Calls that the app makes further on carry the actor: ACTOR_HEADER where it is printable ASCII
    of at most 128 characters, or else `api-key-<n>`, n the key's position in the settings.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: frozenset[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        position = self._position(headers.getlist("authorization"))
        if position is None:
            refusal = Unauthenticated("send one of API_KEYS as a bearer token")
            await refused(refusal)(scope, receive, send)
            return
        actor = actor_from(headers.get(ACTOR_HEADER)) or f"api-key-{position}"
        with calling_as(Caller("operator", actor)):
            await self._app(scope, receive, send)

    def _position(self, shown: Sequence[str]) -> int | None:
        """Which key was shown, from 1; every key is compared, each in constant time."""
        scheme, _, bearer = (shown[0] if len(shown) == 1 else "").partition(" ")
        found = None
        for position, key in enumerate(self._keys, start=1):
            same = hmac.compare_digest(bearer.encode("latin-1", "replace"), key)
            if same and scheme.lower() == "bearer":
                found = position
        return found
