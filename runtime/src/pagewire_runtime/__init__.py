"""What every Pagewire process needs: refusals, serving, calling, settings, logs, metrics."""

import os

# gRPC's core writes lines of its own to stderr, which are no JSON; it reads this when imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
