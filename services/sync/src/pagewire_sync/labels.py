"""Labels: a page's label by name, found or made, put on a person or taken away (Meta's page on
custom labels).

Meta makes a second label of the same name without a word, so a page's labels are read before one is
made, by one at a time, and then known.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

from pagewire.store.v1.outbox_service_pb2 import ClaimedReply
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Answer, Credentials, Graph, OutcomeUnknown

PAGES = 20
"""So many pages of labels are read to find one: 2,000 labels."""

Turn = Callable[[], Awaitable[None]]
"""Returns when the next call may go out."""


class LabelRefused(Exception):
    """Graph refused a call on the way."""

    def __init__(self, error: GraphError) -> None:
        super().__init__(error.reason)
        self.error = error


class Labels:
    """Puts labels on people, and takes them away. Repeating it changes nothing."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def apply(
        self, credentials: Credentials, reply: ClaimedReply, turn: Turn
    ) -> Answer | GraphError:
        """Do what the reply says, with a `turn` before each call.

        Raises NotSent, OutcomeUnknown, and what `turn` raises.
        """
        adds = reply.kind == ReplyKind.REPLY_KIND_ADD_LABEL
        try:
            label_id = await self._id(credentials, reply.label, turn, make=adds)
            if not label_id:
                return Answer({"success": True})
            return await self._set(credentials, label_id, reply.person_id, turn, adds=adds)
        except LabelRefused as refused:
            return refused.error

    async def _set(
        self, credentials: Credentials, label_id: str, person_id: str, turn: Turn, *, adds: bool
    ) -> Answer | GraphError:
        whom = {"user": person_id}
        await turn()
        if adds:
            done = await self._graph.post(
                credentials, label_id, "label", whom, operation="add_label"
            )
        else:
            done = await self._graph.delete(
                credentials, label_id, "label", whom, operation="remove_label"
            )
        if isinstance(done, GraphError) and done.failure in (Failure.PARAMETER, Failure.GONE):
            self._known.pop(credentials.page_id, None)  # it may have been deleted by hand
        return done

    async def _id(self, credentials: Credentials, name: str, turn: Turn, *, make: bool) -> str:
        """The label's id; empty where the page has none of that name, and none is to be made."""
        async with self._making[credentials.page_id]:
            known = self._known[credentials.page_id]
            if name not in known:
                known.update(await self._listed(credentials, turn))
            if name not in known and make:
                known[name] = await self._made(credentials, name, turn)
            return known.get(name, "")

    async def _made(self, credentials: Credentials, name: str, turn: Turn) -> str:
        await turn()
        answer = await self._graph.post(
            credentials,
            credentials.node_id,
            "custom_labels",
            {"page_label_name": name},
            operation="create_label",
        )
        label_id = _accepted(answer).body.get("id")
        if not isinstance(label_id, str) or not label_id:
            raise OutcomeUnknown("answer_incomplete")
        return label_id

    async def _listed(self, credentials: Credentials, turn: Turn) -> dict[str, str]:
        """Ids by name; of two with one name the first."""
        found: dict[str, str] = {}
        params = {"fields": "page_label_name", "limit": "100"}
        for _ in range(PAGES):
            await turn()
            answer = await self._graph.get(
                credentials, credentials.node_id, "custom_labels", params, operation="list_labels"
            )
            labels, after = read_labels(_accepted(answer))
            for name, label_id in labels:
                found.setdefault(name, label_id)
            if not after:
                break
            params["after"] = after
        return found


def read_labels(answer: Answer) -> tuple[list[tuple[str, str]], str]:
    """Names with ids of one page of labels, and the cursor of the next; empty at the end.

    Raises OutcomeUnknown for what is no such list.
    """
    data, paging = answer.body.get("data"), answer.body.get("paging")
    if not isinstance(data, list):
        raise OutcomeUnknown("answer_unreadable")
    labels = [
        (str(label.get("page_label_name", "")), str(label["id"]))
        for label in data
        if isinstance(label, dict) and "id" in label
    ]
    if not isinstance(paging, dict) or "next" not in paging:
        return labels, ""
    cursors = paging.get("cursors")
    return labels, str(cursors.get("after", "")) if isinstance(cursors, dict) else ""


def _accepted(answer: Answer | GraphError) -> Answer:
    if isinstance(answer, GraphError):
        raise LabelRefused(answer)
    return answer
