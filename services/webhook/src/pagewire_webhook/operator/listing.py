"""Lists: how much of one is asked for, and where it goes on."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pagewire_webhook.operator.values import Id

NextPageToken: TypeAlias = Annotated[
    str, Meta(description="The page_token of what follows; absent at the end.")
]


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a list that is asked for."""

    page_size: Annotated[
        int, Meta(ge=1, le=2**31 - 1, description="How many; more than 1,000 is as 1,000.")
    ] = 50
    page_token: Annotated[str, Meta(description="The next_page_token of the answer before.")] = ""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """What every list's answer has beside its items."""

    next_page_token: NextPageToken | UnsetType = UNSET


class ArchivedListing(Listing, frozen=True, kw_only=True):
    """A list from which what is archived is left out unless asked for."""

    archived: Annotated[
        Literal["include"] | None, Meta(description="With `include` also what is archived.")
    ] = None


class ArchivedPageListing(ArchivedListing, frozen=True, kw_only=True):
    """Such a list of one page's."""

    page_id: Annotated[Id, Meta(description="The page.")]


class PageListing(Listing, frozen=True, kw_only=True):
    """A list of one page's, or of all pages'."""

    page_id: Annotated[Id | None, Meta(description="The page; of all pages without it.")] = None


def next_token(token: str) -> str | UnsetType:
    """A response's token, absent at the end."""
    return token or UNSET
