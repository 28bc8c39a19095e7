"""What happens while the app reads: acts that wait for a number of calls to be answered."""

from collections.abc import Callable

import msgspec


class Arrival(msgspec.Struct):
    """``act`` is to be done after ``left`` more answered calls to the endpoint."""

    account: str
    endpoint: str
    left: int
    act: Callable[[], object]


class Arrivals:
    def __init__(self) -> None:
        self._waiting: list[Arrival] = []

    def add(self, arrival: Arrival) -> None:
        self._waiting.append(arrival)

    def answered(self, account: str, endpoint: str) -> None:
        """A call was answered, with what there was before the acts that waited for it."""
        if not self._waiting:
            return
        met = [a for a in self._waiting if (a.account, a.endpoint) == (account, endpoint)]
        for arrival in met:
            arrival.left -= 1
        self._waiting = [arrival for arrival in self._waiting if arrival.left > 0]
        for arrival in met:
            if arrival.left == 0:
                arrival.act()
