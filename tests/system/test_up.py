"""`make up` as a stranger uses it: the README's commands, as they stand there."""

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

README = Path(__file__).parents[2] / "README.md"
LISTENERS = (
    "WEBHOOK_LISTEN",
    "OPERATOR_LISTEN",
    "STORE_LISTEN",
    "RULES_LISTEN",
    "SYNC_LISTEN",
    "SIMULATOR_LISTEN",
)


def block_below(heading: str) -> str:
    """The first shell block below a heading of the README."""
    section = README.read_text().split(f"## {heading}\n", 1)[1]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest_asyncio.fixture(loop_scope="module")
async def folder() -> AsyncIterator[Path]:
    """A folder in which `make up` has come up, on free ports."""
    with tempfile.TemporaryDirectory(prefix="pagewire-up-") as name:
        environ = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        environ |= dict.fromkeys(LISTENERS, "127.0.0.1:0")
        environ["PAGEWIRE_DATA_DIR"] = f"{name}/.pagewire"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pagewire_cli.launcher", "up"),
            env=environ,
            cwd=name,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        async for line in process.stdout:
            if b"API key" in line:
                break
        yield Path(name)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 90) == 0


async def test_a_page_a_rule_and_a_signed_webhook_by_curl_end_in_a_message(folder: Path) -> None:
    script = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", block_below("By curl alone")),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    output = (await asyncio.wait_for(script.communicate(), 120))[0].decode()

    assert script.returncode == 0, output
    assert "HTTP/1.1 200 OK" in output
    assert '"outcome":"answered"' in output
    assert '"inbound":false' in output
    assert output.count("It is 10 euro.") == 2
