"""What Graph shows, read into columns: without a database."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.store.v1.mirror_service_pb2 import MirroredMessage
from pagewire.type.v1.conversation_pb2 import DIRECTION_OUTBOUND, DIRECTION_UNSPECIFIED
from pagewire.type.v1.event_pb2 import TRIGGER_POSTBACK, TRIGGER_STORY_MENTION, Attachment
from pagewire_store import mirrored
from pagewire_store.mirrored import ARCHIVED, ATTACHED, EARLIEST, KIND_STEP, TOUCHED, Batch
from tests.support.deliveries import PERSON, at
from tests.support.mirror import READ, shown, shown_comment, thread

LATEST = at(READ).ToMicroseconds()


def sifted(*rows: MirroredMessage, first: int = 0) -> mirrored.Sifted:
    batch = mirrored.messages(rows, first)
    return mirrored.sifted_messages(
        batch, LATEST, {PERSON}, lambda position: rows[position - first].HasField("create_time")
    )


def test_a_message_is_read_into_columns() -> None:
    attached = [Attachment(type="image", url="u")]

    batch = mirrored.messages(
        [shown(seconds=1.5, attachments=attached, trigger=TRIGGER_STORY_MENTION)], 7
    )

    packed = batch.columns[5][0]
    assert list(batch.positions) == [7]
    assert [column[0] for column in batch.columns] == [
        "m_1", PERSON, 1, 2, "hello", packed, at(1.5).ToMicroseconds(), False,
    ]  # fmt: skip
    assert packed


def test_positions_are_those_of_the_request_also_behind_refused_rows() -> None:
    batch, refused = sifted(shown("m 1"), shown("m_2"), shown("m 3"), shown("m_4"), first=100)

    assert list(batch.positions) == [101, 103]
    assert [(one.position, one.id) for one in refused] == [(100, "m 1"), (102, "m 3")]
    assert batch.positions_of(["m_4"]) == [103]


def test_of_several_faults_a_row_is_refused_for_the_first() -> None:
    _, (refused,) = sifted(shown("m 1", participant_id="?", text="\0", create_time=None))

    assert refused.reason == "id_malformed"


@pytest.mark.parametrize("micros", [EARLIEST, LATEST])
def test_times_are_good_up_to_their_limits(micros: int) -> None:
    row = shown()
    row.create_time.FromMicroseconds(micros)
    beyond = shown()
    beyond.create_time.FromMicroseconds(micros + (-1 if micros == EARLIEST else 1))

    assert not sifted(row).refused
    assert [one.reason for one in sifted(beyond).refused] == ["time_out_of_range"]


def test_a_time_that_no_number_holds_is_refused_before_anybody_looks_for_it() -> None:
    row = shown()
    row.create_time.seconds = 2**63 - 1

    _, firsts, lasts = mirrored.spans(mirrored.messages([row], 0), LATEST)

    assert [one.reason for one in sifted(row).refused] == ["time_out_of_range"]
    assert lasts[0] <= LATEST + mirrored.SECOND
    assert firsts[0] < 2**63


def test_threads_are_looked_for_between_their_first_and_last_message() -> None:
    rows = [shown("m_3", 30), shown("m_1", 10), shown("x", 99, participant_id="2002")]

    people, firsts, lasts = mirrored.spans(mirrored.messages(rows, 0), LATEST)

    assert people == [PERSON, "2002"]
    assert firsts == [at(9).ToMicroseconds(), at(98).ToMicroseconds()]
    assert lasts == [at(31).ToMicroseconds(), at(100).ToMicroseconds()]


def test_nobody_is_looked_for_by_an_id_that_is_none() -> None:
    rows = [shown(participant_id=person) for person in ("", "2 0", "2\0", "x" * 513)]

    assert mirrored.spans(mirrored.messages(rows, 0), LATEST) == [[], [], []]


def left(*rows: MirroredMessage, stored: dict[str, tuple[str, int]]) -> list[str]:
    texts, numbers = [text for text, _ in stored.values()], [n for _, n in stored.values()]
    batch = mirrored.not_as_shown(mirrored.messages(rows, 0), list(stored), texts, numbers)
    return list(batch.columns[0])


BARE: dict[str, Any] = {"direction": DIRECTION_UNSPECIFIED, "text": ""}


@pytest.mark.parametrize(
    ("row", "known", "is_left"),
    [
        (shown(), ("hello", 1), False),
        (shown(), ("hello!", 1), True),
        (shown(), ("hello", 2), True),
        (shown(), ("hello", 0), True),
        (shown(), ("", ARCHIVED), False),
        (shown(), ("hello", TOUCHED), True),
        (shown(**BARE), ("hello", 1), False),
        (shown(**BARE), ("", 0), False),
        (shown(**BARE), ("", TOUCHED), True),
        (shown(**BARE), ("", ARCHIVED), False),
        (shown(direction=DIRECTION_OUTBOUND), ("hello", 2), False),
        (shown(trigger=TRIGGER_POSTBACK), ("hello", 1), True),
        (shown(trigger=TRIGGER_POSTBACK), ("hello", 1 + 3 * KIND_STEP), False),
        (shown(attachments=[Attachment(type="image")]), ("hello", 1), True),
        (shown(attachments=[Attachment(type="image")]), ("hello", 1 + ATTACHED), False),
    ],
)
def test_what_is_stored_as_it_is_shown_is_left_out(
    row: MirroredMessage, known: tuple[str, int], is_left: bool
) -> None:
    others = {"m_0": ("hello", 1), "m_9": ("other", 2)}

    found = left(shown("m_0"), row, shown("m_2"), stored=others | {"m_1": known})

    assert found == (["m_1", "m_2"] if is_left else ["m_2"])


def test_of_a_thread_that_is_shown_twice_the_newer_one_counts_and_both_times() -> None:
    older = thread(seconds=5, snippet="older", participant_name="Ada", unread_count=9)
    newer = thread(seconds=9, snippet="newer", thread_id="t_1")

    (row,) = mirrored.threads(mirrored.conversations([newer, older], 0, LATEST).batch, None)

    assert (row.snippet, row.unread_count, row.participant_name) == ("newer", 0, "Ada")
    assert (row.thread_id, row.updated_at) == ("t_1", at(9).ToMicroseconds())


def test_answers_are_the_pages_first_comments_below_others() -> None:
    rows = [
        shown_comment("c_4", 40, parent_id="c_1", is_own=True),
        shown_comment("c_3", 30, parent_id="c_1", is_own=True),
        shown_comment("c_2", 20, parent_id="c_1"),
        shown_comment("c_5", 5, is_own=True),
    ]

    answers = mirrored.answers(mirrored.comments(rows, 0, LATEST).batch)

    assert answers == {"c_1": at(30).ToMicroseconds()}


ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["m_1", "m_2", "a" * 512, "a" * 513]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
messages = st.builds(
    MirroredMessage,
    mid=ids,
    participant_id=st.sampled_from(["", PERSON, "9"]),
    direction=st.integers(0, 4),
    text=texts,
    create_time=st.none() | st.integers(-10, 4_000).map(at),
)


@given(st.lists(messages, max_size=8))
def test_every_row_is_refused_or_stored_by_its_id_once(rows: list[MirroredMessage]) -> None:
    batch, refused = sifted(*rows)

    stored = list(batch.columns[0])
    assert len(set(stored)) == len(stored)
    bad = {one.position for one in refused}
    assert bad.isdisjoint(batch.positions)
    assert {rows[at].mid for at in range(len(rows)) if at not in bad} == set(stored)
    assert all(is_good(rows[at]) == (at not in bad) for at in range(len(rows)))


def is_good(row: MirroredMessage) -> bool:
    return (
        mirrored.is_id(row.mid)
        and row.participant_id == PERSON
        and row.direction in (0, 1, 2)
        and row.HasField("create_time")
        and EARLIEST <= row.create_time.ToMicroseconds() <= LATEST
        and "\0" not in row.text
    )


def test_a_batch_of_nothing_is_nothing() -> None:
    empty = mirrored.messages([], 0)

    assert not empty
    assert not Batch([], [[], []])
    assert list(empty.halves()) == []
