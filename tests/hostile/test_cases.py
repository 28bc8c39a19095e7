"""No case of the catalogue is forgotten: each is tried, or waits for what is named."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.hostile.cases import CASES

OURS = {"edge POST": 1, "graph": 15}
"""So many cases are our own."""


def test_every_case_of_a_surface_is_here_once() -> None:
    found = Counter(case.surface for case in CASES)

    assert found == {
        "edge GET": 9,
        "edge POST": 74 + OURS["edge POST"],
        "graph": 13 + OURS["graph"],
    }
    assert len({case.name for case in CASES}) == len(CASES)


def waiting(catalogue: str) -> dict[str, str]:
    """What cannot be tried as it is meant, and what it waits for."""
    cases: list[dict[str, Any]]
    cases = tomllib.loads(Path(__file__).with_name(catalogue).read_text())["case"]
    return {case["name"]: case["waits_for"] for case in cases if "waits_for" in case}


def test_what_waits_is_known_by_name() -> None:
    assert waiting("cases.toml") == {"env_replay_after_erasure": "erasure"}
    assert waiting("transport.toml") == {
        "host_header_spoof": "the deletion callback, whose answer names an address"
    }
    assert waiting("grpc_cases.toml") == {}


def test_every_case_says_what_is_sent_and_what_can_be_counted_on() -> None:
    assert all(case.request and case.expect for case in CASES)
