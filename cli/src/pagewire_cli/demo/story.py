"""The story that the demo tells: three pages, their rules, who says what, what must come of it.

Plain values. Every event that a rule could answer is an `Act` and says what is to be answered, or
the reason why nothing is; what the system really did is held against that, word by word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Shop:
    """A page to connect. `handle` is how the table calls it."""

    handle: str
    name: str
    platform: str
    login: str
    linked: bool = False
    """Whether its Graph node is the bakery's Page."""


BAKERY = Shop("Bakery", "Corner Bakery", "messenger", "facebook")
CORNER = Shop("@corner", "Corner Bakery on Instagram", "instagram", "facebook", linked=True)
STUDIO = Shop("@studio", "Bakery Studio", "instagram", "instagram")
SHOPS = (BAKERY, CORNER, STUDIO)

# What the pages went through before they came to us, as the simulator is told of it.
PASTS: Mapping[str, Mapping[str, int]] = {
    BAKERY.handle: {
        "conversations": 120,
        "messages": 20,
        "long_threads": 2,
        "long_messages": 150,
        "posts": 3,
        "ads": 1,
        "comments": 12,
        "replies": 1,
        "labels": 3,
    },
    CORNER.handle: {"conversations": 70, "messages": 18, "posts": 2, "comments": 10},
    STUDIO.handle: {"conversations": 60, "messages": 18, "posts": 2, "comments": 10},
}

PRICE = "A loaf is 4 euro."
HOURS = "Open from 8 to 18."
SOON = "One of us answers soon."
STORY = "Thank you for watching!"
ORDER = "We look at your order."
WELCOME = "Welcome! Ask us."
IN_PUBLIC_TO = "{first_name|Hi}, see your inbox"
IN_PUBLIC_TO_ALL = "See your messages!"
LABEL = "order"


def rules(page_ids: Mapping[str, str]) -> list[Json]:
    """The rules as the HTTP API takes them; `page_ids` by the handles of the pages."""
    asks_price = {"text": {"mode": "word", "any": ["price", "cost", "how much"]}}
    return [
        {
            "name": "insult",
            "priority": 30,
            "events": ["comment"],
            "when": {"text": {"any": ["scam", "thieves"]}},
            "then": [{"hide_comment": {"hidden": True}}],
        },
        {
            "name": "price",
            "priority": 20,
            "events": ["message"],
            "when": asks_price,
            "then": [{"reply": {"text": PRICE}}],
        },
        {
            "name": "price public",
            "priority": 20,
            "page_ids": [page_ids[BAKERY.handle]],
            "events": ["comment"],
            "when": asks_price,
            "then": [
                {"private_reply": {"text": PRICE}},
                {"comment_reply": {"text": IN_PUBLIC_TO}},
            ],
        },
        {
            "name": "price insta",
            "priority": 20,
            "page_ids": [page_ids[CORNER.handle], page_ids[STUDIO.handle]],
            "events": ["comment"],
            "when": asks_price,
            "then": [
                {"private_reply": {"text": PRICE}},
                {"comment_reply": {"text": IN_PUBLIC_TO_ALL}},
            ],
        },
        {
            "name": "hours",
            "priority": 20,
            "events": ["message"],
            "when": {"text": {"any": ["open", "opening hours", "when do you close"]}},
            "then": [{"reply": {"text": HOURS}}],
        },
        {
            "name": "order",
            "priority": 15,
            "page_ids": [page_ids[BAKERY.handle]],
            "events": ["message"],
            "when": {"text": {"any": ["order"]}},
            "then": [{"reply": {"text": ORDER}}, {"add_label": {"name": LABEL}}],
        },
        {
            "name": "story",
            "priority": 10,
            "events": ["story_reply"],
            "when": {"text": {}},
            "then": [{"reply": {"text": STORY}}],
        },
        {
            "name": "get started",
            "priority": 10,
            "events": ["postback"],
            "when": {"text": {"mode": "exact", "any": ["GET_STARTED"]}},
            "then": [
                {
                    "reply": {
                        "text": WELCOME,
                        "quick_replies": [
                            {"title": "Prices", "payload": "PRICES"},
                            {"title": "Opening hours", "payload": "HOURS"},
                        ],
                    }
                }
            ],
        },
        {
            "name": "fallback",
            "priority": -10,
            "events": ["message"],
            "when": {"text": {}},
            "then": [{"reply": {"text": SOON}}],
            "limits": {"once_per_person": True},
        },
    ]


@dataclass(frozen=True)
class Act:
    """A person does something to which a rule could answer.

    `kind` is the trigger; `answers` what Graph must be asked for, (endpoint, text), in order;
    `rule` which one must fire, None where none may; `reason` the decision's.
    """

    person: str
    shop: Shop
    kind: str
    text: str
    rule: str | None
    answers: Sequence[tuple[str, str | None]] = ()
    reason: str = "fired"
    options: Json = field(default_factory=dict)
    """Further fields of the simulator's act, such as `repeat`."""

    @property
    def outcome(self) -> str:
        return "answered" if self.rule else "declined"


def asks(
    person: str,
    shop: Shop,
    text: str,
    rule: str,
    answer: str,
    kind: str = "message",
    **options: Any,
) -> Act:
    """A direct message and its answer."""
    return Act(person, shop, kind, text, rule, [("send", answer)], options=options)


def comments(person: str, shop: Shop, text: str, rule: str, public: str, **options: Any) -> Act:
    """A comment that is answered to its author alone and below it."""
    answers = [("private_reply", PRICE), ("comment_reply", public)]
    return Act(person, shop, "comment", text, rule, answers, options=options)


def declined(person: str, shop: Shop, kind: str, text: str, reason: str) -> Act:
    """What nobody may answer, and why."""
    return Act(person, shop, kind, text, None, reason=reason)


QUESTIONS = (
    asks("Ana", BAKERY, "What does a loaf cost?", "price", PRICE, repeat="concurrent"),
    asks("Ben", CORNER, "how much is a cake", "price", PRICE),
    asks("Cem", STUDIO, "PRÍCE of rye bread??", "price", PRICE),
    asks("Dora", BAKERY, "Are you open on Sunday?", "hours", HOURS),
    asks("Emil", CORNER, "When do you close?", "hours", HOURS, repeat="sequential"),
    asks("Fay", STUDIO, "opening hours pls", "hours", HOURS, repeat="concurrent"),
    asks("Gus", BAKERY, "Do you deliver?", "fallback", SOON),
    asks("Hana", STUDIO, "🍰?", "fallback", SOON),
    asks("Ines", BAKERY, "I must change my order", "order", ORDER),
)
IN_PUBLIC = (
    comments("Jan", BAKERY, "Price please!", "price public", "Jan, see your inbox"),
    comments(
        "Kim",
        CORNER,
        "how much for two?",
        "price insta",
        IN_PUBLIC_TO_ALL,
        repeat="concurrent",
    ),
    comments("Lou", STUDIO, "What's the price", "price insta", IN_PUBLIC_TO_ALL),
    Act("Max", BAKERY, "comment", "Thieves, all of them", "insult", [("comment_update", None)]),
    declined("Nora", BAKERY, "comment", "What a lovely picture", "no_rule_matched"),
    asks("Otto", STUDIO, "Looks delicious!", "story", STORY, kind="story_reply"),
    asks("Pia", CORNER, "where is this? ❤️", "story", STORY, kind="story_reply"),
    asks("Quim", BAKERY, "GET_STARTED", "get started", WELCOME, kind="postback", repeat="later"),
)
COLLEAGUE = "Yes, from 9 to 12 on Sundays."
LIMITS = (
    declined("Gus", BAKERY, "message", "hello?", "once_per_person"),
    declined("Dora", BAKERY, "message", "And what do rolls cost?", "person_active"),
)
_CROWD = (
    "Rosa", "Sam", "Tess", "Uli", "Vera", "Wim", "Xenia", "Yara", "Zoe", "Ali", "Bea", "Cleo",
    "Dan", "Eva", "Finn",
)  # fmt: skip
_SAYINGS = (
    ("How much is a tart?", "price", PRICE),
    ("Open tomorrow?", "hours", HOURS),
    ("price of 20 rolls", "price", PRICE),
    ("Anything gluten-free?", "fallback", SOON),
)
CROWD = tuple(
    asks(person, SHOPS[at % len(SHOPS)], *_SAYINGS[at % len(_SAYINGS)])
    for at, person in enumerate(_CROWD)
)
WHILE_DOWN = (
    asks("Gil", BAKERY, "What do buns cost?", "price", PRICE),
    asks("Hugo", CORNER, "Are you open at all?", "hours", HOURS),
    asks("Ida", STUDIO, "price list?", "price", PRICE),
)

UNKNOWN_PAGE = "900000000000001"
OTHER_APP = 700000000000007
STORM = 40


def message_of_unknown_page(at: int) -> Json:
    """A body for a page that nobody connected; `at` is in Unix milliseconds."""
    item = {
        "sender": {"id": "900000000000002"},
        "recipient": {"id": UNKNOWN_PAGE},
        "timestamp": at,
        "message": {"mid": "m_demo_unknown", "text": "Anybody there?"},
    }
    return {"object": "page", "entry": [{"id": UNKNOWN_PAGE, "time": at, "messaging": [item]}]}


def storm_mids() -> list[str]:
    return [f"m_demo_echo_{number}" for number in range(STORM)]


def echo_storm(page_id: str, person_id: str, at: int) -> Json:
    """Forty echoes in one body: another app of the page told a person forty things at once."""
    items = [
        {
            "sender": {"id": page_id},
            "recipient": {"id": person_id},
            "timestamp": at + number,
            "message": {
                "mid": mid,
                "text": f"What is the price? Part {number}",
                "is_echo": True,
                "app_id": OTHER_APP,
            },
        }
        for number, mid in enumerate(storm_mids())
    ]
    return {"object": "page", "entry": [{"id": page_id, "time": at, "messaging": items}]}


UNREADABLE = b'{"object": "page", "entry": [{"id": "1", "time": 17'
