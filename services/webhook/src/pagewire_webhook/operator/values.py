"""Plain values: how ids, times, enum values and what is absent look in the API's JSON."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated, Any

from google.protobuf.message import Message
from msgspec import Meta

ID_PATTERN = "[A-Za-z0-9._~-]{1,1024}"
"""A conversation's id is the longest: base64 of a page's id and a person's, which may have 512."""

Id = Annotated[
    str,
    # The look-ahead is what `$` is not: nothing follows, not even a line end.
    Meta(pattern=rf"^{ID_PATTERN}(?![\s\S])", description="An id."),
]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"}, description="RFC 3339, UTC.")]
ClientKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="The caller's own, unique within the page: the same key and content get the"
        " same reply, however often.",
    ),
]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


def time_of(message: Message, field: str) -> str | None:
    """A Timestamp field in milliseconds, or None where it is absent."""
    if not message.HasField(field):
        return None
    moment = getattr(message, field).ToDatetime(UTC)
    return str(moment.isoformat(timespec="milliseconds")).replace("+00:00", "Z")


class Words:
    """An enum of the protos as words: REPLY_STATE_READY is `ready`."""

    def __init__(self, enum: Any) -> None:
        prefix = enum.Name(0).removesuffix("UNSPECIFIED")
        self._words = {
            value: name.removeprefix(prefix).lower() for name, value in enum.items() if value
        }
        self._values = {word: value for value, word in self._words.items()}

    def __iter__(self) -> Any:
        return iter(self._values)

    def word(self, value: int) -> Any:
        """The word; None for unspecified, and for one that is newer than we are."""
        return self._words.get(value)

    def value(self, word: str) -> Any:
        """The value of a word that a Literal has admitted."""
        return self._values[word]
