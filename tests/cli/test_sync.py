import io
import json
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from pagewire.sync.v1.history_service_pb2 import StartSyncRequest
from pagewire.type.v1.page_pb2 import Page
from pagewire.type.v1.sync_run_pb2 import (
    SYNC_KIND_COMMENTS,
    SYNC_KIND_CONVERSATIONS,
    SYNC_MODE_AUTO,
    SYNC_MODE_FULL,
    SYNC_MODE_INCREMENTAL,
    SYNC_STATE_CANCELLED,
    SYNC_STATE_FAILED,
    SYNC_STATE_PARTIAL,
    SYNC_STATE_QUEUED,
    SYNC_STATE_RUNNING,
    SYNC_STATE_SUCCEEDED,
    SyncMode,
    SyncRun,
    SyncState,
)
from pagewire_cli import progress
from pagewire_cli.main import main
from pagewire_cli.progress import Board, Pace, figures, steps, times
from pagewire_runtime.clock import Clock
from pagewire_runtime.errors import Unavailable
from tests.support.operated import Pagewire

BEGAN, OVER = Timestamp(seconds=1_700_000_000), Timestamp(seconds=1_700_000_012)
HALF = SyncRun(
    state=SYNC_STATE_RUNNING,
    start_time=BEGAN,
    conversations=500,
    messages=9_000,
    graph_calls=21,
    expected=1_000,
    budget_left_percent=87,
)
DONE = SyncRun(
    state=SYNC_STATE_SUCCEEDED,
    end_time=OVER,
    conversations=1_000,
    messages=18_000,
    stored=17_500,
    graph_calls=42,
)


def ending(state: SyncState.ValueType, **more: Any) -> SyncRun:
    return SyncRun(state=state, start_time=BEGAN, end_time=OVER, **more)


@pytest.fixture
def connected(held: Pagewire, monkeypatch: pytest.MonkeyPatch) -> Pagewire:
    """Three pages, each of whose runs succeeds unless told otherwise."""
    monkeypatch.setattr(progress, "PAUSE", 0.001)
    held.pages = [Page(page_id=page_id, name="Shop") for page_id in ("101", "102", "103")]
    held.course = {page.page_id: [HALF, DONE] for page in held.pages}
    return held


def test_a_page_is_synced_and_its_figures_are_told(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["sync", "101"])

    head, line = capsys.readouterr().out.splitlines()
    assert code == 0
    assert connected.started == [
        StartSyncRequest(page_id="101", kind=SYNC_KIND_CONVERSATIONS, mode=SYNC_MODE_AUTO)
    ]
    assert head.split()[:4] == ["RUN", "PAGE", "WHAT", "STATE"]
    told = ["run-1", "101", "full", "conversations", "succeeded", "1,000", "18,000", "0", "17,500"]
    assert line.split()[:9] == told
    assert "12.0 s" in line


@pytest.mark.parametrize(
    ("option", "mode"),
    [
        ([], SYNC_MODE_AUTO),
        (["--full"], SYNC_MODE_FULL),
        (["--incremental"], SYNC_MODE_INCREMENTAL),
    ],
)
def test_the_mode_is_left_to_pagewire_unless_said(
    connected: Pagewire, option: list[str], mode: SyncMode.ValueType
) -> None:
    main(["sync", "101", *option])

    (started,) = connected.started
    assert started.mode == mode


def test_with_comments_both_kinds_are_synced(connected: Pagewire) -> None:
    connected.course["101"] = [DONE, DONE]

    main(["sync", "101", "--comments", "--no-wait"])

    kinds = {request.kind for request in connected.started}
    assert kinds == {SYNC_KIND_CONVERSATIONS, SYNC_KIND_COMMENTS}


def test_all_pages_are_synced_also_those_beyond_a_lists_first_part(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["sync", "--all", "--json"])

    runs = json.loads(capsys.readouterr().out)["runs"]
    assert code == 0
    assert {run["page_id"]: run["state"] for run in runs} == dict.fromkeys(
        ("101", "102", "103"), "succeeded"
    )


def test_as_json_a_run_is_shown_as_the_http_api_shows_it(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.course["101"] = [ending(SYNC_STATE_PARTIAL, error="threads_unreadable", unreadable=1)]

    main(["sync", "101", "--json"])

    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run == {
        "run_id": "run-1",
        "page_id": "101",
        "kind": "conversations",
        "mode": "full",
        "state": "partial",
        "conversations": 0,
        "messages": 0,
        "comments": 0,
        "graph_calls": 0,
        "started_at": "2023-11-14T22:13:20.000Z",
        "finished_at": "2023-11-14T22:13:32.000Z",
        "error": "threads_unreadable",
        "created_at": None,
        "origin": None,
        "stored": 0,
        "recovered": 0,
        "unreadable": 1,
        "expected": None,
        "budget_left_percent": 0,
    }


@pytest.mark.parametrize(
    ("state", "error", "advice"),
    [
        (SYNC_STATE_FAILED, "token_dead", "101: its token is no longer valid"),
        (SYNC_STATE_PARTIAL, "threads_unreadable", "101: Graph would not give some of it"),
        (SYNC_STATE_CANCELLED, "", ""),
    ],
)
def test_a_run_that_did_not_succeed_is_exit_1_with_what_to_do(
    connected: Pagewire,
    capsys: pytest.CaptureFixture[str],
    state: SyncState.ValueType,
    error: str,
    advice: str,
) -> None:
    connected.course["102"] = [ending(state, error=error)]

    code = main(["sync", "--all"])

    shown = capsys.readouterr()
    assert code == 1
    assert f"{advice}" in shown.err.replace("102", "101")
    assert shown.out.count("succeeded") == 2


def test_who_does_not_wait_is_told_which_runs_have_begun(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["sync", "101", "--no-wait", "--json"])

    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (code, run["run_id"], run["state"]) == (0, "run-1", "queued")
    assert connected.watches == 0


def test_a_page_that_is_not_connected_is_named_and_stops_none_of_the_others(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["sync", "999", "101"])

    shown = capsys.readouterr()
    assert code == 1
    assert shown.err == "pagewire: 999: the page is not connected (PAGE_UNKNOWN)\n"
    assert "succeeded" in shown.out


def test_a_page_named_twice_is_synced_once(connected: Pagewire) -> None:
    main(["sync", "101", "101"])

    assert len(connected.started) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sync"], "name pages or say --all"),
        (["sync", "101", "--all"], "name pages or say --all, not both"),
        (["sync", "101", "--full", "--incremental"], "--full or --incremental, not both"),
        (["repair"], "name pages or say --all"),
    ],
)
def test_what_is_meant_must_be_clear(
    connected: Pagewire, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code = main(arguments)

    assert (code, capsys.readouterr().err) == (2, f"pagewire: {said}\n")
    assert connected.started == []


def test_all_of_no_page_is_told(held: Pagewire, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["sync", "--all"])

    assert code == 1
    assert capsys.readouterr().err.startswith("pagewire: no page is connected")


def test_a_sync_that_dies_is_waited_for_and_the_run_followed_to_its_end(
    connected: Pagewire,
) -> None:
    connected.course["101"] = [HALF, Unavailable("sync"), Unavailable("sync"), DONE]

    code = main(["sync", "101"])

    assert (code, connected.watches) == (0, 3)


def test_who_interrupts_leaves_the_runs_going_on_and_learns_how_to_look_and_to_cancel(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.course["101"] = [HALF]
    connected.silent = lambda: os.kill(os.getpid(), signal.SIGINT)
    # Whoever runs the tests may have had it ignored, as shells do for what they put aside.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        code = main(["sync", "101"])
    finally:
        signal.signal(signal.SIGINT, before)

    assert code == 130
    assert connected.runs["run-1"].state == SYNC_STATE_RUNNING
    said = capsys.readouterr().err
    assert "`pagewire runs watch run-1`" in said
    assert "`pagewire runs cancel run-1`" in said


def test_a_repair_is_asked_for_as_one(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.course["101"] = [ending(SYNC_STATE_SUCCEEDED, recovered=3)]

    code = main(["repair", "101"])

    assert code == 0
    assert connected.started == [
        StartSyncRequest(page_id="101", kind=SYNC_KIND_CONVERSATIONS, repair=True)
    ]
    assert "3 recovered" in capsys.readouterr().out


def test_runs_are_listed_newest_first_and_of_one_page_where_asked(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sync", "101", "--no-wait"])
    main(["sync", "102", "--no-wait"])
    capsys.readouterr()

    main(["runs", "list", "--json"])
    every = json.loads(capsys.readouterr().out)["runs"]
    main(["runs", "list", "--page", "101"])
    _, line = capsys.readouterr().out.splitlines()

    assert [run["page_id"] for run in every] == ["102", "101"]
    assert every[0]["expected"] is None
    assert line.split()[:2] == ["run-1", "101"]


def test_a_run_is_watched_again_to_its_end(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sync", "101", "--no-wait"])
    capsys.readouterr()

    code = main(["runs", "watch", "run-1", "--json"])

    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (code, run["state"], run["messages"]) == (0, "succeeded", 18_000)


def test_a_run_is_cancelled_at_once_or_soon(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sync", "101", "102", "--no-wait"])
    connected.runs["run-2"].state = SYNC_STATE_RUNNING
    capsys.readouterr()

    code = main(["runs", "cancel", "run-1", "run-2"])

    assert code == 0
    assert capsys.readouterr().out.splitlines() == [
        "run-1 is cancelled.",
        "run-2 will end soon.",
    ]


def test_a_run_that_is_cancelled_is_shown_as_the_http_api_shows_it(
    connected: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sync", "101", "--no-wait"])
    capsys.readouterr()

    code = main(["runs", "cancel", "run-1", "--json"])

    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert code == 0
    assert (run["run_id"], run["state"]) == ("run-1", "cancelled")


@pytest.mark.parametrize("command", ["watch", "cancel"])
def test_an_unknown_run_is_one_line_with_its_reason(
    connected: Pagewire, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code = main(["runs", command, "run-9"])

    assert code == 1
    assert capsys.readouterr().err == "pagewire: there is no such run (RUN_UNKNOWN)\n"


def run(**more: Any) -> SyncRun:
    made = SyncRun(run_id="run-1", page_id="101", kind=SYNC_KIND_CONVERSATIONS, mode=SYNC_MODE_FULL)
    made.MergeFrom(HALF)
    made.MergeFrom(SyncRun(**more))
    return made


@pytest.mark.parametrize(
    ("shown", "per_second", "text"),
    [
        (run(state=SYNC_STATE_QUEUED), None, "waits for its turn"),
        (
            run(),
            304.4,
            "500 threads, 9,000 messages, 304/s, 21 calls, 87 % of the budget left",
        ),
        (
            run(kind=SYNC_KIND_COMMENTS, comments=70),
            None,
            "70 comments, 21 calls, 87 % of the budget left",
        ),
        (
            run(state=SYNC_STATE_FAILED, error="token_dead"),
            None,
            "500 threads, 9,000 messages, 21 calls, failed: token_dead",
        ),
    ],
)
def test_the_figures_of_a_run_are_one_line(
    shown: SyncRun, per_second: float | None, text: str
) -> None:
    assert figures(shown, per_second) == text


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (run(), (500, 1_000)),
        (run(conversations=1_200), (1_200, 1_200)),
        (run(state=SYNC_STATE_SUCCEEDED), (500, 500)),
        (run(kind=SYNC_KIND_COMMENTS), (500, None)),
        (SyncRun(kind=SYNC_KIND_CONVERSATIONS), (0, None)),
    ],
)
def test_a_bar_is_never_beyond_its_end(shown: SyncRun, told: tuple[int, int | None]) -> None:
    assert steps(shown) == told


class Stopped(Clock):
    """An hour and some after the runs began, for ever."""

    def now(self) -> datetime:
        return BEGAN.ToDatetime(UTC) + timedelta(hours=1, minutes=1, seconds=5)


@pytest.mark.parametrize(
    ("shown", "left", "text"),
    [
        (SyncRun(state=SYNC_STATE_QUEUED), None, ""),
        (run(), None, "1:01:05"),
        (run(), 75.0, "1:01:05, 1:15 left"),
        (run(), 0.0, "1:01:05"),
        (ending(SYNC_STATE_SUCCEEDED), 0.0, "0:12"),
    ],
)
def test_a_run_tells_how_long_it_took_and_what_is_left_where_that_shows(
    shown: SyncRun, left: float | None, text: str
) -> None:
    assert times(shown, Stopped().now(), left) == text


def test_a_run_whose_machine_is_ahead_of_ours_has_taken_no_time_yet() -> None:
    assert times(run(), BEGAN.ToDatetime(UTC) - timedelta(minutes=2), None) == "0:00"


def test_a_run_of_which_nobody_can_tell_how_much_there_is_shows_its_figures_and_no_end() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    first, then = run(), run(conversations=600)
    first.ClearField("expected")
    then.ClearField("expected")

    with Board(console, crowded=False, wall=Stopped()) as tell:
        tell(first)
        tell(then)
        screen.truncate(0)

    last = screen.getvalue()
    assert "600 threads, 9,000 messages, 21 calls, 87 % of the budget left 1:01:05" in last
    assert "1:01:05," not in last


def test_a_narrow_terminal_shows_all_of_a_run() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)

    with Board(console, crowded=False, wall=Stopped()) as tell:
        tell(run())
        screen.truncate(0)

    shown = screen.getvalue()
    told = "full conversations 500 threads, 9,000 messages, 21 calls, 87 % of the budget left"
    assert [word for word in told.split() if word not in shown] == []
    assert "1:01:05" in shown
    assert "…" not in shown


def test_a_pace_counts_from_when_we_began_to_look() -> None:
    pace = Pace(began=10.0, before=9_000)

    assert pace.of(10.0, 9_000) is None
    assert pace.of(12.0, 9_000) is None
    assert pace.of(12.0, 9_600) == 300.0


@pytest.mark.parametrize(("crowded", "rows"), [(False, ["101", "102"]), (True, ["102"])])
def test_a_terminal_shows_a_row_for_each_run_and_of_many_only_those_that_go_on(
    crowded: bool, rows: list[str]
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140)

    with Board(console, crowded=crowded) as tell:
        tell(run())
        tell(run(run_id="run-2", page_id="102"))
        tell(run(state=SYNC_STATE_SUCCEEDED))
        screen.truncate(0)

    last = screen.getvalue()
    assert [page for page in ("101", "102") if f"{page} full conversations" in last] == rows
