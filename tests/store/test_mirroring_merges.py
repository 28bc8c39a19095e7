"""Webhooks and Graph tell of the same messages: in whatever order they come, the same is stored."""

import asyncio
import itertools
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagewire.store.v1.ingest_service_pb2 import DELIVERY_STATE_STORED, Delivery
from pagewire.store.v1.mirror_service_pb2 import (
    MirroredComment,
    MirroredConversation,
    MirroredMessage,
    UpsertHistoryRequest,
)
from pagewire.type.v1.conversation_pb2 import (
    DIRECTION_INBOUND,
    DIRECTION_OUTBOUND,
    DIRECTION_UNSPECIFIED,
)
from pagewire.type.v1.event_pb2 import (
    EVENT_KIND_COMMENT_EDITED,
    EVENT_KIND_COMMENT_HIDDEN,
    EVENT_KIND_COMMENT_REMOVED,
    EVENT_KIND_MESSAGE_DELETED,
    EVENT_KIND_MESSAGE_EDIT,
    TRIGGER_STORY_REPLY,
    TRIGGER_UNSPECIFIED,
    Attachment,
    CommentDetail,
    Event,
    MessageDetail,
    MessageEditDetail,
    MessageRef,
)
from pagewire_store.database import open_pools
from tests.support.deliveries import Database, about, at, comment, echo, make_ingestor, message
from tests.support.mirror import make_mirror
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["migrated_template", "module_database_url", "postgres_server"]

_pages = itertools.count(5_000)

Told: TypeAlias = Event | UpsertHistoryRequest
"""One telling: by webhook, or by Graph."""


@dataclass(frozen=True)
class Written:
    """A message as it really is, in seconds after noon."""

    number: int
    person: str
    inbound: bool
    written: float
    is_story: bool
    has_image: bool
    edited: float | None
    unsent: float | None

    @property
    def mid(self) -> str:
        return f"m_{self.number}"

    def text(self, now: float) -> str:
        """What it says at that time."""
        is_edited = self.edited is not None and self.edited <= now
        return f"text {self.number}{' edited' if is_edited else ''}"

    def is_there(self, now: float) -> bool:
        return self.written <= now and (self.unsent is None or self.unsent > now)


@dataclass(frozen=True)
class Said:
    """A comment as it really is."""

    number: int
    is_answer: bool
    written: int
    edited: float | None
    hidden: float | None
    shown_again: float | None
    removed: float | None

    @property
    def comment_id(self) -> str:
        return f"c_{self.number}"

    @property
    def parent_id(self) -> str:
        return "c_0" if self.is_answer else ""

    def text(self, now: float) -> str:
        is_edited = self.edited is not None and self.edited <= now
        return f"comment {self.number}{' edited' if is_edited else ''}"

    def is_hidden(self, now: float) -> bool:
        again = self.shown_again is not None and self.shown_again <= now
        return self.hidden is not None and self.hidden <= now and not again

    def is_there(self, now: float) -> bool:
        return self.written <= now and (self.removed is None or self.removed > now)


END = 10_000.0


def later(draw: st.DrawFn, than: float) -> float | None:
    """Some time after, to a tenth of a second; or never."""
    return draw(st.one_of(st.none(), st.integers(50, 4_000).map(lambda tenths: than + tenths / 10)))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Written], list[Said]]:
    messages = []
    for number in range(draw(st.integers(0, 4))):
        written = number * 300 + draw(st.integers(0, 2_000)) / 10
        edited = later(draw, written)
        messages.append(
            Written(
                number,
                draw(st.sampled_from(["2001", "2002"])),
                draw(st.booleans()),
                written,
                draw(st.booleans()),
                draw(st.booleans()),
                edited,
                later(draw, edited or written),
            )
        )
    comments = []
    for number in range(draw(st.integers(0, 3))):
        seconds = number * 300 + draw(st.integers(0, 200))
        hidden = later(draw, seconds)
        shown_again = later(draw, hidden) if hidden else None
        edited = later(draw, seconds)
        comments.append(
            Said(
                number,
                number > 0 and draw(st.booleans()),
                seconds,
                edited,
                hidden,
                shown_again,
                later(draw, max(edited or 0, shown_again or hidden or 0, seconds)),
            )
        )
    return messages, comments


@st.composite
def tellings(draw: st.DrawFn) -> tuple[list[Written], list[Said], list[Told]]:
    """A world, all that webhooks tell of it, and some of what Graph shows, in any order."""
    messages, comments = draw(worlds())
    told: list[Told] = [event for one in messages for event in by_webhook(one)]
    told += [event for each in comments for event in comment_by_webhook(each)]
    for _ in range(draw(st.integers(0, 4))):
        read = draw(st.integers(0, 20_000)) / 10 + 0.05
        bare = draw(st.sets(st.sampled_from(range(4))))
        told.append(by_graph(messages, comments, read, bare))
    return messages, comments, draw(st.permutations(told))


def by_webhook(one: Written) -> list[Event]:
    person = {"person_id": one.person, "lane": f"person:{one.person}"}
    detail = MessageDetail(
        mid=one.mid,
        text=one.text(one.written),
        story_id="s_1" if one.is_story else "",
        attachments=[Attachment(type="image", url="webhook")] if one.has_image else [],
    )
    whole = (
        message(one.mid, one.written, person=one.person, message=detail)
        if one.inbound
        else echo(one.mid, one.written, message=detail, **person)
    )
    own = {"is_own": not one.inbound}
    events = [whole]
    if one.edited is not None:
        change = MessageEditDetail(mid=one.mid, number=1, text=one.text(one.edited))
        key = f"edit:{one.mid}:1"
        kind = EVENT_KIND_MESSAGE_EDIT
        events.append(about(kind, key, one.edited, message_edit=change, **person, **own))
    if one.unsent is not None:
        key, kind = f"deleted:{one.mid}", EVENT_KIND_MESSAGE_DELETED
        gone = MessageRef(mid=one.mid)
        events.append(about(kind, key, one.unsent, message_deleted=gone, **person, **own))
    return events


def comment_by_webhook(one: Said) -> list[Event]:
    def telling(kind: int, key: str, seconds: float, **detail: Any) -> Event:
        of = {"comment_id": one.comment_id, "post_id": "p_1", "parent_id": one.parent_id}
        return comment(
            one.comment_id,
            seconds,
            kind=kind,
            key=key,
            trigger=0,
            lane=f"comment:{one.parent_id or one.comment_id}",
            person_id="" if one.is_answer else "3001",
            person_name="" if one.is_answer else "Someone",
            is_own=one.is_answer,
            sent_time=at(seconds),
            comment=CommentDetail(**(of | detail)),
        )

    whole = comment(one.comment_id).kind
    key = f"comment:{one.comment_id}"
    events = [telling(whole, f"{key}:add", one.written, text=one.text(one.written))]
    if one.edited is not None:
        events.append(
            telling(EVENT_KIND_COMMENT_EDITED, f"{key}:edited", one.edited, text=one.text(END))
        )
    for seconds, hidden in ((one.hidden, True), (one.shown_again, False)):
        if seconds is not None:
            events.append(telling(EVENT_KIND_COMMENT_HIDDEN, "", seconds, hidden=hidden))
    if one.removed is not None:
        events.append(telling(EVENT_KIND_COMMENT_REMOVED, f"{key}:remove", one.removed))
    return events


def by_graph(
    messages: list[Written], comments: list[Said], read: float, bare: set[int]
) -> UpsertHistoryRequest:
    """All that Graph shows at a time, in whole seconds; of some messages no more than those.

    Answers are shown below what they answer.
    """
    there = [one for one in messages if one.is_there(read)]
    people = {one.person: one for one in there}  # the last one of each
    return UpsertHistoryRequest(
        read_time=at(read),
        conversations=[
            MirroredConversation(
                participant_id=person,
                participant_name=f"Person {person}",
                thread_id=f"t_{person}",
                update_time=at(int(newest.written)),
                snippet=newest.text(read),
            )
            for person, newest in people.items()
        ],
        messages=[shown(one, read, is_bare=one.number in bare) for one in there],
        comments=[
            MirroredComment(
                comment_id=one.comment_id,
                post_id="p_1",
                parent_id=one.parent_id,
                from_id="" if one.is_answer else "3001",
                from_name="" if one.is_answer else "Someone",
                text=one.text(read),
                create_time=at(one.written),
                is_hidden=one.is_hidden(read),
                is_own=one.is_answer,
            )
            for one in comments
            if one.is_there(read) and (comments[0].is_there(read) or not one.is_answer)
        ],
    )


def shown(one: Written, read: float, *, is_bare: bool) -> MirroredMessage:
    found = MirroredMessage(
        mid=one.mid, participant_id=one.person, create_time=at(int(one.written))
    )
    if is_bare:
        found.direction = DIRECTION_UNSPECIFIED
        return found
    found.direction = DIRECTION_INBOUND if one.inbound else DIRECTION_OUTBOUND
    found.text = one.text(read)
    found.trigger = TRIGGER_STORY_REPLY if one.is_story else TRIGGER_UNSPECIFIED
    if one.has_image:
        found.attachments.add(type="image", url=f"graph at {read}")
    return found


def merged(
    messages: list[Written], comments: list[Said], told: list[Told]
) -> tuple[list[Any], list[Any], list[Any]]:
    """What is to be stored in the end of messages, conversations and comments."""
    reads = [one for one in told if isinstance(one, UpsertHistoryRequest)]
    by_person: dict[str, list[Written]] = {}
    for one in messages:
        by_person.setdefault(one.person, []).append(one)
    return (
        [
            (
                one.mid,
                one.person,
                "inbound" if one.inbound else "outbound",
                "story_reply" if one.is_story else "message",
                None if one.unsent else one.text(END),
                ["webhook"] if one.has_image and not one.unsent else [],
                at(one.written).ToDatetime(UTC),
                1 if one.edited else 0,
                one.unsent is not None,
            )
            for one in messages
        ],
        [
            (
                person,
                *named(person, reads),
                at(written[-1].written).ToDatetime(UTC),
                "" if written[-1].unsent else written[-1].text(END),
                newest(one.written for one in written if one.inbound),
                newest(one.written for one in written if not one.inbound),
            )
            for person, written in sorted(by_person.items())
        ],
        [
            (
                one.comment_id,
                one.parent_id or None,
                one.parent_id or one.comment_id,
                None if one.removed else one.text(END),
                at(one.written).ToDatetime(UTC),
                one.is_hidden(END),
                one.removed is not None,
                one.is_answer,
                answered(one, comments, reads),
            )
            for one in comments
        ],
    )


def named(person: str, reads: list[UpsertHistoryRequest]) -> tuple[str | None, str | None]:
    """Name and thread, which Graph alone tells."""
    known = any(each.participant_id == person for one in reads for each in one.conversations)
    return (f"Person {person}", f"t_{person}") if known else (None, None)


def newest(times: Any) -> datetime | None:
    last = max(times, default=None)
    return None if last is None else at(last).ToDatetime(UTC)


def answered(one: Said, comments: list[Said], reads: list[UpsertHistoryRequest]) -> datetime | None:
    """The first answer below a comment of a person that Graph showed."""
    seen = {each.comment_id for read in reads for each in read.comments}
    return next(
        (
            at(answer.written).ToDatetime(UTC)
            for answer in comments
            if answer.parent_id == one.comment_id and answer.comment_id in seen
        ),
        None,
    )


async def stored(database: Database, page: str) -> tuple[list[Any], list[Any], list[Any]]:
    messages = await database.rows(
        "select mid, participant_id, direction, kind, text, attachments, created_at, edit_number,"
        " is_deleted from message where page_id = %s order by mid",
        page,
    )
    conversations = await database.rows(
        "select participant_id, participant_name, thread_id, updated_at, snippet, last_inbound_at,"
        " last_outbound_at from conversation where page_id = %s order by participant_id",
        page,
    )
    comments = await database.rows(
        "select comment_id, parent_id, root_id, text, created_at, is_hidden, is_deleted, is_own,"
        " answered_at from comment where page_id = %s order by comment_id",
        page,
    )
    return [(*row[:5], addresses(row[5]), *row[6:]) for row in messages], conversations, comments


def addresses(attachments: bytes | None) -> list[str]:
    return [one.url for one in MessageDetail.FromString(attachments or b"").attachments]


async def tell(url: str, page: str, told: list[Told]) -> tuple[list[Any], list[Any], list[Any]]:
    """Tells a page's store all of it, one after the other; what is stored then."""
    pools = open_pools(url, 4)
    ingestor, mirror = make_ingestor(pools), make_mirror(pools)
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            database = Database(connection)
            await database.connect_page(page)
            for one in told:
                await tell_one(ingestor, mirror, one, page)
            return await stored(database, page)
    finally:
        await ingestor.close()
        await pools.dispose()


async def tell_one(ingestor: Any, mirror: Any, one: Told, page: str) -> None:
    copied = type(one).FromString(one.SerializeToString())
    copied.page_id = page
    if isinstance(copied, UpsertHistoryRequest):
        answer = await mirror.upsert(copied)
        assert not answer.refused
        repeat = await mirror.upsert(copied)
        assert (repeat.changed, len(repeat.new_messages), len(repeat.new_comments)) == (0, 0, 0)
    else:
        body = Delivery(
            delivery_id=str(uuid.uuid4()),
            receive_time=at(0),
            body=b"{}",
            signed_by="app",
            events=[copied],
        )
        (result,) = await ingestor.ingest([body])
        assert (result.state, result.new_events) == (DELIVERY_STATE_STORED, 1)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tellings())
def test_whatever_the_order_in_which_webhooks_and_graph_tell_the_same_is_stored(
    module_database_url: str, world: tuple[list[Written], list[Said], list[Told]]
) -> None:
    messages, comments, told = world
    page = str(next(_pages))

    found = asyncio.run(tell(module_database_url, page, told))

    assert found == merged(messages, comments, told)
