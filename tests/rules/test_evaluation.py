from dataclasses import replace

from pagewire_rules.evaluation import CompiledRule, Match, Miss, evaluate, examine, subject
from pagewire_rules.matching import Found, Mode, text_condition

PRICE = CompiledRule(
    position=0,
    enabled=True,
    triggers=frozenset({"message", "comment"}),
    text=text_condition(Mode.WORD, ["price"], []),
    for_comments_only=False,
)


def test_a_rule_that_names_the_trigger_and_finds_its_phrase_matches() -> None:
    assert examine(subject("message", "the price?"), PRICE) == Match(PRICE, Found(4, 9))


def test_a_disabled_rule_says_so_before_anything_else() -> None:
    rule = replace(PRICE, enabled=False)

    assert examine(subject("optin"), rule) == Miss(rule, "disabled")


def test_a_story_reply_does_not_match_a_rule_for_messages() -> None:
    assert examine(subject("story_reply", "price"), PRICE) == Miss(PRICE, "event_kind")


def test_a_rule_that_only_acts_on_comments_leaves_a_message_alone() -> None:
    rule = replace(PRICE, for_comments_only=True)

    assert examine(subject("message", "price"), rule) == Miss(rule, "not_a_comment")
    assert isinstance(examine(subject("comment", "price"), rule), Match)


def test_a_rule_without_a_text_condition_matches_an_event_without_text() -> None:
    rule = replace(PRICE, text=None, triggers=frozenset({"story_mention"}))

    assert examine(subject("story_mention"), rule) == Match(rule, None)


def test_matches_and_misses_keep_the_order_of_the_book() -> None:
    book = [replace(PRICE, position=nth, enabled=nth % 2 == 0) for nth in range(6)]

    matches, misses = evaluate(subject("message", "price"), book)

    assert [match.rule.position for match in matches] == [0, 2, 4]
    assert [miss.rule.position for miss in misses] == [1, 3, 5]
