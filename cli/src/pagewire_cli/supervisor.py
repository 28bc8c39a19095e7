"""Keeps processes alive until told to stop, then ends them in order and in time."""

import asyncio
import contextlib
import http.client
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pagewire_cli.leash import CannotStart, leashed, tail
from pagewire_runtime.probe import Unhealthy, probe_grpc
from pagewire_runtime.tls import Tls

READY_WITHIN = 60.0
STOP_WITHIN = 10.0
QUICK = 3.0  # a process that lived for less died quickly
DELAY = 0.25  # with the time to spawn well within the second that a dead process may stay dead
HOPELESS = 10  # so many lives in a row that never became ready: something else has to be mended
LONGEST_DELAY = 10.0

Probe = Callable[[], Awaitable[bool]]


class NotReady(CannotStart):
    """A process ended before it was ready, or did not become ready in time."""


@dataclass(frozen=True)
class Spec:
    """What to run, its whole environment, how to ask if it is ready, what must be ready first."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Probe
    after: frozenset[str] = frozenset()


def grpc_serving(target: str, name: str, tls: Tls | None) -> Probe:
    """Whether the gRPC server at `target` says that it serves; `name` is in its certificate."""

    async def probe() -> bool:
        try:
            await asyncio.to_thread(probe_grpc, target, name, tls)
        except Unhealthy:
            return False
        return True

    return probe


def http_answers(url: str, *, well: bool = True) -> Probe:
    """Whether a GET of `url` is answered: well, that is with 200, or else by anything."""
    parts = urlsplit(url)

    def ask() -> bool:
        connection = http.client.HTTPConnection(parts.netloc, timeout=2)
        try:
            connection.request("GET", parts.path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return status == http.client.OK or not well

    async def probe() -> bool:
        return await asyncio.to_thread(ask)

    return probe


@dataclass
class Deaths:
    """Those of one process that came one after the other, and so how long its next life may wait.

    It is there again at once, after quick deaths soon; only what has not become ready in HOPELESS
    lives is tried ever more slowly, twice as late each time up to LONGEST_DELAY.
    """

    quick: int = 0
    unready: int = 0

    def delay_after(self, lived: float, *, was_ready: bool) -> float:
        """Counts a death after so many seconds of life; the seconds to wait before the next."""
        self.quick = self.quick + 1 if lived < QUICK else 0
        self.unready = 0 if was_ready else self.unready + 1
        if self.unready >= HOPELESS:
            return min(DELAY * 2.0 ** min(self.unready - HOPELESS + 1, 10), LONGEST_DELAY)
        return DELAY if self.quick > 1 else 0.0


class Process:
    """One process kept alive, in a session of its own so that signals reach it only through us."""

    def __init__(self, spec: Spec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.exit_codes: list[int] = []  # of each life that ended, as `subprocess` gives them
        self.had_to_be_killed = False  # by the last stop
        self._child: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._spawning = asyncio.Lock()
        self._told = asyncio.Event()  # to stop
        self._ready = asyncio.Event()
        self._was_ready = False  # since the last start; until then a death is a failure to start
        self._served = False  # this life, or the one that ended, became ready

    @property
    def pid(self) -> int:
        """Of the present life, or of the last."""
        return self._life().pid

    @property
    def is_ready(self) -> bool:
        """Whether the present life has become ready."""
        return self._ready.is_set()

    async def start(self, within: float = READY_WITHIN) -> None:
        """Starts it and waits until it is ready; from then on it is kept alive. NotReady."""
        self._told.clear()
        self._was_ready = False
        self._keeper = asyncio.create_task(self._keep())
        await self.ready(within)

    async def ready(self, within: float = READY_WITHIN) -> None:
        """Waits until the present life, or one that follows it, is ready. NotReady."""
        keeper = self._keeper
        if keeper is None:
            raise RuntimeError(f"{self.spec.name} was not started")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ready, keeper}, timeout=within, return_when="FIRST_COMPLETED")
        finally:
            ready.cancel()
        if not self._ready.is_set():
            what = "ended" if keeper.done() else "still ran"
            raise NotReady(
                f"{self.spec.name} {what} before it was ready; the end of {self.log}:\n"
                f"{tail(self.log)}"
            )

    async def kill(self) -> None:
        """Kills the present life, as a crash would; the next one starts by itself."""
        child = self._life()
        child.kill()
        await child.wait()
        self._ready.clear()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to it and to what it started, if it lives."""
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended a moment ago
                os.killpg(self._child.pid, number)

    async def restart(self, within: float = STOP_WITHIN) -> None:
        """Stops it by its own stop and starts it again. NotReady."""
        await self.stop(within)
        await self.start()

    async def stop(self, within: float = STOP_WITHIN) -> None:
        """Ends it for good: asks, and kills it when `within` seconds have gone."""
        if self._keeper is None:
            return
        self._told.set()
        async with self._spawning:  # a start under way is finished, and none follows
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)
        ended, _ = await asyncio.wait({self._keeper}, timeout=within)
        self.had_to_be_killed = not ended
        if not ended:
            self.send(signal.SIGKILL)
            await self._keeper

    def _life(self) -> asyncio.subprocess.Process:
        if self._child is None:
            raise RuntimeError(f"{self.spec.name} was not started")
        return self._child

    async def _keep(self) -> None:
        deaths = Deaths()
        while not self._told.is_set():
            born = time.monotonic()
            await self._live()
            if not self._was_ready:
                return
            pause = deaths.delay_after(time.monotonic() - born, was_ready=self._served)
            if pause > DELAY:
                self._note(
                    f"ended {deaths.unready} times without becoming ready;"
                    f" it is started again in {pause:g} s"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), pause)

    def _note(self, what: str) -> None:
        """Says it at the end of its log, where somebody looks who wonders about it."""
        with self.log.open("a") as log:
            log.write(f"pagewire: {self.spec.name} {what}\n")

    async def _live(self) -> None:
        """One life, from start to end."""
        async with self._spawning:
            if self._told.is_set():
                return
            self._child = await self._spawn()
            self._served = False
        prober = asyncio.create_task(self._probe())
        self.exit_codes.append(await self._child.wait())
        prober.cancel()
        await asyncio.wait({prober})
        self._ready.clear()

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *leashed(self.spec.argv),
                env=dict(self.spec.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _probe(self) -> None:
        while not await self.spec.ready():  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.1)
        self._was_ready = self._served = True
        self._ready.set()


class Supervisor:
    """The processes of a system, started by what each needs and stopped from the last to the first.

    `specs` stand in the order of need: none comes before one that it needs. Each process writes
    to `<logs>/<name>.log`; the log of the run before is kept beside it.
    """

    def __init__(self, specs: Sequence[Spec], logs: Path) -> None:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.processes = {spec.name: Process(spec, logs / f"{spec.name}.log") for spec in specs}

    async def start(self, within: float = READY_WITHIN) -> None:
        """Starts each when those it comes after are ready; returns when all are.

        NotReady, of the first that failed; the others run on until `stop`.
        """
        ready = {name: asyncio.Event() for name in self.processes}

        async def bring_up(process: Process) -> None:
            for name in process.spec.after:
                await ready[name].wait()
            if process.log.exists():
                process.log.replace(process.log.with_suffix(".log.1"))
            await process.start(within)
            ready[process.spec.name].set()

        try:
            async with asyncio.TaskGroup() as group:
                for process in self.processes.values():
                    group.create_task(bring_up(process))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def stop(self, within: float = STOP_WITHIN) -> None:
        """Stops all, the last first, in `within` seconds.

        Each may take half of what is left, so that one that hangs leaves time for the others.
        """
        deadline = time.monotonic() + within
        for process in reversed(self.processes.values()):
            await process.stop((deadline - time.monotonic()) / 2)

    def had_to_be_killed(self) -> list[str]:
        """The names of those that did not end by themselves when told to."""
        return [name for name, process in self.processes.items() if process.had_to_be_killed]
