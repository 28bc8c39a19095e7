import ast
import asyncio
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

import pagewire_store
from pagewire.store.v1 import lane_service_pb2, operation_service_pb2
from pagewire.store.v1 import outbox_service_pb2 as outbox_pb
from pagewire.store.v1 import page_care_service_pb2 as care_pb
from pagewire.store.v1.clock_service_pb2 import GetTimeRequest
from pagewire.store.v1.clock_service_pb2_grpc import (
    ClockServiceStub,
    add_ClockServiceServicer_to_server,
)
from pagewire.store.v1.operation_service_pb2 import GetStatusRequest
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire_runtime import clocks as comparing
from pagewire_runtime import metrics
from pagewire_runtime.calling import channel
from pagewire_runtime.clock import WALL, Clock
from pagewire_runtime.clocks import WARNING_BEYOND, Clocks
from pagewire_runtime.errors import Unavailable
from pagewire_store.clock_servicer import ClockServicer
from pagewire_store.clocks import database_time
from pagewire_store.main import storing
from pagewire_store.settings import Settings
from tests.support.desk import Desk, desk, message
from tests.support.servers import (
    migrated_template,
    module_database_url,
    postgres_server,
)
from tests.support.stored import KEYS, SERVICE_TOKENS, channel_to

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

SERVING = health_pb2.HealthCheckResponse.SERVING
SOURCES = Path(pagewire_store.__file__).parent


def clocks_of(desk: Desk, clock: Clock) -> Clocks:
    return Clocks("the store", partial(database_time, desk.pools.live), clock)


class Readiness:
    """What was said of it, in order."""

    def __init__(self) -> None:
        self.said: list[bool] = []

    async def __call__(self, ready: bool) -> None:
        self.said.append(ready)


def shown() -> float:
    return metrics.registry.get_sample_value("pagewire_clock_skew_seconds") or 0.0


def levels(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The levels of what was logged of clocks."""
    lines = capsys.readouterr().out.splitlines()
    return [
        found[1] for line in lines if "clock" in line and (found := re.search(r"\[(\w+) *\]", line))
    ]


async def test_clocks_that_agree_are_nothing_to_tell_of(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    clocks, readiness = clocks_of(desk, Clock()), Readiness()
    await clocks.tell(readiness)
    await clocks.compare()

    assert (clocks.too_far_apart(), readiness.said) == ("", [True])
    assert abs(shown()) < WARNING_BEYOND.total_seconds()
    assert levels(capsys) == []


@pytest.mark.parametrize("skew", [timedelta(seconds=10), timedelta(seconds=-10)])
async def test_over_two_seconds_apart_is_a_warning_and_the_store_stays_ready(
    desk: Desk, capsys: pytest.CaptureFixture[str], skew: timedelta
) -> None:
    clocks, readiness = clocks_of(desk, Clock(skew)), Readiness()
    await clocks.tell(readiness)
    await clocks.compare()
    await clocks.compare()

    assert set(readiness.said) == {True}
    assert clocks.too_far_apart() == ""
    assert shown() == pytest.approx(skew.total_seconds(), abs=4)
    assert levels(capsys) == ["warning"]


@pytest.mark.parametrize(
    ("skew", "told"),
    [
        (timedelta(minutes=5), "the store's clock is (.*) s ahead of the database's"),
        (timedelta(minutes=-5), "the store's clock is (.*) s behind the database's"),
    ],
)
async def test_over_thirty_seconds_apart_the_store_is_not_ready_until_they_agree_again(
    desk: Desk, capsys: pytest.CaptureFixture[str], skew: timedelta, told: str
) -> None:
    clock, readiness = Clock(skew), Readiness()
    clocks = clocks_of(desk, clock)
    await clocks.tell(readiness)
    await clocks.compare()
    wrong = clocks.too_far_apart()
    clock.skew = timedelta()
    await clocks.compare()

    assert (seconds := re.fullmatch(told, wrong))
    assert int(seconds[1]) == pytest.approx(300, abs=10)
    assert clocks.too_far_apart() == ""
    assert readiness.said == [True, False, True]
    assert levels(capsys) == ["error", "info"]


async def test_who_is_told_late_is_told_what_is_known_by_then(desk: Desk) -> None:
    clocks, readiness = clocks_of(desk, Clock(timedelta(hours=-1))), Readiness()
    await clocks.compare()
    await clocks.tell(readiness)

    assert readiness.said == [False]


class SlowClock(Clock):
    """Goes on by a minute between two looks, as when an answer is a minute on its way."""

    def now(self) -> datetime:
        self.skew += timedelta(minutes=1)
        return super().now()


async def test_an_answer_that_was_long_on_its_way_says_nothing_of_the_clocks(desk: Desk) -> None:
    clocks = clocks_of(desk, SlowClock(timedelta(minutes=-1.5)))
    await clocks.compare()

    assert shown() == 0


async def test_who_judges_by_its_clock_waits_until_it_was_compared_and_while_it_is_wrong(
    desk: Desk,
) -> None:
    clock = Clock(timedelta(days=1))
    clocks = clocks_of(desk, clock)
    waiting = asyncio.create_task(clocks.near())
    await clocks.compare()
    too_early = waiting.done()
    clock.skew = timedelta()

    await clocks.compare()

    async with asyncio.timeout(60):
        await waiting
    assert not too_early


async def test_a_clock_is_compared_again_when_the_database_could_not_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparing, "COMPARED_EVERY", timedelta())
    asked = 0

    async def database() -> datetime:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unavailable("PostgreSQL")
        return WALL.now()

    clocks = Clocks("the store", database)
    running = asyncio.create_task(clocks.run())
    async with asyncio.timeout(60):
        await clocks.near()
    running.cancel()

    assert asked >= 2


async def test_the_callers_learn_the_databases_time(module_database_url: str, desk: Desk) -> None:
    def register(server: grpc.aio.Server) -> None:
        add_ClockServiceServicer_to_server(ClockServicer(desk.pools.live), server)

    told = {}
    before = (await desk.rows.one("select clock_timestamp() as now")).now
    for role in ("webhook", "sync"):
        async with channel_to(register, role=role) as opened:
            response = await ClockServiceStub(opened).GetTime(GetTimeRequest())
            told[role] = response.time.ToDatetime(UTC)
    after = (await desk.rows.one("select clock_timestamp() as now")).now

    assert before < told["webhook"] < told["sync"] < after


@pytest.mark.parametrize("skew", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_lease_is_as_long_by_the_database_however_wrong_our_clock_is(
    desk: Desk, skew: timedelta
) -> None:
    await desk.receive(message("m_1"))
    WALL.skew = skew
    try:
        (lane,) = await desk.claim_lanes()
    finally:
        WALL.skew = timedelta()

    left = await desk.rows.one("select lease_until - clock_timestamp() as left from lane")
    assert lane.ref.page_id == "1001"
    assert timedelta() < left.left <= timedelta(seconds=8)


async def test_a_store_whose_clock_is_wrong_serves_but_says_that_it_is_not_ready(
    module_database_url: str, desk: Desk
) -> None:
    values: dict[str, Any] = {
        "database_url": module_database_url,
        "token_keys": KEYS,
        "service_tokens": SERVICE_TOKENS,
        "listen": "127.0.0.1:0",
    }
    WALL.skew = timedelta(hours=-1)
    try:
        async with (
            storing(Settings(**values)) as server,
            channel(f"127.0.0.1:{server.port}", token=SERVICE_TOKENS.first("operator")) as opened,
            asyncio.timeout(60),
        ):
            health = health_pb2_grpc.HealthStub(opened)
            while (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING:
                await asyncio.sleep(0.02)
            status = await OperationServiceStub(opened).GetStatus(GetStatusRequest())
    finally:
        WALL.skew = timedelta()

    assert re.fullmatch("the store's clock is 3[56].. s behind the database's", status.database)


LEASES = re.compile(
    r"\b(?P<column>(?:\w+\.)?\w*lease_until)\s*(?P<sign><=|>=|<>|<|>|=|is)\s*(?P<what>[^\n]*)"
)
BY_THE_DATABASE = re.compile(
    r"(?:clock_timestamp\(\)|now\(\))"
    r"(?:\s*\+\s*(?:\$\d+\s*\*\s*interval '1 microsecond'"
    r"|(?:held|n)\.lease\s*\*\s*interval '1 microsecond'|%\(lease\)s|:lease))?\s*[,)]*"
)
# Put back as it was read under the row's lock, or none.
KEPT = re.compile(
    r"n\.look_lease_until|case when n\.state = 'sending' then o\.lease_until end"
    r"|case when not n\.release then l\.lease_until end"
)


def statements() -> Iterator[tuple[str, str]]:
    """Each text of the store's sources that names a lease, with its module."""
    for file in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "{}"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if LEASES.search(text):
                yield file.name, text


def clauses(text: str) -> Iterable[tuple[str, str]]:
    """What a lease is set to or compared with; one line each, as our SQL is written."""
    for found in LEASES.finditer(text):
        for clause in re.split(r",\s*(?=\w*lease_until\s*=)", found["what"]):
            yield found["sign"], re.split(r"\s+from\s", clause)[0].strip()


def is_by_the_database(sign: str, what: str) -> bool:
    if sign == "is" or re.match(r"null\b", what):
        return True
    if re.match(r"\w*lease_until\s*=\s*null", what):
        return True
    found = BY_THE_DATABASE.match(what) or KEPT.match(what)
    return found is not None and not re.match(r"\s*[-+*]", what[found.end() :])


def test_no_lease_of_the_store_is_set_to_or_compared_with_a_time_from_outside() -> None:
    found = [(module, sign, what) for module, text in statements() for sign, what in clauses(text)]
    wrong = [each for each in found if not is_by_the_database(*each[1:])]

    assert wrong == []
    modules = {module for module, _, _ in found}
    assert {"claiming.py", "outbox.py", "sweeps.py", "page_care.py", "operations.py"} <= modules


@pytest.mark.parametrize(
    "sql",
    [
        "update lane set lease_until = $3",
        "update lane set lease_until = n.lease_until from n",
        "select 1 from lane where lease_until <= :now",
        "select 1 from lane where l.lease_until < $1 and pending > 0",
        "update page set check_lease_until = %(until)s",
        "update lane set lease_until = now() + ($2 - $3)",
        "update lane set lease_until = clock_timestamp() - n.skew",
    ],
)
def test_a_time_from_outside_would_be_seen(sql: str) -> None:
    ((sign, what),) = clauses(sql)

    assert not is_by_the_database(sign, what)


CLAIMS: list[type[Message]] = [
    lane_service_pb2.ClaimLanesRequest,
    lane_service_pb2.ExtendLeasesRequest,
    outbox_pb.ClaimRepliesRequest,
    outbox_pb.ClaimReadBacksRequest,
    care_pb.ClaimPageChecksRequest,
    operation_service_pb2.ClaimReplaysRequest,
]


def fields(message_type: Any) -> Iterator[str]:
    """The types of messages in a message, at any depth."""
    for field in message_type.fields:
        if field.message_type is not None:
            yield field.message_type.full_name
            yield from fields(field.message_type)


def test_no_request_for_a_lease_can_carry_a_time() -> None:
    carried = {name for claim in CLAIMS for name in fields(claim.DESCRIPTOR)}

    assert "google.protobuf.Timestamp" not in carried
    assert "google.protobuf.Duration" in carried


def test_a_claim_of_the_sources_has_no_clock_of_its_own() -> None:
    reading = [
        file.name
        for file in SOURCES.rglob("*.py")
        if re.search(r"\bWALL\b|\bClock\b|datetime\.now|\btime\.time\(", file.read_text())
    ]

    assert reading == []
