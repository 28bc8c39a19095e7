"""`python -m pagewire_rules`."""

import pagewire_runtime.starting  # noqa: F401  # first: what comes next loads sooner
from pagewire_rules.main import main

main()
