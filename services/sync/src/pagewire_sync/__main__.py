"""`python -m pagewire_sync`."""

import pagewire_runtime  # noqa: F401  # first: it quiets gRPC's core, which reads that on import
from pagewire_sync.main import main

main()
