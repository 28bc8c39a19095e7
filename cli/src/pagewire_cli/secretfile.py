"""The secrets that nobody gave: made once, kept in the data folder, read by who needs them."""

import base64
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

ROLES = ("webhook", "rules", "sync", "reader", "operator")


def data_folder(environ: Mapping[str, str]) -> Path:
    """Where embedded servers and generated secrets are kept."""
    if given := environ.get("PAGEWIRE_DATA_DIR"):
        return Path(given).resolve()
    checkout = Path(__file__).parents[3]
    inside = (checkout / "cli" / "pyproject.toml").exists()
    return (checkout if inside else Path.cwd()) / ".pagewire"


def path(folder: Path) -> Path:
    """Of the generated secrets."""
    return folder / "secrets.env"


def addresses_path(folder: Path) -> Path:
    """Of the addresses that the running system has; absent while none runs."""
    return folder / "addresses.env"


def read(file: Path) -> dict[str, str]:
    """The `KEY=value` lines of a file; none where it is absent."""
    if not file.exists():
        return {}
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)


def write(file: Path, values: Mapping[str, str]) -> None:
    """Writes `KEY=value` lines that only their owner may read, whole or not at all."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.writelines(f"{key}={value}\n" for key, value in values.items())
        out.flush()
        os.fsync(descriptor)
    unfinished.replace(file)


def complete(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Every secret that `given` leaves out, from the folder; made and kept there when new."""
    kept = read(path(folder))
    missing = {name for name in _MAKERS if not given.get(name)}
    if made := {name: _MAKERS[name]() for name in _MAKERS if name in missing - kept.keys()}:
        kept |= made
        write(path(folder), kept)
    return {name: kept[name] for name in _MAKERS if name in missing}


def _token() -> str:
    return secrets.token_urlsafe(32)


_MAKERS: Mapping[str, Callable[[], str]] = {
    "META_APP_ID": lambda: str(10**15 + secrets.randbelow(9 * 10**15)),
    "META_APP_SECRET": lambda: secrets.token_hex(16),  # as Meta's are
    "META_INSTAGRAM_APP_SECRET": lambda: secrets.token_hex(16),
    "META_WEBHOOK_VERIFY_TOKEN": _token,
    "TOKEN_ENCRYPTION_KEYS": lambda: (
        f"k1:{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}"
    ),
    "API_KEYS": _token,
    "SERVICE_TOKENS": lambda: ",".join(f"{role}:{_token()}" for role in ROLES),
}
