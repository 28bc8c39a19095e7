"""The load generator as the suites use it: a process of its own, given a job at a time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.driving import Job, Outcome
from bench.figures import MeasuringFailed
from bench.processes import child

_OUTCOME = msgspec.json.Decoder(Outcome)
_END_WITHIN = 5.0
"""Seconds from the end of what it says to its own."""


class Generator:
    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    async def run(self, job: Job) -> Outcome:
        """Does the job. MeasuringFailed: the generator ended; how, and with what last words."""
        return _OUTCOME.decode(await asyncio.to_thread(self._ask, msgspec.json.encode(job) + b"\n"))

    def _ask(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait(_END_WITHIN)
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
            said = self._log.read_text()[-2000:] or "(it said nothing)"
            raise MeasuringFailed(f"the load generator ended {how}:\n{said}")
        return answer


@contextlib.contextmanager
def generating(folder: Path, *, core: int | None = None) -> Iterator[Generator]:
    """A generator within the block, on `core` alone where one is given."""
    log = folder / "generator.log"
    with child(["-m", "bench.driving"], log, core=core) as process:
        yield Generator(process, log)
