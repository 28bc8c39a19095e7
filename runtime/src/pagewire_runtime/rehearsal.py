"""Rehearsal: what only a test may ask of a process, to fail somewhere or to have the wrong time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from pagewire_runtime import faults
from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import SettingsError

FAULT = "FAULT"
FAULT_FILE = "FAULT_FILE"
CLOCK_SKEW = "PAGEWIRE_CLOCK_SKEW_SECONDS"
"""By how much this process's clock is ahead, in seconds; behind where negative."""


def rehearse(environ: Mapping[str, str]) -> None:
    """Arms this process as its environment says; mostly that says nothing.

    Raises SettingsError: it is no test (PAGEWIRE_TESTING=true says that it is one, and
    PAGEWIRE_ENVIRONMENT=production that it never is), or what is asked can't be read.
    """
    asked = [name for name in (FAULT, FAULT_FILE, CLOCK_SKEW) if environ.get(name)]
    if not asked:
        return
    if environ.get("PAGEWIRE_ENVIRONMENT") == "production":
        raise SettingsError("\n".join(f"{name}: unset it, this is production" for name in asked))
    if environ.get("PAGEWIRE_TESTING") != "true":
        raise SettingsError(
            "\n".join(f"{name}: is for tests alone, where PAGEWIRE_TESTING=true" for name in asked)
        )
    WALL.skew = _skew(environ.get(CLOCK_SKEW) or "0")
    file = environ.get(FAULT_FILE)
    try:
        faults.arm(environ.get(FAULT, ""), Path(file) if file else None)
    except ValueError as error:
        raise SettingsError(f"{FAULT}: {error}") from None


def _skew(text: str) -> timedelta:
    try:
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        raise SettingsError(f"{CLOCK_SKEW}: must be a number of seconds") from None
