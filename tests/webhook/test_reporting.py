import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Literal

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp

from pagewire.store.v1.ingest_service_pb2 import ReportReceptionRequest, ReportReceptionResponse
from pagewire_runtime.errors import Unavailable
from pagewire_webhook import receiving
from pagewire_webhook.ingesting import Ingesting
from pagewire_webhook.posts import BODY_MAX_BYTES as POST_MAX_BYTES
from pagewire_webhook.posts import Post
from pagewire_webhook.public import PublicApp, PublicConfig, public_app
from pagewire_webhook.reporting import Reception, Tally, reporting
from pagewire_webhook.signature import secrets_of
from tests.webhook.test_public import (
    BODY,
    NOW,
    SECRET,
    TOKEN,
    FakeLine,
    FakeStore,
    post,
    signed,
    straight,
)

Step = Literal["accepted", "refused", "unsigned", "report", "fail"]
UNSIGNED = [("x-hub-signature-256", b"sha256=" + b"0" * 64)]


class FakeReports:
    """Hears reports, unless it fails."""

    def __init__(self) -> None:
        self.heard: list[ReportReceptionRequest] = []
        self.fails = False
        self.called = asyncio.Event()

    async def __call__(
        self, request: ReportReceptionRequest, /, *, timeout: float
    ) -> ReportReceptionResponse:
        self.called.set()
        if self.fails:
            raise Unavailable("the store")
        self.heard.append(request)
        return ReportReceptionResponse()


async def told(reception: Reception) -> ReportReceptionRequest:
    """What one report says."""
    reports = FakeReports()
    async with reporting(reports, "edge", reception, every=3600):
        await reports.called.wait()
    first, last = reports.heard
    assert (last.accepted, last.refused, last.bad_signatures) == (0, 0, 0)
    return first


def at(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1_000_000))
    return stamp


async def test_a_report_tells_what_was_taken_and_since_when_some_was_not() -> None:
    reception = Reception()
    reception.accepted()
    reception.refused(NOW + 1)
    reception.refused(NOW + 2)
    reception.unsigned(NOW + 3)

    said = await told(reception)

    assert said == ReportReceptionRequest(
        edge="edge", accepted=1, refused=2, bad_signatures=1, first_lost_time=at(NOW + 1)
    )


async def test_an_edge_with_nothing_to_tell_says_that_it_is_there() -> None:
    assert await told(Reception()) == ReportReceptionRequest(edge="edge")


async def test_a_good_signature_takes_back_what_the_bad_ones_before_it_seemed_to_tell() -> None:
    reception = Reception()
    reception.unsigned(NOW)
    reception.accepted()

    said = await told(reception)

    assert said.bad_signatures == 1
    assert not said.HasField("first_lost_time")


async def test_bad_signatures_behind_the_last_good_one_may_be_losses() -> None:
    reception = Reception()
    reception.unsigned(NOW)
    reception.accepted()
    reception.unsigned(NOW + 1)
    reception.unsigned(NOW + 2)

    said = await told(reception)

    assert said.first_lost_time == at(NOW + 1)


async def test_what_nobody_heard_is_part_of_the_next_report() -> None:
    reception, reports = Reception(), FakeReports()
    reception.refused(NOW)
    reports.fails = True

    async with reporting(reports, "edge", reception, every=3600):
        await reports.called.wait()
        reception.accepted()
        reports.fails = False

    assert reports.heard == [
        ReportReceptionRequest(
            edge="edge", accepted=1, refused=1, first_lost_time=at(NOW), is_last=True
        )
    ]


async def test_reports_come_again_and_again_and_the_last_one_says_so() -> None:
    reports = FakeReports()

    async with reporting(reports, "edge", Reception(), every=0.001):
        for _ in range(3):
            reports.called.clear()
            await reports.called.wait()

    assert len(reports.heard) >= 3
    assert [each.is_last for each in reports.heard[-2:]] == [False, True]


async def test_a_block_that_fails_is_reported_to_its_end_too() -> None:
    reports = FakeReports()

    with suppress(LookupError):
        async with reporting(reports, "edge", Reception(), every=3600):
            raise LookupError

    assert reports.heard[-1].is_last


@given(st.lists(st.sampled_from(("accepted", "refused", "unsigned", "report", "fail"))))
def test_whatever_happens_between_reports_nothing_is_lost_or_told_twice(
    steps: Sequence[Step],
) -> None:
    reception = Reception()
    heard: list[Tally] = []

    for second, step in enumerate(steps):
        match step:
            case "accepted":
                reception.accepted()
            case "refused":
                reception.refused(second)
            case "unsigned":
                reception.unsigned(second)
            case "report":
                heard.append(reception.take())
            case "fail":
                reception.put_back(reception.take())
    heard.append(reception.take())

    assert sum(each.accepted for each in heard) == steps.count("accepted")
    assert sum(each.refused for each in heard) == steps.count("refused")
    assert sum(each.bad_signatures for each in heard) == steps.count("unsigned")
    for tally, part in zip(heard, _between_reports(steps), strict=True):
        assert tally.refused_since == next((at for at, s in part if s == "refused"), None)
        good = max((at for at, s in part if s in ("accepted", "refused")), default=-1)
        bad = [at for at, s in part if s == "unsigned" and at > good]
        assert tally.bad_since == (bad[0] if bad else None)


def _between_reports(steps: Sequence[Step]) -> list[list[tuple[int, Step]]]:
    parts: list[list[tuple[int, Step]]] = [[]]
    for at_second, step in enumerate(steps):
        if step == "report":
            parts.append([])
        else:
            parts[-1].append((at_second, step))
    return parts


class TestOfTheEndpoint:
    """What the edge counts, by either way of its posts."""

    @pytest.fixture
    def store(self) -> FakeStore:
        return FakeStore()

    @pytest.fixture
    async def ingesting(self, store: FakeStore) -> AsyncIterator[Ingesting]:
        ingesting = Ingesting(store, waiting_max_bytes=2**20)
        yield ingesting
        store.gate.set()
        await ingesting.close()

    @pytest.fixture
    def reception(self) -> Reception:
        return Reception()

    @pytest.fixture
    def app(self, ingesting: Ingesting, reception: Reception) -> PublicApp:
        config = PublicConfig(secrets_of([SECRET], []), TOKEN.encode(), answer_seconds=30)
        return public_app(config, ingesting, now=lambda: NOW, reception=reception)

    @pytest.fixture(params=["by ASGI", "as a post"])
    def way(self, request: pytest.FixtureRequest, app: PublicApp) -> ASGIApp:
        if request.param == "by ASGI":
            return app
        return straight(app)

    async def test_what_is_stored_counts_as_accepted(
        self, way: ASGIApp, reception: Reception
    ) -> None:
        answer = await post(way, BODY)

        assert answer.status == 200
        assert reception.take() == Tally(accepted=1)

    async def test_what_nobody_signed_counts_as_a_bad_signature(
        self, way: ASGIApp, reception: Reception
    ) -> None:
        answer = await post(way, BODY, UNSIGNED)

        assert answer.status == 403
        assert reception.take() == Tally(bad_signatures=1, bad_since=NOW)

    async def test_what_cannot_be_stored_counts_as_refused(
        self, way: ASGIApp, reception: Reception, store: FakeStore
    ) -> None:
        store.fails = Unavailable("the store")

        answer = await post(way, BODY)

        assert answer.status == 503
        assert reception.take() == Tally(refused=1, refused_since=NOW)

    async def test_what_is_signed_and_finds_no_room_counts_as_refused(
        self, way: ASGIApp, reception: Reception, ingesting: Ingesting
    ) -> None:
        ingesting._waiting_bytes = 2**20

        answer = await post(way, BODY)

        ingesting._waiting_bytes = 0
        assert answer.status == 503
        assert reception.take() == Tally(refused=1, refused_since=NOW)

    async def test_a_large_body_that_nobody_looks_at_is_no_better_than_an_unsigned_one(
        self, app: PublicApp, reception: Reception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receiving, "_UNREAD_MAX_BYTES", 0)
        large = b" " * (POST_MAX_BYTES + 1)

        answer = await post(app, large, signed(large))

        assert answer.status == 503
        assert reception.take() == Tally(bad_signatures=1, bad_since=NOW)

    async def test_a_mistake_of_ours_counts_as_refused(
        self, app: PublicApp, reception: Reception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise LookupError

        monkeypatch.setattr(receiving, "delivery_of", fail)
        line = FakeLine()
        body = Post(line, [(name.encode(), value) for name, value in signed(BODY)], keep_alive=True)
        body.add(BODY)

        app.taker.take(body)

        assert reception.take() == Tally(refused=1, refused_since=NOW)
