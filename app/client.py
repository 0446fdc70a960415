"""The one HTTP client of the process: pooled, and suspicious of what it is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    import httpx

MAX_BODY = 64 * 1024
"""Bytes of an answer that are read: real ones have less than two thousand."""


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
    """GET requests, each over an httpx.AsyncClient that no other uses meanwhile; a new one is made if all are in use.

    A client that several requests share looks through its whole pool for each of them, and through it again for each
    that was a moment too late for a connection: with 16 under way that was two thirds of a request's cost.

    Proxies (`HTTPS_PROXY` and its kin) and the CA bundle (`SSL_CERT_FILE`) are httpx's to find in the environment.
    """

    def __init__(self) -> None:
        self._idle: list[httpx.AsyncClient] = []  # the last one used is the first to be used again: it is connected
        self._ssl: ssl.SSLContext | None = None

    async def get(self, url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        """Answer of a URL, whatever its status; ClientError where there is none. The caller bounds time and number."""
        # Imported here, since it takes a fifth of a start that needs none of it.
        import httpx

        try:
            client = self._idle.pop() if self._idle else self._make()
            try:
                request = client.build_request("GET", url, params=params, headers=headers)
                try:
                    response = await client.send(request, stream=True)
                except (httpx.ReadError, httpx.RemoteProtocolError) as error:
                    # The connection broke before there was an answer: a kept one that its server has closed, mostly.
                    # Bytes that are no HTTP are the same error, but an answer.
                    if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
                        raise
                    response = await client.send(request, stream=True)
                try:
                    return Response(response.status_code, response.headers, await _read(response))
                finally:
                    await response.aclose()
            finally:
                self._idle.append(client)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
            # Beside httpx's own: a CA bundle that cannot be read (OSError), a host that cannot be a name, a proxy of an
            # unknown kind (ValueError), a SOCKS proxy (ImportError). Where it was the network, the message says what is
            # wrong; others quote a proxy's URL, or what was received, and that may be the request with its key.
            said = f": {error}" if isinstance(error, httpx.NetworkError | OSError) else ""
            raise ClientError(f"{type(error).__name__}{said}") from error

    async def aclose(self) -> None:
        """Close what is kept open, once nothing is under way."""
        for client in self._idle:
            await client.aclose()

    def _make(self) -> "httpx.AsyncClient":
        import httpx

        if self._ssl is None:
            self._ssl = httpx.create_ssl_context()  # one for all: it takes some 50 ms
        return httpx.AsyncClient(
            verify=self._ssl,
            timeout=None,  # noqa: S113 (one deadline for everything is the caller's)
            # Not compressed: what is read is then what was sent, and 64 KiB are 64 KiB.
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "geoip"},
            # None is kept: they would pile up, and tell the upstream's visits from each other.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )


async def _read(response: "httpx.Response") -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ClientError("the answer is compressed, though none was asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY:
            raise ClientError(f"the answer has more than {MAX_BODY} bytes")
    return bytes(body)
