"""The wall clock: the time of day as this process takes it, which a test may set wrong.

Windows, expiries and the times of events are by it. Leases are by the database's clock, waits and
deadlines by the loop's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Tells the time; `skew` is how far it is ahead of the machine's."""

    def __init__(self, skew: timedelta = timedelta()) -> None:
        self.skew = skew

    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.now(UTC) + self.skew

    def seconds(self) -> float:
        """The same as seconds of Unix time."""
        return time.time() + self.skew.total_seconds()


WALL = Clock()
"""The clock of this process, for whoever is given no other."""
