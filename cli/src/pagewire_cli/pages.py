"""`pagewire pages`: connect pages and accounts, list them, disconnect them."""

import getpass
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import grpc
import typer

from pagewire.store.v1.page_service_pb2 import (
    ConnectPageRequest,
    ConnectPageResponse,
    DisconnectPageRequest,
    DisconnectPageResponse,
    ListPagesRequest,
)
from pagewire.store.v1.page_service_pb2_grpc import PageServiceStub
from pagewire.type.v1.page_pb2 import Login, Page, Platform
from pagewire_cli import output
from pagewire_cli.asking import confirmed
from pagewire_cli.connection import ask
from pagewire_cli.exits import Failure, Misused
from pagewire_cli.listing import (
    AsJson,
    Everything,
    PageSize,
    PageToken,
    fetched,
    more_remark,
)
from pagewire_cli.shapes import Json, to_json

if TYPE_CHECKING:
    from pagewire.store.v1.page_service_pb2_grpc import PageServiceAsyncStub

app = typer.Typer(help="Pages and accounts: connect, list, disconnect.", rich_markup_mode=None)

TOKEN_VARIABLE = "PAGEWIRE_PAGE_TOKEN"  # noqa: S105 - a name


class PlatformName(StrEnum):
    """Meta's product, as a person writes it."""

    messenger = "messenger"
    instagram = "instagram"


class LoginName(StrEnum):
    """How a token was granted, as a person writes it."""

    facebook = "facebook"
    instagram = "instagram"


def _service(channel: grpc.aio.Channel) -> "PageServiceAsyncStub":
    return PageServiceStub(channel)


@app.command()
def connect(
    page_id: Annotated[str, typer.Argument(metavar="PAGE_ID", help="The Page's or account's id.")],
    platform: Annotated[PlatformName, typer.Option(help="Meta's product.")],
    name: Annotated[str, typer.Option(help="A name for people.")],
    login: Annotated[LoginName, typer.Option(help="Which login granted the token.")] = (
        LoginName.facebook
    ),
    facebook_page_id: Annotated[
        str, typer.Option(help="The Page that an Instagram account is linked to.")
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="A file that holds the access token, and nothing else.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Connect a page, or renew the token of a connected one.

    The token is read from --token-file, else from PAGEWIRE_PAGE_TOKEN, else from standard input,
    where it is asked for without showing it. It is never an argument: others could see that.

    \b
    pagewire pages connect 101 --platform messenger --name "Corner shop" --token-file token.txt
    pagewire pages connect 17841 --platform instagram --login instagram --name Corner
    """
    page = Page(
        page_id=page_id,
        platform=Platform.Value(f"PLATFORM_{platform.upper()}"),
        login=Login.Value(f"LOGIN_{login.upper()}"),
        facebook_page_id=facebook_page_id,
        name=name,
    )
    request = ConnectPageRequest(page=page, access_token=_access_token(token_file))

    async def work(channel: grpc.aio.Channel) -> ConnectPageResponse:
        return await _service(channel).ConnectPage(request)

    answer = ask("store", work)
    if as_json:
        output.document(to_json(answer.page))
        return
    done = "connected" if answer.created else "updated"
    print(f"{page_id} is {done}; sync now subscribes and checks it.")
    print("`pagewire pages list` shows whether token and subscription work.")


def _access_token(file: Path | None) -> str:
    """Raises Misused: it can't be read, or nothing is there."""
    if file is not None:
        try:
            token, source = file.read_text(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise Misused(f"--token-file: {file} can't be read: {_why(error)}") from None
    elif given := os.environ.get(TOKEN_VARIABLE):
        token, source = given, TOKEN_VARIABLE
    elif sys.stdin.isatty():
        token, source = getpass.getpass("Access token (not shown): "), "what was typed"
    else:
        token, source = sys.stdin.readline(), "standard input"
    if not token.strip():
        raise Misused(f"{source} holds no access token; give --token-file or {TOKEN_VARIABLE}")
    return token.strip()


def _why(error: Exception) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else "it is not text"


@app.command("list")
def list_pages(
    page_size: PageSize = 50,
    page_token: PageToken = "",
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List the connected pages, newest first, with the state of each.

    \b
    pagewire pages list
    pagewire pages list --all --json
    """

    async def work(channel: grpc.aio.Channel) -> Json:
        return await fetched(
            _service(channel).ListPages,
            ListPagesRequest(),
            "pages",
            page_size=page_size,
            page_token=page_token,
            everything=everything,
        )

    answer = ask("store", work)
    if as_json:
        output.document(answer)
        return
    output.table(
        ("PAGE", "PLATFORM", "LOGIN", "NAME", "STATE", "REASON", "CONNECTED", "SYNCED"),
        [
            (
                page["page_id"],
                page["platform"],
                page["login"],
                page["name"],
                page["state"],
                page["state_reason"],
                output.moment(page["connected_at"]),
                output.moment(page["last_synced_at"]),
            )
            for page in answer["pages"]
        ],
        empty="No page is connected; `pagewire pages connect --help` says how.",
    )
    if more := more_remark(answer):
        output.remark(more)


@app.command()
def disconnect(
    page_id: Annotated[str, typer.Argument(metavar="PAGE_ID", help="Which page.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Disconnect a page: its token is erased, replies not yet sent fail; what is stored stays.

    \b
    pagewire pages disconnect 101 --yes
    """
    if not yes and not confirmed(f"Disconnect {page_id}? Replies not yet sent will fail."):
        raise Failure("nothing was changed")

    async def work(channel: grpc.aio.Channel) -> DisconnectPageResponse:
        return await _service(channel).DisconnectPage(DisconnectPageRequest(page_id=page_id))

    ask("store", work)
    if as_json:
        output.document({"page_id": page_id, "disconnected": True})
        return
    print(f"{page_id} is disconnected.")
