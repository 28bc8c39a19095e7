"""Outcomes: what an attempt's end means for the reply, as a verdict for the outbox."""

from dataclasses import dataclass

from pagewire.store.v1.outbox_service_pb2 import AttemptOutcome, ClaimedReply, Verdict
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Answer

REPEATABLE = (
    ReplyKind.REPLY_KIND_HIDE_COMMENT,
    ReplyKind.REPLY_KIND_ADD_LABEL,
    ReplyKind.REPLY_KIND_REMOVE_LABEL,
)
"""Asking twice changes nothing: where nobody knows, they are asked again."""

SUSPENDED_SECONDS = 900.0
"""A restricted page is asked again after a quarter of an hour: Meta names no time."""

_VERDICTS = {
    Failure.SHRINK: Verdict.VERDICT_REFUSED,
    Failure.APP_THROTTLED: Verdict.VERDICT_RETRY,
    Failure.THROTTLED: Verdict.VERDICT_RETRY,
    Failure.SUSPENDED: Verdict.VERDICT_RETRY,
    Failure.TOKEN: Verdict.VERDICT_PAGE_BLOCKED,
    Failure.PERMISSION: Verdict.VERDICT_PAGE_BLOCKED,
    Failure.WINDOW: Verdict.VERDICT_REFUSED,
    Failure.NOT_OWNER: Verdict.VERDICT_REFUSED,
    Failure.RECIPIENT: Verdict.VERDICT_REFUSED,
    Failure.PARAMETER: Verdict.VERDICT_REFUSED,
    Failure.PRIVATE_REPLY: Verdict.VERDICT_REFUSED,
    Failure.GONE: Verdict.VERDICT_REFUSED,
    Failure.TERMS: Verdict.VERDICT_REFUSED,
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


def accepted(answer: Answer) -> Ending:
    """Graph's answer names a message, a comment, or only success."""
    mid = answer.body.get("message_id") or answer.body.get("id") or ""
    recipient = answer.body.get("recipient_id") or ""
    return Ending(
        Verdict.VERDICT_ACCEPTED, "accepted", 200, mid=str(mid), recipient_id=str(recipient)
    )


def refused(reply: ClaimedReply, error: GraphError) -> Ending:
    """Graph answered with an error."""
    verdict, reason = _refusal(reply, error)
    retry_after = SUSPENDED_SECONDS if error.failure is Failure.SUSPENDED else error.retry_after
    return Ending(verdict, reason, error.http_status, error.code, error.subcode, retry_after)


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
    if error.failure is Failure.TRANSIENT:
        ending = unknown(reply, error.reason)
        return ending.verdict, ending.reason
    if error.failure is Failure.PRIVATE_REPLY and reply.after_uncertain:
        return Verdict.VERDICT_ACCEPTED, "already_replied"
    if error.failure is Failure.WINDOW:
        return Verdict.VERDICT_REFUSED, "window_closed"
    return _VERDICTS[error.failure], error.reason
