"""The `pagewire` command: its groups, and the one place where failures become exit codes."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from pagewire_cli import decisions, pages, parked, quarantine, replies, rules, runs, status, sync
from pagewire_cli.connection import ROLE, person
from pagewire_cli.exits import Exit, Failure, Misused
from pagewire_cli.output import remark
from pagewire_runtime.auth import Caller, actor_from, calling_as

HELP = """Operate Pagewire: pages, rules, decisions, replies, history, and what waits for a person.

It finds the Pagewire that `make up` started (its folder .pagewire here, above, or in
PAGEWIRE_DATA_DIR), or the one that STORE_TARGET, RULES_TARGET, SYNC_TARGET and SERVICE_TOKENS
(and, with mutual TLS, TLS_CERT_FILE, TLS_KEY_FILE, TLS_CA_FILE) name.

\b
Exit codes: 0 done; 1 refused, or not well; 2 wrong usage; 3 Pagewire can't be reached.

\b
pagewire status
pagewire pages connect 101 --platform messenger --name "Corner shop"
pagewire sync --all
pagewire rules apply rules.json
pagewire decisions tail --follow
"""

app = typer.Typer(
    help=HELP,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"max_content_width": 100},
    pretty_exceptions_enable=False,
)
app.add_typer(pages.app, name="pages")
app.add_typer(rules.app, name="rules")
app.add_typer(decisions.app, name="decisions")
app.command()(replies.reply)
app.command()(status.status)
app.command()(sync.sync)
app.command()(sync.repair)
app.add_typer(runs.app, name="runs")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(parked.app, name="parked")


@app.callback()
def named(
    context: typer.Context,
    actor: Annotated[
        str, typer.Option(help="Who acts, for the audit; else your user name and this machine's.")
    ] = "",
) -> None:
    """Says in whose name the services are called."""
    who = actor or person()
    if actor_from(who) is None:
        raise Misused("--actor must be 1 to 128 printable ASCII characters")
    context.with_resource(calling_as(Caller(ROLE, who)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; no failure that a person can cause is a trace."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        return int(_run(given))
    except TyperException as wrong:
        remark(" ".join(wrong.format_message().split()))
        return Exit.USAGE
    except Failure as failure:
        remark(str(failure))
        return failure.exit
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Who reads has seen enough, as `head` does; nothing may be flushed at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _run(arguments: Sequence[str]) -> int:
    result: Any = app(arguments, prog_name="pagewire", standalone_mode=False)
    sys.stdout.flush()
    return result if isinstance(result, int) else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
