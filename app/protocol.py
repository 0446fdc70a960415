"""HTTP/1.1 as uvicorn speaks it, with limits on what one client may hold: connections, time and memory.

uvicorn leaves these limits to a proxy, and there may be none.
"""

import asyncio
import re
from email.utils import formatdate
from time import monotonic
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.problems import Problem
from app.responses import problem_response

MAX_HEAD = 16 * 1024
"""Bytes of a request without its body; up to BUFFER more may be read."""

MAX_FIELDS = 100
"""Fields of a request, trailer fields included."""

MAX_PIPELINED = 32
"""Requests on one connection that have not been answered."""

BUFFER = 4096
"""Bytes that are read at once: small enough to stop a flood of the shortest requests early."""

# RFC 3986, 3.2.2 and 3.2.3: a name, an IPv4 address or an IPv6 address in brackets, and a port; or nothing.
_HOST = re.compile(rb"([A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?[ \t]*")

_REFUSAL = problem_response(
    Problem(
        "bad-request",
        "the request is not HTTP/1.1 with one valid Host, or is too large: "
        f"send at most {MAX_FIELDS} fields in {MAX_HEAD} bytes, and wait for answers after {MAX_PIPELINED} requests",
    )
)


class Outlet:
    """A transport that sends the head of a response together with its body, which uvicorn writes one after the other.

    One system call and one packet instead of two: a tenth of a hit's CPU time.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing  # asked for each request, and this way at half the price
        self._head = b""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (anything else is the transport's)
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold the head of a success back; send anything else, with what was held back before it."""
        if data.startswith(b"HTTP/1.1 2") and not self._head:
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Send what is held back."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class Protocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """One connection. A client that asks for too much gets `bad-request`; one that is too slow is cut off.

    All reads share one buffer that is kept: else asyncio makes one of 256 KiB for each, a third of a hit on musl.
    """

    max_connections = 1000
    """Beyond that, the longest idle connection is closed; if none is idle, the new one."""
    timeout: float = 10
    """Seconds, at most twice that, for a request to arrive, or for the client to take some of its answer."""
    _buffer = memoryview(bytearray(BUFFER))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Start to watch the connection."""
        self._outlet = Outlet(transport)
        super().connection_made(cast("asyncio.Transport", self._outlet))
        self._arrived = self._answered = 0
        self._is_last = False
        self._start_request()
        self._idle_since = monotonic()
        self._watch(None)
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watching.cancel()
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (asyncio's hint)
        """Return the buffer that asyncio reads into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read, and refuse what is too much."""
        if self._is_last:
            return
        if self._arrived == self._answered:
            self._arriving = True  # even an empty line, which begins no request, but ends uvicorn's own wait
        self.data_received(bytes(self._buffer[:nbytes]))
        if self._arriving:
            self._head_size += nbytes
        is_too_much = self._head_size > MAX_HEAD or self._arrived - self._answered > MAX_PIPELINED
        if is_too_much and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._start_request()

    def on_headers_complete(self) -> None:
        """Refuse too many fields, another version of HTTP, and a request without one valid Host (RFC 9112, 3.2)."""
        if len(self.headers) > MAX_FIELDS:
            raise ValueError("too many fields")  # the parser makes its own error of it
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            raise ValueError("another version")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and version != "1.0"):
            raise ValueError("not one Host")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise ValueError("not a Host")
        super().on_headers_complete()
        if self.parser.should_upgrade() and any(
            name in {b"content-length", b"transfer-encoding"} and value != b"0" for name, value in self.headers
        ):
            # The parser would take the body for another request, so this one is the last.
            self._is_last, self.cycle.keep_alive = True, False
        self._header_count = len(self.headers)
        self.headers = []  # for trailer fields, which are dropped (RFC 9112, 7.1.2: they must not become headers)

    def on_body(self, body: bytes) -> None:
        """Leave the body out of the count."""
        self._head_size -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._header_count + len(self.headers) > MAX_FIELDS:
            raise ValueError("too many fields")
        self._arriving = False
        self._arrived += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._outlet.flush()  # an answer to HEAD has no body
        self._answered += 1
        self._idle_since = monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's words)
        """Send the problem that any malformed request gets, and close."""
        fields = [(b"date", formatdate(usegmt=True).encode()), *_REFUSAL.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(_REFUSAL.body))
        self.transport.close()

    def shutdown(self) -> None:
        """Answer what is under way, except to a client that does not take its answers."""
        _, high = self.transport.get_write_buffer_limits()
        if self.transport.get_write_buffer_size() > high:
            self.transport.abort()
        super().shutdown()

    def _start_request(self) -> None:
        self._head_size = 0
        self._arriving = True

    def _make_room(self) -> None:
        """End the connection that has been idle for longest, so that a flood of idle ones does not shut others out."""
        idle = [
            other
            for other in self.connections
            if isinstance(other, Protocol) and other._arrived <= other._answered and not other.transport.is_closing()
        ]
        min(idle, key=lambda other: other._idle_since, default=self).transport.abort()

    def _watch(self, before: tuple[int, int] | None) -> None:
        """Cut the connection off if the same request is still arriving as at the last look, or as much is still unsent.

        `before` is that look: how many requests had arrived (-1 if none was arriving), and the bytes unsent.
        """
        arriving = self._arriving and self.transport.is_reading()
        unsent = self.transport.get_write_buffer_size()
        if before and ((arriving and before[0] == self._arrived) or (unsent and before[1] == unsent)):
            self.transport.abort()
            return
        now = (self._arrived if arriving else -1, unsent)
        self._watching = self.loop.call_later(self.timeout, self._watch, now)
