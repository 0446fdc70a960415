"""One connection to an upstream. Beside the client, since httpx takes a fifth of a start that needs none of it."""

import ssl
from typing import Any

import httpcore
import httpx


class Connection(httpx.AsyncHTTPTransport):
    """httpx's transport with one connection of httpcore's in place of its pool, for one request at a time.

    A pool is looked through from end to end at the start and the end of each request, and again for each that was a
    moment too late for a connection: with 16 under way that was three quarters of what a request cost.
    """

    _pool: httpcore.AsyncHTTPConnection  # type: ignore[assignment]  # not the pool that httpx has

    def __init__(self, url: httpx.URL, context: ssl.SSLContext) -> None:
        origin = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=b"").origin
        self._pool = httpcore.AsyncHTTPConnection(origin, ssl_context=context, keepalive_expiry=5)
        self._connected = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._connected:
            return await super().handle_async_request(request)
        opened: list[httpcore.AsyncNetworkStream] = []

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                opened.append(info["return_value"])

        request.extensions["trace"] = trace  # https://www.encode.io/httpcore/extensions/#trace
        try:
            response = await super().handle_async_request(request)
        except BaseException:
            # Cancelled in a TLS handshake, httpcore would leave the socket to the garbage collector.
            for stream in opened:
                await stream.aclose()
            raise
        self._connected = True
        return response

    @property
    def ready(self) -> bool:
        """Whether it is kept and takes another request: nobody has closed it, or said anything unasked."""
        return self._pool.is_available() and not self._pool.has_expired()
