"""Limits of the HTTP service: host names, bytes of a request, requests per minute of a client."""

import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from fastapi import HTTPException, Request
from fastapi.responses import PlainTextResponse
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from fer_ignite.apps.web_server import strip_port

__all__ = ["AllowedHosts", "RateLimit", "read_body"]

_MOST_CLIENTS = 10_000  # beyond, the one that was away for longest is forgotten


class AllowedHosts:
    """ASGI middleware: 400 for requests that call the service by another name.

    Starlette's own has no IPv6 addresses: Host has them in brackets.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "lifespan"
            or strip_port(Headers(scope=scope).get("host", "")) in self.hosts
        ):
            await self.app(scope, receive, send)
            return
        refusal = PlainTextResponse("the service is not known by that name", status_code=400)
        await refusal(scope, receive, send)


class RateLimit:
    """A token bucket per client address; ``per_minute`` 0 = no limit."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, client: str, *, now_s: float | None = None) -> float:
        """Takes a request off the client's share; the seconds to wait where nothing is left, else 0."""
        if self.per_minute <= 0:
            return 0.0
        now_s = time.monotonic() if now_s is None else now_s
        rate = self.per_minute / 60
        with self._lock:
            # Popped and stored again: the order of the dict is that of the last requests.
            left, last_s = self._buckets.pop(client, (float(self.per_minute), now_s))
            left = min(float(self.per_minute), left + (now_s - last_s) * rate)
            wait_s = 0.0 if left >= 1 else (1 - left) / rate
            self._buckets[client] = (left - 1 if left >= 1 else left, now_s)
            if len(self._buckets) > _MOST_CLIENTS:
                self._buckets.popitem(last=False)
        return wait_s


async def read_body(request: Request, most_bytes: int) -> bytes:
    """A request's body.

    Raises:
        HTTPException: 413, as soon as it is known to be larger; 499 where the client goes away before its end.
    """
    refusal = HTTPException(
        413, f"a request has at most {most_bytes} bytes; send fewer or smaller pictures"
    )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most_bytes:
        raise refusal
    parts, size = [], 0
    stream: AsyncIterator[bytes] = request.stream()
    try:
        async for part in stream:
            # Counted as well: Content-Length may be absent or wrong.
            size += len(part)
            if size > most_bytes:
                raise refusal
            parts.append(part)
    except ClientDisconnect:
        # nginx's status for it: nobody reads the answer, but the metrics count it, and not as a fault of the service.
        raise HTTPException(499, "the client has gone away") from None
    return b"".join(parts)
