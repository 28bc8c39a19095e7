"""The table that a reader of a benchmark sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.figures import Goal, Measure, Suite

HEAD = ("measure", "unit", "value", "rounds", "goal", "met", "limit", "of limit", "beside")


def rendered(suite: Suite) -> str:
    """The suite as Markdown; a goal that is missed stands out."""
    rows = [HEAD, tuple("---" for _ in HEAD), *(_row(measure) for measure in suite.measures)]
    notes = [f"- {note}" for note in suite.notes]
    return "\n".join([f"\n### {suite.name}\n", *_aligned(rows), "", *notes])


def missed(suites: Iterable[Suite]) -> list[str]:
    """A line for each goal that is missed."""
    return [
        f"{suite.name}: {measure.name} is {number(measure.value)} {measure.unit},"
        f" the goal {_goal(measure, measure.goal)}{_against(measure, measure.goal)}"
        for suite in suites
        for measure in suite.measures
        if measure.goal is not None and not measure.is_met
    ]


def number(value: float) -> str:
    """Three digits that count."""
    if value == float("inf"):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _row(measure: Measure) -> tuple[str, ...]:
    low, high = measure.spread
    limit = measure.limit
    return (
        measure.name,
        measure.unit,
        number(measure.value),
        f"{number(low)}–{number(high)} ({len(measure.rounds)})",
        _goal(measure, measure.goal),
        {True: "yes", False: "**NO**", None: ""}[measure.is_met],
        number(_middle(limit)) if limit else "",
        number(measure.ratio(limit)) if limit else "",
        "; ".join(
            f"{name}: {number(_middle(peer))} ({number(measure.ratio(peer))} ×)"
            for name, peer in measure.peers.items()
        ),
    )


def _goal(measure: Measure, goal: Goal | None) -> str:
    if goal is None:
        return ""
    if goal.peer is not None:
        return f"≥ {number(goal.bound)} × {goal.peer}"
    return f"{'≥' if measure.higher else '≤'} {number(goal.bound)}"


def _against(measure: Measure, goal: Goal) -> str:
    return f", it is {number(measure.ratio(measure.peers[goal.peer]))} ×" if goal.peer else ""


def _middle(rounds: Sequence[float]) -> float:
    return Measure("", "", rounds).value


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
