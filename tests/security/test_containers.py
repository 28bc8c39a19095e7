"""What the images and the units that run them may do: no root, nothing to write to, no way up."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), ROOT / "simulator/Dockerfile"])
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = ("store", "rules", "sync", "webhook", "simulator")


def instructions(file: Path) -> list[tuple[str, str]]:
    """Of a Dockerfile, each with its words on one line."""
    text = re.sub(r"(?m)^\s*#.*\n", "", file.read_text())
    joined = text.replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest) for name, rest in pairs]


def test_every_service_has_an_image() -> None:
    assert len(DOCKERFILES) == len(OURS)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_an_image_ends_as_a_numbered_user_who_is_not_root(file: Path) -> None:
    users = [rest for name, rest in instructions(file) if name == "USER"]

    assert users
    user, group = users[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_an_image_takes_nothing_that_is_not_pinned_and_keeps_no_secret(file: Path) -> None:
    made = instructions(file)
    ran = " ".join(rest for name, rest in made if name == "RUN")

    assert "ADD" not in {name for name, _ in made}
    assert not re.search(r"curl|wget|apt-get|chmod\s+[0-7]*7\b|sudo", ran)
    assert all(
        "--require-hashes" in command or "--no-index" in command or "--no-deps" in command
        for command in re.findall(r"pip install[^&]*", ran)
    )
    assert not [
        rest
        for name, rest in made
        if name in ("ENV", "ARG") and re.search(r"SECRET|TOKEN|PASSWORD|API_KEY", rest)
    ]


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_can_write_nowhere_and_gain_nothing(name: str) -> None:
    unit = COMPOSE["services"][name]

    assert unit["read_only"] is True
    assert unit["tmpfs"] == ["/tmp"]
    assert unit["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in unit["security_opt"]
    assert unit["mem_limit"]
    assert unit["pids_limit"] <= 512
    assert not {"privileged", "cap_add", "devices", "volumes", "network_mode", "pid"} & set(unit)


def test_only_the_store_has_the_logins_of_the_database_and_no_service_the_superusers() -> None:
    environments = {name: str(COMPOSE["services"][name].get("environment", {})) for name in OURS}

    assert {name for name, text in environments.items() if "DATABASE" in text} == {"store"}
    assert not [name for name, text in environments.items() if "${POSTGRES_PASSWORD" in text]


def test_nothing_but_the_edge_is_published_beyond_this_host() -> None:
    published = {
        port
        for unit in COMPOSE["services"].values()
        for port in unit.get("ports", [])
        if not port.startswith("127.0.0.1:")
    }

    assert published == {"${WEBHOOK_PUBLISH:-127.0.0.1:8080}:8080"}


def can_unshare() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return tried.returncode == 0


NOBODY = 65534

CONFINED = r"""
mount --make-rprivate /
mount -o bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
case "$ROOT$PYTHON" in
    *"/tmp/"*) ;; # the checkout itself is there
    *) mount -t tmpfs -o size=64m,mode=1777 tmpfs /tmp ;;
esac
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all "$PYTHON" -I -O -c "$WHAT"
"""

STARTS = """
import os, runpy, sys
def write(path):
    try:
        open(path, "w").close()
    except OSError as refused:
        return type(refused).__name__
    return "written"
print("uid", os.getuid(), "checkout", write(os.environ["ROOT"] + "/made"))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("capabilities", status["CapEff"].strip().strip("0") or "none")
print("privileges", status["NoNewPrivs"].strip())
sys.stdout.flush()
sys.argv = ["pagewire_rules"]
runpy.run_module("pagewire_rules", run_name="__main__")
"""


@pytest.mark.skipif(not can_unshare(), reason="takes root and mount namespaces")
def test_a_service_serves_and_drains_as_nobody_on_a_tree_that_cannot_be_written() -> None:
    env = {
        "PATH": os.environ["PATH"],
        "ROOT": str(ROOT),
        "PYTHON": sys.executable,
        "WHAT": STARTS,
        "SERVICE_TOKENS": "rules:rules-token-of-the-tests",
        "RULES_LISTEN": "127.0.0.1:0",
        "STORE_TARGET": "127.0.0.1:9",
        "UNREADY_SECONDS": "0",
    }
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-eu", "-c", CONFINED],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        logged = []
        for line in process.stderr:
            logged.append(line)
            if '"serving"' in line:
                process.terminate()
        told, _ = process.communicate(timeout=120)

    if any("Permission denied" in line for line in logged):
        pytest.skip("nobody cannot reach this checkout")
    assert process.returncode == 0, logged
    assert f"uid {NOBODY} checkout" in told
    assert "checkout written" not in told
    assert "capabilities none" in told
    assert "privileges 1" in told
    assert any('"serving"' in line for line in logged)
    assert any('"stopped"' in line for line in logged)
