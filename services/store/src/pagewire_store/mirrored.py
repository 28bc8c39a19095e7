"""What Graph shows of a page, read into columns: bad rows named, and no row twice.

A field is read once for all rows, and checked for all of them at once: only where something is
wrong is it looked at row by row. Times are microseconds of Unix time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.mirror_service_pb2 import (
    ROW_KIND_COMMENT,
    ROW_KIND_CONVERSATION,
    ROW_KIND_LABEL,
    ROW_KIND_MESSAGE,
    MirroredComment,
    MirroredConversation,
    MirroredLabel,
    MirroredMessage,
    RefusedRow,
    RowKind,
)
from pagewire.type.v1.conversation_pb2 import DIRECTION_INBOUND, DIRECTION_OUTBOUND
from pagewire.type.v1.event_pb2 import (
    TRIGGER_POSTBACK,
    TRIGGER_STORY_MENTION,
    TRIGGER_STORY_REPLY,
    Attachment,
)
from pagewire_store.projections import KINDS, SNIPPET_LENGTH, packed

EARLIEST = 1_072_915_200_000_000
"""2004-01-01: there was no Facebook before."""
TEXT_MOST = 65_536
"""Characters of a text: three times what Graph takes."""
NAME_MOST = 500
"""Characters of a label's name, which is a key."""
SHOWN_ID = 200
"""Characters of a refused row's id."""

DIRECTIONS = (None, "inbound", "outbound")
"""Who wrote a message; columns hold the place of one, as they do of its kind in KINDS."""

ARCHIVED, TOUCHED = -1, -2
"""What a stored message's number says if it is archived, or was edited or unsent; of any other the
place of its direction, that of its kind so many times, and whether it has attachments."""
KIND_STEP = len(DIRECTIONS)
ATTACHED = KIND_STEP * len(KINDS)

SECOND = 1_000_000
"""In microseconds: by how much Graph's times and webhooks' differ at the most."""

_KIND_OF: Mapping[int, int] = {
    TRIGGER_STORY_REPLY: KINDS.index("story_reply"),
    TRIGGER_STORY_MENTION: KINDS.index("story_mention"),
    TRIGGER_POSTBACK: KINDS.index("postback"),
}
_ID = re.compile(r"[A-Za-z0-9_.:=+/$-]{1,512}")
_ID_MOST = 512
_ID_CHARACTERS = bytes(c for c in range(128) if _ID.fullmatch(chr(c)))

Failures: TypeAlias = tuple[str, Iterable[int]]
"""Why some rows cannot be stored, and which."""


class Batch(NamedTuple):
    """Rows of one kind by column; the first column is their id, and each id is there once."""

    positions: Sequence[int]
    """Of each row in the request's list."""
    columns: Sequence[Sequence[Any]]

    def __bool__(self) -> bool:
        return bool(self.positions)

    def positions_of(self, ids: Sequence[str]) -> Sequence[int]:
        """Of the rows with these ids, in ascending order; others are passed."""
        if len(ids) == len(self.positions):
            return self.positions
        places = dict(zip(self.columns[0], self.positions, strict=True))
        return sorted(places[one] for one in ids if one in places)

    def only(self, places: Iterable[int]) -> Batch:
        """The rows at these places."""
        left = list(places)
        if len(left) == len(self.positions):
            return self
        return Batch(
            [self.positions[at] for at in left],
            [[column[at] for at in left] for column in self.columns],
        )

    def halves(self) -> Iterator[Batch]:
        """The rows in two pieces; one row, or none, as it is."""
        middle = (len(self.positions) + 1) // 2
        for piece in (slice(middle), slice(middle, None)):
            if self.positions[piece]:
                yield Batch(self.positions[piece], [column[piece] for column in self.columns])


class Sifted(NamedTuple):
    """What can be stored, and what cannot."""

    batch: Batch
    refused: Sequence[RefusedRow]


class Thread(NamedTuple):
    """What is known of a conversation: of what Graph shows, and of messages in it."""

    participant_id: str
    participant_name: str
    thread_id: str
    shown_at: int | None
    """Graph's updated_time, where Graph showed it."""
    snippet: str
    unread_count: int
    updated_at: int
    last_inbound_at: int | None
    last_outbound_at: int | None


def conversations(shown: Sequence[MirroredConversation], first: int, latest: int) -> Sifted:
    """The columns are those of a Thread. `first` is the position of the first one, `latest` the
    latest time that a row may have."""
    ids = [one.participant_id for one in shown]
    names = [one.participant_name for one in shown]
    threads = [one.thread_id for one in shown]
    times = _micros([one.update_time for one in shown])
    snippets = [one.snippet for one in shown]
    unread = [max(0, one.unread_count) for one in shown]
    unknown = [None] * len(ids)
    failures = [
        ("id_malformed", _malformed(ids)),
        ("id_malformed", _malformed_if_any(threads)),
        *_untimely(times, latest, lambda at: shown[at].HasField("update_time")),
        ("text_malformed", _malformed_texts(names)),
        ("text_malformed", _malformed_texts(snippets)),
    ]
    snippets = [snippet[:SNIPPET_LENGTH] for snippet in snippets]
    columns = (ids, names, threads, times, snippets, unread, times, unknown, unknown)
    return _sifted(ROW_KIND_CONVERSATION, _batch(first, columns), failures, _thread_of_both)


def messages(shown: Sequence[MirroredMessage], first: int) -> Batch:
    """As they are shown: to be compared with what is stored, which is good, and then sifted.

    The columns: mid, participant_id, direction, kind, text, attachments, created_at,
    is_unsupported.
    """
    triggers = [one.trigger for one in shown]
    columns = (
        [one.mid for one in shown],
        [one.participant_id for one in shown],
        [one.direction for one in shown],
        [_KIND_OF.get(trigger, 0) for trigger in triggers] if any(triggers) else triggers,
        [one.text for one in shown],
        _attached([one.attachments for one in shown]),
        _micros([one.create_time for one in shown]),
        [one.is_unsupported for one in shown],
    )
    return Batch(range(first, first + len(shown)), columns)


def sifted_messages(
    batch: Batch, latest: int, known: Container[str], has_time: Callable[[int], bool]
) -> Sifted:
    """`known` are the people whose conversations are stored; `has_time` says of a position whether
    its time is given."""
    ids, people, directions, _, texts, _, times, _ = batch.columns
    positions = batch.positions
    failures = [
        ("id_malformed", _malformed(ids)),
        ("participant_unknown", _all_but(set(people), people, known)),
        ("direction_unknown", _all_but(set(directions), directions, range(len(DIRECTIONS)))),
        *_untimely(times, latest, lambda at: has_time(positions[at])),
        ("text_malformed", _malformed_texts(texts)),
    ]
    return _sifted(ROW_KIND_MESSAGE, batch, failures, _first_that_says)


def comments(shown: Sequence[MirroredComment], first: int, latest: int) -> Sifted:
    """The columns: comment_id, post_id, parent_id, from_id, from_name, text, attachments,
    created_at, is_hidden, is_own."""
    ids = [one.comment_id for one in shown]
    posts = [one.post_id for one in shown]
    parents = [one.parent_id for one in shown]
    authors = [one.from_id for one in shown]
    names = [one.from_name for one in shown]
    texts = [one.text for one in shown]
    attached = _attached([one.attachments for one in shown])
    times = _micros([one.create_time for one in shown])
    hidden = [one.is_hidden for one in shown]
    own = [one.is_own for one in shown]
    failures = [
        ("id_malformed", _malformed(ids)),
        *(("id_malformed", _malformed_if_any(others)) for others in (posts, parents, authors)),
        *_untimely(times, latest, lambda at: shown[at].HasField("create_time")),
        ("text_malformed", _malformed_texts(names)),
        ("text_malformed", _malformed_texts(texts)),
    ]
    columns = (ids, posts, parents, authors, names, texts, attached, times, hidden, own)
    return _sifted(ROW_KIND_COMMENT, _batch(first, columns), failures, _first_that_says)


def labels(shown: Sequence[MirroredLabel], first: int) -> Sifted:
    """The columns: name, label_id. A label is known by its name."""
    names = [one.name for one in shown]
    ids = [one.label_id for one in shown]
    failures = [
        ("name_missing", [at for at, name in enumerate(names) if not name]),
        ("text_malformed", [at for at, name in enumerate(names) if len(name) > NAME_MOST]),
        ("text_malformed", _malformed_texts(names)),
        ("id_malformed", _malformed_if_any(ids)),
    ]
    return _sifted(ROW_KIND_LABEL, _batch(first, (names, ids)), failures, _first_that_says)


def spans(spoken: Batch, latest: int) -> list[Sequence[Any]]:
    """Of each conversation that messages are of: who, and between which times to look.

    Graph gives each thread in one piece and in order, so its first and its last message have the
    times; one that is out of order is looked for by its id, if it is not found.
    """
    people, times = spoken.columns[1], spoken.columns[6]
    last = dict(zip(people, times, strict=True))
    first = dict(zip(reversed(people), reversed(times), strict=True))
    found = [(person, last[person], first[person]) for person in last if is_id(person)]
    return [
        [person for person, _, _ in found],
        [_within(min(times), latest) - SECOND for _, *times in found],
        [_within(max(times), latest) + SECOND for _, *times in found],
    ]


def _within(at: int, latest: int) -> int:
    """A time that a column can hold, whatever was shown."""
    return max(EARLIEST, min(at, latest))


def not_as_shown(
    spoken: Batch, ids: Sequence[str], says: Sequence[str], rests: Sequence[int]
) -> Batch:
    """The messages without those of which Graph shows nothing that is not stored.

    Stored are messages with these ids, texts and numbers. What Graph tells nothing of but id and
    time adds nothing to what is known.
    """
    mids, _, directions, kinds, texts, attached, _, _ = spoken.columns
    numbers = directions
    if any(kinds) or any(attached):
        numbers = [
            direction + kind * KIND_STEP + (0 if one is None else ATTACHED)
            for direction, kind, one in zip(directions, kinds, attached, strict=True)
        ]
    known_texts = list(map(dict(zip(ids, says, strict=True)).get, mids))
    known_numbers = list(map(dict(zip(ids, rests, strict=True)).get, mids))
    if (known_texts, known_numbers) == (texts, numbers):
        return spoken.only(())
    known = zip(known_texts, known_numbers, strict=True)
    shown = zip(texts, numbers, strict=True)
    return spoken.only(
        at
        for at, (its, ours) in enumerate(zip(shown, known, strict=True))
        if its != ours and not _adds_nothing(*its, ours[1])
    )


def _adds_nothing(text: str, number: int, known: int | None) -> bool:
    """Whether a message of this text and number says nothing beside a stored one's number."""
    if known is None:
        return False
    return known == ARCHIVED or (number == 0 and not text and known != TOUCHED)


def threads_not_as_shown(
    shown: Batch, stored: Sequence[tuple[str, str, str, int, str, int]]
) -> Batch:
    """The same of conversations; `stored` has the first columns of a Thread, and when it was moved
    last in the place of when it was shown."""
    known = {row[0]: row for row in stored}
    rows = zip(*shown.columns[:6], strict=True)
    return shown.only(at for at, row in enumerate(rows) if not _is_as_shown(row, known.get(row[0])))


def _is_as_shown(row: Sequence[Any], known: Sequence[Any] | None) -> bool:
    if known is None:
        return False
    _, name, thread_id, shown_at, snippet, unread_count = row
    _, its_name, its_thread, moved_at, its_snippet, its_unread = known
    return (
        name in ("", its_name)
        and thread_id in ("", its_thread)
        and shown_at <= moved_at
        and (snippet, unread_count) == (its_snippet, its_unread)
    )


def threads(batch: Batch | None, spoken: Batch | None) -> list[Thread]:
    """The conversations, and those of the messages, each once: moved up by its messages."""
    known: dict[str, Thread] = {}
    if batch:
        known = {row[0]: Thread(*row) for row in zip(*batch.columns, strict=True)}
    if spoken:
        for (participant_id, direction), at in _last_words(spoken).items():
            inbound = at if direction == DIRECTION_INBOUND else None
            outbound = at if direction == DIRECTION_OUTBOUND else None
            said = Thread(participant_id, "", "", None, "", 0, at, inbound, outbound)
            before = known.get(participant_id)
            known[participant_id] = said if before is None else _thread_of_both(before, said)
    return list(known.values())


def answers(batch: Batch) -> dict[str, int]:
    """When comments were answered by the page, first, as its own comments among these say."""
    first: dict[str, int] = {}
    _, _, parents, _, _, _, _, times, _, own = batch.columns
    for parent_id, at, is_own in zip(parents, times, own, strict=True):
        if is_own and parent_id:
            first[parent_id] = min(at, first.get(parent_id, at))
    return first


def _last_words(spoken: Batch) -> dict[tuple[str, int], int]:
    """When each party last wrote in each conversation."""
    _, people, directions, _, _, _, times, _ = spoken.columns
    last: dict[tuple[str, int], int] = {}
    for party, at in zip(zip(people, directions, strict=True), times, strict=True):
        if at > last.get(party, 0):
            last[party] = at
    return last


def _batch(first: int, columns: Sequence[Sequence[Any]]) -> Batch:
    return Batch(range(first, first + len(columns[0])), columns)


def _sifted(
    kind: RowKind.ValueType,
    batch: Batch,
    failures: Iterable[Failures],
    both: Callable[[Any, Any], Sequence[Any]],
) -> Sifted:
    """The good rows; `both` says what two rows of one id say together, the first one first."""
    bad: dict[int, str] = {}
    for reason, rows in failures:
        for at in rows:
            bad.setdefault(at, reason)
    ids = batch.columns[0]
    turned_away = [_refused(kind, batch.positions[at], ids[at], bad[at]) for at in sorted(bad)]
    return Sifted(
        _once(batch.only(at for at in range(len(ids)) if at not in bad), both), turned_away
    )


def refused(kind: RowKind.ValueType, row: Batch, reason: str) -> RefusedRow:
    """A row, alone in its batch, that PostgreSQL does not take."""
    return _refused(kind, row.positions[0], row.columns[0][0], reason)


def _refused(kind: RowKind.ValueType, position: int, id_: str, reason: str) -> RefusedRow:
    return RefusedRow(kind=kind, position=position, id=id_[:SHOWN_ID], reason=reason)


def _once(batch: Batch, both: Callable[[Any, Any], Sequence[Any]]) -> Batch:
    ids = batch.columns[0]
    if len(set(ids)) == len(ids):
        return batch
    rows: dict[str, Sequence[Any]] = {}
    positions: dict[str, int] = {}
    for position, row in zip(batch.positions, zip(*batch.columns, strict=True), strict=True):
        rows[row[0]] = both(rows[row[0]], row) if row[0] in rows else row
        positions.setdefault(row[0], position)
    return Batch(list(positions.values()), list(zip(*rows.values(), strict=True)))


def _first_that_says(one: Sequence[Any], other: Sequence[Any]) -> Sequence[Any]:
    """Of each field what says something."""
    return [mine or theirs for mine, theirs in zip(one, other, strict=True)]


def _thread_of_both(one: Sequence[Any], other: Sequence[Any]) -> Thread:
    """What Graph showed last, and the latest times of both."""
    old, new = Thread(*one), Thread(*other)
    if new.shown_at is None or (old.shown_at is not None and old.shown_at >= new.shown_at):
        old, new = new, old
    return Thread(
        new.participant_id,
        new.participant_name or old.participant_name,
        new.thread_id or old.thread_id,
        new.shown_at,
        new.snippet,
        new.unread_count,
        max(old.updated_at, new.updated_at),
        _latest(old.last_inbound_at, new.last_inbound_at),
        _latest(old.last_outbound_at, new.last_outbound_at),
    )


def _latest(one: int | None, other: int | None) -> int | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _malformed(ids: Sequence[str]) -> Iterable[int]:
    if not ids or (
        min(map(len, ids)) > 0 and max(map(len, ids)) <= _ID_MOST and _is_of_id("".join(ids))
    ):
        return ()
    return [at for at, one in enumerate(ids) if not _ID.fullmatch(one)]


def _malformed_if_any(ids: Sequence[str]) -> Iterable[int]:
    """The same of ids that may be empty."""
    if not any(ids) or (max(map(len, ids)) <= _ID_MOST and _is_of_id("".join(ids))):
        return ()
    return [at for at, one in enumerate(ids) if one and not _ID.fullmatch(one)]


def _is_of_id(text: str) -> bool:
    return text.isascii() and not text.encode().translate(None, _ID_CHARACTERS)


def _malformed_texts(texts: Sequence[str]) -> Iterable[int]:
    if not any(texts) or (max(map(len, texts)) <= TEXT_MOST and "\0" not in "".join(texts)):
        return ()
    return [at for at, text in enumerate(texts) if len(text) > TEXT_MOST or "\0" in text]


def _untimely(
    times: Sequence[int], latest: int, is_given: Callable[[int], bool]
) -> Iterable[Failures]:
    if not times or (min(times) >= EARLIEST and max(times) <= latest):
        return
    out = [at for at, time in enumerate(times) if not EARLIEST <= time <= latest]
    yield "time_missing", [at for at in out if not is_given(at)]
    yield "time_out_of_range", out


def _micros(times: Sequence[Timestamp]) -> list[int]:
    found = [time.seconds * 1_000_000 for time in times]
    fractions = [time.nanos for time in times]
    if any(fractions):  # Graph tells none, as far as is known
        found = [time + nanos // 1_000 for time, nanos in zip(found, fractions, strict=True)]
    return found


def _attached(shown: Sequence[Sequence[Attachment]]) -> list[bytes | None]:
    if not any(map(len, shown)):
        return [None] * len(shown)
    return [packed(attachments) for attachments in shown]


def is_id(text: str) -> bool:
    """Whether Meta could name something so."""
    return _ID.fullmatch(text) is not None


def _all_but(all_: set[Any], values: Sequence[Any], known: Container[Any]) -> Iterable[int]:
    """Where the values are that are not known."""
    unknown = {value for value in all_ if value not in known}
    return [at for at, value in enumerate(values) if value in unknown] if unknown else ()
