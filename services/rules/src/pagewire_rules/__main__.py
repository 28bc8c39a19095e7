"""`python -m pagewire_rules`."""

import pagewire_runtime  # noqa: F401  # first: it quiets gRPC's core, which reads that on import
from pagewire_rules.main import main

main()
