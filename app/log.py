"""Logs: lines for people, or one JSON object a line for machines, with one line a request."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Container

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("geoip")

NOTES = "geoip.notes"
"""Where in an ASGI scope the route notes what the request's line says beyond status and time."""


class JsonFormatter(logging.Formatter):
    """A record as a JSON object; what `extra={"fields": …}` brings is part of it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(settings: Settings) -> None:
    """Log to stderr what the settings want to see."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # they log whole URLs, and a URL may hold a key


class RequestLog:
    """One line a request: method, path, status, milliseconds, and the notes that were taken on the way.

    Addresses are people's: they are logged only where the settings ask for it. So is a path that is none of `paths`,
    which may be an address: elsewhere one asks for /8.8.8.8.
    """

    def __init__(self, app: ASGIApp, paths: Container[str], addresses: bool) -> None:
        self._app = app
        self._paths = paths
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        notes: dict[str, object] = {"source": None, "upstream_ms": None}
        scope[NOTES] = notes
        path = scope["path"] if self._addresses or scope["path"] in self._paths else None
        fields: dict[str, object] = {"method": scope["method"], "path": path, "status": 500, "cache_status": None}

        async def look(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                for name, value in message["headers"]:
                    if name == b"cache-status":
                        fields["cache_status"] = value.decode("latin1")
            await send(message)

        try:
            await self._app(scope, receive, look)
        finally:
            fields["ms"] = round((time.perf_counter() - started) * 1000, 1)
            if not self._addresses:
                notes.pop("address", None)
            logger.info("request", extra={"fields": fields | notes})
