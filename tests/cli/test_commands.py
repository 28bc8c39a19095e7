import getpass
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from pagewire.rules.v1.rule_service_pb2 import TryRulesResponse
from pagewire.store.v1.operation_service_pb2 import (
    SETTLEMENT_DROPPED,
    SETTLEMENT_SENT,
    GetStatusResponse,
    PageStateCount,
    Parked,
    ParkedEvent,
    Quarantined,
    ReplyStateCount,
)
from pagewire.type.v1.decision_pb2 import Decision, Outcome
from pagewire.type.v1.event_pb2 import EventKind, Trigger
from pagewire.type.v1.page_pb2 import Login, Page, PageState, Platform
from pagewire.type.v1.reply_pb2 import ReplyContent, ReplyState, Tag
from pagewire.type.v1.rule_pb2 import Action, LeftOut, Rule, RuleVerdict, Span, TextMode
from pagewire_cli import replies, secretfile
from pagewire_cli.main import app, main
from pagewire_runtime.auth import caller
from tests.support.operated import OPERATOR_TOKEN, Pagewire

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)

PRICE = {
    "name": "price",
    "priority": 10,
    "events": ["message", "comment"],
    "when": {"text": {"any": ["price", "cost"]}},
    "then": [{"reply": {"text": "It is 10 euro"}}, {"add_label": {"name": "lead"}}],
}


def written(folder: Path, *rules: Any) -> str:
    file = folder / "rules.json"
    file.write_text(json.dumps(list(rules)))
    return str(file)


def page(page_id: str, state: PageState.ValueType = PageState.PAGE_STATE_HEALTHY) -> Page:
    return Page(
        page_id=page_id,
        platform=Platform.PLATFORM_MESSENGER,
        login=Login.LOGIN_FACEBOOK,
        name=f"Shop {page_id}",
        state=state,
    )


def decision(number: int, **more: Any) -> Decision:
    made = Decision(
        event_id=f"e-101-{number}",
        page_id="101",
        kind=Trigger.TRIGGER_MESSAGE,
        outcome=Outcome.OUTCOME_ANSWERED,
        reason="fired",
        rules=[RuleVerdict(rule_id="rule-1", name="price", fired=True, reason="fired")],
        **more,
    )
    made.receive_time.FromDatetime(NOON)
    made.decide_time.FromDatetime(NOON + timedelta(milliseconds=12))
    made.sent_time.FromDatetime(NOON + timedelta(milliseconds=31))
    return made


def test_a_page_is_connected_with_the_token_of_a_file(
    held: Pagewire, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text("EAAexample\n")

    code = main(
        ["pages", "connect", "17841", "--platform", "instagram", "--login", "instagram",
         "--name", "Corner", "--token-file", str(file)]
    )  # fmt: skip

    assert code == 0
    assert held.tokens == {"17841": "EAAexample"}
    (connected,) = held.pages
    assert connected.platform == Platform.PLATFORM_INSTAGRAM
    assert connected.login == Login.LOGIN_INSTAGRAM
    shown = capsys.readouterr()
    assert "17841 is connected" in shown.out
    assert "`pagewire pages list` shows whether token and subscription work" in shown.out
    assert "EAAexample" not in shown.out + shown.err


def test_a_token_may_come_from_the_environment_or_from_standard_input(
    held: Pagewire, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = ["pages", "connect", "101", "--platform", "messenger", "--name", "Corner"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("EAAtyped\n"))

    from_input = main(connect), held.tokens["101"]
    monkeypatch.setenv("PAGEWIRE_PAGE_TOKEN", "EAAgiven")
    from_environment = main(connect), held.tokens["101"]

    assert from_input == (0, "EAAtyped")
    assert from_environment == (0, "EAAgiven")


def test_without_a_token_nothing_is_asked_of_pagewire(
    held: Pagewire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))

    code = main(["pages", "connect", "101", "--platform", "messenger", "--name", "Corner"])

    assert code == 2
    assert held.tokens == {}
    assert capsys.readouterr().err.startswith("pagewire: standard input holds no access token")


def test_the_audit_learns_who_acts(held: Pagewire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEWIRE_PAGE_TOKEN", "EAAgiven")
    connect = ["pages", "connect", "101", "--platform", "messenger", "--name", "Corner"]

    main(connect)
    unnamed = held.actor
    main(["--actor", "ana", *connect])

    assert unnamed is not None
    assert unnamed.startswith(f"{getpass.getuser()}@")
    assert held.actor == "ana"


def test_a_list_as_json_has_the_names_of_the_http_api_and_says_where_it_goes_on(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    held.pages = [page("103"), page("102"), page("101")]

    code = main(["pages", "list", "--json"])

    listed = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [one["page_id"] for one in listed["pages"]] == ["103", "102"]
    assert listed["pages"][0]["state"] == "healthy"
    assert listed["next_page_token"] == "2"


def test_all_of_a_list_is_fetched_page_by_page(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    held.pages = [page(str(number)) for number in range(5)]

    main(["pages", "list", "--all", "--json"])

    listed = json.loads(capsys.readouterr().out)
    assert [one["page_id"] for one in listed["pages"]] == ["0", "1", "2", "3", "4"]
    assert "next_page_token" not in listed


def test_a_list_is_plain_aligned_text_where_there_is_no_terminal(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    held.pages = [page("101"), page("10200000000", PageState.PAGE_STATE_BLOCKED)]

    main(["pages", "list"])

    head, first, second = capsys.readouterr().out.splitlines()
    assert head.index("PLATFORM") == first.index("messenger") == second.index("messenger")
    assert "blocked" in second


def test_what_strangers_wrote_cannot_act_on_the_terminal(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    held.pages = [page("101")]
    held.pages[0].name = "Corner\x1b[2J\nshop\u202e"

    main(["pages", "list"])

    out = capsys.readouterr().out
    assert "Corner\ufffd[2J⏎shop\ufffd" in out


def test_disconnecting_asks_first_and_without_a_person_wants_yes(
    held: Pagewire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held.pages = [page("101")]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))

    asked = main(["pages", "disconnect", "101"])
    left = len(held.pages)
    told = main(["pages", "disconnect", "101", "--yes"])

    assert (asked, left) == (2, 1)
    assert (told, held.pages) == (0, [])
    assert "say --yes" in capsys.readouterr().err


def test_a_refusal_is_one_line_with_its_reason(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["pages", "disconnect", "999", "--yes"])

    assert code == 1
    assert capsys.readouterr().err == "pagewire: the page is not connected (PAGE_UNKNOWN)\n"


def test_rules_are_created_then_left_alone_then_updated_by_their_name(
    held: Pagewire, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["rules", "apply", written(tmp_path, PRICE)])
    created = capsys.readouterr().out
    main(["rules", "apply", written(tmp_path, PRICE)])
    kept = capsys.readouterr().out
    version = held.rules[0].version
    main(["rules", "apply", written(tmp_path, PRICE | {"priority": 20, "enabled": False})])
    updated = capsys.readouterr().out

    assert created == "+ price: created\n"
    assert (kept, version) == ("= price: unchanged\n", 1)
    assert updated.splitlines() == [
        "~ price: updated",
        "    enabled: true → false",
        "    priority: 10 → 20",
    ]
    (rule,) = held.rules
    assert (rule.priority, rule.enabled, rule.version) == (20, False, 2)


def test_the_defaults_of_a_written_rule_are_those_of_the_http_api(
    held: Pagewire, tmp_path: Path
) -> None:
    hiding = PRICE | {"name": "insult", "events": ["comment"], "then": [{"hide_comment": {}}]}

    main(["rules", "apply", written(tmp_path, PRICE, hiding)])

    price, insult = held.rules
    assert price.enabled
    assert not price.page_ids
    assert insult.then[0].hide_comment.hidden


def test_a_dry_run_shows_what_would_change_and_changes_nothing(
    held: Pagewire, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held.rules = [Rule(rule_id="rule-9", version=3, name="old")]

    code = main(["rules", "apply", written(tmp_path, PRICE), "--dry-run", "--prune"])

    assert code == 0
    assert [rule.name for rule in held.rules] == ["old"]
    assert capsys.readouterr().out == "+ price: would create\n- old: would delete\n"


def test_pruning_deletes_what_no_file_names_and_only_then(held: Pagewire, tmp_path: Path) -> None:
    held.rules = [Rule(rule_id="rule-9", version=3, name="old")]
    file = written(tmp_path, PRICE)

    main(["rules", "apply", file])
    beside = [rule.name for rule in held.rules]
    main(["rules", "apply", file, "--prune", "--yes"])

    assert beside == ["old", "price"]
    assert [rule.name for rule in held.rules] == ["price"]


def test_what_the_list_shows_can_be_applied_again(
    held: Pagewire, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buttons = [{"title": "Prices", "payload": "PRICES"}]
    asking = {"text": "What would you like to know?", "quick_replies": buttons}
    main(["rules", "apply", written(tmp_path, PRICE | {"then": [{"reply": asking}]})])
    capsys.readouterr()
    main(["rules", "list", "--json"])
    listed = capsys.readouterr().out
    file = tmp_path / "listed.json"
    file.write_text(listed)

    main(["rules", "apply", str(file)])

    assert json.loads(listed)["rules"][0]["then"] == [{"reply": asking}]
    assert capsys.readouterr().out == "= price: unchanged\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "rule 1: it must be an object"),
        ('{"name": "x", "evnts": []}', "rule 1: evnts is not known"),
        ('{"name": "x", "events": ["dm"]}', "rule 1: events[0] must be one of message"),
        ('{"events": ["message"]}', "rule 1: name is missing"),
        ('[{"name": "x"}, {"name": "x"}]', "rule 2: 'x' was there before"),
        ('{"name": "x", "then": 5}', "rule 1: then must be a list"),
        ('{"name": "x", "then": ["reply"]}', "rule 1: then[0] must be an object"),
    ],
)
def test_a_file_that_cannot_be_read_as_rules_is_named_with_the_place(
    held: Pagewire,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    said: str,
) -> None:
    file = tmp_path / "rules.json"
    file.write_text(content)

    code = main(["rules", "apply", str(file)])

    assert code == 2
    assert held.rules == []
    error = capsys.readouterr().err
    assert error.startswith(f"pagewire: {file}")
    assert said in error
    assert error.count("\n") == 1


def test_two_rules_of_one_name_are_not_chosen_from(
    held: Pagewire, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held.rules = [Rule(rule_id=f"rule-{n}", version=1, name="price") for n in (1, 2)]

    code = main(["rules", "apply", written(tmp_path, PRICE)])

    assert code == 1
    assert "rule-1 and rule-2" in capsys.readouterr().err


def test_a_try_shows_every_rule_with_its_reason_the_words_found_and_the_answer(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    held.pages = [page("101")]
    fired = RuleVerdict(name="price", fired=True, reason="fired", span=Span(start=4, end=9))
    missed = RuleVerdict(name="hours", reason="text_no_match")
    answer = Action(reply=ReplyContent(text="It is 10 euro"))
    held.tried.CopyFrom(TryRulesResponse(considered=[fired, missed], actions=[answer]))

    code = main(["rules", "try", "--page", "101", "the price?"])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[1].split() == ["✓", "price", "fired", "the", "[price]?"]
    assert lines[2].split() == ["hours", "text_no_match"]
    assert lines[3] == '→ reply "It is 10 euro"'


def test_a_try_says_what_a_rule_leaves_out_and_why(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    held.pages = [page("101")]
    label = LeftOut(action="add_label", reason="label_unsupported")
    fired = RuleVerdict(name="price", fired=True, reason="fired", left_out=[label])
    answer = Action(reply=ReplyContent(text="It is 10 euro"))
    held.tried.CopyFrom(TryRulesResponse(considered=[fired], actions=[answer]))

    main(["rules", "try", "--page", "101", "the price?"])

    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "✗ add_label of price: label_unsupported"


def test_the_last_decisions_are_shown_the_newest_at_the_bottom(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    held.decisions = [decision(1), decision(2, book_version=7), decision(3)]

    main(["decisions", "tail", "-n", "2", "--json"])
    listed = json.loads(capsys.readouterr().out)
    main(["decisions", "tail", "-n", "1"])
    _, line = capsys.readouterr().out.splitlines()

    assert [one["event_id"] for one in listed["decisions"]] == ["e-101-3", "e-101-2"]
    assert listed["decisions"][0]["received_at"] == "2026-01-02T12:00:00.000Z"
    assert line.split()[2:] == [
        "101", "message", "answered", "fired", "price", "12", "ms", "31", "ms",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([ReplyState.REPLY_STATE_READY, ReplyState.REPLY_STATE_SENT], 0),
        ([ReplyState.REPLY_STATE_SENDING, ReplyState.REPLY_STATE_FAILED], 1),
    ],
)
def test_a_reply_that_is_waited_for_ends_with_0_only_if_meta_has_it(
    held: Pagewire,
    monkeypatch: pytest.MonkeyPatch,
    states: list[ReplyState.ValueType],
    code: int,
) -> None:
    monkeypatch.setattr(replies, "EVERY", 0.001)
    held.reply_states = states

    ended = main(["reply", "c-1", "Hello", "--wait", "--human-agent", "--client-key", "k"])

    assert ended == code
    (sent,) = held.sent
    assert (sent.conversation_id, sent.content.text) == ("c-1", "Hello")
    assert (sent.tag, sent.client_key) == (Tag.TAG_HUMAN_AGENT, "k")


def test_each_reply_without_a_key_has_one_of_its_own(held: Pagewire) -> None:
    main(["reply", "c-1", "Hello"])
    main(["reply", "c-1", "Hello"])

    first, second = held.sent
    assert first.client_key != second.client_key


def test_who_wants_to_write_learns_where_the_ids_of_conversations_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["reply", "--help"])

    told = capsys.readouterr().out
    assert code == 0
    assert "/api/conversations?page_id=PAGE_ID" in told
    assert "/api/replies/REPLY_ID" in told


def test_all_is_well_with_exit_0(held: Pagewire, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["status"])

    assert code == 0
    assert "All is well." in capsys.readouterr().out


def test_what_is_not_well_is_said_with_what_to_do_and_exit_1(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    held.status = GetStatusResponse(
        database="ok",
        cache="does not answer",
        parked_events=2,
        quarantined=3,
        pages=[PageStateCount(state=PageState.PAGE_STATE_BLOCKED, count=1)],
        replies=[ReplyStateCount(state=ReplyState.REPLY_STATE_PARKED, count=4)],
    )
    held.status.oldest_pending.FromSeconds(75)

    code = main(["status", "--json"])

    standing = json.loads(capsys.readouterr().out)
    assert code == 1
    assert standing["services"]["store"] == "serving"
    assert standing["replies"] == {"parked": 4}
    assert standing["not_well"] == [
        "the cache does not answer; nothing is lost, reads are slower",
        "an event has waited 75.0 s to be decided: do the dispatcher and rules run?",
        "2 events are parked: `pagewire parked list`",
        "4 replies are parked: `pagewire parked list`",
        "3 in quarantine: `pagewire quarantine list`",
        "1 pages are blocked: `pagewire pages list` says why",
    ]


def test_a_webhook_service_that_does_not_answer_is_not_well(
    held: Pagewire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPERATOR_LISTEN", "127.0.0.1:1")

    code = main(["status", "--json"])

    standing = json.loads(capsys.readouterr().out)
    assert code == 1
    assert standing["services"]["webhook"] == "unreachable"
    assert standing["not_well"] == ["webhook is unreachable: see its log"]


def test_what_is_in_quarantine_is_listed_shown_and_read_again(
    held: Pagewire, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    held.quarantined = [Quarantined(quarantine_id="7", reason="not_json", size=3)]
    held.body = b"\xff{\x00"

    listed = main(["quarantine", "list", "--json"]), json.loads(capsysbinary.readouterr().out)
    shown = main(["quarantine", "show", "7", "--body"]), capsysbinary.readouterr().out
    some = main(["quarantine", "replay", "7"]), held.replayed
    everything = main(["quarantine", "replay", "--all"]), held.replayed
    none = main(["quarantine", "replay"])

    assert listed[0] == 0
    assert listed[1]["quarantined"][0]["reason"] == "not_json"
    assert shown == (0, b"\xff{\x00")
    assert some == (0, ["7"])
    assert everything == (0, [])
    assert none == 2


def test_what_is_parked_is_listed_and_tried_again(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    event = ParkedEvent(event_id="e-101-1", kind=EventKind.EVENT_KIND_MESSAGE, attempts=8)
    held.parked = [Parked(parked_id="e-101-1", page_id="101", event=event, reason="poison")]

    main(["parked", "list"])
    main(["parked", "retry", "e-101-1"])

    assert "event: message, tried 8 times  poison" in capsys.readouterr().out
    assert held.retried == ["e-101-1"]


def test_what_is_parked_is_ended_as_the_person_says(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["parked", "settle", "r-101-7", "--sent"])
    main(["parked", "settle", "e-101-3", "--dropped"])

    said = capsys.readouterr().out.splitlines()
    assert said == ["r-101-7 has ended: sent.", "e-101-3 has ended: dropped."]
    assert held.settled == [("r-101-7", SETTLEMENT_SENT), ("e-101-3", SETTLEMENT_DROPPED)]


def test_nothing_parked_is_ended_until_it_is_said_how(
    held: Pagewire, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["parked", "settle", "r-101-7"])

    assert code == 2
    assert "--sent" in capsys.readouterr().err
    assert held.settled == []


@pytest.mark.parametrize(
    ("command", "done"),
    [
        (["pages", "disconnect", "101", "--yes"], {"page_id": "101", "disconnected": True}),
        (["rules", "delete", "rule-9"], {"rule_id": "rule-9", "deleted": True}),
        (["parked", "retry", "e-101-1"], {"parked_id": "e-101-1", "retried": True}),
        (["parked", "settle", "r-101-7", "--sent"], {"parked_id": "r-101-7", "settled": "sent"}),
        (
            ["parked", "settle", "e-101-3", "--dropped"],
            {"parked_id": "e-101-3", "settled": "dropped"},
        ),
    ],
)
def test_what_a_command_has_ended_is_told_to_programs_as_one_document(
    held: Pagewire,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    done: dict[str, str | bool],
) -> None:
    held.pages = [page("101")]
    held.rules = [Rule(rule_id="rule-9", version=3, name="old")]

    code = main([*command, "--json"])

    assert code == 0
    assert json.loads(capsys.readouterr().out) == done


def test_every_command_can_answer_with_json() -> None:
    without = [
        " ".join(path)
        for path, command in commands(get_command(app))
        if not any("--json" in option.opts for option in command.params)
    ]

    assert without == []


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What a person can run below it: each command with the words that name it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


def test_a_service_that_does_not_answer_is_exit_3_with_what_to_do(
    held: Pagewire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORE_TARGET", "unix:/nonexistent/store.sock")

    code = main(["pages", "list"])

    assert code == 3
    error = capsys.readouterr().err
    assert error.startswith("pagewire: the store service at unix:/nonexistent/store.sock")
    assert error.count("\n") == 1


def test_a_token_that_is_not_theirs_is_named_but_never_shown(
    held: Pagewire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVICE_TOKENS", "operator:another-operator-token")

    code = main(["pages", "list"])

    assert code == 1
    error = capsys.readouterr().err
    assert "SERVICE_TOKENS" in error
    assert "another-operator-token" not in error


def test_where_nothing_is_set_what_make_up_wrote_is_found_from_a_folder_below(
    held: Pagewire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("STORE_TARGET", "RULES_TARGET", "SYNC_TARGET", "SERVICE_TOKENS"):
        monkeypatch.delenv(name)
    data, below = tmp_path / ".pagewire", tmp_path / "a" / "b"
    below.mkdir(parents=True)
    data.mkdir()
    secretfile.write(secretfile.path(data), {"SERVICE_TOKENS": f"operator:{OPERATOR_TOKEN}"})
    secretfile.write(secretfile.addresses_path(data), {"STORE_TARGET": held.target})
    monkeypatch.chdir(below)

    assert main(["pages", "list"]) == 0


def test_where_nothing_runs_the_person_is_told_what_to_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAGEWIRE_DATA_DIR", str(tmp_path))

    codes = [main([*command]) for command in (["pages", "list"], ["status"])]

    assert codes == [3, 3]
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert "`make up`" in first


@pytest.mark.parametrize(
    "wrong",
    [
        ["paegs"],
        ["pages"],
        ["pages", "list", "--page-size", "0"],
        ["pages", "list", "--page-size", "many"],
        ["pages", "connect", "101"],
        ["pages", "connect", "101", "--platform", "telegraph", "--name", "x"],
        ["rules", "apply", "/nonexistent/rules.json"],
        ["rules", "try", "--page", "101", "--event", "dm", "hello"],
        ["pages", "connect", "1", "--platform", "messenger", "--name", "x", "--token-file", "/no"],
        ["--actor", "é", "pages", "list"],
        ["decisions", "tail", "-n", "0"],
    ],
)
def test_wrong_usage_is_exit_2_and_one_line(
    held: Pagewire, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    code = main(wrong)

    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("pagewire: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"SERVICE_TOKENS": "operator:short"}, "entry 1 is shorter"),
        ({"TLS_CERT_FILE": "/cert.pem"}, "set all or none"),
    ],
)
def test_a_setting_that_is_wrong_is_exit_2(
    held: Pagewire,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: dict[str, str],
    said: str,
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)

    assert main(["pages", "list"]) == 2
    assert said in capsys.readouterr().err


def test_text_modes_are_words_and_nothing_is_shown_as_unspecified(held: Pagewire) -> None:
    held.rules = [Rule(rule_id="rule-1", name="price")]
    held.rules[0].when.text.mode = TextMode.TEXT_MODE_STARTS_WITH

    assert main(["rules", "list"]) == 0


def test_whose_name_a_command_ran_in_is_forgotten_with_it(held: Pagewire) -> None:
    assert main(["--actor", "anna@example.com", "pages", "list"]) == 0

    assert caller().actor is None
