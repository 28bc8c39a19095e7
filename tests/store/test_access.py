from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor

import pagewire.store.v1
from pagewire_runtime.auth import ROLES
from pagewire_store.access import METHOD_ROLES


def contracts() -> Iterator[FileDescriptor]:
    (folder,) = pagewire.store.v1.__path__
    for file in sorted(Path(folder).glob("*_pb2.py")):
        yield import_module(f"pagewire.store.v1.{file.stem}").DESCRIPTOR


METHODS = [
    f"/{service.full_name}/{method.name}"
    for contract in contracts()
    for service in contract.services_by_name.values()
    for method in service.methods
]

# What each role may do beside nothing, by service and method: an independent account of the table.
MAY = {
    "webhook": {
        "ClockService/*",
        "IngestService/*",
        "LaneService/*",
        "OperationService/ClaimReplays",
    },
    "rules": {"RuleBookService/*"},
    "sync": {
        "ClockService/*",
        "IngestService/Ingest",
        "MirrorService/*",
        "OutboxService/*",
        "PageCareService/*",
        "RunService/*",
    },
    "reader": {
        "ConversationService/*",
        "EventService/*",
        "PageService/GetPage",
        "PageService/ListPages",
        "OutboxService/GetReply",
    },
    "operator": {
        "ConversationService/*",
        "EventService/*",
        "PageService/*",
        "OperationService/*",
        "OutboxService/GetReply",
        "RuleBookService/GetRule",
        "RuleBookService/ListRules",
        "RuleBookService/GetRuleBooks",
    },
}
MAY_NOT = {("operator", "OperationService/ClaimReplays")}


def test_the_contracts_have_methods_to_walk() -> None:
    assert len(METHODS) > 30


def test_the_table_names_every_method_and_none_beside() -> None:
    assert set(METHOD_ROLES) == set(METHODS)


@pytest.mark.parametrize("role", sorted(ROLES))
@pytest.mark.parametrize("method", METHODS)
def test_a_role_may_call_what_it_needs_and_nothing_else(role: str, method: str) -> None:
    name = method.removeprefix("/pagewire.store.v1.")
    service, _, _ = name.partition("/")

    expected = bool({name, f"{service}/*"} & MAY[role]) and (role, name) not in MAY_NOT

    assert (role in METHOD_ROLES[method]) is expected


def test_nobody_who_is_no_service_of_ours_sees_a_token() -> None:
    assert METHOD_ROLES["/pagewire.store.v1.PageCareService/GetPageCredentials"] == {"sync"}
