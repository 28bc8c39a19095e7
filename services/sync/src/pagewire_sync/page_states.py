"""Page states: what was seen of a page, the state that it means, and when to look again.

`TABLE` says it whole: a page's state follows from what was seen last, whatever it was before. Where
nothing was learnt of it, it stays as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from pagewire.type.v1.page_pb2 import (
    PAGE_STATE_BLOCKED,
    PAGE_STATE_DEGRADED,
    PAGE_STATE_EXPIRING,
    PAGE_STATE_HEALTHY,
    PAGE_STATE_UNSPECIFIED,
    Page,
    PageState,
)
from pagewire_sync.failures import Failure, GraphError

DAILY = timedelta(days=1)
"""Meta advises to check a token at least daily."""
HOURLY = timedelta(hours=1)
"""A blocked page waits for somebody to connect it again; one whose owner has mended it at Meta's is
found so."""
SOON = timedelta(minutes=5)
AT_ONCE = timedelta(minutes=1)
EXPIRES_SOON = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at a page says of it, and how soon it is to be looked at again.

    `token_ends` is when its token ends; None where the look has not told.
    """

    state: PageState.ValueType
    reason: str
    again: timedelta
    token_ends: datetime | None = None


class Means(NamedTuple):
    """A row of the table."""

    state: PageState.ValueType
    again: timedelta


WELL = ""

TABLE: Mapping[str, Means] = MappingProxyType(
    {
        WELL: Means(PAGE_STATE_HEALTHY, DAILY),
        "token_expires_soon": Means(PAGE_STATE_EXPIRING, DAILY),
        "data_access_expires_soon": Means(PAGE_STATE_EXPIRING, DAILY),
        "token_refresh_refused": Means(PAGE_STATE_EXPIRING, DAILY),
        "subscription_missing": Means(PAGE_STATE_DEGRADED, SOON),
        "terms_not_accepted": Means(PAGE_STATE_DEGRADED, HOURLY),
        "restricted": Means(PAGE_STATE_DEGRADED, HOURLY),
        "token_invalid": Means(PAGE_STATE_BLOCKED, HOURLY),
        "token_expired": Means(PAGE_STATE_BLOCKED, HOURLY),
        "password_changed": Means(PAGE_STATE_BLOCKED, HOURLY),
        "app_removed": Means(PAGE_STATE_BLOCKED, HOURLY),
        "role_lost": Means(PAGE_STATE_BLOCKED, HOURLY),
        "account_checkpointed": Means(PAGE_STATE_BLOCKED, HOURLY),
        "account_unconfirmed": Means(PAGE_STATE_BLOCKED, HOURLY),
        "access_lapsed": Means(PAGE_STATE_BLOCKED, HOURLY),
        "permission_missing": Means(PAGE_STATE_BLOCKED, HOURLY),
        "app_secret_wrong": Means(PAGE_STATE_BLOCKED, HOURLY),
    }
)
"""Reasons, which people see, and what they mean. One that does not stand here is degraded, and
looked at again soon: an error of Graph's that nobody foresaw."""

UNFORESEEN = Means(PAGE_STATE_DEGRADED, SOON)

DEATHS: Mapping[int, str] = MappingProxyType(
    {
        458: "app_removed",
        459: "account_checkpointed",
        460: "password_changed",
        463: "token_expired",
        464: "account_unconfirmed",
        492: "role_lost",
        493: "access_lapsed",
    }
)
"""How a token died, by the subcode of Graph's error 190 (Meta's page on error handling)."""

_FAILURES: Mapping[Failure, str] = MappingProxyType(
    {
        Failure.PERMISSION: "permission_missing",
        Failure.SECRET: "app_secret_wrong",
        Failure.SUSPENDED: "restricted",
        Failure.TERMS: "terms_not_accepted",
    }
)

PASSING = frozenset({Failure.TRANSIENT, Failure.THROTTLED, Failure.APP_THROTTLED, Failure.VERSION})
"""Says nothing of the page."""

APP_STOPPED = "graph_4"
"""The word for Meta's code 4, as `GraphError.reason` has it."""


def found(reason: str, token_ends: datetime | None = None) -> Finding:
    """What is to be written down where this was seen."""
    state, again = TABLE.get(reason, UNFORESEEN)
    return Finding(state, reason, again, token_ends)


def nothing_learnt(page: Page, reason: str, seconds: float = 0.0) -> Finding:
    """The page stays as it is, and is looked at again at once, or after so many seconds; one of
    which nothing is known yet is degraded for that reason.
    """
    again = max(AT_ONCE, timedelta(seconds=seconds))
    if page.state in (PAGE_STATE_DEGRADED, PAGE_STATE_UNSPECIFIED):
        return Finding(PAGE_STATE_DEGRADED, reason, again)
    return Finding(page.state, page.state_reason, again)


def put_off(page: Page, seconds: float) -> Finding:
    """The page was not asked about, as Meta has the whole app wait for so long."""
    again = timedelta(seconds=seconds)
    if page.state == PAGE_STATE_UNSPECIFIED:
        return Finding(PAGE_STATE_DEGRADED, APP_STOPPED, again)
    return Finding(page.state, page.state_reason, again)


def refused(page: Page, error: GraphError) -> Finding:
    """What an error of Graph says of a page."""
    if error.failure in PASSING:
        return nothing_learnt(page, error.reason, error.retry_after or 0.0)
    return found(reason_of(error))


def reason_of(error: GraphError) -> str:
    """The word for an error that is the page's."""
    if error.failure is Failure.TOKEN:
        return DEATHS.get(error.subcode, "token_invalid")
    return _FAILURES.get(error.failure, error.reason)


def inspected(body: Mapping[str, Any], now: datetime) -> Finding | None:
    """What an answer of debug_token says; None where it cannot be read. Its times are seconds of
    Unix time, 0 is never.
    """
    data = body.get("data")
    if not isinstance(data, dict):
        return None
    if data.get("is_valid") is not True:
        return found(_death(data.get("error")))
    ends, leave_ends = _time(data.get("expires_at")), _time(data.get("data_access_expires_at"))
    if ends and (not leave_ends or ends <= leave_ends):
        return ending(ends, now)
    return ending(leave_ends, now, "data_access_expires_soon")


def ending(
    token_ends: datetime | None, now: datetime, reason: str = "token_expires_soon"
) -> Finding:
    """A page whose token works until then; None is for ever, or as long as nobody says."""
    soon = token_ends is not None and token_ends <= now + EXPIRES_SOON
    return found(reason if soon else WELL, token_ends)


def _death(error: object) -> str:
    subcode = error.get("subcode") if isinstance(error, dict) else None
    return DEATHS.get(subcode, "token_invalid") if isinstance(subcode, int) else "token_invalid"


def _time(seconds: object) -> datetime | None:
    if type(seconds) is not int or not 0 < seconds < 2**33:
        return None
    return datetime.fromtimestamp(seconds, UTC)
