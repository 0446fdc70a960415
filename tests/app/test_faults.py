"""Upstreams that fail, lie and stall: what the service makes of each, over real sockets."""

import gzip
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import trustme

from tests.app.conftest import Server, serving
from tests.conftest import Service, free_port
from tests.upstream import (
    Behaviour,
    Request,
    Upstream,
    answering,
    http_answer,
    ipwhois,
    ipwhois_answer,
    reset,
    sending,
    silent,
)

Running = Callable[..., Server]
Serve = Callable[..., Service]
Upstreams = Callable[..., Upstream]

KEY = "k3y-that-nobody-may-see"
LIMIT = 2.0
STALLED_LIMIT = 0.6
SLACK = 5.0  # for a busy machine: an endless wait is longer, and a shorter one shows in the code of the problem
FAILED, TIMEOUT, REFUSED, QUOTA = "upstream-failed", "upstream-timeout", "upstream-refused", "quota-exhausted"
STATUS = {FAILED: 502, REFUSED: 502, QUOTA: 503, TIMEOUT: 504, "unknown-address": 404}


def echo(connection: socket.socket, request: Request) -> None:
    """Send the request's target and headers back, key included, in place of HTTP."""
    connection.sendall(f"{request.target} {request.headers}\r\n\r\n".encode())


def ipapi(connection: socket.socket, request: Request) -> None:
    """Answer as ip-api.com does."""
    address = request.target.removeprefix("/json/").partition("?")[0]
    place = {"lat": 45.6085, "lon": -73.5493, "isp": "Le Groupe Videotron Ltee", "as": "AS5769 Videotron"}
    connection.sendall(http_answer({"status": "success", "query": address} | place))


def saying(**other: object) -> Behaviour:
    """Answer as ipwho.is does about 8.8.8.8, but for these fields."""
    return answering(ipwhois_answer("8.8.8.8") | other)


def holding(field: str, raw: bytes) -> Behaviour:
    """Answer as ipwho.is does about 8.8.8.8, with these bytes in the place of the field's JSON."""
    body = json.dumps(ipwhois_answer("8.8.8.8") | {field: "HERE"}).encode()
    return answering(body.replace(b'"HERE"', raw))


GOOD = http_answer(ipwhois_answer("8.8.8.8"))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n"


class Fault(NamedTuple):
    """A fault of an upstream, and the code of the problem if it is the only source."""

    behaviour: Behaviour
    code: str
    source: str = "ipify"  # its requests hold a key in the URL


FAULTS: dict[str, Fault] = {
    # Stalls
    "accepted and silent": Fault(silent, TIMEOUT),
    "header then silence": Fault(sending(HEAD + b"\r\n", then=silent), TIMEOUT),
    "half a header then silence": Fault(sending(HEAD, then=silent), TIMEOUT),
    "body then silence": Fault(sending(HEAD + b"\r\n{", then=silent), TIMEOUT),
    "one byte a second": Fault(sending(*(bytes([byte]) for byte in GOOD), pause=1), TIMEOUT),
    "a header without end": Fault(sending(HEAD, *[b"X-More: 1\r\n"] * 9, pause=0.25), TIMEOUT),
    # Breaks
    "closed at once": Fault(sending(), FAILED),
    "reset at once": Fault(reset, FAILED),
    "closed in the header": Fault(sending(HEAD), FAILED),
    "reset in the header": Fault(sending(HEAD, then=reset), FAILED),
    "reset in the body": Fault(sending(HEAD + b"\r\n" + b" " * 100, then=reset), FAILED),
    "truncated body": Fault(sending(HEAD + b'\r\n{"ip": "8.8.8.8"'), FAILED),
    "truncated chunk": Fault(sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"), FAILED),
    # Not HTTP, or too much of it
    "no HTTP": Fault(sending(b"SSH-2.0-OpenSSH_9.2\r\n"), FAILED),
    "the request said again": Fault(echo, FAILED),
    "a header of a megabyte": Fault(sending(HEAD + b"X-Long: " + b"x" * 2**20), FAILED),
    "two lengths": Fault(sending(HEAD + b"Content-Length: 5\r\n\r\n{}   "), FAILED),
    "switching protocols": Fault(
        sending(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), FAILED
    ),
    "10 MB body": Fault(
        answering(json.dumps(ipwhois_answer("8.8.8.8")).encode() + b" " * 10_000_000), FAILED, "ipwhois"
    ),
    "an encoding that was not asked for": Fault(
        answering(ipwhois_answer("8.8.8.8"), headers={"Content-Encoding": "br"}), FAILED, "ipwhois"
    ),
    "10 MB body in chunks": Fault(
        sending(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 160
        ),
        FAILED,
    ),
    "gzip bomb": Fault(answering(gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"}), FAILED),
    # No answer of the documented shape
    "empty body": Fault(answering(b""), FAILED),
    "HTML": Fault(answering(b"<html><h1>Welcome to our hotel", headers={"Content-Type": "text/html"}), FAILED),
    "JSON that is no object": Fault(answering([ipwhois_answer("8.8.8.8")]), FAILED),
    "JSON of another kind": Fault(answering(b'"8.8.8.8"'), FAILED),
    "JSON without end": Fault(answering(b"[" * 60_000), FAILED),
    "no content": Fault(sending(b"HTTP/1.1 204 No Content\r\n\r\n"), FAILED),
    "invalid UTF-8": Fault(holding("city", b'"M\xfcnchen"'), FAILED),
    # Statuses
    "400": Fault(answering({}, 400), FAILED),
    "401": Fault(answering({"message": f"key {KEY} is wrong"}, 401), REFUSED),
    "403": Fault(
        answering(
            {"code": 403, "messages": "Access restricted. Check credits balance or enter the correct API key."}, 403
        ),
        REFUSED,
    ),
    "404": Fault(answering(b"<html>404", 404), FAILED),
    "404 with an answer": Fault(answering(ipwhois_answer("8.8.8.8"), 404), FAILED, "ipwhois"),
    "429": Fault(answering({}, 429), QUOTA),
    "500": Fault(answering(ipwhois_answer("8.8.8.8"), 500), FAILED, "ipwhois"),
    "503": Fault(answering(b"", 503), FAILED),
    "503 for some seconds": Fault(answering(b"", 503, {"Retry-After": "5"}), QUOTA),
    "999": Fault(answering(ipwhois_answer("8.8.8.8"), 999), FAILED, "ipwhois"),
    # HTTP 200 proves nothing
    "200, ipwhois, over the limit": Fault(
        answering({"success": False, "message": "You've hit the monthly limit"}), QUOTA, "ipwhois"
    ),
    "200, ipwhois, wrong key": Fault(answering({"success": False, "message": "Invalid API key"}), REFUSED, "ipwhois"),
    "200, ipwhois, no reason": Fault(saying(success=False), FAILED, "ipwhois"),
    "200, ipwhois, success as a word": Fault(saying(success="false"), FAILED, "ipwhois"),
    "200, ipify, no credit": Fault(
        answering({"code": 403, "messages": "Access restricted. Check credits balance or enter the correct API key."}),
        REFUSED,
    ),
    "200, ipify, too many": Fault(answering({"code": 429, "messages": "Too many requests"}), QUOTA),
    "200, ipify, something": Fault(answering({"code": 500, "messages": ["Sorry"]}), FAILED),
    "200, ipapi, no reason": Fault(answering({"status": "fail", "message": "Sorry"}), FAILED, "ipapi"),
    "200, ipinfo, over the limit": Fault(
        answering({"status": 429, "error": {"title": "Rate limit exceeded", "message": "Upgrade"}}), QUOTA, "ipinfo"
    ),
    "200, ipinfo, wrong key": Fault(
        answering({"status": 403, "error": {"title": "Unknown token", "message": "…"}}), REFUSED, "ipinfo"
    ),
    "200, ipinfo, no reason": Fault(answering({"error": "Sorry"}), FAILED, "ipinfo"),
    # Lies
    "another address": Fault(answering(ipwhois_answer("8.8.4.4")), FAILED, "ipwhois"),
    "no address": Fault(saying(ip="localhost"), FAILED, "ipwhois"),
    "ISP of a wrong type": Fault(saying(connection={"isp": 15169}), FAILED, "ipwhois"),
    "loc that holds no numbers": Fault(answering({"ip": "8.8.8.8", "org": "x", "loc": "here,there"}), FAILED, "ipinfo"),
    "latitude 91": Fault(saying(latitude=91), FAILED, "ipwhois"),
    "latitude 91 as a string": Fault(saying(latitude="91"), FAILED, "ipwhois"),
    "longitude -180.1": Fault(saying(longitude=-180.1), FAILED, "ipwhois"),
    "latitude true": Fault(saying(latitude=True), FAILED, "ipwhois"),
    "latitude in words": Fault(saying(latitude="north"), FAILED, "ipwhois"),
    "latitude NaN": Fault(holding("latitude", b"NaN"), FAILED, "ipwhois"),
    "latitude Infinity": Fault(holding("latitude", b"-Infinity"), FAILED, "ipwhois"),
    "latitude 1e999": Fault(holding("latitude", b"1e999"), FAILED, "ipwhois"),
    "latitude NaN as a string": Fault(holding("latitude", b'"NaN"'), FAILED, "ipwhois"),
    "NaN where it does not matter": Fault(holding("city", b"NaN"), FAILED, "ipwhois"),
    "latitude of 400 digits": Fault(holding("latitude", b"9" * 400), FAILED, "ipwhois"),
    "latitude of 9,000 digits": Fault(holding("latitude", b"9" * 9000), FAILED, "ipwhois"),
    "a lone surrogate": Fault(holding("city", rb'"\ud800"'), FAILED, "ipwhois"),
}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[int], None]]:
    """Check that there were so many lines in the log, all of them warnings that give nothing away."""

    def check(lines: int) -> None:
        assert len(caplog.records) == lines, caplog.text
        for record in caplog.records:
            assert (record.name, record.levelname) == ("geoip", "WARNING")
            assert record.exc_info is None
            text = record.getMessage()
            assert len(text) < 300
            assert "\n" not in text
            assert KEY not in text
            assert "://" not in text
            assert "apiKey" not in text

    yield check
    assert KEY not in caplog.text


def test_a_handshake_that_is_given_up_leaves_no_connection(running: Running, upstream: Upstreams) -> None:
    stalled = upstream(silent)
    url = stalled.url.replace("http:", "https:")
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=STALLED_LIMIT, GEOIP_IPWHOIS_URL=url)
    check_problem(service.get("/?ip=8.8.8.8"), TIMEOUT)
    assert closed(stalled)
    assert stalled.accepted == 1


def closed(upstream: Upstream) -> bool:
    """Tell whether the service has hung up, within a few seconds."""
    for _ in range(300):
        if not upstream.open:
            return True
        time.sleep(0.01)
    return False


def check_problem(response: httpx.Response, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (STATUS[code], code), response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert KEY not in response.text
    assert "://" not in response.text


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_a_problem_within_the_limit(
    fault: Fault, running: Running, upstream: Upstreams, quiet: Callable[[int], None]
) -> None:
    faulty = upstream(fault.behaviour)
    limit = STALLED_LIMIT if fault.code == TIMEOUT else LIMIT
    keys = {"GEOIP_IPIFY_KEY": KEY, "GEOIP_IPINFO_KEY": KEY}
    service = running(
        GEOIP_SOURCES=fault.source, GEOIP_TIMEOUT=limit, **keys, **{f"GEOIP_{fault.source.upper()}_URL": faulty.url}
    )
    start = time.monotonic()
    response = service.get("/?ip=8.8.8.8")
    assert time.monotonic() - start < limit + SLACK
    check_problem(response, fault.code)
    assert "sources" not in response.json()
    quiet(1)
    assert closed(faulty)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_after_a_fault_the_next_source_answers(
    fault: Fault, running: Running, upstream: Upstreams, quiet: Callable[[int], None]
) -> None:
    name, behaviour = ("ipwhois", ipwhois) if fault.source == "ipapi" else ("ipapi", ipapi)
    faulty, good = upstream(fault.behaviour), upstream(behaviour)
    settings = {
        f"GEOIP_{fault.source.upper()}_URL": faulty.url,
        f"GEOIP_{name.upper()}_URL": good.url,
        "GEOIP_IPIFY_KEY": KEY,
        "GEOIP_IPINFO_KEY": KEY,
    }
    limit = STALLED_LIMIT if fault.code == TIMEOUT else LIMIT
    service = running(GEOIP_SOURCES=f"{fault.source},{name}", GEOIP_TIMEOUT=limit, **settings)
    start = time.monotonic()
    response = service.get("/?ip=8.8.8.8")
    assert time.monotonic() - start < limit + SLACK
    assert response.status_code == 200, response.text
    assert response.json()["source"] == name
    assert response.headers["Cache-Status"] == "geoip; fwd=uri-miss; stored"
    quiet(1)
    assert closed(faulty)
    assert len(good.requests) == 1


UNKNOWN: dict[str, tuple[str, Behaviour]] = {
    "ipwhois": ("ipwhois", answering({"success": False, "message": "Reserved range", "ip": "8.8.8.8"})),
    "ipwhois, invalid": ("ipwhois", answering({"success": False, "message": "Invalid IP address"})),
    "ipwhois, neither place nor provider": ("ipwhois", answering({"success": True, "ip": "8.8.8.8", "latitude": 1})),
    "ipify": ("ipify", answering({"code": 422, "messages": "Input correct IPv4 or IPv6 address."}, 422)),
    "ipapi, reserved": ("ipapi", answering({"status": "fail", "message": "reserved range", "query": "8.8.8.8"})),
    "ipapi, private": ("ipapi", answering({"status": "fail", "message": "private range", "query": "8.8.8.8"})),
    "ipapi, invalid": ("ipapi", answering({"status": "fail", "message": "invalid query", "query": "8.8.8.8"})),
    "ipinfo, bogon": ("ipinfo", answering({"ip": "8.8.8.8", "bogon": True})),
    "ipinfo, 404": (
        "ipinfo",
        answering({"status": 404, "error": {"title": "Wrong ip", "message": "Please provide a valid IP address"}}, 404),
    ),
}


@pytest.mark.parametrize(("source", "behaviour"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_address_that_a_source_does_not_know_is_not_a_fault(
    source: str, behaviour: Behaviour, running: Running, upstream: Upstreams, quiet: Callable[[int], None]
) -> None:
    settings = {f"GEOIP_{source.upper()}_URL": upstream(behaviour).url, "GEOIP_IPIFY_KEY": KEY}
    service = running(GEOIP_SOURCES=source, GEOIP_TIMEOUT=LIMIT, **settings)
    check_problem(service.get("/?ip=8.8.8.8"), "unknown-address")
    quiet(0)


HARMLESS: dict[str, tuple[str, Behaviour, dict[str, object]]] = {
    "coordinates as strings": (
        "ipwhois",
        saying(latitude="37.4", longitude="-122"),
        {"latitude": 37.4, "longitude": -122},
    ),
    "0.0, 0.0": ("ipwhois", saying(latitude=0.0, longitude=0.0), {"latitude": 0, "longitude": 0}),
    "0, -0": ("ipwhois", saying(latitude=0, longitude=-0.0), {"latitude": 0, "longitude": 0}),
    "the poles": ("ipwhois", saying(latitude=-90, longitude=180), {"latitude": -90, "longitude": 180}),
    "more than 6 decimals": (
        "ipwhois",
        saying(latitude=37.40599123456, longitude="0.1234567890123456789"),
        {"latitude": 37.405991, "longitude": 0.123457},
    ),
    "a latitude alone": ("ipwhois", saying(longitude=None), {"latitude": None, "longitude": None, "isp": "Google LLC"}),
    "a longitude alone": ("ipwhois", saying(latitude=""), {"latitude": None, "longitude": None, "isp": "Google LLC"}),
    "no ISP": ("ipwhois", saying(connection=None), {"isp": None, "asn": None, "latitude": 37.386052}),
    "no as": (
        "ipify",
        answering({"ip": "8.8.8.8", "isp": "Google LLC", "location": {"lat": 1, "lng": 2}}),
        {"asn": None, "isp": "Google LLC", "latitude": 1, "longitude": 2},
    ),
    "an empty as": ("ipapi", answering({"status": "success", "isp": "x", "as": ""}), {"asn": None, "isp": "x"}),
    "unknown fields": (
        "ipwhois",
        saying(flag={"emoji": "🇺🇸"}, latitude_error=[1], source="me", cache=None),
        {"source": "ipwhois", "isp": "Google LLC"},
    ),
    "other fields of wrong types": (
        "ipwhois",
        saying(city=5, region=["x"], country={"a": 1}, country_code="USA", postal=94043, timezone={"id": "+01:00"}),
        dict.fromkeys(("city", "region", "country", "country_code", "postal_code", "timezone")) | {"asn": 15169},
    ),
    "no charset, no type": (
        "ipwhois",
        sending(b"HTTP/1.0 200\r\n\r\n" + json.dumps(ipwhois_answer("8.8.8.8", city="M\u00fcnchen")).encode()),
        {"city": "M\u00fcnchen"},
    ),
    "an early hint": (
        "ipwhois",
        sending(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + http_answer(ipwhois_answer("8.8.8.8"))),
        {"isp": "Google LLC"},
    ),
    "no word of the address": ("ipwhois", saying(ip=None), {"ip": "8.8.8.8"}),
    "address of a wrong type": ("ipwhois", saying(ip=["8.8.8.8"]), {"ip": "8.8.8.8", "isp": "Google LLC"}),
    "connection of a wrong type": ("ipwhois", saying(connection="AS15169"), {"isp": None, "latitude": 37.386052}),
    "ISP of 60 kB as it is sent": (
        "ipwhois",
        saying(connection={"isp": "é" * 10_000}),
        {"isp": "é" * 200, "latitude": 37.386052},
    ),
    "latitude as an object": ("ipwhois", saying(latitude={"degrees": 37}), {"latitude": None, "isp": "Google LLC"}),
    "location of a wrong type": (
        "ipify",
        answering({"ip": "8.8.8.8", "isp": "x", "location": [1, 2]}),
        {"isp": "x", "latitude": None, "longitude": None},
    ),
    "loc of a wrong type": (
        "ipinfo",
        answering({"ip": "8.8.8.8", "org": "AS1 x", "loc": [1, 2]}),
        {"isp": "x", "asn": 1, "latitude": None, "longitude": None},
    ),
    "the address mapped": ("ipwhois", saying(ip="::ffff:8.8.8.8"), {"ip": "8.8.8.8"}),
}


@pytest.mark.parametrize(("source", "behaviour", "fields"), HARMLESS.values(), ids=HARMLESS)
def test_what_is_odd_but_harmless_is_read(
    source: str,
    behaviour: Behaviour,
    fields: dict[str, object],
    running: Running,
    upstream: Upstreams,
    quiet: Callable[[int], None],
) -> None:
    url = upstream(behaviour).url
    service = running(
        GEOIP_SOURCES=source, GEOIP_TIMEOUT=LIMIT, GEOIP_IPIFY_KEY=KEY, **{f"GEOIP_{source.upper()}_URL": url}
    )
    response = service.get("/?ip=8.8.8.8")
    assert response.status_code == 200, response.text
    answer = response.json()
    assert {name: answer[name] for name in fields} == fields
    assert "-0.0" not in response.text
    quiet(0)


def test_a_redirect_is_not_followed(running: Running, upstream: Upstreams, quiet: Callable[[int], None]) -> None:
    other = upstream(ipwhois)
    for status in (301, 302, 307, 308):
        redirecting = upstream(answering(b"", status, {"Location": f"{other.url}/8.8.8.8"}))
        service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_IPWHOIS_URL=redirecting.url)
        check_problem(service.get("/?ip=8.8.8.8"), FAILED)
        assert len(redirecting.requests) == 1
        check_next_answers(running, upstream, redirecting.url)
    assert not other.requests
    quiet(8)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, (60, 60)),
        ({"Retry-After": "17"}, (17, 17)),
        ({"Retry-After": "0"}, (1, 1)),
        ({"Retry-After": "86400"}, (3600, 3600)),
        ({"Retry-After": "9" * 5000}, (60, 60)),
        ({"Retry-After": "soon"}, (60, 60)),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, (1, 1)),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 -0000"}, (60, 60)),
        ({"Retry-After": "IN 120 SECONDS"}, (115, 120)),
    ],
)
def test_a_source_that_refuses_for_now_is_paused_for_as_long_as_it_says(
    headers: dict[str, str],
    seconds: tuple[int, int],
    running: Running,
    upstream: Upstreams,
    quiet: Callable[[int], None],
) -> None:
    if headers.get("Retry-After") == "IN 120 SECONDS":
        headers = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)}
    refusing = upstream(answering(b"slow down", 429, headers))
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_IPWHOIS_URL=refusing.url)
    for address in ("8.8.8.8", "8.8.4.4"):
        response = service.get(f"/?ip={address}")
        check_problem(response, QUOTA)
        assert seconds[0] <= int(response.headers["Retry-After"]) <= seconds[1]
    assert len(refusing.requests) == 1
    quiet(1)


def check_next_answers(running: Running, upstream: Upstreams, url: str) -> None:
    """Check that, with ipwhois at that URL, the next source answers within the limit."""
    settings = {"GEOIP_IPWHOIS_URL": url, "GEOIP_IPAPI_URL": upstream(ipapi).url}
    service = running(GEOIP_SOURCES="ipwhois,ipapi", GEOIP_TIMEOUT=LIMIT, **settings)
    start = time.monotonic()
    assert (service.get("/?ip=8.8.8.8")).json()["source"] == "ipapi"
    assert time.monotonic() - start < LIMIT + SLACK


# No connection


def check_unreachable(service: Server) -> None:
    start = time.monotonic()
    response = service.get("/?ip=8.8.8.8")
    assert time.monotonic() - start < LIMIT + SLACK
    assert response.json().pop("sources", None) is None
    check_problem(response, FAILED)


def test_a_refused_connection(running: Running, upstream: Upstreams, quiet: Callable[[int], None]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_IPWHOIS_URL=url)
    check_unreachable(service)
    check_next_answers(running, upstream, url)
    quiet(2)


@pytest.mark.parametrize("url", ["http://nowhere.invalid", f"http://{'x' * 64}.invalid", "http://a..invalid"])
def test_a_host_that_does_not_resolve(
    url: str,
    running: Running,
    upstream: Upstreams,
    monkeypatch: pytest.MonkeyPatch,
    quiet: Callable[[int], None],
) -> None:
    resolve = socket.getaddrinfo

    def unknown(host: object, *rest: object, **options: object) -> object:
        if "nowhere" in str(host):  # not asked of a resolver, which may take its time
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_IPWHOIS_URL=url)
    check_unreachable(service)
    check_next_answers(running, upstream, url)
    quiet(2)


@pytest.mark.parametrize("fault", ["another name", "untrusted", "expired"])
def test_a_connection_that_cannot_be_trusted(
    fault: str, running: Running, upstream: Upstreams, tmp_path: Path, quiet: Callable[[int], None]
) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    certificate = {
        "another name": ours.issue_cert("elsewhere.example"),
        "untrusted": theirs.issue_cert("127.0.0.1"),
        "expired": ours.issue_cert("127.0.0.1", not_before=yesterday - timedelta(days=1), not_after=yesterday),
    }[fault]
    certificate.configure_cert(context)
    faulty = upstream(ipwhois, tls=context)
    settings = {"GEOIP_IPWHOIS_URL": faulty.url, "SSL_CERT_FILE": tmp_path / "ca.pem", "GEOIP_TIMEOUT": LIMIT}
    check_unreachable(running(GEOIP_SOURCES="ipwhois", **settings))
    assert closed(faulty)
    next_one = running(GEOIP_SOURCES="ipwhois,ipapi", GEOIP_IPAPI_URL=upstream(ipapi).url, **settings)
    assert next_one.get("/?ip=8.8.8.8").json()["source"] == "ipapi"
    quiet(2)
    assert not faulty.requests


# Connections


def test_a_kept_connection_that_broke_is_replaced_once(
    running: Running, upstream: Upstreams, quiet: Callable[[int], None]
) -> None:
    breaks: list[Behaviour] = [sending(), reset]

    def kept(connection: socket.socket, request: Request) -> None:
        answer = ipwhois_answer(request.target.strip("/"))
        connection.sendall(http_answer(answer, headers={"Connection": "keep-alive"}))
        if breaks and connection.recv(65536):  # the next request
            breaks.pop()(connection, request)

    faulty = upstream(kept)
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_IPWHOIS_URL=faulty.url)
    for address in ("8.8.8.8", "8.8.4.4", "1.1.1.1"):
        assert (service.get(f"/?ip={address}")).json()["ip"] == address
    assert not breaks
    assert [request.target for request in faulty.requests] == ["/8.8.8.8", "/8.8.4.4", "/1.1.1.1"]
    quiet(0)
    assert closed(faulty)


@pytest.mark.parametrize(
    "behaviour",
    [
        sending(),
        reset,
        sending(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        sending(HEAD + b'\r\n{"ip": "8.8.8.8"'),
        sending(HEAD + b"\r\n{", then=reset),
        answering(b"", 500),
        answering({}, 429),
    ],
    ids=["closed", "reset", "no HTTP", "half a body", "reset in the body", "500", "429"],
)
def test_a_request_on_a_new_connection_is_sent_once(
    behaviour: Behaviour, running: Running, upstream: Upstreams
) -> None:
    faulty = upstream(behaviour)
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_IPWHOIS_URL=faulty.url)
    assert service.get("/?ip=8.8.8.8").status_code in (502, 503)
    assert len(faulty.requests) == 1


def test_requests_for_different_addresses_are_under_way_together(running: Running, upstream: Upstreams) -> None:
    both = threading.Barrier(2, timeout=LIMIT)

    def together(connection: socket.socket, request: Request) -> None:
        both.wait()
        ipwhois(connection, request)

    slow = upstream(together)
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_IPWHOIS_URL=slow.url)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(service.get, ["/?ip=8.8.8.8", "/?ip=8.8.4.4"]))
    assert [response.json()["ip"] for response in found] == ["8.8.8.8", "8.8.4.4"]
    assert closed(slow)


def test_a_kept_connection_is_closed_at_the_end(upstream: Upstreams) -> None:
    keep = http_answer(ipwhois_answer("8.8.8.8"), headers={"Connection": "keep-alive"})
    source = upstream(sending(keep, then=silent))
    with serving(GEOIP_IPWHOIS_URL=source.url) as service:
        assert service.get("/?ip=8.8.8.8").status_code == 200
        assert source.open == 1
    assert closed(source)


def test_cookies_are_not_kept(running: Running, upstream: Upstreams) -> None:
    baking = upstream(answering(ipwhois_answer("8.8.8.8"), headers={"Set-Cookie": "id=1; Path=/"}))
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_CACHE_TTL=0, GEOIP_IPWHOIS_URL=baking.url)
    for _ in range(2):
        assert (service.get("/?ip=8.8.8.8")).status_code == 200
    assert [request.headers.get("cookie") for request in baking.requests] == [None, None]


def test_an_upstream_is_not_told_who_asks(running: Running, upstream: Upstreams) -> None:
    good = upstream(ipwhois)
    service = running(GEOIP_SOURCES="ipwhois", GEOIP_TIMEOUT=LIMIT, GEOIP_IPWHOIS_URL=good.url)
    service.get("/?ip=8.8.8.8", {"User-Agent": "me", "Cookie": "a=b", "Authorization": "Basic x"})
    headers = good.requests[0].headers
    assert headers.pop("host") == good.url.removeprefix("http://")
    assert headers == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "geoip",
    }


# The process as it is deployed


def check_process(service: Service, codes: set[str | None]) -> None:
    """Check the time of a second lookup, since the first one loads the HTTP client, and the three lines of the log."""
    service.get("/?ip=8.8.4.4")
    start = time.monotonic()
    answer = service.get("/?ip=8.8.8.8").json()
    assert time.monotonic() - start < 1 + SLACK
    assert answer.get("code") in codes, answer
    log = service.log.read_text()
    first, *faults = re.findall(r"^\S+ ([A-Z]+) ", log, re.MULTILINE)
    assert (first, set(faults)) == ("INFO", {"WARNING"}), log
    assert log.count("\n") == 1 + len(faults) <= 1 + len(codes), log
    assert KEY not in log


@pytest.mark.parametrize("name", ["accepted and silent", "gzip bomb", "the request said again"])
def test_the_process_fails_over(name: str, serve: Serve, upstream: Upstreams) -> None:
    service = serve(
        GEOIP_SOURCES="ipify,ipapi",
        GEOIP_IPIFY_URL=upstream(FAULTS[name].behaviour).url,
        GEOIP_IPIFY_KEY=KEY,
        GEOIP_IPAPI_URL=upstream(ipapi).url,
        GEOIP_TIMEOUT=1,
    )
    check_process(service, {None})


def test_the_process_survives_a_host_that_does_not_resolve(serve: Serve) -> None:
    # With a slow resolver it is a timeout.
    check_process(
        serve(GEOIP_SOURCES="ipwhois", GEOIP_IPWHOIS_URL="http://nowhere.invalid", GEOIP_TIMEOUT=1), {FAILED, TIMEOUT}
    )
