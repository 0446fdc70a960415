"""HTTP/1.1 as uvicorn speaks it, with a bound on what clients may hold: connections, time and memory.

uvicorn leaves that to a proxy in front of it, and there may be none: endless headers would grow in memory until the
process is killed, and a connection that says nothing would stay for ever.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api import problem_response
from app.problems import BadRequest

MAX_HEAD = 16 * 1024
"""Bytes of a request beside its body, or a few thousand more where they come together."""

MAX_FIELDS = 100
"""Fields of a request."""

MAX_PIPELINED = 32
"""Requests on one connection that wait for the answers before theirs."""

_PART = 4096  # bytes that are parsed at once: of the shortest requests, they become some twenty times as many

# Python 3.13 has the phrase of RFC 9110, older ones another: every image answers alike.
STATUS_LINE[422] = b"HTTP/1.1 422 Unprocessable Content\r\n"

_REFUSAL = problem_response(
    BadRequest(
        f"this is not HTTP/1.1 (in a URL, other letters than ASCII's are percent-encoded), or more than {MAX_FIELDS} "
        f"fields, {MAX_HEAD} bytes beside a body, or {MAX_PIPELINED} requests that wait for an answer"
    )
)


class Protocol(HttpToolsProtocol):
    """One connection. Who asks for too much is told `bad-request`; who is too slow, or one too many, is cut off."""

    max_connections = 1000
    patience: float = 10
    """Seconds, or up to twice that, in which a request must arrive whole, and some of an answer be taken."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows asyncio's too
        """Begin to watch it."""
        super().connection_made(transport)
        self._arriving, self._arrived, self._head = True, 0, 0
        self._watch(None)
        if len(self.connections) > self.max_connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching it."""
        self._watching.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse it bit by bit: what is refused then has not grown yet."""
        for start in range(0, len(data), _PART):
            part = data[start : start + _PART]
            super().data_received(part)
            self._head += len(part) if self._arriving else 0
            if self.transport.is_closing():
                return
            if self._head > MAX_HEAD or len(self.pipeline) > MAX_PIPELINED:
                self.send_400_response("")
                return

    def on_message_begin(self) -> None:
        """Count from here."""
        super().on_message_begin()
        self._arriving, self._head = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one of not too many."""
        if len(self.headers) == MAX_FIELDS:
            raise ValueError  # which the parser makes an HttpParserError of
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Count all but this."""
        self._head -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for no more."""
        self._arriving = False
        self._arrived += 1
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn passes its own words)
        """Say so as every problem is said here, and close."""
        fields = [*self.server_state.default_headers, *_REFUSAL.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(STATUS_LINE[_REFUSAL.status_code] + head + b"\r\n" + bytes(_REFUSAL.body))
        self.transport.close()

    def shutdown(self) -> None:
        """Answer what is under way, but not for those that take no answers."""
        if self.flow.write_paused:
            self.transport.abort()
        super().shutdown()

    def _unsupported_upgrade_warning(self) -> None:
        """Answer a WebSocket's request like any other, without a word: anybody can send them."""

    def _watch(self, before: tuple[int, int] | None) -> None:
        """Look whether it got on since: how many requests had arrived (-1: none was about to), and bytes unsent."""
        arriving = self._arriving and not self.flow.read_paused
        unsent = self.transport.get_write_buffer_size()
        if before and ((arriving and before[0] == self._arrived) or (unsent and before[1] == unsent)):
            self.transport.abort()
            return
        now = (self._arrived if arriving else -1, unsent)
        self._watching = self.loop.call_later(self.patience, self._watch, now)
