import asyncio

import pytest

from pagewire.type.v1.page_pb2 import Login, Platform
from pagewire_runtime.errors import Kind, Refusal
from pagewire_sync.credentials import CredentialCache
from tests.support.outbox import PAGE, FakePages


async def test_many_who_want_a_token_at_once_cost_one_question() -> None:
    pages = FakePages()
    pages.connect(PAGE, "token-1")
    cache = CredentialCache(pages)

    found = await asyncio.gather(*(cache.of(PAGE, 1) for _ in range(50)))

    assert {each.token for each in found} == {"token-1"}
    assert pages.asked == 1


async def test_a_page_that_was_connected_again_is_spoken_for_by_its_new_token() -> None:
    pages = FakePages()
    pages.connect(PAGE, "token-1")
    cache = CredentialCache(pages)
    await cache.of(PAGE, 1)
    pages.connect(PAGE, "token-2")

    still = await cache.of(PAGE, 1)
    newer = await cache.of(PAGE, 2)

    assert (still.token, newer.token, newer.version) == ("token-1", "token-2", 2)


async def test_an_instagram_account_of_facebook_login_has_the_node_of_its_page() -> None:
    pages = FakePages()
    pages.connect("178", "token-1", platform=Platform.PLATFORM_INSTAGRAM, facebook_page_id="104")

    credentials = await CredentialCache(pages).newest("178")

    assert (credentials.page_id, credentials.node_id) == ("178", "104")
    assert credentials.login == Login.LOGIN_FACEBOOK


async def test_a_page_that_is_not_connected_any_more_is_missing() -> None:
    with pytest.raises(Refusal) as refused:
        await CredentialCache(FakePages()).of(PAGE, 1)

    assert refused.value.kind is Kind.MISSING


async def test_credentials_show_no_token() -> None:
    pages = FakePages()
    pages.connect(PAGE, "very-secret")

    assert "very-secret" not in repr(await CredentialCache(pages).newest(PAGE))
