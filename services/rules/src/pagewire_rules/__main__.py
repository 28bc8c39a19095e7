"""`python -m pagewire_rules`."""

from pagewire_rules.main import main

main()
