"""A page's labels, read once in a full run; who wears one is told by own writes and webhooks."""

from pagewire.type.v1.page_pb2 import Platform
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync.asking import Asking, RunFailed, is_trouble
from pagewire_sync.budget import Product
from pagewire_sync.results import Failed
from pagewire_sync.shown import Unshown, edge_of, label_of
from pagewire_sync.trail import Trail, TrailLost
from pagewire_sync.upserting import Rows, Upserting

log = get_logger(__name__)

LIMIT = 100


async def mirror_labels(asking: Asking, store: Upserting) -> None:
    """Store the page's labels (Messenger alone has any: Meta's page on custom labels).

    A page whose labels Graph refuses, as it does before Meta's terms are accepted, goes without.
    Raises RunFailed.
    """
    credentials = asking.credentials
    if credentials.platform == Platform.PLATFORM_INSTAGRAM:
        return
    try:
        reason = await _mirror(asking, store)
    except (Unshown, TrailLost) as why:
        reason = why.reason
    except RunFailed as failed:
        if failed.reason != "permission":
            raise
        reason = failed.reason
    if reason:
        log.warning("a page's labels can't be read", reason=reason, page=ref(credentials.page_id))


async def _mirror(asking: Asking, store: Upserting) -> str:
    trail = Trail()
    while True:
        params = {"fields": "page_label_name", "limit": str(LIMIT)}
        outcome = await asking.once(
            asking.credentials.node_id,
            "custom_labels",
            params | ({"after": trail.here} if trail.here else {}),
            operation="list_labels",
            product=Product.PAGE,
            batched=True,
        )
        if isinstance(outcome, Failed):
            return "graph_unavailable" if is_trouble(outcome) else outcome.reason
        edge = edge_of(outcome.body)
        rows = Rows(outcome.read_time)
        for item in edge.items:
            try:
                rows.labels.append(label_of(item))
            except Unshown as why:
                log.warning("Graph showed what is no label", reason=why.reason)
        await store.put(rows)
        if not edge.after:
            return ""
        trail.goes_on(edge.after, [label.label_id for label in rows.labels])
