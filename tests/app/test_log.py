"""Logs for machines: one JSON object a line, and whose request it was only where that is asked for."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.log import NOTES, JsonFormatter, RequestLog
from tests.conftest import Service
from tests.upstream import Upstream, answering

Serve = Callable[..., Service]
Upstreams = Callable[..., Upstream]


def lines(service: Service, count: int) -> list[dict[str, Any]]:
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
    preflight = {"Origin": "http://elsewhere.test", "Access-Control-Request-Method": "GET"}
    assert httpx.options(f"{service.url}/8.8.8.8", headers=preflight, trust_env=False).status_code == 200
    miss, hit, nowhere, health, reserved, asked_before = lines(service, 6)
    assert len({frozenset(line) for line in (miss, hit, nowhere, health, reserved, asked_before)}) == 1
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
    assert (asked_before["path"], asked_before["status"]) == (None, 200)
    assert (reserved["path"], reserved["status"]) == ("/", 404)
    assert (health["path"], health["status"]) == ("/healthz", 204)
    assert "8.8.8.8" not in service.log.read_text()


def test_the_line_of_a_problem_says_what_the_sources_took(serve: Serve, upstream: Upstreams) -> None:
    nothing = {"success": False, "message": "Reserved range", "ip": "8.8.8.8"}
    unknown = serve(GEOIP_IPWHOIS_URL=upstream(answering(nothing, after=0.1)).url, GEOIP_LOG_FORMAT="json")
    failing = serve(GEOIP_IPWHOIS_URL=upstream(answering({}, 500, after=0.1)).url, GEOIP_LOG_FORMAT="json")
    for service in (unknown, unknown, failing):
        service.get("/?ip=8.8.8.8")
    asked, kept = lines(unknown, 2)
    (failed,) = lines(failing, 1)
    for line, status in ((asked, 404), (kept, 404), (failed, 502)):
        assert (line["status"], line["source"]) == (status, None)
    assert 100 <= asked["upstream_ms"] <= asked["ms"]
    assert 100 <= failed["upstream_ms"] <= failed["ms"]
    assert kept["upstream_ms"] is None
    assert (asked["cache_status"], failed["cache_status"]) == ("geoip; fwd=uri-miss; stored", None)
    assert kept["cache_status"].startswith("geoip; hit; ttl=")


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
        assert scope[NOTES] == {"source": None, "upstream_ms": None}
        raise RuntimeError("a bug")

    async def receive() -> Message:
        raise NotImplementedError

    async def send(_: Message) -> None:
        raise NotImplementedError

    scope: Scope = {"type": "http", "method": "GET", "path": "/"}
    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError):
        await RequestLog(buggy, paths={"/"}, addresses=False)(scope, receive, send)
    (record,) = caplog.records
    assert record.fields["status"] == 500  # type: ignore[attr-defined]
