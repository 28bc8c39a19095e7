"""Runs the store: `python -m pagewire_store`."""

import pagewire_runtime  # noqa: F401  # first: it quiets gRPC's core, which reads that on import
from pagewire_store.main import main

main()
