"""No tracked file names an address that only one machine has.

    python scripts/addresses.py

Lock files must hold names, versions and hashes only: with a registry's address in them they install
from that registry alone. No text may hold an absolute path of the machine that it was written on.
Prints each offence as file:line and ends non-zero when there is one.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = re.compile(r"^requirements/|(^|/)(uv\.lock|pylock\..*toml|package-lock\.json)$")
ADDRESS = re.compile(r"://|@ file:")
MACHINE_PATH = re.compile(r"(?<![\w.~$}-])/(?:root|home|work|Users)/")


def files() -> list[str]:
    """Those that git tracks, and those that it would: new ones that it does not ignore."""
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    found = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


def offences(name: str) -> Iterator[str]:
    try:
        lines = (ROOT / name).read_text().splitlines()
    except UnicodeDecodeError:
        return  # an image, say
    for number, line in enumerate(lines, 1):
        if LOCKS.search(name) and ADDRESS.search(line):
            yield f"{name}:{number}: an address in a lock file: {line.strip()}"
        if MACHINE_PATH.search(line):
            yield f"{name}:{number}: a path of one machine: {line.strip()}"


if __name__ == "__main__":
    found = [offence for name in files() for offence in offences(name)]
    print("\n".join(found) or "No addresses.")
    sys.exit(bool(found))
