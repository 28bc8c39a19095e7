"""What goes back to a caller: an honest answer, a refusal, or what a fault makes of it."""

from collections.abc import Iterable

import msgspec

from pagewire_simulator import wire
from pagewire_simulator.faults import Answer, Fault
from pagewire_simulator.refusals import Refusal

Header = tuple[bytes, bytes]

JSON = b"application/json; charset=UTF-8"
HTML = b"<!DOCTYPE html><html><body>Sorry, something went wrong.</body></html>"
UNTOLD = (Answer.CUT, Answer.HALF, Answer.NULL)


class Reply(msgspec.Struct, kw_only=True):
    """``way`` tells how it goes back: cut off without a byte, in its middle, or whole.

    ``answer`` is what the ledger calls it.
    """

    status: int
    body: bytes
    headers: list[Header] = []
    answer: str = "normal"
    content_type: bytes = JSON
    way: Answer = Answer.NORMAL

    @property
    def failed(self) -> bool:
        return self.status >= 400 or self.way is not Answer.NORMAL

    @property
    def told(self) -> int | None:
        """The status that the caller gets to see."""
        return None if self.way in UNTOLD else self.status


def refused(refusal: Refusal, trace: str, headers: Iterable[Header] = ()) -> Reply:
    reason = f'OAuth "Facebook Platform" "invalid_request" "{refusal.message}"'
    return Reply(
        status=refusal.status,
        body=wire.encode(refusal.body(trace)),
        headers=[(b"www-authenticate", reason.encode("ascii", "replace")), *headers],
        answer="refused",
    )


def spoiled(honest: Reply, fault: Fault, trace: str) -> Reply:
    """What the fault makes of an honest reply."""
    half, headers = honest.body[: len(honest.body) // 2], honest.headers
    match fault.answer:
        case Answer.NORMAL | Answer.CIRCLE | Answer.ELSEWHERE | Answer.FORGETFUL:
            return honest
        case Answer.ERROR:
            spoiled = refused(fault.refusal, trace, headers)
        case Answer.EMPTY:
            spoiled = Reply(status=200, body=b"", headers=headers)
        case Answer.HTML:
            html = b"text/html; charset=utf-8"
            spoiled = Reply(status=200, body=HTML, headers=headers, content_type=html)
        case Answer.TRUNCATED:
            spoiled = Reply(status=200, body=half, headers=headers)
        case Answer.BARE:
            spoiled = Reply(status=fault.status, body=b"", headers=headers)
        case Answer.SHORT:
            listed = msgspec.json.decode(honest.body, type=list[msgspec.Raw])
            spoiled = Reply(status=200, body=msgspec.json.encode(listed[:-1]), headers=headers)
        case Answer.OBJECT:
            spoiled = Reply(status=200, body=b"{}", headers=headers)
        case _:
            spoiled = msgspec.structs.replace(honest, way=fault.answer)
    spoiled.answer = str(fault.answer)
    return spoiled
