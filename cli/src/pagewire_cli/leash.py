"""Programs on a leash: they end with the process that started them, even when that is killed.

Imported, this makes the command line of such a program; run, it is the first moment of that
program's life. Doing it there and not in a `preexec_fn` keeps our own process from ever running
Python between fork and exec, where gRPC's threads and fork handlers would have their say.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)


class CannotStart(Exception):
    """Something the system needs does not start; the message names it and what to do."""


def leashed(
    argv: Sequence[str],
    *,
    ending: signal.Signals = signal.SIGKILL,
    account: tuple[int, int] | None = None,
) -> list[str]:
    """The command line that runs `argv`, sends it `ending` when the caller dies, as `account`.

    Linux ties the leash to the *thread* that forks: start what must live on from the main thread.
    `account` is a user and a group id; only root may name one that is not its own.
    """
    uid, gid = account or (os.geteuid(), os.getegid())
    words = (os.getpid(), int(ending), uid, gid)
    return [sys.executable, "-I", "-S", __file__, *map(str, words), *argv]


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for the message of a failure."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _become(parent: int, ending: int, uid: int, gid: int, argv: list[str]) -> None:
    if os.geteuid() != uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":  # after the change of user, which would undo it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ending)
    if os.getppid() != parent:  # it died before we could watch it
        sys.exit(1)
    os.execvp(argv[0], argv)  # noqa: S606 - the program was chosen by our own caller


if __name__ == "__main__":
    _parent, _ending, _uid, _gid = map(int, sys.argv[1:5])
    _become(_parent, _ending, _uid, _gid, sys.argv[5:])
