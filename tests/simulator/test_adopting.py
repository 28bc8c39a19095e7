import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pagewire_simulator.client import SimulatorClient
from tests.support.simulator import APP_SECRET, GraphCaller, Receiver

README = Path(__file__).parents[2] / "README.md"
PAGE = "104200000000009"
SUBSCRIBE = f"{PAGE}/subscribed_apps"
SEND = f"{PAGE}/messages"


def said(recipient: dict[str, str], text: str) -> dict[str, Any]:
    return {"recipient": recipient, "messaging_type": "RESPONSE", "message": {"text": text}}


@pytest.fixture
async def graph(simulator: SimulatorClient) -> AsyncIterator[GraphCaller]:
    await simulator.options(adopt=True)
    async with httpx.AsyncClient(timeout=60) as http:
        yield GraphCaller(simulator.facebook, "any-token-at-all", http, APP_SECRET)


async def test_a_page_that_nobody_made_is_taken_as_given_with_its_token(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    answer = await graph.call("POST", SUBSCRIBE, form={"subscribed_fields": "messages"})

    assert answer.json() == {"success": True}


async def test_a_person_that_nobody_made_can_be_answered(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    answer = await graph.call("POST", SEND, form=said({"id": "7100000000000001"}, "hello"))

    sends = await simulator.sends()
    assert answer.json()["recipient_id"] == "7100000000000001"
    assert [send.text for send in sends] == ["hello"]


async def test_a_comment_that_nobody_made_can_be_answered_in_public_and_in_private(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    await graph.call("POST", SUBSCRIBE, form={"subscribed_fields": "feed"})

    public = await graph.call("POST", "900_800/comments", form={"message": "below"})
    private = await graph.call("POST", SEND, form=said({"comment_id": "900_800"}, "in private"))

    assert public.json()["id"]
    assert private.json()["message_id"]


async def test_one_made_up_token_serves_several_pages(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    for page in ("1", "2", "1"):
        answer = await graph.call("POST", f"{page}/messages", form=said({"id": "7"}, f"to {page}"))
        assert answer.status_code == 200

    assert [send.account_id for send in await simulator.sends()] == ["1", "2", "1"]


async def test_another_token_for_a_known_page_stays_wrong(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    account = await simulator.create_account("messenger", id=PAGE)

    answer = await graph.call(
        "POST", f"{account.id}/subscribed_apps", form={"subscribed_fields": "messages"}
    )

    assert answer.json()["error"]["code"] == 190


async def test_nothing_is_adopted_unless_that_was_asked_for(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    await simulator.options(adopt=False)

    answer = await graph.call("POST", SUBSCRIBE, form={"subscribed_fields": "messages"})

    assert answer.json()["error"]["code"] == 190


async def test_what_the_readme_has_a_customer_say_reaches_the_app(
    simulator: SimulatorClient, graph: GraphCaller, receiver: Receiver
) -> None:
    text = README.read_text()
    told = re.search(r"exec simulator python -c '([^']+)'", text)
    connected = re.search(r"compose run .* pages connect (\d+)", text)
    assert told
    assert connected
    program = told[1].replace("http://127.0.0.1:9090", simulator.base_url)
    await simulator.webhook(receiver.url)
    await graph.call(
        "POST", f"{connected[1]}/subscribed_apps", form={"subscribed_fields": "messages"}
    )

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={}, stdout=asyncio.subprocess.PIPE
    )
    shown, _ = await process.communicate()
    await simulator.wait(settled=True)

    assert process.returncode == 0
    assert b'"mid"' in shown
    assert [item["message"]["text"] for item in receiver.items] == ["What is the price?"]
