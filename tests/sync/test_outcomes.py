import pytest

from pagewire.store.v1.outbox_service_pb2 import Verdict
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_sync import outcomes
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Answer
from tests.support.outbox import reply

MESSAGE = ReplyKind.REPLY_KIND_MESSAGE
PRIVATE = ReplyKind.REPLY_KIND_PRIVATE_REPLY
COMMENT = ReplyKind.REPLY_KIND_COMMENT_REPLY
HIDE = ReplyKind.REPLY_KIND_HIDE_COMMENT
ADD = ReplyKind.REPLY_KIND_ADD_LABEL
REMOVE = ReplyKind.REPLY_KIND_REMOVE_LABEL
KINDS = (MESSAGE, PRIVATE, COMMENT, HIDE, ADD, REMOVE)

ACCEPTED = Verdict.VERDICT_ACCEPTED
REFUSED = Verdict.VERDICT_REFUSED
RETRY = Verdict.VERDICT_RETRY
UNCERTAIN = Verdict.VERDICT_UNCERTAIN
BLOCKED = Verdict.VERDICT_PAGE_BLOCKED


def error(failure: Failure, code: int = 100, retry_after: float | None = None) -> GraphError:
    return GraphError(failure, 400, code, 0, retry_after)


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (Failure.SHRINK, REFUSED),
        (Failure.APP_THROTTLED, RETRY),
        (Failure.THROTTLED, RETRY),
        (Failure.SUSPENDED, RETRY),
        (Failure.TOKEN, BLOCKED),
        (Failure.SECRET, BLOCKED),
        (Failure.WINDOW, REFUSED),
        (Failure.NOT_OWNER, REFUSED),
        (Failure.RECIPIENT, REFUSED),
        (Failure.PARAMETER, REFUSED),
        (Failure.PRIVATE_REPLY, REFUSED),
        (Failure.DUPLICATE, REFUSED),
        (Failure.GONE, REFUSED),
        (Failure.TERMS, REFUSED),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_error_means_is_the_same_for_every_kind(
    kind: ReplyKind.ValueType, failure: Failure, verdict: Verdict.ValueType
) -> None:
    assert outcomes.refused(reply(kind=kind), error(failure)).verdict == verdict


@pytest.mark.parametrize("failure", Failure)
@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_verdict_and_a_reason(
    kind: ReplyKind.ValueType, failure: Failure
) -> None:
    ending = outcomes.refused(reply(kind=kind), error(failure))

    assert ending.verdict
    assert ending.reason


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_knows_of_what_may_have_been_done_save_where_asking_twice_changes_nothing(
    kind: ReplyKind.ValueType,
) -> None:
    expected = UNCERTAIN if kind in (MESSAGE, PRIVATE, COMMENT) else RETRY

    assert outcomes.unknown(reply(kind=kind), "timeout").verdict == expected
    assert outcomes.refused(reply(kind=kind), error(Failure.TRANSIENT)).verdict == expected


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (MESSAGE, BLOCKED),
        (PRIVATE, BLOCKED),
        (COMMENT, REFUSED),
        (HIDE, REFUSED),
        (ADD, REFUSED),
        (REMOVE, REFUSED),
    ],
)
def test_only_a_page_that_may_send_no_message_is_blocked_for_a_permission(
    kind: ReplyKind.ValueType, verdict: Verdict.ValueType
) -> None:
    assert outcomes.refused(reply(kind=kind), error(Failure.PERMISSION, 10)).verdict == verdict


@pytest.mark.parametrize("failure", [Failure.PRIVATE_REPLY, Failure.DUPLICATE])
def test_already_replied_after_an_uncertain_attempt_means_sent(failure: Failure) -> None:
    ending = outcomes.refused(reply(kind=PRIVATE, after_uncertain=True), error(failure))

    assert (ending.verdict, ending.reason) == (ACCEPTED, "already_replied")


def test_a_medium_that_meta_could_not_fetch_is_tried_once_more() -> None:
    verdicts = [
        outcomes.refused(reply(attempt=attempt), error(Failure.FETCH)).verdict
        for attempt in (1, 2, 3)
    ]

    assert verdicts == [RETRY, REFUSED, REFUSED]


def test_a_window_that_meta_finds_closed_has_the_same_reason_as_one_that_we_find_so() -> None:
    assert outcomes.refused(reply(), error(Failure.WINDOW, 10)).reason == "window_closed"


def test_a_pause_that_is_known_goes_along() -> None:
    ending = outcomes.refused(reply(), error(Failure.THROTTLED, 613, retry_after=19.5))

    outcome = outcomes.to_outcome(reply(), ending)

    assert outcome.retry_after.ToMilliseconds() == 19_500
    assert (outcome.http_status, outcome.code, outcome.reason) == (400, 613, "graph_613")


def test_an_acceptance_names_the_message_and_the_person() -> None:
    answer = Answer({"recipient_id": "7", "message_id": "m_1"})

    ending = outcomes.accepted(reply(kind=PRIVATE), answer)

    assert (ending.verdict, ending.mid, ending.recipient_id) == (ACCEPTED, "m_1", "7")


def test_the_acceptance_of_a_comment_reply_names_the_comment() -> None:
    ending = outcomes.accepted(reply(kind=COMMENT), Answer({"id": "17873440459141021"}))

    assert (ending.verdict, ending.mid) == (ACCEPTED, "17873440459141021")


def test_ids_that_come_as_numbers_keep_every_digit() -> None:
    answer = Answer({"recipient_id": 2**53 + 1, "message_id": 10**29})

    ending = outcomes.accepted(reply(kind=MESSAGE), answer)

    assert (ending.mid, ending.recipient_id) == (str(10**29), str(2**53 + 1))


@pytest.mark.parametrize("kind", [HIDE, ADD, REMOVE])
def test_success_is_all_that_a_change_of_state_says(kind: ReplyKind.ValueType) -> None:
    ending = outcomes.accepted(reply(kind=kind), Answer({"success": True}))

    assert (ending.verdict, ending.mid) == (ACCEPTED, "")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"recipient_id": "7"},
        {"message_id": ""},
        {"message_id": True},
        {"message_id": -5},
        {"message_id": 5.5},
        {"message_id": {}},
        {"message_id": "m" * 600},
        {"message_id": 10**600},
    ],
)
def test_a_success_that_names_no_message_leaves_it_uncertain(body: dict[str, object]) -> None:
    ending = outcomes.accepted(reply(kind=MESSAGE), Answer(body))

    assert (ending.verdict, ending.reason) == (UNCERTAIN, "answer_incomplete")
