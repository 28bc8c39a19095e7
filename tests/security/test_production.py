"""What a process refuses to start with."""

import base64
import os
import subprocess
import sys

import pytest

from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database_url", "migrated_template", "postgres_server"]

SHARED = {
    "PATH": os.defpath,
    "SERVICE_TOKENS": ",".join(
        f"{role}:{role}-token-of-the-tests" for role in ("webhook", "rules", "sync", "operator")
    ),
    "META_APP_ID": "1",
    "META_APP_SECRET": "app-secret-of-the-tests",
    "TOKEN_ENCRYPTION_KEYS": "k1:" + base64.urlsafe_b64encode(b"1" * 32).decode(),
}


def started(service: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-m", f"pagewire_{service}"],
        env=SHARED | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("service", ["rules", "sync", "store"])
def test_no_service_starts_in_the_clear_for_other_machines(service: str, database_url: str) -> None:
    listen = {f"{service.upper()}_LISTEN": "0.0.0.0:0"}

    ended = started(service, DATABASE_URL=database_url, **listen)

    assert ended.returncode == 2
    assert "TLS_CERT_FILE" in ended.stderr
    assert "GRPC_INSECURE" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_production_refuses_what_is_for_development() -> None:
    ended = started("rules", PAGEWIRE_ENVIRONMENT="production", GRPC_INSECURE="true")

    assert ended.returncode == 2
    assert ended.stderr.startswith("GRPC_INSECURE: ")


def test_a_service_needs_neither_asserts_nor_the_folder_it_is_started_in() -> None:
    ended = started("rules", "-I", "-O", RULES_LISTEN="nonsense")

    assert ended.returncode == 2
    assert ended.stderr.startswith("RULES_LISTEN: ")
