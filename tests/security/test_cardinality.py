"""How many series the metrics have, whoever writes to the pages and whatever strangers ask for."""

import importlib
import json

import pytest

from pagewire_runtime import metrics
from pagewire_webhook.ingesting import Ingesting
from pagewire_webhook.public import PublicConfig, public_app
from pagewire_webhook.signature import secrets_of
from tests.runtime.conftest import Serve, serve, unary
from tests.webhook.test_public import SECRET, TOKEN, FakeStore, ask, signed

__all__ = ["serve"]

SERIES = 2_000
USERS = 100_000
IN_A_BODY = 1_000

BOUNDED = {
    "alone", "cause", "certainty", "code", "end", "key", "kind", "le", "method", "mode", "name",
    "operation",
    "outcome", "parked", "part", "reason", "result", "signal", "state", "table", "verdict", "via",
    "what", "whose", "why",
}  # fmt: skip
"""Labels whose values are words of ours, or of a contract's; none holds an id or a text."""


def series() -> int:
    return sum(1 for line in metrics.render().splitlines() if line and not line.startswith(b"#"))


def test_every_label_is_one_of_those_whose_values_are_few() -> None:
    for service in ("store", "rules", "sync", "webhook"):
        importlib.import_module(f"pagewire_{service}.main")

    labels = {
        name
        for metric in metrics.registry.collect()
        for sample in metric.samples
        for name in sample.labels
    }
    declared = {
        name
        for collector in metrics.registry._collector_to_names
        for name in getattr(collector, "_labelnames", ())
    }

    assert "outcome" in declared
    assert labels | declared <= BOUNDED


async def test_a_hundred_thousand_people_make_no_more_than_two_thousand_series() -> None:
    store = FakeStore()
    ingesting = Ingesting(store)
    secrets = secrets_of([SECRET], [])
    app = public_app(PublicConfig(secrets=secrets, verify_token=TOKEN.encode()), ingesting)
    others = series()  # of what was tested before in this process

    for first in range(0, USERS, IN_A_BODY):
        raw = json.dumps(body_of(first)).encode()
        answer = await ask(app, "POST", "/api/webhook", headers=signed(raw), parts=[raw])
        assert answer.status == 200
        store.deliveries.clear()
    await ingesting.close()

    assert series() - others <= SERIES


def body_of(first: int) -> dict[str, object]:
    """Messages of as many people, each on a page of its own."""
    entries = [
        {
            "id": str(10_000_000 + number),
            "time": 1767312000412,
            "messaging": [
                {
                    "sender": {"id": str(20_000_000 + number)},
                    "recipient": {"id": str(10_000_000 + number)},
                    "timestamp": 1767312000000 + number,
                    "message": {"mid": f"m_{number}", "text": f"hello {number}"},
                }
            ],
        }
        for number in range(first, first + IN_A_BODY)
    ]
    return {"object": "page", "entry": entries}


async def test_methods_that_are_not_there_make_no_series(serve: Serve) -> None:
    async with serve() as echo, echo.raw() as stranger:
        before = series()
        for number in range(200):
            with pytest.raises(Exception, match="UNIMPLEMENTED"):
                await unary(stranger, f"/x.Y/Z{number}")(b"")

        assert series() == before
