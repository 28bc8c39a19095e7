"""The trail of a walk along a list that moves under it: which page comes next.

Pure. A cursor points at an item. Where that item has jumped to the top meanwhile, what follows it
is the top again; where it was deleted, the cursor is refused. Either way the page before leads on,
so the walk goes one step back. A list that leads in a circle all the same is no list.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from math import inf

BEGINNINGS = 4
"""So many times a walk begins, before its cursors count as lost."""
EMPTY_MOST = 50
"""Meta's pages may be empty with more behind them; so many in a row lead nowhere."""


class TrailLost(Exception):
    """The list cannot be walked to its end; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Trail:
    """The cursors that a walk has come along; the last is of the page to be read now."""

    cursors: list[str] = field(default_factory=lambda: [""])
    """The first is where the walk begins: empty for a list's first page."""
    _bottoms: list[float] = field(default_factory=list)
    """For each cursor but the first the time of the item that it points at."""
    _known: set[str] = field(default_factory=set)
    _met: set[Hashable] = field(default_factory=set)
    _lost: set[str] = field(default_factory=set)
    _stepped_back: bool = False
    _empty: int = 0
    _beginnings: int = 1

    @property
    def here(self) -> str:
        """The cursor of the page to be read now; empty for the first."""
        return self.cursors[-1]

    def goes_on(
        self, after: str, items: Collection[Hashable], times: tuple[float, float] = (-inf, inf)
    ) -> None:
        """A page was read, and `after` leads on. Each of `items` names one of the page's as it is
        now; `times` are the highest and the lowest of the page, of a list that goes down by time.
        Raises TrailLost.
        """
        self._empty = 0 if items else self._empty + 1
        if after == self.here or self._empty > EMPTY_MOST:
            raise TrailLost("cursor_loop")
        circles = after in self._known
        old_news = bool(items) and self._met.issuperset(items)
        thrown_back = times[0] > min(self._bottoms, default=inf)
        self._met.update(items)
        self._known.add(after)
        if circles or old_news or thrown_back:
            if len(self.cursors) > 1 and not self._stepped_back:
                self._step_back()
                return
            if circles and old_news:
                self._begin_again("cursor_loop")
                return
        self._stepped_back = False
        self.cursors.append(after)
        self._bottoms.append(times[1])

    def refused(self) -> None:
        """Graph does not take the cursor any more. Raises TrailLost: it gave the same one anew."""
        if self.here and self.here in self._lost:
            raise TrailLost("cursor_lost")
        self._lost.add(self.here)
        if len(self.cursors) > 1 and not self._stepped_back:
            self._step_back()
        else:
            self._begin_again("cursor_lost")

    def restart(self) -> None:
        """From where the walk began."""
        del self.cursors[1:]
        self._bottoms.clear()
        self._known.clear()
        self._met.clear()
        self._stepped_back = False

    def _begin_again(self, reason: str) -> None:
        self._beginnings += 1
        if self._beginnings > BEGINNINGS:
            raise TrailLost(reason)
        self.restart()

    def _step_back(self) -> None:
        self.cursors.pop()
        if self._bottoms:  # of a walk that was taken over the first are not known
            self._bottoms.pop()
        self._stepped_back = True
