"""`pagewire rules`: list rules, bring them to what files say, try them, delete them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer

from pagewire.rules.v1.rule_service_pb2 import (
    CreateRuleRequest,
    DeleteRuleRequest,
    DeleteRuleResponse,
    ListRulesRequest,
    TryRulesRequest,
    TryRulesResponse,
    UpdateRuleRequest,
)
from pagewire.rules.v1.rule_service_pb2_grpc import RuleServiceStub
from pagewire.type.v1.event_pb2 import Trigger
from pagewire.type.v1.rule_pb2 import Limits, Rule
from pagewire_cli import output
from pagewire_cli.asking import confirmed
from pagewire_cli.connection import ask
from pagewire_cli.exits import Failure, Misused
from pagewire_cli.listing import (
    PAGE_SIZE_MAX,
    AsJson,
    Everything,
    PageSize,
    PageToken,
    fetched,
    more_remark,
)
from pagewire_cli.shapes import Json, ShapeError, from_json, to_json, words

if TYPE_CHECKING:
    from pagewire.rules.v1.rule_service_pb2_grpc import RuleServiceAsyncStub

app = typer.Typer(help="Rules: list, apply from files, try, delete.", rich_markup_mode=None)

# What a rule is written with and what Pagewire adds; the second is left aside when it is read.
GIVEN = ("rule_id", "version", "created_at", "updated_at")
DEFAULTS: Json = {"page_ids": [], "enabled": True, "priority": 0, "continue": False}

EVENTS = words(Trigger.DESCRIPTOR)


def _service(channel: grpc.aio.Channel) -> "RuleServiceAsyncStub":
    return RuleServiceStub(channel)


@app.command("list")
def list_rules(
    page: Annotated[str, typer.Option("--page", help="Only those in force for this page.")] = "",
    page_size: PageSize = 50,
    page_token: PageToken = "",
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List the rules by priority: the first that matches answers.

    \b
    pagewire rules list --page 101
    pagewire rules list --all --json > rules.json     (what `rules apply` reads)
    """

    async def work(channel: grpc.aio.Channel) -> Json:
        return await fetched(
            _service(channel).ListRules,
            ListRulesRequest(page_id=page),
            "rules",
            page_size=page_size,
            page_token=page_token,
            everything=everything,
        )

    answer = ask("rules", work)
    if as_json:
        output.document(answer)
        return
    output.table(
        ("RULE", "NAME", "PRIORITY", "EVENTS", "WHEN", "THEN", "PAGES"),
        [_row(rule) for rule in answer["rules"]],
        empty="There is no rule; `pagewire rules apply --help` says how to make one.",
    )
    if more := more_remark(answer):
        output.remark(more)


def _row(rule: Json) -> list[str]:
    return [
        rule["rule_id"],
        rule["name"] if rule["enabled"] else f"{rule['name']} (off)",
        str(rule["priority"]),
        ", ".join(rule["events"]),
        _condition(rule),
        ", ".join(_action(action) for action in rule["then"]),
        ", ".join(rule["page_ids"]) or "every page",
    ]


def _condition(rule: Json) -> str:
    text = (rule["when"] or {}).get("text") or {}
    wanted = f"{text.get('mode')} {' | '.join(text['any'])}" if text.get("any") else "any text"
    return f"{wanted}, none of {' | '.join(text['none'])}" if text.get("none") else wanted


def _action(action: Json) -> str:
    """What an action does, in a few words."""
    ((kind, what),) = action.items()
    if kind in ("add_label", "remove_label"):
        return f"{kind} {what['name']}"
    if kind == "hide_comment":
        return "hide the comment" if what["hidden"] else "show the comment again"
    said = f'"{what["text"]}"' if "text" in what else f"a medium, {what['media']['url']}"
    return f"{kind} {said}{' with buttons' if 'quick_replies' in what else ''}"


@dataclass(frozen=True)
class Step:
    """What applying does with one rule; `changes` holds (field, what it was, what it becomes)."""

    name: str
    action: str  # create, update, keep, delete
    rule: Rule
    changes: Sequence[tuple[str, Any, Any]] = ()

    def to_json(self) -> Json:
        changes = [{"field": field, "from": old, "to": new} for field, old, new in self.changes]
        return {"name": self.name, "action": self.action, "changes": changes}


@app.command()
def apply(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="JSON files; - is standard input.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = (
        False
    ),
    prune: Annotated[bool, typer.Option("--prune", help="Delete rules that no file names.")] = (
        False
    ),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the rules to what files say; a rule is known by its name.

    A file holds one rule, a list of them, or what `rules list --json` shows. Rules that are as
    they should be are left alone, so that the same files can be applied again and again.

    \b
    pagewire rules apply rules/*.json --dry-run
    pagewire rules apply rules.json

    \b
    {"name": "price", "events": ["message", "comment"], "priority": 10,
     "when": {"text": {"mode": "word", "any": ["price", "cost"]}},
     "then": [{"reply": {"text": "Hi {first_name|there}, it is 10 euro"}}]}
    """
    wanted = wanted_rules(files)

    async def look(channel: grpc.aio.Channel) -> list[Step]:
        present = await _all_rules(_service(channel))
        return plan(wanted, present, prune=prune)

    async def work(channel: grpc.aio.Channel) -> None:
        for step in steps:
            await _carry_out(_service(channel), step)
            if not as_json:
                _tell(step, done=True)

    steps = ask("rules", look)
    deleted = [step.name for step in steps if step.action == "delete"]
    if dry_run:
        _show(steps, as_json=as_json)
        return
    if deleted and not yes and not confirmed(f"Delete {', '.join(deleted)}?"):
        raise Failure("nothing was changed")
    ask("rules", work)
    if as_json:
        output.document({"rules": [step.to_json() for step in steps]})


def wanted_rules(files: Sequence[Path]) -> dict[str, Rule]:
    """The rules of files by name. Raises Misused, which names the file and what is wrong."""
    wanted: dict[str, Rule] = {}
    for file in files:
        for nth, written in enumerate(_written(file), start=1):
            try:
                rule = rule_from(written)
            except ShapeError as wrong:
                raise Misused(f"{file}, rule {nth}: {wrong}") from None
            if not rule.name:
                raise Misused(f"{file}, rule {nth}: name is missing; a rule is known by it")
            if rule.name in wanted:
                raise Misused(f"{file}, rule {nth}: {rule.name!r} was there before")
            wanted[rule.name] = rule
    return wanted


def _written(file: Path) -> list[Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        found = json.loads(text)
    except OSError as error:
        raise Misused(f"{file} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Misused(f"{file} is not JSON: {str(error) or 'too deep'}") from None
    if isinstance(found, dict) and isinstance(found.get("rules"), list):
        return list(found["rules"])
    return found if isinstance(found, list) else [found]


def rule_from(written: Any) -> Rule:
    """The rule that a JSON object in the shape of the HTTP API describes. Raises ShapeError."""
    if not isinstance(written, dict):
        raise ShapeError("it must be an object")
    told = {name: value for name, value in written.items() if name not in GIVEN}
    if isinstance(told.get("then"), list):
        told["then"] = [_with_defaults(action) for action in told["then"]]
    return from_json(DEFAULTS | told, Rule)


def _with_defaults(action: Any) -> Any:
    """To hide is what `hide_comment` says by itself."""
    if isinstance(action, dict) and isinstance(action.get("hide_comment"), dict):
        return action | {"hide_comment": {"hidden": True} | action["hide_comment"]}
    return action


async def _all_rules(service: "RuleServiceAsyncStub") -> list[Rule]:
    request = ListRulesRequest(page_size=PAGE_SIZE_MAX)
    rules: list[Rule] = []
    while True:
        answer = await service.ListRules(request)
        rules += answer.rules
        if not answer.next_page_token:
            return rules
        request.page_token = answer.next_page_token


def plan(wanted: dict[str, Rule], present: Sequence[Rule], *, prune: bool) -> list[Step]:
    """What is to be done, in the order of the files. Raises Failure: a name is not unique."""
    by_name: dict[str, Rule] = {}
    for rule in present:
        if rule.name in wanted and rule.name in by_name:
            raise Failure(
                f"two rules are called {rule.name!r} ({by_name[rule.name].rule_id} and"
                f" {rule.rule_id}): delete one of them first"
            )
        by_name[rule.name] = rule
    steps = [_step(name, rule, by_name.get(name)) for name, rule in wanted.items()]
    left = (rule for rule in present if prune and rule.name not in wanted)
    return steps + [Step(rule.name, "delete", rule) for rule in left]


def _step(name: str, wanted: Rule, present: Rule | None) -> Step:
    if present is None:
        return Step(name, "create", wanted)
    old, new = definition(present), definition(wanted)
    changes = [(field, old[field], new[field]) for field in new if old[field] != new[field]]
    if not changes:
        return Step(name, "keep", present)
    changed = Rule()
    changed.CopyFrom(wanted)
    changed.rule_id, changed.version = present.rule_id, present.version
    return Step(name, "update", changed, changes)


def definition(rule: Rule) -> Json:
    """What a person wrote of a rule, defaults filled in, so that two can be compared."""
    shown = {name: value for name, value in to_json(rule).items() if name not in GIVEN}
    shown["limits"] = shown["limits"] or to_json(Limits())
    text = (shown["when"] or {}).get("text")
    if text is not None:
        text["mode"] = text["mode"] or "word"
    return shown


async def _carry_out(service: "RuleServiceAsyncStub", step: Step) -> None:
    match step.action:
        case "create":
            await service.CreateRule(CreateRuleRequest(rule=step.rule))
        case "update":
            # Only what was compared is changed: a rule that somebody changed meanwhile is refused.
            request = UpdateRuleRequest(rule=step.rule, expected_version=step.rule.version)
            await service.UpdateRule(request)
        case "delete":
            await service.DeleteRule(DeleteRuleRequest(rule_id=step.rule.rule_id))


def _show(steps: Sequence[Step], *, as_json: bool) -> None:
    if as_json:
        output.document({"rules": [step.to_json() for step in steps]})
        return
    for step in steps:
        _tell(step, done=False)


_DONE = {"create": "created", "update": "updated", "keep": "unchanged", "delete": "deleted"}
_SIGNS = {"create": "+", "update": "~", "keep": "=", "delete": "-"}


def _tell(step: Step, *, done: bool) -> None:
    what = _DONE[step.action] if done or step.action == "keep" else f"would {step.action}"
    print(f"{_SIGNS[step.action]} {output.clean(step.name)}: {what}")
    for field, old, new in step.changes:
        print(f"    {field}: {_compact(old)} → {_compact(new)}")


def _compact(value: Any) -> str:
    return output.clean(json.dumps(value, ensure_ascii=False))


@app.command("try")
def try_rules(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the person writes.")],
    page: Annotated[str, typer.Option("--page", help="The page that it is written to.")],
    event: Annotated[str, typer.Option(help=f"What happens: {', '.join(EVENTS)}.")] = "message",
    name: Annotated[str, typer.Option(help="The person's name, for {first_name}.")] = "",
    payload: Annotated[str, typer.Option(help="A pressed button's payload.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say of every rule of a page what it would do with a message; nothing is sent.

    \b
    pagewire rules try --page 101 "What does it cost?"
    pagewire rules try --page 101 --event comment --name Ana "price please"
    """
    if event not in EVENTS:
        raise Misused(f"--event must be one of {', '.join(EVENTS)}")
    request = TryRulesRequest(
        page_id=page,
        event=Trigger.Value(f"TRIGGER_{event.upper()}"),
        text=text,
        person_name=name,
        payload=payload,
    )

    async def work(channel: grpc.aio.Channel) -> TryRulesResponse:
        return await _service(channel).TryRules(request)

    tried = to_json(ask("rules", work))
    if as_json:
        output.document(tried)
        return
    output.table(
        ("", "RULE", "REASON", "FOUND"),
        [_verdict(verdict, text) for verdict in tried["considered"]],
        empty="The page has no rule.",
    )
    for action in tried["actions"]:
        print(f"→ {output.clean(_action(action))}")
    for verdict in tried["considered"]:
        for action in verdict["left_out"]:
            print(output.clean(f"✗ {action['action']} of {verdict['name']}: {action['reason']}"))
    if tried["considered"] and not tried["actions"]:
        print("→ nothing would be answered")


def _verdict(verdict: Json, text: str) -> list[output.Cell]:
    found, span = None, verdict["span"]
    if span is not None:
        # A payload's span would mark the wrong letters of a text that is shorter.
        found = output.marked(text, span["start"], min(span["end"], len(text)))
    sign = "✓" if verdict["fired"] else " "
    return [sign, verdict["name"], verdict["reason"], found or ""]


@app.command()
def delete(
    rule_id: Annotated[str, typer.Argument(metavar="RULE_ID", help="As `rules list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Take a rule out of force; what it has decided is still sent.

    \b
    pagewire rules delete rule-0123456789abcdef
    """

    async def work(channel: grpc.aio.Channel) -> DeleteRuleResponse:
        return await _service(channel).DeleteRule(DeleteRuleRequest(rule_id=rule_id))

    ask("rules", work)
    if as_json:
        output.document({"rule_id": rule_id, "deleted": True})
        return
    print(f"{rule_id} is deleted.")
