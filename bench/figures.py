"""Figures: what was measured round by round, beside its goal, its limit and its peers.

A ratio says how many times better we are than what stands beside us, whichever way is better: 2
means twice the rate, or half the latency. Ratios are paired by round, and the median is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Rounds: TypeAlias = Sequence[float]
"""One value a round."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all do not exceed; inf where there is none."""
    if not values:
        return float("inf")
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


@dataclass(frozen=True)
class Goal:
    """A bound: of the value itself, or of how many times better it is than `peer`."""

    bound: float
    peer: str | None = None


@dataclass(frozen=True)
class Measure:
    """One figure. `higher` says which way is better; a peer has as many rounds as we have."""

    name: str
    unit: str
    rounds: Rounds
    higher: bool = True
    goal: Goal | None = None
    limit: Rounds | None = None
    peers: Mapping[str, Rounds] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest round."""
        return min(self.rounds), max(self.rounds)

    def ratio(self, other: Rounds) -> float:
        """How many times better we are than `other`."""
        pairs = zip(self.rounds, other, strict=True)
        return statistics.median(
            _over(ours, theirs) if self.higher else _over(theirs, ours) for ours, theirs in pairs
        )

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is; None where there is none."""
        if self.goal is None:
            return None
        if self.goal.peer is not None:
            return self.ratio(self.peers[self.goal.peer]) >= self.goal.bound
        return self.value >= self.goal.bound if self.higher else self.value <= self.goal.bound


def _over(better: float, worse: float) -> float:
    return better / worse if worse else float("inf")


@dataclass(frozen=True)
class Suite:
    """What a suite measured, and what a reader has to know about how."""

    name: str
    measures: Sequence[Measure]
    notes: Sequence[str] = ()


class MeasuringFailed(Exception):
    """A figure could not be had, or what was measured lost or doubled something."""


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names in the order of this round, so that no one always comes first."""
    at = turn % len(names)
    return [*names[at:], *names[:at]]
