"""Logs: lines for people, JSON for machines, and no address unless a setting asks for it."""

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from app.log import WARNING_INTERVAL, JsonFormatter, RareWarnings
from tests.app.conftest import Server
from tests.app.test_api import Broken
from tests.conftest import Service
from tests.upstream import Upstream, answering, ipwhois_answer

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


def test_each_request_is_a_json_line_without_an_address(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=upstream().url, GEOIP_LOG_FORMAT="json")
    for target in ("/?ip=8.8.8.8", "/?ip=8.8.8.8", "/8.8.8.8", "/healthz", "/?ip=10.0.0.1"):
        service.get(target)
    preflight = {"Origin": "http://elsewhere.test", "Access-Control-Request-Method": "GET"}
    url = f"{service.url}/8.8.8.8"
    assert httpx.options(url, headers=preflight, trust_env=False, verify=False).status_code == 204
    miss, hit, nowhere, health, reserved, asked_before = lines(service, 6)
    assert len({frozenset(line) for line in (miss, hit, nowhere, health, reserved, asked_before)}) == 1
    assert isinstance(miss["ms"], float)
    assert {name: miss[name] for name in ("level", "method", "path", "status", "cache_status", "source")} == {
        "level": "info",
        "method": "GET",
        "path": "/",
        "status": 200,
        "cache_status": "geoip; fwd=uri-miss; stored",
        "source": "ipwhois",
    }
    assert abs(datetime.now(UTC) - datetime.fromisoformat(miss["time"])).total_seconds() < 20
    assert str(hit["cache_status"]).startswith("geoip; hit; ttl=")
    assert (nowhere["path"], nowhere["status"]) == (None, 404)
    assert (asked_before["path"], asked_before["status"], asked_before["method"]) == (None, 204, "OPTIONS")
    assert (reserved["path"], reserved["status"]) == ("/", 404)
    assert (health["path"], health["status"]) == ("/healthz", 204)
    assert "8.8.8.8" not in service.log.read_text()


def requests(caplog: pytest.LogCaptureFixture, count: int) -> list[dict[str, Any]]:
    """The fields of so many lines about requests; a line may be a little later than its answer."""
    deadline = time.monotonic() + 5
    while True:
        found = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "request"]
        if len(found) == count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def test_the_line_of_a_problem_says_how_long_it_took_and_no_source(
    running: Callable[..., Server], upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "geoip")
    nothing = answering({"success": False, "message": "Reserved range", "ip": "8.8.8.8"}, after=0.1)
    unknown = running(GEOIP_IPWHOIS_URL=upstream(nothing).url, GEOIP_LOG_FORMAT="json")
    failing = running(GEOIP_IPWHOIS_URL=upstream(answering({}, 500)).url, GEOIP_LOG_FORMAT="json")
    for server in (unknown, unknown, failing):
        server.get("/?ip=8.8.8.8")
    asked, kept, failed = requests(caplog, 3)
    for line, status in ((asked, 404), (kept, 404), (failed, 502)):
        assert (line["status"], line["source"]) == (status, None)
    assert asked["ms"] >= 100
    assert (asked["cache_status"], failed["cache_status"]) == ("geoip; fwd=uri-miss; stored", None)
    assert kept["cache_status"].startswith("geoip; hit; ttl=")


def test_addresses_are_logged_if_the_settings_ask_for_it(
    running: Callable[..., Server], upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "geoip")
    server = running(GEOIP_IPWHOIS_URL=upstream().url, GEOIP_LOG_FORMAT="json", GEOIP_LOG_ADDRESSES=1)
    for target in ("/?ip=8.8.8.8", "/", "/9.9.9.9"):
        server.get(target)
    asked, own, nowhere = requests(caplog, 3)
    assert asked["address"] == "8.8.8.8"
    assert own["address"] is None
    assert (nowhere["path"], nowhere["address"]) == ("/9.9.9.9", None)
    assert asked.keys() == own.keys() == nowhere.keys()


def test_the_address_of_a_failed_lookup_is_logged_too(
    running: Callable[..., Server], upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "geoip")
    url = upstream(answering({}, 500)).url
    server = running(GEOIP_IPWHOIS_URL=url, GEOIP_LOG_FORMAT="json", GEOIP_LOG_ADDRESSES=1)
    server.get("/?ip=8.8.8.8")
    (failed,) = requests(caplog, 1)
    assert (failed["status"], failed["address"], failed["source"]) == (502, "8.8.8.8", None)


def test_a_bug_is_logged_as_status_500(running: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "geoip")
    server = running((Broken,), GEOIP_SOURCES="broken", GEOIP_BROKEN_KEY="bug", GEOIP_LOG_FORMAT="json")
    assert server.get("/?ip=8.8.8.8").status_code == 500
    (line,) = requests(caplog, 1)
    assert (line["status"], line["path"], line["source"]) == (500, "/", None)


def test_single_requests_are_not_logged_as_text(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=upstream().url)
    service.get("/?ip=8.8.8.8")
    assert len(service.lines()) == 1  # the start


def test_a_traceback_is_part_of_its_line() -> None:
    error = RuntimeError("a bug")
    record = logging.LogRecord(
        "geoip", logging.ERROR, __file__, 1, "it failed: %s", ("badly",), (type(error), error, None)
    )
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"]) == ("error", "it failed: badly")
    assert line["traceback"].endswith("RuntimeError: a bug")


def test_of_many_warnings_one_a_minute_passes_with_the_number_of_the_others() -> None:
    rare = RareWarnings()

    def passed(seconds: float, level: int = logging.WARNING) -> str | None:
        record = logging.LogRecord("uvicorn.error", level, __file__, 1, "bad %s", ("request",), None)
        record.created = 1_800_000_000 + seconds
        return record.getMessage() if rare.filter(record) else None

    assert passed(0) == "bad request"
    assert [passed(second) for second in range(1, WARNING_INTERVAL)] == [None] * (WARNING_INTERVAL - 1)
    assert passed(30, logging.ERROR) == "bad request"  # an error is always told
    assert passed(WARNING_INTERVAL) == f"bad request ({WARNING_INTERVAL - 1} more like this since the last line)"
    assert passed(WARNING_INTERVAL + 1) is None
    assert passed(10 * WARNING_INTERVAL) == "bad request (1 more like this since the last line)"
    assert passed(20 * WARNING_INTERVAL) == "bad request"


def test_another_warning_is_not_held_back() -> None:
    rare = RareWarnings()

    def passes(word: str, name: str = "geoip") -> bool:
        return rare.filter(logging.LogRecord(name, logging.WARNING, __file__, 1, "%s failed", (word,), None))

    assert [passes("a"), passes("b"), passes("a"), passes("b"), passes("c")] == [True, True, False, False, True]
    # A request for an upgrade is two warnings of uvicorn, the second of which asks for a library.
    assert [passes("a", "uvicorn.error"), passes("b", "uvicorn.error")] == [True, False]


def test_an_address_that_is_answered_badly_does_not_fill_the_log(serve: Serve, upstream: Upstreams) -> None:
    source = upstream(answering(ipwhois_answer("8.8.8.8", latitude=91)))
    service = serve(GEOIP_IPWHOIS_URL=source.url)
    for _ in range(20):
        assert service.get("/?ip=8.8.8.8").status_code == 502
    start, warning = service.lines()
    assert " INFO " in start
    assert "ipwhois sent an answer that is not valid (latitude: " in warning
