"""`python -m pagewire_cli.demo`: plays the demo; ends with 0 only if all that it claims holds."""

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

import httpx

from pagewire_cli import output
from pagewire_cli.demo.operator import Refused
from pagewire_cli.demo.playing import DidNotHappen, perform
from pagewire_cli.demo.proof import claims, figures_of
from pagewire_cli.demo.show import Show
from pagewire_cli.exits import Exit
from pagewire_cli.launcher import clean
from pagewire_cli.leash import CannotStart
from pagewire_runtime.errors import Refusal

ENDED_BADLY = (CannotStart, DidNotHappen, Refused, Refusal, httpx.HTTPError, OSError)


async def demo(folder: Path, *, as_json: bool) -> int:
    """Plays, shows and judges; the exit code."""
    show = Show(quiet=as_json)
    show.say("Pagewire: a day at the Corner Bakery, on throw-away servers", "bold")
    seen = await perform(folder, show)
    checked, figures = claims(seen), figures_of(seen)
    holds = all(claim.holds for claim in checked)
    show.summary(figures, checked)
    show.say()
    if as_json:
        told = [
            {"claim": claim.text, "holds": claim.holds, "failures": list(claim.failures)}
            for claim in checked
        ]
        output.document({"ok": holds, "figures": figures, "claims": told})
    if holds:
        show.say("Everything happened as it should. To have it stay up: make up", "bold green")
    else:
        show.say("Not everything happened as it should.", "bold red")
    return Exit.OK if holds else Exit.REFUSED


async def _until_told(playing: Coroutine[None, None, int]) -> int:
    """A signal ends the play by taking everything down first, SIGINT also where a shell in the
    background had it ignored."""
    task = asyncio.ensure_future(playing)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    parser.add_argument("--keep", action="store_true", help="keep the folder: databases and logs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pagewire-demo-"))
    kept = options.keep
    try:
        code = asyncio.run(_until_told(demo(folder, as_json=options.json)))
        kept = kept or code != Exit.OK
        return code
    except (KeyboardInterrupt, asyncio.CancelledError):
        output.remark("the demo was stopped")
        return Exit.INTERRUPTED
    except ENDED_BADLY as failure:
        kept = True  # the logs say more
        output.remark(f"the demo failed: {str(failure) or type(failure).__name__}")
        return Exit.REFUSED
    finally:
        if kept:
            output.remark(f"databases and logs are in {folder}")
        else:
            clean({"PAGEWIRE_DATA_DIR": str(folder)})


if __name__ == "__main__":
    sys.exit(main())
