import subprocess
import sys

import pytest

GOES_ON = """
import gc
from pagewire_runtime.serving import run
from pagewire_runtime.starting import load_quickly

async def main() -> None:
    print(before, gc.isenabled())

load_quickly()
before = gc.isenabled()
run(main)
"""


@pytest.mark.parametrize(
    "module", ["pagewire_store", "pagewire_rules", "pagewire_sync", "pagewire_webhook"]
)
def test_a_service_loads_nothing_that_is_for_consoles(module: str) -> None:
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}
    assert {f"{module}.main", "structlog"} <= loaded
    assert "rich.segment" not in loaded  # what is tried in vain, as `rich` itself, is named too


def test_garbage_is_collected_once_a_service_runs() -> None:
    said = subprocess.run(
        [sys.executable, "-c", GOES_ON], capture_output=True, text=True, check=True
    )

    assert said.stdout == "False True\n"
