"""An operation: one method of one path, with all that routing and the document need of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_type_hints

from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger
from pagewire_webhook.operator.errors import Internal, json_response, refused
from pagewire_webhook.operator.reading import read_body, read_query
from pagewire_webhook.operator.values import ID_PATTERN

log = get_logger(__name__)

Act: TypeAlias = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Answer:
    """A value, where its status is not the operation's first."""

    value: Any
    status: int


@dataclass(frozen=True)
class Operation:
    """What `method` of `path` does.

    `act` takes the path's ids by their names, and `body` and `query` where it has such
    parameters, read as the types that they are annotated with; and `request`, where it waits for
    so long that the client may hang up. It gives a value to be shown as JSON with the first status
    of `answers`, an Answer, or a Response. `answers` holds the type of each status; with None it
    is text, with a Stream server-sent events.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    act: Act
    summary: str
    answers: Mapping[int, Any]
    is_open: bool = False

    @cached_property
    def body(self) -> type | None:
        """What it reads of a body."""
        return get_type_hints(self.act).get("body")

    @cached_property
    def query(self) -> type | None:
        """What it reads of a query."""
        return get_type_hints(self.act).get("query")

    @cached_property
    def _needs_request(self) -> bool:
        return "request" in get_type_hints(self.act)

    async def run(self, request: Request) -> Response:
        """The answer to a request; only HTTPException leaves it."""
        try:
            arguments = dict(request.path_params)
            if self.query is not None:
                arguments["query"] = read_query(request, self.query)
            if self.body is not None:
                arguments["body"] = await read_body(request, self.body)
            if self._needs_request:
                arguments["request"] = request
            return self._response(await self.act(**arguments))
        except Refusal as refusal:
            return refused(refusal)
        except HTTPException:
            raise
        except Exception:
            log.exception("a request failed", method=self.method, path=self.path)
            return refused(Internal("internal error"))

    def _response(self, result: Any) -> Response:
        if isinstance(result, Response):
            return result
        if isinstance(result, Answer):
            return json_response(result.value, result.status)
        return json_response(result, next(iter(self.answers)))


class NotYet(Refusal):
    """The API has it, this release does not."""

    kind = Kind.UNIMPLEMENTED
    reason = "NOT_IMPLEMENTED"


class _IdConvertor(Convertor[str]):
    """An id in a path; anything else names nothing, so that the path is unknown."""

    regex = ID_PATTERN

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _IdConvertor())


def routes(operations: Iterable[Operation]) -> list[Route]:
    """One route a path, so that a method that it lacks is answered 405 with those that it has."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = operation
    return [
        Route(path.replace("}", ":id}"), _by_method(methods), methods=list(methods))
        for path, methods in paths.items()
    ]


def _by_method(methods: Mapping[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await methods[method].run(request)

    return endpoint
