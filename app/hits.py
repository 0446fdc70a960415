"""Hits, answered before the framework is asked."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.answer import Found
from app.lookup import Lookup
from app.page import prefers_html
from app.responses import HEADERS


class Hits:
    """Answers `/?ip=ADDRESS` from the cache with the bytes that the route would send, at twice the rate.

    Anything unusual goes to the route, which alone decides what an address is.
    """

    def __init__(self, app: ASGIApp, lookup: Lookup) -> None:
        self._app = app
        self._lookup = lookup
        self._headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        now = self._lookup.clock()
        hit = self._hit(scope, now) if scope["type"] == "http" else None
        if hit is None:
            await self._app(scope, receive, send)
            return
        left = hit.time_left(now)
        headers = [
            *self._headers,
            (b"cache-control", b"public, max-age=%d" % left),
            (b"cache-status", b"geoip; hit; ttl=%d" % left),
            (b"content-length", b"%d" % len(hit.body)),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": hit.body})

    def _hit(self, scope: Scope, now: float) -> Found | None:
        query: bytes = scope["query_string"]
        if scope["path"] != "/" or scope["method"] not in {"GET", "HEAD"} or not query.startswith(b"ip="):
            return None
        address = query[3:].decode("latin-1").replace("%3A", ":")
        hit = self._lookup.cached(address) if address else None  # under "" is the service's own address
        if hit is None or not hit.body or hit.expires < now + 1:
            return None
        accept = b", ".join([value for name, value in scope["headers"] if name == b"accept"])
        if prefers_html(accept.decode("latin-1")):
            return None
        scope.setdefault("state", {}).update(address=address, source=hit.source)  # for the log, as the route does
        return hit
