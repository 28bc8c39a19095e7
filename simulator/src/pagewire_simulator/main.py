"""The process: serves the simulator until it is told to stop, then drains and exits with 0."""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence

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


def command_line() -> argparse.ArgumentParser:
    """No arguments but --help, which tells of every variable."""
    told = [f"  {name}\n      {what}" for name, what in settings.VARIABLES.items()]
    return argparse.ArgumentParser(
        prog="python -m pagewire_simulator",
        description="Stands in for Meta: the Graph API, and the sender of webhooks.",
        epilog="\n".join(["Settings are read from the environment:", "", *told]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    command_line().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    try:
        chosen = settings.read(os.environ)
    except (settings.SettingMissing, ValueError) as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(chosen))
    return 0
