"""The one HTTP client of the process: pooled, and suspicious of what it is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    """GET requests over one httpx.AsyncClient, which is made at the first of them.

    Proxies (`HTTPS_PROXY` and its kin) and the CA bundle (`SSL_CERT_FILE`) are httpx's to find in the environment.
    """

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def get(self, url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        """Answer of a URL, whatever its status; ClientError where there is none. The caller bounds time and number."""
        # Imported here, since it takes a fifth of a start that needs none of it.
        import httpx

        try:
            if self._client is None:
                self._client = httpx.AsyncClient(
                    timeout=None,  # noqa: S113 (one deadline for everything is the caller's, and so is)
                    limits=httpx.Limits(),  # the number of requests under way
                    # Not compressed: what is read is then what was sent, and 64 KiB are 64 KiB.
                    headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "geoip"},
                    # None is kept: they would pile up, and tell the upstream's visits from each other.
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                )
            request = self._client.build_request("GET", url, params=params, headers=headers)
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.ReadError, httpx.RemoteProtocolError) as error:
                # The connection broke before there was an answer: a kept one that its server has closed, mostly.
                # Bytes that are no HTTP are the same error, but an answer.
                if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
                    raise
                response = await self._client.send(request, stream=True)
            try:
                return Response(response.status_code, response.headers, await _read(response))
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
            # Beside httpx's own: a CA bundle that cannot be read (OSError), a host that cannot be a name, a proxy of an
            # unknown kind (ValueError), a SOCKS proxy (ImportError). Where it was the network, the message says what is
            # wrong; others quote a proxy's URL, or what was received, and that may be the request with its key.
            said = f": {error}" if isinstance(error, httpx.NetworkError | OSError) else ""
            raise ClientError(f"{type(error).__name__}{said}") from error

    async def aclose(self) -> None:
        """Close what is kept open."""
        if self._client is not None:
            await self._client.aclose()


async def _read(response: "httpx.Response") -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ClientError("the answer is compressed, though none was asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY:
            raise ClientError(f"the answer has more than {MAX_BODY} bytes")
    return bytes(body)
