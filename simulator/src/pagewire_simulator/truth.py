"""The truth about an account, to hold a copy against: all there is, and what Graph shows of it.

Pure. Times are Unix milliseconds, of which Graph shows whole seconds.
"""

from typing import Any

import msgspec

from pagewire_simulator.entities import (
    Account,
    Comment,
    Conversation,
    Label,
    Message,
    Platform,
    Post,
)
from pagewire_simulator.ledger import CallTotals
from pagewire_simulator.reading import Reading
from pagewire_simulator.world import World


class TrueMessage(msgspec.Struct, kw_only=True):
    """``shown``: whole, bare (id and time alone) or gone (not at all), as things stand."""

    mid: str
    inbound: bool
    created_at: int
    text: str | None
    attachments: tuple[dict[str, Any], ...]
    story: tuple[str, str] | None
    unsupported: bool
    shown: str


class TrueConversation(msgspec.Struct, kw_only=True):
    """A thread, its messages oldest first."""

    thread_id: str
    person_id: str
    name: str
    updated_at: int
    unread: int
    poison: bool
    messages: list[TrueMessage]


class Truth(msgspec.Struct, kw_only=True):
    """Conversations newest first; comments as they were made, deleted ones too."""

    account: str
    conversations: list[TrueConversation]
    posts: list[Post]
    comments: list[Comment]
    labels: list[Label]
    calls: CallTotals


def truth(world: World, account: Account, reading: Reading, calls: CallTotals) -> Truth:
    return Truth(
        account=account.id,
        conversations=[
            conversation(world, account, thread, reading) for thread in world.newest_first(account)
        ],
        posts=world.posts_of(account),
        comments=[one for one in world.comments.values() if one.account_id == account.id],
        labels=[one for one in world.labels.values() if one.account_id == account.id],
        calls=calls,
    )


def conversation(
    world: World, account: Account, thread: Conversation, reading: Reading
) -> TrueConversation:
    person = world.person(account, thread.person_id)
    listed = reading.listed(thread.messages[::-1])
    whole = {one.mid for one in reading.detailed(account.platform, listed) if not one.deleted}
    bare = {one.mid for one in listed} - whole
    return TrueConversation(
        thread_id=thread.thread_id,
        person_id=person.id,
        name=person.name if account.platform is Platform.MESSENGER else person.username,
        updated_at=thread.updated_at,
        unread=thread.unread,
        poison=thread.poison,
        messages=[
            message(one, "whole" if one.mid in whole else "bare" if one.mid in bare else "gone")
            for one in thread.messages
        ],
    )


def message(one: Message, shown: str) -> TrueMessage:
    return TrueMessage(
        mid=one.mid,
        inbound=one.inbound,
        created_at=one.created_at,
        text=one.text,
        attachments=one.attachments,
        story=one.story,
        unsupported=one.unsupported,
        shown=shown,
    )
