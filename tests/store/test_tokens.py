import base64
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from pagewire_runtime.errors import SettingsError
from pagewire_store.database import open_pools
from pagewire_store.tokens import TokenKeys, TokenUnreadable, parse_token_keys, reseal
from tests.support.servers import (  # noqa: F401  # fixtures
    database_url,
    migrated_template,
    postgres_server,
)

OLD = TokenKeys({"old": b"o" * 32})
BOTH = TokenKeys({"new": b"n" * 32, "old": b"o" * 32})
NEW = TokenKeys({"new": b"n" * 32})


def encoded(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


@given(st.text("0123456789", min_size=1, max_size=128), st.text(st.characters(codec="utf-8")))
def test_a_sealed_token_opens_for_its_page(page_id: str, token: str) -> None:
    sealed = BOTH.seal(page_id, token)

    assert BOTH.open(page_id, sealed) == token
    assert sealed.startswith(b"\x03new")


def test_a_sealed_token_does_not_hold_the_token() -> None:
    assert b"EAAsecret" not in OLD.seal("1", "EAAsecret")


def test_sealing_twice_gives_two_ciphertexts() -> None:
    assert OLD.seal("1", "EAA") != OLD.seal("1", "EAA")


def test_a_token_moved_to_another_page_opens_no_more() -> None:
    sealed = OLD.seal("1", "EAA")

    with pytest.raises(TokenUnreadable):
        OLD.open("2", sealed)


@given(st.data())
def test_a_token_with_any_bit_changed_opens_no_more(data: st.DataObject) -> None:
    sealed = bytearray(OLD.seal("1", "EAA"))
    at = data.draw(st.integers(4, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(TokenUnreadable):
        OLD.open("1", bytes(sealed))


def test_an_older_key_still_opens() -> None:
    assert BOTH.open("1", OLD.seal("1", "EAA")) == "EAA"


def test_a_token_whose_key_is_gone_says_which_key_to_put_back() -> None:
    with pytest.raises(TokenUnreadable, match="the key old: put that key back"):
        NEW.open("1", OLD.seal("1", "EAA"))


def test_keys_do_not_show_in_their_repr() -> None:
    assert "ooo" not in repr(OLD)


def test_keys_are_read_in_order_with_or_without_padding() -> None:
    keys = parse_token_keys(f"b:{encoded(b'b' * 32)}, a:{encoded(b'a' * 32).rstrip('=')}")

    assert list(keys.by_id.items()) == [("b", b"b" * 32), ("a", b"a" * 32)]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "at least one key"),
        ("secret!", "entry 1 does not begin with a key id"),
        (":" + encoded(b"a" * 32), "entry 1 does not begin with a key id"),
        ("a:" + encoded(b"a" * 31), "entry 1 is not 32 bytes"),
        ("a:not base64!", "entry 1 is not 32 bytes"),
        (f"a:{encoded(b'a' * 32)},a:{encoded(b'b' * 32)}", "entry 2 repeats the id"),
    ],
)
def test_a_malformed_key_is_refused_without_being_shown(value: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as refused:
        parse_token_keys(value)

    assert "secret" not in str(refused.value)
    assert encoded(b"a" * 32) not in str(refused.value)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:  # noqa: F811
    pools = open_pools(database_url, 4)
    yield pools.upkeep
    await pools.dispose()


async def keep(engine: AsyncEngine, page_id: str, token: bytes | None) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "insert into page (page_id, platform, login, name, token, token_version, state,"
                " connected, connected_at) values (:page_id, 'messenger', 'facebook', 'n', :token,"
                " 1, 'healthy', true, now())"
            ),
            {"page_id": page_id, "token": token},
        )


async def kept(engine: AsyncEngine) -> dict[str, tuple[bytes | None, int]]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("select page_id, token, token_version from page"))
        return {row.page_id: (row.token, row.token_version) for row in rows}


async def test_a_rotation_seals_every_older_token_anew(engine: AsyncEngine) -> None:
    for number in range(5):
        await keep(engine, f"{number}", OLD.seal(f"{number}", f"EAA{number}"))
    await keep(engine, "none", None)

    resealed = await reseal(engine, BOTH, chunk=2)

    after = await kept(engine)
    assert resealed == 5
    assert after.pop("none") == (None, 1)
    for page_id, (token, version) in after.items():
        assert token is not None
        assert NEW.open(page_id, token) == f"EAA{page_id}"
        assert version == 1


async def test_a_rotation_stands_in_the_audit_with_the_key_and_how_many_and_no_token(
    engine: AsyncEngine,
) -> None:
    for number in range(3):
        await keep(engine, f"{number}", OLD.seal(f"{number}", f"EAA{number}"))

    await reseal(engine, BOTH)
    await reseal(engine, BOTH)

    async with engine.connect() as connection:
        found = await connection.execute(
            text("select role, actor, action, subject, detail from audit")
        )
        assert [tuple(row) for row in found] == [
            ("store", "upkeep", "tokens.reseal", "new", "3 tokens")
        ]


async def test_a_rotation_that_is_done_changes_nothing(engine: AsyncEngine) -> None:
    await keep(engine, "1", NEW.seal("1", "EAA"))
    before = await kept(engine)

    assert await reseal(engine, BOTH) == 0
    assert await kept(engine) == before


async def test_a_token_that_no_key_opens_stays_and_holds_up_no_other(engine: AsyncEngine) -> None:
    lost = TokenKeys({"lost": b"l" * 32}).seal("1", "EAA1")
    await keep(engine, "1", lost)
    await keep(engine, "2", OLD.seal("2", "EAA2"))

    resealed = await reseal(engine, BOTH, chunk=1)

    after = await kept(engine)
    assert resealed == 1
    assert after["1"] == (lost, 1)


async def test_two_stores_may_rotate_at_once(engine: AsyncEngine, database_url: str) -> None:  # noqa: F811
    for number in range(20):
        await keep(engine, f"{number}", OLD.seal(f"{number}", "EAA"))
    other = open_pools(database_url, 4)

    async with engine.begin() as busy:
        await busy.execute(text("select * from page where page_id = '7' for update"))
        resealed = await reseal(other.upkeep, BOTH, chunk=3)
    await other.dispose()

    assert resealed == 19
    assert await reseal(engine, BOTH, chunk=3) == 1
