"""A page's labels, read in its first run and in full ones; who wears one is told by own writes and
webhooks.
"""

from pagewire.type.v1.page_pb2 import Platform
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync.asking import PAUSES, Asking, RunFailed, goes_without, is_too_much, is_trouble
from pagewire_sync.budget import Product
from pagewire_sync.results import Done, Failed
from pagewire_sync.shown import Unshown, edge_of, label_of
from pagewire_sync.trail import Trail, TrailLost
from pagewire_sync.upserting import Rows, Upserting

log = get_logger(__name__)

LIMIT = 100
PATIENCE = PAUSES[:2]
"""A burst of errors is outlived; for longer no run waits for labels, which the next one reads."""


async def mirror_labels(asking: Asking, store: Upserting) -> str:
    """Store the page's labels (Messenger alone has any: Meta's page on custom labels); why Graph
    did not give them, empty where all are stored.

    A page whose labels Graph refuses, as it does before Meta's terms are accepted, goes without:
    empty, too. Raises RunFailed.
    """
    credentials = asking.credentials
    if credentials.platform == Platform.PLATFORM_INSTAGRAM:
        return ""
    try:
        failed = await _mirror(asking, store)
    except (Unshown, TrailLost) as why:
        reason = why.reason
    except RunFailed as why:
        if why.reason != "permission":
            raise
        goes_without(credentials, "labels", why.reason)
        return ""
    else:
        if failed is None:
            return ""
        reason = failed.reason
        if not is_trouble(failed) and not is_too_much(failed):
            goes_without(credentials, "labels", reason)
            return ""
    log.warning("a page's labels can't be read", reason=reason, page=ref(credentials.page_id))
    return reason


async def _mirror(asking: Asking, store: Upserting) -> Failed | None:
    """The answer that was none; None where all are stored. Raises Unshown, TrailLost, RunFailed."""
    trail = Trail()
    while True:
        params = {"fields": "page_label_name", "limit": str(LIMIT)}
        outcome = await asking.again(
            PATIENCE,
            asking.credentials.node_id,
            "custom_labels",
            params | ({"after": trail.here} if trail.here else {}),
            operation="list_labels",
            product=Product.PAGE,
            batched=True,
        )
        if isinstance(outcome, Failed):
            return outcome
        if not await _keep(outcome, trail, store):
            return None


async def _keep(read: Done, trail: Trail, store: Upserting) -> bool:
    """Store a page of them; whether there are more. Raises Unshown, TrailLost."""
    edge = edge_of(read.body)
    rows = Rows(read.read_time)
    for item in edge.items:
        try:
            rows.labels.append(label_of(item))
        except Unshown as why:
            log.warning("Graph showed what is no label", reason=why.reason)
    await store.put(rows)
    if edge.after:
        trail.goes_on(edge.after, [label.label_id for label in rows.labels])
    return bool(edge.after)
