"""How webhooks are delivered: batching, repeats, reordering, delay, patience; drawn from a seed.

The spacing of retries is not published, so it is a parameter; that a few come at once and the rest
ever later is (messaging: given up after an hour; changes: after 36).
"""

from enum import StrEnum
from random import Random

import msgspec


class Repeat(StrEnum):
    """When the second copy of a delivery goes out, seen from the first."""

    CONCURRENT = "concurrent"
    SEQUENTIAL = "sequential"
    LATER = "later"


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """The sender's habits. Probabilities are 0–1, durations seconds.

    ``batch_max``: entries a POST (at most 1000); events are merged only while others wait, or
    while ``gather`` seconds pass. ``connections``: POSTs at the same time; 1 keeps the order.
    ``reorder``: share of events held back by ``reorder_by``. ``repeat``: share of deliveries sent
    again in one of ``repeat_modes``; ``new_time``: share of those with a fresh ``entry.time``.
    ``retries``: pauses before each further attempt, the last one for ever.
    """

    batch_max: int = 1
    gather: float = 0
    connections: int = 8
    delay: tuple[float, float] = (0, 0)
    reorder: float = 0
    reorder_by: float = 0.2
    repeat: float = 0
    repeat_modes: tuple[Repeat, ...] = tuple(Repeat)
    later_by: float = 5
    new_time: float = 0.5
    timeout: float = 5
    retries: tuple[float, ...] = (0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
    give_up_messaging: float = 3600
    give_up_changes: float = 36 * 3600

    def retry_after(self, attempt: int) -> float:
        """Seconds from the failed attempt (1 is the first) to the next."""
        return self.retries[min(attempt, len(self.retries)) - 1]


class Chance:
    """The plan's dice: one seeded stream a question, so that one never shifts another."""

    def __init__(self, seed: int) -> None:
        self._delay = Random(f"{seed}/delay")
        self._repeat = Random(f"{seed}/repeat")
        self._time = Random(f"{seed}/time")
        self._lag = Random(f"{seed}/lag")
        self._late = Random(f"{seed}/late")
        self._batch = Random(f"{seed}/batch")

    def delay(self, plan: Plan) -> float:
        """How long an event waits before it may go out."""
        low, high = plan.delay
        seconds = self._delay.uniform(low, high) if high else 0.0
        if plan.reorder and self._delay.random() < plan.reorder:
            seconds += plan.reorder_by
        return seconds

    def repeat(self, plan: Plan) -> Repeat | None:
        if plan.repeat and self._repeat.random() < plan.repeat:
            return self._repeat.choice(plan.repeat_modes)
        return None

    def new_time(self, plan: Plan) -> bool:
        return self._time.random() < plan.new_time

    def is_late(self, share: float) -> bool:
        """Whether an echo is one of the late ones, where so many are."""
        return bool(share) and self._late.random() < share

    def is_aborted(self, share: float) -> bool:
        """Whether an unfinished operation is told of by an error instead of by null."""
        return self._batch.random() < share

    def takes_effect(self, share: float) -> bool:
        """Whether an unfinished operation is carried out all the same."""
        return self._batch.random() < share

    def lag(self) -> int:
        """Milliseconds between what a person does and the sending of its event."""
        return self._lag.randint(100, 1000)
