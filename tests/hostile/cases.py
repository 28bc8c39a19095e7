"""The catalogue of hostile input, as `cases.toml` has it."""

import tomllib
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One case; what its fields mean stands at the head of the file."""

    surface: str
    name: str
    request: str
    expect: str
    waits_for: str = ""
    chosen: str = ""
    status: int = 0
    body: str = ""
    outcome: str = ""
    events: int | list[int] = 0
    unreadable: tuple[str, ...] = ()
    state: str = ""
    reason: str = ""
    answers: str = "a send"


def _case(fields: dict[str, object]) -> Case:
    listed = fields.get("unreadable", [])
    assert isinstance(listed, list)
    return Case(**fields | {"unreadable": tuple(listed)})  # type: ignore[arg-type]


CASES = [
    _case(each)
    for each in tomllib.loads(Path(__file__).with_name("cases.toml").read_text())["case"]
]


def of(surface: str) -> list[Case]:
    """The cases of a surface that can be tried; those that wait are counted in `test_cases`."""
    return [case for case in CASES if case.surface == surface and not case.waits_for]
