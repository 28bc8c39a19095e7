"""Pages: connect, show, list, disconnect. No answer carries a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from pagewire.store.v1 import page_service_pb2 as store_pb
from pagewire.type.v1 import page_pb2 as pb
from pagewire_webhook.operator.listing import Listed, Listing, next_token
from pagewire_webhook.operator.operation import Answer, Operation
from pagewire_webhook.operator.reading import naming_fields_of
from pagewire_webhook.operator.values import Id, Time, Words, time_of

if TYPE_CHECKING:
    from pagewire.store.v1.page_service_pb2_grpc import PageServiceAsyncStub

Platform: TypeAlias = Literal["messenger", "instagram"]
Login: TypeAlias = Literal["facebook", "instagram"]
State: TypeAlias = Literal["healthy", "expiring", "degraded", "blocked"]

PLATFORMS = Words(pb.Platform)
LOGINS = Words(pb.Login)
STATES = Words(pb.PageState)


class NewPage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page to connect, with its token."""

    platform: Platform
    page_id: Annotated[Id, Meta(description="Meta's id: `entry.id` of its webhooks.")]
    name: Annotated[str, Meta(min_length=1)]
    access_token: Annotated[str, Meta(min_length=1, extra_json_schema={"writeOnly": True})]
    login: Login | None = "facebook"
    facebook_page_id: Annotated[
        Id | None, Meta(description="The Page that an Instagram account is linked to.")
    ] = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A connected page."""

    page_id: Id
    platform: Platform | None
    login: Login | None
    facebook_page_id: Id | None
    name: str
    state: State | None
    state_reason: Annotated[str | None, Meta(description="Why it is not healthy: a stable word.")]
    connected_at: Time | None
    last_synced_at: Annotated[Time | None, Meta(description="Up to when its history is mirrored.")]
    token_expires_at: Annotated[
        Time | None,
        Meta(description="When its token ends; null where it does not, or nobody said."),
    ]


class PageList(Listed, frozen=True, kw_only=True):
    """Connected pages, newest first."""

    pages: list[Page]


class Pages:
    """The operations, over the store's PageService."""

    def __init__(self, store: PageServiceAsyncStub) -> None:
        self._store = store

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST",
                "/api/pages",
                self.connect,
                "Connects a page, or updates a connected one.",
                {201: Page},
            ),
            Operation("GET", "/api/pages", self.list, "Lists connected pages.", {200: PageList}),
            Operation("GET", "/api/pages/{page_id}", self.get, "Shows a page.", {200: Page}),
            Operation(
                "DELETE",
                "/api/pages/{page_id}",
                self.disconnect,
                "Disconnects a page; what is stored stays.",
                {200: dict[str, str]},
            ),
        ]

    async def connect(self, body: NewPage) -> Answer:
        page = pb.Page(
            page_id=body.page_id,
            platform=PLATFORMS.value(body.platform),
            login=LOGINS.value(body.login or "facebook"),
            facebook_page_id=body.facebook_page_id or "",
            name=body.name,
        )
        request = store_pb.ConnectPageRequest(page=page, access_token=body.access_token)
        with naming_fields_of("page"):
            response = await self._store.ConnectPage(request)
        return Answer(page_json(response.page), 201)

    async def list(self, query: Listing) -> PageList:
        response = await self._store.ListPages(
            store_pb.ListPagesRequest(page_size=query.page_size, page_token=query.page_token)
        )
        return PageList(
            pages=[page_json(page) for page in response.pages],
            next_page_token=next_token(response.next_page_token),
        )

    async def get(self, page_id: str) -> Page:
        response = await self._store.GetPage(store_pb.GetPageRequest(page_id=page_id))
        return page_json(response.page)

    async def disconnect(self, page_id: str) -> dict[str, str]:
        await self._store.DisconnectPage(store_pb.DisconnectPageRequest(page_id=page_id))
        return {}


def page_json(page: pb.Page) -> Page:
    """A page as the API shows it."""
    return Page(
        page_id=page.page_id,
        platform=PLATFORMS.word(page.platform),
        login=LOGINS.word(page.login),
        facebook_page_id=page.facebook_page_id or None,
        name=page.name,
        state=STATES.word(page.state),
        state_reason=page.state_reason or None,
        connected_at=time_of(page, "connect_time"),
        last_synced_at=time_of(page, "last_synced_time"),
        token_expires_at=time_of(page, "token_expire_time"),
    )
