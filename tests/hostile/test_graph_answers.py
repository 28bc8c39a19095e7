"""What Graph may answer to a send: the reply rests where it belongs, is never sent twice, and the
next one is sent.
"""

import asyncio
import gzip
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from pagewire.store.v1.outbox_service_pb2 import Verdict
from pagewire_sync.budget import Budget
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.graph import Graph as Client
from pagewire_sync.graph import Hosts, open_transport
from pagewire_sync.sender import Sender
from tests.hostile import cases, meta
from tests.hostile.cases import CASES, Case
from tests.hostile.meta import Row, Sending, accepted
from tests.support.outbox import FakeOutbox, FakePages, reply
from tests.support.rawgraph import Behaviour, answering, closing_after, http, raw_graph
from tests.support.sending import OUR_APP, running
from tests.support.wellness import peak_of, reset_peak

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

sending = meta.sending

SLOW = "graph_slow_body"
ANSWERS = [case for case in cases.of("graph") if case.name != SLOW and case.answers == "a send"]

MIB = 2**20
PEAK_BYTES = 64 * MIB
"""What may be held for a moment of an answer of which 8 MiB are the most that is read."""
BEYOND_DOUBLES = 9_007_199_254_740_993
BLOCKED = b'{"error":{"message":"(#551) This person is not available","code":551}}'
SENT_ANYWAY = b'{"error":{"message":"unknown","code":1,"error_subcode":1357046}}'
TOO_MANY = b'{"error":{"message":"calls within one second","code":613}}'
ODD_ERROR = b'{"error":{"message":7,"code":[1],"error_subcode":{},"is_transient":"yes"}}'
BUSY = json.dumps({"business": [{"type": "messenger", "call_count": 105}]})


async def huge(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """500 MiB, for as long as anybody listens."""
    writer.write(http(b"", length=500 * MIB))
    for _count in range(500):
        writer.write(b" " * MIB)
        await writer.drain()


def saying(body: bytes, *headers: str, status: str = "200 OK") -> Behaviour:
    return answering(http(body, *headers, status=status))


def _bomb() -> bytes:
    return gzip.compress(b" " * 100 * MIB)


ODD: dict[str, Callable[[], Sequence[Behaviour]]] = {
    "graph_200_empty_body": lambda: [saying(b"")],
    "graph_200_html": lambda: [saying(b"<!DOCTYPE html><p>Back soon</p>")],
    "graph_200_error_object": lambda: [saying(BLOCKED)],
    "graph_code1_sent_anyway": lambda: [saying(SENT_ANYWAY, status="500 Error")],
    "graph_huge_body": lambda: [huge],
    "graph_redirect": lambda: [
        saying(b"", "Location: http://127.0.0.1:1/caught", status="302 Found"),
        saying(b"", "Location: /caught", status="302 Found"),
    ],
    "graph_usage_header_garbage": lambda: [
        saying(fine("odd_1"), "X-Business-Use-Case-Usage: {nonsense", "X-App-Usage: \xff[["),
        saying(fine("odd_2"), f"X-Business-Use-Case-Usage: {BUSY}"),
    ],
    "graph_retry_after_huge": lambda: [
        saying(TOO_MANY, f"Retry-After: {said}", status="400 Bad Request")
        for said in ("315360000", "Wed, 21 Oct 2015 07:28:00 GMT")
    ],
    "graph_ids_numbers": lambda: [saying(fine(BEYOND_DOUBLES, BEYOND_DOUBLES))],
    "graph_truncated": lambda: [
        closing_after(http(b'{"message_id":"m', length=60), reset=reset) for reset in (True, False)
    ],
    "graph_half_json": lambda: [saying(b'{"message_id":"m')],
    "graph_other_content_type": lambda: [
        answering(accepted("odd_3").replace(b"application/json", b"text/html"))
    ],
    "graph_deep_json": lambda: [saying(b"[" * 100_000 + b"]" * 100_000)],
    "graph_duplicate_keys": lambda: [saying(b'{"message_id":"odd_4","message_id":"odd_5"}')],
    "graph_nan": lambda: [saying(b'{"message_id":"odd_6","recipient_id":NaN}')],
    "graph_not_an_object": lambda: [saying(b"[" + fine("odd_7") + b"]")],
    "graph_wrong_types": lambda: [saying(b'{"message_id":{"id":"odd_8"},"recipient_id":["7"]}')],
    "graph_success_false": lambda: [saying(b'{"success":false}')],
    "graph_error_of_wrong_types": lambda: [saying(ODD_ERROR, status="400 Bad Request")],
    "graph_500_html": lambda: [saying(b"<p>Sorry</p>", status="500 Error")],
    "graph_no_http": lambda: [answering(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")],
    "graph_lying_gzip": lambda: [saying(fine("odd_9"), "Content-Encoding: gzip")],
    "graph_gzip_bomb": lambda: [saying(_bomb(), "Content-Encoding: gzip")],
    "graph_gzip_twice": lambda: [saying(gzip.compress(_bomb()), "Content-Encoding: gzip, gzip")],
}


def fine(mid: str | int, person: str | int = "7") -> bytes:
    return json.dumps({"recipient_id": person, "message_id": mid}).encode()


@pytest.mark.parametrize("case", ANSWERS, ids=[case.name for case in ANSWERS])
async def test_an_answer_leaves_the_reply_where_it_belongs_and_harms_nothing(
    sending: Sending, case: Case
) -> None:
    sync = sending.system.process("sync").pid
    reset_peak(sync)
    before = peak_of(sync)
    async with sending.unharmed():
        for odd in ODD[case.name]():
            page = await sending.page()
            sending.graph.odd[page] = [odd]

            found = await sending.reply(page)

            assert (found["state"], found["reason"]) == (case.state, case.reason)
            assert len(sending.sends_of(page)) == 1
            if case.name in AFTERWARDS:
                AFTERWARDS[case.name](sending, found)
    assert peak_of(sync) - before < PEAK_BYTES


def nobody_was_asked(sending: Sending, _: Row) -> None:
    assert not [asked for asked in sending.server.requests if "caught" in asked.line]


def tried_again_within_the_hour(_: Sending, found: Row) -> None:
    now = datetime.now(UTC)
    assert now - timedelta(minutes=1) < found["not_before"] < now + timedelta(hours=1)


def digits_are_kept(_: Sending, found: Row) -> None:
    assert found["mid"] == str(BEYOND_DOUBLES)


def last_id_counts(_: Sending, found: Row) -> None:
    assert found["mid"] == "odd_5"


AFTERWARDS: dict[str, Callable[[Sending, Row], None]] = {
    "graph_redirect": nobody_was_asked,
    "graph_retry_after_huge": tried_again_within_the_hour,
    "graph_ids_numbers": digits_are_kept,
    "graph_duplicate_keys": last_id_counts,
}


async def test_what_was_sent_in_spite_of_an_error_is_bound_by_its_echo(sending: Sending) -> None:
    page = await sending.page()
    sending.graph.odd[page] = [saying(SENT_ANYWAY, status="500 Error")]
    uncertain = await sending.reply(page)
    (send,) = sending.sends_of(page)
    mid = sending.graph.mid()

    await sending.echo(send, mid)
    sent = await sending.one("select * from outbox where tag = %s and state = 'sent'", send.tag)

    assert uncertain["state"] == "uncertain"
    assert (sent["settled_by"], sent["mid"]) == ("echo", mid)
    assert sending.sends_of(page) == [send]


async def test_at_105_per_cent_the_page_rests_and_no_other_does(sending: Sending) -> None:
    page = await sending.page()
    sending.graph.odd[page] = [saying(fine("odd_10"), f"X-Business-Use-Case-Usage: {BUSY}")]
    await sending.reply(page)

    resting = await sending.reply(page)
    other = await sending.reply(await sending.page())

    assert (resting["state"], resting["reason"]) == ("ready", "budget_spent")
    assert other["state"] == "sent"


async def test_an_answer_that_trickles_is_uncertain_when_its_time_is_over_and_harms_nothing() -> (
    None
):
    (case,) = (case for case in CASES if case.name == SLOW)
    outbox, pages = FakeOutbox(), FakePages()
    pages.connect("104200000000001", "token")
    outbox.put(reply(1))
    behaves = [trickling, answering(accepted("odd_11"))]

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await behaves.pop(0)(reader, writer)

    reset_peak(os.getpid())
    before = peak_of(os.getpid())
    async with raw_graph(behave) as server, open_transport() as transport:
        budget = Budget()
        hosts = Hosts(server.url, server.url, "v25.0")
        graph = Client(transport, hosts, OUR_APP, budget, total_seconds=2)
        sender = Sender(outbox, CredentialCache(pages), graph, budget, "test")
        async with running(sender.run()):
            await outbox.settled(1)
            peak = peak_of(os.getpid())
            outbox.put(reply(2))
            await outbox.settled(2)

    first, second = outbox.outcome(1), outbox.outcome(2)
    assert (first.verdict, first.reason) == (Verdict.VERDICT_UNCERTAIN, case.reason)
    assert (second.verdict, second.mid) == (Verdict.VERDICT_ACCEPTED, "odd_11")
    assert len(server.requests) == 2
    assert peak - before < PEAK_BYTES


async def trickling(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte at a time, for as long as anybody listens."""
    writer.write(http(b"", length=1_000))
    with suppress(ConnectionError):
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)


async def test_the_catalogue_names_what_is_made_here() -> None:
    assert {case.name for case in ANSWERS} == ODD.keys()
