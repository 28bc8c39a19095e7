"""How long Graph takes to answer, by a named profile, seeded.

``none`` answers at once (tests). ``plain`` takes 200–300 ms. ``modelled`` draws from lognormal
distributions fitted to published figures: a read has its median at 220 ms and its 95th percentile
at 600 ms, a send at 400 and 900, and one conversation read in 200 takes 5–90 s.
"""

from math import log
from random import Random

PROFILES = ("none", "plain", "modelled")
P95 = 1.645  # standard deviations from the median to the 95th percentile
STUCK_READS = 0.005


class Latency:
    """``factor`` scales every figure: 0.5 for a fast Graph, 2 for a slow one."""

    def __init__(self, profile: str, seed: int, factor: float = 1.0) -> None:
        if profile not in PROFILES:
            raise ValueError(f"no latency profile is called {profile!r}: {', '.join(PROFILES)}")
        self.profile = profile
        self.factor = factor
        self._random = Random(f"{seed}/latency")

    def draw(self, endpoint: str) -> float:
        """Seconds until the answer."""
        if self.profile == "none":
            return 0.0
        if self.profile == "plain":
            return self._random.uniform(0.2, 0.3) * self.factor
        if endpoint == "conversations" and self._random.random() < STUCK_READS:
            return self._random.uniform(5, 90) * self.factor
        median, p95 = (0.4, 0.9) if endpoint == "send" else (0.22, 0.6)
        spread = log(p95 / median) / P95
        return self._random.lognormvariate(log(median), spread) * self.factor
