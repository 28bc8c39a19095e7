from datetime import UTC, datetime, timedelta

from pagewire.store.v1 import page_care_service_pb2 as care
from pagewire.type.v1.page_pb2 import PAGE_STATE_BLOCKED, Login
from pagewire_runtime.errors import Unavailable
from pagewire_sync.blocking import Blocking
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Credentials
from tests.support.outbox import PAGE, FakePages

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


async def test_a_page_is_marked_for_the_token_that_was_refused() -> None:
    pages = FakePages()

    await Blocking(pages, now=lambda: NOW).mark_blocked(PAGE, 3, "password_changed")

    (marked,) = pages.found
    assert (marked.page_id, marked.token_version) == (PAGE, 3)
    assert (marked.state, marked.state_reason) == (PAGE_STATE_BLOCKED, "password_changed")
    assert marked.next_check_time.ToDatetime(UTC) == NOW + timedelta(hours=1)


async def test_a_dead_token_says_how_it_died() -> None:
    pages = FakePages()
    credentials = Credentials(PAGE, PAGE, Login.LOGIN_FACEBOOK, "token", 2)

    await Blocking(pages).token_died(credentials, GraphError(Failure.TOKEN, 400, 190, 460))

    assert pages.found[0].state_reason == "password_changed"
    assert pages.found[0].token_version == 2


class Away(FakePages):
    """A store that was asked and is away."""

    async def RecordPageCheck(
        self, request: care.RecordPageCheckRequest
    ) -> care.RecordPageCheckResponse:
        await super().RecordPageCheck(request)
        raise Unavailable("the store")


async def test_a_store_that_is_away_is_no_trouble_of_the_caller_s_and_not_asked_again() -> None:
    pages = Away()

    await Blocking(pages).mark_blocked(PAGE, 1, "token_expired")

    assert len(pages.found) == 1
