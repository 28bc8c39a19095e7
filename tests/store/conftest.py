"""What the tests of the store stand on: nothing gives up because the machine is busy."""

from typing import Any

import pytest

from pagewire_store import connections, database

LONG_SECONDS = 30.0


@pytest.fixture(autouse=True)
def nothing_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a connection, a lock or a statement has half a minute.

    Where it is tested that they give up, a module has a fixture of its own by this name.
    """
    usual = database._connecting

    def patient(**how: Any) -> dict[str, Any]:
        settings = usual(**how)
        milliseconds = f"{LONG_SECONDS * 1000:.0f}"
        limits = f" -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
        return settings | {"options": settings["options"] + limits, "connect_timeout": 30}

    monkeypatch.setattr(database, "_connecting", patient)
    for name in ("LIVE_SECONDS", "GENERAL_SECONDS", "UPKEEP_SECONDS"):
        monkeypatch.setattr(database, name, 2 * LONG_SECONDS)
    monkeypatch.setattr(database, "PATIENCE", LONG_SECONDS)
    monkeypatch.setattr(connections, "PATIENCE", LONG_SECONDS)
