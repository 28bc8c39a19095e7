"""Whether a process is well: the same life as before, and no larger."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pagewire_cli.launcher import System

MAY_GROW_BYTES = 8 * 2**20
PATIENCE = 30.0
"""What a request held is given back a moment after its answer."""


def memory_of(pid: int) -> int:
    """The bytes that the process has in memory of its own, shared files left out."""
    return _status(pid, "RssAnon")


def peak_of(pid: int) -> int:
    """The most bytes that it had in memory since `reset_peak`, shared files among them."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # as proc(5) has it


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no {name} of {pid}")


def memory_now(system: System, names: Collection[str]) -> dict[str, int]:
    """What each of these processes holds."""
    return {name: memory_of(system.process(name).pid) for name in names}


@asynccontextmanager
async def stays_well(system: System, warm: Mapping[str, int]) -> AsyncIterator[None]:
    """Fails where a process died within the block, or kept over 8 MiB more than before.

    `warm` is what each held when the largest had been there once: an allocator gives memory back
    and takes it again, so less than that is no level to grow from.
    """
    lives = {name: _life(system, name) for name in warm}
    before = {name: max(warm[name], memory_of(pid)) for name, (pid, _) in lives.items()}
    yield
    for name, life in lives.items():
        assert _life(system, name) == life, f"{name} died"
        await _gives_back(name, life[0], before[name])


def _life(system: System, name: str) -> tuple[int, int]:
    process = system.process(name)
    return process.pid, len(process.exit_codes)


async def _gives_back(name: str, pid: int, before: int) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while memory_of(pid) - before >= MAY_GROW_BYTES:
                await asyncio.sleep(0.05)
    except TimeoutError:
        grown = (memory_of(pid) - before) / 2**20
        raise AssertionError(f"{name} holds {grown:.1f} MiB more than before") from None
