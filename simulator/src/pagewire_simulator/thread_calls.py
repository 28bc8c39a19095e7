"""Reading conversations and messages: the lists, the nodes, the edges between them.

Every one of these counts against the two calls a second of its account. Source: the Conversations
API, its reference, and the rate limits of the Messenger Platform.
"""

from typing import Any

from pagewire_simulator import refusals
from pagewire_simulator.entities import Account
from pagewire_simulator.meta import Meta
from pagewire_simulator.paging import Wanted
from pagewire_simulator.refusals import Refused
from pagewire_simulator.targets import Outcome, Request
from pagewire_simulator.threads import Threads
from pagewire_simulator.world import World


def account_meant(world: World, account: Account, params: dict[str, Any]) -> Account:
    """``platform`` chooses between a Page and its Instagram account."""
    platform = str(params.get("platform", "")).lower() or account.platform
    return next((a for a in world.accounts_of(account.node) if a.platform == platform), account)


def list_conversations(meta: Meta, request: Request) -> Outcome:
    """Newest first, whatever ``since`` and ``until`` say; ``user_id`` is the one thread with that
    person.
    """
    user, folder = request.params.get("user_id"), request.params.get("folder")
    found = meta.world.newest_first(request.account)
    if user or folder:
        found = [
            thread
            for thread in found
            if user in (None, thread.person_id) and folder in (None, thread.folder)
        ]
    threads = threads_of(meta, request)
    return Outcome(answer=threads.page(found, request.wanted, request.fields), items=threads.shown)


def read_thread(meta: Meta, request: Request) -> Outcome:
    threads = threads_of(meta, request)
    threads.weigh(1, request.fields)
    return Outcome(answer=threads.thread(request.thread, request.fields), items=threads.shown)


def list_messages(meta: Meta, request: Request) -> Outcome:
    threads = threads_of(meta, request)
    threads.weigh(request.wanted.limit, ())
    answer = threads.messages(request.thread, request.wanted, request.fields)
    return Outcome(answer=answer, items=threads.shown)


def read_message(meta: Meta, request: Request) -> Outcome:
    threads = threads_of(meta, request)
    if not threads.is_told(request.thread, request.message):
        raise Refused(refusals.GONE)
    return Outcome(answer=threads.message(request.message, request.fields))


def list_attachments(meta: Meta, request: Request) -> Outcome:
    threads = threads_of(meta, request)
    if not threads.is_told(request.thread, request.message):
        raise Refused(refusals.GONE)
    return Outcome(
        answer=threads.attachments(request.message, Wanted(after=request.params.get("after")))
    )


def threads_of(meta: Meta, request: Request) -> Threads:
    return Threads(
        world=meta.world,
        account=request.account,
        paging=request.paging,
        now=request.now,
        until=request.now - int(meta.options.read_lag * 1000),
        noise=meta.world.noise,
    )
