"""The proof: what the demo claims, held against the simulator's ledger and the store's answers.

Pure. A claim that does not hold names what did not happen; the demo fails with it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import quantiles
from typing import Any

from pagewire_cli.demo import story
from pagewire_cli.demo.story import Json
from pagewire_cli.demo.watching import ANSWERS, Played

THROTTLED = (4, 17, 32, 613, 80001, 80002, 80006)
"""Meta's codes of what was too much or too fast; Graph API, Rate Limits."""


@dataclass(frozen=True)
class Evidence:
    """Everything that is known when the last word was said.

    `events`, `deliveries` and `calls` are the ledger's, `truths` what Meta has of each page,
    `messages` and `comments` the store's by page, each as often as it is there. `pasts` is how much
    each page had when it was connected, which `runs` mirrored in `mirrored_in` seconds.
    """

    played: Sequence[Played]
    while_down: Sequence[Played]
    decisions: Sequence[Json]
    events: Sequence[Json]
    deliveries: Sequence[Json]
    calls: Sequence[Json]
    pasts: Mapping[str, Json]
    runs: Sequence[Json]
    mirrored_in: float
    truths: Sequence[Json]
    messages: Mapping[str, Sequence[Json]]
    comments: Mapping[str, Sequence[Json]]
    echoes: Sequence[str]
    status: Json
    hidden: bool
    labelled: bool

    @property
    def stored_mids(self) -> list[str]:
        """Of all messages that have an id; a reply that is not sent yet has none."""
        return [one["mid"] for page in self.messages.values() for one in page if one["mid"]]

    @property
    def stored_comments(self) -> list[str]:
        return [one["comment_id"] for page in self.comments.values() for one in page]


@dataclass(frozen=True)
class Claim:
    """What is claimed, and each way in which it does not hold."""

    text: str
    failures: Sequence[str]

    @property
    def holds(self) -> bool:
        return not self.failures


def claims(seen: Evidence) -> list[Claim]:
    """Everything that the demo says of itself, checked."""
    figures = figures_of(seen)
    history = figures["history"]
    return [
        Claim(
            f"{history['conversations']:,} conversations with {history['messages']:,} messages, and"
            f" {history['comments']} comments, of before were mirrored",
            list(_not_mirrored(seen)),
        ),
        Claim(
            "the store now holds what Meta has, word for word, and nothing else",
            list(_untrue(seen)),
        ),
        Claim("no call came faster than Meta allows", list(_throttled(seen))),
        Claim(
            f"every event was acknowledged ({figures['events']} of them,"
            f" in {figures['webhooks']} webhooks)",
            list(_unacknowledged(seen)),
        ),
        Claim(
            f"each was stored once, though {figures['told_again']} webhooks came again",
            [*_not_stored_once(seen), *_not_told_again(seen)],
        ),
        Claim("each was decided once, by the rule and for the reason it should", _misjudged(seen)),
        Claim(
            f"Graph got {figures['answers']} answers: each once, to whom it was due, word for word",
            _wrongly_answered(seen),
        ),
        Claim("nobody's answers overtook each other", list(_overtaken(seen))),
        Claim(
            f"{story.STORM} echoes of another app and the echoes of our own answers fired nothing",
            _echoes(seen),
        ),
        Claim(
            "the insult is hidden, the order has its label",
            [
                *([] if seen.hidden else ["the insulting comment is not hidden"]),
                *([] if seen.labelled else ["the label is not on the person"]),
            ],
        ),
        Claim(
            "an event of an unknown page and an unreadable body are kept",
            list(_not_kept(seen.status)),
        ),
        Claim(
            f"{len(seen.while_down)} who wrote while the edge was dead were answered",
            list(_unanswered_after_death(seen)),
        ),
        Claim("no token stood in a URL, and each call carried its proof", list(_careless(seen))),
    ]


def _not_mirrored(seen: Evidence) -> Iterator[str]:
    if not seen.runs:
        yield "nothing was mirrored"
    for run in seen.runs:
        if run["state"] != "succeeded":
            yield f"{run['kind']} of page {run['page_id']} ended {run['state']} ({run['error']})"
    for page, past in seen.pasts.items():
        of_page = [run for run in seen.runs if run["page_id"] == page]
        for what in ("conversations", "comments"):
            reached = sum(run[what] for run in of_page)
            if reached < past[what]:
                yield f"{reached} {what} of page {page} were gone through, not {past[what]}"


def _untrue(seen: Evidence) -> Iterator[str]:
    for truth in seen.truths:
        page = truth["account"]
        stored = {one["mid"]: one for one in seen.messages[page]}
        true = {one["mid"]: one for each in truth["conversations"] for one in each["messages"]}
        for mid, one in true.items():
            if one["shown"] != "gone" or mid in stored:
                yield from _differences(f"message {mid}", one, stored.get(mid))
        for mid in stored.keys() - true.keys() - {None, *seen.echoes}:
            yield f"message {mid} is stored, Meta has none"
        yield from _untrue_comments(truth["comments"], seen.comments[page])


def _differences(name: str, true: Json, stored: Json | None) -> Iterator[str]:
    """Of what Graph shows of a message; of an old one on Instagram that is id and time alone."""
    if stored is None:
        yield f"{name} is not stored"
        return
    known = stored["direction"] is not None
    if known and stored["direction"] != ("inbound" if true["inbound"] else "outbound"):
        yield f"{name} is stored as {stored['direction']}"
    if known and (stored["text"] or "") != (true["text"] or ""):
        yield f"{name} is stored with another text"
    if not known and true["shown"] == "whole":
        yield f"{name} is stored without what Graph shows of it"
    if _second(stored["created_time"]) != true["created_at"] // 1_000:
        yield f"{name} is stored with another time"


def _untrue_comments(true: Sequence[Json], stored: Sequence[Json]) -> Iterator[str]:
    texts = {one["comment_id"]: one["text"] or "" for one in stored}
    there = {one["id"]: one["text"] or "" for one in true if not one["deleted"]}
    for comment_id, text in there.items():
        if comment_id not in texts:
            yield f"comment {comment_id} is not stored"
        elif texts[comment_id] != text:
            yield f"comment {comment_id} is stored with another text"
    for comment_id in texts.keys() - {one["id"] for one in true}:
        yield f"comment {comment_id} is stored, Meta has none"


def _second(moment: str) -> int:
    """Of Unix time; Graph tells whole ones."""
    return int(datetime.fromisoformat(moment).timestamp())


def _throttled(seen: Evidence) -> Iterator[str]:
    for call in seen.calls:
        if call["code"] in THROTTLED:
            yield f"{call['method']} {call['shape']} was refused as too much ({call['code']})"


def _unacknowledged(seen: Evidence) -> Iterator[str]:
    for event in seen.events:
        if event["subscribed"] and not event["told"]:
            yield f"event {event['ref']} ({event['field']}) was never answered 200"
        if not event["subscribed"]:
            yield f"event {event['ref']} did not flow: {event['field']} is not subscribed"


def _not_stored_once(seen: Evidence) -> Iterator[str]:
    mids = {event["subject"] for event in seen.events if _message(event)}
    stored = Counter(seen.stored_mids)
    for mid in (mids | set(seen.echoes)) - stored.keys():
        yield f"message {mid} is not stored"
    comments = {event["subject"] for event in seen.events if event["field"] in ("feed", "comments")}
    stored_comments = Counter(seen.stored_comments)
    for comment in comments - stored_comments.keys():
        yield f"comment {comment} is not stored"
    for what, count in (stored + stored_comments).items():
        if count > 1:
            yield f"{what} is stored {count} times"


def _message(event: Json) -> Json:
    """The message that an event of the ledger brought; a comment's is but a text."""
    message = event["value"].get("message")
    return message if isinstance(message, dict) else {}


def _not_told_again(seen: Evidence) -> Iterator[str]:
    for one in seen.played:
        told = [event["told"] for event in seen.events if event["ref"] == one.done.get("ref")]
        if "repeat" in one.act.options and told != [2]:
            yield f"{one.act.person}'s event was to be told twice, not {told} times"


def _misjudged(seen: Evidence) -> list[str]:
    wrong = [fault for one in seen.played for fault in _faults_of(one)]
    triggers = Counter((one.account, one.act.kind) for one in seen.played)
    decided = Counter((decision["page_id"], decision["kind"]) for decision in seen.decisions)
    for page, kind in triggers.keys() | decided.keys():
        if triggers[page, kind] != decided[page, kind]:
            wrong.append(
                f"{triggers[page, kind]} events of kind {kind} on page {page},"
                f" but {decided[page, kind]} decisions"
            )
    return wrong


def _faults_of(one: Played) -> Iterator[str]:
    who = f"{one.act.person} ({one.act.shop.handle}, {one.act.kind})"
    if one.decision is None:
        yield f"{who}: no decision of the kind that was due"
        return
    fired = [rule["name"] for rule in one.decision["rules"] if rule["fired"]]
    if fired != ([one.act.rule] if one.act.rule else []):
        yield f"{who}: {fired or 'no rule'} fired, {one.act.rule or 'none'} should"
    if one.decision["reason"] != one.act.reason:
        yield f"{who}: declined as {one.decision['reason']}, not as {one.act.reason}"


def _wrongly_answered(seen: Evidence) -> list[str]:
    due = Counter(
        (one.account, _whom(one), endpoint, text)
        for one in seen.played
        for endpoint, text in one.act.answers
    )
    made = Counter(
        (
            call["account_id"],
            call["comment_id"] or call["person_id"],
            call["endpoint"],
            call["text"],
        )
        for call in seen.calls
        if call["endpoint"] in ANSWERS and (call["created"] or call["status"] == 200)
    )
    names = {(one.account, _whom(one)): one.act.person for one in seen.played}
    wrong: list[str] = []
    for key in due.keys() | made.keys():
        if due[key] != made[key]:
            account, whom, endpoint, _ = key
            who = names.get((account, whom), "somebody unknown")
            wrong.append(f"{endpoint} to {who}: {made[key]} times, {due[key]} were due")
    return wrong


def _whom(one: Played) -> Any:
    return one.done.get("comment") or one.person


def _overtaken(seen: Evidence) -> Iterator[str]:
    until: dict[tuple[Any, Any], int] = {}
    for call in seen.calls:
        if call["endpoint"] not in ANSWERS:
            continue
        lane = call["account_id"], call["comment_id"] or call["person_id"]
        if call["started_at"] < until.get(lane, 0):
            yield f"two requests for {lane[1]} were under way at once"
        until[lane] = call["ended_at"] or call["started_at"]


def _echoes(seen: Evidence) -> list[str]:
    told = sum("is_echo" in _message(event) for event in seen.events)
    sent = sum(
        call["created"] is not None and "reply" not in call["endpoint"] for call in seen.calls
    )
    return [] if told >= sent else [f"only {told} echoes of {sent} messages were told"]


def _not_kept(status: Json) -> Iterator[str]:
    if status["unknown_page_events"] != 1:
        yield f"{status['unknown_page_events']} events of unknown pages are kept, not 1"
    if status["quarantined"] != 1:
        yield f"{status['quarantined']} bodies are in quarantine, not 1"
    if status["parked_events"] or status["pending_events"]:
        yield f"{status['parked_events']} events are parked, {status['pending_events']} pending"


def _unanswered_after_death(seen: Evidence) -> Iterator[str]:
    for one in seen.while_down:
        event = next((e for e in seen.events if e["ref"] == one.done.get("ref")), None)
        if event is None or event["attempts"] < 2:
            yield f"{one.act.person}'s webhook was not refused before it was taken"
        if not one.calls:
            yield f"{one.act.person} was not answered"


def _careless(seen: Evidence) -> Iterator[str]:
    for call in seen.calls:
        if call["token_in_url"] and call["endpoint"] != "debug_token":
            yield f"a token stood in the URL of {call['method']} {call['shape']}"
        if call["proof"] not in ("ok", "unused"):
            yield f"{call['method']} {call['shape']} came with a proof that is {call['proof']}"


def figures_of(seen: Evidence) -> Json:
    """The numbers of the summary; times in milliseconds, by Meta's clock."""
    down = {id(one) for one in seen.while_down}
    usual = [one for one in seen.played if id(one) not in down]
    answered = [call for call in seen.calls if call["endpoint"] in ANSWERS and call["ended_at"]]
    return {
        "history": {
            "conversations": sum(run["conversations"] for run in seen.runs),
            "messages": sum(run["messages"] for run in seen.runs),
            "comments": sum(run["comments"] for run in seen.runs),
            "calls": sum(run["graph_calls"] for run in seen.runs),
            "seconds": round(seen.mirrored_in, 1),
        },
        "people": len({(one.account, one.person) for one in seen.played}),
        "webhooks": len(seen.deliveries),
        "acknowledged": sum(delivery["outcome"] == "ok" for delivery in seen.deliveries),
        "refused": sum(delivery["outcome"] != "ok" for delivery in seen.deliveries),
        "events": len(seen.events),
        "told_again": sum(delivery["repeat"] for delivery in seen.deliveries),
        "answers": len([call for call in answered if call["created"]]),
        "by_rule": dict(Counter(one.act.rule for one in seen.played if one.act.rule)),
        "declined": dict(
            Counter(one["reason"] for one in seen.decisions if one["outcome"] != "answered")
        ),
        "unknown_page_events": seen.status["unknown_page_events"],
        "quarantined": seen.status["quarantined"],
        "ack_ms": percentiles(
            [one["ended_at"] - one["started_at"] for one in seen.deliveries if one["status"] == 200]
        ),
        "receipt_to_request_ms": percentiles(
            [one.milliseconds for one in usual if one.milliseconds is not None]
        ),
        "graph_ms": percentiles([call["ended_at"] - call["started_at"] for call in answered]),
        "after_the_edge_died_ms": percentiles(
            [one.milliseconds for one in seen.while_down if one.milliseconds is not None]
        ),
    }


def percentiles(values: Sequence[float]) -> Json:
    """The median and the 95th percentile; null where there is too little to say."""
    if len(values) < 2:
        return {"p50": next(iter(values), None), "p95": None}
    cuts = quantiles(values, n=20, method="inclusive")
    return {"p50": round(cuts[9]), "p95": round(cuts[18])}
