import json
import logging
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from pagewire_runtime import logs

from .conftest import Lines

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_a_line_holds_the_event_its_values_the_service_and_a_utc_time(lines: Lines) -> None:
    logs.get_logger("pagewire_store.main").info("page connected", page=logs.ref("1234"), rows=3)

    (line,) = lines()
    assert (line["event"], line["level"], line["service"]) == ("page connected", "info", "test")
    assert (line["logger"], line["rows"]) == ("pagewire_store.main", 3)
    assert line["timestamp"].endswith("Z")


@given(event=st.text(), values=st.dictionaries(st.text(), ANYTHING, max_size=4))
def test_whatever_goes_in_one_json_object_in_ascii_comes_out(
    event: str, values: dict[str, Any]
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = logs.render(values | {"event": event})

    assert line.isascii()
    assert line.isprintable()
    assert isinstance(json.loads(line, parse_constant=refuse), dict)


@pytest.mark.parametrize("hostile", ["a\r\nb", "\x1b[31mred", "\u202eevil", "\u2028", "\ud800"])
def test_what_could_forge_a_line_is_escaped_and_stays_readable(hostile: str) -> None:
    line = logs.render({"event": "x", "value": hostile})

    assert line.isprintable()
    assert json.loads(line)["value"] == hostile


CANARY = "canary0123456789abcdef0123"


@pytest.mark.parametrize(
    "values",
    [
        {"access_token": CANARY},
        {"page": {"accessToken": CANARY, "ok": 1}},
        {"SERVICE_TOKENS": [CANARY]},
        {"appsecret_proof": CANARY},
        {"headers": {"X-Hub-Signature-256": f"sha256={CANARY}", "Authorization": CANARY}},
        {"text": CANARY},
        {"items": [{"name": CANARY}, {"psid": CANARY}, {"participant_id": CANARY}]},
        {"event": f"calling with Bearer {CANARY}"},
        {"url": f"https://graph.example/me?fields=id&access_token={CANARY}&x=1"},
        {"url": f"/api/webhook?hub.mode=subscribe&hub.verify_token={CANARY}"},
        {"url": f"postgresql://pagewire:{CANARY}@127.0.0.1/pagewire"},
        {"dump": f'{{"access_token": "{CANARY}"}}'},
        {"error": ValueError(f"X-Hub-Signature-256: sha256={CANARY}")},
        {"why": f"token EAA{CANARY} expired"},
        {"held": SecretStr(CANARY)},
    ],
)
def test_what_is_secret_or_personal_is_never_logged(values: dict[str, Any]) -> None:
    line = logs.render({"event": "x"} | values)

    assert CANARY not in line


def test_the_rest_of_a_line_with_a_secret_stays() -> None:
    line = json.loads(logs.render({"url": f"/me?access_token={CANARY}&fields=id", "rows": 3}))

    assert line == {"url": "/me?access_token=[redacted]&fields=id", "rows": 3}


def test_a_reference_is_the_same_for_the_same_id_and_is_not_the_id() -> None:
    first, again, other = logs.ref("1234"), logs.ref("1234"), logs.ref("1235")

    assert first == again
    assert first != other
    assert "1234" not in first


def test_the_standard_librarys_loggers_come_out_alike(lines: Lines) -> None:
    logging.getLogger("sqlalchemy.pool").warning("pool of %s with Bearer %s", "store", CANARY)

    (line,) = (line for line in lines() if line["logger"] == "sqlalchemy.pool")
    assert line["event"] == "pool of store with Bearer [redacted]"
    assert (line["level"], line["service"]) == ("warning", "test")


def test_an_access_log_with_its_queries_is_not_written(lines: Lines) -> None:
    logging.getLogger("uvicorn.access").info("GET /api/webhook?hub.verify_token=x")
    logging.getLogger("httpx").info("HTTP Request: GET https://graph.example/?access_token=x")

    assert lines() == []


@pytest.mark.parametrize("through", ["structlog", "logging"])
def test_an_exception_is_logged_without_locals(lines: Lines, through: str) -> None:
    def fail() -> None:
        held = "local canary".upper()
        raise LookupError(f"of length {len(held)}")

    try:
        fail()
    except LookupError:
        if through == "structlog":
            logs.get_logger("x").exception("it failed")
        else:
            logging.getLogger("x").exception("it failed")

    (line,) = (line for line in lines() if line["event"] == "it failed")
    assert "LookupError: of length 12" in line["exception"]
    assert "LOCAL CANARY" not in json.dumps(line)


def test_values_that_json_lacks_are_written_out() -> None:
    line = json.loads(logs.render({"a": math.inf, "b": b"x", "c": {1: {2}}, "d": [None, True]}))

    assert line == {"a": "inf", "b": "b'x'", "c": {"1": [2]}, "d": [None, True]}


def test_a_log_that_can_not_be_written_fails_nobody(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _: str) -> int:
            raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Full())
        logs.get_logger("x").info("lost")
        logging.getLogger("x").warning("lost too")

    assert lines() == []
