"""The HTTP client that sources share. Answers are hostile input: at most 64 KiB, no redirects, no compression."""

import itertools
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import certifi
import httpcore
from pydantic import AnyHttpUrl, ValidationError

from app.network import Network
from app.problems import Fault

MAX_BODY = 64 * 1024
"""Bytes of an answer that are read; real answers have less than two thousand."""

KEEP_ALIVE = 5
"""Seconds that an unused connection is kept."""

# Without compression, 64 KiB received are 64 KiB of answer.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "geoip"}


class ClientError(Exception):
    """There is no answer. The message holds no URL, since a URL may hold a key."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


class Response(NamedTuple):
    """An HTTP answer, read whole. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """GET requests, each over a connection of its own that is kept for the next. One pool takes five times as long.

    Proxies come from the environment (`HTTPS_PROXY` and the like), the CA bundle from the path `certificates`.
    ValueError, of one line, for a proxy or a CA bundle that cannot be used.
    """

    def __init__(self, certificates: str | None = None) -> None:
        # The CA bundle of certifi is read when it is needed, since that takes some 10 ms and 2 MB.
        self._context = _read_certificates(certificates) if certificates else None
        self._idle: dict[str, list[_Connection]] = {}  # by origin, as text: an Origin cannot be a key
        self._proxies = {scheme: proxy for scheme in ("http", "https") if (proxy := _read_proxy(scheme))}

    async def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Return the answer of a URL, whatever its status; ClientError if there is none. The caller limits the time."""
        target = httpcore.URL(url)
        # httpcore's own Host lacks the brackets of an IPv6 address.
        fields = [("Host", url.split("/")[2]), *_HEADERS.items(), *headers.items()]
        try:
            if kept := await self._kept(target.origin):
                # Its server may have closed it a moment ago: then the request is sent once more (RFC 9110, 9.2.2).
                with suppress(httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError):
                    return await self._ask(kept, target, fields)
            return await self._ask(self._connect(target.origin), target, fields)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, OSError, ValueError) as error:
            is_quoting = isinstance(error, httpcore.ProtocolError | httpcore.ProxyError | ValueError)  # the request
            reason = type(error).__name__ if is_quoting else f"{type(error).__name__}: {error}"
            if proxy := self._proxy(target.origin):
                reason += f", through {proxy.variable}"
            is_away = isinstance(error, httpcore.ConnectError | httpcore.ProxyError)
            raise ClientError(reason, "connection" if is_away else "server") from error

    async def aclose(self) -> None:
        for connection in itertools.chain(*self._idle.values()):
            await connection.aclose()

    async def _ask(self, connection: "_Connection", url: httpcore.URL, headers: list[tuple[str, str]]) -> Response:
        async with connection.stream("GET", url, headers=headers) as response:
            fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            answer = Response(response.status, fields, await _read_body(response, fields))
        self._idle.setdefault(str(url.origin), []).append(connection)
        return answer

    async def _kept(self, origin: httpcore.Origin) -> "_Connection | None":
        """Return the connection that was used last, and close those that nobody can use any more."""
        idle = self._idle.get(str(origin), [])
        for end in (0, -1):
            while idle and not _is_usable(idle[end]):
                await idle.pop(end).aclose()
        return idle.pop() if idle else None

    def _connect(self, origin: httpcore.Origin) -> "_Connection":
        scheme = origin.scheme.decode()
        if self._context is None and scheme == "https":
            self._context = _read_certificates(certifi.where())
        if proxy := self._proxy(origin):
            return httpcore.AsyncHTTPProxy(
                proxy.url, proxy.auth, ssl_context=self._context, max_connections=1, network_backend=Network()
            )
        return httpcore.AsyncHTTPConnection(origin, self._context, KEEP_ALIVE, network_backend=Network())

    def _proxy(self, origin: httpcore.Origin) -> "_Proxy | None":
        return None if proxy_bypass(origin.host.decode()) else self._proxies.get(origin.scheme.decode())


_Connection: TypeAlias = httpcore.AsyncHTTPConnection | httpcore.AsyncHTTPProxy  # one connection by way of a proxy


def _is_usable(connection: _Connection) -> bool:
    if isinstance(connection, httpcore.AsyncHTTPProxy):
        return True  # it connects anew by itself
    return connection.is_available() and not connection.has_expired()


def _read_certificates(path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ValueError(f"SSL_CERT_FILE: {path} holds no certificate in PEM format, or a damaged one") from None
    except OSError as error:
        raise ValueError(f"SSL_CERT_FILE: {path} cannot be read: {error.strerror}") from None


class _Proxy(NamedTuple):
    variable: str
    url: str
    auth: tuple[str, str] | None


def _read_proxy(scheme: str) -> _Proxy | None:
    """Return the environment's proxy for a scheme; ValueError, which does not quote it, if it cannot be used."""
    proxies = getproxies()
    name = scheme if scheme in proxies else "all"
    if name not in proxies:
        return None
    proxy, variable = proxies[name], f"{name.upper()}_PROXY"
    try:
        url = AnyHttpUrl(proxy if "://" in proxy else f"http://{proxy}")
    except ValidationError:  # its message would show the password
        raise ValueError(f"{variable}: not the URL of an HTTP proxy: write it as http://HOST:PORT") from None
    auth = (unquote(url.username), unquote(url.password or "")) if url.username else None
    return _Proxy(variable, f"{url.scheme}://{url.host}:{url.port}", auth)


async def _read_body(response: httpcore.Response, headers: Mapping[str, str]) -> bytes:
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ClientError("the answer is compressed, which was not asked for", "answer")
    body = bytearray()
    async for part in response.aiter_stream():
        body += part
        if len(body) > MAX_BODY:
            raise ClientError(f"the answer has more than {MAX_BODY} bytes", "answer")
    return bytes(body)
