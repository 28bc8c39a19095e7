"""What strangers may ask of the handshake: only who knows the token hears its challenge."""

import asyncio
import os
import sys
from collections.abc import Sequence

import pytest

from tests.hostile import cases
from tests.hostile import edge as edges
from tests.hostile.cases import Case
from tests.hostile.edge import PRESENT, VERIFY_TOKEN, Edge
from tests.support.rawhttp import Answer

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

edge = edges.edge

NOT_STARTED = "verify_empty_token_configured"
GETS = [case for case in cases.of("edge GET") if case.name != NOT_STARTED]

WRONG_TOKEN = VERIFY_TOKEN[:-1] + "x"
MODE, RIGHT, CHALLENGE = (
    b"hub.mode=subscribe",
    b"hub.verify_token=" + VERIFY_TOKEN.encode(),
    b"hub.challenge=1158201444",
)
WRONG = b"hub.verify_token=" + WRONG_TOKEN.encode()

QUERIES: dict[str, Sequence[Sequence[bytes]]] = {
    "verify_ok": [(MODE, RIGHT, CHALLENGE)],
    "verify_wrong_token": [(MODE, WRONG, CHALLENGE)],
    "verify_missing_token": [(MODE, CHALLENGE)],
    "verify_wrong_mode": [(b"hub.mode=unsubscribe", RIGHT, CHALLENGE)],
    "verify_html_challenge": [(MODE, RIGHT, b"hub.challenge=%3Cscript%3Ealert(1)%3C/script%3E")],
    "verify_long_challenge": [(MODE, RIGHT, b"hub.challenge=" + b"7" * 100_000)],
    "verify_duplicate_params": [
        (MODE, RIGHT, WRONG, CHALLENGE),
        (MODE, WRONG, RIGHT, CHALLENGE),
    ],
    "verify_non_ascii_token": [(MODE, b"hub.verify_token=%C3%A9%C3%A9", CHALLENGE)],
}


@pytest.mark.parametrize("case", GETS, ids=[case.name for case in GETS])
async def test_a_handshake_is_answered_as_it_deserves_and_harms_nothing(
    edge: Edge, case: Case
) -> None:
    async with edge.unharmed():
        for query in QUERIES[case.name]:
            answer = await edge.get(b"/api/webhook?" + b"&".join(query))

            assert (answer.status, answer.body) == (case.status, case.body.encode())
            assert answer.headers["x-content-type-options"] == "nosniff"
            if case.status == 200:
                assert answer.headers["content-type"].startswith("text/plain")
        assert VERIFY_TOKEN not in edge.logged()
        assert WRONG_TOKEN not in edge.logged()


async def test_all_that_is_forbidden_is_forbidden_alike(edge: Edge) -> None:
    forbidden = [case.name for case in GETS if case.status == 403]
    queries = [b"&".join(query) for name in forbidden for query in QUERIES[name]]

    answers = [_without_time(await edge.get(b"/api/webhook?" + query)) for query in queries]

    assert answers == [answers[0]] * len(queries)


def _without_time(answer: Answer) -> Answer:
    """Without the time, and without a word on whether the connection stays."""
    return answer._replace(headers={**answer.headers, "date": "", "connection": ""})


SECRETS = ("META_WEBHOOK_VERIFY_TOKEN", "META_APP_SECRET", "META_INSTAGRAM_APP_SECRET")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "") for name in SECRETS[:2]),  # an app without Instagram login has no third
        *((name, value) for name in SECRETS for value in (",", "short-one")),
    ],
)
async def test_with_an_empty_or_short_secret_nothing_starts_and_the_setting_is_named(
    name: str, value: str
) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "META_APP_SECRET": PRESENT,
        "META_WEBHOOK_VERIFY_TOKEN": VERIFY_TOKEN,
        "SERVICE_TOKENS": "webhook:a-token-of-the-webhook",
        "WEBHOOK_LISTEN": "127.0.0.1:0",
    } | {name: value}

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pagewire_webhook", "--parts", "public"),
        env=env,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        told, complained = await process.communicate()

    assert process.returncode not in (0, None)
    assert name in complained.decode()
    assert "short-one" not in (told + complained).decode()
    assert PRESENT not in (told + complained).decode()
