"""`python -m pagewire_rules`."""

from pagewire_runtime.starting import load_quickly

load_quickly()
from pagewire_rules.main import main  # noqa: E402  # sooner behind that

main()
