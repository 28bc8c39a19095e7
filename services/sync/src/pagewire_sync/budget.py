"""The budget: how soon the next call for a page may go out. Times are seconds of one monotonic
clock.

Rates are Meta's (Messenger rate limiting, 2026-03-23; Instagram platform overview): 2 conversation
calls a second and 300 sends a second a page (Instagram: the lower of the two figures published,
100), 10 with audio or video, 750 private replies an hour. Usage headers correct them: slower from
75 per cent, stopped at 95.
"""

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
    """So many calls a second on the long run, and so many at once."""

    per_second: float
    burst: int


RATES = {
    Product.SEND: Rate(300, 30),
    Product.SEND_INSTAGRAM: Rate(100, 10),
    Product.SEND_MEDIA: Rate(10, 5),
    Product.PRIVATE_REPLY: Rate(750 / 3600, 30),
    Product.CONVERSATIONS: Rate(2, 2),
    Product.PAGE: Rate(20, 20),
}


@dataclass(slots=True)
class _Account:
    """What a page has spent: when each bucket would be full again, and until when all stops."""

    full_at: dict[Product, float] = field(default_factory=dict)
    stopped_until: float = 0.0
    slow: bool = False


class Budget:
    """Buckets by page and product, and stops by page and for the app."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._app_stopped_until = 0.0

    def wait(self, page_id: str, product: Product, now: float) -> float:
        """Seconds until a call may go out: 0 is now. Spends nothing."""
        account = self._account(page_id)
        stopped = max(account.stopped_until, self._app_stopped_until) - now
        rate = RATES[product]
        room_at = account.full_at.get(product, 0.0) - (rate.burst - 1) * self._distance(
            account, product
        )
        return max(stopped, room_at - now, 0.0)

    def spend(self, page_id: str, product: Product, now: float) -> None:
        """Count a call that goes out."""
        account = self._account(page_id)
        begun = max(account.full_at.get(product, 0.0), now)
        account.full_at[product] = begun + self._distance(account, product)

    def observe(self, page_id: str, usage: Usage, now: float) -> None:
        """Correct the budget by an answer's headers."""
        account = self._account(page_id)
        account.slow = max(usage.app, usage.account) >= SLOW_FROM
        if usage.account >= STOP_AT:
            self.stop(page_id, now, usage.regain_seconds or STOP_SECONDS)
        if usage.app >= STOP_AT:
            self.stop_app(now, STOP_SECONDS)

    def stop(self, page_id: str, now: float, seconds: float) -> None:
        """No call for this page before so long."""
        account = self._account(page_id)
        account.stopped_until = max(account.stopped_until, now + seconds)

    def stop_app(self, now: float, seconds: float) -> None:
        """No call for any page before so long: Meta's code 4, and only that."""
        self._app_stopped_until = max(self._app_stopped_until, now + seconds)

    def _account(self, page_id: str) -> _Account:
        return self._accounts.setdefault(page_id, _Account())

    def _distance(self, account: _Account, product: Product) -> float:
        return (SLOWER if account.slow else 1.0) / RATES[product].per_second
