import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pagewire_runtime import faults
from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import SettingsError
from pagewire_runtime.rehearsal import rehearse

TESTING = {"PAGEWIRE_TESTING": "true"}
ASKED = {
    "FAULT": "edge.accepted=kill",
    "FAULT_FILE": "some/file",
    "PAGEWIRE_CLOCK_SKEW_SECONDS": "300",
}
SERVICES = ("store", "rules", "sync", "webhook")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    faults.arm()
    WALL.skew = timedelta()


def test_an_environment_that_asks_for_nothing_changes_nothing() -> None:
    rehearse({"PAGEWIRE_ENVIRONMENT": "production", "FAULT": ""})
    rehearse(TESTING)

    assert not faults.on
    assert WALL.skew == timedelta()


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PAGEWIRE_TESTING": "1"},
        {"PAGEWIRE_ENVIRONMENT": "production"},
        TESTING | {"PAGEWIRE_ENVIRONMENT": "production"},
    ],
)
def test_outside_of_tests_each_is_refused_by_its_name(
    name: str, environment: dict[str, str]
) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        rehearse(environment | {name: ASKED[name]})

    assert not faults.on
    assert WALL.skew == timedelta()


def test_in_a_test_the_process_is_armed_and_its_clock_is_wrong() -> None:
    rehearse(TESTING | ASKED)

    assert faults.on
    assert WALL.skew == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"FAULT": "edge.acepted=kill"}, "FAULT: 'edge.acepted' is no point"),
        ({"FAULT": "edge.accepted=die"}, "FAULT: 'die' is no action at edge.accepted"),
        (
            {"PAGEWIRE_CLOCK_SKEW_SECONDS": "5 min"},
            "PAGEWIRE_CLOCK_SKEW_SECONDS: must be a number of seconds",
        ),
    ],
)
def test_what_can_not_be_read_is_told_of(asked: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        rehearse(TESTING | asked)

    assert str(refused.value) == told


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_with_a_fault_does_not_start_outside_of_tests(
    service: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", f"pagewire_{service}"],
        env={"FAULT": "edge.accepted=kill", "PAGEWIRE_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr == "FAULT: is for tests alone, where PAGEWIRE_TESTING=true\n"
