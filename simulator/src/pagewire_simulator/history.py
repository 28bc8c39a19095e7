"""Worlds with a past: thousands of conversations, messages and comments at once, from a seed.

What is made depends on the seed, the account and the figures alone, never on what else happened.
"""

from random import Random
from typing import Any

import msgspec

from pagewire_simulator.entities import Account, Comment, Conversation, Message, Person, Platform
from pagewire_simulator.ids import Ids
from pagewire_simulator.world import World, new_mid

DAY = 86_400_000
PHRASES = (
    "order parcel size colour price delivery invoice refund opening hours stock yes no thanks when "
    "where could you please tell me about the blue large small one today tomorrow again still"
)
WORDS = PHRASES.split()
UNICODE = (
    "Dobrý den, kdy přijde zásilka? Děkuji 🙏",
    "¿Cuánto cuesta el envío? ñ, ¡gracias!",
    "مرحبا، متى تصل الطلبية؟",
    "שלום, מה המחיר?",
    "こんにちは、在庫はありますか\uff1f",
    "안녕하세요, 가격이 얼마예요?",
    "\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 e\u0301 \u200b\u202eabc\u202c",
    "नमस्ते, यह कब मिलेगा?",
    'line one\nline two\ttab "quoted" \\ back/slash',
    "\U0001d4aa\U0001d4c7\U0001d4b9 \U00010348 \uffff",
)
KINDS = ("image", "image", "image", "video", "audio", "file", "share")


class History(msgspec.Struct, kw_only=True):
    """What an account's past shall hold.

    ``conversations`` of ``messages`` each, the first ``long_threads`` of ``long_messages``. The
    newest message of all is ``newest_ago`` seconds old, the newest of the oldest conversation
    ``days`` more. ``outbound``, ``unicode``, ``attachments``, ``unsupported``, ``deleted`` and
    ``stories`` (Instagram) are shares of the messages, ``attachments`` of Facebook's comments too.
    ``posts`` and ``ads`` (posts shown as advertisements only) have ``comments`` each, and each of
    these ``replies``. ``labels`` are made without people.
    """

    account: str
    conversations: int = 0
    messages: int = 20
    long_threads: int = 0
    long_messages: int = 200
    newest_ago: float = 3600
    days: float = 365
    outbound: float = 0.4
    unicode: float = 0.2
    attachments: float = 0.05
    unsupported: float = 0.01
    deleted: float = 0.01
    stories: float = 0.02
    posts: int = 0
    ads: int = 0
    comments: int = 0
    replies: int = 0
    labels: int = 0


class Made(msgspec.Struct, kw_only=True):
    """How much there now is of it: ``messages`` counts the deleted ones too."""

    conversations: int
    messages: int
    posts: int
    comments: int
    labels: int


class Past:
    """Makes one account's past; of several each adds to what the ones before made."""

    def __init__(self, world: World, account: Account, asked: History, now: int) -> None:
        stream = f"history/{account.id}/{world.revisions[account.id]}"
        self._world = world
        self._account = account
        self._asked = asked
        self._newest = now - int(asked.newest_ago * 1000)
        self._ids = Ids(world.seed, stream)
        self._random = Random(f"{world.seed}/{stream}/what")
        self._messages = self._comments = 0

    def make(self) -> Made:
        asked, world = self._asked, self._world
        step = asked.days * DAY / max(1, asked.conversations)
        people = []
        for number in range(asked.conversations):
            size = asked.long_messages if number < asked.long_threads else asked.messages
            people.append(self._conversation(size, self._newest - int(number * step)))
        for number in range(asked.posts + asked.ads):
            self._post(number, people)
        for number in range(asked.labels):
            world.create_label(self._account, f"label {number + 1}")
        world.revisions[self._account.id] += 1
        return Made(
            conversations=asked.conversations,
            messages=self._messages,
            posts=asked.posts + asked.ads,
            comments=self._comments,
            labels=asked.labels,
        )

    def _conversation(self, size: int, newest: int) -> Person:
        person = self._world.create_person(self._account, ids=self._ids)
        thread = self._world.conversation(self._account, person)
        gaps = [int(self._random.expovariate(1 / 120_000)) + 1000 for _ in range(size)]
        at = newest - sum(gaps[1:])
        for gap in [0, *gaps[1:]]:
            at += gap
            self._message(thread, person, at)
        return person

    def _message(self, thread: Conversation, person: Person, at: int) -> None:
        asked, random = self._asked, self._random
        inbound = random.random() >= asked.outbound
        message = Message(
            mid=new_mid(self._ids, self._account),
            account_id=self._account.id,
            person_id=person.id,
            inbound=inbound,
            created_at=at,
            text=self._text(),
            app_id=None if inbound else self._world.app_id,
        )
        if random.random() < asked.attachments:
            self._attach(message)
        if self._account.platform is Platform.INSTAGRAM and random.random() < asked.stories:
            message.story = (random.choice(("reply_to", "mention")), self._ids.media())
        if random.random() < asked.unsupported:
            message.unsupported, message.text, message.attachments = True, None, ()
        message.deleted = random.random() < asked.deleted
        thread.messages.append(message)
        self._world.messages[message.mid] = message
        self._messages += 1
        if inbound:
            thread.last_inbound = at

    def _text(self) -> str:
        random = self._random
        if random.random() < self._asked.unicode:
            return random.choice(UNICODE)
        return " ".join(random.choices(WORDS, k=random.randrange(1, 12)))

    def _attach(self, message: Message) -> None:
        random = self._random
        message.attachments = tuple(self._attachment() for _ in range(random.choice((1, 1, 2))))
        if random.random() < 0.5:
            message.text = None

    def _attachment(self) -> dict[str, Any]:
        url = f"https://scontent.example.test/v/{self._ids.media()}"
        return {"type": self._random.choice(KINDS), "payload": {"url": url}}

    def _post(self, number: int, people: list[Person]) -> None:
        asked, world, account = self._asked, self._world, self._account
        span = int(asked.days * DAY / max(1, asked.posts + asked.ads))
        at = self._newest - number * span - span // 2
        is_ad = number >= asked.posts
        post = world.create_post(account, at, self._text(), ad=is_ad, ids=self._ids)
        people = people or [world.create_person(account, ids=self._ids)]
        for _ in range(asked.comments):
            later = at + 1000 + int(self._random.expovariate(asked.comments * 2 / span))
            at = min(later, self._newest)
            top = self._comment(post.id, people, at, None)
            for reply in range(asked.replies):
                self._comment(post.id, people, at + 1000 * (reply + 1), top)

    def _comment(
        self, post_id: str, people: list[Person], at: int, parent: Comment | None
    ) -> Comment:
        random, world = self._random, self._world
        person = None if random.random() < self._asked.outbound / 2 else random.choice(people)
        self._comments += 1
        comment = world.create_comment(
            self._account,
            person,
            world.post(post_id),
            at,
            self._text(),
            parent=parent,
            ids=self._ids,
        )
        if (
            self._account.platform is Platform.MESSENGER
            and random.random() < self._asked.attachments
        ):
            url = f"https://www.example.test/photos/{self._ids.media()}"
            comment.attachment = (random.choice(("photo", "sticker", "share")), url)
        return comment
