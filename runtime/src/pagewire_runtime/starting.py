"""A quick start: imported before all else by a process whose absence is felt.

A service that died is away for as long as its modules take to load, and that is all work of the
processor: these two are a quarter of it.
"""

import gc
import sys

gc.disable()  # nothing that is being loaded is garbage; `serving.run` goes on collecting

# structlog and httpx load rich where somebody installed it, as our command line has it, for
# consoles that a service never writes to; without it they do as well.
sys.modules["rich"] = None  # type: ignore[assignment]  # how Python says that there is none
