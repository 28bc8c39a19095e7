"""`python -m pagewire_webhook`."""

import pagewire_runtime.starting  # noqa: F401  # first: what comes next loads sooner
from pagewire_webhook.main import main

main()
