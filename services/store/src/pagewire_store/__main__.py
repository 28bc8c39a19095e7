"""Runs the store: `python -m pagewire_store`."""

from pagewire_runtime.starting import load_quickly

load_quickly()
from pagewire_store.main import main  # noqa: E402  # sooner behind that

main()
