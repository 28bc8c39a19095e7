"""A member stands alone: in a fresh environment with only its own requirements, all of it imports.

    python scripts/alone.py store webhook

What is installed is what the member's image installs: `requirements/<member>.txt` by hash, then
wheels of the member and of the members that it names as dependencies. Says which module does not
import, which declared dependency is missing or does not fit, or which other service can be
imported too, and ends non-zero.
"""

import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("store", "rules", "sync", "webhook")
PIP = (sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "-qq")

IMPORT_ALL = """
import importlib, pathlib, sys

def modules(package):
    for root in importlib.import_module(package).__path__:
        for path in sorted(pathlib.Path(root).rglob("*.py")):
            if path.name in ("__main__.py", "env.py"):  # one would run, Alembic runs the other
                continue
            parts = [package, *path.relative_to(root).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

names = [name for package in sys.argv[1:] for name in modules(package)]
for name in names:
    try:
        importlib.import_module(name)
    except Exception as broken:
        sys.exit(f"{name} does not import alone: {type(broken).__name__}: {broken}")
print(len(names), "modules import")
"""


class Fails(Exception):
    """What the member lacks, as the program that found it says."""


def folder(member: str) -> Path:
    return ROOT / "services" / member if member in SERVICES else ROOT / member


def package(member: str) -> str:
    return "pagewire" if member == "protos" else f"pagewire_{member}"


def with_its_dependencies(member: str) -> list[str]:
    """The members that it depends on, as its pyproject.toml declares them, and itself."""
    project = tomllib.loads((folder(member) / "pyproject.toml").read_text())["project"]
    prefix = "pagewire-"
    named = (name.removeprefix(prefix) for name in project["dependencies"] if prefix in name)
    return [*named, member]


def run(*command: str | Path) -> str:
    ended = subprocess.run(
        command, cwd="/", text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if ended.returncode:
        raise Fails(ended.stdout.strip())
    return ended.stdout.strip()


def build(members: Iterable[str], wheels: Path) -> None:
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", wheels)
    run(*PIP, "wheel", *options, *map(folder, sorted(members)))


def prove(member: str, wheels: Path, env: Path) -> str:
    members = with_its_dependencies(member)
    # The pip that runs this script serves the new environment too, which so needs none.
    venv.create(env, symlinks=True)
    python = env / "bin/python"
    pip = (*PIP, "--python", python)
    own = [wheel for name in members for wheel in wheels.glob(f"pagewire_{name}-*.whl")]
    requirements = ROOT / "requirements" / f"{member}.txt"
    run(*pip, "install", "--no-compile", "--require-hashes", "-r", requirements)
    run(*pip, "install", "--no-compile", "--no-deps", "--no-index", *own)
    run(*pip, "check")
    return run(python, "-IBc", IMPORT_ALL, *map(package, members))


def report(member: str, wheels: Path, env: Path) -> bool:
    began = time.monotonic()
    try:
        said = prove(member, wheels, env)
    except Fails as lack:
        print(f"{member}: stands not alone:\n{lack}", flush=True)
        return False
    print(f"{member}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    return True


def main(members: list[str]) -> bool:
    with tempfile.TemporaryDirectory(prefix="pagewire-alone-") as scratch:
        wheels = Path(scratch, "wheels")
        build({name for member in members for name in with_its_dependencies(member)}, wheels)
        with ThreadPoolExecutor(2) as pool:
            return all(
                list(pool.map(lambda name: report(name, wheels, Path(scratch, name)), members))
            )


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
