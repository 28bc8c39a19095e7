import re
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]

from pagewire.type.v1 import (
    conversation_pb2,
    decision_pb2,
    event_pb2,
    page_pb2,
    reply_pb2,
    rule_pb2,
    sync_run_pb2,
)
from pagewire_webhook.operator import (
    contents,
    conversations,
    decisions,
    pages,
    replies,
    rule_json,
    sync_runs,
)
from pagewire_webhook.operator.app import Upstreams, operations_of
from pagewire_webhook.operator.operation import routes
from pagewire_webhook.operator.values import Words
from tests.support.upstreams import Upstream

# The table of the operator's interface, which other people's scripts call.
FIXED = {
    ("post", "/api/pages"),
    ("get", "/api/pages"),
    ("get", "/api/pages/{page_id}"),
    ("delete", "/api/pages/{page_id}"),
    ("post", "/api/conversations/sync"),
    ("post", "/api/messages/sync"),
    ("post", "/api/comments/sync"),
    ("post", "/api/conversations/sync-all"),
    ("get", "/api/sync-runs/{run_id}"),
    ("delete", "/api/sync-runs/{run_id}"),
    ("get", "/api/sync-runs/{run_id}/events"),
    # Beside it:
    ("get", "/api/sync-runs"),
    ("post", "/api/pages/{page_id}/repair"),
    ("get", "/api/conversations"),
    ("get", "/api/conversations/{conversation_id}/messages"),
    ("get", "/api/comments"),
    ("get", "/api/rules"),
    ("post", "/api/rules"),
    ("get", "/api/rules/{rule_id}"),
    ("put", "/api/rules/{rule_id}"),
    ("delete", "/api/rules/{rule_id}"),
    ("post", "/api/rules/try"),
    ("post", "/api/rules/backtest"),
    ("get", "/api/decisions"),
    ("post", "/api/replies"),
    ("get", "/api/replies/{reply_id}"),
    ("post", "/api/comments/{comment_id}/reply"),
    ("post", "/api/comments/{comment_id}/hide"),
    ("post", "/api/archive"),
    ("get", "/api/events"),
    ("get", "/metrics"),
    ("get", "/readyz"),
    ("get", "/"),
    ("get", "/api/openapi.json"),
}


@pytest.fixture
async def document(api: httpx.AsyncClient) -> Any:
    return (await api.get("/api/openapi.json")).json()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_has_the_whole_interface_and_no_more(document: dict[str, Any]) -> None:
    assert set(operations(document)) == FIXED


def test_every_route_of_the_app_is_in_the_document_and_the_other_way_round(
    document: dict[str, Any], behind: tuple[Upstream, Upstreams]
) -> None:
    routed = {
        (method.lower(), route.path.replace(":id}", "}"))
        for route in routes(operations_of(behind[1]))
        for method in (route.methods or ())
        if method != "HEAD"
    }

    assert routed == set(operations(document))


def test_every_reference_resolves_and_every_schema_is_one(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"#/components/schemas/(\w+)"', str(document).replace("'", '"')))
    schemas = document["components"]["schemas"]

    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    assert references
    assert references <= set(schemas)


def test_every_operation_says_what_openapi_wants_of_it(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"].keys() >= {"title", "version"}
    assert document["security"] == [{"apiKey": []}]
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    for (_, path), operation in operations(document).items():
        of_path = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert of_path == set(re.findall(r"\{(\w+)\}", path))
        assert all(each["required"] for each in operation["parameters"] if each["in"] == "path")
        assert operation["summary"]
        assert "default" in operation["responses"]
        assert all(response["description"] for response in operation["responses"].values())


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(document).values()]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)


def test_what_needs_no_key_says_so_and_the_rest_may_be_401(document: dict[str, Any]) -> None:
    opened = {key for key, each in operations(document).items() if each.get("security") == []}
    guarded = {key for key, each in operations(document).items() if "401" in each["responses"]}

    assert opened == {("get", "/readyz"), ("get", "/metrics")}
    assert guarded == FIXED - opened


async def test_what_is_not_built_yet_answers_as_the_document_says(
    document: dict[str, Any], api: httpx.AsyncClient
) -> None:
    unbuilt = [key for key, each in operations(document).items() if "501" in each["responses"]]
    answers = {
        (method, path): await api.request(method, path.replace("{run_id}", "run-1"))
        for method, path in unbuilt
    }

    assert len(unbuilt) == 4
    for (method, path), answer in answers.items():
        told = document["paths"][path][method]["responses"]["501"]
        schema = told["content"]["application/json"]["schema"] | {
            "components": document["components"]
        }
        assert answer.status_code == 501
        assert told["description"] == "Not in this release."
        Draft202012Validator(schema).validate(answer.json())
        with pytest.raises(ValidationError):
            Draft202012Validator(schema).validate({})


def test_lists_say_how_they_are_paged(document: dict[str, Any]) -> None:
    for path in ("pages", "rules", "decisions", "conversations", "comments", "sync-runs"):
        operation = document["paths"][f"/api/{path}"]["get"]
        names = {each["name"] for each in operation["parameters"]}
        assert names >= {"page_size", "page_token"}
        reference = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        assert "next_page_token" not in schema["required"]


def test_a_body_that_openapi_describes_is_the_one_that_is_read(document: dict[str, Any]) -> None:
    bodies = {
        key: each["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        for key, each in operations(document).items()
        if "requestBody" in each
    }

    assert {key: reference.rpartition("/")[2] for key, reference in bodies.items()} == {
        ("post", "/api/pages"): "NewPage",
        ("post", "/api/pages/{page_id}/repair"): "NewRepair",
        ("post", "/api/conversations/sync"): "NewSync",
        ("post", "/api/messages/sync"): "NewSync",
        ("post", "/api/comments/sync"): "NewSync",
        ("post", "/api/conversations/sync-all"): "NewSyncOfAll",
        ("post", "/api/rules"): "Rule",
        ("put", "/api/rules/{rule_id}"): "Rule",
        ("post", "/api/rules/try"): "Trial",
        ("post", "/api/replies"): "NewReply",
        ("post", "/api/comments/{comment_id}/reply"): "NewCommentReply",
        ("post", "/api/comments/{comment_id}/hide"): "NewHiding",
    }


def test_no_answer_has_a_field_for_a_token(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    assert "access_token" in schemas["NewPage"]["properties"]
    assert "access_token" not in schemas["Page"]["properties"]


@pytest.mark.parametrize(
    ("words", "told", "enum"),
    [
        (pages.PLATFORMS, pages.Platform, page_pb2.Platform),
        (pages.LOGINS, pages.Login, page_pb2.Login),
        (pages.STATES, pages.State, page_pb2.PageState),
        (rule_json.TRIGGERS, rule_json.Trigger, event_pb2.Trigger),
        (rule_json.MODES, rule_json.Mode, rule_pb2.TextMode),
        (contents.MEDIA_TYPES, contents.MediaType, reply_pb2.MediaType),
        (decisions.OUTCOMES, decisions.Outcome, decision_pb2.Outcome),
        (conversations.DIRECTIONS, conversations.Direction, conversation_pb2.Direction),
        (replies.REPLY_STATES, replies.ReplyState, reply_pb2.ReplyState),
        (replies.REPLY_KINDS, replies.ReplyKind, reply_pb2.ReplyKind),
        (replies.ORIGINS, replies.Origin, reply_pb2.ReplyOrigin),
        (sync_runs.KINDS, sync_runs.KindWord, sync_run_pb2.SyncKind),
        (sync_runs.MODES, sync_runs.Mode, sync_run_pb2.SyncMode),
        (sync_runs.STATES, sync_runs.State, sync_run_pb2.SyncState),
        (sync_runs.ORIGINS, sync_runs.Origin, sync_run_pb2.SyncOrigin),
    ],
)
def test_the_words_that_the_document_tells_are_those_of_the_protos(
    words: Words, told: Any, enum: Any
) -> None:
    assert set(words) == set(told.__args__)
    assert [words.value(words.word(value)) for value in enum.values() if value] == [
        value for value in enum.values() if value
    ]
    assert words.word(0) is None
