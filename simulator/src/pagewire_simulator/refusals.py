"""What Graph answers when it refuses: codes, subcodes, types and HTTP statuses.

The table in the reference of Meta's error codes is the source of each; the wording is Meta's where
it is published and a stand-in elsewhere. Clients must go by (code, subcode).
"""

from typing import Any

import msgspec


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One error object; ``status`` is the HTTP status that it comes with.

    ``code`` is None where a batch fails as a whole.
    """

    message: str
    code: int | None
    subcode: int | None = None
    type: str = "OAuthException"
    status: int = 400
    transient: bool | None = None

    def body(self, trace: str) -> dict[str, Any]:
        error: dict[str, Any] = {"message": self.message, "type": self.type}
        if self.code is not None:
            error["code"] = self.code
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.transient is not None:
            error["is_transient"] = self.transient
        return {"error": error | {"fbtrace_id": trace}}


class Refused(Exception):
    """Raised by whatever Graph would refuse; nothing has been changed when it is raised."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def unsupported(node: str) -> Refusal:
    """An unknown path, or an object that this token may not see."""
    return Refusal(
        message=(
            f"Unsupported get request. Object with ID '{node}' does not exist, cannot be loaded "
            "due to missing permissions, or does not support this operation."
        ),
        type="GraphMethodException",
        code=100,
        subcode=33,
    )


def parameter(problem: str, subcode: int | None = None) -> Refusal:
    return Refusal(message=f"(#100) {problem}", code=100, subcode=subcode)


def unknown_path(path: str) -> Refusal:
    return Refusal(message=f"Unknown path components: {path}", code=2500)


def unknown_alias(node: str) -> Refusal:
    return Refusal(
        message=f"(#803) Some of the aliases you requested do not exist: {node}", code=803
    )


def batch(problem: str) -> Refusal:
    """A batch that fails as a whole."""
    return Refusal(message=problem, type="GraphBatchException", code=None)


ABORTED = Refusal(
    message=(
        "Request aborted. This could happen if a dependent request failed or the entire request "
        "timed out."
    ),
    type="FacebookApiException",
    code=960,
    status=500,
)
OUTSIDE_OF_BATCH = Refusal(
    message="Invalid request: an address that a batch told is good inside a batch only",
    type="GraphMethodException",
    code=100,
)
TOKEN_MISSING = Refusal(message="An access token is required to request this resource.", code=104)
TOKEN_UNREADABLE = Refusal(
    message="Invalid OAuth access token - Cannot parse access token", code=190
)
PAGE_TOKEN_REQUIRED = Refusal(
    message="(#190) This method must be called with a Page Access Token", code=190
)
SECRET_WRONG = Refusal(message="Error validating client secret.", code=1)
TOKEN_EXPIRED = Refusal(
    message="Error validating access token: Session has expired.", code=190, subcode=463
)
TOKEN_PASSWORD_CHANGED = Refusal(
    message=(
        "Error validating access token: The session has been invalidated because the user changed "
        "their password or Facebook has changed the session for security reasons."
    ),
    code=190,
    subcode=460,
)
TOKEN_APP_REMOVED = Refusal(
    message="Error validating access token: The user has not authorized application.",
    code=190,
    subcode=458,
)
TOKEN_ROLE_LOST = Refusal(
    message="Error validating access token: The user is not an administrator of the page.",
    code=190,
    subcode=492,
)
TOKEN_CHECKPOINTED = Refusal(
    message="Error validating access token: The user is in a blocked, logged in checkpoint.",
    code=190,
    subcode=459,
)
PROOF_MISSING = Refusal(
    message="API calls from the server require an appsecret_proof argument",
    type="GraphMethodException",
    code=100,
)
PROOF_WRONG = Refusal(
    message="Invalid appsecret_proof provided in the API argument",
    type="GraphMethodException",
    code=100,
)

CURSOR = Refusal(message="Invalid cursors values", code=2642)
CURSOR_TOO_FAR = parameter(
    "The After Cursor specified exceeds the max limit supported by this endpoint"
)
TOO_MUCH = Refusal(
    message="Please reduce the amount of data you're asking for, then retry your request",
    code=1,
    status=500,
)
GONE = Refusal(message="This Message has been deleted by the user or the business.", code=9000001)
HIGH_VOLUME = Refusal(
    message="(#2) Service temporarily unavailable", code=2, status=500, transient=True
)

UNKNOWN_ERROR = Refusal(message="An unknown error occurred", code=1, status=500)
SERVICE_UNAVAILABLE = Refusal(
    message="(#2) Service temporarily unavailable", code=2, transient=True
)
TERMS = Refusal(message="Service temporarily unavailable", code=2, subcode=2018344, transient=False)
APP_THROTTLED = Refusal(
    message="(#4) Application request limit reached", code=4, status=403, transient=True
)
USER_THROTTLED = Refusal(message="(#17) User request limit reached", code=17)
PAGE_THROTTLED = Refusal(
    message="(#80001) There have been too many calls to this Page account.", code=80001
)
MESSENGER_THROTTLED = Refusal(
    message="(#80006) There have been too many calls to this Messenger account.", code=80006
)
INSTAGRAM_THROTTLED = Refusal(
    message="(#80002) There have been too many calls to this Instagram account.", code=80002
)
CALLS_THROTTLED = Refusal(
    message="(#613) Calls to this api have exceeded the rate limit.", code=613
)
INSTAGRAM_SENDS_THROTTLED = Refusal(
    message="(#613) Calls to this api have exceeded the rate limit.", code=613, subcode=2534040
)
BLOCKED_BY_POLICY = Refusal(
    message="(#368) The action attempted has been deemed abusive or is otherwise disallowed",
    code=368,
)
PERMISSION = Refusal(
    message="(#10) Application does not have permission for this action", code=10, status=403
)
PERSON_UNAVAILABLE = Refusal(
    message="(#551) This person isn't available right now.", code=551, subcode=1545041
)
WINDOW_MESSENGER = Refusal(
    message="(#10) This message is sent outside of allowed window.", code=10, subcode=2018278
)
WINDOW_INSTAGRAM = Refusal(
    message="(#10) This message is sent outside of allowed window.", code=10, subcode=2534022
)
WINDOW_INSTAGRAM_HOST = Refusal(
    message="This message is sent outside of allowed window.",
    type="IGApiException",
    code=10,
    subcode=2534022,
    status=403,
)
NO_MATCHING_USER = parameter("No matching user found", 2018001)
NO_MATCHING_IGSID = parameter("No matching Instagram user", 2534014)
PRIVATE_REPLY_REFUSED = parameter("Invalid private reply", 2534025)
MESSAGE_EMPTY = parameter("Message cannot be empty, must provide valid attachment or text", 2018034)
MESSAGE_AND_ACTION = parameter("Cannot send message and sender action together", 2018014)
