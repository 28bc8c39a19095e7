"""Each planted bug can be planted in the services as they are now.

Whether its row brings it to light is a matter of minutes: `make rows`. That what it spoils is still
there is one of seconds.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from faults import planted

ROOT = Path(__file__).parents[2]
PLANT_EACH = """
import os, sys, traceback
import pagewire_runtime
import pagewire_store.main, pagewire_sync.main, pagewire_webhook.main
from faults.planted import BUGS

for name, bug in BUGS.items():
    if os.fork() == 0:
        try:
            bug.plant()
        except Exception:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.wait()
    print(name, "planted" if status == 0 else "NOT")
"""
"""In a process of its own for each bug, which it ends with."""


@pytest.mark.timeout(300)
def test_every_bug_can_be_planted() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PLANT_EACH], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert told.stdout.splitlines() == [f"{name} planted" for name in planted.BUGS], told.stderr


class Statement:
    sql = b"select 1"


def test_what_is_not_there_any_more_cannot_be_spoiled() -> None:
    with pytest.raises(AttributeError):
        planted._replace(Statement, "said", None)
    with pytest.raises(LookupError):
        planted._reword(Statement(), "select 2", "select 3")
    with pytest.raises(LookupError):
        planted._retable({("nowhere", "nothing"): None})
