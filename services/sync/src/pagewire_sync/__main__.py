"""`python -m pagewire_sync`."""

from pagewire_sync.main import main

main()
