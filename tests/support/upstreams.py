"""The services behind the webhook service, as a test wants them: real gRPC, made-up answers."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from pagewire.rules.v1 import rule_service_pb2
from pagewire.store.v1 import (
    clock_service_pb2,
    conversation_service_pb2,
    ingest_service_pb2,
    lane_service_pb2,
    operation_service_pb2,
    page_service_pb2,
)
from pagewire.sync.v1 import delivery_service_pb2, history_service_pb2
from pagewire.type.v1.reply_pb2 import Reply, ReplyState
from pagewire.type.v1.rule_pb2 import Rule
from pagewire_runtime.auth import Caller, caller, parse_service_tokens
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Refusal
from pagewire_runtime.serving import Server, serving
from pagewire_webhook.main import MESSAGE_BYTES
from pagewire_webhook.operator import openapi
from pagewire_webhook.operator.app import REPEATABLE, Upstreams, operations_of, operator_app

OPERATOR_TOKEN = "operator-token-0123456789"
WEBHOOK_TOKEN = "webhook-token-0123456789"
SERVICE_TOKENS = f"operator:{OPERATOR_TOKEN},webhook:{WEBHOOK_TOKEN}"
KEYS = ["first-key-0123456789", "second-key-0123456789"]

SERVICES: list[ServiceDescriptor] = [
    service
    for module in (
        clock_service_pb2,
        conversation_service_pb2,
        delivery_service_pb2,
        history_service_pb2,
        ingest_service_pb2,
        lane_service_pb2,
        operation_service_pb2,
        page_service_pb2,
        rule_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]

Answer = Message | Refusal | Callable[[Any], Message | Awaitable[Message]]
Streamed = Callable[[Any], AsyncIterator[Message]]


def _with_given_fields(rule: Rule) -> Rule:
    stored = Rule(rule_id="rule-1", version=1, create_time=NOW, update_time=NOW)
    stored.MergeFrom(rule)
    return stored


async def _nothing(_: Any) -> AsyncIterator[Message]:
    nothing: list[Message] = []
    for each in nothing:
        yield each


def _reply(_: Any) -> Reply:
    return Reply(reply_id="r-1-1", page_id="1", state=ReplyState.REPLY_STATE_READY)


def _time() -> Message:
    response = clock_service_pb2.GetTimeResponse()
    response.time.GetCurrentTime()
    return response


NOW = Timestamp(seconds=1_700_000_000)
USUAL: dict[str, Answer] = {
    "ConnectPage": lambda asked: page_service_pb2.ConnectPageResponse(page=asked.page),
    "CreateRule": lambda asked: rule_service_pb2.CreateRuleResponse(
        rule=_with_given_fields(asked.rule)
    ),
    "UpdateRule": lambda asked: rule_service_pb2.UpdateRuleResponse(
        rule=_with_given_fields(asked.rule)
    ),
    "SendMessage": lambda asked: delivery_service_pb2.SendMessageResponse(reply=_reply(asked)),
    "ReplyToComment": lambda asked: delivery_service_pb2.ReplyToCommentResponse(
        reply=_reply(asked)
    ),
    "HideComment": lambda asked: delivery_service_pb2.HideCommentResponse(reply=_reply(asked)),
    "GetTime": lambda _: _time(),
    "GetStatus": operation_service_pb2.GetStatusResponse(database="ok", cache="off"),
}
"""What a service that works would say to a request that is right."""


@dataclass
class Upstream:
    """Answers each method as `answers` says, by the method's name; an empty message else.

    One whose answer is a stream answers as `streams` says; without a message else.
    """

    answers: dict[str, Answer] = field(default_factory=lambda: dict(USUAL))
    streams: dict[str, Streamed] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    server: Server | None = None

    @property
    def request(self) -> Any:
        """The one request that was made."""
        (only,) = self.requests
        return only

    def register(self, server: grpc.aio.Server) -> None:
        for service in SERVICES:
            handlers = {method.name: self._handler(method) for method in service.methods}
            generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
            server.add_generic_rpc_handlers([generic])

    def _handler(self, method: Any) -> Any:
        output = GetMessageClass(method.output_type)
        if method.server_streaming:
            return self._streaming_handler(method, output)

        async def handle(request: Message, _: Any) -> Message:
            self.requests.append(request)
            self.callers.append(caller())
            answer = self.answers.get(method.name, output())
            if isinstance(answer, Refusal):
                raise answer
            found = answer if isinstance(answer, Message) else answer(request)
            if not isinstance(found, Message):
                found = await found
            assert isinstance(found, output)
            return found

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=output.SerializeToString,
        )

    def _streaming_handler(self, method: Any, output: Any) -> Any:
        async def handle(request: Message, _: Any) -> AsyncIterator[Message]:
            self.requests.append(request)
            self.callers.append(caller())
            async for found in self.streams.get(method.name, _nothing)(request):
                assert isinstance(found, output)
                yield found

        return grpc.unary_stream_rpc_method_handler(
            handle,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=output.SerializeToString,
        )


@asynccontextmanager
async def running_upstream() -> AsyncIterator[tuple[Upstream, Upstreams]]:
    """One server for all of the services, and channels to it with the role `operator`."""
    upstream = Upstream()
    roles = {
        f"/{service.full_name}/{method.name}": frozenset({"operator", "webhook"})
        for service in SERVICES
        for method in service.methods
    }
    tokens = parse_service_tokens(SERVICE_TOKENS)
    async with serving(
        "127.0.0.1:0",
        upstream.register,
        tokens=tokens,
        method_roles=roles,
        max_message_bytes=MESSAGE_BYTES,
    ) as server:
        upstream.server = server
        target = f"127.0.0.1:{server.port}"
        async with channel(target, token=OPERATOR_TOKEN, repeatable=REPEATABLE) as to_server:
            yield upstream, Upstreams(to_server, to_server, to_server)


@asynccontextmanager
async def running_api(
    upstreams: Upstreams, stopping: asyncio.Event | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API with a key, which checks every answer against the API's document."""
    document = openapi.document(operations_of(upstreams))

    async def check(response: httpx.Response) -> None:
        await response.aread()
        check_documented(document, response)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=operator_app(upstreams, KEYS, stopping=stopping)),
        base_url="http://operator",
        headers={"Authorization": f"Bearer {KEYS[0]}"},
        event_hooks={"response": [check]},
    ) as client:
        yield client


def check_documented(document: dict[str, Any], response: httpx.Response) -> None:
    """Fails unless the answer is one that the document promises."""
    operation = _operation_of(document, response.request)
    if operation is None:
        assert response.status_code in (401, 404, 405), response
        return
    responses = operation["responses"]
    promised = responses.get(str(response.status_code))
    if promised is None:
        assert response.status_code >= 400, response
        promised = responses["default"]
    media, content = next(iter(promised["content"].items()))
    assert response.headers["content-type"].startswith(media)
    if media == "application/json" and response.request.method != "HEAD":
        schema = {**content["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate(response.json())


def _operation_of(document: dict[str, Any], request: httpx.Request) -> Any:
    method = "get" if request.method == "HEAD" else request.method.lower()
    literal_first = sorted(document["paths"], key=lambda path: path.count("{"))
    for path in literal_first:
        pattern = re.sub(r"\{\w+\}", "[A-Za-z0-9._~-]+", path)
        if re.fullmatch(pattern, request.url.path) and method in document["paths"][path]:
            return document["paths"][path][method]
    return None
