"""Protobuf messages as the JSON that people read and write, with the names of the HTTP API.

Enum values are lower-case words, times RFC 3339 in UTC, durations seconds, absent values null.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.type.v1.reply_pb2 import QuickReplies, ReplyContent

M = TypeVar("M", bound=Message)
Json = dict[str, Any]

# Descriptors come in several implementations, of which the type hints name two at a time.
Descriptor: TypeAlias = Any
FieldDescriptor: TypeAlias = Any
EnumDescriptor: TypeAlias = Any

_NAMES = {
    "connect_time": "connected_at",
    "create_time": "created_at",
    "decide_time": "decided_at",
    "end_time": "finished_at",
    "last_synced_time": "last_synced_at",
    "oldest_pending": "oldest_pending_seconds",
    "park_time": "parked_at",
    "receive_time": "received_at",
    "replay_time": "replayed_at",
    "sending_time": "sending_at",
    "sent_time": "sent_at",
    "start_time": "started_at",
    "store_time": "stored_at",
    "token_expire_time": "token_expires_at",
    "update_time": "updated_at",
    "continues": "continue",
}
_FIELDS = {name: field for field, name in _NAMES.items()}


class ShapeError(ValueError):
    """The JSON does not have the shape; the text names the place and what belongs there."""


def to_json(message: Message) -> Json:
    """The message as a JSON object; of a oneof only what is set, of the rest every field."""
    shown: Json = {}
    for field in message.DESCRIPTOR.fields:
        one_of = field.containing_oneof
        absent = field.has_presence and not message.HasField(field.name)
        if one_of is not None and absent and len(one_of.fields) > 1:
            continue
        name, value = _NAMES.get(field.name, field.name), getattr(message, field.name)
        if field.is_repeated:
            shown[name] = [_shown(field, each) for each in value]
        else:
            shown[name] = None if absent else _shown(field, value)
    return shown


def _shown(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return word(field.enum_type, value)
    if isinstance(value, Timestamp):
        return value.ToDatetime().isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, Duration):
        return value.ToTimedelta().total_seconds()
    if isinstance(value, ReplyContent) and value.HasField("quick_replies"):
        return to_json(value.quick_replies)  # people write text and buttons side by side
    if isinstance(value, Message):
        return to_json(value)
    return None if value == "" else value


def word(enum: EnumDescriptor, number: int) -> str | None:
    """The value's name without its type's; null for unspecified, the number for a newer one."""
    if number == 0:
        return None
    known = enum.values_by_number.get(number)
    return known.name.removeprefix(_prefix(enum)).lower() if known else str(number)


def words(enum: EnumDescriptor) -> list[str]:
    """All that a person may write for a value of it."""
    return [name for value in enum.values if (name := word(enum, value.number))]


def _prefix(enum: EnumDescriptor) -> str:
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")


def from_json(document: Mapping[str, Any], make: Callable[[], M]) -> M:
    """The message that a JSON object describes. Raises ShapeError."""
    message = make()
    try:
        ParseDict(_named(document, message.DESCRIPTOR, ""), message)
    except ParseError as error:
        raise ShapeError(str(error).splitlines()[0]) from None
    return message


def _named(document: Any, of: Descriptor, path: str) -> Json:
    """The object with protobuf's own names."""
    if not isinstance(document, Mapping):
        raise ShapeError(f"{path or 'it'} must be an object")
    if of is ReplyContent.DESCRIPTOR and isinstance(document.get("quick_replies"), list):
        return {"quick_replies": _named(document, QuickReplies.DESCRIPTOR, path)}
    named: Json = {}
    for key, value in document.items():
        field = of.fields_by_name.get(_FIELDS.get(str(key), str(key)))
        at = f"{path}.{key}" if path else str(key)
        if field is None or key in _NAMES:
            known = ", ".join(_NAMES.get(name, name) for name in of.fields_by_name)
            raise ShapeError(f"{at} is not known; known are {known}")
        named[field.name] = _named_value(field, value, at)
    return named


def _named_value(field: FieldDescriptor, value: Any, at: str) -> Any:
    if field.is_repeated:
        if not isinstance(value, list):
            raise ShapeError(f"{at} must be a list")
        return [_named_one(field, each, f"{at}[{nth}]") for nth, each in enumerate(value)]
    return None if value is None else _named_one(field, value, at)


def _named_one(field: FieldDescriptor, value: Any, at: str) -> Any:
    if field.enum_type is not None:
        return _enum_name(field.enum_type, value, at)
    if field.message_type is not None:
        return _named(value, field.message_type, at)
    return value


def _enum_name(enum: EnumDescriptor, value: Any, at: str) -> str:
    if value not in words(enum):
        raise ShapeError(f"{at} must be one of {', '.join(words(enum))}")
    return _prefix(enum) + str(value).upper()
