"""The API's document: OpenAPI 3.1, made from the operations and the types that they read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pagewire_webhook.operator import streaming
from pagewire_webhook.operator.auth import ACTOR_HEADER
from pagewire_webhook.operator.errors import Error
from pagewire_webhook.operator.operation import Operation
from pagewire_webhook.operator.streaming import Stream
from pagewire_webhook.operator.values import Id

VERSION = "0.1.0"

_PATH_ID = re.compile(r"\{(\w+)\}")


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document, as values that are JSON's."""
    types = list(dict.fromkeys(_types(operations)))
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        item = _operation(operation, by_type)
        paths.setdefault(operation.path, {})[operation.method.lower()] = item
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pagewire",
            "version": VERSION,
            "description": "The operator's API. Lists take page_size and page_token, and answer"
            " next_page_token, which is absent at the end. Times are RFC 3339 in UTC. Absent"
            f" values are null. {ACTOR_HEADER} names the person for the audit.",
        },
        "security": [{"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of API_KEYS.",
                }
            },
        },
    }


def _types(operations: Iterable[Operation]) -> Iterator[Any]:
    yield from (Error, Id)
    for operation in operations:
        yield from (wanted for wanted in (operation.body, operation.query) if wanted)
        yield from (_type(answer) for answer in operation.answers.values() if answer)


def _type(answer: Any) -> Any:
    """What is shown: of a stream, in each of its events."""
    return answer.of if isinstance(answer, Stream) else answer


def _operation(operation: Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    item: dict[str, Any] = {
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation, schemas), *_query_parameters(operation)],
        "responses": _responses(operation, schemas),
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[operation.body]}}
        item["requestBody"] = {"required": True, "content": content}
    if operation.is_open:
        item["security"] = []
    return item


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path.removeprefix("/api"))
    return "_".join([operation.method.lower(), *words]).replace("-", "_")


def _path_parameters(operation: Operation, schemas: Mapping[Any, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": schemas[Id]}
        for name in _PATH_ID.findall(operation.path)
    ]


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    if operation.query is None:
        return
    (reference,), components = msgspec.json.schema_components([operation.query])
    schema = components[reference["$ref"].rpartition("/")[2]]
    for name, each in schema["properties"].items():
        required = name in schema.get("required", ())
        yield {"name": name, "in": "query", "required": required, "schema": each}


def _responses(operation: Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    responses = {
        str(status): {
            "description": "Not in this release." if status == 501 else operation.summary,
            "content": _stream_content(schemas[answer.of])
            if isinstance(answer, Stream)
            else _content(schemas.get(answer)),
        }
        for status, answer in operation.answers.items()
    }
    if not operation.is_open:
        responses["401"] = {
            "description": "No key, or not one of ours.",
            "content": _content(schemas[Error]),
        }
    responses["default"] = {
        "description": "Refused: `reason` says why.",
        "content": _content(schemas[Error]),
    }
    return responses


def _stream_content(schema: Any) -> dict[str, Any]:
    """OpenAPI has no word for events before 3.2: their shape stands where JSON Schema has it."""
    each = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {streaming.MEDIA_TYPE: {"schema": each}}


def _content(schema: Any) -> dict[str, Any]:
    if schema is None:
        return {"text/plain": {"schema": {"type": "string"}}}
    return {"application/json": {"schema": schema}}
