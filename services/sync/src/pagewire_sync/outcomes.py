"""Outcomes: what an attempt's end means for the reply, as a verdict for the outbox."""

from dataclasses import dataclass

from pagewire.store.v1.outbox_service_pb2 import AttemptOutcome, ClaimedReply, Verdict
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Answer
from pagewire_sync.policy import LABELS, MESSAGES

REPEATABLE = (ReplyKind.REPLY_KIND_HIDE_COMMENT, *LABELS)
"""Asking twice changes nothing: where nobody knows, they are asked again."""

NAMES_ITS_RESULT = {
    ReplyKind.REPLY_KIND_MESSAGE: "message_id",
    ReplyKind.REPLY_KIND_PRIVATE_REPLY: "message_id",
    ReplyKind.REPLY_KIND_COMMENT_REPLY: "id",
}
"""Where an acceptance says what came of it; without that it is none."""

ID_LENGTH = 512
_ID_NUMBERS = 10**30
FETCH_ATTEMPTS = 2

_VERDICTS = {
    Failure.SHRINK: Verdict.VERDICT_REFUSED,
    Failure.APP_THROTTLED: Verdict.VERDICT_RETRY,
    Failure.THROTTLED: Verdict.VERDICT_RETRY,
    Failure.SUSPENDED: Verdict.VERDICT_RETRY,
    Failure.TOKEN: Verdict.VERDICT_PAGE_BLOCKED,
    Failure.SECRET: Verdict.VERDICT_PAGE_BLOCKED,
    Failure.WINDOW: Verdict.VERDICT_REFUSED,
    Failure.NOT_OWNER: Verdict.VERDICT_REFUSED,
    Failure.RECIPIENT: Verdict.VERDICT_REFUSED,
    Failure.PARAMETER: Verdict.VERDICT_REFUSED,
    Failure.GONE: Verdict.VERDICT_REFUSED,
    Failure.TERMS: Verdict.VERDICT_REFUSED,
    Failure.VERSION: Verdict.VERDICT_REFUSED,
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, before it is written down."""

    verdict: Verdict.ValueType
    reason: str
    http_status: int = 0
    code: int = 0
    subcode: int = 0
    retry_after: float | None = None
    mid: str = ""
    recipient_id: str = ""


def accepted(reply: ClaimedReply, answer: Answer) -> Ending:
    """Graph's answer names a message or a comment where it made one."""
    name = NAMES_ITS_RESULT.get(reply.kind, "")
    mid = _id(answer.body.get(name))
    if name and not mid:
        return unknown(reply, "answer_incomplete")
    recipient_id = _id(answer.body.get("recipient_id"))
    return Ending(Verdict.VERDICT_ACCEPTED, "accepted", 200, mid=mid, recipient_id=recipient_id)


def refused(reply: ClaimedReply, error: GraphError) -> Ending:
    """Graph answered with an error."""
    verdict, reason = _refusal(reply, error)
    return Ending(verdict, reason, error.http_status, error.code, error.subcode, error.retry_after)


def unknown(reply: ClaimedReply, reason: str) -> Ending:
    """The request left and no answer came that can be read."""
    repeatable = reply.kind in REPEATABLE
    return Ending(Verdict.VERDICT_RETRY if repeatable else Verdict.VERDICT_UNCERTAIN, reason)


def postponed(reason: str, retry_after: float | None = None) -> Ending:
    """Nothing left this machine."""
    return Ending(Verdict.VERDICT_RETRY, reason, retry_after=retry_after)


def to_outcome(reply: ClaimedReply, ending: Ending) -> AttemptOutcome:
    """An ending as the outbox takes it; the times are the sender's."""
    outcome = AttemptOutcome(
        tag=reply.tag,
        verdict=ending.verdict,
        reason=ending.reason,
        mid=ending.mid,
        http_status=ending.http_status,
        code=ending.code,
        subcode=ending.subcode,
        recipient_id=ending.recipient_id,
    )
    if ending.retry_after is not None:
        outcome.retry_after.FromMilliseconds(int(ending.retry_after * 1000))
    return outcome


def _refusal(reply: ClaimedReply, error: GraphError) -> tuple[Verdict.ValueType, str]:
    match error.failure:
        case Failure.TRANSIENT:
            return unknown(reply, error.reason).verdict, error.reason
        case Failure.PRIVATE_REPLY | Failure.DUPLICATE if reply.after_uncertain:
            return Verdict.VERDICT_ACCEPTED, "already_replied"
        case Failure.PRIVATE_REPLY | Failure.DUPLICATE:
            return Verdict.VERDICT_REFUSED, error.reason
        case Failure.WINDOW:
            return Verdict.VERDICT_REFUSED, "window_closed"
        case Failure.FETCH:
            again = reply.attempt < FETCH_ATTEMPTS
            return Verdict.VERDICT_RETRY if again else Verdict.VERDICT_REFUSED, error.reason
        case Failure.PERMISSION:
            # Without one to comment or to label, the page can still answer its messages.
            may_write = reply.kind not in MESSAGES
            verdict = Verdict.VERDICT_REFUSED if may_write else Verdict.VERDICT_PAGE_BLOCKED
            return verdict, error.reason
        case failure:
            return _VERDICTS[failure], error.reason


def _id(value: object) -> str:
    """An id as Graph names it, a number with all its digits; empty for anything else."""
    if type(value) is int and 0 <= value < _ID_NUMBERS:
        return str(value)
    is_id = isinstance(value, str) and len(value) <= ID_LENGTH and value.isprintable()
    return str(value) if is_id else ""
