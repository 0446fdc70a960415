"""A second cache in Valkey or Redis, which all replicas share. It holds the JSON of answers, each under its address.

The expiry of a key is that of its answer and a day more, in which the answer is stale.
"""

import logging
import time
from ipaddress import ip_address
from typing import Any

from pydantic_core import from_json
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.connection import RedisSSLContext, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.answer import MAX_STALE, Found, read_answer

TIMEOUT = 0.05
"""Seconds that the store has for each step of a command."""

MAX_CONNECTIONS = 16

logger = logging.getLogger("geoip")


class _TLSConnection(SSLConnection):
    """A connection that shares one TLS context: to read the CA bundle for each would use up the timeout."""

    def __init__(self, context: RedisSSLContext, **options: Any) -> None:  # noqa: ANN401 (redis' own)
        super().__init__(**options)
        self.ssl_context = context


class Store:
    """The shared cache. ValueError, of one line, for a URL with an option that does not exist."""

    def __init__(self, url: str, certificates: str | None = None) -> None:
        retry = Retry(NoBackoff(), 0)
        options: dict[str, Any] = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "retry": retry}
        try:
            options |= parse_url(url)
            if certificates and options.get("connection_class") is SSLConnection:
                options.setdefault("ssl_ca_certs", certificates)
            connection = options.pop("connection_class", Connection)(**options)  # looks at all options
        except (RedisError, TypeError, ValueError):
            raise ValueError(
                "GEOIP_CACHE_URL: an option after the question mark is wrong: correct it, or leave it out"
            ) from None
        kind: type[Connection] = Connection
        if isinstance(connection, SSLConnection):
            kind, options["context"] = _TLSConnection, connection.ssl_context
            connection.ssl_context.get()
        self._redis = Redis.from_pool(
            BlockingConnectionPool(MAX_CONNECTIONS, TIMEOUT, connection_class=kind, **options)
        )

    async def get(self, address: str, ttl: int) -> Found | None:
        """Return what is stored for an address, stale or not, for `ttl` seconds at most; None if there is nothing."""
        key = f"geoip:{address}"
        try:
            async with self._redis.pipeline(transaction=False) as commands:
                commands.get(key)
                commands.pttl(key)
                value, milliseconds = await commands.execute()
            if value is None:
                return None
            fields = from_json(value)
            answer = read_answer(fields["source"], ip_address(address), fields)
            expires = time.monotonic() + min(milliseconds / 1000 - MAX_STALE, ttl)
            return Found(answer.model_dump_json().encode(), answer.source, expires)
        except Exception as error:  # noqa: BLE001 (redis raises ValueError and the like for nonsense)
            _warn(error)
            return None

    async def put(self, address: str, found: Found) -> None:
        """Keep an answer for all replicas."""
        seconds = found.time_left(time.monotonic()) + MAX_STALE
        try:
            await self._redis.set(f"geoip:{address}", found.body, ex=seconds)
        except Exception as error:  # noqa: BLE001 (as above)
            _warn(error)

    async def open(self) -> None:
        """Connect, if the store is there, so that the first lookup need not."""
        try:
            await self._redis.ping()
        except Exception as error:  # noqa: BLE001 (as above)
            _warn(error)

    async def aclose(self) -> None:
        await self._redis.aclose()


def _warn(error: Exception) -> None:
    """Log an error by its type: its message may quote what is stored."""
    logger.warning(
        "the shared cache is not used (%s): check that the server of GEOIP_CACHE_URL runs", type(error).__name__
    )
