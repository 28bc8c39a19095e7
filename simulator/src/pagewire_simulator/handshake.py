"""The handshake: an endpoint gets no webhook until it gives the challenge back, byte for byte."""

from collections.abc import Callable

import aiohttp
import msgspec


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The app as Meta's dashboard knows it. ``url`` is its base, without a slash at the end."""

    url: str
    verify_token: str
    path: str = "/api/webhook"
    instagram_path: str = "/api/webhooks/instagram"


class NotVerified(Exception):
    """The endpoint did not answer the handshake with 200 and exactly the challenge."""


async def verify(
    http: aiohttp.ClientSession, endpoint: Endpoint, challenge: Callable[[], str]
) -> None:
    """Asks both paths of the endpoint; raises NotVerified."""
    for path in (endpoint.path, endpoint.instagram_path):
        await verify_path(http, endpoint, path, challenge())


async def verify_path(
    http: aiohttp.ClientSession, endpoint: Endpoint, path: str, challenge: str
) -> None:
    query = {
        "hub.mode": "subscribe",
        "hub.verify_token": endpoint.verify_token,
        "hub.challenge": challenge,
    }
    try:
        async with http.get(endpoint.url + path, params=query, allow_redirects=False) as answer:
            status, body = answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError) as failure:
        raise NotVerified(f"{path}: no answer ({type(failure).__name__})") from failure
    if status != 200 or body != challenge.encode():
        raise NotVerified(f"{path}: status {status}, or not exactly the challenge")
