import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1 import page_service_pb2 as store_pb
from pagewire.sync.v1 import history_service_pb2 as sync_pb
from pagewire.type.v1 import page_pb2
from pagewire.type.v1 import sync_run_pb2 as pb
from pagewire_runtime.errors import InvalidArgument, Kind, Unavailable, refusal_from
from pagewire_webhook.listening import listening
from pagewire_webhook.operator import following
from pagewire_webhook.operator.app import Upstreams, operator_app
from pagewire_webhook.operator.streaming import streamed
from tests.support.upstreams import KEYS, Upstream

RUN = "run-aaaaaaaaaaaaaaaa"
BODY = {"pageId": "101"}
SECONDS = 30  # ends a hang


def a_run(state: pb.SyncState.ValueType = pb.SYNC_STATE_RUNNING, **changed: Any) -> pb.SyncRun:
    fields: dict[str, Any] = {
        "run_id": RUN,
        "page_id": "101",
        "kind": pb.SYNC_KIND_CONVERSATIONS,
        "mode": pb.SYNC_MODE_FULL,
        "state": state,
        "budget_left_percent": 100,
        "origin": pb.SYNC_ORIGIN_REQUEST,
        "create_time": Timestamp(seconds=1_700_000_000),
    }
    return pb.SyncRun(**(fields | changed))


QUEUED = a_run(pb.SYNC_STATE_QUEUED)
HALF = a_run(conversations=500, messages=9_000, graph_calls=21, expected=1_000)
DONE = a_run(pb.SYNC_STATE_SUCCEEDED, conversations=1_000, messages=18_000, graph_calls=42)
STARTED = sync_pb.StartSyncResponse(run=QUEUED)
OF_ALL = sync_pb.StartSyncResponse(
    runs=[a_run(pb.SYNC_STATE_QUEUED, run_id=f"run-{page}", page_id=page) for page in ("1", "2")]
)


class Telling:
    """WatchSyncRun of one run: each call tells what `say` has put there for it."""

    def __init__(self, upstream: Upstream) -> None:
        self.calls = 0
        self.cancelled = asyncio.Event()
        self._lines: asyncio.Queue[pb.SyncRun | Exception | None] = asyncio.Queue()
        upstream.streams["WatchSyncRun"] = self._watch

    def say(self, *lines: pb.SyncRun | Exception | None) -> None:
        """Runs are told, an exception ends a call, None ends it without a word."""
        for line in lines:
            self._lines.put_nowait(line)

    async def _watch(self, _: Any) -> AsyncIterator[Message]:
        self.calls += 1
        try:
            while (line := await self._lines.get()) is not None:
                if isinstance(line, Exception):
                    raise line
                yield sync_pb.WatchSyncRunResponse(run=line)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def telling(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Telling:
    monkeypatch.setattr(following, "PAUSE_SECONDS", 0.001)
    upstream.answers["StartSync"] = STARTED
    return Telling(upstream)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/conversations/sync", pb.SYNC_KIND_CONVERSATIONS),
        ("/api/messages/sync", pb.SYNC_KIND_CONVERSATIONS),
        ("/api/comments/sync", pb.SYNC_KIND_COMMENTS),
    ],
)
async def test_a_run_of_the_kind_that_the_path_names_is_begun_and_not_waited_for(
    api: httpx.AsyncClient, upstream: Upstream, path: str, kind: pb.SyncKind.ValueType
) -> None:
    upstream.answers["StartSync"] = STARTED

    response = await api.post(path, json=BODY)

    assert (response.status_code, response.json()) == (202, {"run_id": RUN})
    assert upstream.request == sync_pb.StartSyncRequest(
        page_id="101", kind=kind, mode=pb.SYNC_MODE_AUTO
    )


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({}, pb.SYNC_MODE_AUTO),
        ({"mode": None}, pb.SYNC_MODE_AUTO),
        ({"mode": "auto"}, pb.SYNC_MODE_AUTO),
        ({"mode": "full"}, pb.SYNC_MODE_FULL),
        ({"mode": "incremental", "facebookPageId": None}, pb.SYNC_MODE_INCREMENTAL),
    ],
)
async def test_the_mode_is_auto_unless_said(
    api: httpx.AsyncClient,
    upstream: Upstream,
    given: dict[str, Any],
    mode: pb.SyncMode.ValueType,
) -> None:
    upstream.answers["StartSync"] = STARTED

    await api.post("/api/conversations/sync", json=BODY | given)

    assert upstream.request.mode == mode


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "pageId"),
        ({"page_id": "101"}, "page_id"),
        ({"pageId": 101}, "pageId"),
        ({"pageId": "1/2"}, "pageId"),
        ({"pageId": "101", "mode": "everything"}, "mode"),
        ({"pageId": "101", "facebookPageId": 7}, "facebookPageId"),
    ],
)
async def test_a_body_that_is_wrong_is_400_and_names_the_field(
    api: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any], field: str
) -> None:
    response = await api.post("/api/conversations/sync", json=body)

    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"field": field}
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("page", "given"),
    [
        (page_pb2.Page(page_id="101", facebook_page_id="20"), "20"),
        (page_pb2.Page(page_id="101"), "101"),
    ],
)
async def test_the_facebook_page_that_is_read_may_be_named(
    api: httpx.AsyncClient, upstream: Upstream, page: page_pb2.Page, given: str
) -> None:
    upstream.answers["GetPage"] = store_pb.GetPageResponse(page=page)
    upstream.answers["StartSync"] = STARTED

    response = await api.post("/api/messages/sync", json=BODY | {"facebookPageId": given})

    assert response.status_code == 202


async def test_another_facebook_page_than_the_one_that_is_read_is_409_and_begins_nothing(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    page = page_pb2.Page(page_id="101", facebook_page_id="20")
    upstream.answers["GetPage"] = store_pb.GetPageResponse(page=page)

    response = await api.post("/api/messages/sync", json=BODY | {"facebookPageId": "21"})

    error = response.json()["error"]
    assert (response.status_code, error["reason"]) == (409, "FACEBOOK_PAGE_OTHER")
    assert error["details"] == {"field": "facebookPageId", "facebook_page_id": "20"}
    assert upstream.request == store_pb.GetPageRequest(page_id="101")


@pytest.mark.parametrize("wait", ["", "?wait=true"])
async def test_an_unknown_page_is_404(
    api: httpx.AsyncClient, upstream: Upstream, wait: str
) -> None:
    upstream.answers["StartSync"] = refusal_from(Kind.MISSING, "PAGE_UNKNOWN", "no such page")

    response = await api.post(f"/api/conversations/sync{wait}", json=BODY)

    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "PAGE_UNKNOWN"


@pytest.mark.parametrize(
    ("state", "word", "error"),
    [
        (pb.SYNC_STATE_SUCCEEDED, "succeeded", ""),
        (pb.SYNC_STATE_PARTIAL, "partial", "threads_unreadable"),
        (pb.SYNC_STATE_FAILED, "failed", "token_dead"),
        (pb.SYNC_STATE_CANCELLED, "cancelled", ""),
    ],
)
async def test_who_waits_gets_the_run_when_it_has_ended_however_it_ended(
    api: httpx.AsyncClient,
    telling: Telling,
    state: pb.SyncState.ValueType,
    word: str,
    error: str,
) -> None:
    telling.say(QUEUED, HALF, a_run(state, error=error))

    response = await api.post("/api/conversations/sync?wait=true", json=BODY)

    assert response.status_code == 200
    assert response.json()["run_id"] == RUN
    assert response.json()["state"] == word
    assert response.json()["error"] == (error or None)


async def test_a_run_that_had_ended_when_it_was_begun_is_not_watched(
    api: httpx.AsyncClient, upstream: Upstream, telling: Telling
) -> None:
    upstream.answers["StartSync"] = sync_pb.StartSyncResponse(run=DONE)

    response = await api.post("/api/conversations/sync?wait=true", json=BODY)

    assert response.json()["state"] == "succeeded"
    assert telling.calls == 0


async def test_who_waits_waits_on_where_sync_dies_or_ends_the_watch(
    api: httpx.AsyncClient, telling: Telling
) -> None:
    telling.say(HALF, Unavailable("sync"), HALF, None, Unavailable("sync"), DONE)

    response = await api.post("/api/conversations/sync?wait=true", json=BODY)

    assert (response.status_code, response.json()["state"]) == (200, "succeeded")
    assert telling.calls == 4


async def test_a_sync_that_stays_away_is_503_after_a_while(
    api: httpx.AsyncClient, telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.0)
    telling.say(HALF, *[Unavailable("sync")] * 3)

    response = await api.post("/api/conversations/sync?wait=true", json=BODY)

    assert response.status_code == 503
    assert "Retry-After" in response.headers


async def test_who_waits_is_sent_away_when_the_server_stops_and_told_which_run_goes_on(
    api: httpx.AsyncClient, telling: Telling, stopping: asyncio.Event
) -> None:
    telling.say(HALF)
    asking = asyncio.create_task(api.post("/api/conversations/sync?wait=true", json=BODY))
    await until(lambda: telling.calls == 1)

    stopping.set()
    response = await asking

    error = response.json()["error"]
    assert (response.status_code, error["reason"]) == (503, "STOPPING")
    assert error["details"] == {"run_ids": RUN}
    await asyncio.wait_for(telling.cancelled.wait(), SECONDS)


async def test_all_pages_are_begun_in_one_call(api: httpx.AsyncClient, upstream: Upstream) -> None:
    upstream.answers["StartSync"] = OF_ALL

    response = await api.post("/api/conversations/sync-all", json={})

    assert (response.status_code, response.json()) == (202, {"run_ids": ["run-1", "run-2"]})
    assert upstream.request == sync_pb.StartSyncRequest(
        all_pages=True, kind=pb.SYNC_KIND_CONVERSATIONS, mode=pb.SYNC_MODE_AUTO
    )


async def test_who_waits_for_all_pages_gets_each_run_as_it_ended(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    async def watch(asked: sync_pb.WatchSyncRunRequest) -> AsyncIterator[Message]:
        state = {"run-1": pb.SYNC_STATE_SUCCEEDED, "run-2": pb.SYNC_STATE_FAILED}[asked.run_id]
        yield sync_pb.WatchSyncRunResponse(run=a_run(state, run_id=asked.run_id))

    upstream.answers["StartSync"] = OF_ALL
    upstream.streams["WatchSyncRun"] = watch

    response = await api.post("/api/conversations/sync-all?wait=true", json={})

    assert response.status_code == 200
    assert response.json()["run_ids"] == ["run-1", "run-2"]
    assert [run["state"] for run in response.json()["runs"]] == ["succeeded", "failed"]


async def test_without_a_page_there_is_nothing_to_begin_or_to_wait_for(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["StartSync"] = sync_pb.StartSyncResponse()

    begun = await api.post("/api/conversations/sync-all", json={})
    waited = await api.post("/api/conversations/sync-all?wait=true", json={})

    assert (begun.status_code, begun.json()) == (202, {"run_ids": []})
    assert (waited.status_code, waited.json()) == (200, {"run_ids": [], "runs": []})


async def test_a_service_that_is_away_begins_nothing_of_all(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["StartSync"] = Unavailable("sync")

    response = await api.post("/api/conversations/sync-all", json={})

    assert response.status_code == 503


async def test_a_repair_is_begun_of_the_page_in_the_path(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["StartSync"] = STARTED

    response = await api.post("/api/pages/101/repair", json={})

    assert (response.status_code, response.json()) == (202, {"run_id": RUN})
    assert upstream.request == sync_pb.StartSyncRequest(
        page_id="101", kind=pb.SYNC_KIND_CONVERSATIONS, repair=True
    )


async def test_a_run_is_shown_with_all_of_its_figures(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    began, ended = Timestamp(), Timestamp()
    began.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, 678000, UTC))
    ended.FromDatetime(datetime(2026, 1, 2, 3, 5, tzinfo=UTC))
    upstream.answers["GetSyncRun"] = sync_pb.GetSyncRunResponse(
        run=a_run(
            pb.SYNC_STATE_PARTIAL,
            kind=pb.SYNC_KIND_COMMENTS,
            mode=pb.SYNC_MODE_INCREMENTAL,
            origin=pb.SYNC_ORIGIN_REPAIR,
            conversations=1,
            messages=2,
            comments=3,
            graph_calls=4,
            start_time=began,
            end_time=ended,
            error="threads_unreadable",
            stored=5,
            recovered=6,
            unreadable=7,
            expected=8,
            budget_left_percent=9,
        )
    )

    response = await api.get(f"/api/sync-runs/{RUN}")

    assert response.json() == {
        "run_id": RUN,
        "page_id": "101",
        "kind": "comments",
        "mode": "incremental",
        "state": "partial",
        "conversations": 1,
        "messages": 2,
        "comments": 3,
        "graph_calls": 4,
        "started_at": "2026-01-02T03:04:05.678Z",
        "finished_at": "2026-01-02T03:05:00.000Z",
        "error": "threads_unreadable",
        "created_at": "2023-11-14T22:13:20.000Z",
        "origin": "repair",
        "stored": 5,
        "recovered": 6,
        "unreadable": 7,
        "expected": 8,
        "budget_left_percent": 9,
    }


async def test_what_a_run_cannot_tell_yet_is_null(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["GetSyncRun"] = sync_pb.GetSyncRunResponse(run=QUEUED)

    shown = (await api.get(f"/api/sync-runs/{RUN}")).json()

    assert shown["state"] == "queued"
    absent = ("started_at", "finished_at", "error", "expected")
    assert {name: shown[name] for name in absent} == dict.fromkeys(absent)


async def test_runs_are_listed_page_by_page_and_of_one_page_where_asked(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ListSyncRuns"] = sync_pb.ListSyncRunsResponse(
        runs=[HALF, DONE], next_page_token="next"
    )

    response = await api.get("/api/sync-runs?page_id=101&page_size=2&page_token=this")

    assert [run["state"] for run in response.json()["runs"]] == ["running", "succeeded"]
    assert response.json()["next_page_token"] == "next"
    assert upstream.request == sync_pb.ListSyncRunsRequest(
        page_id="101", page_size=2, page_token="this"
    )


async def test_a_run_is_cancelled(api: httpx.AsyncClient, upstream: Upstream) -> None:
    response = await api.delete(f"/api/sync-runs/{RUN}")

    assert (response.status_code, response.json()) == (200, {})
    assert upstream.request == sync_pb.CancelSyncRunRequest(run_id=RUN)


@pytest.mark.parametrize(
    ("verb", "path", "method"),
    [
        ("GET", f"/api/sync-runs/{RUN}", "GetSyncRun"),
        ("DELETE", f"/api/sync-runs/{RUN}", "CancelSyncRun"),
    ],
)
async def test_an_unknown_run_is_404(
    api: httpx.AsyncClient, upstream: Upstream, verb: str, path: str, method: str
) -> None:
    upstream.answers[method] = refusal_from(Kind.MISSING, "RUN_UNKNOWN", "no such run")

    response = await api.request(verb, path)

    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "RUN_UNKNOWN"


@pytest.mark.parametrize(
    ("verb", "path", "method"),
    [
        ("GET", "/api/sync-runs/no-run", "GetSyncRun"),
        ("DELETE", "/api/sync-runs/no-run", "CancelSyncRun"),
    ],
)
async def test_what_cannot_be_a_runs_id_is_404_too(
    api: httpx.AsyncClient, upstream: Upstream, verb: str, path: str, method: str
) -> None:
    upstream.answers[method] = InvalidArgument("run_id", "must be the id of a run")

    response = await api.request(verb, path)

    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "RUN_UNKNOWN"


async def test_a_page_that_sync_cannot_take_is_named_as_the_body_names_it(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["StartSync"] = InvalidArgument("page_id", "must be an id of Meta's")

    response = await api.post("/api/conversations/sync", json={"pageId": "a~b"})

    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"field": "pageId"}
    assert response.json()["error"]["message"] == "pageId: must be an id of Meta's"


async def test_a_run_is_streamed_as_it_stands_then_each_change_and_ends_with_it(
    api: httpx.AsyncClient, telling: Telling
) -> None:
    telling.say(QUEUED, HALF, Unavailable("sync"), HALF, DONE)

    response = await api.get(f"/api/sync-runs/{RUN}/events")

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert response.text.endswith("\n\n")
    states = [json.loads(line.removeprefix("data: "))["state"] for line in lines_of(response.text)]
    assert states == ["queued", "running", "succeeded"]


async def test_the_stream_of_an_unknown_run_is_404_before_it_begins(
    api: httpx.AsyncClient, telling: Telling
) -> None:
    telling.say(refusal_from(Kind.MISSING, "RUN_UNKNOWN", "no such run"))

    response = await api.get(f"/api/sync-runs/{RUN}/events")

    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "RUN_UNKNOWN"


async def test_a_stream_begins_at_once_or_is_503_where_sync_is_away(
    api: httpx.AsyncClient, telling: Telling
) -> None:
    telling.say(Unavailable("sync"))

    response = await api.get(f"/api/sync-runs/{RUN}/events")

    assert response.status_code == 503


async def test_a_silent_stream_says_that_it_is_still_there() -> None:
    release = asyncio.Event()

    async def values() -> AsyncIterator[dict[str, int]]:
        await release.wait()
        yield {"n": 1}

    response = streamed(values(), asyncio.Event(), heartbeat_seconds=0.001)
    pieces = response.body_iterator  # type: ignore[attr-defined]

    first = await anext(pieces)
    release.set()
    rest = [piece async for piece in pieces]

    assert first == b": still here\n\n"
    assert b'data: {"n":1}\n\n' in rest


@asynccontextmanager
async def served(channels: Upstreams, stopping: asyncio.Event) -> AsyncIterator[httpx.AsyncClient]:
    """The API behind a real listener; a client with a key."""
    app = operator_app(channels, KEYS, stopping=stopping)
    headers = {"Authorization": f"Bearer {KEYS[0]}"}
    async with (
        listening(app, "127.0.0.1:0", drain_seconds=SECONDS) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=SECONDS
        ) as client,
    ):
        try:
            yield client
        finally:
            stopping.set()


async def test_who_hangs_up_is_waited_for_no_longer(
    behind: tuple[Upstream, Upstreams], telling: Telling, stopping: asyncio.Event
) -> None:
    telling.say(HALF)
    async with served(behind[1], stopping) as client:
        asking = asyncio.create_task(client.post("/api/conversations/sync?wait=true", json=BODY))
        await until(lambda: telling.calls == 1)

        asking.cancel()
        await asyncio.wait_for(telling.cancelled.wait(), SECONDS)

    assert asking.cancelled()


async def test_events_come_as_they_happen_and_who_hangs_up_ends_the_watch(
    behind: tuple[Upstream, Upstreams], telling: Telling, stopping: asyncio.Event
) -> None:
    telling.say(QUEUED)
    async with served(behind[1], stopping) as client:
        async with client.stream("GET", f"/api/sync-runs/{RUN}/events") as response:
            lines = response.aiter_lines()
            first = await anext(lines)
            telling.say(HALF)
            second = [await anext(lines) for _ in range(2)][-1]
        await asyncio.wait_for(telling.cancelled.wait(), SECONDS)

    assert '"state":"queued"' in first
    assert '"state":"running"' in second


async def test_a_stream_ends_when_the_server_stops(
    behind: tuple[Upstream, Upstreams], telling: Telling, stopping: asyncio.Event
) -> None:
    telling.say(HALF)
    async with (
        served(behind[1], stopping) as client,
        client.stream("GET", f"/api/sync-runs/{RUN}/events") as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)

        stopping.set()
        rest = [line async for line in lines]

    assert rest == [""]


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("data: ")]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.001)
