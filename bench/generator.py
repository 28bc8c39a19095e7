"""The load generator as the suites use it: a process of its own, given a job at a time."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.driving import Job, Outcome
from bench.figures import MeasuringFailed
from bench.processes import child

_OUTCOME = msgspec.json.Decoder(Outcome)


class Generator:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    async def run(self, job: Job) -> Outcome:
        """Does the job. MeasuringFailed: the generator ended."""
        line = await asyncio.to_thread(self._ask, msgspec.json.encode(job) + b"\n")
        if not line:
            raise MeasuringFailed("the load generator ended; see its log")
        return _OUTCOME.decode(line)

    def _ask(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextlib.contextmanager
def generating(folder: Path, *, core: int | None = None) -> Iterator[Generator]:
    """A generator within the block, on `core` alone where one is given."""
    with child(["-m", "bench.driving"], folder / "generator.log", core=core) as process:
        yield Generator(process)
