"""Admission: as much under way as is answered in time, found out by how long the answers take.

A limit that follows the latency, as TCP's congestion control has it: what is answered sooner than
the target lets more in, what takes longer lets less in, in proportion. Little's law then makes the
limit the rate that is borne times the target, whatever the disk and the machine are; beyond it one
more would only make all wait, and in the end time out.
"""

from __future__ import annotations

TARGET_SECONDS = 0.5
"""For an answer, where as much is under way as may be; a tenth of what Meta gives."""
LEAST = 16
"""So many are always let in, so that it is found out when things are well again."""
AT_FIRST = 512
MOST = 4_096

_SLOWER_GROWTH = 0.1
_GREATEST_CUT = 0.1


class Admission:
    """Counts what is under way, and says when it is enough; times by one steady clock."""

    def __init__(self, *, target: float = TARGET_SECONDS, at_first: float = AT_FIRST) -> None:
        self._target = target
        self._cut_at = float("-inf")
        self._before_cut = at_first
        self.limit = at_first
        self.under_way = 0

    @property
    def is_full(self) -> bool:
        return self.under_way >= self.limit

    def enter(self) -> None:
        """One more is under way."""
        self.under_way += 1

    def leave(self, entered: float, now: float, *, done: bool) -> None:
        """One that had entered then has ended now; `done`: as it should."""
        is_crowded = 2 * self.under_way >= self.limit
        self.under_way -= 1
        took = now - entered
        if not is_crowded:  # then the limit is not what it took so long for, nor a hindrance
            return
        if took > self._target:
            self._cut(entered, now, took)
        elif done:
            self.limit = min(
                self.limit + (1.0 if 2 * took < self._target else _SLOWER_GROWTH), MOST
            )

    def _cut(self, entered: float, now: float, took: float) -> None:
        """Cuts the limit once for all that were under way together: for the slowest of them."""
        if entered >= self._cut_at:
            self._cut_at, self._before_cut = now, self.limit
        cut = self._before_cut * max(self._target / took, _GREATEST_CUT)
        self.limit = max(min(self.limit, cut), LEAST)
