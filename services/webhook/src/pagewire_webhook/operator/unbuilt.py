"""What the API promises and this release does not have: each is answered 501."""

from __future__ import annotations

from typing import NoReturn

from pagewire_webhook.operator.errors import Error
from pagewire_webhook.operator.operation import NotYet, Operation


def operations() -> list[Operation]:
    """The operations that are still to come."""
    return [
        _unbuilt("POST", "/api/rules/backtest", "Says what a rule would have answered."),
        _unbuilt("POST", "/api/archive", "Archives what was answered long ago."),
        _unbuilt("GET", "/api/events", "Streams events as they are stored."),
        _unbuilt("GET", "/", "The console."),
    ]


def _unbuilt(method: str, path: str, summary: str) -> Operation:
    async def act(**_: str) -> NoReturn:
        raise NotYet(f"{method} {path} is not in this release", path=path)

    return Operation(method, path, act, summary, {501: Error})  # type: ignore[arg-type]
