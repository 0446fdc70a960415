"""One connection to an upstream: HTTP/1.1 (RFC 9112) over TCP, with TLS or without. Answers are hostile input."""

import asyncio
import ssl
from collections.abc import Mapping
from time import monotonic
from typing import NamedTuple, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from app.problems import Fault

MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read, its head included; real answers have less than two thousand."""

KEEP_ALIVE = 5
"""Seconds that an unused connection is kept."""

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a host is tried as well (RFC 8305, 5)."""


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


class Connection(asyncio.Protocol):
    """A connection for one request after the other. The caller limits the time of whatever waits."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._answer.cancel()  # nobody waits for one yet

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext | None) -> "Connection":
        """Connect to a host, with a context by TLS; OSError if none of its addresses can be reached, or TLS fails."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, host, port, ssl=context, happy_eyeballs_delay=NEXT_ADDRESS)
        return connection

    async def start_tls(self, context: ssl.SSLContext, host: str) -> "Connection":
        """Return this connection with TLS; OSError if the handshake fails, or if the certificate is not the host's."""
        # A new connection, so that nothing that came before TLS can pass for an answer.
        secure = Connection()
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(self._transport, secure, context, server_hostname=host)
        if transport is None:
            raise ConnectionAbortedError("the connection ended before TLS began")
        secure.connection_made(transport)
        return secure

    async def ask(self, request: bytes, *, opens_tunnel: bool = False) -> Response:
        """Send a request without a body, and return the answer.

        OSError if the connection breaks, or if the answer is not HTTP/1.1; ClientError for an answer that is too
        long or compressed. Then the connection is closed.
        """
        if self._transport.is_closing():
            raise ConnectionAbortedError("the server closed the connection before it was asked")
        self._opens_tunnel = opens_tunnel
        self._size = 0
        self._lasts = self._ends_with_connection = False
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._answer
        except BaseException:
            self.close()
            raise

    def is_usable(self) -> bool:
        """Tell whether another request can be sent: the server allows it, and has sent only what was asked for."""
        return self._lasts and not self._transport.is_closing() and monotonic() < self._expires

    def close(self) -> None:
        self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read a part of the answer. Anything else ends the connection."""
        self._size += len(data)
        if self._answer.done():
            self.close()
        elif self._size > MAX_ANSWER:
            self._fail(ClientError(f"the answer has more than {MAX_ANSWER} bytes", "answer"))
        else:
            try:
                self._parser.feed_data(data)
            except (HttpParserError, HttpParserUpgrade):
                self._fail(ConnectionError("the answer is not HTTP/1.1"))

    def eof_received(self) -> None:
        self.connection_lost(None)  # asyncio closes the connection

    def connection_lost(self, exc: Exception | None) -> None:
        """Take what has come for the answer if it has no length (RFC 9112, 6.3)."""
        if self._answer.done():
            return
        if exc is None and self._ends_with_connection:
            self._finish()
        else:
            self._fail(exc or ConnectionAbortedError("the server closed the connection before its answer was complete"))

    # The parser calls these

    def on_message_begin(self) -> None:
        if self._answer.done():
            raise ValueError("more than an answer")  # the parser makes its own error of it
        self._fields: list[tuple[bytes, bytes]] = []
        self._body = bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Read the head. Trailer fields, which may come after the body, are ignored."""
        self._status = self._parser.get_status_code()
        self._headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._fields}
        has_length = self._headers.keys() & {"content-length", "transfer-encoding"}
        self._ends_with_connection = self._status >= 200 and not has_length
        if self._opens_tunnel and 200 <= self._status < 300:  # it has no body (RFC 9110, 9.3.6)
            self._finish()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._status >= 200:  # else an interim answer (RFC 9110, 15.2)
            self._lasts = self._parser.should_keep_alive()
            self._expires = monotonic() + KEEP_ALIVE
            self._finish()

    def _finish(self) -> None:
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            self._fail(ClientError("the answer is compressed, which was not asked for", "answer"))
        elif not self._answer.done():
            self._answer.set_result(Response(self._status, self._headers, bytes(self._body)))

    def _fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
        self.close()
