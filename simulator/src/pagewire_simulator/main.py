"""The process: serves the simulator until it is told to stop, then drains and exits with 0."""

import asyncio
import json
import logging
import os
import sys

import uvloop

from pagewire_simulator import settings
from pagewire_simulator.serving import serving, until_signalled
from pagewire_simulator.settings import Settings
from pagewire_simulator.simulator import Simulator


async def run(chosen: Settings) -> None:
    simulator = Simulator(
        chosen.app,
        seed=chosen.seed,
        verify_token=chosen.verify_token,
        endpoint=chosen.endpoint,
    )
    simulator.meta.options.adopt = chosen.adopt
    async with serving(simulator, chosen.listen) as url:
        simulator.start()
        say(f"listening on {url}", url=url, seed=chosen.seed)
        await until_signalled()
    await simulator.close()
    say("stopped")


def say(message: str, **details: object) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(json.dumps({"service": "simulator", "message": message, **details}) + "\n")
    sys.stdout.flush()


def main() -> int:
    logging.basicConfig(level=logging.WARNING)
    try:
        chosen = settings.read(os.environ)
    except (settings.SettingMissing, ValueError) as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(chosen))
    return 0
