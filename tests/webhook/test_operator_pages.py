from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1 import page_service_pb2 as store_pb
from pagewire.type.v1 import page_pb2 as pb
from pagewire_runtime.errors import Kind, refusal_from
from tests.support.upstreams import Upstream

BODY = {"platform": "instagram", "page_id": "178", "name": "Shop", "access_token": "IG-token"}


def a_page(**changed: Any) -> pb.Page:
    connected = Timestamp()
    connected.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, 123456, UTC))
    fields: dict[str, Any] = {
        "page_id": "178",
        "platform": pb.PLATFORM_INSTAGRAM,
        "login": pb.LOGIN_FACEBOOK,
        "facebook_page_id": "20",
        "name": "Shop",
        "state": pb.PAGE_STATE_DEGRADED,
        "state_reason": "not_checked",
        "connect_time": connected,
    }
    return pb.Page(**(fields | changed))


SHOWN = {
    "page_id": "178",
    "platform": "instagram",
    "login": "facebook",
    "facebook_page_id": "20",
    "name": "Shop",
    "state": "degraded",
    "state_reason": "not_checked",
    "connected_at": "2026-01-02T03:04:05.123Z",
    "last_synced_at": None,
    "token_expires_at": None,
}


@pytest.mark.parametrize("created", [True, False])
async def test_a_page_is_connected_or_updated_and_shown_without_its_token(
    api: httpx.AsyncClient, upstream: Upstream, created: bool
) -> None:
    upstream.answers["ConnectPage"] = store_pb.ConnectPageResponse(page=a_page(), created=created)

    response = await api.post("/api/pages", json={**BODY, "facebook_page_id": "20"})

    assert response.status_code == 201
    assert response.json() == SHOWN
    assert upstream.request == store_pb.ConnectPageRequest(
        page=pb.Page(
            page_id="178",
            platform=pb.PLATFORM_INSTAGRAM,
            login=pb.LOGIN_FACEBOOK,
            facebook_page_id="20",
            name="Shop",
        ),
        access_token="IG-token",
    )


@pytest.mark.parametrize(
    ("body", "login"),
    [
        ({}, pb.LOGIN_FACEBOOK),
        ({"login": None, "facebook_page_id": None}, pb.LOGIN_FACEBOOK),
        ({"login": "facebook"}, pb.LOGIN_FACEBOOK),
        ({"login": "instagram"}, pb.LOGIN_INSTAGRAM),
    ],
)
async def test_a_page_is_of_facebook_login_unless_said(
    api: httpx.AsyncClient,
    upstream: Upstream,
    body: dict[str, str | None],
    login: pb.Login.ValueType,
) -> None:
    await api.post("/api/pages", json={**BODY, **body})

    assert upstream.request.page.login == login
    assert upstream.request.page.facebook_page_id == ""


async def test_a_page_of_the_other_platform_is_409(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ConnectPage"] = refusal_from(Kind.EXISTS, "PAGE_OTHER_PLATFORM", "is there")

    response = await api.post("/api/pages", json=BODY)

    assert response.status_code == 409
    assert response.json()["error"]["reason"] == "PAGE_OTHER_PLATFORM"


async def test_pages_are_listed_with_the_token_of_what_follows(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ListPages"] = store_pb.ListPagesResponse(
        pages=[a_page()], next_page_token="next"
    )

    response = await api.get("/api/pages?page_size=1&page_token=this")

    assert response.json() == {"next_page_token": "next", "pages": [SHOWN]}
    assert upstream.request == store_pb.ListPagesRequest(page_size=1, page_token="this")


async def test_the_last_part_of_a_list_has_no_next_page_token(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    response = await api.get("/api/pages")

    assert response.json() == {"pages": []}
    assert upstream.request == store_pb.ListPagesRequest(page_size=50)


async def test_a_page_is_shown(api: httpx.AsyncClient, upstream: Upstream) -> None:
    synced = Timestamp(seconds=1_700_000_000)
    upstream.answers["GetPage"] = store_pb.GetPageResponse(
        page=a_page(
            last_synced_time=synced,
            token_expire_time=Timestamp(seconds=1_800_000_000),
            state_reason="",
            facebook_page_id="",
        )
    )

    response = await api.get("/api/pages/178")

    assert response.json() == SHOWN | {
        "last_synced_at": "2023-11-14T22:13:20.000Z",
        "token_expires_at": "2027-01-15T08:00:00.000Z",
        "state_reason": None,
        "facebook_page_id": None,
    }
    assert upstream.request.page_id == "178"


async def test_a_page_is_disconnected(api: httpx.AsyncClient, upstream: Upstream) -> None:
    response = await api.delete("/api/pages/178")

    assert (response.status_code, response.json()) == (200, {})
    assert upstream.request == store_pb.DisconnectPageRequest(page_id="178")


async def test_an_unknown_page_is_404(api: httpx.AsyncClient, upstream: Upstream) -> None:
    upstream.answers["GetPage"] = refusal_from(Kind.MISSING, "PAGE_UNKNOWN", "no such page")

    response = await api.get("/api/pages/9")

    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "PAGE_UNKNOWN"
