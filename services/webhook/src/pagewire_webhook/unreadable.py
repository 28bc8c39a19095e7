"""What could not be read, and why: a stable word, never content."""

from __future__ import annotations

import msgspec


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """An item that is kept in quarantine; the whole body where `path` is empty.

    `reason` is one of

    - of the body: `json_invalid` (no JSON by RFC 8259 in UTF-8), `json_too_deep` (over 32 levels),
      `keys_too_many` (an object of over 1,000), `values_too_many` (over 250,000),
      `body_not_object`, `entry_missing`, `entry_not_array`, `entries_too_many` (over 1,000),
      `events_too_many` (over 5,000 items), `unknown_object` (its items were read as far as their
      shape is known), `too_large` (as events, for one call), `reader_failed` (a mistake of ours),
      `store_refused` (the store could not take its events);
    - of an entry: `entry_unknown` (it says something, but nothing that we know by name);
    - of an item: `not_object`, `not_array`, `id_missing`, `id_malformed`, `sender_missing`,
      `recipient_mismatch` (the item's recipient is not the entry's account: not ours),
      `timestamp_malformed`, `timestamp_out_of_range` (beyond 64 bits), `number_malformed`.
    """

    reason: str
    page_id: str = ""
    path: str = ""


class Unread(Exception):
    """Raised within the reader where an item, or the body, can't be read; never leaves it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
