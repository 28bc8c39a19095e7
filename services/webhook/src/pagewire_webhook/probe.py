"""Asks a process of this service whether it is healthy, whichever of its parts run there.

    python -m pagewire_webhook.probe

For a container's health check, which has the settings but not the command line, and so not what
`--parts` said. A part that is not there does not listen, and of a dispatcher alone METRICS_LISTEN
is all that does. Ends with 0 where somebody listens, and whoever listens answers 200; else with 1
and the reason.
"""

import os
import sys
from collections.abc import Mapping

from pagewire_runtime.probe import Absent, Unhealthy, probe_http

LISTENERS = {
    "WEBHOOK_LISTEN": "/healthz",
    "OPERATOR_LISTEN": "/metrics",  # /readyz would tell of the services behind it
    "METRICS_LISTEN": "/metrics",
}


def probe(environ: Mapping[str, str]) -> None:
    """Raises Unhealthy where a listener does not answer well, or none of them is there."""
    named = {name: path for name, path in LISTENERS.items() if environ.get(name)}
    urls = [f"http://{environ[name]}{path}" for name, path in named.items()]
    there = [url for url in urls if _answers(url)]
    if not there:
        raise Unhealthy(f"nobody listens at {', '.join(urls)}")


def _answers(url: str) -> bool:
    try:
        probe_http(url)
    except Absent:
        return False
    return True


if __name__ == "__main__":
    try:
        probe(os.environ)
    except Unhealthy as reason:
        sys.exit(str(reason))
