"""`python -m pagewire_sync`."""

import pagewire_runtime.starting  # noqa: F401  # first: what comes next loads sooner
from pagewire_sync.main import main

main()
