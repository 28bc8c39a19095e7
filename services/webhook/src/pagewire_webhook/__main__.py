"""`python -m pagewire_webhook`."""

from pagewire_webhook.main import main

main()
