"""How reads of an account behave: how much comes at once, what is withheld, what fails.

Meta publishes few of these figures; each is a parameter, of all accounts or of one. Sources: the
pages on conversations, paginated results and rate limits, and what clients tell of them.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from pagewire_simulator.entities import Message, Platform


class Reading(msgspec.Struct, kw_only=True, frozen=True):
    """``limit_max``: the most items that a page of an edge holds, whatever ``limit`` asks.

    ``weight``: the most of limit times nested limit; a read that asks for more is too much data.
    ``refused_above``: a list of conversations with a larger limit is, whatever it holds. Of a
    thread's newest messages, as many as ``details``, all is told; of older ones id and time on the
    platforms ``withheld_on``. ``deleted`` messages are ``omitted`` from lists, or ``bare`` (id and
    time). ``short`` and ``empty``: shares of pages that are not full, or empty with more behind
    them. ``bound``: a cursor of an edge is good for the limit it was made with only. ``reach``: so
    far into the comments of a post a cursor leads (None: all the way). ``high_volume``: the list of
    conversations fails, a single one is read. ``attachments_next``: the page of a message's
    attachments tells of a next one, which is empty, as recorded answers do.
    """

    limit_max: int = 500
    weight: int | None = 2500
    refused_above: int | None = None
    details: int = 20
    withheld_on: tuple[Platform, ...] = (Platform.INSTAGRAM,)
    deleted: str = "omitted"
    short: float = 0
    empty: float = 0
    bound: bool = True
    reach: int | None = None
    high_volume: bool = False
    attachments_next: bool = True

    def listed(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Those of a thread's messages that lists hold."""
        if self.deleted == "bare":
            return messages
        return [message for message in messages if not message.deleted]

    def detailed(self, platform: Platform, listed: Sequence[Message]) -> Sequence[Message]:
        """Those of the listed messages, newest first, of which more is told than id and time."""
        return listed[: self.details] if platform in self.withheld_on else listed

    def changed(self, changes: dict[str, Any]) -> "Reading":
        """With the named keys changed; raises ValidationError, or ValueError for an unknown one."""
        if unknown := changes.keys() - set(self.__struct_fields__):
            raise ValueError(f"Reading has no {', '.join(sorted(unknown))}")
        return msgspec.convert(msgspec.to_builtins(self) | changes, Reading)
