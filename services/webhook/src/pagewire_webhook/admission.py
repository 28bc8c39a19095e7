"""Admission: as much under way as is answered in time, found out by how long the answers take.

A limit that follows the latency, as TCP's congestion control has it: what is answered sooner than
the target lets more in, what takes longer lets less in, in proportion. Little's law then makes the
limit the rate that is borne times the target, whatever the disk and the machine are; beyond it one
more would only make all wait, and in the end time out.

The limit learns from answers, so it is late where they are: until the first of a crowd is answered,
or when what serves them becomes slow. So where those that came first wait already, as many are let
in as would be answered in time at the rate that was seen before.
"""

from __future__ import annotations

from collections import deque

TARGET_SECONDS = 0.5
"""For an answer, where as much is under way as may be; a tenth of what Meta gives."""
LONGEST_SECONDS = 2 * TARGET_SECONDS
"""Nobody is let in who would wait longer; half of what an answer may take."""
LEAST = 16
"""So many are always let in, so that it is found out when things are well again."""
AT_FIRST = 1_024
MOST = 4_096

_SLOWER_GROWTH = 0.1
_GREATEST_CUT = 0.1
_RATE_OVER_SECONDS = 0.5
_RATE_KEPT = 0.8
"""Of a higher rate that was seen before: less is served than could be where less is asked."""


class Stay:
    """One that was let in."""

    __slots__ = ("entered", "is_over")

    def __init__(self, entered: float) -> None:
        self.entered = entered
        self.is_over = False


class Admission:
    """Counts what is under way, and says when it is enough; times by one steady clock."""

    def __init__(self, *, target: float = TARGET_SECONDS, at_first: float = AT_FIRST) -> None:
        self._target = target
        self._cut_at = float("-inf")
        self._before_cut = at_first
        self._stays: deque[Stay] = deque()
        self._rate = _Rate()
        self.limit = at_first
        self.under_way = 0

    def is_full(self, now: float) -> bool:
        """Whether one more would only make all wait; so many are the limit from then on."""
        if self.under_way < self.limit and self.under_way >= LEAST and self._is_late(now):
            self.limit = self.under_way
        return self.under_way >= self.limit

    def enter(self, now: float) -> Stay:
        """One more is under way."""
        if not self.under_way:
            self._rate.begin(now)
        self.under_way += 1
        self._stays.append(stay := Stay(now))
        return stay

    def leave(self, stay: Stay, now: float, *, done: bool) -> None:
        """One that had entered has ended now; `done`: as it should."""
        is_crowded = 2 * self.under_way >= self.limit
        self.under_way -= 1
        self._forget(stay)
        self._rate.count(now, is_idle=not self.under_way)
        took = now - stay.entered
        if not is_crowded:  # then the limit is not what it took so long for, nor a hindrance
            return
        if took > self._target:
            self._cut(stay.entered, now, took)
        elif done:
            self.limit = min(
                self.limit + (1.0 if 2 * took < self._target else _SLOWER_GROWTH), MOST
            )

    def _is_late(self, now: float) -> bool:
        waits = now - self._stays[0].entered > self._target / 2
        return waits and self.under_way > self._rate.known * LONGEST_SECONDS

    def _forget(self, stay: Stay) -> None:
        stay.is_over = True
        while self._stays and self._stays[0].is_over:
            self._stays.popleft()

    def _cut(self, entered: float, now: float, took: float) -> None:
        """Cuts the limit once for all that were under way together: for the slowest of them."""
        if entered >= self._cut_at:
            self._cut_at, self._before_cut = now, self.limit
        cut = self._before_cut * max(self._target / took, _GREATEST_CUT)
        self.limit = max(min(self.limit, cut), LEAST)


class _Rate:
    """How many a second end, while there are any."""

    def __init__(self) -> None:
        self.known = float("inf")
        self._count = 0
        self._busy = 0.0
        self._since = 0.0

    def begin(self, now: float) -> None:
        """There is something under way again."""
        self._since = now

    def count(self, now: float, *, is_idle: bool) -> None:
        """One has ended; `is_idle`: it was the last."""
        self._count += 1
        busy = self._busy + now - self._since
        if busy >= _RATE_OVER_SECONDS:
            self._see(self._count / busy)
            self._count, self._busy, self._since = 0, 0.0, now
        elif is_idle:
            self._busy = busy

    def _see(self, rate: float) -> None:
        if self.known == float("inf"):
            self.known = rate
        else:
            self.known = max(rate, _RATE_KEPT * self.known + (1 - _RATE_KEPT) * rate)
