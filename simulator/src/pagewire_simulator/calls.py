"""A Graph call as it came over the wire: host, version, node, edge, parameters, token."""

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from email import message_from_bytes
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from pagewire_simulator import refusals
from pagewire_simulator.entities import Host
from pagewire_simulator.refusals import Refused
from pagewire_simulator.tokens import Credentials, credentials

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

VERSION = re.compile(r"v\d+\.\d+")
OLDEST, NEWEST = "v20.0", "v26.0"
BODY_MAX = 4 << 20


class Call(msgspec.Struct, kw_only=True):
    """``node`` and ``edge`` are "" where the path ends; ``root`` is what addresses begin with.

    ``version`` is the one that serves it: a dead one's calls are served by the oldest that lives.
    ``files`` are the names of those attached. ``batch`` is the serial of the batch that the call
    came in, 0 for one that came alone.
    """

    host: Host
    method: str
    version: str
    root: str
    node: str
    edge: str
    query: dict[str, Any]
    form: dict[str, Any]
    shown: Credentials
    files: frozenset[str] = frozenset()
    batch: int = 0

    @property
    def params(self) -> dict[str, Any]:
        return self.form | self.query


def read(scope: Scope, body: bytes) -> Call:
    """The call in a request; a body that can't be read counts as empty."""
    host, *parts = [part for part in scope["path"].split("/") if part]
    headers = dict(scope["headers"])
    version, node, edge = address(parts)
    at = headers.get(b"host", b"").decode("latin-1")
    query = pairs(scope["query_string"].decode("latin-1"))
    form, files = read_form(body, headers)
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    return Call(
        host=Host(host),
        method=scope["method"],
        version=version,
        root=f"{scope.get('scheme', 'http')}://{at}/{host}/{version}",
        node=node,
        edge=edge,
        query=query,
        form=form,
        shown=credentials(query, form, authorization),
        files=files,
    )


def address(parts: list[str], version: str = NEWEST) -> tuple[str, str, str]:
    """Version, node and edge of a path; ``version`` is that of a path which names none."""
    if parts and VERSION.fullmatch(parts[0]):
        version, *parts = parts
        version = max(version, OLDEST, key=number)
    return version, parts[0] if parts else "", "/".join(parts[1:])


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version[1:].split(".")))


def check_version(call: Call) -> None:
    """Raises Refused (2500) for a version that is not out yet."""
    if number(call.version) > number(NEWEST):
        raise Refused(refusals.unknown_path(f"/{call.version}/{call.node}"))


def pairs(text: str) -> dict[str, Any]:
    return dict(parse_qsl(text, keep_blank_values=True))


def read_form(body: bytes, headers: Mapping[bytes, bytes]) -> tuple[dict[str, Any], frozenset[str]]:
    """The parameters in a body, and the names of the files in it."""
    kind, files = headers.get(b"content-type", b""), frozenset[str]()
    if not body:
        return {}, files
    if kind.startswith(b"application/json"):
        try:
            decoded = msgspec.json.decode(body)
        except msgspec.DecodeError:
            return {}, files
        return decoded if isinstance(decoded, dict) else {}, files
    if kind.startswith(b"multipart/form-data"):
        return parts_of(body, kind)
    return pairs(body.decode("utf-8", "replace")), files


def parts_of(body: bytes, kind: bytes) -> tuple[dict[str, Any], frozenset[str]]:
    message = message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
    form: dict[str, Any] = {}
    files: set[str] = set()
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(content, bytes):
            continue
        if part.get_filename() is None:
            form[name] = content.decode("utf-8", "replace")
        else:
            files.add(name)
    return form, frozenset(files)


async def body_of(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= BODY_MAX:
            chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
