"""`python -m pagewire_sync`."""

from pagewire_runtime.starting import load_quickly

load_quickly()
from pagewire_sync.main import main  # noqa: E402  # sooner behind that

main()
