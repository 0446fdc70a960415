"""The HTTP client that sources share: GET, without redirects, and over a proxy if the environment names one."""

import base64
import itertools
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
from pydantic import AnyHttpUrl, ValidationError

from app.connection import ClientError, Connection, Response

# Without compression, 64 KiB received are 64 KiB of answer.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "geoip"}


class Client:
    """GET requests, each over a connection of its own that is kept for the next.

    Proxies come from the environment (`HTTPS_PROXY` and the like), the CA bundle from the path `certificates`.
    ValueError, of one line, for a proxy or a CA bundle that cannot be used.
    """

    def __init__(self, certificates: str | None = None) -> None:
        # The CA bundle of certifi is read when it is needed, since that takes some 10 ms and 2 MB.
        self._context = _read_certificates(certificates) if certificates else None
        self._idle: dict[str, list[Connection]] = {}  # by origin
        self._proxies = {scheme: proxy for scheme in ("http", "https") if (proxy := _read_proxy(scheme))}

    async def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Return the answer of a URL, whatever its status; ClientError if there is none. The caller limits the time."""
        target = urlsplit(url)
        proxy = self._proxies.get(target.scheme)
        if proxy and proxy_bypass(target.hostname or ""):
            proxy = None
        idle = self._idle.setdefault(f"{target.scheme}://{target.netloc}", [])
        try:
            request = _get_request(target, headers, proxy)
            if kept := _take(idle):
                # Its server may have closed it a moment ago: then the request is sent once more (RFC 9110, 9.2.2).
                with suppress(OSError):
                    return await _ask(kept, request, idle)
            return await _ask(await self._connect(target, proxy), request, idle)
        except (OSError, ValueError) as error:
            raise ClientError(_reason(error, proxy), "server") from error

    def close(self) -> None:
        for connection in itertools.chain(*self._idle.values()):
            connection.close()

    async def _connect(self, target: SplitResult, proxy: "_Proxy | None") -> Connection:
        """Connect to the host of a URL, or to its proxy; TLS with the host goes through a tunnel of the proxy."""
        try:
            if proxy is None:
                return await self._open(target)
            connection = await self._open(proxy.url)
            if target.scheme == "http":
                return connection
            await _open_tunnel(connection, target.netloc if target.port else f"{target.netloc}:443", proxy)
            return await connection.start_tls(self._tls(), target.hostname or "")
        except OSError as error:
            raise ClientError(_reason(error, proxy), "connection") from error

    async def _open(self, url: SplitResult) -> Connection:
        port, context = (443, self._tls()) if url.scheme == "https" else (80, None)
        return await Connection.open(url.hostname or "", url.port or port, context)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = _read_certificates(certifi.where())
        return self._context


def _take(idle: list[Connection]) -> Connection | None:
    """Return the connection that was used last, and close those that nobody can use any more."""
    for end in (0, -1):
        while idle and not idle[end].is_usable():
            idle.pop(end).close()
    return idle.pop() if idle else None


async def _ask(connection: Connection, request: bytes, idle: list[Connection]) -> Response:
    """Return the answer, and keep the connection if it can be used again."""
    answer = await connection.ask(request)
    if connection.is_usable():
        idle.append(connection)
    else:
        connection.close()
    return answer


async def _open_tunnel(connection: Connection, host: str, proxy: "_Proxy") -> None:
    """Ask a proxy for a tunnel to a host (RFC 9110, 9.3.6); OSError if it refuses."""
    answer = await connection.ask(_request("CONNECT", host, {"Host": host} | proxy.headers), opens_tunnel=True)
    if not 200 <= answer.status < 300:
        connection.close()
        raise ConnectionRefusedError(f"no tunnel, but HTTP status {answer.status}")


def _get_request(url: SplitResult, headers: Mapping[str, str], proxy: "_Proxy | None") -> bytes:
    """Return the request for a URL. A proxy that opens no tunnel gets all of the URL (RFC 9112, 3.2.2)."""
    fields = {"Host": url.netloc} | _HEADERS | dict(headers)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    if proxy and url.scheme == "http":
        fields |= proxy.headers
        target = url.geturl()
    return _request("GET", target, fields)


def _request(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """Return a request without a body; ValueError for characters that could make another request of it."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    if " " in target or not all(line.isascii() and line.isprintable() for line in lines):
        raise ValueError("a request is in printable ASCII, and its target has no space")
    return "\r\n".join([*lines, "", ""]).encode()


def _reason(error: Exception, proxy: "_Proxy | None") -> str:
    """Say what went wrong. Only messages of OSError do not quote the request, which may hold a key."""
    reason = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__
    return f"{reason}, through {proxy.variable}" if proxy else reason


def _read_certificates(path: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ValueError(f"SSL_CERT_FILE: {path} holds no certificate in PEM format, or a damaged one") from None
    except OSError as error:
        raise ValueError(f"SSL_CERT_FILE: {path} cannot be read: {error.strerror}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Proxy(NamedTuple):
    variable: str
    url: SplitResult
    headers: dict[str, str]


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
    headers = {}
    if url.username:
        credentials = base64.b64encode(f"{unquote(url.username)}:{unquote(url.password or '')}".encode())
        headers["Proxy-Authorization"] = f"Basic {credentials.decode()}"
    return _Proxy(variable, urlsplit(f"{url.scheme}://{url.host}:{url.port}"), headers)
