"""A coverage-guided search for bodies that break the reading of webhooks.

    python scripts/fuzz.py [-max_total_time=600 or other options of libFuzzer] [folder for finds]

It needs `atheris`, which is no dependency: install it beside Pagewire. It begins with the bodies of
tests/support/payloads and changes them. Any bytes must give a delivery that the store takes and can
project, the same one twice, without the reader failing; whatever does not ends the search and is
written down, to become a test.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["pagewire_webhook", "pagewire_store"]):
    from pagewire_store.arrivals import parcel
    from pagewire_store.projections import project
    from pagewire_webhook.deliveries import delivery_of
    from pagewire_webhook.signature import Secret, signer

PAYLOADS = Path(__file__).parent.parent / "tests" / "support" / "payloads"
RECEIVED_MS = 1_767_312_000_000
DELIVERY_ID = "01980000-0000-7000-8000-000000000000"
NAMED = "changed_fields"
SECRETS = (Secret("app", b"a-secret-for-the-search-alone"),)


def try_body(raw: bytes) -> None:
    """Raises whatever does not hold of the body."""
    first, again = (
        delivery_of(raw, delivery_id=DELIVERY_ID, received_ms=RECEIVED_MS, signed_by="app")
        for _ in range(2)
    )
    if first != again:
        raise AssertionError("the same body was read in two ways")
    if any(item.reason == "reader_failed" for item in first.unreadable):
        raise AssertionError("the reader failed")
    if not first.events and not first.unreadable and says_something(raw):
        raise AssertionError("nothing came of the body, and nothing says so")
    if first.body != raw:
        raise AssertionError("the raw body is not what came")
    project(arrival.event for arrival in parcel(first).arrivals.values())
    if signer(raw, [raw[:80]], SECRETS, 0.0) is not None:
        raise AssertionError("a signature was taken that nobody made")


def says_something(raw: bytes) -> bool:
    """Whether an entry holds an item, or nothing but what is unknown."""
    found = json.loads(raw)
    bodies = found if isinstance(found, list) else [found]
    return any(_holds_something(entry) for body in bodies for entry in body["entry"])


def _holds_something(entry: dict[str, Any]) -> bool:
    items = [entry[name] for name in ("messaging", "standby", "changes") if name in entry]
    if items or "field" in entry:
        return any(items)
    return any(held for name, held in entry.items() if name not in ("id", "uid", "time", NAMED))


def main() -> None:
    with tempfile.TemporaryDirectory() as seeds:
        for body in PAYLOADS.glob("*.json"):
            (Path(seeds) / body.name).write_bytes(body.read_bytes())
        options = [given for given in sys.argv[1:] if given.startswith("-")]
        folders = [given for given in sys.argv[1:] if not given.startswith("-")]
        atheris.Setup([sys.argv[0], *options, *folders, seeds], try_body)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
