"""Connections to upstreams: bytes over TCP, with TLS or without."""

import asyncio
import ssl
from typing import cast

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a host is tried as well (RFC 8305, 5)."""

MAX_UNREAD = 256 * 1024
"""Bytes that may wait for a read. asyncio delivers at most that at once, and a request reads all of it."""


class Stream(asyncio.Protocol):
    """One connection. The caller limits the time of whatever waits."""

    def __init__(self) -> None:
        self._unread = b""
        self._has_ended = False
        self._error: Exception | None = None
        self._is_readable = asyncio.Event()

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext | None) -> "Stream":
        """Connect to a host, with a context by TLS; OSError if none of its addresses can be reached, or TLS fails."""
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(cls, host, port, ssl=context, happy_eyeballs_delay=NEXT_ADDRESS)
        return stream

    async def start_tls(self, context: ssl.SSLContext, host: str) -> "Stream":
        """Return this connection with TLS; OSError if the handshake fails, or if the certificate is not the host's."""
        # A new stream, so that nothing that came before TLS can pass for an answer.
        secure = Stream()
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(self._transport, secure, context, server_hostname=host)
        secure.connection_made(cast("asyncio.Transport", transport))
        return secure

    @property
    def is_readable(self) -> bool:
        """Whether anything came that was not read, the end included."""
        return self._is_readable.is_set()

    async def read(self) -> bytes:
        """Return what has come, or nothing at the end; OSError if the connection broke."""
        await self._is_readable.wait()
        if self._error and not self._unread:
            raise self._error
        data, self._unread = self._unread, b""
        if not self._has_ended:
            self._is_readable.clear()
        return data

    def write(self, data: bytes) -> None:
        """Send without a wait, since a request is short. The read after it reports a broken connection."""
        self._transport.write(data)

    def close(self) -> None:
        self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Keep it for a read, and end a connection on which a server sends what nobody asked for."""
        self._unread += data
        self._is_readable.set()
        if len(self._unread) > MAX_UNREAD:
            self.close()

    def eof_received(self) -> None:
        """Note the end; asyncio closes the connection."""
        self._has_ended = True
        self._is_readable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        self.eof_received()
