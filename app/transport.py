"""One connection to an upstream. Beside the client, since httpx takes a fifth of a start that needs none of it."""

import ssl

import httpcore
import httpx


class Connection(httpx.AsyncHTTPTransport):
    """httpx's transport with one connection of httpcore's in place of its pool, for one request at a time.

    A pool is looked through from end to end at the start and the end of each request, and again for each that was a
    moment too late for a connection: with 16 under way that was three quarters of what a request cost.
    """

    _pool: httpcore.AsyncHTTPConnection  # type: ignore[assignment]

    def __init__(self, url: httpx.URL, context: ssl.SSLContext) -> None:
        origin = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=b"").origin
        self._pool = httpcore.AsyncHTTPConnection(origin, ssl_context=context, keepalive_expiry=5)

    @property
    def ready(self) -> bool:
        """Whether it is kept and takes another request: nobody has closed it, or said anything unasked."""
        return self._pool.is_available() and not self._pool.has_expired()
