"""A typed client of the control interface, for tests, the demo and benchmarks.

One method a path of ``control``, whose docstrings give the bodies. Raises ``ControlError`` for any
answer but 200.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from pagewire_simulator.acts import AnyAct, Done
from pagewire_simulator.entities import (
    Comment,
    Conversation,
    Host,
    Label,
    Person,
    Platform,
    Post,
    Token,
    TokenState,
)
from pagewire_simulator.faults import Script
from pagewire_simulator.history import Made
from pagewire_simulator.ledger import BatchRecord, CallRecord, DeliveryRecord, EventRecord
from pagewire_simulator.limits import Allowance
from pagewire_simulator.meta import Echoes
from pagewire_simulator.truth import Truth
from pagewire_simulator.weather import Weather

T = TypeVar("T")


class ControlError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class AccountView(msgspec.Struct, kw_only=True):
    id: str
    platform: Platform
    login: Host
    name: str
    node: str
    token: str
    token_state: TokenState
    subscribed_fields: list[str] | None


class Summary(msgspec.Struct, kw_only=True):
    seed: int
    events: int
    untold: int
    deliveries: int
    undelivered: int
    calls: int
    batches: int
    sends: int
    duplicates: int
    overlaps: int
    tokens_in_urls: int
    input_tokens: int
    webhook_verified: bool


class Waited(msgspec.Struct, kw_only=True):
    sends: int
    undelivered: int
    reached: bool


class CommentView(msgspec.Struct, kw_only=True):
    comment: Comment
    replies: list[Comment]


class SimulatorClient:
    """``base_url`` is the simulator's address; ``facebook`` and ``instagram`` are Graph's there."""

    def __init__(self, base_url: str, http: httpx.AsyncClient | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.facebook = f"{self.base_url}/facebook"
        self.instagram = f"{self.base_url}/instagram"
        self._http = http or httpx.AsyncClient(timeout=130, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def reset(self, seed: int = 1) -> None:
        await self._call("POST", "/reset", dict, body={"seed": seed})

    async def create_account(
        self,
        platform: Platform | str = Platform.MESSENGER,
        *,
        login: Host | str = Host.FACEBOOK,
        id: str | None = None,
        name: str | None = None,
        page_id: str | None = None,
        token: str | None = None,
        subscribed_fields: Sequence[str] | None = None,
    ) -> AccountView:
        body = {
            "platform": platform,
            "login": login,
            "id": id,
            "name": name,
            "page_id": page_id,
            "token": token,
            "subscribed_fields": subscribed_fields,
        }
        return await self._call("POST", "/accounts", AccountView, body=body)

    async def accounts(self) -> list[AccountView]:
        found = await self._call("GET", "/accounts", dict[str, list[AccountView]])
        return found["accounts"]

    async def change_account(
        self,
        account: str,
        *,
        token: str | None = None,
        token_state: TokenState | str | None = None,
        issued_at: int | None = None,
        expires_at: int | None = None,
        subscribed_fields: Sequence[str] | None = None,
        echo: Echoes | None = None,
        reading: dict[str, Any] | None = None,
    ) -> AccountView:
        body = {
            "reading": reading,
            "token": token,
            "token_state": token_state,
            "issued_at": issued_at,
            "expires_at": expires_at,
            "subscribed_fields": subscribed_fields,
            "echo": echo,
        }
        return await self._call("PATCH", f"/accounts/{account}", AccountView, body=body)

    async def create_user(self, *pages: str, expires_in: float = 3600) -> Token:
        """Someone with tasks on the Pages; their token."""
        body = {"pages": pages, "expires_in": expires_in}
        return await self._call("POST", "/users", Token, body=body)

    async def create_person(
        self, account: str, *, id: str | None = None, name: str | None = None
    ) -> Person:
        body = {"account": account, "id": id, "name": name}
        return await self._call("POST", "/people", Person, body=body)

    async def block(self, account: str, person: str, *, blocked: bool = True) -> Person:
        body = {"blocked": blocked}
        return await self._call("PATCH", f"/people/{account}/{person}", Person, body=body)

    async def create_post(self, account: str, text: str = "", *, ad: bool = False) -> Post:
        body = {"account": account, "text": text, "ad": ad}
        return await self._call("POST", "/posts", Post, body=body)

    async def create_history(self, account: str, **asked: Any) -> Made:
        """A past of thousands of messages and comments at once; ``asked`` as in ``History``."""
        return await self._call("POST", "/history", Made, body={"account": account} | asked)

    async def change_thread(
        self, thread: str, *, poison: bool | None = None, folder: str | None = None
    ) -> Conversation:
        body = {"poison": poison, "folder": folder}
        return await self._call("PATCH", f"/threads/{thread}", Conversation, body=body)

    async def delete_thread(self, thread: str) -> None:
        await self._call("DELETE", f"/threads/{thread}", dict)

    async def truth(self, account: str) -> Truth:
        """All there is of the account, and its calls."""
        return await self._call("GET", "/truth", Truth, query={"account": account})

    async def say(self, account: str, text: str | None = None, **more: Any) -> Done:
        """A person writes; ``more`` as in ``acts.Say`` (person, attachments, repeat, ...)."""
        return await self._act("say", {"account": account, "text": text} | more)

    async def postback(self, account: str, payload: str, **more: Any) -> Done:
        return await self._act("postback", {"account": account, "payload": payload} | more)

    async def story_reply(self, account: str, text: str, **more: Any) -> Done:
        return await self._act("story_reply", {"account": account, "text": text} | more)

    async def story_mention(self, account: str, **more: Any) -> Done:
        return await self._act("story_mention", {"account": account} | more)

    async def unsend(self, account: str, mid: str, **more: Any) -> Done:
        return await self._act("unsend", {"account": account, "mid": mid} | more)

    async def inbox_reply(self, account: str, person: str, text: str, **more: Any) -> Done:
        body = {"account": account, "person": person, "text": text} | more
        return await self._act("inbox_reply", body)

    async def comment(self, account: str, text: str, **more: Any) -> Done:
        """A person comments; ``more`` as in ``acts.Write`` (person, post, parent, own, live)."""
        return await self._act("comment", {"account": account, "text": text} | more)

    async def change_comment(
        self, account: str, comment: str, text: str | None = None, **more: Any
    ) -> Done:
        """Edits the comment, or removes it where ``text`` is None."""
        body = {"account": account, "comment": comment, "text": text} | more
        return await self._act("change_comment", body)

    async def event(self, account: str, payload: dict[str, Any], **more: Any) -> Done:
        """Any other messaging event, its payload built by ``bodies``."""
        return await self._act("event", {"account": account, "payload": payload} | more)

    async def change(self, account: str, field: str, value: dict[str, Any], **more: Any) -> Done:
        body = {"account": account, "field": field, "value": value} | more
        return await self._act("change", body)

    async def arrive(
        self,
        account: str,
        *acts: AnyAct,
        endpoint: str = "conversations",
        after: int = 1,
    ) -> None:
        """Has the acts done once ``after`` calls of the account to the endpoint were answered."""
        body = {"account": account, "acts": list(acts), "endpoint": endpoint, "after": after}
        await self._call("POST", "/arrivals", dict, body=body)

    async def acts(self, acts: Sequence[AnyAct], *, batch: int | None = None) -> list[Done]:
        """Several acts in one call; ``batch`` tells of them in POSTs of so many entries."""
        body = {"acts": list(acts), "batch": batch}
        return (await self._call("POST", "/acts", dict[str, list[Done]], body=body))["done"]

    async def deliver(
        self,
        body: bytes,
        *,
        object: str = "page",
        login: Host | str = Host.FACEBOOK,
        secret: str | None = None,
    ) -> None:
        """Has exactly these bytes delivered, signed."""
        query = {"object": object, "login": str(login)}
        if secret is not None:
            query["secret"] = secret
        await self._call("POST", "/deliver", dict, query=query, content=body)

    async def dashboard_test(self, kind: str) -> None:
        await self._call("POST", "/dashboard_test", dict, body={"kind": kind})

    async def faults(self, *scripts: Script, clear: bool = True) -> None:
        """Sets the fault scripts; without any, clears them."""
        body = {"scripts": list(scripts), "clear": clear}
        await self._call("POST", "/faults", dict, body=body)

    async def weather(self, weather: Weather | None) -> None:
        """Trouble in bursts from now on; None ends it."""
        await self._call("POST", "/weather", dict, content=msgspec.json.encode(weather))

    async def allow(self, account: str | None, allowance: Allowance) -> None:
        body = {"account": account, "allowance": allowance}
        await self._call("POST", "/limits", dict, body=body)

    async def options(self, **changes: Any) -> None:
        """``require_proof``, ``read_lag``, ``echo``, ``latency``, ``plan``, ``reading``, ..."""
        await self._call("POST", "/options", dict, body=changes)

    async def webhook(self, url: str, **more: Any) -> bool:
        """Configures the app's endpoint; whether it is verified. Raises ControlError (409)."""
        found = await self._call("POST", "/webhook", dict[str, bool], body={"url": url} | more)
        return found["verified"]

    async def pause(self) -> None:
        await self._call("POST", "/webhook/pause", dict)

    async def resume(self) -> None:
        await self._call("POST", "/webhook/resume", dict)

    async def summary(self) -> Summary:
        return await self._call("GET", "/ledger", Summary)

    async def sends(self, **wanted: str) -> list[CallRecord]:
        """What was created, in order; by ``account``, ``person``, ``metadata``, ``comment``."""
        return await self._records("sends", CallRecord, wanted)

    async def calls(self, **wanted: str) -> list[CallRecord]:
        return await self._records("calls", CallRecord, wanted)

    async def batches(self) -> list[BatchRecord]:
        return await self._records("batches", BatchRecord, {})

    async def deliveries(self, after: int = 0) -> list[DeliveryRecord]:
        return await self._records("deliveries", DeliveryRecord, {"after": str(after)})

    async def events(self, after: int = 0) -> list[EventRecord]:
        return await self._records("events", EventRecord, {"after": str(after)})

    async def untold(self) -> list[EventRecord]:
        return await self._records("untold", EventRecord, {})

    async def duplicates(self) -> list[list[CallRecord]]:
        return await self._records("duplicates", list[CallRecord], {})

    async def overlaps(self) -> list[tuple[CallRecord, CallRecord]]:
        return await self._records("overlaps", tuple[CallRecord, CallRecord], {})

    async def wait(self, *, sends: int = 0, settled: bool = False, timeout: float = 60) -> Waited:
        """Until so many sends were accepted and, if ``settled``, all events are delivered."""
        query = {"sends": str(sends), "settled": str(int(settled)), "timeout": str(timeout)}
        return await self._call("GET", "/wait", Waited, query=query)

    async def conversation(self, account: str, person: str) -> Conversation:
        return await self._call("GET", f"/conversations/{account}/{person}", Conversation)

    async def comment_now(self, comment: str) -> CommentView:
        """The comment as it stands, with its replies."""
        return await self._call("GET", f"/comments/{comment}", CommentView)

    async def labels(self, account: str) -> list[Label]:
        found = await self._call("GET", f"/labels/{account}", dict[str, list[Label]])
        return found["labels"]

    async def _act(self, name: str, body: dict[str, Any]) -> Done:
        return await self._call("POST", f"/{name}", Done, body=body)

    async def _records(self, kind: str, of: type[T], wanted: dict[str, str]) -> list[T]:
        answer = await self._request("GET", "/ledger", query={"kind": kind} | wanted)
        return msgspec.json.decode(answer, type=dict[str, list[of]])["records"]  # type: ignore[valid-type]

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> T:
        if body is not None:
            content = msgspec.json.encode(body)
        return msgspec.json.decode(
            await self._request(method, path, query=query, content=content), type=kind
        )

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> bytes:
        answer = await self._http.request(
            method, f"{self.base_url}/_control{path}", params=query, content=content
        )
        if answer.status_code != 200:
            raise ControlError(answer.status_code, answer.json().get("error", ""))
        return answer.content
