"""How a command ends: its exit code, and one line for the person where it fails."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `pagewire`, for scripts."""

    OK = 0
    REFUSED = 1
    """Refused by Pagewire, or something is not well."""
    USAGE = 2
    """The command, a file or a setting is wrong; nothing was asked of Pagewire."""
    UNREACHABLE = 3
    """Pagewire was not found, does not run or does not answer."""
    INTERRUPTED = 130


class Failure(Exception):
    """What a person is told instead of a result; the text says what to do, and holds no secret."""

    exit = Exit.REFUSED


class Misused(Failure):
    """The command can't be carried out as it was given."""

    exit = Exit.USAGE


class Unreachable(Failure):
    """There is nobody who could carry it out."""

    exit = Exit.UNREACHABLE
