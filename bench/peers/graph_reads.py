"""What a user would write instead, to read a page's conversations: three ways that are common.

Each reads every message of a page into memory, stores nothing, and is told the truth's count.
Blocking: to be run in a thread.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
from facebook_business.api import FacebookAdsApi
from facebook_business.session import FacebookSession

VERSION = "v25.0"
THREADS = 100
"""As many as a script that is in public use takes (eisenjulian/fb-page-chat-download)."""
BATCH = 50
LIMIT = 25
"""Meta's default, as most code leaves it."""
AGAIN_SECONDS = 1.0
"""What such code sleeps where Graph says that it is too much, however long that is to last: it is a
part of what is measured. Blocking, in a thread of its own.
"""
THROTTLED = frozenset({4, 17, 32, 613, 80006})
LISTED = {"platform": "messenger", "fields": "id,updated_time,participants", "limit": str(LIMIT)}
MESSAGES = {"fields": "id,message,from,created_time,attachments", "limit": str(LIMIT)}


@dataclass(frozen=True)
class Source:
    """Where Graph is, and for whom."""

    host: str
    page_id: str
    token: str
    app_id: str
    secret: str

    @property
    def proof(self) -> str:
        return hmac.new(self.secret.encode(), self.token.encode(), hashlib.sha256).hexdigest()


def one_by_one(source: Source) -> int:
    """Each thread's messages after the other, waiting a second where Graph says that it is too
    much."""
    with _client(source) as client:
        return sum(_messages(client, thread) for thread in list(_threads(client, source)))


def unbounded_threads(source: Source) -> int:
    """All threads' messages at once, as far as threads go, asked again where refused."""
    with _client(source) as client, ThreadPoolExecutor(THREADS) as pool:
        return sum(
            pool.map(lambda thread: _messages(client, thread), list(_threads(client, source)))
        )


def sdk_batches(source: Source) -> int:
    """Meta's own SDK: batches of 50, one at a time, what failed asked again a second later."""
    api = _sdk(source)
    threads: list[str] = []
    after: dict[str, str] = {}
    while True:
        (answer,) = _batched(api, source, [((source.page_id, "conversations"), LISTED | after)])
        threads += [item["id"] for item in answer["data"]]
        if "next" not in answer.get("paging", {}):
            break
        after = {"after": answer["paging"]["cursors"]["after"]}
    count, wanted = 0, [((thread, "messages"), MESSAGES) for thread in threads]
    while wanted:
        answers = _batched(api, source, wanted[:BATCH])
        more = []
        for (path, params), answer in zip(wanted[:BATCH], answers, strict=True):
            count += len(answer["data"])
            if "next" in answer.get("paging", {}):
                more.append((path, params | {"after": answer["paging"]["cursors"]["after"]}))
        wanted = [*wanted[BATCH:], *more]
    return count


def one_call(source: Source, times: int) -> float:
    """Seconds that the first page of a source's threads takes, on the average of so many calls."""
    with _client(source) as client:
        began = time.perf_counter()
        for _ in range(times):
            client.get(f"{source.page_id}/conversations", params=LISTED).raise_for_status()
        return (time.perf_counter() - began) / times


def all_at_once(sources: Sequence[Source], params: dict[str, str]) -> int:
    """The first page of each source's threads, each by a call, thrown away; how many bytes."""
    with _client(sources[0]) as client, ThreadPoolExecutor(16) as pool:

        def size(source: Source) -> int:
            proved = {**params, "appsecret_proof": source.proof}
            token = {"Authorization": f"Bearer {source.token}"}
            return len(
                client.get(f"{source.page_id}/conversations", params=proved, headers=token).content
            )

        return sum(pool.map(size, sources))


def one_batch(sources: Sequence[Source]) -> float:
    """Seconds that the first page of each source's threads takes, in one batch."""
    listed = "&".join(f"{name}={value}" for name, value in LISTED.items())
    batch = [
        {
            "method": "GET",
            "relative_url": f"{source.page_id}/conversations?{listed}"
            f"&access_token={source.token}&appsecret_proof={source.proof}",
        }
        for source in sources
    ]
    with _client(sources[0]) as client:
        began = time.perf_counter()
        answers = client.post("", data={"batch": json.dumps(batch)}).json()
        seconds = time.perf_counter() - began
    if any(answer is None or answer["code"] != 200 for answer in answers):
        raise RuntimeError("Graph refused a part of the batch")
    return seconds


_Call = tuple[tuple[str, str], dict[str, str]]


def _batched(api: Any, source: Source, calls: list[_Call]) -> list[dict[str, Any]]:
    """The answers of a batch; those that failed, or did not come, in further ones."""
    answers: dict[int, dict[str, Any]] = {}

    def refused(response: Any) -> None:
        code = response.error().api_error_code()
        if code not in THROTTLED:
            raise RuntimeError(f"Graph refused the peer: {code}")

    while len(answers) < len(calls):
        batch = api.new_batch()
        for at, (path, params) in enumerate(calls):
            if at in answers:
                continue

            def took(response: Any, at: int = at) -> None:
                answers[at] = response.json()

            batch.add("GET", path, params=params, success=took, failure=refused)
        batch.execute()
        if len(answers) < len(calls):
            time.sleep(AGAIN_SECONDS)
    return [answers[at] for at in range(len(calls))]


def _sdk(source: Source) -> Any:
    session = FacebookSession(source.app_id, source.secret, source.token)
    session.GRAPH = source.host
    session.requests.verify = False
    session.requests.trust_env = False
    return FacebookAdsApi(session, api_version=VERSION)


def _client(source: Source) -> httpx.Client:
    return httpx.Client(
        base_url=f"{source.host}/{VERSION}/",
        headers={"Authorization": f"Bearer {source.token}"},
        params={"appsecret_proof": source.proof},
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        timeout=60,
        trust_env=False,
    )


def _threads(client: httpx.Client, source: Source) -> Iterator[str]:
    for page in _pages(client, f"{source.page_id}/conversations", LISTED):
        yield from (item["id"] for item in page)


def _messages(client: httpx.Client, thread: str) -> int:
    return sum(len(page) for page in _pages(client, f"{thread}/messages", MESSAGES))


def _pages(client: httpx.Client, path: str, params: dict[str, str]) -> Iterator[list[Any]]:
    after: dict[str, str] = {}
    while True:
        answer = client.get(path, params=params | after).json()
        if "error" in answer:
            if answer["error"].get("code") not in THROTTLED:
                raise RuntimeError(f"Graph refused the peer: {answer['error']}")
            time.sleep(AGAIN_SECONDS)
            continue
        yield answer["data"]
        if "next" not in answer.get("paging", {}):
            return
        after = {"after": answer["paging"]["cursors"]["after"]}
