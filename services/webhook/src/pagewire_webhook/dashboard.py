"""The dashboard's "Test" button: its placeholders, known by their combination, never by one value.

They are signed like live traffic. A real account can hold any one of these values, so two of them
have to stand in their places; entry.id "0" counts as one.
"""

from __future__ import annotations

from typing import Any

from pagewire_webhook.fields import mapping, optional_id

_ENOUGH = 2

_NO_ACCOUNT = "0"
_MESSAGING = {
    "sender": "12334",
    "recipient": "23245",
    "timestamp": "1527459824",
    "mid": "random_mid",
    "text": "random_text",
}
_AUTHORS = frozenset({"1067280970047460", "232323232", "44444444"})
_CHANGE = {
    "post_id": "44444444_444444444",
    "sender_name": "Example Name",
    "message": "Example post content.",
    "text": "This is an example.",
    "id": "17865799348089039",
    "parent_id": "1231231234",
    "media_id": "17887498072083520",
    "comment_id": "17887498072083520",
}


def is_test_of_messaging(page_id: str, item: dict[str, Any]) -> bool:
    """Whether a messaging item is a test."""
    sender = mapping(item.get("sender")).get("id")
    # Nearly every item is told by these two alone.
    if page_id != _NO_ACCOUNT and not _is(sender, _MESSAGING["sender"]):
        return False
    message = mapping(item.get("message"))
    found = {
        "sender": sender,
        "recipient": mapping(item.get("recipient")).get("id"),
        "timestamp": item.get("timestamp"),
        "mid": message.get("mid"),
        "text": message.get("text"),
    }
    return _alike(page_id, found, _MESSAGING) >= _ENOUGH


def is_test_of_change(page_id: str, value: dict[str, Any]) -> bool:
    """Whether the value of a change is a test."""
    author = mapping(value.get("from")).get("id", value.get("sender_id"))
    by_author = optional_id(author) in _AUTHORS
    return _alike(page_id, value, _CHANGE) + by_author >= _ENOUGH


def _alike(page_id: str, found: dict[str, Any], placeholders: dict[str, str]) -> int:
    alike = sum(_is(found.get(name), said) for name, said in placeholders.items())
    return alike + (page_id == _NO_ACCOUNT)


def _is(value: Any, placeholder: str) -> bool:
    return value == placeholder or (type(value) is int and optional_id(value) == placeholder)
