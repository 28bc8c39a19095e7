"""The alarms of docs/operations.md look at figures that services show."""

import importlib
import re
from pathlib import Path

import pytest

from pagewire_runtime import metrics

DOCUMENT = (Path(__file__).parents[2] / "docs/operations.md").read_text()
WITHOUT_A_FIGURE = {
    "durability",  # a line of the log
    "usage headers",  # are in no figure yet
    "disk",  # no service sees PostgreSQL's
}
FIGURE = re.compile(r"(pagewire_\w+)(?:\{([^}]*)\})?")
CHOSEN_BY = re.compile(r'(\w+)(?:=~|!~|!=|=)"')
GROUPED_BY = re.compile(r"\bby \(([^)]*)\)")
COMPARED = re.compile(r" (?:>|<|==) ")


def alarms() -> dict[str, list[str]]:
    """The expressions of each, by its name."""
    _, _, chapter = DOCUMENT.partition("\n## Alarms\n")
    table = chapter.partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line) for line in table.splitlines() if line.startswith("| ")]
    return {
        row[1].strip(): [each for each in re.findall("`([^`]+)`", row[2]) if "pagewire_" in each]
        for row in rows[1:]
    }


ALARMS = alarms()


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """The figures of all services, each with its labels."""
    for service in ("store", "rules", "sync", "webhook"):
        importlib.import_module(f"pagewire_{service}.main")
    found = {}
    for name, collector in metrics.registry._names_to_collectors.items():
        le = {"le"} if name.endswith("_bucket") else set()
        found[name] = {*getattr(collector, "_labelnames", ()), *le}
    return found


def test_every_figure_that_is_named_is_shown_with_the_labels_that_it_is_chosen_by(
    shown: dict[str, set[str]],
) -> None:
    named = FIGURE.findall(DOCUMENT)

    assert len(named) > 30
    for name, chosen in named:
        assert name in shown
        assert {*CHOSEN_BY.findall(chosen)} <= shown[name], name


def test_every_alarm_compares_a_figure_but_for_those_that_have_none() -> None:
    comparing = {name for name, found in ALARMS.items() if found and COMPARED.search(found[0])}

    assert len(ALARMS) > 25
    assert ALARMS.keys() - comparing == WITHOUT_A_FIGURE
    assert not [ALARMS[name] for name in WITHOUT_A_FIGURE if ALARMS[name]]


@pytest.mark.parametrize("alarm", ALARMS)
def test_what_an_alarm_groups_by_is_a_label_of_what_it_looks_at(
    alarm: str, shown: dict[str, set[str]]
) -> None:
    for expression in ALARMS[alarm]:
        labels = {label for name, _ in FIGURE.findall(expression) for label in shown[name]}
        groups = {group for found in GROUPED_BY.findall(expression) for group in found.split(", ")}

        assert groups <= labels
        assert expression.count("(") == expression.count(")")
