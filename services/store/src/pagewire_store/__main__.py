"""Runs the store: `python -m pagewire_store`."""

import pagewire_runtime.starting  # noqa: F401  # first: what comes next loads sooner
from pagewire_store.main import main

main()
