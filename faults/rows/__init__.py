"""The rows of the fault matrix: each a function that brings one fault upon a system under load.

`@row("F20", weight="postgres")` makes an `async def (rig, draw) -> Struck` one of them; its first
line says what befalls. A row draws what is open of its fault from `draw`, ends the fault before it
returns, and says what it did. Whoever wants all of them calls `every()`.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from faults.evidence import Catchup, Lane
from faults.rig import Rig

WEIGHTS: Mapping[str, float] = {
    "process": 0.35,
    "postgres": 0.25,
    "network": 0.15,
    "graph": 0.15,
    "cache": 0.10,
}
"""How often random runs draw a fault of each family."""


@dataclass(frozen=True)
class Struck:
    """What a row did, and what a check is to allow for it.

    `kills` counts deaths of processes; `recoveries` are seconds from a death to the next life's
    readiness, by process, and of `postgres` from its return to the first 200. `poisoned`, `blocked`
    and `catchups` are as in `Evidence`, `slowest` as in `Bounds`. Where it `isolates`, all but the
    lanes that it `held` should have gone on as ever, which is measured.
    """

    kills: int = 0
    recoveries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    poisoned: frozenset[Lane] = frozenset()
    blocked: frozenset[str] = frozenset()
    slowest: float = 2.5
    catchups: Sequence[Catchup] = ()
    isolates: bool = False
    held: frozenset[Lane] = frozenset()


class Least(random.Random):
    """Draws the fewest deaths and the shortest outages, and else by its seed."""

    def randint(self, a: int, b: int) -> int:
        return a

    def uniform(self, a: float, b: float) -> float:
        return a


Strike: TypeAlias = Callable[[Rig, random.Random], Awaitable[Struck]]


@dataclass(frozen=True)
class Row:
    """A registered fault."""

    id: str
    family: str
    """A name of `WEIGHTS`."""
    strike: Strike
    proxies: frozenset[tuple[str, str]]
    """The pairs between which it needs a proxy."""

    @property
    def sentence(self) -> str:
        return (self.strike.__doc__ or "").strip().partition("\n")[0]


_rows: dict[str, Row] = {}


def row(
    id: str, *, weight: str, proxies: frozenset[tuple[str, str]] = frozenset()
) -> Callable[[Strike], Strike]:
    """Registers a fault of a family of `WEIGHTS`. Raises ValueError for what is no such row."""

    def register(strike: Strike) -> Strike:
        made = Row(id, weight, strike, proxies)
        if id in _rows or weight not in WEIGHTS or not made.sentence:
            raise ValueError(f"{id} is registered already, or has no known family, or no sentence")
        _rows[id] = made
        return strike

    return register


def every() -> dict[str, Row]:
    """All rows by their ids, in order: those of every module of this package."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_rows.items()))
