"""What a command prints: a table or a JSON document on stdout, remarks and errors on stderr."""

import json
import sys
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell = str | Text | None

# What would reorder a terminal's line; control characters are recognised by their category.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def document(value: Any) -> None:
    """One JSON document, for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def line(value: Any) -> None:
    """One JSON document on one line, for what goes on for ever; seen at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def remark(text: str) -> None:
    """Something beside the result, for a person."""
    shown = "\n".join(map(clean, text.splitlines()))
    print(f"pagewire: {shown}", file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, empty: str) -> None:
    """Rich on a terminal, plain aligned text elsewhere; `empty` is said where there is no row."""
    if not rows:
        print(empty)
        return
    console = Console()
    if not console.is_terminal:
        print(aligned([columns, *([plain(cell) for cell in row] for row in rows)]))
        return
    shown = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        shown.add_row(*(_styled(cell) for cell in row))
    console.print(shown)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def plain(cell: Cell) -> str:
    """A cell where there are no colours: what is marked stands in brackets."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return clean(cell)
    text, shift = cell.plain, 0
    for span in cell.spans:
        start, end = span.start + shift, span.end + shift + 1
        text = f"{text[:start]}[{text[start : end - 1]}]{text[end - 1 :]}"
        shift += 2
    return text


def _styled(cell: Cell) -> Text:
    if cell is None:
        return Text("–", style="dim")
    return Text(clean(cell)) if isinstance(cell, str) else cell


def marked(text: str, start: int, end: int) -> Text:
    """The text with a stretch of it marked, given in characters; cleaned in both its forms."""
    before, found, after = text[:start], text[start:end], text[end:]
    return Text.assemble(clean(before), (clean(found), "reverse"), clean(after))


def clean(text: str) -> str:
    """Strangers' text without what could act on a terminal; line ends show as ⏎."""
    return "".join(_visible(character) for character in text.replace("\r\n", "\n"))


def _visible(character: str) -> str:
    if character == "\n":
        return "⏎"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDI:
        return "\ufffd"
    return character


def moment(written: str | None) -> str | None:
    """An RFC 3339 time as a person here reads it: date and time of the local zone."""
    if written is None:
        return None
    return datetime.fromisoformat(written).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def took(begin: str | None, end: str | None) -> str | None:
    """The time between two RFC 3339 times: 12 ms, 3.4 s, 5 min."""
    if begin is None or end is None:
        return None
    return span((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())


def span(seconds: float) -> str:
    """A stretch of time in the unit that fits it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
