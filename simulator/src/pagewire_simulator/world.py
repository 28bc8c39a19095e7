"""The world as Meta would keep it: what exists, who wrote what, and what each send created.

Pure: no I/O and no clock. Times come in as Unix milliseconds, ids from the seeded ``Ids``.
"""

from collections.abc import Iterator
from typing import Any

from pagewire_simulator.entities import (
    Account,
    Comment,
    Conversation,
    Host,
    Label,
    Message,
    Person,
    Platform,
    Post,
    Token,
)
from pagewire_simulator.ids import Ids


class Unknown(LookupError):
    """The world has no such account, person, post or comment."""


class World:
    """``ids`` names what people make, ``app_ids`` what the app makes, ``noise`` the rest.

    Apart, so that the timing of the app's calls never changes what people say under a seed.
    """

    def __init__(self, seed: int, app_id: str) -> None:
        self.seed = seed
        self.ids = Ids(seed, "people")
        self.app_ids = Ids(seed, "app")
        self.noise = Ids(seed, "noise")
        self.app_id = app_id
        self.accounts: dict[str, Account] = {}
        self.tokens: dict[str, Token] = {}
        self.adopted: dict[str, str] = {}  # the token that each adopted account was named with
        self.conversations: dict[tuple[str, str], Conversation] = {}
        self.posts: dict[str, Post] = {}
        self.comments: dict[str, Comment] = {}
        self.labels: dict[str, Label] = {}
        self._people: dict[tuple[str, str], Person] = {}
        self._replies: dict[str, list[Comment]] = {}
        self._subscriptions: dict[str, frozenset[str] | None] = {}

    def create_account(
        self,
        *,
        platform: Platform = Platform.MESSENGER,
        login: Host = Host.FACEBOOK,
        id: str | None = None,
        name: str | None = None,
        page_id: str | None = None,
        subscribed_fields: frozenset[str] | None = None,
    ) -> Account:
        """Creates the account and, for its node, a token.

        ``page_id`` is the linked Page of an Instagram account (Facebook login); both then share the
        Page's token. ``subscribed_fields`` None means that every field is already subscribed.
        """
        on_messenger = platform is Platform.MESSENGER
        own_id = id or (self.ids.page() if on_messenger else self.ids.instagram_account())
        number = len(self.accounts) + 1
        account = Account(
            id=own_id,
            platform=platform,
            login=login,
            name=name or f"Account {number}",
            username=f"account.{number}",
            node=page_id or own_id,
            self_igsid=self.ids.igsid(),
        )
        self.accounts[account.id] = account
        if self.token_of(account) is None:
            self.give_token(account, self.ids.token())
        self._subscriptions.setdefault(account.node, subscribed_fields)
        return account

    def give_token(self, account: Account, value: str) -> Token:
        """Replaces the token of the account's node; the old one is no longer known."""
        self.tokens = {v: t for v, t in self.tokens.items() if t.node != account.node}
        token = Token(value=value, node=account.node, host=account.login)
        self.tokens[value] = token
        return token

    def token_of(self, account: Account) -> Token | None:
        return next((t for t in self.tokens.values() if t.node == account.node), None)

    def account(self, account_id: str) -> Account:
        try:
            return self.accounts[account_id]
        except KeyError:
            raise Unknown(f"account {account_id}") from None

    def accounts_of(self, node: str) -> Iterator[Account]:
        return (account for account in self.accounts.values() if account.node == node)

    def subscribe(self, node: str, fields: frozenset[str]) -> None:
        self._subscriptions[node] = fields

    def subscription(self, node: str) -> frozenset[str] | None:
        """The fields the app subscribed on the node; None where all were from the start."""
        return self._subscriptions.get(node)

    def wants(self, account: Account, field: str) -> bool:
        """Whether events of this field flow for the account.

        An Instagram account linked to a Page needs the Page's install only: its own fields are
        those of the app.
        """
        fields = self._subscriptions.get(account.node)
        if fields is None:
            return True
        linked = account.platform is Platform.INSTAGRAM and account.login is Host.FACEBOOK
        return bool(fields) if linked else field in fields

    def create_person(
        self,
        account: Account,
        *,
        id: str | None = None,
        name: str | None = None,
        blocked: bool = False,
    ) -> Person:
        on_messenger = account.platform is Platform.MESSENGER
        own_id = id or (self.ids.psid() if on_messenger else self.ids.igsid())
        number = len(self._people) + 1
        person = Person(
            id=own_id,
            account_id=account.id,
            commenter_id=self.ids.app_scoped() if on_messenger else own_id,
            name=name or f"Person {number}",
            username=f"person.{number}",
            blocked=blocked,
        )
        self._people[account.id, own_id] = person
        return person

    def person(self, account: Account, person_id: str) -> Person:
        person = self.find_person(account, person_id)
        if person is None:
            raise Unknown(f"person {person_id}")
        return person

    def find_person(self, account: Account, person_id: str) -> Person | None:
        return self._people.get((account.id, person_id))

    def conversation(self, account: Account, person: Person) -> Conversation:
        key = account.id, person.id
        found = self.conversations.get(key)
        if found is None:
            on_messenger = account.platform is Platform.MESSENGER
            ids = Ids(self.seed, f"thread/{account.id}/{person.id}")
            thread = ids.messenger_thread() if on_messenger else ids.instagram_thread()
            found = Conversation(thread_id=thread, account_id=account.id, person_id=person.id)
            self.conversations[key] = found
        return found

    def receive(
        self,
        account: Account,
        person: Person,
        at: int,
        *,
        text: str | None = None,
        attachments: tuple[dict[str, Any], ...] = (),
    ) -> Message:
        """A person writes to the account (or presses a button): opens the reply window."""
        message = Message(
            mid=new_mid(self.ids, account),
            account_id=account.id,
            person_id=person.id,
            inbound=True,
            created_at=at,
            text=text,
            attachments=attachments,
        )
        conversation = self.conversation(account, person)
        conversation.messages.append(message)
        conversation.last_inbound = max(conversation.last_inbound or 0, at)
        return message

    def send(
        self,
        account: Account,
        person: Person,
        at: int,
        *,
        app_id: str,
        text: str | None = None,
        attachments: tuple[dict[str, Any], ...] = (),
        metadata: str | None = None,
        comment: Comment | None = None,
    ) -> Message:
        """The account writes to a person: by API, or by hand in an inbox (``app_id`` says which).

        ``comment`` marks a private reply, of which a comment gets one.
        """
        message = Message(
            mid=new_mid(self.app_ids, account),
            account_id=account.id,
            person_id=person.id,
            inbound=False,
            created_at=at,
            text=text,
            attachments=attachments,
            app_id=app_id,
            metadata=metadata,
            comment_id=comment.id if comment else None,
        )
        self.conversation(account, person).messages.append(message)
        if comment:
            comment.private_reply_mid = message.mid
        return message

    def create_post(self, account: Account, at: int, text: str = "") -> Post:
        if account.platform is Platform.MESSENGER:
            post_id = f"{account.id}_{self.ids.post()}"
        else:
            post_id = self.ids.media()
        post = Post(id=post_id, account_id=account.id, created_at=at, text=text)
        self.posts[post.id] = post
        return post

    def post(self, post_id: str) -> Post:
        try:
            return self.posts[post_id]
        except KeyError:
            raise Unknown(f"post {post_id}") from None

    def create_comment(
        self,
        account: Account,
        person: Person | None,
        post: Post,
        at: int,
        text: str,
        *,
        parent: Comment | None = None,
    ) -> Comment:
        """A comment by a person, or by the account itself where ``person`` is None."""
        ids = self.ids if person else self.app_ids
        if account.platform is Platform.MESSENGER:
            comment_id = f"{post.id.partition('_')[2]}_{ids.comment()}"
        else:
            comment_id = ids.instagram_comment()
        comment = Comment(
            id=comment_id,
            account_id=account.id,
            post_id=post.id,
            parent_id=parent.id if parent else None,
            person_id=person.id if person else None,
            from_id=person.commenter_id if person else account.id,
            from_name=self._author(account, person),
            text=text,
            created_at=at,
        )
        self.comments[comment.id] = comment
        if parent:
            self._replies.setdefault(parent.id, []).append(comment)
        return comment

    def comment(self, comment_id: str) -> Comment:
        found = self.find_comment(comment_id)
        if found is None:
            raise Unknown(f"comment {comment_id}")
        return found

    def find_comment(self, comment_id: str) -> Comment | None:
        """The comment, unless it was deleted."""
        found = self.comments.get(comment_id)
        return None if found is None or found.deleted else found

    def replies(self, comment: Comment) -> list[Comment]:
        """The replies to a comment that still stand, oldest first."""
        return [reply for reply in self._replies.get(comment.id, ()) if not reply.deleted]

    def create_label(self, account: Account, name: str) -> Label:
        label = Label(id=self.app_ids.label(), account_id=account.id, name=name)
        self.labels[label.id] = label
        return label

    @staticmethod
    def _author(account: Account, person: Person | None) -> str:
        author = person or account
        return author.name if account.platform is Platform.MESSENGER else author.username


def new_mid(ids: Ids, account: Account) -> str:
    on_messenger = account.platform is Platform.MESSENGER
    return ids.messenger_mid() if on_messenger else ids.instagram_mid()
