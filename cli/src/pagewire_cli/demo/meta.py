"""The simulator as the demo uses it: what people do, and the ledger of what was really sent.

Only its control interface, over HTTP: the command line does not import the simulator.
"""

import json
from collections.abc import Mapping
from typing import Any, Self

import httpx

from pagewire_cli.demo.story import Act, Json, Shop

PATIENCE = 30.0
ACTS = {
    "message": "say",
    "comment": "comment",
    "postback": "postback",
    "story_reply": "story_reply",
}


class Meta:
    """`url` is the simulator's. Raises httpx.HTTPError where it does not do what it is asked."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=f"{url}/_control", timeout=PATIENCE, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def open_page(self, shop: Shop, linked_to: str | None) -> Json:
        """A page of the app's developer, with a token, not subscribed to anything yet."""
        return await self._post(
            "/accounts",
            platform=shop.platform,
            login=shop.login,
            name=shop.name,
            page_id=linked_to,
            subscribed_fields=[],
        )

    async def remember(self, account: str, past: Mapping[str, int]) -> Json:
        """The page was there before us: conversations, messages, comments, as many as told."""
        return await self._post("/history", account=account, **past)

    async def truth(self, account: str) -> Json:
        """All that there is of the page, and of each message what Graph shows."""
        return await self._get("/truth", account=account)

    async def meet(self, account: str, name: str) -> str:
        """A new person of a page; returns their id."""
        person = await self._post("/people", account=account, name=name)
        return str(person["id"])

    async def act(self, act: Act, account: str, person: str) -> Json:
        """The person does it; returns the ids of what came of it."""
        return await self._post(f"/{ACTS[act.kind]}", **_fields(act, account, person))

    async def act_together(self, acts: list[tuple[Act, str, str]], batch: int) -> list[Json]:
        """Several acts, told in POSTs of up to so many entries."""
        bodies = [
            {"act": ACTS[act.kind]} | _fields(act, account, person) for act, account, person in acts
        ]
        return list((await self._post("/acts", acts=bodies, batch=batch))["done"])

    async def colleague_answers(self, account: str, person: str, text: str) -> None:
        """Somebody types an answer in Meta's own inbox."""
        await self._post("/inbox_reply", account=account, person=person, text=text)

    async def reads(self, account: str, person: str, at: int) -> None:
        """The person has seen what was written."""
        payload = {"read": {"watermark": at}}
        await self._post("/event", account=account, person=person, payload=payload)

    async def deliver(self, body: Json | bytes) -> None:
        """These bytes, signed."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self._send("POST", "/deliver", content=content)

    async def habits(self, **options: Any) -> None:
        """How Meta behaves from now on: `plan`, `echo`, `latency` of the simulator's options."""
        await self._post("/options", **options)

    async def settled(self, seconds: float) -> bool:
        """Whether everything was taken by the app within so many seconds."""
        query = {"settled": "1", "timeout": str(seconds)}
        return bool((await self._get("/wait", **query))["reached"])

    async def summary(self) -> Json:
        return await self._get("/ledger")

    async def records(self, kind: str) -> list[Json]:
        """`sends`, `calls`, `deliveries` or `events` of the ledger, in order."""
        return list((await self._get("/ledger", kind=kind))["records"])

    async def is_hidden(self, comment: str) -> bool:
        return bool((await self._get(f"/comments/{comment}"))["comment"]["hidden"])

    async def labelled(self, account: str, label: str) -> list[str]:
        """The people who carry the label."""
        labels = (await self._get(f"/labels/{account}"))["labels"]
        return [who for one in labels if one["name"] == label for who in one["people"]]

    async def _post(self, path: str, **body: Any) -> Json:
        return await self._send("POST", path, json=body)

    async def _get(self, path: str, **query: str) -> Json:
        return await self._send("GET", path, params=query)

    async def _send(self, method: str, path: str, **more: Any) -> Json:
        answer = await self._http.request(method, path, **more)
        answer.raise_for_status()
        found: Json = answer.json()
        return found


def _fields(act: Act, account: str, person: str) -> Json:
    said = {"payload": act.text} if act.kind == "postback" else {"text": act.text}
    return {"account": account, "person": person} | said | act.options
