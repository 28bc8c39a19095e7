"""`python -m pagewire_webhook`."""

import pagewire_runtime  # noqa: F401  # first: it quiets gRPC's core, which reads that on import
from pagewire_webhook.main import main

main()
