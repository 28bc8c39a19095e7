"""The budget: how soon the next call for a page may go out. Times are seconds of one monotonic
clock.

Rates are Meta's (Messenger rate limiting, 2026-03-23; Instagram platform overview): a page has 2
conversation calls a second, 300 sends a second (Instagram: the lower of the two figures published,
100), 10 of them with audio or video, 750 private replies an hour. Usage headers correct them:
slower from 75 per cent, stopped at 95. One page's trouble is its own, and one product's too where
Meta counts it apart: only its code 4 stops all.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType

from pagewire_sync.usage import PAGES, Share, Usage

SLOW_FROM = 75
STOP_AT = 95
SLOWER = 4.0
"""Between the two, calls keep so many times their usual distance."""
STOP_SECONDS = 60.0
"""How long a page or a product of it stops where Meta does not say."""


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


MESSAGING = frozenset(
    {
        Product.SEND,
        Product.SEND_INSTAGRAM,
        Product.SEND_MEDIA,
        Product.PRIVATE_REPLY,
        Product.CONVERSATIONS,
    }
)

COUNTED_AS: Mapping[str, frozenset[Product]] = MappingProxyType(
    {
        "messenger": MESSAGING,
        PAGES: frozenset({Product.PAGE}),
        # Of calls that are no messaging, as Meta's page says. Whether reading messages is any it
        # does not say; a send that would have to wait is told so by its own answer.
        "instagram": frozenset({Product.PAGE, Product.CONVERSATIONS}),
    }
)
"""What shares a limit of the page, by Meta's word for it (its page on rate limiting)."""

WORD_OF_CODE: Mapping[int, str] = MappingProxyType(
    {32: PAGES, 80001: PAGES, 80002: "instagram", 80006: "messenger"}
)
"""Which of these limits an error tells of."""


def counted_with(product: Product) -> frozenset[Product]:
    """What shares a limit with it, itself among them."""
    return MESSAGING if product in MESSAGING else frozenset({product})


def covered(word: str, product: Product) -> frozenset[Product]:
    """What falls under the limit of this word, told by an answer to the product; where the word is
    none that is known, the product alone.
    """
    return COUNTED_AS.get(word, frozenset({product}))


def stopped_by(code: int, product: Product) -> frozenset[Product]:
    """What an error that throttles the product stops: it, and what shares the limit it names."""
    return covered(WORD_OF_CODE.get(code, ""), product) | {product}


def regain_seconds(usage: Usage, code: int, product: Product) -> float:
    """How long Meta says that what the error stops is to wait; 0 where it does not say."""
    told = (
        share.regain_seconds
        for word, share in usage.shares.items()
        if product in covered(word, product) or word == WORD_OF_CODE.get(code)
    )
    return max(told, default=0.0)


@dataclass(slots=True)
class _Account:
    """What a page has spent: when each bucket would be full again, and until when what stops."""

    full_at: dict[Product, float] = field(default_factory=dict)
    stopped_until: float = 0.0
    """All of it."""
    until: dict[Product, float] = field(default_factory=dict)
    """Some of it."""
    spent: dict[Product, int] = field(default_factory=dict)
    """Per cent of the page's limit, as last said."""
    app: dict[Product, int] = field(default_factory=dict)
    """The same of the app's."""

    def spent_on(self, product: Product) -> int:
        return max(self.spent.get(product, 0), self.app.get(product, 0))


class Budget:
    """Buckets by page and product, and stops by page and product, by page and for the app."""

    def __init__(self, rates: Mapping[Product, Rate] = RATES) -> None:
        self._rates = rates
        self._accounts: dict[str, _Account] = {}
        self._app_stopped_until = 0.0

    def wait(self, page_id: str, product: Product, now: float) -> float:
        """Seconds until a call may go out: 0 is now. Spends nothing."""
        rate = self._rates[product]
        full_at = self._account(page_id).full_at.get(product, 0.0)
        room_at = full_at - (rate.burst - 1) / rate.per_second
        return max(self.stopped(page_id, product, now), room_at - now)

    def spend(self, page_id: str, product: Product, now: float) -> None:
        """Count a call that goes out now, or when its `wait` is over."""
        account = self._account(page_id)
        slower = SLOWER if account.spent_on(product) >= SLOW_FROM else 1.0
        distance = slower / self._rates[product].per_second
        account.full_at[product] = max(account.full_at.get(product, 0.0), now) + distance

    def stopped(self, page_id: str, product: Product, now: float) -> float:
        """Seconds for which no call of the product may go out for the page."""
        account = self._account(page_id)
        until = max(account.stopped_until, account.until.get(product, 0.0), self._app_stopped_until)
        return max(until - now, 0.0)

    def app_stopped(self, now: float) -> float:
        """Seconds for which no call may go out at all."""
        return max(self._app_stopped_until - now, 0.0)

    def left_percent(self, page_id: str) -> int:
        """What is left of the page's limits, as Graph last said: 100 where it never did."""
        account = self._account(page_id)
        return max(100 - max((*account.spent.values(), *account.app.values()), default=0), 0)

    def observe(
        self, page_id: str, product: Product, usage: Usage, now: float, *, is_success: bool = True
    ) -> None:
        """Correct the budget by the headers of an answer to the product.

        That little is spent Graph says by leaving them out. Of an answer that is no success they
        may be missing for another reason: it need not be Graph's.
        """
        account, told = self._account(page_id), dict[Product, Share]()
        for word, share in usage.shares.items():
            for each in covered(word, product):
                told[each] = max(told.get(each, share), share)
        if is_success:
            told = dict.fromkeys(counted_with(product), Share()) | told
        for each, share in told.items():
            account.spent[each] = share.percent
            if share.percent >= STOP_AT:
                self.stop(page_id, now, share.regain_seconds or STOP_SECONDS, {each})
        if is_success or usage.app:
            account.app[product] = usage.app
        if usage.app >= STOP_AT:
            self.stop(page_id, now, STOP_SECONDS, {product})

    def stop(
        self, page_id: str, now: float, seconds: float, products: Collection[Product] | None = None
    ) -> None:
        """No call for this page before so long, or none of these products."""
        account, until = self._account(page_id), now + seconds
        if products is None:
            account.stopped_until = max(account.stopped_until, until)
        for each in products or ():
            account.until[each] = max(account.until.get(each, 0.0), until)

    def stop_app(self, now: float, seconds: float) -> None:
        """No call for any page before so long."""
        self._app_stopped_until = max(self._app_stopped_until, now + seconds)

    def _account(self, page_id: str) -> _Account:
        return self._accounts.setdefault(page_id, _Account())
