"""Upstreams that fail, lie and stall: what the service makes of each, over real sockets."""

import asyncio
import gc
import gzip
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import trustme

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

pytestmark = pytest.mark.anyio

Running = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
Serve = Callable[..., Service]
Upstreams = Callable[..., Upstream]

KEY = "k3y-that-nobody-may-see"
BUDGET = 2.0
STALLED_BUDGET = 0.6
SLACK = 0.5
FAILED, TIMEOUT, REFUSED, QUOTA = "upstream-failed", "upstream-timeout", "upstream-refused", "quota-exhausted"
STATUS = {FAILED: 502, REFUSED: 502, QUOTA: 503, TIMEOUT: 504, "unknown-address": 404}


def echo(connection: socket.socket, request: Request) -> None:
    """Say the request's line and headers again, keys and all, as no HTTP."""
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
    """What an upstream does, and the problem's code where it is the only one."""

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
    # No HTTP, or more of it than there should be
    "no HTTP": Fault(sending(b"SSH-2.0-OpenSSH_9.2\r\n"), FAILED),
    "the request said again": Fault(echo, FAILED),
    "a header of a megabyte": Fault(sending(HEAD + b"X-Long: " + b"x" * 2**20), FAILED),
    "two lengths": Fault(sending(HEAD + b"Content-Length: 5\r\n\r\n{}   "), FAILED),
    "switching protocols": Fault(sending(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), FAILED),
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
    "503": Fault(answering(b"", 503, {"Retry-After": "5"}), FAILED),
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
    "address of a wrong type": Fault(saying(ip=["8.8.8.8"]), FAILED, "ipwhois"),
    "connection of a wrong type": Fault(saying(connection="AS15169"), FAILED, "ipwhois"),
    "ISP of a wrong type": Fault(saying(connection={"isp": 15169}), FAILED, "ipwhois"),
    "ISP of 60 kB": Fault(saying(connection={"isp": "x" * 60_000}), FAILED, "ipwhois"),
    "location of a wrong type": Fault(answering({"ip": "8.8.8.8", "isp": "x", "location": [1, 2]}), FAILED),
    "loc of a wrong type": Fault(answering({"ip": "8.8.8.8", "org": "x", "loc": [1, 2]}), FAILED, "ipinfo"),
    "loc that is no pair": Fault(answering({"ip": "8.8.8.8", "org": "x", "loc": "here"}), FAILED, "ipinfo"),
    "latitude 91": Fault(saying(latitude=91), FAILED, "ipwhois"),
    "latitude 91 as a string": Fault(saying(latitude="91"), FAILED, "ipwhois"),
    "longitude -180.1": Fault(saying(longitude=-180.1), FAILED, "ipwhois"),
    "latitude true": Fault(saying(latitude=True), FAILED, "ipwhois"),
    "latitude in words": Fault(saying(latitude="north"), FAILED, "ipwhois"),
    "latitude as an object": Fault(saying(latitude={"degrees": 37}), FAILED, "ipwhois"),
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


async def test_a_handshake_that_is_given_up_leaves_no_connection(running: Running, upstream: Upstreams) -> None:
    stalled = upstream(silent)
    gc.disable()  # it would find the socket in the end
    try:
        url = stalled.url.replace("http:", "https:")
        async with running(sources="ipwhois", timeout=STALLED_BUDGET, ipwhois_url=url) as service:
            check_problem(await service.get("/?ip=8.8.8.8"), TIMEOUT)
            assert await closed(stalled)
    finally:
        gc.enable()
    assert stalled.accepted == 1


async def closed(upstream: Upstream) -> bool:
    """Tell whether the service has hung up, within a few seconds."""
    for _ in range(300):
        if not upstream.open:
            return True
        await asyncio.sleep(0.01)
    return False


def check_problem(response: httpx.Response, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (STATUS[code], code), response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert KEY not in response.text
    assert "://" not in response.text


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_is_a_problem_within_the_budget(
    fault: Fault, running: Running, upstream: Upstreams, quiet: Callable[[int], None]
) -> None:
    faulty = upstream(fault.behaviour)
    budget = STALLED_BUDGET if fault.code == TIMEOUT else BUDGET
    keys = {"ipify_key": KEY, "ipinfo_key": KEY}
    async with running(sources=fault.source, timeout=budget, **keys, **{f"{fault.source}_url": faulty.url}) as service:
        tasks = asyncio.all_tasks()
        start = time.monotonic()
        response = await service.get("/?ip=8.8.8.8")
        assert time.monotonic() - start < budget + SLACK
        check_problem(response, fault.code)
        assert "sources" not in response.json()
        quiet(1)
        assert await closed(faulty)
        assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_after_a_fault_the_next_source_answers(
    fault: Fault, running: Running, upstream: Upstreams, quiet: Callable[[int], None]
) -> None:
    name, behaviour = ("ipwhois", ipwhois) if fault.source == "ipapi" else ("ipapi", ipapi)
    faulty, good = upstream(fault.behaviour), upstream(behaviour)
    settings = {f"{fault.source}_url": faulty.url, f"{name}_url": good.url, "ipify_key": KEY, "ipinfo_key": KEY}
    budget = STALLED_BUDGET if fault.code == TIMEOUT else BUDGET
    async with running(sources=f"{fault.source},{name}", timeout=budget, **settings) as service:
        start = time.monotonic()
        response = await service.get("/?ip=8.8.8.8")
        assert time.monotonic() - start < budget + SLACK
        assert response.status_code == 200, response.text
        assert response.json()["source"] == name
        assert response.headers["Cache-Status"] == "geoip; fwd=uri-miss; stored"
        quiet(1)
        assert await closed(faulty)
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
async def test_an_address_that_a_source_does_not_know_is_no_fault(
    source: str, behaviour: Behaviour, running: Running, upstream: Upstreams, quiet: Callable[[int], None]
) -> None:
    settings = {f"{source}_url": upstream(behaviour).url, "ipify_key": KEY}
    async with running(sources=source, timeout=BUDGET, **settings) as service:
        check_problem(await service.get("/?ip=8.8.8.8"), "unknown-address")
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
    "the address mapped": ("ipwhois", saying(ip="::ffff:8.8.8.8"), {"ip": "8.8.8.8"}),
}


@pytest.mark.parametrize(("source", "behaviour", "fields"), HARMLESS.values(), ids=HARMLESS)
async def test_what_is_odd_but_harmless_is_read(
    source: str,
    behaviour: Behaviour,
    fields: dict[str, object],
    running: Running,
    upstream: Upstreams,
    quiet: Callable[[int], None],
) -> None:
    async with running(
        sources=source, timeout=BUDGET, ipify_key=KEY, **{f"{source}_url": upstream(behaviour).url}
    ) as s:
        response = await s.get("/?ip=8.8.8.8")
    assert response.status_code == 200, response.text
    answer = response.json()
    assert {name: answer[name] for name in fields} == fields
    assert "-0.0" not in response.text
    quiet(0)


async def test_a_redirect_is_not_followed(running: Running, upstream: Upstreams, quiet: Callable[[int], None]) -> None:
    other = upstream(ipwhois)
    for status in (301, 302, 307, 308):
        redirecting = upstream(answering(b"", status, {"Location": f"{other.url}/8.8.8.8"}))
        async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=redirecting.url) as service:
            check_problem(await service.get("/?ip=8.8.8.8"), FAILED)
        assert len(redirecting.requests) == 1
        await check_next_answers(running, upstream, redirecting.url)
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
async def test_a_source_that_refuses_for_now_is_left_alone_for_as_long_as_it_says(
    headers: dict[str, str],
    seconds: tuple[int, int],
    running: Running,
    upstream: Upstreams,
    quiet: Callable[[int], None],
) -> None:
    if headers.get("Retry-After") == "IN 120 SECONDS":
        headers = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)}
    refusing = upstream(answering(b"slow down", 429, headers))
    async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=refusing.url) as service:
        for address in ("8.8.8.8", "8.8.4.4"):
            response = await service.get(f"/?ip={address}")
            check_problem(response, QUOTA)
            assert seconds[0] <= int(response.headers["Retry-After"]) <= seconds[1]
    assert len(refusing.requests) == 1
    quiet(1)


async def check_next_answers(running: Running, upstream: Upstreams, url: str) -> None:
    """With ipwhois at that URL the next source answers, within the budget."""
    settings = {"ipwhois_url": url, "ipapi_url": upstream(ipapi).url}
    async with running(sources="ipwhois,ipapi", timeout=BUDGET, **settings) as service:
        start = time.monotonic()
        assert (await service.get("/?ip=8.8.8.8")).json()["source"] == "ipapi"
        assert time.monotonic() - start < BUDGET + SLACK


# Where there is no connection


async def check_unreachable(service: httpx.AsyncClient) -> None:
    start = time.monotonic()
    response = await service.get("/?ip=8.8.8.8")
    assert time.monotonic() - start < BUDGET + SLACK
    assert response.json().pop("sources", None) is None
    check_problem(response, FAILED)


async def test_a_refused_connection(running: Running, upstream: Upstreams, quiet: Callable[[int], None]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=url) as service:
        await check_unreachable(service)
    await check_next_answers(running, upstream, url)
    quiet(2)


@pytest.mark.parametrize("url", ["http://nowhere.invalid", f"http://{'x' * 64}.invalid", "http://a..invalid"])
async def test_a_host_that_does_not_resolve(
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
    async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=url) as service:
        await check_unreachable(service)
    await check_next_answers(running, upstream, url)
    quiet(2)


@pytest.mark.parametrize("fault", ["another name", "untrusted", "expired", "no CA bundle"])
async def test_a_connection_that_cannot_be_trusted(
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
    }.get(fault, ours.issue_cert("127.0.0.1"))
    certificate.configure_cert(context)
    os.environ["SSL_CERT_FILE"] = str(tmp_path / ("none.pem" if fault == "no CA bundle" else "ca.pem"))
    faulty = upstream(ipwhois, tls=context)
    async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=faulty.url) as service:
        await check_unreachable(service)
        assert await closed(faulty)
    quiet(1)
    if fault != "no CA bundle":  # without one no upstream is asked, on plain HTTP neither
        await check_next_answers(running, upstream, faulty.url)
        quiet(2)
    assert not faulty.requests


@pytest.mark.parametrize("proxy", [f"socks5://me:{KEY}@127.0.0.1:9", f"nonsense://me:{KEY}@127.0.0.1:9"])
async def test_a_proxy_that_cannot_be_used(proxy: str, running: Running, quiet: Callable[[int], None]) -> None:
    os.environ["ALL_PROXY"] = proxy
    async with running(sources="ipwhois", timeout=BUDGET) as service:
        await check_unreachable(service)
    quiet(1)


# Connections


async def test_a_kept_connection_that_broke_is_replaced_once(
    running: Running, upstream: Upstreams, quiet: Callable[[int], None]
) -> None:
    breaks: list[Behaviour] = [sending(), reset]

    def kept(connection: socket.socket, request: Request) -> None:
        answer = ipwhois_answer(request.target.strip("/"))
        connection.sendall(http_answer(answer, headers={"Connection": "keep-alive"}))
        if breaks and connection.recv(65536):  # the next request
            breaks.pop()(connection, request)

    faulty = upstream(kept)
    async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=faulty.url) as service:
        for address in ("8.8.8.8", "8.8.4.4", "1.1.1.1"):
            assert (await service.get(f"/?ip={address}")).json()["ip"] == address
    assert not breaks
    assert [request.target for request in faulty.requests] == ["/8.8.8.8", "/8.8.4.4", "/1.1.1.1"]
    quiet(0)
    assert await closed(faulty)


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [
        (sending(), 2),
        (reset, 2),
        (sending(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), 1),
        (sending(HEAD + b'\r\n{"ip": "8.8.8.8"'), 1),
        (sending(HEAD + b"\r\n{", then=reset), 1),
        (answering(b"", 500), 1),
        (answering({}, 429), 1),
    ],
    ids=["closed", "reset", "no HTTP", "half a body", "reset in the body", "500", "429"],
)
async def test_only_a_connection_that_broke_before_an_answer_is_tried_again(
    behaviour: Behaviour, requests: int, running: Running, upstream: Upstreams
) -> None:
    faulty = upstream(behaviour)
    async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=faulty.url) as service:
        assert (await service.get("/?ip=8.8.8.8")).status_code in (502, 503)
    assert len(faulty.requests) == requests


async def test_requests_for_different_addresses_are_under_way_together(running: Running, upstream: Upstreams) -> None:
    both = threading.Barrier(2, timeout=BUDGET)

    def together(connection: socket.socket, request: Request) -> None:
        both.wait()
        ipwhois(connection, request)

    slow = upstream(together)
    async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=slow.url) as service:
        found = await asyncio.gather(service.get("/?ip=8.8.8.8"), service.get("/?ip=8.8.4.4"))
        assert [response.json()["ip"] for response in found] == ["8.8.8.8", "8.8.4.4"]
        assert await closed(slow)


async def test_cookies_are_not_kept(running: Running, upstream: Upstreams) -> None:
    baking = upstream(answering(ipwhois_answer("8.8.8.8"), headers={"Set-Cookie": "id=1; Path=/"}))
    async with running(sources="ipwhois", timeout=BUDGET, cache_ttl=0, ipwhois_url=baking.url) as service:
        for _ in range(2):
            assert (await service.get("/?ip=8.8.8.8")).status_code == 200
    assert [request.headers.get("cookie") for request in baking.requests] == [None, None]


async def test_an_upstream_is_not_told_who_asks(running: Running, upstream: Upstreams) -> None:
    good = upstream(ipwhois)
    async with running(sources="ipwhois", timeout=BUDGET, ipwhois_url=good.url) as service:
        await service.get("/?ip=8.8.8.8", headers={"User-Agent": "me", "Cookie": "a=b", "Authorization": "Basic x"})
    headers = good.requests[0].headers
    assert headers.pop("host") == good.url.removeprefix("http://")
    assert headers == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "geoip",
    }


# The process as it is deployed


def check_process(service: Service, codes: set[str | None]) -> None:
    """Two lookups, the second of which (the first loads the HTTP client) is timed, and a log of three lines."""
    service.get("/?ip=8.8.4.4")
    start = time.monotonic()
    answer = service.get("/?ip=8.8.8.8").json()
    assert time.monotonic() - start < 1 + SLACK
    assert answer.get("code") in codes, answer
    log = service.log.read_text()
    assert re.findall(r"^\S+ \S+ ([A-Z]+) ", log, re.MULTILINE) == ["INFO", "WARNING", "WARNING"], log
    assert log.count("\n") == 3, log
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
    # Which of the two depends on how quick the machine's resolver is.
    check_process(
        serve(GEOIP_SOURCES="ipwhois", GEOIP_IPWHOIS_URL="http://nowhere.invalid", GEOIP_TIMEOUT=1), {FAILED, TIMEOUT}
    )
