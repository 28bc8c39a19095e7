"""One call, alone or in a batch, from its reading to its answer and its record."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from pagewire_simulator import calls, operations, refusals, token_calls, tokens, wire
from pagewire_simulator.adopting import adopt
from pagewire_simulator.calls import Call
from pagewire_simulator.entities import Account, Token
from pagewire_simulator.faults import Answer, Fault
from pagewire_simulator.ledger import CallRecord
from pagewire_simulator.meta import Meta
from pagewire_simulator.operations import Operation
from pagewire_simulator.paging import Paging
from pagewire_simulator.refusals import Refusal, Refused
from pagewire_simulator.replies import Header, Reply, refused, spoiled
from pagewire_simulator.targets import Outcome, Request, Target, find

IDS_MAX = 50
SIGNED = "_fb_batch_child_request"


async def answer(meta: Meta, call: Call) -> Reply:
    """Answers a call: of one node, or of several (``?ids=``), each of which counts as one."""
    if call.method == "GET" and "ids" in call.query:
        return await Several(meta, call).answer()
    if call.method == "GET" and meta.options.rendered:
        return await kept(meta, call)
    return await Answering(meta, call).answer()


async def kept(meta: Meta, call: Call) -> Reply:
    """The answer as it was rendered before, or rendered now and kept for the next."""
    if found := meta.rendered.find(call, meta.world.revisions):
        account, reply = found
        meta.ledger.rendered[account] += 1
        return reply
    answering = Answering(meta, call)
    reply = await answering.answer()
    if reply.answer == "normal" and (account_ := answering.account):
        meta.rendered.keep(call, account_.id, meta.world.revisions[account_.id], reply)
    return reply


class Answering:
    """A call of one node."""

    def __init__(self, meta: Meta, call: Call) -> None:
        self._meta = meta
        self._call = call
        self.account: Account | None = None
        self._undone: Callable[[], Outcome] | None = None
        self._record = meta.ledger.begin(
            CallRecord(
                serial=0,
                started_at=meta.clock(),
                host=call.host,
                method=call.method,
                shape=f"/{call.edge}" if call.edge else "/",
                endpoint="unknown",
                token_in_url=call.shown.in_url,
                input_token_in_url=not call.batch and "input_token" in call.query,
                batch=call.batch or None,
            )
        )

    async def answer(self) -> Reply:
        try:
            reply = await self._answer()
        except Refused as raised:
            reply = self._refused(raised.refusal)
        except asyncio.CancelledError:
            self._abandon()
            raise
        self._meta.ledger.finish(self._record, reply.answer, reply.told, self._meta.clock())
        return reply

    async def _answer(self) -> Reply:
        meta, call, record = self._meta, self._call, self._record
        calls.check_version(call)
        if SIGNED in call.query:
            raise Refused(refusals.OUTSIDE_OF_BATCH)
        if about := token_calls.find(meta, call):
            record.endpoint, record.shape = about.name, f"/{about.name}"
            record.proof = "unused"
            fault = self._strike("")
            return await self._perform(lambda: Outcome(answer=about.run(meta, call)), fault)
        now = meta.clock()
        try:
            token, target, operation = self._recognise(now)
        except Refused:
            if self.account:
                meta.usage.note(self.account, now)
            raise
        meta.usage.count(target.account, now)
        if operation.reads:
            meta.limits.read_conversations(target.account, now)
        request = self._request(token, target, now)
        fault = self._strike(target.account.id)
        way = fault.answer if fault else Answer.NORMAL
        request.paging.circles = way is Answer.CIRCLE
        request.paging.strays = way is Answer.ELSEWHERE
        request.paging.forgets = way is Answer.FORGETFUL

        def run() -> Outcome:
            request.now = meta.clock()
            return operation.run(meta, request)

        return await self._perform(run, fault)

    def _recognise(self, now: int) -> tuple[Token, Target, Operation]:
        """Who calls, for what; raises Refused for what Graph would not start on."""
        meta, call, record = self._meta, self._call, self._record
        if meta.options.adopt:
            adopt(meta.world, call.host, call.node, call.edge, call.params, call.shown, now)
        self._attribute()
        token = tokens.identify(meta.world, call.shown, call.host, now)
        record.proof = tokens.judge_proof(meta.app.secrets.of(token.host), call.shown, now)
        tokens.check_proof(record.proof, required=meta.options.require_proof)
        target = find(meta.world, token, call.node)
        operation = operations.operation(call.method, call.node, call.edge, target)
        record.shape = f"/{{{target.kind}}}" + (f"/{call.edge}" if call.edge else "")
        record.endpoint = operations.aim(meta.world, operation.name, target, call.params)
        self.account = target.account
        self._note(target, call.params)
        return token, target, operation

    def _attribute(self) -> None:
        """Whose call it is shows by its token, also where that is refused."""
        world, shown = self._meta.world, self._call.shown.token
        token = world.tokens.get(shown or "")
        own = sorted(
            world.accounts_of(token.node) if token else (),
            key=lambda account: account.id != self._call.node,
        )
        if own:
            self.account, self._record.account_id = own[0], own[0].id

    def _request(self, token: Token, target: Target, now: int) -> Request:
        meta, call = self._meta, self._call
        paging = Paging(
            seed=meta.seed,
            reading=meta.options.reading_of(target.account),
            root=call.root,
            token=token.value,
            signed=self._signature(now),
        )
        return Request(
            host=call.host,
            node=token.node if call.node == "me" else call.node,
            edge=call.edge,
            params=call.params,
            target=target,
            paging=paging,
            now=now,
        )

    def _signature(self, now: int) -> dict[str, Any]:
        """What marks addresses as good inside a batch only."""
        if not self._call.batch:
            return {}
        signature = self._meta.world.noise.signature()
        return {SIGNED: 1, "_fb_batch_expires": now // 1000 + 60, "_fb_batch_sig": signature}

    def _note(self, target: Target, params: dict[str, Any]) -> None:
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

    def _strike(self, account: str) -> Fault | None:
        record = self._record
        struck = self._meta.strike(
            account, record.endpoint, record.person_id, in_batch=bool(self._call.batch)
        )
        if struck is None:
            return None
        record.fault, fault = struck
        return fault

    async def _perform(self, run: Callable[[], Outcome], fault: Fault | None) -> Reply:
        in_batch = bool(self._call.batch)
        wait = self._meta.latency.draw(self._record.endpoint, in_batch=in_batch)
        wait += fault.late if fault else 0
        takes_effect = fault is None or fault.created
        self._undone = run if takes_effect else None
        if wait:
            await asyncio.sleep(wait)
        if fault and not takes_effect:
            await self._pause(fault)
            return self._spoiled(fault, {})
        self._undone = None
        outcome = run()
        await self._follow(outcome, wait)
        await self._pause(fault)
        return self._spoiled(fault, outcome.answer) if fault else self._normal(outcome.answer)

    async def _follow(self, outcome: Outcome, waited: float) -> None:
        """What follows from what the call did: records, echoes, arrivals, and time."""
        meta, account = self._meta, self.account
        if outcome.created:
            meta.ledger.created(self._record, outcome.created)
        if account is None:
            return
        if outcome.sent:
            await meta.echo_sent(account, outcome.sent)
        if extra := meta.latency.showing(outcome.items):
            await asyncio.sleep(extra)
        meta.usage.charge(account, waited + extra, outcome.items)
        meta.arrivals.answered(account.id, self._record.endpoint)

    async def _pause(self, fault: Fault | None) -> None:
        if fault and fault.seconds:
            await asyncio.sleep(fault.seconds)

    def _abandon(self) -> None:
        """The batch ended before the call: it took effect all the same, or it did not."""
        meta, undone = self._meta, self._undone
        if undone is not None and meta.chance.takes_effect(meta.options.batch.written):
            try:
                outcome = undone()
            except Refused:
                outcome = Outcome(answer={})
            if outcome.created:
                meta.ledger.created(self._record, outcome.created)
            if outcome.sent and self.account:
                meta.echo_later(self.account, outcome.sent)
        meta.ledger.finish(self._record, "unfinished", None, meta.clock())

    def _normal(self, result: dict[str, Any]) -> Reply:
        return Reply(status=200, body=wire.encode(result), headers=self._headers())

    def _spoiled(self, fault: Fault, result: dict[str, Any]) -> Reply:
        """Answers as the fault says; ``result`` is what an honest answer would be."""
        if fault.answer is Answer.ERROR:
            self._record.code, self._record.subcode = fault.refusal.code, fault.refusal.subcode
        return spoiled(self._normal(result), fault, self._meta.world.noise.trace())

    def _refused(self, refusal: Refusal) -> Reply:
        self._record.code, self._record.subcode = refusal.code, refusal.subcode
        return refused(refusal, self._meta.world.noise.trace(), self._headers())

    def _headers(self) -> list[Header]:
        """Usage is told with errors too."""
        headers = plain_headers(self._call.version)
        if self.account:
            headers += self._meta.usage.headers(self.account, self._meta.clock())
        return headers


class Several:
    """``?ids=a,b``: the same read of several nodes. One that can't be read refuses them all."""

    def __init__(self, meta: Meta, call: Call) -> None:
        self._meta = meta
        self._call = call

    async def answer(self) -> Reply:
        call = self._call
        ids = list(dict.fromkeys(filter(None, str(call.query["ids"]).split(","))))
        if not 0 < len(ids) <= IDS_MAX:
            problem = f"Too many IDs. Maximum: {IDS_MAX}. Provided: {len(ids)}"
            return self._refused(refusals.parameter(problem))
        query = {key: value for key, value in call.query.items() if key != "ids"}
        replies = await asyncio.gather(
            *(
                Answering(
                    self._meta,
                    msgspec.structs.replace(call, node=one, edge=call.node, query=query),
                ).answer()
                for one in ids
            )
        )
        for one, reply in zip(ids, replies, strict=True):
            if reply.failed or not reply.body:
                return self._unreadable(one, reply)
        found = {one: msgspec.Raw(reply.body) for one, reply in zip(ids, replies, strict=True)}
        return msgspec.structs.replace(replies[-1], body=msgspec.json.encode(found))

    def _unreadable(self, node: str, reply: Reply) -> Reply:
        is_unknown = b'"error_subcode":33' in reply.body
        return self._refused(refusals.unknown_alias(node)) if is_unknown else reply

    def _refused(self, refusal: Refusal) -> Reply:
        headers = plain_headers(self._call.version)
        return refused(refusal, self._meta.world.noise.trace(), headers)


def plain_headers(version: str) -> list[Header]:
    return [(b"facebook-api-version", version.encode()), (b"cache-control", b"no-store")]


def text_of(value: Any) -> str | None:
    return value if isinstance(value, str) else None
