"""Logs for machines: one JSON object a line, and whose request it was only where that is asked for."""

import json
import logging
import time
from collections.abc import Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.log import NOTES, JsonFormatter, RequestLog
from tests.conftest import Service
from tests.upstream import Upstream

Serve = Callable[..., Service]
Upstreams = Callable[..., Upstream]


def lines(service: Service, count: int) -> list[dict[str, object]]:
    """The requests of a log in which every line is JSON; a line may be a little later than its answer."""
    deadline = time.monotonic() + 5
    while True:
        read = [json.loads(line) for line in service.log.read_text().splitlines()]
        assert all({"time", "level", "message"} <= set(line) for line in read)
        requests = [line for line in read if line["message"] == "request"]
        if len(requests) == count:
            return requests
        assert time.monotonic() < deadline, read
        time.sleep(0.05)


def test_a_json_line_a_request_says_what_happened_and_to_nobody(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=upstream().url, GEOIP_LOG_FORMAT="json")
    for target in ("/?ip=8.8.8.8", "/?ip=8.8.8.8", "/8.8.8.8", "/healthz", "/?ip=10.0.0.1"):
        service.get(target)
    miss, hit, nowhere, health, reserved = lines(service, 5)
    assert isinstance(miss["ms"], float)
    assert isinstance(miss["upstream_ms"], float)
    assert miss["ms"] >= miss["upstream_ms"]
    assert {name: miss[name] for name in ("level", "method", "path", "status", "cache_status", "source")} == {
        "level": "info",
        "method": "GET",
        "path": "/",
        "status": 200,
        "cache_status": "geoip; fwd=uri-miss; stored",
        "source": "ipwhois",
    }
    assert str(hit["cache_status"]).startswith("geoip; hit; ttl=")
    assert hit["upstream_ms"] is None
    assert (nowhere["path"], nowhere["status"]) == (None, 404)
    assert (reserved["path"], reserved["status"]) == ("/", 404)
    assert (health["path"], health["status"]) == ("/healthz", 204)
    assert "8.8.8.8" not in service.log.read_text()


def test_addresses_are_logged_where_they_are_asked_for(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=upstream().url, GEOIP_LOG_FORMAT="json", GEOIP_LOG_ADDRESSES=1)
    service.get("/?ip=8.8.8.8")
    service.get("/9.9.9.9")
    line, nowhere = lines(service, 2)
    assert line["address"] == "8.8.8.8"
    assert nowhere["path"] == "/9.9.9.9"


def test_single_requests_are_not_logged_as_text(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=upstream().url)
    service.get("/?ip=8.8.8.8")
    assert len(service.log.read_text().splitlines()) == 1  # the start


def test_a_traceback_is_part_of_its_line() -> None:
    error = RuntimeError("a bug")
    record = logging.LogRecord(
        "geoip", logging.ERROR, __file__, 1, "it failed: %s", ("badly",), (type(error), error, None)
    )
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"]) == ("error", "it failed: badly")
    assert line["traceback"].endswith("RuntimeError: a bug")


@pytest.mark.anyio
async def test_a_bug_is_logged_as_status_500(caplog: pytest.LogCaptureFixture) -> None:
    async def buggy(scope: Scope, _: Receive, __: Send) -> None:
        assert scope[NOTES] == {}
        raise RuntimeError("a bug")

    async def receive() -> Message:
        raise NotImplementedError

    async def send(_: Message) -> None:
        raise NotImplementedError

    scope: Scope = {"type": "http", "method": "GET", "path": "/"}
    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError):
        await RequestLog(buggy, addresses=False)(scope, receive, send)
    (record,) = caplog.records
    assert record.fields["status"] == 500  # type: ignore[attr-defined]
