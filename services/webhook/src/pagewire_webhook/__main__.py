"""`python -m pagewire_webhook`."""

from pagewire_runtime.starting import load_quickly

load_quickly()
from pagewire_webhook.main import main  # noqa: E402  # sooner behind that

main()
