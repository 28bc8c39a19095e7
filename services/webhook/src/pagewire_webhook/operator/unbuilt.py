"""What the API promises and this release does not have: each is answered 501."""

from __future__ import annotations

from typing import NoReturn

from pagewire_webhook.operator.errors import Error
from pagewire_webhook.operator.operation import NotYet, Operation


def operations() -> list[Operation]:
    """The operations that are still to come."""
    return [
        _unbuilt("POST", "/api/conversations/sync", "Mirrors a page's conversations."),
        _unbuilt("POST", "/api/messages/sync", "The same: threads come with their messages."),
        _unbuilt("POST", "/api/comments/sync", "Mirrors a page's comments."),
        _unbuilt("POST", "/api/conversations/sync-all", "Mirrors every page's conversations."),
        _unbuilt("GET", "/api/sync-runs/{run_id}", "Shows a run."),
        _unbuilt("DELETE", "/api/sync-runs/{run_id}", "Cancels a run."),
        _unbuilt("GET", "/api/sync-runs/{run_id}/events", "Streams a run's progress."),
        _unbuilt("POST", "/api/rules/backtest", "Says what a rule would have answered."),
        _unbuilt("POST", "/api/archive", "Archives what was answered long ago."),
        _unbuilt("GET", "/api/events", "Streams events as they are stored."),
        _unbuilt("GET", "/", "The console."),
    ]


def _unbuilt(method: str, path: str, summary: str) -> Operation:
    async def act(**_: str) -> NoReturn:
        raise NotYet(f"{method} {path} is not in this release", path=path)

    return Operation(method, path, act, summary, {501: Error})  # type: ignore[arg-type]
