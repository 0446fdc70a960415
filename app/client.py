"""The one HTTP client of the process: pooled, and suspicious of what it is sent."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    import ssl

    import httpx

MAX_BODY = 64 * 1024
"""Bytes of an answer that are read: real ones have less than two thousand."""

# Not compressed: what is read is then what was sent, and 64 KiB are 64 KiB.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "geoip"}


class ClientError(Exception):
    """No answer: unreachable, broken off, untrusted, too large, encoded. The message holds no URL, so no key."""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]
    """Names are matched without regard to case."""
    body: bytes


class Client:
    """GET requests over httpx's transports, each used by one request at a time.

    Proxies (`HTTPS_PROXY` and its kin) and the CA bundle (`SSL_CERT_FILE`) come from the environment.
    """

    def __init__(self) -> None:
        # By scheme and host; the last one used is the first to be used again.
        self._idle: dict[tuple[str, str], list[httpx.AsyncHTTPTransport]] = {}
        self._ssl: ssl.SSLContext | None = None

    def open(self) -> None:
        """Import httpx and read the CA bundle, before the first request's time is counted: a start needs neither."""
        with contextlib.suppress(OSError):  # a request says so
            self._context()

    async def get(self, url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        """Answer of a URL, whatever its status; ClientError where there is none. The caller bounds time and number."""
        import httpx  # not at the top: a start does not need it

        try:
            request = httpx.Request("GET", url, params=params or None, headers={**_HEADERS, **headers})
            idle = self._idle.setdefault((request.url.scheme, request.url.netloc.decode()), [])
            transport = await self._kept(idle) or self._connect(request.url)
            try:
                response = await transport.handle_async_request(request)
            except (httpx.ReadError, httpx.RemoteProtocolError) as error:
                # The connection broke before the head of an answer was whole: a kept one that its server has closed,
                # mostly. Bytes that are no HTTP are the same error, but an answer.
                if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
                    raise
                transport = self._connect(request.url)
                response = await transport.handle_async_request(request)
            try:
                return Response(response.status_code, response.headers, await _read(response))
            finally:
                await response.aclose()
                idle.append(transport)
                while idle and not _ready(idle[0]):  # at the bottom are those that are not used again
                    await idle.pop(0).aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
            # Beside httpx's own: a CA bundle that cannot be read (OSError), a host that cannot be a name, a proxy of an
            # unknown kind (ValueError), a SOCKS proxy (ImportError). Where it was the network, the message says what is
            # wrong; others quote a proxy's URL, or what was received, and that may be the request with its key.
            said = f": {error}" if isinstance(error, httpx.NetworkError | OSError) else ""
            raise ClientError(f"{type(error).__name__}{said}") from error

    async def aclose(self) -> None:
        """Close what is kept open, once nothing is under way."""
        for idle in self._idle.values():
            for transport in idle:
                await transport.aclose()

    async def _kept(self, idle: "list[httpx.AsyncHTTPTransport]") -> "httpx.AsyncHTTPTransport | None":
        while idle:
            transport = idle.pop()
            if _ready(transport):
                return transport
            await transport.aclose()
        return None

    def _connect(self, url: "httpx.URL") -> "httpx.AsyncHTTPTransport":
        import httpx

        from app.transport import Connection

        context = self._context()
        proxies = getproxies()
        proxy = None if proxy_bypass(url.host) else proxies.get(url.scheme) or proxies.get("all")
        if proxy is None:
            return Connection(url, context)
        return httpx.AsyncHTTPTransport(verify=context, proxy=proxy if "://" in proxy else f"http://{proxy}")

    def _context(self) -> "ssl.SSLContext":
        import httpx

        if self._ssl is None:
            self._ssl = httpx.create_ssl_context()  # one for all: to read the CA bundle takes some 30 ms
        return self._ssl


def _ready(transport: "httpx.AsyncHTTPTransport") -> bool:
    from app.transport import Connection

    return not isinstance(transport, Connection) or transport.ready  # a pool, which is for proxies, looks itself


async def _read(response: "httpx.Response") -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ClientError("the answer is compressed, though none was asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY:
            raise ClientError(f"the answer has more than {MAX_BODY} bytes")
    return bytes(body)
