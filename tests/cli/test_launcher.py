import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

from pagewire_cli import secretfile
from pagewire_cli.embedded import FolderInUse
from pagewire_cli.launcher import (
    SERVER_STOPS_WITHIN,
    SERVICES_STOP_WITHIN,
    clean,
    running,
)
from pagewire_cli.leash import CannotStart

NAMES = ("simulator", "store", "rules", "sync", "webhook")
STANDIN = Path(__file__).parents[1] / "support" / "standin.py"
STANDINS = {name: [sys.executable, str(STANDIN), name] for name in NAMES}
# A launch without embedded servers, where these are not what a test is about.
ELSEWHERE = {"DATABASE_URL": "postgresql://app@db.invalid/x", "REDIS_URL": "redis://cache.invalid"}


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="pagewire-test-"))  # pytest's own let no other user pass
    yield made
    clean({"PAGEWIRE_DATA_DIR": str(made)})


def settings_seen_by(folder: Path, name: str) -> set[str]:
    first, *_ = (folder / "logs" / f"{name}.log").read_text().splitlines()
    return set(json.loads(first))


async def test_a_launch_gives_a_database_a_cache_and_every_service_ready(folder: Path) -> None:
    async with running(folder, services=STANDINS) as system:
        with psycopg.connect(system.env["DATABASE_URL"]) as connection:
            answer = connection.execute("SELECT 1").fetchone()
        cache = redis.Redis.from_url(system.env["REDIS_URL"])
        pong = cache.ping()
        cache.close()
        async with httpx.AsyncClient(trust_env=False) as client:
            health = await client.get(f"{system.addresses['public']}/healthz")
        pids = [system.process(name).pid for name in NAMES]
        pids += [server.pid for server in system.servers.values()]

    assert answer == (1,)
    assert pong is True
    assert health.status_code == 200
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_the_processes_find_each_other_and_the_simulator_stands_for_graph(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE) as system:
        at, env = system.addresses, system.env

    assert env["STORE_TARGET"] == env["STORE_LISTEN"] == at["store"]
    assert env["GRAPH_BASE_URL"] == f"{at['simulator']}/facebook"
    assert env["GRAPH_INSTAGRAM_BASE_URL"] == f"{at['simulator']}/instagram"
    assert env["SIMULATOR_WEBHOOK_URL"] == env["PUBLIC_BASE_URL"] == at["public"]
    assert len(set(at.values())) == 6


async def test_there_is_no_simulator_where_graph_is_given_or_nobody_wants_it(
    tmp_path: Path,
) -> None:
    graph = {"GRAPH_BASE_URL": "https://graph.example"}
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE | graph) as system:
        given = set(system.addresses), system.env["GRAPH_BASE_URL"]
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE, simulator=False) as system:
        unwanted = set(system.addresses), "GRAPH_BASE_URL" in system.env

    without = {"public", "operator", "store", "rules", "sync"}
    assert given == (without, "https://graph.example")
    assert unwanted == (without, False)


async def test_only_the_store_has_the_database_and_the_token_keys(tmp_path: Path) -> None:
    owner = {"DATABASE_OWNER_URL": "postgresql://owner@db.invalid/x"}
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE | owner):
        seen = {name: settings_seen_by(tmp_path, name) for name in NAMES}

    secret = {"DATABASE_URL", "DATABASE_OWNER_URL", "TOKEN_ENCRYPTION_KEYS"}
    assert secret <= seen["store"]
    assert {name for name in NAMES if seen[name] & secret} == {"store"}
    assert all({"SERVICE_TOKENS", "REDIS_URL"} <= names for names in seen.values())


async def test_settings_of_the_callers_own_environment_reach_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE_AFTER_DAYS", "1")

    async with running(tmp_path, services=STANDINS, env=ELSEWHERE):
        assert "ARCHIVE_AFTER_DAYS" not in settings_seen_by(tmp_path, "store")


async def test_two_processes_of_a_service_are_one_target_and_die_alone(tmp_path: Path) -> None:
    two = {"store": 2, "webhook": 2}
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE, replicas=two) as system:
        first, second = system.process("store"), system.process("store-2")
        pids = first.pid, second.pid
        await second.kill()
        await second.ready()

        assert first.pid == pids[0]
        assert second.pid != pids[1]
        assert system.addresses["store"].startswith("ipv4:127.0.0.1:")
        assert len(set(system.addresses["store"].removeprefix("ipv4:").split(","))) == 2
        assert system.addresses["operator"] != system.addresses["operator-2"]


async def test_the_addresses_are_written_for_the_command_line_while_the_system_runs(
    tmp_path: Path,
) -> None:
    file = secretfile.addresses_path(tmp_path)
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE) as system:
        written = secretfile.read(file)
        secrets = secretfile.read(secretfile.path(tmp_path))
        operator = system.addresses["operator"]

    assert written["OPERATOR_URL"] == operator
    assert written["STORE_TARGET"] == system.addresses["store"]
    assert not set(written.values()) & set(secrets.values())
    assert not file.exists()


async def test_secrets_are_the_same_at_the_next_launch_and_given_ones_win(tmp_path: Path) -> None:
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE) as system:
        first = dict(system.env)
    given = ELSEWHERE | {"API_KEYS": "a-key-of-the-operators-own"}
    async with running(tmp_path, services=STANDINS, env=given) as system:
        second = dict(system.env)

    assert first["SERVICE_TOKENS"] == second["SERVICE_TOKENS"]
    assert first["API_KEYS"] != second["API_KEYS"] == "a-key-of-the-operators-own"


async def test_nobody_else_can_list_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with running(folder, services=STANDINS, env=ELSEWHERE):
        pass

    assert folder.stat().st_mode & 0o066 == 0
    assert secretfile.path(folder).stat().st_mode & 0o777 == 0o600


async def test_a_folder_that_runs_already_is_refused_and_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE) as system:
        with pytest.raises(FolderInUse, match=str(os.getpid())):
            async with running(tmp_path, services=STANDINS, env=ELSEWHERE):
                pass

        await system.process("store").ready()
        assert secretfile.addresses_path(tmp_path).exists()


async def test_a_taken_port_is_named_with_the_setting_that_moves_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"

        with pytest.raises(CannotStart, match=rf"{taken}.*set OPERATOR_LISTEN"):
            async with running(
                tmp_path, services=STANDINS, env=ELSEWHERE | {"OPERATOR_LISTEN": taken}
            ):
                pass


@pytest.mark.parametrize("listen", ["8081", ":8081", "127.0.0.1", "unix:/run/operator.sock"])
async def test_an_address_without_host_or_port_is_refused_and_never_means_everywhere(
    tmp_path: Path, listen: str
) -> None:
    env = ELSEWHERE | {"OPERATOR_LISTEN": listen}

    with pytest.raises(CannotStart, match="OPERATOR_LISTEN: must be host:port"):
        async with running(tmp_path, services=STANDINS, env=env):
            pass


async def test_a_port_stays_the_services_own_while_it_is_down(tmp_path: Path) -> None:
    async with running(tmp_path, services=STANDINS, env=ELSEWHERE) as system:
        await system.process("rules").stop()
        port = int(system.addresses["rules"].rpartition(":")[2])

        with (
            socket.socket() as other,
            pytest.raises(OSError, match="in use"),
        ):
            other.bind(("127.0.0.1", port))
        await system.process("rules").start()


def environment(folder: Path, packages: Path, **more: str) -> dict[str, str]:
    """For `up`: stand-ins in the services' place, and any port that is free."""
    for name in NAMES:
        package = packages / f"pagewire_{name}"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(
            "import runpy, sys\n"
            f"sys.argv = ['standin', {name!r}]\n"
            f"runpy.run_path({str(STANDIN)!r}, run_name='__main__')\n"
        )
    listeners = ("SIMULATOR", "STORE", "RULES", "SYNC", "WEBHOOK", "OPERATOR")
    return {
        **os.environ,
        **{f"{name}_LISTEN": "127.0.0.1:0" for name in listeners},
        "PYTHONPATH": str(packages),
        "PAGEWIRE_DATA_DIR": str(folder),
        **more,
    }


def launch(env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pagewire_cli.launcher", "up"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def greeting(launcher: subprocess.Popen[str]) -> str:
    """What `up` says until all of it is said."""
    assert launcher.stdout is not None
    said = ""
    for line in launcher.stdout:
        said += line
        if "API key" in line:
            break
    return said


def processes_on(folder: Path) -> set[int]:
    """Those that have the folder among their arguments, in their environment, or work in it."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            known += os.fsencode((process / "cwd").readlink())
        except OSError:
            continue  # it has ended, or is not ours to look at
        if bytes(folder) in known:
            found.add(int(process.name))
    return found


def all_gone(folder: Path, within: float) -> bool:
    deadline = time.monotonic() + within
    while processes_on(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_on(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_says_where_everything_is_and_a_signal_to_its_whole_group_ends_it_all(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with launch(environment(folder, tmp_path)) as launcher:
        said = greeting(launcher)
        addresses = secretfile.read(secretfile.addresses_path(folder))
        running_before = processes_on(folder)
        os.killpg(launcher.pid, number)
        code = launcher.wait(90)

    secrets = secretfile.read(secretfile.path(folder))
    assert addresses["PUBLIC_URL"] in said
    assert addresses["STORE_TARGET"] in said
    assert str(secretfile.path(folder)) in said
    assert "console" not in said  # there is none yet
    assert not [name for name, value in secrets.items() if value in said]
    assert len(running_before) >= 8  # the launcher, two servers, five services
    assert code == 0
    assert all_gone(folder, within=0)


def test_killing_the_launcher_leaves_no_process(folder: Path, tmp_path: Path) -> None:
    with launch(environment(folder, tmp_path)) as launcher:
        greeting(launcher)
        running_before = processes_on(folder)
        launcher.kill()
        launcher.wait()

    assert len(running_before) >= 8
    assert all_gone(folder, within=60)


def test_up_comes_up_again_on_what_a_killed_launcher_left(folder: Path, tmp_path: Path) -> None:
    env = environment(folder, tmp_path)
    with launch(env) as launcher:
        greeting(launcher)
        launcher.kill()

    with launch(env) as launcher:
        said = greeting(launcher)
        launcher.terminate()

    assert "Pagewire is up" in said
    assert launcher.returncode == 0


def test_up_ends_well_also_when_nobody_reads_any_more_what_it_says(
    folder: Path, tmp_path: Path
) -> None:
    with launch(environment(folder, tmp_path)) as launcher:
        greeting(launcher)
        assert launcher.stdout is not None
        launcher.stdout.close()
        launcher.terminate()

    assert launcher.returncode == 0


def test_services_and_servers_have_their_shares_of_fifteen_seconds_to_end_in() -> None:
    assert SERVICES_STOP_WITHIN + 2 * SERVER_STOPS_WITHIN < 15


def test_up_ends_in_time_also_when_a_service_does_not_want_to(folder: Path, tmp_path: Path) -> None:
    with launch(environment(folder, tmp_path, STANDIN_STUBBORN="webhook")) as launcher:
        greeting(launcher)
        launcher.terminate()
        said, _ = launcher.communicate(timeout=90)

    assert launcher.returncode == 1
    assert "had to be killed: webhook" in said
    assert all_gone(folder, within=0)


def test_up_stopped_while_it_starts_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with launch(environment(folder, tmp_path)) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.readline()  # that it is starting
        launcher.terminate()
        code = launcher.wait(90)

    assert code == 0
    assert all_gone(folder, within=0)


def test_up_says_which_service_failed_with_the_end_of_its_log(folder: Path, tmp_path: Path) -> None:
    with launch(environment(folder, tmp_path, STANDIN_BROKEN="rules")) as launcher:
        said, _ = launcher.communicate(timeout=120)

    assert launcher.returncode == 1
    assert "pagewire: rules ended before it was ready" in said
    assert "why it failed" in said
    assert "Traceback" not in said
    assert all_gone(folder, within=0)


def test_up_on_a_folder_that_is_up_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    env = environment(folder, tmp_path)
    with launch(env) as first:
        greeting(first)
        with launch(env) as second:
            said, _ = second.communicate(timeout=90)
        first.terminate()

    assert second.returncode == 1
    assert said.splitlines()[-1].startswith(f"pagewire: {folder} is in use by process {first.pid}")
    assert first.returncode == 0


def test_clean_removes_the_data_folder_but_not_under_a_running_system(
    folder: Path, tmp_path: Path
) -> None:
    env = environment(folder, tmp_path)
    command = [sys.executable, "-m", "pagewire_cli.launcher", "clean"]
    with launch(env) as launcher:
        greeting(launcher)
        refused = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        launcher.terminate()

    done = subprocess.run(command, env=env, check=False)

    assert refused.returncode == 1
    assert "is in use" in refused.stderr
    assert done.returncode == 0
    assert not folder.exists()
