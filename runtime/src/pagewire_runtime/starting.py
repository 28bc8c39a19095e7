"""A quick start: called before all else is imported by a process whose absence is felt.

A service that died is away for as long as its modules take to load, and that is all work of the
processor: a quarter of it is spared here.
"""

import gc
import sys


def load_quickly() -> None:
    """Puts off collecting garbage, which `serving.run` takes up again, and hides rich.

    Nothing that is being loaded is garbage. structlog and httpx load rich where somebody installed
    it, as our command line has it, for consoles that a service never writes to.
    """
    gc.disable()
    sys.modules["rich"] = None  # type: ignore[assignment]  # how Python says that there is none
