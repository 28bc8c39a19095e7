"""The Graph half over HTTP: reads a call, finds who calls and for what, answers and records it.

A plain ASGI application, to be cheap: ``/facebook/...`` and ``/instagram/...`` stand for the two
hosts. ``scope["extensions"]["pagewire.cut"]`` (see ``serving``) closes the connection.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from pagewire_simulator import operations, refusals, tokens, wire
from pagewire_simulator.adopting import adopt
from pagewire_simulator.entities import Account, Host
from pagewire_simulator.faults import Answer, Fault
from pagewire_simulator.ledger import CallRecord
from pagewire_simulator.meta import Meta
from pagewire_simulator.operations import Outcome, Request
from pagewire_simulator.refusals import Refusal, Refused, unsupported

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

VERSION = re.compile(r"v\d+\.\d+")
NEWEST = "v26.0"
HTML = b"<!DOCTYPE html><html><body>Sorry, something went wrong.</body></html>"
BODY_MAX = 1 << 20


class Call(msgspec.Struct, kw_only=True):
    """A call as it came over the wire; ``node`` and ``edge`` are "" where the path ends."""

    host: Host
    method: str
    version: str
    node: str
    edge: str
    query: dict[str, Any]
    form: dict[str, Any]
    authorization: str

    @property
    def params(self) -> dict[str, Any]:
        return self.form | self.query


class Replied(msgspec.Struct, kw_only=True):
    """An answer about to be written."""

    status: int
    body: bytes
    headers: Headers = []
    content_type: bytes = b"application/json; charset=UTF-8"


class Graph:
    """``meta`` is asked for at each call, since a reset replaces it."""

    def __init__(self, meta: Callable[[], Meta]) -> None:
        self._meta = meta

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        meta = self._meta()
        call = read(scope, await body_of(receive))
        await Handling(meta, call, scope, send).run()


class Handling:
    """One call from its reading to its record."""

    def __init__(self, meta: Meta, call: Call, scope: Scope, send: Send) -> None:
        self._meta = meta
        self._call = call
        self._cut = scope["extensions"]["pagewire.cut"]
        self._send = send
        self._shown = tokens.credentials(call.query, call.form, call.authorization)
        self._account: Account | None = None
        self._record = meta.ledger.begin(
            CallRecord(
                serial=0,
                started_at=meta.clock(),
                host=call.host,
                method=call.method,
                shape=f"/{call.edge}" if call.edge else "/",
                endpoint="unknown",
                token_in_url=self._shown.in_url,
            )
        )

    async def run(self) -> None:
        try:
            if self._call.node == "debug_token":
                await self._reply(self._debug_token())
                return
            operation, request = self._recognise()
            struck = self._strike(request)
            await self._execute(operation, request, struck)
        except Refused as refused:
            await self._refuse(refused.refusal)

    def _recognise(self) -> tuple[operations.Operation, Request]:
        """The operation and its request; raises Refused for what Graph would not start on."""
        meta, call, record = self._meta, self._call, self._record
        now = meta.clock()
        if meta.options.adopt:
            adopt(meta.world, call.host, call.node, call.edge, call.params, self._shown, now)
        token = tokens.identify(meta.world, self._shown, call.host, now)
        secrets = meta.app.secrets
        secret = secrets.app if token.host is Host.FACEBOOK else secrets.instagram
        record.proof = tokens.judge_proof(secret, self._shown, now)
        tokens.check_proof(record.proof, required=meta.options.require_proof)
        target = operations.find(meta.world, token, call.node)
        operation = operations.operation(call.method, call.node, call.edge, target)
        record.shape = f"/{{{target.kind}}}" + (f"/{call.edge}" if call.edge else "")
        record.endpoint = operations.aim(meta.world, operation.name, target, call.params)
        self._account = target.account
        self._note(target, call.params)
        meta.usage.count(target.account, now)
        request = Request(
            host=call.host,
            params=call.params,
            target=target,
            now=now,
        )
        return operation, request

    def _note(self, target: operations.Target, params: dict[str, Any]) -> None:
        record = self._record
        record.account_id = target.account.id
        about = target.person.id if target.person else text_of(params.get("user_id"))
        record.person_id = about
        record.comment_id = target.comment.id if target.comment else None
        record.tag = text_of(params.get("tag"))
        message = operations.decoded(params.get("message"))
        if isinstance(message, dict):
            record.text = text_of(message.get("text"))
            record.metadata = text_of(message.get("metadata"))
        else:
            record.text = text_of(message)

    def _strike(self, request: Request) -> Fault | None:
        record = self._record
        struck = self._meta.faults.strike(
            request.account.id, record.endpoint, record.person_id, request.now
        )
        if struck is None:
            return None
        record.fault, fault = struck
        return fault

    async def _execute(
        self, operation: operations.Operation, request: Request, fault: Fault | None
    ) -> None:
        meta = self._meta
        wait = meta.latency.draw(self._record.endpoint) + (fault.late if fault else 0)
        if wait:
            await asyncio.sleep(wait)
        if fault and not fault.created:
            await self._pause(fault)
            await self._misbehave(fault, {})
            return
        request.now = meta.clock()
        outcome = operation.run(meta, request)
        if outcome.created:
            meta.ledger.created(self._record, outcome.created)
        if outcome.sent:
            await meta.echo_sent(request.account, outcome.sent)
        await self._pause(fault)
        await self._answer(outcome, fault)

    async def _pause(self, fault: Fault | None) -> None:
        if fault and fault.seconds:
            await asyncio.sleep(fault.seconds)

    async def _answer(self, outcome: Outcome, fault: Fault | None) -> None:
        if fault and fault.answer is not Answer.NORMAL:
            await self._misbehave(fault, outcome.answer)
        else:
            await self._reply(outcome.answer)

    async def _reply(self, answer: dict[str, Any]) -> None:
        await self._write(Replied(status=200, body=wire.encode(answer)), "normal")

    async def _refuse(self, refusal: Refusal, answer: str = "refused") -> None:
        self._record.code, self._record.subcode = refusal.code, refusal.subcode
        body = wire.encode(refusal.body(self._meta.world.noise.trace()))
        reason = f'OAuth "Facebook Platform" "invalid_request" "{refusal.message}"'
        headers = [(b"www-authenticate", reason.encode("ascii", "replace"))]
        await self._write(Replied(status=refusal.status, body=body, headers=headers), answer)

    async def _misbehave(self, fault: Fault, result: dict[str, Any]) -> None:
        """Answers as the fault says; ``result`` is what an honest answer would be."""
        encoded = wire.encode(result)
        match fault.answer:
            case Answer.NORMAL:
                await self._reply(result)
            case Answer.ERROR:
                await self._refuse(fault.refusal, "error")
            case Answer.CUT:
                self._close("cut")
            case Answer.HALF:
                await self._write_half(encoded)
            case Answer.EMPTY:
                await self._write(Replied(status=200, body=b""), "empty")
            case Answer.HTML:
                page = Replied(status=200, body=HTML, content_type=b"text/html; charset=utf-8")
                await self._write(page, "html")
            case Answer.TRUNCATED:
                cut = Replied(status=200, body=encoded[: len(encoded) // 2])
                await self._write(cut, "truncated")
            case Answer.BARE:
                await self._write(Replied(status=fault.status, body=b""), "bare")

    async def _write(self, replied: Replied, answer: str) -> None:
        await self._send(self._start(replied, len(replied.body)))
        await self._send({"type": "http.response.body", "body": replied.body})
        self._finish(answer, replied.status)

    async def _write_half(self, body: bytes) -> None:
        await self._send(self._start(Replied(status=200, body=body), len(body)))
        half = body[: len(body) // 2]
        await self._send({"type": "http.response.body", "body": half, "more_body": True})
        self._close("half")

    def _start(self, replied: Replied, length: int) -> dict[str, Any]:
        headers = [
            (b"content-type", replied.content_type),
            (b"content-length", str(length).encode()),
            (b"facebook-api-version", self._call.version.encode()),
            (b"cache-control", b"no-store"),
            *replied.headers,
        ]
        if self._account:
            headers += self._meta.usage.headers(self._account, self._meta.clock())
        return {"type": "http.response.start", "status": replied.status, "headers": headers}

    def _close(self, answer: str) -> None:
        self._cut()
        self._finish(answer, None)

    def _finish(self, answer: str, status: int | None) -> None:
        self._meta.ledger.finish(self._record, answer, status, self._meta.clock())

    def _debug_token(self) -> dict[str, Any]:
        """Asked with the app's own token, or with one of its accounts'."""
        meta, record = self._meta, self._record
        record.endpoint, record.shape = "debug_token", "/debug_token"
        if self._call.method != "GET":
            raise Refused(unsupported("debug_token"))
        app_tokens = {f"{meta.app.id}|{meta.app.secrets.app}"}
        if self._shown.token in app_tokens:
            record.proof = "unused"
        else:
            tokens.identify(meta.world, self._shown, self._call.host, meta.clock())
        input_token = str(self._call.query.get("input_token", ""))
        if not input_token:
            raise Refused(refusals.parameter("The parameter input_token is required"))
        return tokens.debug(meta.world, meta.app.id, input_token, meta.clock())


def text_of(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def read(scope: Scope, body: bytes) -> Call:
    """The call in a request; a body that can't be read counts as empty."""
    host, *parts = [part for part in scope["path"].split("/") if part]
    version = parts.pop(0) if parts and VERSION.fullmatch(parts[0]) else NEWEST
    headers = dict(scope["headers"])
    return Call(
        host=Host(host),
        method=scope["method"],
        version=version,
        node=parts[0] if parts else "",
        edge="/".join(parts[1:]),
        query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
        form=read_form(body, headers.get(b"content-type", b"")),
        authorization=headers.get(b"authorization", b"").decode("latin-1"),
    )


def read_form(body: bytes, content_type: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if content_type.startswith(b"application/json"):
        try:
            decoded = msgspec.json.decode(body)
        except msgspec.DecodeError:
            return {}
        return decoded if isinstance(decoded, dict) else {}
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


async def body_of(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= BODY_MAX:
            chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
