"""Logs: lines for people, or one JSON object a line for machines. Times are UTC."""

import json
import logging
import math
import time
from collections.abc import Container
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Settings

WARNING_INTERVAL = 60
"""Seconds between two lines that say the same: anybody can send malformed requests, or ask for an address again."""

logger = logging.getLogger("geoip")


class TextFormatter(logging.Formatter):
    """A line for people, with the time as RFC 3339 writes it."""

    def formatTime(  # noqa: N802 (logging's name)
        self,
        record: logging.LogRecord,
        datefmt: str | None = None,  # noqa: ARG002 (logging's parameter)
    ) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class JsonFormatter(TextFormatter):
    """A record as a JSON object. The fields of `extra={"fields": …}` are part of it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class RareWarnings(logging.Filter):
    """Lets one warning a minute through of those that are alike, with the number of those that it held back."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, tuple[float, int]] = {}  # when it passed, and how many were held back since then

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        subject = record.getMessage() if record.name == logger.name else record.name  # all of uvicorn's are alike
        passed, held_back = self._last.get(subject, (-math.inf, 0))
        if record.created - passed < WARNING_INTERVAL:
            self._last[subject] = passed, held_back + 1
            return False
        self._last[subject] = record.created, 0
        if held_back:
            record.msg = f"{record.getMessage()} ({held_back} more like this since the last line)"
            record.args = ()
        return True


def configure_logging(settings: Settings) -> None:
    """Log to stderr, from the level of the settings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter() if settings.log_format == "json" else TextFormatter("%(asctime)s %(levelname)s %(message)s")
    )
    handler.setLevel(settings.log_level.upper())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    for name in ("uvicorn.error", logger.name):
        logging.getLogger(name).addFilter(RareWarnings())


class RequestLog:
    """One line a request: method, path, status, milliseconds, Cache-Status and source.

    Addresses are personal data: they are logged only if the settings ask for it. A path outside `paths` may hold one.
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
        path = scope["path"] if self._addresses or scope["path"] in self._paths else None
        fields = {"method": scope["method"], "path": path, "status": 500, "cache_status": None}

        async def note_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                fields["cache_status"] = dict(message["headers"]).get(b"cache-status", b"").decode("latin-1") or None
            await send(message)

        try:
            await self._app(scope, receive, note_and_send)
        finally:
            for name in ("address", "source") if self._addresses else ("source",):
                fields[name] = scope.get("state", {}).get(name)
            fields["ms"] = round((time.perf_counter() - started) * 1000, 1)
            logger.info("request", extra={"fields": fields})
