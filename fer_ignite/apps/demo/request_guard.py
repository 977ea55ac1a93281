"""Request filter of the demo: allowed hosts and origins, refused paths, Content-Security-Policy."""

import json
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from fer_ignite.apps.web_server import strip_port

__all__ = ["FOREIGN_FILE", "POLICY", "RequestGuard", "references_foreign_file"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Gradio's own scripts stand in the page and compile templates; everything comes from this server and from nowhere else.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; frame-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
# The page's events have some hundred bytes; files are uploaded apart.
_MAX_EVENT_BYTES = 1 << 20
# Paths under which Gradio fetches an address for the client; a page that uses no network has no use for them.
_FETCHING = re.compile(r"/(file|proxy)[=/]\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)

# The only request whose body is no event. The path decides, not Content-Type: two parsers may read that header differently.
_UPLOAD_PATH = "/gradio_api/upload"
FOREIGN_FILE = "Pictures are uploaded; events name no other files or addresses."
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
_SINGLE_HEADERS = frozenset(
    {"host", "origin", "content-type", "content-length", "transfer-encoding"}
)


class RequestGuard:
    """An ASGI application that refuses what no visitor of the page sends, and adds the headers of a closed page.

    Args:
        hosts: names that the page may be called by, without port; empty allows any. It stops pages elsewhere that
            let their own name point to this machine (DNS rebinding) from reading this one.
        folder: where uploads lie; no event may name a file elsewhere.
    """

    def __init__(self, application: Application, *, hosts: frozenset[str], folder: Path) -> None:
        self.application, self.hosts, self.folder = (
            application,
            hosts,
            Path(os.path.realpath(folder)),
        )

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        # Lifespan only: the server is started without websockets.
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        pairs = [
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in scope["headers"]
        ]
        refusal = self.check_headers(pairs) or self.check_request(scope["path"], dict(pairs))
        if (
            refusal is None
            and scope["method"] not in _WITHOUT_BODY
            and scope["path"] != _UPLOAD_PATH
        ):
            body = await _read(receive)
            refusal, receive = self.check_event(body), _again(body, receive)
        if refusal is not None:
            await _refuse(send, refusal)
            return

        async def send_closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self.application(scope, receive, send_closed)

    def check_headers(self, headers: Sequence[tuple[str, str]]) -> str | None:
        """Why a request's headers are ambiguous, in a sentence; None where they are not.

        Args:
            headers: (name, value) in the order of the request; the names in lower case.
        """
        # Of a repeated header Gradio might use another value than the one that is checked here.
        names = [name for name, _ in headers]
        for name in sorted(_SINGLE_HEADERS):
            if names.count(name) > 1:
                return f"The header {name} may occur only once."
        if {"content-length", "transfer-encoding"} <= set(names):
            return "A request has either content-length or transfer-encoding."
        if any("," in value for name, value in headers if name in _SINGLE_HEADERS):
            return "A header that may occur only once holds a list."
        return None

    def check_request(self, path: str, headers: dict[str, str]) -> str | None:
        """Why a request is refused, in a sentence; None where it is not.

        Args:
            headers: their names in lower case.
        """
        host = headers.get("host", "")
        if self.hosts and strip_port(host) not in self.hosts:
            return "This page is not known by that name."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "Other sites may not use this page."
        if _FETCHING.search(path):
            return "This page fetches nothing from elsewhere."
        return None

    def check_event(self, body: bytes) -> str | None:
        """Why an event is refused, in a sentence; None where it is not."""
        if len(body) > _MAX_EVENT_BYTES:
            return "No event of this page is that long."
        try:
            event = json.loads(body or b"null")
        except (ValueError, RecursionError):
            return "Events are JSON."
        return FOREIGN_FILE if references_foreign_file(event, self.folder) else None


def references_foreign_file(value: Any, folder: Path) -> bool:
    """Whether a parsed event names a file outside a folder, or an address, anywhere in it.

    Args:
        value: dicts, lists and scalars as JSON has them; each ``path`` of a dict is checked, links are followed.
        folder: where uploads lie.
    """
    folder, waiting = Path(os.path.realpath(folder)), [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if not _lies_in(value.get("path"), folder):
                return True
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
    return False


def _lies_in(path: Any, folder: Path) -> bool:
    if path is None:
        return True
    try:
        return isinstance(path, str) and folder in Path(os.path.realpath(path)).parents
    except (OSError, ValueError):
        return False


async def _read(receive: Receive) -> bytes:
    """The body of a request, or its beginning where it is too long."""
    parts, length, more = [], 0, True
    while more and length <= _MAX_EVENT_BYTES:
        message = await receive()
        parts.append(message.get("body", b""))
        length, more = length + len(parts[-1]), message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read already, and then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


async def _refuse(send: Send, sentence: str) -> None:
    body = sentence.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *_HEADERS,
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
