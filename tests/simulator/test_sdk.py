"""Meta's own Python SDK against the simulator, so that it is not shaped after our client alone."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from facebook_business.adobjects.page import Page
from facebook_business.adobjects.pagepost import PagePost
from facebook_business.adobjects.unifiedthread import UnifiedThread
from facebook_business.adobjects.user import User
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession

from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.faults import Script
from tests.support.simulator import APP, APP_SECRET

LIMIT_REACHED, TOO_MUCH, EXPIRED, GONE = 613, 1, 190, 9000001


@pytest.fixture(autouse=True)
async def unlimited(simulator: SimulatorClient) -> None:
    await simulator.options(rates={"conversation_reads": 0})


class Sdk:
    """The SDK as an application uses it, on a thread of its own since it blocks."""

    def __init__(self, simulator: SimulatorClient, token: str) -> None:
        session = FacebookSession(APP.id, APP_SECRET, token, timeout=60)
        session.GRAPH = simulator.facebook
        session.requests.trust_env = False
        self._session = session
        self.api = FacebookAdsApi(session, api_version="v25.0")

    async def run(self, call: Callable[[FacebookAdsApi], Any]) -> Any:
        return await asyncio.to_thread(call, self.api)

    async def error(self, call: Callable[[FacebookAdsApi], Any]) -> FacebookRequestError:
        with pytest.raises(FacebookRequestError) as raised:
            await self.run(call)
        return raised.value

    def close(self) -> None:
        self._session.requests.close()


@pytest.fixture
def sdk(simulator: SimulatorClient, page: AccountView) -> Any:
    sdk = Sdk(simulator, page.token)
    yield sdk
    sdk.close()


async def test_it_pages_all_conversations_and_all_their_messages(
    simulator: SimulatorClient, page: AccountView, sdk: Sdk
) -> None:
    await simulator.create_history(
        page.id, conversations=23, messages=4, long_threads=1, long_messages=31
    )

    def read(api: FacebookAdsApi) -> dict[str, list[str]]:
        threads = Page(page.id, api=api).get_conversations(
            fields=["id", "updated_time"], params={"platform": "MESSENGER", "limit": 5}
        )
        return {
            thread["id"]: [message["id"] for message in thread.get_messages(params={"limit": 9})]
            for thread in threads
        }

    found = await sdk.run(read)

    truth = await simulator.truth(page.id)
    assert found == {
        thread.thread_id: [m.mid for m in thread.messages if m.shown == "whole"][::-1]
        for thread in truth.conversations
    }
    assert truth.calls.by_endpoint["conversations"] == 5
    assert truth.calls.tokens_in_urls == truth.calls.calls  # as the SDK does it


@pytest.mark.filterwarnings("ignore:.*does not allow field")  # the SDK's list knows no nested ones
async def test_it_reads_expanded_fields_into_its_own_objects(
    simulator: SimulatorClient, page: AccountView, sdk: Sdk
) -> None:
    done = await simulator.say(page.id, "ahoj ✓")

    def read(api: FacebookAdsApi) -> UnifiedThread:
        fields = ["participants", "unread_count", "messages.limit(1){message,from}"]
        return Page(page.id, api=api).get_conversations(
            fields=fields, params={"user_id": done.person}
        )[0]

    thread = await sdk.run(read)

    (message,) = thread["messages"]["data"]
    assert (message["id"], message["message"]) == (done.mid, "ahoj ✓")
    assert message["from"]["id"] == done.person
    assert thread["unread_count"] == 1
    assert [one["id"] for one in thread["participants"]["data"]] == [done.person, page.id]


async def test_its_batch_reads_several_pages_each_with_its_own_token(
    simulator: SimulatorClient, page: AccountView, sdk: Sdk
) -> None:
    other = await simulator.create_account(name="Other")
    first, second = await simulator.say(page.id, "one"), await simulator.say(other.id, "two")
    own = Sdk(simulator, other.token)
    proof = own.api._session.appsecret_proof
    answers: list[Any] = []
    failures: list[FacebookRequestError] = []

    def read(api: FacebookAdsApi) -> Any:
        batch = api.new_batch()
        token = {"access_token": other.token, "appsecret_proof": proof}
        for node, params in ((page.id, {}), (other.id, token), ("1", {})):
            batch.add(
                "GET",
                (node, "conversations"),
                params={"fields": "messages{message}"} | params,
                success=lambda response: answers.append(response.json()),
                failure=lambda response: failures.append(response.error()),
            )
        return batch.execute()

    left = await sdk.run(read)

    found = [answer["data"][0]["messages"]["data"][0]["id"] for answer in answers]
    (failure,) = failures
    assert left is None
    assert found == [first.mid, second.mid]
    assert (failure.api_error_code(), failure.api_error_subcode()) == (100, 33)
    own.close()


async def test_its_batch_takes_null_for_something_to_do_again(
    simulator: SimulatorClient, page: AccountView, sdk: Sdk
) -> None:
    await simulator.faults(Script(fault="null", endpoint="account", count=1))
    answers: list[str] = []

    def read(api: FacebookAdsApi) -> int:
        batch, rounds = api.new_batch(), 0
        for _ in range(3):
            request = Page(page.id, api=api).api_get(fields=["name"], batch=batch)
            assert request is not None
        batch._success_callbacks = [lambda response: answers.append(response.json()["name"])] * 3
        while batch is not None:
            batch, rounds = batch.execute(), rounds + 1
        return rounds

    assert await sdk.run(read) == 2
    assert answers == ["Example"] * 3


@pytest.mark.parametrize(
    ("fault", "code", "subcode", "status", "transient"),
    [
        ("calls_throttled", LIMIT_REACHED, None, 400, False),
        ("too_much", TOO_MUCH, None, 500, False),
        ("app_throttled", 4, None, 403, True),
        ("token_expired", EXPIRED, 463, 400, False),
        ("unavailable", 2, None, 400, True),
    ],
)
async def test_it_raises_its_own_typed_errors(
    simulator: SimulatorClient,
    page: AccountView,
    sdk: Sdk,
    fault: str,
    code: int,
    subcode: int | None,
    status: int,
    transient: bool,
) -> None:
    await simulator.faults(Script(fault=fault, account=page.id))

    error = await sdk.error(lambda api: Page(page.id, api=api).get_conversations())

    assert (error.api_error_code(), error.api_error_subcode()) == (code, subcode)
    assert error.http_status() == status
    assert bool(error.api_transient_error()) is transient
    assert error.body()["error"]["fbtrace_id"]


async def test_it_learns_that_a_message_is_gone(
    simulator: SimulatorClient, page: AccountView, sdk: Sdk
) -> None:
    done = await simulator.say(page.id, "never mind")
    await simulator.unsend(page.id, str(done.mid))

    error = await sdk.error(lambda api: UnifiedThread(done.mid, api=api).api_get())

    assert error.api_error_code() == GONE


async def test_it_reads_a_users_pages_and_their_tokens(
    simulator: SimulatorClient, page: AccountView
) -> None:
    other = await simulator.create_account()
    user = Sdk(simulator, (await simulator.create_user(page.id, other.id)).value)

    def read(api: FacebookAdsApi) -> list[tuple[str, str]]:
        pages = User("me", api=api).get_accounts(fields=["id", "access_token"], params={"limit": 1})
        return [(one["id"], one["access_token"]) for one in pages]

    assert await user.run(read) == [(page.id, page.token), (other.id, other.token)]
    user.close()


async def test_it_reads_comments_with_their_summary(
    simulator: SimulatorClient, page: AccountView, sdk: Sdk
) -> None:
    await simulator.create_history(page.id, posts=1, comments=7, replies=2)
    truth = await simulator.truth(page.id)

    def read(api: FacebookAdsApi) -> tuple[list[str], int]:
        comments = PagePost(truth.posts[0].id, api=api).get_comments(
            fields=["id"], params={"filter": "stream", "limit": 4}
        )
        found = [comment["id"] for comment in comments]
        return found, comments.total()

    found, total = await sdk.run(read)

    in_order = sorted(truth.comments, key=lambda comment: comment.created_at)
    assert total == len(found) == 7 * 3
    assert found == [comment.id for comment in in_order]
