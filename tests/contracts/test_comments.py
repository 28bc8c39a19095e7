"""What the protos tell a caller: which statuses each method can answer with."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")

STATUSES = frozenset(status.name for status in grpc.StatusCode)
SERVICE = FileDescriptorProto.SERVICE_FIELD_NUMBER
METHOD = 2  # as descriptor.proto numbers ServiceDescriptorProto.method


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """The protos as their authors wrote them, comments and all."""
    folder = tmp_path_factory.mktemp("image")
    image = folder / "protos.binpb"
    subprocess.run(
        [BUF, "build", "-o", image], cwd=ROOT, env={"HOME": str(folder), "PATH": ""}, check=True
    )
    whole = FileDescriptorSet.FromString(image.read_bytes())
    return [file for file in whole.file if file.package.startswith("pagewire.")]


def statuses(comment: str) -> set[str]:
    return set(re.findall(r"\w+", comment)) & STATUSES


def methods(files: list[FileDescriptorProto]) -> Iterator[tuple[str, str]]:
    """Each method by its name, with its comment."""
    for file in files:
        said = comments(file)
        for nth, service in enumerate(file.service):
            for at, method in enumerate(service.method):
                name = f"{file.package}.{service.name}.{method.name}"
                yield name, said.get((SERVICE, nth, METHOD, at), "")


def services(files: list[FileDescriptorProto]) -> Iterator[tuple[str, str]]:
    """Each service by its name, with its comment."""
    for file in files:
        said = comments(file)
        for nth, service in enumerate(file.service):
            yield f"{file.package}.{service.name}", said.get((SERVICE, nth), "")


def comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {tuple(each.path): each.leading_comments for each in file.source_code_info.location}


def test_each_method_names_a_status_that_it_can_answer_with(
    files: list[FileDescriptorProto],
) -> None:
    found = dict(methods(files))

    assert found
    assert [name for name, comment in found.items() if not statuses(comment)] == []


def test_each_service_names_what_every_method_can_answer_with(
    files: list[FileDescriptorProto],
) -> None:
    every = {"UNAUTHENTICATED", "PERMISSION_DENIED", "DEADLINE_EXCEEDED", "INTERNAL"}

    found = dict(services(files))

    assert found
    assert {name: every - statuses(said) for name, said in found.items()} == {
        name: set() for name in found
    }


@pytest.mark.parametrize(
    ("method", "answers"),
    [
        ("pagewire.sync.v1.DeliveryService.SendMessage", {"FAILED_PRECONDITION", "NOT_FOUND"}),
        ("pagewire.sync.v1.DeliveryService.ReplyToComment", {"FAILED_PRECONDITION"}),
        ("pagewire.sync.v1.DeliveryService.HideComment", {"FAILED_PRECONDITION"}),
        ("pagewire.store.v1.OutboxService.EnqueueReply", {"FAILED_PRECONDITION"}),
        ("pagewire.rules.v1.RuleService.UpdateRule", {"FAILED_PRECONDITION", "ABORTED"}),
        ("pagewire.store.v1.LaneService.ClaimLanes", {"UNAVAILABLE"}),
        ("pagewire.store.v1.LaneService.CommitDecisions", {"UNAVAILABLE"}),
        ("pagewire.store.v1.OutboxService.ClaimReplies", {"UNAVAILABLE"}),
        ("pagewire.sync.v1.HistoryService.WatchSyncRun", {"NOT_FOUND"}),
    ],
)
def test_a_method_that_refuses_a_request_and_a_state_names_both(
    files: list[FileDescriptorProto], method: str, answers: set[str]
) -> None:
    named = statuses(dict(methods(files))[method])

    assert named >= {"INVALID_ARGUMENT", *answers}
