"""Lists: the options that every list command has, and the calls that fetch them."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from google.protobuf.message import Message

from pagewire_cli.shapes import Json, to_json

PAGE_SIZE_MAX = 1000

PageSize = Annotated[
    int, typer.Option("--page-size", min=1, max=PAGE_SIZE_MAX, help="How many at the most.")
]
PageToken = Annotated[
    str, typer.Option("--page-token", help="Go on where an answer's next_page_token says.")
]
Everything = Annotated[bool, typer.Option("--all", help="All of them, however many.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")]


async def fetched(
    call: Callable[[Any], Awaitable[Any]],
    request: Message,
    items: str,
    *,
    page_size: int,
    page_token: str = "",
    everything: bool = False,
) -> Json:
    """`{<items>: […]}`, and `next_page_token` where there is more, as the HTTP API answers.

    `items` is the name of the response's repeated field.
    """
    asked: Any = request
    asked.page_size = PAGE_SIZE_MAX if everything else page_size
    asked.page_token = page_token
    found: list[Json] = []
    while True:
        answer = await call(asked)
        found += [to_json(item) for item in getattr(answer, items)]
        asked.page_token = answer.next_page_token
        if not (everything and answer.next_page_token):
            break
    more = {"next_page_token": asked.page_token} if asked.page_token else {}
    return {items: found} | more


def more_remark(answer: Json) -> str | None:
    """What a person is told where a list goes on."""
    token = answer.get("next_page_token")
    return f"there are more: --all shows them, or --page-token {token}" if token else None
