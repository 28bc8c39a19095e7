"""The rules service, put together."""

from collections.abc import Sequence
from functools import partial

from pagewire.rules.v1.rule_service_pb2_grpc import add_RuleServiceServicer_to_server
from pagewire.store.v1.rule_book_service_pb2_grpc import RuleBookServiceStub
from pagewire_rules.access import METHOD_ROLES
from pagewire_rules.books import Books, StoreShelf
from pagewire_rules.servicer import RuleServicer
from pagewire_rules.settings import Settings
from pagewire_runtime import logs, metrics
from pagewire_runtime.calling import channel
from pagewire_runtime.commandline import command_line
from pagewire_runtime.serving import run, serving, until_signalled
from pagewire_runtime.settings import load

STORE = "/pagewire.store.v1.RuleBookService/"
REPEATABLE = (STORE + "GetRuleBooks", STORE + "GetRule", STORE + "ListRules")
MESSAGE_BYTES = 16 * 2**20  # a claim's worth of events, and whole rule books


async def serve(settings: Settings) -> None:
    """Serve until a signal comes, then drain."""
    token = settings.own_token("rules")
    async with channel(
        settings.store_target,
        token=token,
        repeatable=REPEATABLE,
        max_message_bytes=MESSAGE_BYTES,
        tls=settings.tls,
    ) as to_store:
        store = RuleBookServiceStub(to_store)
        servicer = RuleServicer(store, Books(StoreShelf(store)))
        async with serving(
            settings.listen,
            partial(add_RuleServiceServicer_to_server, servicer),
            tokens=settings.service_tokens,
            method_roles=METHOD_ROLES,
            unready_wait=settings.unready_wait,
            reflection=["pagewire.rules.v1.RuleService"] if settings.grpc_reflection else None,
            max_message_bytes=MESSAGE_BYTES,
            tls=settings.tls,
            insecure=settings.grpc_insecure,
        ):
            await until_signalled()


async def start() -> None:
    """Read the settings, then serve."""
    settings = load(Settings)
    logs.configure("rules", settings.log_level)
    with metrics.expose(settings.metrics_listen):
        await serve(settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the service until it is told to stop."""
    what = "Checks rules before they are kept, and says what they call for."
    command_line("pagewire_rules", what, Settings).parse_args(arguments)
    run(start)
