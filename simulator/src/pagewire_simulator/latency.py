"""How long Graph takes to answer, by a named profile, seeded.

``none`` answers at once (tests). ``plain`` takes 200–300 ms for a call, 500–800 ms for a batch.
``modelled`` draws from lognormal distributions fitted to published figures: a read has its median
at 220 ms and its 95th percentile at 600 ms, a send at 400 and 900, one conversation read in 200
takes 5–90 s, and each message shown 1.5 ms; a batch 150 ms, 8 ms an operation, and as long as the
longest of those that run side by side.
"""

from math import log
from random import Random

PROFILES = ("none", "plain", "modelled")
P95 = 1.645  # standard deviations from the median to the 95th percentile
STUCK_READS = 0.005
SHOWING = 0.0015
BATCH, BATCH_OPERATION = 0.15, 0.008
READS = {"conversations", "thread", "thread_messages"}


class Latency:
    """``factor`` scales every figure: 0.5 for a fast Graph, 2 for a slow one."""

    def __init__(self, profile: str, seed: int, factor: float = 1.0) -> None:
        if profile not in PROFILES:
            raise ValueError(f"no latency profile is called {profile!r}: {', '.join(PROFILES)}")
        self.profile = profile
        self.factor = factor
        self._random = Random(f"{seed}/latency")

    def draw(self, endpoint: str, *, in_batch: bool = False) -> float:
        """Seconds until the answer; of an operation of a batch, beside what the batch takes."""
        if self.profile == "none" or (self.profile == "plain" and in_batch):
            return 0.0
        if self.profile == "plain":
            return self._random.uniform(0.2, 0.3) * self.factor
        if endpoint in READS and self._random.random() < STUCK_READS:
            return self._random.uniform(5, 90) * self.factor
        median, p95 = (0.4, 0.9) if endpoint == "send" else (0.22, 0.6)
        spread = log(p95 / median) / P95
        return self._random.lognormvariate(log(median), spread) * self.factor

    def draw_batch(self, operations: int) -> float:
        """Seconds that a batch takes beside its operations."""
        if self.profile == "none":
            return 0.0
        if self.profile == "plain":
            return self._random.uniform(0.5, 0.8) * self.factor
        return (BATCH + BATCH_OPERATION * operations) * self.factor

    def showing(self, items: int) -> float:
        """Seconds that it takes to gather so many messages."""
        return items * SHOWING * self.factor if self.profile == "modelled" else 0.0
