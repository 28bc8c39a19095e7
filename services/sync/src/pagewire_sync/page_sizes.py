"""Page sizes: how many items an edge of a page gives at once, learnt from what was too much.

Meta names no limits; what is too much depends on the page (an answer "reduce the amount of data",
or one that is too large or too slow). Of a page that refused any more than one, some clients tell.
"""

from collections.abc import Mapping

LEAST = 1
GROWN_AFTER = 20
"""So many good answers in a row, and the size is tried a quarter larger."""


class PageSizes:
    """Of one page, by edge. Given as it was remembered, told again as it has become."""

    def __init__(self, remembered: Mapping[str, int] | None = None) -> None:
        self._sizes = {edge: size for edge, size in (remembered or {}).items() if size >= LEAST}
        self._good: dict[str, int] = {}
        self._refused: dict[str, int] = {}

    def of(self, edge: str, most: int) -> int:
        """How many to ask for; never more than `most`."""
        return min(self._sizes.get(edge, most), most)

    def shrink(self, edge: str, size: int) -> int:
        """So many were too much: half of it from now on. The least is one."""
        self._good[edge] = 0
        self._refused[edge] = min(size, self._refused.get(edge, size))
        self._sizes[edge] = max(size // 2, LEAST)
        return self._sizes[edge]

    def well(self, edge: str, most: int) -> None:
        """An answer came with the present size: after some of them it grows, up to `most`.

        Not in this run to what was refused in it.
        """
        if (size := self._sizes.get(edge)) is None:
            return
        good = self._good[edge] = self._good.get(edge, 0) + 1
        larger = min(size + max(size // 4, 1), most)
        if good >= GROWN_AFTER and larger < self._refused.get(edge, most + 1):
            self._sizes[edge], self._good[edge] = larger, 0

    def learnt(self) -> dict[str, int]:
        """What there is to remember, by edge; an edge that gave all it was asked is left out."""
        return dict(self._sizes)
