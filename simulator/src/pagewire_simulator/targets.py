"""What a call is about: its node as the caller's token may see it, and what it answers."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from pagewire_simulator import fields, refusals
from pagewire_simulator.entities import (
    Account,
    Comment,
    Conversation,
    Host,
    Label,
    Message,
    Person,
    Post,
    Token,
    TokenKind,
)
from pagewire_simulator.fields import Field
from pagewire_simulator.paging import DEFAULT_LIMIT, Edge, Paging, Wanted
from pagewire_simulator.refusals import Refused, parameter, unsupported
from pagewire_simulator.world import World

T = TypeVar("T")
Json = dict[str, Any]


class Kind(StrEnum):
    """What a node is."""

    ACCOUNT = "account"
    THREAD = "thread"
    MESSAGE = "message"
    POST = "post"
    COMMENT = "comment"
    LABEL = "label"
    PERSON = "person"


class Target(msgspec.Struct, kw_only=True):
    """What a call is about: its node, and the account and other things that it concerns."""

    kind: Kind
    account: Account
    thread: Conversation | None = None
    message: Message | None = None
    post: Post | None = None
    comment: Comment | None = None
    label: Label | None = None
    person: Person | None = None


class Request(msgspec.Struct, kw_only=True):
    """A call whose caller is known. ``params`` are those of query and body together."""

    host: Host
    node: str
    edge: str
    params: Json
    target: Target
    paging: Paging
    now: int

    @property
    def account(self) -> Account:
        return self.target.account

    @property
    def thread(self) -> Conversation:
        assert self.target.thread is not None
        return self.target.thread

    @property
    def message(self) -> Message:
        assert self.target.message is not None
        return self.target.message

    @property
    def post(self) -> Post:
        assert self.target.post is not None
        return self.target.post

    @property
    def comment(self) -> Comment:
        assert self.target.comment is not None
        return self.target.comment

    @property
    def label(self) -> Label:
        assert self.target.label is not None
        return self.target.label

    @property
    def fields(self) -> list[Field]:
        return fields.parse(str(self.params.get("fields", "")))

    @property
    def wanted(self) -> Wanted:
        """Which page of an edge."""
        limit = str(self.params.get("limit", ""))
        return Wanted(
            limit=max(1, int(limit)) if limit.isdigit() else DEFAULT_LIMIT,
            after=self.params.get("after") or None,
            before=self.params.get("before") or None,
        )

    def page(
        self,
        items: Sequence[T],
        show: Callable[[T], Json],
        ident: Callable[[T], str],
        **params: Any,
    ) -> Json:
        """A page of the edge that is asked for; ``params`` go into the address of the next."""
        given = {k: self.params[k] for k in ("fields", "filter", "order") if k in self.params}
        edge = Edge(node=self.node, name=self.edge, params=given | params)
        return self.paging.page(edge, items, self.wanted, show, ident)

    def text(self, name: str) -> str:
        value = self.params.get(name)
        if not isinstance(value, str) or not value:
            raise Refused(parameter(f"The parameter {name} is required"))
        return value


class Outcome(msgspec.Struct, kw_only=True):
    """``created`` is the id of a new message or comment; ``sent`` the message to echo.

    ``items``: how many messages or comments are shown, which takes Graph time.
    """

    answer: Json
    created: str | None = None
    sent: Message | None = None
    items: int = 0


def find(world: World, token: Token, node: str) -> Target:
    """The node, if this token may see it; raises Refused (100/33, or 190 for a user's token)."""
    if token.kind is TokenKind.USER:
        raise Refused(refusals.PAGE_TOKEN_REQUIRED)
    node = token.node if node == "me" else node
    accounts = sorted(world.accounts_of(token.node), key=lambda one: one.id != node)
    for account in accounts:
        if node in (account.node, account.id):
            return Target(kind=Kind.ACCOUNT, account=account)
    for account in accounts:
        if person := world.find_person(account, node):
            return Target(kind=Kind.PERSON, account=account, person=person)
    found = owned(world, node)
    if found is None or found.account.node != token.node:
        raise Refused(unsupported(node))
    return found


def owned(world: World, node: str) -> Target | None:
    """The thing of an account that has this id."""
    if (thread := world.threads.get(node)) and thread.messages:
        account, person = world.account(thread.account_id), thread.person_id
        who = world.find_person(account, person)
        return Target(kind=Kind.THREAD, account=account, thread=thread, person=who)
    if message := world.messages.get(node):
        account = world.account(message.account_id)
        thread = world.conversation(account, world.person(account, message.person_id))
        return Target(kind=Kind.MESSAGE, account=account, message=message, thread=thread)
    if comment := world.find_comment(node):
        account = world.account(comment.account_id)
        return Target(kind=Kind.COMMENT, account=account, comment=comment)
    if label := world.labels.get(node):
        return Target(kind=Kind.LABEL, account=world.account(label.account_id), label=label)
    if post := world.posts.get(node):
        return Target(kind=Kind.POST, account=world.account(post.account_id), post=post)
    return None
