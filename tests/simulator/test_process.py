import asyncio
import json
import os
import signal
import sys
from typing import Any, ClassVar

import httpx
import pytest

from pagewire_simulator import control, settings
from pagewire_simulator.main import main
from pagewire_simulator.simulator import Simulator
from tests.support.simulator import APP

ENVIRONMENT = {
    "SIMULATOR_LISTEN": "127.0.0.1:0",
    "META_APP_ID": "1",
    "META_APP_SECRET": "first-secret,second-secret",
    "META_WEBHOOK_VERIFY_TOKEN": "token",
}


async def test_the_process_says_where_it_listens_and_ends_with_0_on_sigterm() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pagewire_simulator",
        env=os.environ | ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    line = json.loads(await asyncio.wait_for(process.stdout.readline(), 90))

    async with httpx.AsyncClient(timeout=60) as http:
        health = await http.get(f"{line['url']}/_control/healthz")
    process.send_signal(signal.SIGTERM)
    status = await asyncio.wait_for(process.wait(), 90)

    assert line["message"] == f"listening on {line['url']}"
    assert health.json() == {"status": "ok", "webhook_verified": False}
    assert status == 0


def test_the_help_tells_of_every_variable_and_the_settings_read_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Watched(dict[str, str]):
        """An environment that remembers what was asked of it."""

        asked: ClassVar[set[str]] = set()

        def get(self, name: str, default: Any = None) -> Any:
            self.asked.add(name)
            return super().get(name, default)

    settings.read(Watched(ENVIRONMENT))
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert Watched.asked == set(settings.VARIABLES)
    assert all(name in shown and what in shown for name, what in settings.VARIABLES.items())


def test_the_first_secret_signs_and_instagrams_falls_back_to_it() -> None:
    chosen = settings.read(ENVIRONMENT)
    own = settings.read(ENVIRONMENT | {"META_INSTAGRAM_APP_SECRET": "its-own"})

    assert (chosen.app.secrets.app, chosen.app.secrets.instagram) == ("first-secret",) * 2
    assert own.app.secrets.instagram == "its-own"
    assert chosen.endpoint is None


def test_a_missing_secret_stops_the_start() -> None:
    with pytest.raises(settings.SettingMissing, match="META_APP_SECRET"):
        settings.read({"META_APP_ID": "1"})


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 200), ("192.0.2.7", 403)])
async def test_control_answers_loopback_only(address: str, status: int) -> None:
    simulator = Simulator(APP, seed=1, verify_token="token", endpoint=None)
    transport = httpx.ASGITransport(control.control(simulator), client=(address, 1))

    async with httpx.AsyncClient(transport=transport, base_url="http://simulator") as http:
        answer = await http.get("/_control/accounts")

    assert answer.status_code == status
