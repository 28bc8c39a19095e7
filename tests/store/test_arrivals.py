"""A delivery as it waits to be stored: what is taken, and what is refused by name."""

import string
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from pagewire.store.v1.ingest_service_pb2 import Delivery
from pagewire.type.v1.event_pb2 import Event
from pagewire_runtime.errors import InvalidArgument
from pagewire_store.arrivals import KEY_BYTES, parcel
from pagewire_store.projections import project
from tests.support.deliveries import delivery, message

ID_CHARACTERS = set(string.ascii_letters + string.digits + "_.:=+/$-")

near_ids = st.text(st.sampled_from([*sorted(ID_CHARACTERS), " ", "\n", "é", "\0"]), max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | near_ids
times = st.builds(
    Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(0, 999_999_999)
)
details = st.sampled_from(
    [field.name for field in Event.DESCRIPTOR.oneofs_by_name["detail"].fields]
)


def is_id(text: str) -> bool:
    """As the contract states it, without a regular expression."""
    return 0 < len(text) <= 512 and set(text) <= ID_CHARACTERS


def is_lane(text: str) -> bool:
    kind, _, named = text.partition(":")
    return text == "page" or (kind in ("person", "comment") and is_id(named))


def refused(**fields: Any) -> str:
    """The field that an otherwise good event is refused for; empty where it is taken."""
    return named(message(**fields))


def named(event: Event) -> str:
    """The field that the event is refused for; empty where it is taken."""
    try:
        parcel(delivery(event))
    except InvalidArgument as invalid:
        return str(invalid.metadata["field"])
    return ""


@given(texts)
@example("a" * 512)
@example("a" * 513)
@example("a\n")
def test_the_ids_of_an_event_are_what_their_pattern_says(text: str) -> None:
    assert refused(page_id=text) == ("" if is_id(text) else "events[0].page_id")
    person_is_one = is_id(text) or text == ""
    assert refused(person_id=text) == ("" if person_is_one else "events[0].person_id")


@given(texts | texts.map("person:{}".format) | texts.map("comment:{}".format))
@example("page")
@example("page\n")
@example("person:")
def test_a_lane_is_what_its_pattern_says(text: str) -> None:
    assert refused(lane=text) == ("" if is_lane(text) else "events[0].lane")


@given(texts | st.text("kéy", min_size=KEY_BYTES - 2, max_size=KEY_BYTES + 2))
def test_a_key_is_any_text_that_an_index_can_hold(text: str) -> None:
    is_key = 0 < len(text.encode()) <= KEY_BYTES and "\0" not in text

    assert refused(key=text) == ("" if is_key else "events[0].key")


@given(
    st.builds(
        dict,
        page_id=texts,
        kind=st.integers(0, 40),
        trigger=st.integers(0, 10),
        source=st.integers(0, 5),
        key=texts,
        lane=texts | st.just("page"),
        person_id=texts,
        is_own=st.booleans(),
        event_time=times,
        sent_time=times,
    ),
    details,
)
def test_no_event_makes_it_raise_anything_but_what_names_its_field(
    fields: dict[str, Any], detail: str
) -> None:
    event = Event(**fields)
    getattr(event, detail).SetInParent()

    why = named(event)

    assert why == "" or why.startswith("events[0].")
    if not why:
        project(arrival.event for arrival in parcel(delivery(event)).arrivals.values())


@given(st.binary(max_size=200))
def test_no_bytes_of_a_delivery_make_it_raise_anything_else(raw: bytes) -> None:
    try:
        sent = Delivery.FromString(raw)
    except DecodeError:
        return
    with pytest.raises(InvalidArgument):
        parcel(sent)
