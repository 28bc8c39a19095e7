"""The evidence of a small run in which all went well, to be spoiled in one place at a time.

Ann asks the price twice and Bob once; a comment asks for it too, and Bob says hello. Each question
is answered once, each answer in a message is echoed.
"""

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from faults.evidence import Evidence
from faults.history import (
    AttemptRow,
    CommentRow,
    DecisionRow,
    Delivered,
    DoubtRow,
    End,
    EventRow,
    FiredRow,
    GraphCall,
    Happened,
    History,
    LaneRow,
    LeaseRow,
    MessageRow,
    OutboxRow,
    RawRow,
    Rows,
    RuleVersionRow,
    Verdict,
)
from pagewire.type.v1.event_pb2 import TRIGGER_COMMENT, TRIGGER_MESSAGE
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import Action, Condition, Rule, TextCondition

T = TypeVar("T")

PAGE = "1001"
ANN, BOB = "2001", "2002"
POST = "1001_1"
NOW = 1_790_000_000.0
RULE = "rule-aaaaaaaaaaaaaaaa"
ANSWER = "10 euro"


def rule_version(version: int = 1, changed_at: float = NOW - 600, **fields: Any) -> RuleVersionRow:
    values: dict[str, Any] = {
        "rule_id": RULE,
        "version": version,
        "name": "price",
        "enabled": True,
        "events": [TRIGGER_MESSAGE, TRIGGER_COMMENT],
        "when": Condition(text=TextCondition(any=["price"])),
        "then": [Action(reply=ReplyContent(text=ANSWER))],
    }
    deleted = fields.pop("deleted", False)
    definition = Rule(**values | fields).SerializeToString()
    return RuleVersionRow(values["rule_id"], version, definition, deleted, changed_at)


@dataclass
class Run:
    """A run that is being made up; `evidence` is what is left of it."""

    happened: list[Happened] = field(default_factory=list)
    delivered: list[Delivered] = field(default_factory=list)
    calls: list[GraphCall] = field(default_factory=list)
    raw: list[RawRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    decisions: list[DecisionRow] = field(default_factory=list)
    fired: list[FiredRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    comments: list[CommentRow] = field(default_factory=list)
    rules: list[RuleVersionRow] = field(default_factory=lambda: [rule_version()])
    leases: list[LeaseRow] = field(default_factory=list)
    doubts: list[DoubtRow] = field(default_factory=list)
    clock: float = NOW

    def tick(self, seconds: float = 0.01) -> float:
        self.clock += seconds
        return self.clock

    def say(self, person: str, mid: str, text: str, **fields: Any) -> EventRow:
        """A person writes; it is delivered and stored."""
        item = {
            "sender": {"id": person},
            "recipient": {"id": PAGE},
            "timestamp": int(self.clock * 1000),
            "message": {"mid": mid, "text": text},
        }
        self.messages.append(MessageRow(PAGE, mid, person, "inbound", text, False, None))
        return self.tell(f"message:{mid}", f"person:{person}", item, person, "message", **fields)

    def comment(self, person: str, comment_id: str, text: str) -> EventRow:
        value = {
            "item": "comment",
            "verb": "add",
            "from": {"id": person, "name": "Someone"},
            "message": text,
            "comment_id": comment_id,
            "post_id": POST,
        }
        self.comments.append(CommentRow(PAGE, comment_id, text, False, False, None))
        key, lane = f"comment:{comment_id}:add", f"comment:{comment_id}"
        return self.tell(key, lane, value, person, "comment")

    def tell(
        self,
        key: str,
        lane: str,
        value: dict[str, Any],
        person: str | None,
        trigger: str = "unspecified",
        *,
        is_standby: bool = False,
    ) -> EventRow:
        """Meta tells of something; it is delivered and stored."""
        at, number = self.tick(), len(self.happened) + 1
        message = value.get("message")
        content = message if isinstance(message, dict) else value
        event = Happened(
            ref=f"e{number}",
            page_id=PAGE,
            key=key,
            lane=lane,
            kind=key.partition(":")[0],
            person_id=person,
            text=content.get("text"),
            tag=content.get("metadata"),
            happened_at=at,
            published_at=at,
            is_standby=is_standby,
            is_subscribed=True,
            value=value,
        )
        self.happened.append(event)
        self.post(event.ref)
        row = EventRow(
            page_id=PAGE,
            event_id=number,
            key=key,
            number=number,
            lane=lane,
            kind=event.kind,
            trigger=trigger,
            source="standby" if is_standby else "live",
            person_id=person or "",
            state="done",
            attempts=0,
            delivery_id=f"d{number}",
            event_time=at,
            received_at=at,
            stored_at=self.tick(),
        )
        self.events.append(row)
        return row

    def post(self, *refs: str, end: End = End.OK, status: int | None = 200) -> Delivered:
        at, serial = self.clock, len(self.delivered) + 1
        post = Delivered(
            serial, "/api/webhook", refs, 1, False, at, self.tick(), end=end, status=status
        )
        self.delivered.append(post)
        return post

    def decide(
        self, row: EventRow, reason: str = "fired", outcome: str = "answered", version: int = 1
    ) -> DecisionRow:
        """The one rule is asked; `reason` is its verdict where it did not fire."""
        fires = reason == "fired"
        why = "text_no_match" if reason == "no_rule_matched" else reason
        verdict = Verdict(RULE, version, fires, why)
        verdicts = (verdict,) if fires or reason == "no_rule_matched" else ()
        decision = DecisionRow(PAGE, row.event_id, outcome, reason, verdicts, version, self.tick())
        self.decisions.append(decision)
        if fires:
            self.fired.append(FiredRow(PAGE, row.event_id, RULE, version))
        return decision

    def lease(self, row: EventRow, epoch: int) -> LeaseRow:
        """The event's lane is claimed."""
        lease = LeaseRow(PAGE, row.lane, epoch, f"dispatcher-{epoch}", self.tick())
        self.leases.append(lease)
        return lease

    def enqueue(self, row: EventRow, **changes: Any) -> OutboxRow:
        """The answer to an event, waiting."""
        number = len(self.outbox) + 1
        ordinal = 1 + sum(reply.lane == row.lane for reply in self.outbox)
        is_comment = row.trigger == "comment"
        reply = OutboxRow(
            page_id=PAGE,
            reply_id=number,
            lane=row.lane,
            ordinal=ordinal,
            kind="comment_reply" if is_comment else "message",
            origin="rule",
            event_id=row.event_id,
            rule_id=RULE,
            action_index=0,
            client_key=None,
            person_id=None if is_comment else row.person_id,
            comment_id=row.key.split(":")[1] if is_comment else None,
            text=ANSWER,
            state="ready",
            state_reason="",
            attempt=0,
            tag=None,
            mid=None,
            settled_by=None,
            uncertain_before=False,
            clean_looks=0,
            lease_until=None,
            not_before=None,
            expires_at=self.clock + 80_000,
            created_at=self.clock,
            sending_at=None,
            uncertain_at=None,
            sent_at=None,
            ended_at=None,
        )
        self.outbox.append(replace(reply, **changes))
        return self.outbox[-1]

    def attempt(
        self, reply: OutboxRow, verdict: str = "accepted", settled_by: str | None = "response"
    ) -> AttemptRow:
        number = 1 + sum(each.reply_id == reply.reply_id for each in self.attempts)
        row = AttemptRow(
            PAGE,
            f"pw1.{reply.reply_id}.{number}",
            reply.reply_id,
            number,
            self.tick(),
            self.clock + 0.05,
            verdict,
            "",
            None,
            settled_by,
        )
        self.attempts.append(row)
        return row

    def doubt(self, reply: OutboxRow, attempt: AttemptRow) -> DoubtRow:
        """The reply is in doubt after this attempt; what the store says of both may be another's
        word by now."""
        self.doubts.append(DoubtRow(PAGE, reply.reply_id, attempt.tag, self.tick()))
        return self.doubts[-1]

    def take(self, reply: OutboxRow, tag: str | None, answer: str = "normal") -> GraphCall:
        """Graph takes a send."""
        order = 1 + sum(call.is_accepted for call in self.calls)
        return self.call(
            endpoint="comment_reply" if reply.comment_id else "send",
            person_id=reply.person_id,
            comment_id=reply.comment_id,
            text=reply.text,
            tag=None if reply.comment_id else tag,
            created=f"m_ours_{order}",
            accepted_order=order,
            answer=answer,
        )

    def look(self, seconds: float, **fields: Any) -> GraphCall:
        """Ann's conversation is read so much later, and nothing is found."""
        self.tick(seconds)
        values = {"endpoint": "conversations", "person_id": ANN, "answer": "normal"}
        return self.call(**values | fields)

    def call(self, **fields: Any) -> GraphCall:
        values: dict[str, Any] = dict.fromkeys(
            ["person_id", "comment_id", "text", "tag", "created", "accepted_order", "fault", "code"]
        )
        values |= {"serial": len(self.calls) + 1, "page_id": PAGE, "status": 200}
        values |= {"started_at": self.tick(), "ended_at": self.tick()}
        self.calls.append(GraphCall(**values | fields))
        return self.calls[-1]

    def echo(self, reply: OutboxRow, call: GraphCall) -> EventRow:
        item = {
            "sender": {"id": PAGE},
            "recipient": {"id": reply.person_id},
            "timestamp": int(self.clock * 1000),
            "message": {
                "mid": call.created,
                "text": call.text,
                "is_echo": True,
                "metadata": call.tag,
            },
        }
        mid = call.created or ""
        person = reply.person_id or ""
        self.messages.append(
            MessageRow(PAGE, mid, person, "outbound", call.text, False, reply.reply_id)
        )
        return self.tell(f"echo:{mid}", reply.lane, item, None)

    def land(self, reply: OutboxRow, call: GraphCall, **changes: Any) -> OutboxRow:
        """The reply is settled as sent."""
        values: dict[str, Any] = {
            "state": "sent",
            "attempt": 1,
            "tag": call.tag,
            "mid": call.created,
            "settled_by": "response",
            "sent_at": self.clock,
            "ended_at": self.clock,
        }
        return self.change(self.outbox, reply, **values | changes)

    def answer(self, row: EventRow) -> OutboxRow:
        """The whole way of an event that the rule answers."""
        self.decide(row)
        reply = self.enqueue(row)
        attempt = self.attempt(reply)
        call = self.take(reply, attempt.tag)
        reply = self.land(reply, call)
        if reply.comment_id is None:
            self.echo(reply, call)
        else:
            self.comments.append(
                CommentRow(PAGE, call.created or "", ANSWER, True, False, reply.reply_id)
            )
        return reply

    @staticmethod
    def change(rows: list[T], row: T, **changes: Any) -> T:
        """Puts a changed row in the place of this one."""
        changed = replace(row, **changes)  # type: ignore[type-var]
        rows[rows.index(row)] = changed
        return changed

    def evidence(self, **fields: Any) -> Evidence:
        lanes = sorted({(row.page_id, row.lane) for row in self.events})
        rows = Rows(
            read_at=self.clock + 5,
            pages=frozenset({PAGE}),
            raw=tuple(self.raw),
            events=tuple(self.events),
            decisions=tuple(self.decisions),
            fired=tuple(self.fired),
            outbox=tuple(self.outbox),
            attempts=tuple(self.attempts),
            lanes=tuple(LaneRow(page, lane, 3, None, None, None, 0, 1) for page, lane in lanes),
            messages=tuple(self.messages),
            comments=tuple(self.comments),
            marks=(),
            rule_versions=tuple(self.rules),
            leases=tuple(self.leases),
            doubts=tuple(self.doubts),
        )
        history = History(7, tuple(self.happened), tuple(self.delivered), tuple(self.calls))
        return replace(Evidence(history, rows), **fields)


def good_run() -> Run:
    """The run that is told of above."""
    run = Run()
    run.answer(run.say(ANN, "m_1", "the price?"))
    run.answer(run.say(BOB, "m_2", "Price please"))
    run.answer(run.say(ANN, "m_3", "what PRICE"))
    run.answer(run.comment("9001", "1001_1_7", "price"))
    run.decide(run.say(BOB, "m_4", "hello"), "no_rule_matched", "declined")
    return run
