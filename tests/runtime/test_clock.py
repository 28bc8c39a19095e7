import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pagewire_runtime.clock import Clock

SOURCES = Path(__file__).parents[2]
# What tells the time of day, by module and function.
TELLING = {
    "time": {"time", "time_ns", "gmtime", "localtime", "strftime", "ctime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}


def test_a_clock_tells_the_time_in_utc() -> None:
    before = datetime.now(UTC)
    clock = Clock()
    now, seconds = clock.now(), clock.seconds()
    after = datetime.now(UTC)

    assert before <= now <= after
    assert before.timestamp() <= seconds <= after.timestamp()


def test_a_clock_that_is_set_wrong_is_wrong_by_just_that_in_both_its_forms() -> None:
    clock = Clock(timedelta(hours=-1))
    right = datetime.now(UTC)

    assert abs(clock.now() - right + timedelta(hours=1)) < timedelta(minutes=1)
    assert abs(clock.seconds() - right.timestamp() + 3600) < 60


def test_a_clock_jumps_for_whoever_holds_its_functions_already() -> None:
    clock = Clock()
    now, seconds = clock.now, clock.seconds
    before = now(), seconds()
    clock.skew = timedelta(hours=1)

    assert now() - before[0] >= timedelta(hours=1)
    assert seconds() - before[1] >= 3600


def readings_of(file: Path) -> set[str]:
    """Where a file asks for the time of day, by whatever name it has that."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                pass
            case ast.Attribute(value=ast.Attribute(attr=module), attr=name):
                pass
            case ast.ImportFrom(module="time", names=names):
                found |= {each.name for each in names if each.name in TELLING["time"]}
                continue
            case ast.Attribute(attr="GetCurrentTime"):
                found.add("GetCurrentTime")
                continue
            case _:
                continue
        if name in TELLING.get(module, ()):
            found.add(f"{module}.{name}")
    return found


def test_the_one_place_where_a_service_reads_the_time_of_day_is_the_clock() -> None:
    sources = [*SOURCES.glob("runtime/src/**/*.py"), *SOURCES.glob("services/*/src/**/*.py")]
    readings = {file.name: found for file in sources if (found := readings_of(file))}

    assert len(sources) > 80
    assert readings == {"clock.py": {"datetime.now", "time.time"}}
