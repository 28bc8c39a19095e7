"""Tracebacks: as Python prints them, without the rows that a database quotes in its errors."""

from __future__ import annotations

import re
import textwrap
import traceback
from collections.abc import Iterator
from itertools import chain

LEFT_OUT = "[left out]"

# Where PostgreSQL's values begin in an error, and SQLAlchemy's parameters. Such a value may hold
# anything, line ends and these very words among it, so nothing behind tells where it ends.
_VALUES = re.compile(
    r"(?:(invalid input \w+ for [^:]{1,80}: )"
    r"|DETAIL:|CONTEXT:|Failing row contains|Key \([^)]*\)=|\[parameters:).*",
    re.DOTALL,
)
_QUOTED = re.compile(r'".*"', re.DOTALL)
_DATA_EXCEPTION = "22"
"""SQLSTATE's class of errors whose first line quotes the value, where others name a table."""

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def without_rows(text: str) -> str:
    """The text up to where a database's error, wherever it stands in it, begins to quote a row."""
    return _VALUES.sub(rf"\1{LEFT_OUT}", text)


def told(error: BaseException) -> str:
    """What the error says of itself, without the values of a row.

    A driver's error is known by its `diag` (psycopg), one around it by its `orig` (SQLAlchemy).
    """
    try:
        return without_rows(_told(error))
    except Exception:
        return "[it can't be told]"


def formatted(error: BaseException) -> str:
    """The traceback of the error, and of those that led to it or that it holds."""
    return "".join(_lines(error, set())).rstrip("\n")


def _told(error: BaseException) -> str:
    wrapped = getattr(error, "orig", None)
    if isinstance(wrapped, BaseException):
        statement = getattr(error, "statement", None)
        sql = f"\n[SQL: {statement}]" if statement else ""
        return f"({_name(wrapped)}) {told(wrapped)}{sql}"
    report = getattr(error, "diag", None)
    first_line = getattr(report, "message_primary", None)
    if not isinstance(first_line, str):
        return str(error)
    state = str(getattr(report, "sqlstate", None) or "")
    return _QUOTED.sub('"…"', first_line) if state.startswith(_DATA_EXCEPTION) else first_line


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    """The lines of a traceback; an error that was `seen` is not told again."""
    led_to: list[tuple[BaseException, str]] = []
    before: BaseException | None = error
    link = ""
    while before is not None and id(before) not in seen:
        seen.add(id(before))
        led_to.append((before, link))
        link = _CONTEXT if before.__cause__ is None else _CAUSE
        hidden = before.__suppress_context__
        before = before.__cause__ or (None if hidden else before.__context__)
    for each, link in reversed(led_to):
        yield from _own_lines(each, seen)
        yield link


def _own_lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    words = told(error)
    yield f"{_name(error)}: {words}\n" if words else f"{_name(error)}\n"
    for note in getattr(error, "__notes__", ()):
        yield f"{without_rows(str(note))}\n"
    if isinstance(error, BaseExceptionGroup):
        held = chain.from_iterable(_lines(each, seen) for each in error.exceptions)
        yield textwrap.indent("".join(held), "  | ")


def _name(error: BaseException) -> str:
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
