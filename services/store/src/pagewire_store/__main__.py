"""Runs the store: `python -m pagewire_store`."""

from pagewire_store.main import main

main()
