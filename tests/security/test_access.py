"""Who may call what: every method of every service, by every role, on the processes themselves."""

from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from pagewire_rules.access import METHOD_ROLES as OF_RULES
from pagewire_runtime.auth import OPEN_METHODS, ROLES
from pagewire_store.access import METHOD_ROLES as OF_STORE
from pagewire_sync.access import METHOD_ROLES as OF_SYNC
from tests.support.servers import server_folder
from tests.support.services import TOKENS, Services, services

pytestmark = pytest.mark.system

module_loop = pytest.mark.asyncio(loop_scope="module")

TABLES = {"store": OF_STORE, "rules": OF_RULES, "sync": OF_SYNC}
DENIED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def contracts(part: str) -> Iterator[ServiceDescriptor]:
    package = import_module(f"pagewire.{part}.v1")
    for file in sorted(Path(package.__path__[0]).glob("*_pb2.py")):
        descriptor = import_module(f"pagewire.{part}.v1.{file.stem}").DESCRIPTOR
        yield from descriptor.services_by_name.values()


METHODS: list[tuple[str, str, MethodDescriptor]] = [
    (part, f"/{service.full_name}/{method.name}", method)
    for part in TABLES
    for service in contracts(part)
    for method in service.methods
]


def test_the_tables_name_every_method_of_every_contract_and_none_beside() -> None:
    for part, table in TABLES.items():
        assert set(table) == {method for of, method, _ in METHODS if of == part}
    assert len(METHODS) > 50


def test_nobody_may_call_nothing_and_no_role_everything() -> None:
    admitted = [roles for table in TABLES.values() for roles in table.values()]

    assert all(roles and roles <= ROLES for roles in admitted)
    assert not [role for role in ROLES if all(role in roles for roles in admitted)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Services]:
    with server_folder() as folder:
        async with services(folder) as made:
            yield made


async def code(channel: grpc.aio.Channel, method: str, described: Any, token: str | None) -> str:
    """The code of the answer to an empty request."""
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    try:
        if described.server_streaming:
            stream: Any = channel.unary_stream(method)
            await stream(b"", metadata=metadata, timeout=60).read()
        else:
            unary: Any = channel.unary_unary(method)
            await unary(b"", metadata=metadata, timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


@module_loop
@pytest.mark.parametrize(
    ("part", "method", "described"), METHODS, ids=[method for _, method, _ in METHODS]
)
async def test_a_method_admits_the_roles_of_its_table_and_nobody_else(
    running: Services, part: str, method: str, described: Any
) -> None:
    async with running.raw(part) as channel:
        codes = {role: await code(channel, method, described, TOKENS[role]) for role in TOKENS}
        nobody = await code(channel, method, described, None)

    assert nobody == "UNAUTHENTICATED"
    assert {role for role, answer in codes.items() if answer not in DENIED} == TABLES[part][method]
    assert set(codes.values()) & DENIED <= {"PERMISSION_DENIED"}


@module_loop
@pytest.mark.parametrize("part", TABLES)
async def test_beside_them_only_health_is_open(running: Services, part: str) -> None:
    assert {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"} == OPEN_METHODS
    async with running.raw(part) as channel:
        listing: Any = channel.unary_unary("/grpc.health.v1.Health/List")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await listing(b"", timeout=60)

    assert refused.value.code().name in {"UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED"}
