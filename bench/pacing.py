"""When requests are due: fixed before the first is sent, whatever the server does."""

from __future__ import annotations

import random
from itertools import accumulate


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """So many moments, in seconds from the start, that come by chance at `rate` a second."""
    chance = random.Random(seed)
    return list(accumulate(chance.expovariate(rate) for _ in range(count)))
