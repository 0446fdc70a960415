"""The HTTP client that sources share. Answers are hostile input: at most 64 KiB, no redirects, no compression."""

import base64
import itertools
import ssl
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import h11
from pydantic import AnyHttpUrl, ValidationError

from app.problems import Fault
from app.stream import Stream

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
    """GET requests, each over a connection of its own that is kept for the next.

    Proxies come from the environment (`HTTPS_PROXY` and the like), the CA bundle from the path `certificates`.
    ValueError, of one line, for a proxy or a CA bundle that cannot be used.
    """

    def __init__(self, certificates: str | None = None) -> None:
        # The CA bundle of certifi is read when it is needed, since that takes some 10 ms and 2 MB.
        self._context = _read_certificates(certificates) if certificates else None
        self._idle: dict[str, list[_Connection]] = {}  # by origin
        self._proxies = {scheme: proxy for scheme in ("http", "https") if (proxy := _read_proxy(scheme))}

    async def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Return the answer of a URL, whatever its status; ClientError if there is none. The caller limits the time."""
        target = urlsplit(url)
        proxy = self._proxies.get(target.scheme)
        if proxy and proxy_bypass(target.hostname or ""):
            proxy = None
        idle = self._idle.setdefault(f"{target.scheme}://{target.netloc}", [])
        try:
            request = _request(target, headers, proxy)
            if kept := _take(idle):
                # Its server may have closed it a moment ago: then the request is sent once more (RFC 9110, 9.2.2).
                with suppress(h11.RemoteProtocolError, OSError):
                    return await _ask(kept, request, idle)
            return await _ask(_Connection(await self._connect(target, proxy)), request, idle)
        except (h11.ProtocolError, OSError, ValueError) as error:
            raise ClientError(_reason(error, proxy), "server") from error

    def close(self) -> None:
        for connection in itertools.chain(*self._idle.values()):
            connection.stream.close()

    async def _connect(self, target: SplitResult, proxy: "_Proxy | None") -> Stream:
        """Connect to the host of a URL, or to its proxy; TLS with the host goes through a tunnel of the proxy."""
        try:
            if proxy is None:
                return await self._open(target)
            stream = await self._open(proxy.url)
            if target.scheme == "http":
                return stream
            await _open_tunnel(stream, target.netloc if target.port else f"{target.netloc}:443", proxy)
            return await stream.start_tls(self._tls(), target.hostname or "")
        except (h11.ProtocolError, OSError) as error:
            raise ClientError(_reason(error, proxy), "connection") from error

    async def _open(self, url: SplitResult) -> Stream:
        port, context = (443, self._tls()) if url.scheme == "https" else (80, None)
        return await Stream.open(url.hostname or "", url.port or port, context)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = _read_certificates(certifi.where())
        return self._context


class _Connection:
    """A stream, and the state of HTTP/1.1 on it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._expires = 0.0

    async def ask(self, request: h11.Request) -> Response:
        """Return the answer to a request without a body."""
        try:
            for event in (request, h11.EndOfMessage()):
                self.stream.write(self._http.send(event) or b"")
            while not isinstance(head := await self._receive(), h11.Response):
                pass  # an interim answer (RFC 9110, 15.2)
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            return Response(head.status_code, headers, await self._read_body(headers))
        except BaseException:
            self.stream.close()
            raise

    def renew(self) -> bool:
        """Get ready for the next request; False if the last answer does not allow one, or was more than an answer."""
        if {self._http.our_state, self._http.their_state} != {h11.DONE} or self._http.trailing_data[0]:
            return False
        self._http.start_next_cycle()
        self._expires = monotonic() + KEEP_ALIVE
        return True

    def is_usable(self) -> bool:
        """Tell whether a renewed connection is still good: anything that came was not asked for, or is the end."""
        return monotonic() < self._expires and not self.stream.is_readable

    async def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ClientError("the answer is compressed, which was not asked for", "answer")
        body = bytearray()
        while isinstance(part := await self._receive(), h11.Data):
            body += part.data
            if len(body) > MAX_BODY:
                raise ClientError(f"the answer has more than {MAX_BODY} bytes", "answer")
        return bytes(body)

    async def _receive(self) -> object:
        """Return the next part of an answer."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self.stream.read())
        return event


def _take(idle: list[_Connection]) -> _Connection | None:
    """Return the connection that was used last, and close those that nobody can use any more."""
    for end in (0, -1):
        while idle and not idle[end].is_usable():
            idle.pop(end).stream.close()
    return idle.pop() if idle else None


async def _ask(connection: _Connection, request: h11.Request, idle: list[_Connection]) -> Response:
    """Return the answer, and keep the connection if it can be used again."""
    answer = await connection.ask(request)
    if connection.renew():
        idle.append(connection)
    else:
        connection.stream.close()
    return answer


async def _open_tunnel(stream: Stream, host: str, proxy: "_Proxy") -> None:
    """Ask a proxy for a tunnel to a host (RFC 9110, 9.3.6); OSError if it refuses."""
    headers = {"Host": host} | proxy.headers
    answer = await _Connection(stream).ask(h11.Request(method="CONNECT", target=host, headers=[*headers.items()]))
    if not 200 <= answer.status < 300:
        stream.close()
        raise ConnectionRefusedError(f"no tunnel, but HTTP status {answer.status}")


def _request(url: SplitResult, headers: Mapping[str, str], proxy: "_Proxy | None") -> h11.Request:
    """Return the request for a URL. A proxy that opens no tunnel gets all of the URL (RFC 9112, 3.2.2)."""
    fields = {"Host": url.netloc} | _HEADERS | dict(headers)
    target = url._replace(scheme="", netloc="").geturl() or "/"
    if proxy and url.scheme == "http":
        fields |= proxy.headers
        target = url.geturl()
    return h11.Request(method="GET", target=target, headers=[*fields.items()])


def _reason(error: Exception, proxy: "_Proxy | None") -> str:
    """Say what went wrong. Only the system's messages do not quote the request, which may hold a key."""
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
