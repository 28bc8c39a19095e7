import ast
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_runtime import faults
from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import Kind, Refusal
from tests.runtime.conftest import Lines

SOURCES = Path(__file__).parents[2]
ONE, OTHER = "edge.accepted", "edge.verified"


@pytest.fixture(autouse=True)
def unarmed_afterwards() -> Iterator[None]:
    yield
    faults.arm()
    WALL.skew = timedelta()


async def strikes(times: int, point: str = ONE, key: faults.Key = ()) -> list[bool]:
    """Which of so many times a rule that raises struck."""
    struck = []
    for _ in range(times):
        try:
            await faults.reach(point, key)
        except Refusal:
            struck.append(True)
        else:
            struck.append(False)
    return struck


async def test_a_process_without_rules_goes_through_every_point() -> None:
    assert not faults.on
    for point in faults.POINTS:
        await faults.reach(point)
        faults.reached(point)
    with faults.walk("store.ingest", "1"):
        await faults.step("begun")
        faults.stepped("commit_sent")
        faults.stating()


async def test_a_key_that_is_costly_to_make_is_not_made_without_rules() -> None:
    made: list[str] = []

    def costly() -> Iterator[str]:
        made.append("1")
        yield "1"

    await faults.reach(ONE, costly())

    assert made == []


async def test_a_rule_strikes_at_its_point_and_no_other() -> None:
    faults.arm(f"{ONE}=raise:UNAVAILABLE")

    assert await strikes(2, ONE) == [True, True]
    assert await strikes(2, OTHER) == [False, False]


async def test_a_status_is_raised_as_the_refusal_that_a_call_would_have_met() -> None:
    faults.arm(f"{ONE}=raise:UNAVAILABLE; {OTHER}=raise:NOT_FOUND")

    with pytest.raises(Refusal) as unavailable:
        await faults.reach(ONE)
    with pytest.raises(Refusal) as missing:
        faults.reached(OTHER)

    assert (unavailable.value.kind, unavailable.value.reason) == (Kind.TRANSIENT, "UNAVAILABLE")
    assert missing.value.kind is Kind.MISSING


async def test_once_is_for_the_first_time_and_nth_for_that_one_alone() -> None:
    faults.arm(f"{ONE}=raise:UNAVAILABLE once; {OTHER}=raise:UNAVAILABLE nth:3")

    assert await strikes(3, ONE) == [True, False, False]
    assert await strikes(5, OTHER) == [False, False, True, False, False]


async def test_if_is_for_what_the_point_is_about_and_nth_counts_only_that() -> None:
    faults.arm(f"{ONE}=raise:UNAVAILABLE if:message:m.1=/+ nth:2")

    assert await strikes(3, key="message:m.2") == [False] * 3
    assert await strikes(1, key=["page", "message:m.1=/+"]) == [False]
    assert await strikes(3, key=iter(["message:m.1=/+"])) == [True, False, False]


async def test_a_chance_is_drawn_anew_each_time_and_the_same_by_its_seed() -> None:
    rule = f"{ONE}=raise:UNAVAILABLE p=0.2@"
    faults.arm(rule + "seven")
    first = await strikes(300)
    faults.arm(rule + "seven")
    again = await strikes(300)
    faults.arm(rule + "eight")
    other = await strikes(300)

    assert first == again != other
    assert 30 < sum(first) < 90


async def test_what_sleeps_lets_others_go_on_and_what_blocks_does_not() -> None:
    faults.arm(f"{ONE}=sleep:5s; {OTHER}=block:50ms")
    loop = asyncio.get_running_loop()
    asleep = asyncio.create_task(faults.reach(ONE))
    await asyncio.sleep(0)
    slept = asleep.done()
    asleep.cancel()
    begun, passed = loop.time(), asyncio.Event()
    loop.call_soon(passed.set)
    await faults.reach(OTHER)

    assert not slept
    assert loop.time() - begun >= 0.05
    assert not passed.is_set()


async def test_a_rule_may_set_the_clock_wrong_and_right_again() -> None:
    faults.arm(f"{ONE}=skew:-3600s once; {OTHER}=skew:0s")
    await faults.reach(ONE)
    behind = WALL.skew
    await faults.reach(OTHER)

    assert behind == timedelta(hours=-1)
    assert WALL.skew == timedelta()


@pytest.mark.parametrize(
    ("action", "code"), [("kill", -signal.SIGKILL), ("exit", 1), ("raise:UNAVAILABLE", 3)]
)
def test_a_process_dies_as_it_is_told(action: str, code: int) -> None:
    program = f"""
import asyncio, atexit, os, sys
from pagewire_runtime import faults
from pagewire_runtime.errors import Refusal
atexit.register(lambda: os.write(1, b"cleaned up"))
faults.arm("{ONE}={action}")
try:
    asyncio.run(faults.reach("{ONE}"))
except Refusal:
    os._exit(3)
os.write(1, b"went on")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert ended.returncode == code
    assert b"cleaned up" not in ended.stdout
    assert b"went on" not in ended.stdout


async def test_a_strike_is_logged_with_its_point_and_without_what_it_was_about(
    lines: Lines,
) -> None:
    faults.arm(f"{ONE}=sleep:0s if:person:4711")
    await faults.reach(ONE, "person:4711")

    (line,) = (each for each in lines() if each["level"] == "warning")
    assert (line["event"], line["point"], line["action"]) == ("a fault struck", ONE, "sleep")
    assert "4711" not in str(line)


@pytest.mark.parametrize(
    "text",
    [
        "edge.accepted",
        "edge.accepted=",
        "edge.accpted=kill",
        "store.ingest.stmt0=kill",
        "store.outbox.begun=kill",
        "edge.accepted=die",
        "edge.accepted=kill:9",
        "edge.accepted=sleep:2",
        "edge.accepted=sleep:-2s",
        "edge.accepted=block:",
        "edge.accepted=raise:NO_SUCH",
        "edge.accepted=kill twice",
        "edge.accepted=kill nth:0",
        "edge.accepted=kill p=0.5",
        "edge.accepted=kill p=2@seed",
        "edge.accepted=kill if:",
        "store.ingest.stmt2=sleep:1s",
        "store.ingest.commit_sent=sleep:1s",
    ],
)
def test_what_is_no_rule_is_refused_with_the_part_that_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is no (point|action|modifier)"):
        faults.arm(text)


@given(st.text())
def test_a_text_is_read_or_refused_and_nothing_else_happens(text: str) -> None:
    try:
        rules = faults.parse(f"edge.accepted={text}")
    except ValueError:
        return
    assert rules


def test_the_statements_of_a_transaction_are_numbered_in_its_walk() -> None:
    faults.arm("store.ingest.stmt3=raise:ABORTED if:1")

    def said(part: str, key: str) -> list[int]:
        struck = []
        with faults.walk(part, key):
            for number in range(1, 6):
                try:
                    faults.stating()
                except Refusal:
                    struck.append(number)
        return struck

    assert said("store.ingest", "1") == [3]
    assert said("store.ingest", "2") == []
    assert said("store.decide", "1") == []


async def test_a_step_outside_of_a_walk_is_none() -> None:
    faults.arm("store.ingest.begun=raise:ABORTED")
    with faults.walk("store.ingest", ()):
        pass

    await faults.step("begun")
    faults.stepped("begun")
    faults.stating()


async def test_a_point_that_is_not_in_the_table_is_a_mistake() -> None:
    faults.arm(f"{ONE}=kill")

    with pytest.raises(LookupError):
        await faults.reach("edge.acepted")


def written(file: Path, text: str) -> None:
    """As a test does it: whole or not at all, and newer than before."""
    made = file.with_suffix(".new")
    made.write_text(text)
    made.replace(file)


async def test_a_file_arms_and_disarms_a_process_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "faults"
    faults.arm("", file)
    before = await strikes(1)
    written(file, f"{ONE}=raise:UNAVAILABLE\n{OTHER}=raise:UNAVAILABLE; ")
    armed = await strikes(1), await strikes(1, OTHER)
    written(file, "")
    emptied = await strikes(1)
    written(file, f"{ONE}=raise:UNAVAILABLE")
    armed_again = await strikes(1)
    file.unlink()

    assert (before, armed, emptied, armed_again) == ([False], ([True], [True]), [False], [True])
    assert await strikes(1) == [False]


async def test_a_file_that_can_not_be_read_is_complained_of_and_counts_as_empty(
    tmp_path: Path, lines: Lines
) -> None:
    file = tmp_path / "faults"
    faults.arm("", file)
    written(file, f"{ONE}=die")

    assert await strikes(2) == [False, False]
    assert [line["level"] for line in lines() if line["level"] != "debug"] == ["error"]


@pytest.mark.parametrize(
    "rule", [f"{ONE}=raise:UNAVAILABLE once", f"{ONE}=raise:UNAVAILABLE nth:1"]
)
async def test_what_struck_once_is_not_struck_by_the_next_life_unless_it_is_armed_anew(
    tmp_path: Path, rule: str
) -> None:
    file = tmp_path / "faults"
    written(file, rule)
    faults.arm("", file)
    first = await strikes(2)
    faults.arm("", file)
    next_life = await strikes(2)
    before = file.stat().st_mtime_ns
    written(file, rule)
    os.utime(file, ns=(before + 10**9, before + 10**9))  # file systems tell times by the tick
    armed_anew = await strikes(2)

    assert (first, next_life, armed_anew) == ([True, False], [False, False], [True, False])
    assert (tmp_path / "faults.struck").read_text().count(rule) == 2


async def test_what_a_process_was_started_with_is_also_struck_once_where_there_is_a_file(
    tmp_path: Path,
) -> None:
    rule, file = f"{ONE}=raise:UNAVAILABLE once", tmp_path / "faults"
    faults.arm(rule, file)
    first = await strikes(2)
    faults.arm(rule, file)

    assert first == [True, False]
    assert await strikes(2) == [False, False]


def test_a_strike_that_kills_is_written_down_before_it_does(tmp_path: Path) -> None:
    file = tmp_path / "faults"
    written(file, f"{ONE}=kill once")
    program = f"""
import asyncio, pathlib
from pagewire_runtime import faults
faults.arm("", pathlib.Path({str(file)!r}))
asyncio.run(faults.reach("{ONE}"))
"""
    lives = [subprocess.run([sys.executable, "-c", program], check=False) for _ in range(2)]

    assert [life.returncode for life in lives] == [-signal.SIGKILL, 0]


def test_an_event_is_named_by_its_key_its_page_and_its_lane() -> None:
    event = SimpleNamespace(key="message:m", page_id="1", lane="person:2")

    assert list(faults.named([event])) == ["message:m", "1", "person:2"]


def literals(service: str) -> dict[str, set[str]]:
    """The texts that a service's sources say to each function of `faults`."""
    said: dict[str, set[str]] = {"reach": set(), "moment": set(), "part": set()}
    for file in (SOURCES / "services" / service / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            said["part"] |= {
                str(ast.literal_eval(keyword.value))
                for keyword in node.keywords
                if keyword.arg == "part" and isinstance(keyword.value, ast.Constant)
            }
            match node.func:
                case ast.Attribute(value=ast.Name(id="faults"), attr=name):
                    pass
                case _:
                    continue
            if name == "stating":
                said["moment"].add("stmtN")
            elif node.args and isinstance(node.args[0], ast.Constant):
                kind = {"step": "moment", "stepped": "moment", "walk": "part"}.get(name, "reach")
                said[kind].add(str(node.args[0].value))
    return said


def test_every_point_of_the_table_is_reached_in_the_sources_and_no_other() -> None:
    reached: set[str] = set()
    walked: set[str] = set()
    for service in ("webhook", "rules", "sync", "store"):
        said = literals(service)
        reached |= said["reach"]
        walked |= {f"{part}.{moment}" for part in said["part"] for moment in said["moment"]}

    assert reached <= faults.POINTS.keys()
    assert faults.POINTS.keys() - reached <= walked
    assert walked - faults.POINTS.keys() == {"store.outbox.begun"}


def test_the_table_says_of_every_point_where_it_is_and_what_it_is_about() -> None:
    assert all("; " in what or "no key" in what for what in faults.POINTS.values())


async def test_a_point_of_a_process_without_rules_costs_next_to_nothing() -> None:
    async def nothing(point: str, key: faults.Key = ()) -> None:
        return

    async def took(reach: object) -> float:
        assert callable(reach)
        begun = time.thread_time()
        for _ in range(20_000):
            await reach(ONE)
        return time.thread_time() - begun

    bare, off = [min([await took(each) for _ in range(3)]) for each in (nothing, faults.reach)]

    assert off < 5 * bare + 0.01  # a look at one name beside an empty call, not at a table or file
