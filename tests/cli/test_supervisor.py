import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_cli.supervisor import (
    HOPELESS,
    LONGEST_DELAY,
    Deaths,
    NotReady,
    Process,
    Spec,
    Supervisor,
    http_answers,
)

# Each writes `up` once its signals are set, and ends as its name says.
OBEDIENT = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print("told", flush=True), sys.exit(0)))
print("up", flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""
BROKEN = "import sys; print('why it failed', flush=True); sys.exit(3)"
SILENT = "import signal; signal.pause()"


def spec(name: str, program: str, folder: Path, *after: str) -> Spec:
    """A process that is ready once its log's last word is that it is up."""
    log = folder / f"{name}.log"

    async def ready() -> bool:
        return log.read_text().split()[-1:] == ["up"]

    argv = [sys.executable, "-I", "-S", "-c", program]
    return Spec(name, argv, dict(os.environ), ready, frozenset(after))


@asynccontextmanager
async def supervised(*specs: Spec, logs: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(specs, logs)
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.stop(30)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(true: Callable[[], bool], within: float = 60) -> None:
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.01)


async def next_life(process: Process, pid: int) -> None:
    """Returns once a process has another pid than this one."""
    await until(lambda: process.pid != pid)


async def test_a_process_that_dies_is_there_again_without_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    usual = Deaths.delay_after

    def noted(deaths: Deaths, lived: float, *, was_ready: bool) -> float:
        waits.append(usual(deaths, lived, was_ready=was_ready))
        return waits[-1]

    monkeypatch.setattr(Deaths, "delay_after", noted)
    async with supervised(spec("one", OBEDIENT, tmp_path), logs=tmp_path) as supervisor:
        process = supervisor.processes["one"]
        pid = process.pid

        await process.kill()
        await next_life(process, pid)
        await process.ready()

        assert waits == [0.0]
        assert alive(process.pid)
        assert process.exit_codes == [-signal.SIGKILL]


async def test_it_is_there_again_however_it_died(tmp_path: Path) -> None:
    async with supervised(spec("one", OBEDIENT, tmp_path), logs=tmp_path) as supervisor:
        process = supervisor.processes["one"]
        pid = process.pid

        os.kill(pid, signal.SIGTERM)  # by somebody else: it was not told by us, and ends with 0
        await next_life(process, pid)

        assert process.exit_codes == [0]


async def test_a_process_told_to_stop_is_not_started_again(tmp_path: Path) -> None:
    async with supervised(spec("one", OBEDIENT, tmp_path), logs=tmp_path) as supervisor:
        process = supervisor.processes["one"]
        pid = process.pid

        await process.stop()
        await asyncio.sleep(0.3)

        assert process.pid == pid
        assert process.exit_codes == [0]
        assert not alive(pid)


async def test_a_restart_is_a_clean_stop_and_a_new_start(tmp_path: Path) -> None:
    async with supervised(spec("one", OBEDIENT, tmp_path), logs=tmp_path) as supervisor:
        process = supervisor.processes["one"]
        pid = process.pid

        await process.restart()

        assert process.pid != pid
        assert process.exit_codes == [0]
        assert process.log.read_text().split() == ["up", "told", "up"]


async def test_a_process_told_to_stop_while_it_waits_to_be_started_again_stays_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Deaths, "delay_after", lambda *_, **__: 3600.0)
    async with supervised(spec("one", OBEDIENT, tmp_path), logs=tmp_path) as supervisor:
        process = supervisor.processes["one"]
        await process.kill()
        await until(lambda: bool(process.exit_codes))

        await process.stop()

        assert process.exit_codes == [-signal.SIGKILL]
        assert not alive(process.pid)


QUICKLY, LATE = 0.1, 60.0


def delays(*lives: tuple[float, bool]) -> list[float]:
    """The waits after lives of so many seconds, that became ready or not."""
    deaths = Deaths()
    return [deaths.delay_after(lived, was_ready=ready) for lived, ready in lives]


def test_the_first_death_costs_no_wait_and_quick_ones_after_it_a_quarter_of_a_second() -> None:
    assert delays(*[(QUICKLY, True)] * 4) == [0, 0.25, 0.25, 0.25]
    assert delays((QUICKLY, True), (QUICKLY, True), (LATE, True), (QUICKLY, True))[2:] == [0, 0]


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=200))
def test_what_became_ready_now_and_then_is_there_again_well_within_a_second(
    lives: list[tuple[float, bool]],
) -> None:
    unready = 0
    for (_, ready), delay in zip(lives, delays(*lives), strict=True):
        unready = 0 if ready else unready + 1
        assert delay <= 0.25 or unready >= HOPELESS


def test_what_never_becomes_ready_is_tried_ever_more_slowly_up_to_a_limit() -> None:
    waits = delays(*[(QUICKLY, False)] * (HOPELESS + 20))

    assert max(waits[: HOPELESS - 1]) == 0.25
    assert waits[HOPELESS - 1 : HOPELESS + 2] == [0.5, 1, 2]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_DELAY


def test_one_life_that_is_ready_again_ends_the_patience_with_what_was_not() -> None:
    hopeless = [(QUICKLY, False)] * (HOPELESS + 5)

    *_, last = delays(*hopeless, (QUICKLY, True), (QUICKLY, False))

    assert last == 0.25


async def test_a_process_that_does_not_become_ready_any_more_is_tried_again_and_its_log_says_so(
    tmp_path: Path,
) -> None:
    once = tmp_path / "once"
    program = f"""
import os, signal, sys
if os.path.exists({str(once)!r}):
    sys.exit("not again")
open({str(once)!r}, "w").close()
print("up", flush=True)
signal.pause()
"""
    async with supervised(spec("one", program, tmp_path), logs=tmp_path) as supervisor:
        process = supervisor.processes["one"]

        await process.kill()
        await until(lambda: len(process.exit_codes) > HOPELESS, within=120)
        await until(lambda: process.log.read_text().endswith(" s\n"))

        told = process.log.read_text().splitlines()[-1]
        assert told == (
            f"pagewire: one ended {HOPELESS} times without becoming ready;"
            " it is started again in 0.5 s"
        )


async def test_a_process_that_ends_before_it_is_ready_is_an_error_with_the_end_of_its_log(
    tmp_path: Path,
) -> None:
    with pytest.raises(NotReady, match=r"(?s)one ended before it was ready.*why it failed"):
        async with supervised(spec("one", BROKEN, tmp_path), logs=tmp_path):
            pass


async def test_a_process_that_never_becomes_ready_is_an_error_and_is_ended(tmp_path: Path) -> None:
    supervisor = Supervisor([spec("one", SILENT, tmp_path)], tmp_path)

    with pytest.raises(NotReady, match="one still ran before it was ready"):
        await supervisor.start(within=0.5)
    await supervisor.stop()

    assert not alive(supervisor.processes["one"].pid)


async def test_a_process_starts_when_what_it_needs_is_ready_and_stops_before_it(
    tmp_path: Path,
) -> None:
    order: list[str] = []

    def watched(name: str, *after: str) -> Spec:
        plain = spec(name, OBEDIENT, tmp_path, *after)

        async def ready() -> bool:
            if (is_ready := await plain.ready()) and name not in order:
                order.append(name)
            return is_ready

        return Spec(name, plain.argv, plain.env, ready, plain.after)

    specs = [watched("first"), watched("second", "first"), watched("third", "second")]
    async with supervised(*specs, logs=tmp_path) as supervisor:
        pids = {name: process.pid for name, process in supervisor.processes.items()}
        stopping = asyncio.create_task(supervisor.stop())
        await until(lambda: not alive(pids["second"]))
        third_was_gone = not alive(pids["third"])
        await stopping

    assert order == ["first", "second", "third"]
    assert third_was_gone
    assert not any(map(alive, pids.values()))


async def test_what_ignores_sigterm_is_killed_in_time_and_leaves_the_others_theirs(
    tmp_path: Path,
) -> None:
    names = ("store", "sync", "webhook")
    specs = [spec(name, STUBBORN, tmp_path) for name in names[1:]]
    async with supervised(spec("store", OBEDIENT, tmp_path), *specs, logs=tmp_path) as supervisor:
        async with asyncio.timeout(60):
            await supervisor.stop(within=6)

        assert supervisor.had_to_be_killed() == ["sync", "webhook"]
        assert supervisor.processes["store"].exit_codes == [0]
        assert not any(alive(process.pid) for process in supervisor.processes.values())


async def test_a_frozen_process_can_be_stopped(tmp_path: Path) -> None:
    async with supervised(spec("one", OBEDIENT, tmp_path), logs=tmp_path) as supervisor:
        process = supervisor.processes["one"]
        process.send(signal.SIGSTOP)

        await process.stop()

        assert process.exit_codes == [0]


async def test_a_signal_to_the_whole_group_reaches_no_process_but_through_us(
    tmp_path: Path,
) -> None:
    async with supervised(spec("one", OBEDIENT, tmp_path), logs=tmp_path) as supervisor:
        pid = supervisor.processes["one"].pid

        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getsid(pid) != os.getsid(0)


async def test_the_log_of_the_run_before_is_kept_beside_this_ones(tmp_path: Path) -> None:
    (tmp_path / "one.log").write_text("the run before")

    async with supervised(spec("one", OBEDIENT, tmp_path), logs=tmp_path):
        pass

    assert (tmp_path / "one.log.1").read_text() == "the run before"
    assert (tmp_path / "one.log").read_text().split() == ["up", "told"]


async def test_only_a_good_answer_is_an_answer_unless_any_will_do() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

        well = await http_answers(url)()
        anything = await http_answers(url, well=False)()
    nobody = await http_answers(url, well=False)()

    assert (well, anything, nobody) == (False, True, False)
