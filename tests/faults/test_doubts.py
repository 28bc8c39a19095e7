"""Of every reply in doubt the rig has its own note, which no later word overwrites."""

import psycopg
import pytest

from faults import sends, stored
from faults.evidence import Evidence
from faults.history import History
from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    VERDICT_REFUSED,
    VERDICT_UNCERTAIN,
    ClaimedReply,
)
from tests.support.desk import Desk, desk, echo, message
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]


@pytest.fixture(autouse=True)
def witness(module_database_url: str) -> None:
    """The rig's triggers, which have seen nothing yet."""
    with psycopg.connect(module_database_url) as connection:
        connection.execute("drop schema if exists witness cascade")
        connection.execute(stored.WITNESS)


async def ends(url: str) -> dict[str, int]:
    """How often a doubt ended how."""
    nobody = History(seed=1, happened=(), delivered=(), calls=())
    return dict(sends.uncertain_ends(Evidence(nobody, await stored.rows(url))))


async def in_doubt(desk: Desk) -> ClaimedReply:
    """A reply whose sender does not know how its attempt ended."""
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    return reply


async def test_a_doubt_that_an_echo_ends_is_one(desk: Desk, module_database_url: str) -> None:
    reply = await in_doubt(desk)

    await desk.receive(echo("m_ours", tag=reply.tag))

    assert await ends(module_database_url) == {"echo": 1}


async def test_a_doubt_that_a_late_answer_ends_is_one(desk: Desk, module_database_url: str) -> None:
    reply = await in_doubt(desk)

    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    assert await ends(module_database_url) == {"late_answer": 1}


async def test_a_doubt_that_a_refusal_ends_is_one(desk: Desk, module_database_url: str) -> None:
    reply = await in_doubt(desk)

    await desk.record(reply.tag, VERDICT_REFUSED, reason="refused")

    assert await ends(module_database_url) == {"failed": 1}


async def test_a_doubt_after_a_lease_that_ended_is_one(
    desk: Desk, module_database_url: str
) -> None:
    reply = await desk.answer(message())
    await desk.lapse()
    await desk.sweep()

    await desk.receive(echo("m_ours", tag=reply.tag))

    assert await ends(module_database_url) == {"echo": 1}


async def test_a_doubt_that_a_look_ends_is_one(desk: Desk, module_database_url: str) -> None:
    reply = await in_doubt(desk)
    await desk.pass_time(21)
    await desk.look()

    await desk.found(reply.tag, found_mid="m_ours")

    assert await ends(module_database_url) == {"readback": 1}


async def test_a_doubt_that_ends_in_another_send_is_one(
    desk: Desk, module_database_url: str
) -> None:
    reply = await in_doubt(desk)
    for _ in range(2):
        await desk.pass_time(60)
        await desk.look()
        await desk.found(reply.tag, clean=True)
    await desk.pass_time(3)
    (again,) = await desk.claim_replies()

    await desk.record(again.tag, VERDICT_ACCEPTED, mid="m_ours")

    assert await ends(module_database_url) == {"resend": 1}


async def test_a_doubt_that_nothing_ends_is_one(desk: Desk, module_database_url: str) -> None:
    await in_doubt(desk)
    still = await ends(module_database_url)
    await desk.pass_time(601)

    await desk.sweep()

    assert still == {"open": 1}
    assert await ends(module_database_url) == {"parked": 1}


async def test_an_echo_before_the_answer_is_no_doubt(desk: Desk, module_database_url: str) -> None:
    reply = await desk.answer(message())

    await desk.receive(echo("m_ours", tag=reply.tag))
    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    assert await ends(module_database_url) == {}
