"""The search for the knee: the highest rate that a system bears for as long as it is offered."""

from __future__ import annotations

import math

STEP = 1.25


class Search:
    """Rates to try: upward until one is too much, downward until one is not, then once between.

    `rate` is the next to try, None when the search is over; `found` the highest that was borne.
    """

    def __init__(self, start: float, *, lowest: float = 5, highest: float = 5_000) -> None:
        self.rate: float | None = start
        self.found = 0.0
        self._too_much = math.inf
        self._refined = False
        self._lowest, self._highest = lowest, highest

    def tell(self, borne: bool) -> None:
        """How the present rate went."""
        if self.rate is None:
            raise ValueError("the search is over")
        if borne:
            self.found = max(self.found, self.rate)
        else:
            self._too_much = min(self._too_much, self.rate)
        self.rate = self._next()

    def _next(self) -> float | None:
        if not self.found:
            lower = self._too_much / STEP**2
            return lower if lower >= self._lowest else None
        if math.isinf(self._too_much):
            higher = self.found * STEP
            return higher if higher <= self._highest else None
        if self._refined:
            return None
        self._refined = True
        return math.sqrt(self.found * self._too_much)
