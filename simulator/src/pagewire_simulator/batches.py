"""Batches: up to fifty operations in one request, each with its own token, answer and record.

Independent operations run side by side, dependent ones after what they depend on. What has not
ended when the batch's time is over is ``null`` or an error 960, and may have taken effect all the
same. Source: the page on batch requests, and what clients report of it.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pagewire_simulator import calls, jsonpath, refusals, tokens, wire
from pagewire_simulator.answering import answer, plain_headers
from pagewire_simulator.calls import Call
from pagewire_simulator.entities import Host
from pagewire_simulator.faults import BATCH, Answer
from pagewire_simulator.ledger import BatchRecord
from pagewire_simulator.meta import Meta
from pagewire_simulator.refusals import Refusal, Refused, unsupported
from pagewire_simulator.replies import Reply, refused, spoiled

REFERENCE = re.compile(r"\{result=([^:{}]+):(\$[^{}]*)\}")
FALSE = ("false", "0", "")


class Operation(msgspec.Struct, kw_only=True):
    """One element of ``batch``."""

    method: str = "GET"
    relative_url: str
    body: str = ""
    headers: list[Any] = []
    name: str | None = None
    depends_on: str | None = None
    omit_response_on_success: bool = True
    attached_files: str | None = None

    @property
    def references(self) -> set[str]:
        """The names of the operations that must have ended before."""
        found = REFERENCE.findall(self.relative_url) + REFERENCE.findall(self.body)
        names = {name for name, _ in found}
        return names | {self.depends_on} if self.depends_on else names


Shown = dict[str, Any] | None


class Batch:
    """``meta`` acts, ``call`` carries the parameters ``batch`` and ``include_headers``."""

    def __init__(self, meta: Meta, call: Call) -> None:
        self._meta = meta
        self._call = call
        self._record = meta.ledger.begin_batch(
            BatchRecord(
                serial=0,
                started_at=meta.clock(),
                host=call.host,
                token_in_url=call.shown.in_url,
            )
        )

    async def answer(self) -> Reply:
        meta, record = self._meta, self._record
        struck = meta.strike("", BATCH, None, in_batch=False)
        record.fault, fault = struck or (None, None)
        try:
            operations = self._read()
            record.operations = len(operations)
            await asyncio.sleep(meta.latency.draw_batch(len(operations)))
            takes_effect = fault is None or fault.created
            reply = self._normal(await self._perform(operations) if takes_effect else [])
        except Refused as raised:
            reply = self._refused(raised.refusal)
        else:
            if fault:
                await asyncio.sleep(fault.seconds)
                reply = spoiled(reply, fault, meta.world.noise.trace())
        meta.ledger.finish_batch(record, reply.answer, reply.told, meta.clock())
        return reply

    def _read(self) -> list[Operation]:
        """The operations; raises Refused for what fails the batch as a whole."""
        meta, call, habits = self._meta, self._call, self._meta.options.batch
        calls.check_version(call)
        if call.host is Host.INSTAGRAM and not habits.instagram:
            raise Refused(unsupported(call.node))
        now = meta.clock()
        own = f"{meta.app.id}|{meta.app.secrets.app}"
        if call.shown.token != own:
            tokens.identify(meta.world, call.shown, call.host, now)
            secret = meta.app.secrets.of(call.host)
            proof = tokens.judge_proof(secret, call.shown, now)
            tokens.check_proof(proof, required=meta.options.require_proof)
        given = call.params["batch"]
        try:
            text = given if isinstance(given, str) else msgspec.json.encode(given)
            operations = msgspec.json.decode(text, type=list[Operation], strict=False)
        except msgspec.MsgspecError as error:
            raise Refused(
                refusals.batch(f"batch parameter must be a JSON array: {error}")
            ) from None
        if not 0 < len(operations) <= habits.most:
            problem = f"Too many requests in batch message. Maximum batch size is {habits.most}"
            raise Refused(refusals.batch(problem))
        check_order(operations)
        for operation in operations:
            named = filter(None, (operation.attached_files or "").split(","))
            if missing := [name for name in named if name not in call.files]:
                raise Refused(refusals.batch(f"File {missing[0]} has not been attached"))
        return operations

    async def _perform(self, operations: Sequence[Operation]) -> list[Shown]:
        """Every operation's element of the answer, in order."""
        tasks: list[asyncio.Task[Reply | None]] = []
        named: dict[str, asyncio.Task[Reply | None]] = {}
        for operation in operations:
            before = {name: named[name] for name in operation.references}
            task = asyncio.create_task(self._one(operation, before))
            tasks.append(task)
            if operation.name:
                named[operation.name] = task
        _, unfinished = await asyncio.wait(tasks, timeout=self._meta.options.batch.seconds)
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
        wanted = set().union(*(operation.references for operation in operations))
        return [
            self._element(operation, task, is_referred_to=operation.name in wanted)
            for operation, task in zip(operations, tasks, strict=True)
        ]

    async def _one(
        self, operation: Operation, before: dict[str, asyncio.Task[Reply | None]]
    ) -> Reply | None:
        """The operation's reply; None where one failed that it depends on."""
        results: dict[str, Any] = {}
        for name, task in before.items():
            reply = await asyncio.shield(task)
            if reply is None or reply.failed:
                return None
            results[name] = reply.body
        try:
            return await answer(self._meta, self._called(operation, results))
        except (ValueError, LookupError):  # an address or a reference that can't be read
            return self._refused(refusals.parameter("Invalid parameter"))

    def _called(self, operation: Operation, results: dict[str, bytes]) -> Call:
        call = self._call
        path = urlsplit(filled(operation.relative_url, results))
        version, node, edge = calls.address([p for p in path.path.split("/") if p], call.version)
        query, form = calls.pairs(path.query), calls.pairs(filled(operation.body, results))
        own = tokens.credentials(query, form, "")
        shown = own if own.token else call.shown
        return Call(
            host=call.host,
            method=operation.method.upper(),
            version=version,
            root=call.root.removesuffix(call.version) + version,
            node=node,
            edge=edge,
            query=query,
            form=form,
            shown=msgspec.structs.replace(shown, in_url=False),
            batch=self._record.serial,
        )

    def _element(
        self, operation: Operation, task: asyncio.Task[Reply | None], *, is_referred_to: bool
    ) -> Shown:
        if task.cancelled():
            return self._unfinished()
        reply = task.result()
        if reply is None or reply.way is not Answer.NORMAL:
            return None
        if is_referred_to and operation.omit_response_on_success and not reply.failed:
            return None
        return self._shown(reply)

    def _unfinished(self) -> Shown:
        if self._meta.chance.is_aborted(self._meta.options.batch.aborted):
            return self._shown(self._refused(refusals.ABORTED))
        return None

    def _shown(self, reply: Reply) -> dict[str, Any]:
        shown: dict[str, Any] = {"code": reply.status}
        if str(self._call.params.get("include_headers", "true")).lower() not in FALSE:
            given = [(b"Content-Type", b"text/javascript; charset=UTF-8"), *reply.headers]
            shown["headers"] = [
                {"name": name.decode().title(), "value": value.decode()} for name, value in given
            ]
        return shown | {"body": reply.body.decode("utf-8", "replace")}

    def _normal(self, shown: list[Shown]) -> Reply:
        headers = plain_headers(self._call.version)
        return Reply(status=200, body=wire.encode(shown), headers=headers)

    def _refused(self, refusal: Refusal) -> Reply:
        headers = plain_headers(self._call.version)
        return refused(refusal, self._meta.world.noise.trace(), headers)


def check_order(operations: Sequence[Operation]) -> None:
    """Raises Refused where one refers to what does not stand before it."""
    known: set[str] = set()
    for at, operation in enumerate(operations):
        for name in sorted(operation.references - known):
            # The spaces are Graph's.
            raise Refused(
                refusals.batch(
                    f"Request {at} cannot depend on an  unresolved request with  name {name}. "
                    "Requests can only depend on preceding requests"
                )
            )
        if operation.name:
            known.add(operation.name)


def filled(text: str, results: Mapping[str, bytes]) -> str:
    """The text with what its references lead to, several joined by commas.

    Raises ValueError for a path that can't be read.
    """

    def value(reference: re.Match[str]) -> str:
        name, path = reference.groups()
        found = jsonpath.find(path, msgspec.json.decode(results[name]))
        return ",".join(one if isinstance(one, str) else json_text(one) for one in found)

    return REFERENCE.sub(value, text)


def json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
