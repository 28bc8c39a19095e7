"""Shapes: how many threads a call lists, and how many messages of each, for the fewest calls.

Pure. What counts against Meta's allowance is the call, so a run wants few large ones. A page takes
so many threads at once, and so many threads times messages; beyond that Graph says that it is too
much. A thread with more messages than came nested costs at least one call of its own. Which shape
is cheapest so depends on how long a page's threads are, which the first answer tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

WEIGHT = 2_500
"""Threads times messages that are asked for at once at the most. Meta publishes no figure; clients
in public ask for 50 threads with 50 messages each, and halve what is refused."""
THREADS = 500
TAIL = 500
"""Messages of one thread in a call: clients in public page them by 100 to 400."""
FORESEEN = 3
"""While a list goes on nobody knows how far: it is taken to be so many pages more."""
GAIN = 1.0
"""Calls that another shape must save, beside the one that was spent on the first answer."""
_MESSAGES = (1, 2, 3, 5, 8, 10, 12, 16, 20, 25, 30, 40, 50, 64, 80, 100, 150, 200, 300, 500)


@dataclass(frozen=True, slots=True)
class Shape:
    """So many threads a call with so many messages each."""

    threads: int
    messages: int

    @property
    def weight(self) -> int:
        """What is asked for at once."""
        return self.threads * self.messages


FIRST = Shape(125, 20)
"""Before anything is known: as long as the most threads are short it is near the best."""
NEWS = Shape(25, 10)
"""For what is new since a few minutes ago: answered fast, and mostly enough."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a page was found to take in a call."""

    weight: int = WEIGHT
    tail: int = TAIL

    @property
    def is_least(self) -> bool:
        """Whether the page takes so little that there is no choice left: some take one thread."""
        return self.weight <= FIRST.messages

    def within(self, shape: Shape) -> Shape:
        """The shape, cut to what the page takes: fewer threads first."""
        messages = min(shape.messages, self.weight)
        return Shape(max(min(shape.threads, self.weight // messages), 1), messages)

    def best(self, lengths: Sequence[int], *, ended: bool) -> tuple[Shape, float]:
        """The shape with the fewest calls for threads of these lengths, and how many those are."""
        shapes = [
            self.within(Shape(min(self.weight // messages, THREADS), messages))
            for messages in _MESSAGES
            if messages <= self.weight
        ]
        return min(
            ((shape, self.calls(shape, lengths, ended=ended)) for shape in shapes),
            key=lambda each: (each[1], each[0].weight),
        )

    def calls(self, shape: Shape, lengths: Sequence[int], *, ended: bool) -> float:
        """What threads of these lengths cost in this shape, the newest first; where the list goes
        on behind them, with what is foreseen: more of the kind of their older half, as those who
        wrote of late tend to have written much.
        """
        here = self._tails(shape, lengths)
        if ended:
            return ceil(len(lengths) / shape.threads) + here
        older = lengths[len(lengths) // 2 :]
        behind = len(older) / shape.threads + self._tails(shape, older)
        return len(lengths) / shape.threads + here + 2 * FORESEEN * behind

    def _tails(self, shape: Shape, lengths: Sequence[int]) -> int:
        return sum(ceil(max(length - shape.messages, 0) / self.tail) for length in lengths)


def better(room: Room, shape: Shape, lengths: Sequence[int], *, ended: bool) -> Shape | None:
    """Another shape that is worth beginning again for, after the first answer came in `shape`."""
    if not lengths or room.is_least:
        return None
    found, calls = room.best(lengths, ended=ended)
    staying = room.calls(shape, lengths, ended=ended) - 1  # the answer that is here
    return found if calls + GAIN < staying else None
