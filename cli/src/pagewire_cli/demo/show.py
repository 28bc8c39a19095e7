"""What the demo shows: a line for each step, a row for each answer, and the summary."""

import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.status import Status
from rich.text import Text

from pagewire_cli import output
from pagewire_cli.demo.proof import Claim
from pagewire_cli.demo.story import Json
from pagewire_cli.demo.watching import Played
from pagewire_cli.progress import Tell, board

LEAST, MOST = 92, 140  # columns
NARROW = (5, 19, 23, 12, 6)  # who, where, said, rule, time; what is answered has the rest


class Show:
    """Rows grow downwards and stay; on a terminal the last line moves while something is awaited.

    With `quiet` it writes to stderr, where stdout has a JSON document.
    """

    def __init__(self, *, quiet: bool) -> None:
        out = sys.stderr if quiet else sys.stdout
        terminal = out.isatty()
        self._console = Console(file=out, highlight=False, width=None if terminal else 100)
        self._width = max(LEAST, min(self._console.width, MOST)) if terminal else 100
        self._began = time.monotonic()
        self._status: Status | None = None
        self._ended: Counter[str] = Counter()

    def say(self, text: str = "", style: str = "") -> None:
        self._console.print(Text(text, style), soft_wrap=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A step that takes a while."""
        began = time.monotonic()
        with self._console.status(f"{text} …"):
            yield
        line = Text.assemble(
            ("  ✓ ", "green"), text, (f"  {time.monotonic() - began:.1f} s", "dim")
        )
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def runs(self, count: int) -> Iterator[Tell]:
        """So many runs of history, each with its progress where a terminal shows it."""
        self.scene("What was written before, mirrored from Graph at two calls a second a page")
        with board(count, self._console) as tell:
            yield tell

    def run(self, name: str, run: Json) -> None:
        """A run that has ended."""
        told = {"conversations": "threads", "messages": "messages", "comments": "comments"}
        figures = [f"{run[what]:,} {word}" for what, word in told.items() if run[what]]
        took = output.took(run["started_at"], run["finished_at"]) or "never begun"
        line = Text.assemble(
            ("  ✓ ", "green") if run["state"] == "succeeded" else ("  ✗ ", "bold red"),
            f"{name}, {run['kind']}: {', '.join(figures) or 'nothing'}",
            f" in {_counted(run['graph_calls'], 'call')}",
            (f"  {took}", "dim"),
            (f"  {run['state']}: {run['error']}", "red") if run["error"] else "",
        )
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        """While it lasts, a terminal's last line counts what was answered."""
        with self._console.status(self._counted()) as self._status:
            yield
        self._status = None

    def _counted(self) -> str:
        return ", ".join(f"{count} {outcome}" for outcome, count in self._ended.items()) or "…"

    def scene(self, title: str) -> None:
        """What follows belongs together."""
        self._console.print()
        self._console.print(Text(title, "bold"), soft_wrap=True)

    def head(self) -> None:
        """The columns' names."""
        self._row(("WHO", "WHERE", "WROTE", "RULE", "AFTER", "ANSWER"), ("dim",) * 6)

    def row(self, played: Played) -> None:
        """One act and what came of it."""
        act = played.act
        took = played.milliseconds
        decision = played.decision or {}
        fired = next((rule["name"] for rule in decision.get("rules", ()) if rule["fired"]), None)
        answers = [_answer(call) for call in played.calls] or [f"– ({decision.get('reason')})"]
        where = f"{act.shop.handle} {act.kind.replace('_', ' ')}"
        cells = (act.person, where, act.text, fired or "–", _time(took), answers[0])
        self._row(cells, ("bold", "", "", "cyan", "green", "" if fired else "dim"))
        for more in answers[1:]:
            self._row(("", "", "", "", "", more), ("",) * 6)
        self._ended[act.outcome] += 1
        if self._status is not None:
            self._status.update(self._counted())

    def _row(self, cells: Sequence[str], styles: Sequence[str]) -> None:
        left = self._width - 2 - sum(NARROW) - 2 * len(NARROW)
        said = max(0, left - 30) // 2
        widths = (*NARROW[:2], NARROW[2] + said, *NARROW[3:], left - said)
        line = Text("  ")
        for cell, width, style in zip(cells, widths, styles, strict=True):
            line.append(fitted(cell, width), style)
            line.append("  ")
        line.rstrip()
        self._console.print(line, no_wrap=True, crop=False, overflow="ignore")

    def summary(self, figures: Json, claims: Sequence[Claim]) -> None:
        """The figures, and what of the claims holds."""
        self._console.print()
        self._console.print(Text("What it took", "bold"))
        for name, text in _figures(figures, time.monotonic() - self._began):
            indented = textwrap.fill(text, self._width - 14).replace("\n", "\n" + " " * 14)
            line = Text.assemble((f"  {name:<12}", "dim"), indented)
            self._console.print(line, soft_wrap=True)
        self._console.print()
        self._console.print(Text("Checked against the simulator's ledger and the store", "bold"))
        for claim in claims:
            sign = ("  ✓ ", "green") if claim.holds else ("  ✗ ", "bold red")
            self._console.print(Text.assemble(sign, claim.text), soft_wrap=True)
            for failure in claim.failures[:5]:
                self._console.print(Text(f"      {failure}", "red"), soft_wrap=True)


def _figures(figures: Json, seconds: float) -> Iterator[tuple[str, str]]:
    ack, request, graph = figures["ack_ms"], figures["receipt_to_request_ms"], figures["graph_ms"]
    down = figures["after_the_edge_died_ms"]
    history = figures["history"]
    yield (
        "history",
        f"{history['conversations']:,} conversations, {history['messages']:,} messages,"
        f" {history['comments']} comments in {history['calls']} calls and {history['seconds']} s",
    )
    yield "people", f"{figures['people']} on 3 pages, within {seconds:.0f} s from nothing"
    yield (
        "webhooks",
        f"{figures['webhooks']} sent, {figures['refused']} of them to a dead edge;"
        f" acknowledged within {_percentiles(ack)}",
    )
    yield (
        "answers",
        f"{figures['answers']}, asked of Graph within {_percentiles(request)} of receipt",
    )
    yield "", f"then Graph takes its time, as Meta's does: {_percentiles(graph)}, simulated"
    if down["p50"] is not None:
        yield "", f"those who met a dead edge waited {down['p50'] / 1000:.1f} s for its restart"
    yield "rules", ", ".join(f"{rule} {count}" for rule, count in figures["by_rule"].items())
    yield (
        "declined",
        ", ".join(f"{reason} {count}" for reason, count in figures["declined"].items()) or "none",
    )
    yield (
        "kept aside",
        f"{figures['quarantined']} body in quarantine,"
        f" {figures['unknown_page_events']} event of an unknown page",
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _percentiles(times: Json) -> str:
    return f"{times['p50']} ms (median), {times['p95']} ms (95 %)"


def _answer(call: Json) -> str:
    match call["endpoint"]:
        case "comment_update":
            return "(comment hidden)"
        case "private_reply":
            return f"✉ {call['text']}"
        case "comment_reply":
            return f"↳ {call['text']}"
        case _:
            return str(call["text"])


def _time(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def fitted(text: str, width: int) -> str:
    """The text in exactly so many columns, its end cut with an ellipsis."""
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1).rstrip() + "…"
    return set_cell_size(text, width)
