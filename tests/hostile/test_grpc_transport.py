"""What may be done to the gRPC services, each on real processes: all of it is survived."""

import asyncio
import contextlib
import random
import re
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psycopg
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from pagewire.rules.v1 import rule_service_pb2 as rules_pb
from pagewire.store.v1 import page_service_pb2 as pages_pb
from pagewire.sync.v1 import delivery_service_pb2 as delivery_pb
from pagewire.type.v1.event_pb2 import TRIGGER_MESSAGE
from pagewire.type.v1.page_pb2 import PLATFORM_MESSENGER, Page
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import TEXT_MODE_WORD, Rule
from pagewire_rules.main import MESSAGE_BYTES as RULES_BYTES
from pagewire_runtime.calling import MAX_MESSAGE_BYTES as SYNC_BYTES
from pagewire_runtime.tls import Tls
from pagewire_store.ids import conversation_id
from pagewire_store.main import MAX_MESSAGE_BYTES as STORE_BYTES
from tests.support.authority import HOUR, Authority
from tests.support.http2 import ENHANCE_YOUR_CALM, PING, Http2
from tests.support.servers import server_folder
from tests.support.services import NAMES, TOKENS, Services, services

pytestmark = pytest.mark.system

module_loop = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
GROWTH = 8 * MIB
LONG = 60.0
"""Seconds: what takes so long has not ended by itself; a server gives a call without a deadline
five."""
OK = "OK"


class Case(NamedTuple):
    name: str
    request: str
    expect: str
    codes: Sequence[Sequence[str]]


CASES = [
    Case(**each)
    for each in tomllib.loads(Path(__file__).with_name("grpc_cases.toml").read_text())["case"]
]


@dataclass(frozen=True)
class Service:
    """What a case needs to know of one of the services."""

    name: str
    limit: int
    read: str
    """A method that reads, and says OK or NOT_FOUND to `asked`."""
    asked: Message
    others: tuple[str, str]
    """A role, and a method that only other roles may call."""
    write: str
    """A method of an operator's that writes, with what to write, once."""
    written: Callable[[str], Message]
    rows: str
    """How many rows of each table such a write has made, by its key."""
    table: str
    """A table that `read` reads."""
    statement: str
    """How the statement is known, as a pattern, by which it does so."""
    last: str
    """A table that `write` writes late, after others or before them."""
    unknown: Message
    """A write with a value of an enum that is of a newer release."""


def _page(key: str, platform: Any = PLATFORM_MESSENGER) -> pages_pb.ConnectPageRequest:
    page = Page(page_id=key, platform=platform, name="A page")
    return pages_pb.ConnectPageRequest(page=page, access_token="token-of-the-tests")


def _rule(key: str, mode: Any = TEXT_MODE_WORD) -> rules_pb.CreateRuleRequest:
    rule = Rule(name=key, enabled=True, events=[TRIGGER_MESSAGE])
    rule.when.text.mode = mode
    rule.when.text.any.append("price")
    rule.then.add().reply.text = "ten"
    return rules_pb.CreateRuleRequest(rule=rule)


PAGE, PERSON = "104200000000701", "person-of-the-tests"


def _send(key: str, tag: Any = 0) -> delivery_pb.SendMessageRequest:
    return delivery_pb.SendMessageRequest(
        conversation_id=conversation_id(PAGE, PERSON),
        content=ReplyContent(text="hello"),
        client_key=key,
        tag=tag,
    )


SERVICES = {
    "store": Service(
        name="store",
        limit=STORE_BYTES,
        read="/pagewire.store.v1.PageService/ListPages",
        asked=pages_pb.ListPagesRequest(page_size=1),
        others=("webhook", "/pagewire.store.v1.OutboxService/EnqueueReply"),
        write="/pagewire.store.v1.PageService/ConnectPage",
        written=_page,
        rows="select (select count(*) from page where page_id = %(key)s),"
        " (select count(*) from audit where subject = %(key)s)",
        table="page",
        statement="from page.*connected_at desc",
        last="audit",
        unknown=_page("104200000000799", 99),
    ),
    "rules": Service(
        name="rules",
        limit=RULES_BYTES,
        read="/pagewire.rules.v1.RuleService/ListRules",
        asked=rules_pb.ListRulesRequest(page_size=1),
        others=("sync", "/pagewire.rules.v1.RuleService/CreateRule"),
        write="/pagewire.rules.v1.RuleService/CreateRule",
        written=_rule,
        rows="select count(*), count(*) from rule"
        " where position(convert_to(%(key)s, 'UTF8') in definition) > 0",
        table="rule",
        statement="from rule.*priority desc",
        last="rule_version",
        unknown=_rule("newer", 99),
    ),
    "sync": Service(
        name="sync",
        limit=SYNC_BYTES,
        read="/pagewire.sync.v1.DeliveryService/GetReply",
        asked=delivery_pb.GetReplyRequest(reply_id=f"r-{PAGE}-1"),
        others=("webhook", "/pagewire.sync.v1.DeliveryService/SendMessage"),
        write="/pagewire.sync.v1.DeliveryService/SendMessage",
        written=_send,
        rows="select count(*), count(*) from outbox where client_key = %(key)s",
        table="outbox",
        statement="from outbox where page_id = [$]1 and reply_id = [$]2",
        last="lane",
        unknown=_send("newer", 99),
    ),
}


@dataclass(frozen=True)
class Scene:
    """The processes in the clear and with TLS, and who issues certificates."""

    clear: Services
    secure: Services
    ours: Authority
    theirs: Authority
    database: psycopg.AsyncConnection[Any]

    async def answer(
        self,
        service: Service,
        method: str = "",
        body: bytes | Message | None = None,
        *,
        role: str = "reader",
        metadata: Sequence[tuple[str, str]] | None = None,
        timeout: float | None = LONG,
    ) -> tuple[str, str]:
        """Code and details of the answer to one call in the clear."""
        async with self.clear.raw(service.name, ("grpc.max_send_message_length", -1)) as channel:
            return await called(
                channel,
                method or service.read,
                service.asked if body is None else body,
                bearer(role) if metadata is None else metadata,
                timeout,
            )

    async def well(self, service: Service) -> None:
        """It serves, and answers what it is asked."""
        async with self.clear.raw(service.name) as channel:
            health = await HealthStub(channel).Check(HealthCheckRequest(), timeout=LONG)
            code, details = await called(
                channel, service.read, service.asked, bearer("reader"), LONG
            )
        assert health.status == HealthCheckResponse.SERVING
        assert code in (OK, "NOT_FOUND"), details

    async def rows(self, service: Service, key: str) -> set[int]:
        found = await self.database.execute(service.rows.encode(), {"key": key})
        row = await found.fetchone()
        assert row is not None
        return set(row)


def bearer(role: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {TOKENS[role]}")]


async def called(
    channel: grpc.aio.Channel,
    method: str,
    body: bytes | Message,
    metadata: Sequence[tuple[str, str]],
    timeout: float | None,
) -> tuple[str, str]:
    raw = body if isinstance(body, bytes) else body.SerializeToString()
    call: Any = channel.unary_unary(method)
    try:
        await call(raw, metadata=metadata, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return OK, ""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    certificates = tmp_path_factory.mktemp("certificates")
    ours, theirs = Authority(certificates, "ours"), Authority(certificates, "theirs")
    with server_folder() as first, server_folder() as second:
        async with (
            services(first) as clear,
            services(second, ours) as secure,
            await psycopg.AsyncConnection.connect(clear.postgres.url, autocommit=True) as database,
        ):
            made = Scene(clear, secure, ours, theirs, database)
            await made.answer(
                SERVICES["store"], SERVICES["store"].write, _page(PAGE), role="operator"
            )
            await database.execute(
                "insert into conversation (page_id, participant_id, updated_at, last_inbound_at)"
                " values (%s, %s, now(), now())",
                (PAGE, PERSON),
            )
            for service in SERVICES.values():  # what is made at the first calls counts for no case
                for _ in range(50):
                    await made.well(service)
            yield made


@module_loop
@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_service_answers_as_it_should_and_goes_on(
    scene: Scene, case: Case, service: Service
) -> None:
    lives = [scene.clear.lives(name) for name in NAMES]
    memory = scene.clear.memory(service.name), scene.secure.memory(service.name)

    codes = await ACTS[case.name](scene, service)

    assert len(codes) == len(case.codes)
    for code, allowed in zip(codes, case.codes, strict=True):
        assert code in allowed
    await scene.well(service)
    assert [scene.clear.lives(name) for name in NAMES] == lives
    assert scene.clear.memory(service.name) - memory[0] < GROWTH
    assert scene.secure.memory(service.name) - memory[1] < GROWTH


def test_every_case_has_an_act_and_every_act_a_case() -> None:
    assert [case.name for case in CASES] == list(ACTS)
    assert len(CASES) == 18


Act = Callable[[Scene, Service], Awaitable[list[str]]]
ACTS: dict[str, Act] = {}


def act(of: Act) -> Act:
    ACTS[f"grpc_{of.__name__}"] = of
    return of


@act
async def no_credentials(scene: Scene, service: Service) -> list[str]:
    shown = [None, "Bearer unknown-token-of-the-tests", f"Basic {TOKENS['reader']}"]
    return [
        (await scene.answer(service, metadata=[("authorization", it)] if it else []))[0]
        for it in shown
    ]


@act
async def wrong_ca(scene: Scene, service: Service) -> list[str]:
    ours = scene.ours.issue("reader").ca_file
    foreign = scene.theirs.issue("reader")
    shown = [
        Tls(foreign.cert_file, foreign.key_file, ours),
        scene.ours.issue("reader", "ended", ends_in=-HOUR),
        scene.ours.issue("stranger"),
        None,
    ]
    codes = []
    for tls in shown:
        credentials = (
            grpc.ssl_channel_credentials(root_certificates=ours.read_bytes())
            if tls is None
            else tls.channel_credentials()
        )
        target = scene.secure.targets[service.name]
        async with grpc.aio.secure_channel(target, credentials) as channel:
            code, _ = await called(channel, service.read, service.asked, bearer("reader"), 10)
        codes.append(code)
    return codes


@act
async def wrong_role(scene: Scene, service: Service) -> list[str]:
    role, method = service.others
    return [(await scene.answer(service, method, b"", role=role))[0]]


@act
async def reflection(scene: Scene, service: Service) -> list[str]:
    codes = []
    async with scene.clear.raw(service.name) as channel:
        for version in ("v1", "v1alpha"):
            method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            asking: Any = channel.stream_stream(method)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asking(metadata=bearer("operator"), timeout=5).read()
            codes.append(refused.value.code().name)
    return codes


@act
async def health_unauth(scene: Scene, service: Service) -> list[str]:
    method = "/grpc.health.v1.Health/Check"
    named = HealthCheckRequest(service=service.read.split("/")[1])
    return [
        (await scene.answer(service, method, asked, metadata=[]))[0]
        for asked in (HealthCheckRequest(), named)
    ]


@act
async def unknown_method(scene: Scene, service: Service) -> list[str]:
    ours = service.read.rpartition("/")[0]
    return [
        (await scene.answer(service, method, b"", role="operator"))[0]
        for method in ("/x.Y/Z", f"{ours}/DropEverything")
    ]


@act
async def oversize_message(scene: Scene, service: Service) -> list[str]:
    return [(await scene.answer(service, body=bytes(service.limit + 1)))[0]]


@act
async def oversize_metadata(scene: Scene, service: Service) -> list[str]:
    metadata = [*bearer("reader"), ("x-large", "x" * 65_536)]
    return [(await scene.answer(service, metadata=metadata))[0]]


_CUT = b"\x08\xff"
"""The first field, a number of which more was to come."""
_OTHER_TYPE = b"\x0d" + bytes(4)
"""The first field, a number or a text by contract, as four bytes."""


@act
async def bad_protobuf(scene: Scene, service: Service) -> list[str]:
    noise = b"\xff" + random.Random(7).randbytes(4096)
    codes = []
    for body in (noise, _CUT, _OTHER_TYPE + service.asked.SerializeToString()):
        code, details = await scene.answer(service, body=body)
        assert "Traceback" not in details
        assert "Error" not in details
        codes.append(code)
    return codes


_NEWER = 999
"""The number of a field that no release has yet."""


def _tag(kind: int) -> bytes:
    value = _NEWER << 3 | kind
    return bytes([value & 0x7F | 0x80, value >> 7])


@act
async def deep_protobuf(scene: Scene, service: Service) -> list[str]:
    return [(await scene.answer(service, body=_tag(3) * 10_000 + _tag(4) * 10_000))[0]]


@act
async def unknown_fields(scene: Scene, service: Service) -> list[str]:
    newer = service.asked.SerializeToString() + _tag(2) + b"\x03new" + _tag(0) + b"\x07"
    read, _ = await scene.answer(service, body=newer)
    wrote, _ = await scene.answer(service, service.write, service.unknown, role="operator")
    return [read, wrote]


@act
async def no_deadline(scene: Scene, service: Service) -> list[str]:
    scene.clear.postgres.pause()
    try:
        async with asyncio.timeout(LONG):
            code, _ = await scene.answer(service, timeout=None)
    finally:
        scene.clear.postgres.resume()
    await until_well(scene, service)
    return [code]


async def until_well(scene: Scene, service: Service) -> None:
    async with asyncio.timeout(LONG):
        while (await scene.answer(service))[0] not in (OK, "NOT_FOUND"):
            await asyncio.sleep(0.1)


@act
async def expired_deadline(scene: Scene, service: Service) -> list[str]:
    short, _ = await scene.answer(service, timeout=0.001)
    async with locked(scene, service.table):
        before, late = cut_off(scene), ""
        async with asyncio.timeout(LONG):  # a machine that is busy may not come to the statement
            while cut_off(scene) == before:
                late, _ = await scene.answer(service, timeout=0.6)
                await nothing_waits(scene, service)
    return [short, late]


def cut_off(scene: Scene) -> int:
    """Statements that were ended because nobody waits for them, and not by their own time limit."""
    return scene.clear.postgres.log.read_text().count("canceling statement due to user request")


@contextlib.asynccontextmanager
async def locked(scene: Scene, table: str) -> AsyncIterator[None]:
    async with await psycopg.AsyncConnection.connect(scene.clear.postgres.url) as other:
        await other.execute(f"lock table {table} in access exclusive mode".encode())
        yield
        await other.rollback()


WAITING = """
    select count(*) from pg_stat_activity
    where usename = 'pagewire_store' and wait_event_type = 'Lock' and query ~ %s
"""


async def waiting(scene: Scene, what: str = "") -> int:
    found = await scene.database.execute(WAITING, (what,))
    row = await found.fetchone()
    assert row is not None
    return int(row[0])


async def nothing_waits(scene: Scene, service: Service) -> None:
    """Returns once no statement of the call waits; those of the store's own jobs come and go."""
    async with asyncio.timeout(LONG):
        while await waiting(scene, service.statement):
            await asyncio.sleep(0.02)


@act
async def cancel_mid_write(scene: Scene, service: Service) -> list[str]:
    key = {"store": "104200000000702"}.get(service.name, f"left-by-{service.name}")
    async with scene.clear.raw(service.name) as channel:
        write: Any = channel.unary_unary(service.write)
        async with locked(scene, service.last):
            call = write(
                service.written(key).SerializeToString(), metadata=bearer("operator"), timeout=5
            )
            async with asyncio.timeout(LONG):
                while not await waiting(scene, f"into {service.last}"):
                    await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        left = (await call.code()).name
    async with asyncio.timeout(LONG):
        while await waiting(scene):
            await asyncio.sleep(0.01)
    found = await scene.rows(service, key)
    assert found in ({0}, {1})
    if found == {0} or service.name != "rules":  # a rule has no key by which it could be one
        again, _ = await scene.answer(service, service.write, service.written(key), role="operator")
    else:
        again = OK
    assert await scene.rows(service, key) in ({1}, {1, 2})  # a page is connected again: said twice
    return [left, again]


@act
async def rapid_reset(scene: Scene, service: Service) -> list[str]:
    async with (
        Http2(scene.clear.targets[service.name]) as hostile,
        scene.clear.raw(service.name) as calm,
    ):
        flood = asyncio.create_task(_reset(hostile, service.read, 10_000))
        codes = set()
        while not flood.done():
            code, _ = await called(calm, service.read, service.asked, bearer("reader"), 10)
            codes.add(code)
        await flood
    (only,) = codes
    return [only]


async def _reset(connection: Http2, path: str, times: int) -> None:
    with contextlib.suppress(ConnectionError):  # cut off: as well
        for number in range(times):
            connection.open_and_reset(path)
            if number % 100 == 99:
                await connection.drain()
                await asyncio.sleep(0.01)


@act
async def ping_flood(scene: Scene, service: Service) -> list[str]:
    async with Http2(scene.clear.targets[service.name]) as hostile:
        ending = asyncio.create_task(hostile.goaway())
        for _ in range(200):
            if ending.done():
                break
            with contextlib.suppress(ConnectionError):
                hostile.send(PING, payload=bytes(8))
                await hostile.drain()
            await asyncio.sleep(0.01)
        reason = await asyncio.wait_for(ending, LONG)
    return ["ENHANCE_YOUR_CALM" if reason == ENHANCE_YOUR_CALM else str(reason)]


@act
async def tls_plaintext_mix(scene: Scene, service: Service) -> list[str]:
    asked = service.read, service.asked, bearer("reader"), LONG
    async with scene.secure.raw(service.name) as channel:
        clear, _ = await called(channel, *asked)
    credentials = scene.ours.issue("reader").channel_credentials()
    async with grpc.aio.secure_channel(scene.clear.targets[service.name], credentials) as channel:
        secure, _ = await called(channel, *asked)
    return [clear, secure]


TOLD = re.compile(
    r"select|relation|sql|psycopg|postgres|127\.0\.0\.1|unix:|token-of-the-tests|\bpage\b|outbox",
    re.IGNORECASE,
)


@act
async def error_details_leak(scene: Scene, service: Service) -> list[str]:
    await scene.database.execute(f"alter table {service.table} rename to elsewhere".encode())
    try:
        code, details = await scene.answer(
            service, metadata=[*bearer("reader"), ("pagewire-request-id", "asked-by-the-test")]
        )
    finally:
        await scene.database.execute(f"alter table elsewhere rename to {service.table}".encode())
    assert not TOLD.search(details)
    assert "asked-by-the-test" in details
    return [code]
