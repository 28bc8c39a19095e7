"""The budget: how soon the next call for a page may go out. Times are seconds of one monotonic
clock.

Rates are Meta's (Messenger rate limiting, 2026-03-23; Instagram platform overview): a page has 2
conversation calls a second, 300 sends a second (Instagram: the lower of the two figures published,
100), 10 of them with audio or video, 750 private replies an hour. Usage headers correct them:
slower from 75 per cent, stopped at 95. One page's trouble is its own: only Meta's code 4 stops all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from pagewire_sync.usage import Usage

SLOW_FROM = 75
STOP_AT = 95
SLOWER = 4.0
"""Between the two, calls keep so many times their usual distance."""
STOP_SECONDS = 60.0
"""How long a page stops where Meta does not say."""


class Product(Enum):
    """What Meta counts apart."""

    SEND = auto()
    SEND_INSTAGRAM = auto()
    SEND_MEDIA = auto()
    PRIVATE_REPLY = auto()
    CONVERSATIONS = auto()
    PAGE = auto()


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls a second in the long run, and so many at once.

    In no stretch of time are there more than the two together, so they add up to Meta's figure.
    """

    per_second: float
    burst: int


RATES = {
    Product.SEND: Rate(270, 30),
    Product.SEND_INSTAGRAM: Rate(90, 10),
    Product.SEND_MEDIA: Rate(8, 2),
    Product.PRIVATE_REPLY: Rate(720 / 3600, 30),
    Product.CONVERSATIONS: Rate(2, 1),
    Product.PAGE: Rate(20, 20),
}


@dataclass(slots=True)
class _Account:
    """What a page has spent: when each bucket would be full again, and until when all stops."""

    full_at: dict[Product, float] = field(default_factory=dict)
    stopped_until: float = 0.0
    spent: int = 0
    """Per cent, as the last answer said."""


class Budget:
    """Buckets by page and product, and stops by page and for the app."""

    def __init__(self, rates: Mapping[Product, Rate] = RATES) -> None:
        self._rates = rates
        self._accounts: dict[str, _Account] = {}
        self._app_stopped_until = 0.0

    def wait(self, page_id: str, product: Product, now: float) -> float:
        """Seconds until a call may go out: 0 is now. Spends nothing."""
        rate = self._rates[product]
        full_at = self._account(page_id).full_at.get(product, 0.0)
        room_at = full_at - (rate.burst - 1) / rate.per_second
        return max(self.stopped(page_id, now), room_at - now)

    def spend(self, page_id: str, product: Product, now: float) -> None:
        """Count a call that goes out now, or when its `wait` is over."""
        account = self._account(page_id)
        slower = SLOWER if account.spent >= SLOW_FROM else 1.0
        distance = slower / self._rates[product].per_second
        account.full_at[product] = max(account.full_at.get(product, 0.0), now) + distance

    def stopped(self, page_id: str, now: float) -> float:
        """Seconds for which no call may go out for the page, whatever it is."""
        until = max(self._account(page_id).stopped_until, self._app_stopped_until)
        return max(until - now, 0.0)

    def left_percent(self, page_id: str) -> int:
        """What is left of the page's limits, as Graph last said: 100 where it never did."""
        return max(100 - self._account(page_id).spent, 0)

    def observe(self, page_id: str, usage: Usage, now: float) -> None:
        """Correct the budget by an answer's headers."""
        spent = max(usage.app, usage.account)
        self._account(page_id).spent = spent
        if spent >= STOP_AT:
            self.stop(page_id, now, usage.regain_seconds or STOP_SECONDS)

    def stop(self, page_id: str, now: float, seconds: float) -> None:
        """No call for this page before so long."""
        account = self._account(page_id)
        account.stopped_until = max(account.stopped_until, now + seconds)

    def stop_app(self, now: float, seconds: float) -> None:
        """No call for any page before so long."""
        self._app_stopped_until = max(self._app_stopped_until, now + seconds)

    def _account(self, page_id: str) -> _Account:
        return self._accounts.setdefault(page_id, _Account())
