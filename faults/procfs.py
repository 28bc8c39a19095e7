"""What a process holds, as the kernel tells."""

from __future__ import annotations

import os
from pathlib import Path

from faults.history import Usage

ESTABLISHED = "01"


def usage(pid: int) -> Usage:
    """Raises OSError where the process is gone, or dead."""
    folder = Path(f"/proc/{pid}")
    files = [_link(each) for each in (folder / "fd").iterdir()]
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
    if "VmRSS" not in status:
        raise ProcessLookupError(pid)
    return Usage(
        open_files=len(files),
        connections=len(_established(folder) & set(files)),
        threads=int(status["Threads"]),
        memory_bytes=int(status["VmRSS"].split()[0]) * 1024,
    )


def _link(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:  # closed meanwhile
        return ""


def _established(folder: Path) -> set[str]:
    """The sockets of established TCP connections, of whomever, as descriptors name them."""
    tables = [folder / "net" / name for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables if table.exists() for row in _rows(table)]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == ESTABLISHED}


def _rows(table: Path) -> list[str]:
    return table.read_text().splitlines()[1:]
