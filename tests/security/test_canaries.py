"""Planted secrets and planted people: no log, metric, error, command line or crash shows them."""

import asyncio
import json
import os
import re
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from pagewire_cli.launcher import running
from pagewire_simulator.client import SimulatorClient
from pagewire_simulator.faults import Script
from tests.support.live import Live, until

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

OURS = ("store", "rules", "sync", "webhook")
SECRETS = {
    "META_APP_SECRET": "canary-app-secret-0123456789",
    "META_INSTAGRAM_APP_SECRET": "canary-instagram-secret-012345",
    "META_WEBHOOK_VERIFY_TOKEN": "canary-verify-token-0123456789",
    "API_KEYS": "canary-api-key-0123456789",
    "SERVICE_TOKENS": ",".join(
        f"{role}:canary-{role}-token-0123456789"
        for role in ("webhook", "rules", "sync", "reader", "operator")
    ),
    "TOKEN_ENCRYPTION_KEYS": "k1:Y2FuYXJ5LWVuY3J5cHRpb24ta2V5LTMyLWJ5dGVzISE=",
}
SAID, ANSWERED, LABEL = "canary-said price", "canary-answered", "canary-label"
BROKEN, TYPED = "canary-broken-body", "canary-typed-by-hand"


@dataclass(frozen=True)
class Planted:
    """A system in which all of it has happened, and what must not be found."""

    live: Live
    canaries: list[str]
    errors: str
    """What was answered to requests that could not be met."""

    def logs(self) -> dict[str, str]:
        folder = self.live.system.folder / "logs"
        return {
            file.name: file.read_text() for file in folder.iterdir() if file.name.startswith(OURS)
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def planted() -> AsyncIterator[Planted]:
    env = SECRETS | {"LOG_LEVEL": "DEBUG"}
    with tempfile.TemporaryDirectory(prefix="pagewire-canaries-") as folder:
        async with running(Path(folder), env=env) as system:
            headers = {"Authorization": f"Bearer {SECRETS['API_KEYS']}"}
            async with (
                SimulatorClient(system.addresses["simulator"]) as meta,
                httpx.AsyncClient(
                    base_url=system.addresses["operator"], headers=headers, timeout=60
                ) as http,
                httpx.AsyncClient(base_url=system.addresses["public"], timeout=60) as edge,
            ):
                live = Live(system, meta, http, edge)
                yield await happened(live)


async def happened(live: Live) -> Planted:
    """A page, a rule, messages answered and not, errors of each kind, and a crash."""
    page = await live.page()
    await live.rule(
        page, "price", then=[{"reply": {"text": ANSWERED}}, {"add_label": {"name": LABEL}}]
    )
    said = await live.meta.say(page.id, SAID)
    await live.decisions(page, 1)
    await live.meta.wait(sends=1, settled=True)
    await live.meta.faults(Script(fault="error", account=page.id, count=1))
    await live.meta.say(page.id, SAID)
    assert said.person is not None
    conversation = await live.conversation_id(page, said.person)
    by_hand = {"conversation_id": conversation, "text": TYPED, "client_key": "by-hand"}
    await live.post("/api/replies", by_hand)
    await live.deliver(f'{{"object": "page", "entry": [{{"id": "{BROKEN}"'.encode())
    errors = await refusals(live, conversation)
    live.system.process("store").send(signal.SIGABRT)
    live.system.process("sync").send(signal.SIGSEGV)
    await asyncio.gather(*(until_back(live, name) for name in ("store", "sync")))

    async def answers() -> dict[str, Any] | None:
        answer = await live.operator.get(f"/api/conversations?page_id={page.id}")
        return answer.json() if answer.status_code == 200 else None

    people = await until(answers)
    assert people is not None
    names = {each["participant_name"] for each in people["conversations"]} - {None}
    tokens = [entry.partition(":")[2] for entry in SECRETS["SERVICE_TOKENS"].split(",")]
    keys = [SECRETS["TOKEN_ENCRYPTION_KEYS"].partition(":")[2]]
    plain = [SECRETS[name] for name in SECRETS if name.startswith(("META", "API"))]
    texts = [SAID, "canary-said", ANSWERED, LABEL, BROKEN, TYPED]
    canaries = [page.token, said.person, *texts, *plain, *tokens, *keys, *names]
    return Planted(live, canaries, errors)


async def refusals(live: Live, conversation: str) -> str:
    """What the public and the operator's listener answer to what is wrong, put together."""
    wrong = [
        await live.edge.post("/api/webhook", content=BROKEN, headers={"x-hub-signature-256": "x"}),
        await live.edge.get("/api/webhook", params={"hub.verify_token": BROKEN}),
        await live.operator.post("/api/rules", content=f'{{"name": "{BROKEN}"'),
        await live.operator.post("/api/pages", json={"access_token": SECRETS["API_KEYS"]}),
        await live.operator.get(f"/api/pages/{'9' * 15}"),
        await live.operator.get("/api/pages", headers={"Authorization": f"Bearer {BROKEN}"}),
        await live.operator.post(
            "/api/replies",
            json={"conversation_id": conversation, "text": TYPED * 500, "client_key": "long"},
        ),
    ]
    assert all(400 <= answer.status_code < 500 for answer in wrong)
    return "\n".join(answer.text + json.dumps(dict(answer.headers)) for answer in wrong)


async def until_back(live: Live, name: str) -> None:
    process = live.system.process(name)

    async def died() -> bool:
        return bool(process.exit_codes)

    await until(died)
    await process.ready()


async def test_what_is_looked_for_was_there(planted: Planted) -> None:
    assert len(planted.canaries) > 15
    assert all(len(canary) > 5 for canary in planted.canaries)
    assert set(OURS) == {name.partition(".")[0] for name in planted.logs()}


@pytest.mark.parametrize("service", OURS)
async def test_no_log_shows_them_not_even_a_detailed_one(planted: Planted, service: str) -> None:
    text = "\n".join(log for name, log in planted.logs().items() if name.startswith(service))

    assert [canary for canary in planted.canaries if canary in text] == []


async def test_every_line_of_a_log_is_one_json_object(planted: Planted) -> None:
    lines = [line for log in planted.logs().values() for line in log.splitlines()]

    assert len(lines) > 20
    assert all(isinstance(json.loads(line), dict) for line in lines if line)


async def test_no_metric_shows_them(planted: Planted) -> None:
    metrics = (await planted.live.operator.get("/metrics")).text

    assert "pagewire_webhook_deliveries_total" in metrics
    assert [canary for canary in planted.canaries if canary in metrics] == []


async def test_no_error_shows_them_or_the_code(planted: Planted) -> None:
    assert [canary for canary in planted.canaries if canary in planted.errors] == []
    assert not re.search(r"Traceback|File \"|psycopg|sqlalchemy|postgresql://", planted.errors)


@pytest.mark.parametrize("service", OURS)
async def test_no_command_line_shows_them(planted: Planted, service: str) -> None:
    pid = planted.live.system.process(service).pid
    words = Path(f"/proc/{pid}/cmdline").read_text()

    assert f"pagewire_{service}" in words
    assert [canary for canary in planted.canaries if canary in words] == []


@pytest.mark.parametrize("service", OURS)
async def test_a_crash_leaves_no_image_of_the_memory(planted: Planted, service: str) -> None:
    pid = planted.live.system.process(service).pid
    limits = Path(f"/proc/{pid}/limits").read_text()
    working_folder = Path(f"/proc/{pid}/cwd")

    assert re.search(r"Max core file size +1 +1 ", limits)
    assert [name for name in os.listdir(working_folder) if name.startswith("core")] == []


async def test_the_crashes_happened(planted: Planted) -> None:
    system = planted.live.system

    assert system.process("store").exit_codes == [-signal.SIGABRT]
    assert system.process("sync").exit_codes == [-signal.SIGSEGV]
