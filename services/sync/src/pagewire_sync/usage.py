"""Usage: what Graph's headers say of the share of each limit that is spent (Meta's page on rate
limiting).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from pagewire_runtime import metrics

APP_HEADER = "x-app-usage"
PAGE_HEADER = "x-page-usage"
BUSINESS_HEADER = "x-business-use-case-usage"
RETRY_AFTER_HEADER = "retry-after"

PAGES = "pages"
"""Meta's word for calls about a page's posts and settings, of which the older header tells too."""

_PERCENTS = ("call_count", "total_time", "total_cputime")
RETRY_AFTER_MOST = 3_600
_MOST = 1_440
"""Neither per cents nor minutes of waiting are believed beyond this: a day."""

_unreadable = metrics.counter(
    "pagewire_graph_usage_unreadable", "Usage headers that could not be read, and count as nothing."
)


class Share(NamedTuple):
    """Per cent of a limit that is spent, and the seconds until calls are allowed again."""

    percent: int = 0
    regain_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Per cent of the app's limit, and the shares of the account's limits by Meta's word for what
    it counts together; "" where it has none.

    A success without headers means about 0 per cent. `retry_after` is the seconds of the header of
    that name: no page of Meta's has it, but who stands before Graph may send it with a 503.
    """

    app: int = 0
    shares: Mapping[str, Share] = field(default_factory=dict)
    retry_after: float = 0.0


def read_usage(headers: Mapping[str, str], ids: Collection[str] = ()) -> Usage:
    """Read the headers of any answer, errors included; what cannot be read counts as nothing.

    `ids` name the account. Where its own figures stand in the header, those of others mean nothing.
    """
    app, page = _decoded(headers.get(APP_HEADER)), _decoded(headers.get(PAGE_HEADER))
    business = _decoded(headers.get(BUSINESS_HEADER))
    own = {name: listed for name, listed in business.items() if name in ids} or business
    shares: dict[str, Share] = {}
    for word, entry in [*([(PAGES, page)] if page else []), *_entries(own)]:
        known, told = shares.get(word, Share()), _share(entry)
        shares[word] = Share(
            max(known.percent, told.percent), max(known.regain_seconds, told.regain_seconds)
        )
    return Usage(_percent(app), shares, _retry_after(headers.get(RETRY_AFTER_HEADER)))


def _entries(business: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for listed in business.values():
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict):
                word = entry.get("type")
                yield word if isinstance(word, str) else "", entry


def _share(entry: Mapping[str, Any]) -> Share:
    minutes = _number(entry.get("estimated_time_to_regain_access"))
    return Share(_percent(entry), minutes * 60.0)


def _retry_after(header: str | None) -> float:
    """A number of seconds, or nothing: a date is some other clock's, or past."""
    if header is None or not (header.isascii() and header.isdigit()):
        return 0.0
    return float(min(int(header[:8]), RETRY_AFTER_MOST))


def _decoded(header: str | None) -> dict[str, Any]:
    if header is None:
        return {}
    try:
        value = msgspec.json.decode(header)
    except (msgspec.DecodeError, ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    _unreadable.inc()
    return {}


def _percent(entry: Mapping[str, Any]) -> int:
    return int(max(_number(entry.get(name)) for name in _PERCENTS))


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return 0
    return min(value, _MOST)
