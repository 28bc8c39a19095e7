"""The processes of a benchmark: started on a core of their own, asked for CPU time and memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.figures import MeasuringFailed

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = _CORES[0], _CORES[-1]
"""What is measured has a core of its own, if there are two."""

TICK = os.sysconf("SC_CLK_TCK")
"""Ticks a second of the clock that counts CPU time."""
_READY_WITHIN = 30.0
_STOP_WITHIN = 10.0


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started in the block runs on this core alone; None: wherever there is room."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def child(
    argv: Sequence[str],
    log: Path,
    *,
    core: int | None = None,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """`python argv…`, within the block, once it listens on `port`. Its stdin and stdout are ours.

    MeasuringFailed: it ended before; with the end of what it said.
    """
    with log.open("wb") as out, on_core(core):
        process = subprocess.Popen(
            [sys.executable, *argv],
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if port is None else out,
            stderr=out,
        )
    try:
        if port is not None:
            _wait(process, port, log)
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _READY_WITHIN
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise MeasuringFailed(f"{process.args!r} did not listen:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    """A port that nobody listens on, for a server that has to be told one."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def family(pid: int) -> list[int]:
    """A process and all that it and its children started."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it has ended
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def cpu_ticks(pids: Iterable[int]) -> int:
    """What they have used so far, and those of their children that have ended, in ticks."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """The same in seconds."""
    return cpu_ticks(pids) / TICK


def percent_of_core(ticks: int, seconds: float) -> float:
    """What so many ticks are of a core: rounded once, so that whole per cents are whole."""
    return 100 * ticks / (TICK * seconds)


def memory_mib(pid: int) -> float:
    """The resident memory of one process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    resident = next(line for line in lines if line.startswith("VmRSS:"))
    return int(resident.split()[1]) / 1024
