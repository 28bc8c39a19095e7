"""A question to the person at the terminal, before what can't be undone."""

import sys

import typer

from pagewire_cli.exits import Misused


def confirmed(question: str) -> bool:
    """Whether the person says yes. Raises Misused where nobody can be asked."""
    if not sys.stdin.isatty():
        raise Misused("nobody is here to be asked: say --yes")
    return typer.confirm(question, err=True)
