"""The world as Meta would keep it: what exists, who wrote what, and what each send created.

Pure: no I/O and no clock. Times come in as Unix milliseconds, ids from the seeded ``Ids``.
"""

from bisect import insort_right
from collections import defaultdict
from collections.abc import Iterator
from operator import attrgetter
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
    TokenKind,
    User,
)
from pagewire_simulator.ids import Ids

CREATED_AT = attrgetter("created_at")


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
        self.users: dict[str, User] = {}
        self.tokens: dict[str, Token] = {}
        self.adopted: dict[str, str] = {}  # the token that each adopted account was named with
        self.conversations: dict[tuple[str, str], Conversation] = {}
        self.threads: dict[str, Conversation] = {}
        self.messages: dict[str, Message] = {}
        self.revisions: defaultdict[str, int] = defaultdict(int)
        """How often each account's conversations or comments have changed."""
        self.posts: dict[str, Post] = {}
        self.comments: dict[str, Comment] = {}
        self.labels: dict[str, Label] = {}
        self._people: dict[tuple[str, str], Person] = {}
        self._comments: defaultdict[str, list[Comment]] = defaultdict(list)  # of a post, at the top
        self._replies: defaultdict[str, list[Comment]] = defaultdict(list)
        self._newest_first: dict[str, tuple[int, list[Conversation]]] = {}
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
        """The newest one."""
        return next((t for t in reversed(self.tokens.values()) if t.node == account.node), None)

    def renew(self, token: Token, now: int, lifetime: int) -> Token:
        """A further token for the same node; the old one stays good as long as it was."""
        made = Token(
            value=self.app_ids.token(),
            node=token.node,
            host=token.host,
            kind=token.kind,
            issued_at=now,
            expires_at=now + lifetime,
        )
        self.tokens[made.value] = made
        return made

    def create_user(self, pages: tuple[str, ...], expires_at: int) -> Token:
        """Someone with tasks on the Pages, and a token that is not yet long-lived."""
        number = len(self.users) + 1
        user = User(id=self.ids.app_scoped(), name=f"User {number}", pages=pages)
        self.users[user.id] = user
        token = Token(
            value=self.ids.token(),
            node=user.id,
            host=Host.FACEBOOK,
            kind=TokenKind.USER,
            expires_at=expires_at,
        )
        self.tokens[token.value] = token
        return token

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
        ids: Ids | None = None,
    ) -> Person:
        ids = ids or self.ids
        on_messenger = account.platform is Platform.MESSENGER
        own_id = id or (ids.psid() if on_messenger else ids.igsid())
        number = len(self._people) + 1
        person = Person(
            id=own_id,
            account_id=account.id,
            commenter_id=ids.app_scoped() if on_messenger else own_id,
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
            self.conversations[key] = self.threads[thread] = found
        return found

    def newest_first(self, account: Account) -> list[Conversation]:
        """The account's conversations in which anything was written, newest first."""
        revision = self.revisions[account.id]
        known = self._newest_first.get(account.id)
        if known is None or known[0] != revision:
            own = [
                thread
                for (account_id, _), thread in self.conversations.items()
                if account_id == account.id and thread.messages
            ]
            own.sort(key=lambda thread: (-thread.updated_at, thread.thread_id))
            known = self._newest_first[account.id] = revision, own
        return known[1]

    def add(self, conversation: Conversation, message: Message) -> Message:
        """Puts a message into its conversation, by its time."""
        insort_right(conversation.messages, message, key=CREATED_AT)
        self.messages[message.mid] = message
        if message.inbound:
            conversation.last_inbound = max(conversation.last_inbound or 0, message.created_at)
        self.revisions[conversation.account_id] += 1
        return message

    def message(self, mid: str) -> Message:
        try:
            return self.messages[mid]
        except KeyError:
            raise Unknown(f"message {mid}") from None

    def thread(self, thread_id: str) -> Conversation:
        try:
            return self.threads[thread_id]
        except KeyError:
            raise Unknown(f"thread {thread_id}") from None

    def delete_message(self, message: Message) -> None:
        message.deleted = True
        self.revisions[message.account_id] += 1

    def delete_thread(self, thread: Conversation) -> None:
        """The business deletes the conversation in its inbox."""
        for message in thread.messages:
            del self.messages[message.mid]
        thread.messages.clear()
        self.revisions[thread.account_id] += 1

    def receive(
        self,
        account: Account,
        person: Person,
        at: int,
        *,
        text: str | None = None,
        attachments: tuple[dict[str, Any], ...] = (),
        story: tuple[str, str] | None = None,
        reply_to: str | None = None,
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
            story=story,
            reply_to=reply_to,
        )
        return self.add(self.conversation(account, person), message)

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
        if comment:
            comment.private_reply_mid = message.mid
        return self.add(self.conversation(account, person), message)

    def create_post(
        self,
        account: Account,
        at: int,
        text: str = "",
        *,
        ad: bool = False,
        ids: Ids | None = None,
    ) -> Post:
        ids = ids or self.ids
        if account.platform is Platform.MESSENGER:
            post_id = f"{account.id}_{ids.post()}"
        else:
            post_id = ids.media()
        post = Post(id=post_id, account_id=account.id, created_at=at, text=text, ad=ad)
        self.posts[post.id] = post
        self.revisions[account.id] += 1
        return post

    def posts_of(self, account: Account) -> list[Post]:
        """The account's posts, ads too, newest first."""
        own = [post for post in self.posts.values() if post.account_id == account.id]
        return sorted(own, key=CREATED_AT, reverse=True)

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
        ids: Ids | None = None,
    ) -> Comment:
        """A comment by a person, or by the account itself where ``person`` is None."""
        ids = ids or (self.ids if person else self.app_ids)
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
            insort_right(self._replies[parent.id], comment, key=CREATED_AT)
        else:
            insort_right(self._comments[post.id], comment, key=CREATED_AT)
        self.revisions[account.id] += 1
        return comment

    def top_comments(self, post: Post) -> list[Comment]:
        """The comments on a post that answer no other and still stand, oldest first."""
        return [comment for comment in self._comments[post.id] if not comment.deleted]

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
        return [reply for reply in self._replies[comment.id] if not reply.deleted]

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
