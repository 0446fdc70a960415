"""Connections for httpcore on asyncio's own transports: with httpcore's default, anyio, a miss takes more CPU time.

The caller limits the time, so httpcore's own `timeout` is not used.
"""

import asyncio
import ssl
from collections.abc import Iterable
from typing import cast

import httpcore

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a host is tried as well (RFC 8305, 5)."""

MAX_UNREAD = 256 * 1024
"""Bytes that may wait for a read. asyncio delivers at most that at once, and a request reads all of it."""


class Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection, with TLS or without."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._has_ended = False
        self._error: Exception | None = None
        self._is_readable = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Keep it for a read, and end a connection on which a server sends what nobody asked for."""
        self._unread += data
        self._is_readable.set()
        if len(self._unread) > MAX_UNREAD:
            self._transport.abort()

    def eof_received(self) -> None:
        """Note the end; asyncio closes the connection."""
        self._has_ended = True
        self._is_readable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        self.eof_received()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has come, or nothing at the end; ReadError if the connection broke."""
        await self._is_readable.wait()
        data = bytes(self._unread[:max_bytes])
        if not data and self._error:
            raise httpcore.ReadError(self._error) from self._error
        del self._unread[:max_bytes]
        if not self._unread and not self._has_ended:
            self._is_readable.clear()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send without a wait, since a request is short. The read after it reports a broken connection."""
        self._transport.write(buffer)

    async def aclose(self) -> None:
        self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "Stream":
        """Return this connection with TLS; ConnectError if the handshake fails."""
        # A new stream, so that nothing that came before TLS can pass for an answer.
        secure = Stream()
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(self._transport, secure, ssl_context, server_hostname=server_hostname)
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        secure.connection_made(cast("asyncio.Transport", transport))
        return secure

    def get_extra_info(self, info: str) -> object:
        """Say by `is_readable` whether anything came, the end included. The rest is asyncio's."""
        return self._is_readable.is_set() if info == "is_readable" else self._transport.get_extra_info(info)


class Network(httpcore.AsyncNetworkBackend):
    """Opens connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Return a connection to a host; ConnectError if none of its addresses can be reached."""
        loop = asyncio.get_running_loop()
        try:
            _, stream = await loop.create_connection(Stream, host, port, happy_eyeballs_delay=NEXT_ADDRESS)
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        return stream
