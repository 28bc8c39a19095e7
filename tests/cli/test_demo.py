import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagewire_cli.demo import story
from pagewire_cli.demo.proof import Claim, Evidence, claims, figures_of, percentiles
from pagewire_cli.demo.show import fitted
from pagewire_cli.demo.watching import Ended, Played, whose

ACCOUNTS = {shop.handle: f"10{number}" for number, shop in enumerate(story.SHOPS)}
PRICE = story.QUESTIONS[0]
LATER = story.WHILE_DOWN[0]
SILENT = story.LIMITS[0]


def call(created: str | None, **more: Any) -> dict[str, Any]:
    return {
        "account_id": ACCOUNTS["Bakery"],
        "person_id": None,
        "comment_id": None,
        "endpoint": "send",
        "text": story.PRICE,
        "created": created,
        "status": 200,
        "started_at": 1_030,
        "ended_at": 1_280,
        "method": "POST",
        "shape": "/{account}/messages",
        "token_in_url": False,
        "code": None,
        "proof": "ok",
    } | more


def event(ref: str, mid: str, **more: Any) -> dict[str, Any]:
    return {
        "ref": ref,
        "subject": mid,
        "field": "messages",
        "value": {"message": {"mid": mid}},
        "subscribed": True,
        "told": 1,
        "attempts": 1,
    } | more


def delivery(ref: str, started: int, outcome: str = "ok", repeat: bool = False) -> dict[str, Any]:
    return {
        "refs": [ref],
        "started_at": started,
        "ended_at": started + 8,
        "outcome": outcome,
        "status": 200 if outcome == "ok" else None,
        "repeat": repeat,
    }


def decided(rule: str | None, reason: str = "fired") -> dict[str, Any]:
    fired = [{"name": rule, "fired": True}] if rule else []
    outcome = "answered" if rule else "declined"
    page = ACCOUNTS["Bakery"]
    return {
        "page_id": page,
        "kind": "message",
        "outcome": outcome,
        "reason": reason,
        "rules": fired,
    }


def a_run(page: str, kind: str, **more: Any) -> dict[str, Any]:
    is_threads = kind == "conversations"
    return {
        "page_id": page,
        "kind": kind,
        "state": "succeeded",
        "error": None,
        "conversations": 2 if is_threads else 0,
        "messages": 3 if is_threads else 0,
        "comments": 0 if is_threads else 1,
        "graph_calls": 4,
    } | more


SECOND = 1_700_000_000


def true(mid: str, shown: str = "whole", inbound: bool = True) -> dict[str, Any]:
    at = SECOND * 1_000 + 678
    return {"mid": mid, "inbound": inbound, "created_at": at, "text": "hello", "shown": shown}


def stored(mid: str | None, **more: Any) -> dict[str, Any]:
    return {
        "mid": mid,
        "direction": "inbound",
        "text": "hello",
        "created_time": "2023-11-14T22:13:20.000Z",
    } | more


TRUTH = {
    "account": ACCOUNTS["Bakery"],
    "conversations": [
        {"messages": [true(mid) for mid in ("m_a", "m_b", "m_c", "m_whole")]},
        {"messages": [true("m_bare", "bare", inbound=False), true("m_gone", "gone")]},
        {"messages": [true("m_1", inbound=False), true("m_2", inbound=False)]},
    ],
    "comments": [
        {"id": "c_1", "text": "how much?", "deleted": False},
        {"id": "c_2", "text": "gone", "deleted": True},
    ],
}
STORED = [
    *(stored(mid) for mid in ("m_a", "m_b", "m_c", "m_whole")),
    stored("m_bare", direction=None, text=None),
    *(stored(mid, direction="outbound") for mid in ("m_1", "m_2")),
    *(stored(mid) for mid in story.storm_mids()),
]


def with_messages(*changed: dict[str, Any]) -> dict[str, Any]:
    """What is stored, with these instead of those of their ids."""
    mids = {one["mid"] for one in changed}
    kept = [one for one in STORED if one["mid"] not in mids]
    return {"messages": {ACCOUNTS["Bakery"]: [*kept, *changed]}}


@pytest.fixture
def seen() -> Evidence:
    """Ana was answered, Gus was not, Gil met a dead edge first: all as it should be."""
    bakery = ACCOUNTS["Bakery"]
    sends = [call("m_1", person_id="ana"), call("m_2", person_id="gil", started_at=5_000)]
    answered = Played(PRICE, bakery, "ana", {"ref": "e1", "mid": "m_a"}, decided("price"))
    answered.calls, answered.received = [sends[0]], 1_000
    silent = Played(
        SILENT, bakery, "gus", {"ref": "e2", "mid": "m_b"}, decided(None, SILENT.reason)
    )
    late = Played(LATER, bakery, "gil", {"ref": "e3", "mid": "m_c"}, decided("price"))
    late.calls, late.received = [sends[1]], 4_000
    echoes = [
        event(f"x{mid}", mid, value={"message": {"mid": mid, "is_echo": True}})
        for mid in ("m_1", "m_2")
    ]
    return Evidence(
        played=[answered, silent, late],
        while_down=[late],
        decisions=[one.decision for one in (answered, silent, late) if one.decision],
        events=[
            event("e1", "m_a", told=2, attempts=2),
            event("e2", "m_b"),
            event("e3", "m_c", attempts=2),
            *echoes,
        ],
        deliveries=[
            delivery("e1", 1_000),
            delivery("e1", 1_001, repeat=True),
            delivery("e2", 1_500),
            delivery("e3", 4_000, outcome="fail"),
            delivery("e3", 4_900),
        ],
        calls=sends,
        pasts={bakery: {"conversations": 2, "messages": 4, "posts": 1, "comments": 1}},
        runs=[a_run(bakery, "conversations"), a_run(bakery, "comments")],
        mirrored_in=4.26,
        truths=[TRUTH],
        messages={bakery: STORED},
        comments={bakery: [{"comment_id": "c_1", "text": "how much?"}]},
        echoes=story.storm_mids(),
        status={
            "unknown_page_events": 1,
            "quarantined": 1,
            "parked_events": 0,
            "pending_events": 0,
        },
        hidden=True,
        labelled=True,
    )


def broken(seen: Evidence) -> list[Claim]:
    return [claim for claim in claims(seen) if not claim.holds]


def test_every_claim_holds_where_all_went_as_it_should(seen: Evidence) -> None:
    assert broken(seen) == []


def test_replies_that_have_no_id_yet_are_not_one_message_stored_twice(seen: Evidence) -> None:
    waiting = replace(seen, **with_messages(stored(None), stored(None)))

    assert broken(waiting) == []


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"messages": {ACCOUNTS["Bakery"]: []}}, "message m_b is not stored"),
        (with_messages(stored("m_a"), stored("m_a")), "m_a is stored 2 times"),
        (
            {"comments": {ACCOUNTS["Bakery"]: [{"comment_id": "c_1", "text": "how much?"}] * 2}},
            "c_1 is stored 2 times",
        ),
        ({"runs": []}, "nothing was mirrored"),
        (
            {"runs": [a_run("100", "conversations", state="partial", error="threads_unreadable")]},
            "conversations of page 100 ended partial (threads_unreadable)",
        ),
        (
            {"runs": [a_run("100", "conversations", conversations=1), a_run("100", "comments")]},
            "1 conversations of page 100 were gone through, not 2",
        ),
        (
            with_messages(stored("m_whole", text="hallo")),
            "message m_whole is stored with another text",
        ),
        (with_messages(stored("m_1")), "message m_1 is stored as inbound"),
        (
            with_messages(stored("m_whole", direction=None)),
            "message m_whole is stored without what Graph shows of it",
        ),
        (
            with_messages(stored("m_whole", created_time="2023-11-14T22:13:21.000Z")),
            "message m_whole is stored with another time",
        ),
        (with_messages(stored("m_new")), "message m_new is stored, Meta has none"),
        ({"comments": {ACCOUNTS["Bakery"]: []}}, "comment c_1 is not stored"),
        (
            {"comments": {ACCOUNTS["Bakery"]: [{"comment_id": "c_1", "text": None}]}},
            "comment c_1 is stored with another text",
        ),
        (
            {"calls": [call("m_1", code=613, shape="/{account}/conversations", method="GET")]},
            "GET /{account}/conversations was refused as too much (613)",
        ),
        ({"hidden": False}, "the insulting comment is not hidden"),
        ({"labelled": False}, "the label is not on the person"),
        ({"decisions": []}, "3 events of kind message on page 100, but 0 decisions"),
        ({"calls": []}, "send to Ana: 0 times, 1 were due"),
        (
            {"calls": [call("m_9", person_id="eve")]},
            "send to somebody unknown: 1 times, 0 were due",
        ),
        (
            {"calls": [call("m_1", person_id="ana"), call("m_3", person_id="ana")]},
            "send to Ana: 2 times, 1 were due",
        ),
        (
            {"calls": [call("m_1", person_id="ana"), call("m_3", person_id="ana")]},
            "two requests for ana were under way at once",
        ),
        (
            {"calls": [call("m_1", person_id="ana", proof="missing")]},
            "POST /{account}/messages came with a proof that is missing",
        ),
        (
            {"calls": [call("m_1", token_in_url=True)]},
            "a token stood in the URL of POST /{account}/messages",
        ),
        ({"events": [event("e1", "m_a", told=0)]}, "event e1 (messages) was never answered 200"),
        ({"events": [event("e1", "m_a")]}, "Ana's event was to be told twice, not [1] times"),
        ({"events": [event("e1", "m_a")]}, "only 0 echoes of 2 messages were told"),
        (
            {"events": [event("e3", "m_c")]},
            "Gil's webhook was not refused before it was taken",
        ),
        (
            {
                "status": {
                    "unknown_page_events": 0,
                    "quarantined": 1,
                    "parked_events": 0,
                    "pending_events": 0,
                }
            },
            "0 events of unknown pages are kept, not 1",
        ),
    ],
)
def test_what_did_not_happen_breaks_its_claim_and_is_named(
    seen: Evidence, changes: dict[str, Any], failure: str
) -> None:
    failures = [one for claim in broken(replace(seen, **changes)) for one in claim.failures]

    assert failure in failures


@pytest.mark.parametrize(
    ("decision", "failure"),
    [
        (None, "Ana (Bakery, message): no decision of the kind that was due"),
        (decided("hours"), "Ana (Bakery, message): ['hours'] fired, price should"),
        (
            decided(None, "no_rule_matched"),
            "Ana (Bakery, message): declined as no_rule_matched, not as fired",
        ),
    ],
)
def test_another_decision_than_the_one_due_breaks_the_claim(
    seen: Evidence, decision: dict[str, Any] | None, failure: str
) -> None:
    seen.played[0].decision = decision

    (claim, *_) = (one for one in broken(seen) if "decided" in one.text)

    assert failure in claim.failures


def test_times_are_those_of_metas_own_clock_and_leave_the_dead_edge_aside(seen: Evidence) -> None:
    figures = figures_of(seen)

    assert figures["receipt_to_request_ms"] == {"p50": 30, "p95": None}
    assert figures["after_the_edge_died_ms"]["p50"] == 1_000
    assert figures["graph_ms"]["p50"] < 251
    assert (figures["webhooks"], figures["acknowledged"], figures["refused"]) == (5, 4, 1)


def test_percentiles_lie_within_what_was_measured() -> None:
    assert percentiles(range(101)) == {"p50": 50, "p95": 95}
    assert percentiles([]) == {"p50": None, "p95": None}


def test_an_answer_finds_the_person_whom_graph_was_asked_to_write_to() -> None:
    bakery = ACCOUNTS["Bakery"]
    ana, gil = Played(PRICE, bakery, "ana"), Played(LATER, bakery, "gil")
    reply = {"kind": "message", "mid": "m_2", "comment_id": None}
    ended = Ended(decided("price"), [reply])
    calls = [call("m_1", person_id="ana"), call("m_2", person_id="gil")]

    assert whose(ended, calls, [ana, gil]) is gil


def test_of_one_persons_acts_the_answer_finds_the_one_it_was_due_to() -> None:
    bakery = ACCOUNTS["Bakery"]
    hours = Played(story.QUESTIONS[3], bakery, "ana")
    price = Played(PRICE, bakery, "ana")
    ended = Ended(decided("price"), [{"kind": "message", "mid": "m_1", "comment_id": None}])

    assert whose(ended, [call("m_1", person_id="ana")], [hours, price]) is price


def test_what_was_declined_finds_an_act_of_its_kind_and_reason() -> None:
    bakery = ACCOUNTS["Bakery"]
    once, active = (Played(act, bakery, act.person) for act in story.LIMITS)
    ended = Ended(decided(None, "person_active"), [])

    assert whose(ended, [], [once, active]) is active


def test_the_story_is_at_odds_with_nobody() -> None:
    """A person of one page only, every rule used, every rule that is to fire there."""
    acts = (
        *story.QUESTIONS,
        *story.IN_PUBLIC,
        *story.LIMITS,
        *story.CROWD,
        *story.WHILE_DOWN,
    )
    rules = {rule["name"] for rule in story.rules(ACCOUNTS)}

    assert {act.rule for act in acts if act.rule} == rules
    assert len({act.person for act in acts}) == len({(a.person, a.shop.handle) for a in acts})


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("Ana", 5, "Ana  "),
        ("What does it cost?", 6, "What…"),
        ("日本語です", 6, "日本… "),
        ("👋🏽", 4, "👋🏽  "),
    ],
)
def test_a_cell_has_its_width_on_a_terminal_whatever_stands_in_it(
    text: str, width: int, shown: str
) -> None:
    assert fitted(text, width).rstrip() == shown.rstrip()


def processes_of(folder: str) -> list[int]:
    """Whose environment or command line names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if folder.encode() in told:
            found.append(int(entry.name))
    return found


@pytest.fixture
def throw_away() -> Iterator[Path]:
    """A folder which, unlike pytest's own, the servers' user can pass through."""
    with tempfile.TemporaryDirectory(prefix="pagewire-test-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_told_to_stop_leaves_no_process_and_no_folder(
    throw_away: Path, number: signal.Signals
) -> None:
    environment = os.environ | {"TMPDIR": str(throw_away)}
    demo = subprocess.Popen(
        [sys.executable, "-m", "pagewire_cli.demo"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while not list(throw_away.glob("pagewire-demo-*/logs/store.log")):
        assert time.monotonic() < deadline, "the demo did not start its services"
        time.sleep(0.05)
    (folder,) = throw_away.glob("pagewire-demo-*")

    demo.send_signal(number)
    _, said = demo.communicate(timeout=90)

    assert demo.returncode == 130
    assert said == "pagewire: the demo was stopped\n"
    assert not folder.exists()
    assert processes_of(folder.name) == []
