"""Failures: what Graph's error codes mean, in one table.

Sources: Meta's pages on error handling, rate limiting and Messenger error codes. The classes go by
code and subcode, then code, then `is_transient`, then HTTP status; never by the error's `type` or
its text, save where Meta tells two things apart by nothing else: "reduce the amount of data", and
a wrong proof. Clients in public also meet 10900 and
2635 ("a deprecated version"), which are in none of Meta's tables.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class Failure(Enum):
    """What a refused or failed call means for whoever made it."""

    TRANSIENT = auto()
    """Meta's trouble: a read may be asked again, of a write nobody knows."""
    SHRINK = auto()
    """Asked for too much at once."""
    APP_THROTTLED = auto()
    """The whole app must wait."""
    THROTTLED = auto()
    """The page must wait."""
    SUSPENDED = auto()
    """Meta restricts the page or the app for a while; a person should look."""
    TOKEN = auto()
    """The token is dead: connect the page again."""
    PERMISSION = auto()
    """The token lacks a permission, or the owner has withdrawn it."""
    SECRET = auto()
    """The proof is wrong, so the app's secret is."""
    WINDOW = auto()
    """Outside of the time in which the page may write."""
    NOT_OWNER = auto()
    """Another app owns the thread."""
    RECIPIENT = auto()
    """This person cannot be written to."""
    PARAMETER = auto()
    """The request itself is wrong, and will stay so."""
    FETCH = auto()
    """Meta could not fetch a medium from its address: worth one more try."""
    DUPLICATE = auto()
    """The same has been posted already."""
    PRIVATE_REPLY = auto()
    """The comment has its private reply already, or is too old for one."""
    GONE = auto()
    """What it names is deleted or unknown."""
    TERMS = auto()
    """Somebody must accept Meta's terms first."""
    VERSION = auto()
    """The version of Graph that is asked for is gone: every call of the app will fail."""


@dataclass(frozen=True, slots=True)
class GraphError:
    """Graph's answer, read: its class, its codes and the HTTP status; 0 where there was none.

    `retry_after` is in seconds, None where nobody says.
    """

    failure: Failure
    http_status: int
    code: int = 0
    subcode: int = 0
    retry_after: float | None = None

    @property
    def reason(self) -> str:
        """A stable word: graph_<code>, with _<subcode> where there is one; http_<status> without a
        code.
        """
        if not self.code:
            return f"http_{self.http_status}"
        return f"graph_{self.code}" + (f"_{self.subcode}" if self.subcode else "")


BY_SUBCODE: dict[tuple[int, int], Failure] = {
    (1, 1357046): Failure.TRANSIENT,
    (1200, 2018024): Failure.TRANSIENT,
    (2, 2018344): Failure.TERMS,
    (9, 2018352): Failure.SUSPENDED,
    (10, 1893063): Failure.SUSPENDED,
    (100, 2534029): Failure.SUSPENDED,
    (10, 2534077): Failure.PERMISSION,
    (200, 2534041): Failure.PERMISSION,
    (10, 2018278): Failure.WINDOW,
    (10, 2534022): Failure.WINDOW,
    (10, 2018065): Failure.WINDOW,
    (100, 2534037): Failure.NOT_OWNER,
    (10, 2018336): Failure.NOT_OWNER,
    (551, 1545041): Failure.RECIPIENT,
    (200, 1545041): Failure.RECIPIENT,
    (10, 2018108): Failure.RECIPIENT,
    (100, 2018001): Failure.RECIPIENT,
    (100, 2534014): Failure.RECIPIENT,
    (100, 2018008): Failure.FETCH,
    (100, 2018294): Failure.FETCH,
    (100, 2534025): Failure.PRIVATE_REPLY,
}

BY_CODE: dict[int, Failure] = {
    1: Failure.TRANSIENT,
    2: Failure.TRANSIENT,
    960: Failure.TRANSIENT,
    1200: Failure.TRANSIENT,
    4: Failure.APP_THROTTLED,
    17: Failure.THROTTLED,
    32: Failure.THROTTLED,
    613: Failure.THROTTLED,
    **dict.fromkeys(range(80000, 80015), Failure.THROTTLED),
    341: Failure.SUSPENDED,
    368: Failure.SUSPENDED,
    2022: Failure.SUSPENDED,
    190: Failure.TOKEN,
    102: Failure.TOKEN,
    104: Failure.SECRET,
    3: Failure.PERMISSION,
    10: Failure.PERMISSION,
    **dict.fromkeys(range(200, 300), Failure.PERMISSION),
    2018300: Failure.NOT_OWNER,
    2018321: Failure.NOT_OWNER,
    551: Failure.RECIPIENT,
    100: Failure.PARAMETER,
    506: Failure.DUPLICATE,
    10900: Failure.PRIVATE_REPLY,  # "Activity already replied to"
    9000001: Failure.GONE,
    803: Failure.GONE,
    2500: Failure.GONE,
    2635: Failure.VERSION,
}

_REDUCE = "reduce the amount of data"
_PROOF = "appsecret_proof"


def classify(http_status: int, body: Any) -> GraphError:
    """Read an answer that is not a success; `body` is the decoded JSON, or None where there is
    none.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return GraphError(_by_status(http_status), http_status)
    code, subcode = _number(error.get("code")), _number(error.get("error_subcode"))
    return GraphError(_classified(http_status, error, code, subcode), http_status, code, subcode)


def _classified(http_status: int, error: dict[str, Any], code: int, subcode: int) -> Failure:
    if found := BY_SUBCODE.get((code, subcode)):
        return found
    message = str(error.get("message", ""))
    if code == 1 and _REDUCE in message:
        return Failure.SHRINK
    if code == 100 and _PROOF in message:  # looks like a parameter
        return Failure.SECRET
    if found := BY_CODE.get(code):
        return found
    if error.get("is_transient") is True:
        return Failure.TRANSIENT
    return _by_status(http_status)


def _by_status(http_status: int) -> Failure:
    if http_status == 429:
        return Failure.THROTTLED
    if http_status == 401:
        return Failure.TOKEN
    if 400 <= http_status < 500 and http_status != 408:
        return Failure.PARAMETER
    return Failure.TRANSIENT  # 5xx, a request that timed out, a redirect, a 2xx that is none


def _number(value: Any) -> int:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if known else 0
