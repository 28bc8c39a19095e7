"""Labels: a page's label by name, found or made, put on a person or taken away (Meta's page on
custom labels).
"""

from pagewire.store.v1.outbox_service_pb2 import ClaimedReply
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import Answer, Credentials, Graph
from pagewire_sync.usage import Usage

PAGES = 20
"""So many pages of labels are read to find one: 2,000 labels."""


async def apply(
    graph: Graph, credentials: Credentials, reply: ClaimedReply
) -> tuple[Answer | GraphError, Usage]:
    """Put the label on the person, or take it away. Repeating it changes nothing.

    Raises NotSent or OutcomeUnknown.
    """
    found, usage = await _find(graph, credentials, reply.label)
    if isinstance(found, GraphError):
        return found, usage
    if reply.kind == ReplyKind.REPLY_KIND_REMOVE_LABEL:
        if not found:
            return Answer({"success": True}, usage), usage
        return await graph.delete(
            credentials, f"{found}/label", {"user": reply.person_id}, operation="remove_label"
        )
    if not found:
        made, usage = await graph.post(
            credentials,
            f"{credentials.node_id}/custom_labels",
            {"page_label_name": reply.label},
            operation="create_label",
        )
        if isinstance(made, GraphError):
            return made, usage
        found = str(made.body.get("id", ""))
    return await graph.post(
        credentials, f"{found}/label", {"user": reply.person_id}, operation="add_label"
    )


async def _find(
    graph: Graph, credentials: Credentials, name: str
) -> tuple[str | GraphError, Usage]:
    """The label's id; empty where the page has none of that name."""
    params = {"fields": "page_label_name", "limit": "100"}
    usage = Usage()
    for _ in range(PAGES):
        answer, usage = await graph.get(
            credentials, f"{credentials.node_id}/custom_labels", params, operation="list_labels"
        )
        if isinstance(answer, GraphError):
            return answer, usage
        for label in answer.body.get("data", ()):
            if label.get("page_label_name") == name:
                return str(label["id"]), usage
        paging = answer.body.get("paging", {})
        if "next" not in paging:
            break
        params["after"] = paging["cursors"]["after"]
    return "", usage
