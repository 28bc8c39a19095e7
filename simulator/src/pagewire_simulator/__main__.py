"""``python -m pagewire_simulator``."""

import sys

from pagewire_simulator.main import main

sys.exit(main())
