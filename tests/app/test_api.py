"""The web API as a client sees it: answers, which address is meant, problems, and the schema."""

import asyncio
import base64
import hashlib
import html.parser
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from app.address import IPAddress
from app.answer import Answer
from app.api import create_app
from app.client import Client
from app.settings import load_settings
from app.sources.mmdb import Mmdb
from app.sources.source import HttpSettings, Source
from tests.app.conftest import Headers, Server, serving
from tests.conftest import ROOT, free_port
from tests.upstream import Upstream, answering, ipwhois, reset

Running = Callable[..., Server]
Upstreams = Callable[..., Upstream]

OWN = "9.9.9.9"
"""The address that the source finds the service itself at."""

ANSWER = {
    "ip": "8.8.8.8",
    "isp": "Google LLC",
    "latitude": 37.386052,
    "longitude": -122.083851,
    "city": "Mountain View",
    "region": "California",
    "country": "United States",
    "country_code": "US",
    "postal_code": "94039",
    "timezone": "America/Los_Angeles",
    "asn": 15169,
    "source": "ipwhois",
}


@pytest.fixture(scope="module")
def source() -> Iterator[Upstream]:
    """ipwho.is, which knows every address."""
    with Upstream(ipwhois) as made:
        yield made


@pytest.fixture(scope="module")
def service(source: Upstream) -> Iterator[Server]:
    """A service without a cache, whose trusted proxies are all of 127.0.0.0/8 and some others."""
    proxies = "127.0.0.0/8, 10.0.0.0/8, ::ffff:172.20.0.0/112"
    with serving(GEOIP_IPWHOIS_URL=source.url, GEOIP_CACHE_TTL=0, GEOIP_TRUSTED_PROXIES=proxies) as made:
        yield made


@pytest.fixture(scope="module")
def exposed(source: Upstream) -> Iterator[Server]:
    """A service that trusts nobody."""
    with serving(GEOIP_IPWHOIS_URL=source.url) as made:
        yield made


@pytest.fixture
def caching(running: Running, source: Upstream) -> Server:
    """A service with a cache that is empty."""
    return running(GEOIP_IPWHOIS_URL=source.url, GEOIP_CACHE_TTL=600)


# Answers


def test_an_address_that_is_asked_for_is_answered(service: Server) -> None:
    response = service.get("/?ip=8.8.8.8")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == ANSWER
    assert list(response.json()) == list(ANSWER)


def test_an_answer_to_an_address_may_be_kept_by_anybody(caching: Server) -> None:
    response = caching.get("/?ip=8.8.8.8")
    kind, _, seconds = response.headers["Cache-Control"].partition("=")
    assert kind == "public, max-age"
    assert 598 <= int(seconds) <= 600
    assert response.headers["Cache-Status"] == "geoip; fwd=uri-miss; stored"
    assert response.headers["Vary"] == "Accept"


def test_an_answer_about_the_caller_is_kept_by_nobody(service: Server, caching: Server) -> None:
    response = service.get("/", {"X-Forwarded-For": "1.1.1.1"})
    assert response.json()["ip"] == "1.1.1.1"
    assert response.headers["Cache-Control"] == "private, no-store"
    for _ in range(2):
        assert caching.get("/").headers["Cache-Control"] == "private, no-store"


def test_the_second_answer_comes_from_the_cache(caching: Server, source: Upstream) -> None:
    before = len(source.requests)
    first = caching.get("/?ip=8.8.8.8")
    for target in ("/?ip=8.8.8.8", "/?ip=::ffff:8.8.8.8"):
        second = caching.get(target)
        assert second.content == first.content
        assert second.headers["Cache-Status"].startswith("geoip; hit; ttl=")
    assert [request.target for request in source.requests[before:]] == ["/8.8.8.8"]


def test_a_browser_gets_the_page_for_an_address_that_is_in_the_cache_too(caching: Server) -> None:
    caching.get("/?ip=8.8.8.8")
    page = caching.get("/?ip=8.8.8.8", {"Accept": "text/html"})
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/", "/?ip=8.8.8.8", "/?ip=10.0.0.1", "/healthz", "/docs", "/openapi.json", "/nowhere"]
)
def test_head_has_the_status_and_headers_of_get(path: str, service: Server) -> None:
    get, head = service.get(path), service.client.head(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


def test_healthz_asks_nobody(service: Server, source: Upstream) -> None:
    before = len(source.requests)
    response = service.get("/healthz")
    assert (response.status_code, response.content) == (204, b"")
    assert len(source.requests) == before


# Which address


@pytest.mark.parametrize(
    "caller", ["127.0.0.1", "192.168.1.2", "172.17.0.1", "100.64.0.1", "::1", "fe80::1", "fd00::1", "224.0.0.1"]
)
def test_a_caller_from_a_private_network_has_the_address_of_the_service(
    caller: str, service: Server, source: Upstream
) -> None:
    before = len(source.requests)
    assert service.get("/", {"X-Forwarded-For": caller}).json()["ip"] == OWN
    assert [request.target for request in source.requests[before:]] == ["/"]


@pytest.mark.parametrize(
    ("caller", "address"),
    [("1.1.1.1", "1.1.1.1"), ("::ffff:1.1.1.1", "1.1.1.1"), ("2001:4860:4860::8888", "2001:4860:4860::8888")],
)
def test_a_caller_with_a_global_address_is_looked_up(
    caller: str, address: str, service: Server, source: Upstream
) -> None:
    before = len(source.requests)
    assert service.get("/", {"X-Forwarded-For": caller}).json()["ip"] == address
    assert [request.target for request in source.requests[before:]] == [f"/{address}"]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP"])
def test_a_header_of_a_peer_that_is_not_trusted_is_ignored(header: str, exposed: Server) -> None:
    assert exposed.get("/", {header: "8.8.8.8"}).json()["ip"] == OWN


@pytest.mark.parametrize("header", ["Forwarded", "X-Real-IP", "X-Forwarded", "X_Forwarded_For"])
def test_any_other_header_of_a_trusted_proxy_is_ignored(header: str, service: Server) -> None:
    assert service.get("/", {header: "8.8.8.8"}).json()["ip"] == OWN


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (["8.8.8.8"], "8.8.8.8"),
        (["1.1.1.1, 8.8.8.8"], "8.8.8.8"),
        (["1.1.1.1, 8.8.8.8, 10.0.0.7"], "8.8.8.8"),
        (["1.1.1.1", "8.8.8.8"], "8.8.8.8"),
        (["1.1.1.1, 8.8.8.8", "10.0.0.7", "10.0.0.8"], "8.8.8.8"),
        (["8.8.8.8, 172.20.1.2"], "8.8.8.8"),  # a proxy that the settings name as an IPv4-mapped network
        (["8.8.8.8, ::ffff:172.20.1.2"], "8.8.8.8"),
        (["::ffff:8.8.8.8"], "8.8.8.8"),
        # Ports
        (["8.8.8.8:4711"], "8.8.8.8"),
        (["8.8.8.8:4711, 10.0.0.7:80"], "8.8.8.8"),
        (["[2001:4860:4860::8888]:4711"], "2001:4860:4860::8888"),
        (["[2001:4860:4860::8888]"], "2001:4860:4860::8888"),
        (["[::ffff:8.8.8.8]:1"], "8.8.8.8"),
        # Empty elements (RFC 9110, 5.6.1.2)
        (["8.8.8.8,"], "8.8.8.8"),
        ([",8.8.8.8"], "8.8.8.8"),
        (["1.1.1.1, , ,,8.8.8.8 ,\t,"], "8.8.8.8"),
        (["8.8.8.8", ""], "8.8.8.8"),
        (["8.8.8.8", ", ,"], "8.8.8.8"),
        (["8.8.8.8,, 10.0.0.7,"], "8.8.8.8"),
        ([""], OWN),
        ([",,,"], OWN),
        (["10.0.0.7"], OWN),
        # Nothing before an element that is not an address is believed.
        (["8.8.8.8, unknown"], OWN),
        (["8.8.8.8, unknown,"], OWN),
        (["8.8.8.8, _hidden, 10.0.0.7"], OWN),
        (["8.8.8.8, fe80::1%eth0"], OWN),
        (["8.8.8.8, 192.168.0.1"], OWN),
        (["8.8.8.8, 1.1.1.1:http"], OWN),
        (["8.8.8.8, [1.1.1.1"], OWN),
        (["8.8.8.8, 1.1.1.1/32"], OWN),
        (["8.8.8.8 1.1.1.1"], OWN),
        (['8.8.8.8, "1.1.1.1"'], OWN),
        (["8.8.8.8; 1.1.1.1"], OWN),
        (["8.8.8.8, " + "x" * 5000], OWN),
    ],
)
def test_behind_a_trusted_proxy_the_caller_is_the_rightmost_address_that_is_not_a_trusted_proxy(
    forwarded: list[str], address: str, service: Server
) -> None:
    answer = service.get("/", [("X-Forwarded-For", value) for value in forwarded]).json()
    assert answer["ip"] == address


def test_a_trusted_ipv4_proxy_is_trusted_on_a_dual_stack_socket_as_well(running: Running, source: Upstream) -> None:
    server = running(GEOIP_IPWHOIS_URL=source.url, GEOIP_BIND="::", GEOIP_TRUSTED_PROXIES="127.0.0.1")
    assert server.get("/", {"X-Forwarded-For": "8.8.8.8"}).json()["ip"] == "8.8.8.8"
    over_ipv6 = httpx.get(
        f"http://[::1]:{server.port}/", headers={"X-Forwarded-For": "8.8.8.8"}, trust_env=False, verify=False
    )
    assert over_ipv6.json()["ip"] == OWN  # ::1 is not named


@pytest.mark.parametrize(
    "proxies", ["::ffff:127.0.0.0/104", "::ffff:127.0.0.1", "::ffff:7f00:1/128", "1.1.1.1,127.0.0.1"]
)
@pytest.mark.parametrize("bind", ["127.0.0.1", "::"])
def test_an_ipv4_mapped_network_is_its_ipv4_network(
    bind: str, proxies: str, running: Running, source: Upstream
) -> None:
    server = running(GEOIP_IPWHOIS_URL=source.url, GEOIP_BIND=bind, GEOIP_TRUSTED_PROXIES=proxies)
    assert server.get("/", {"X-Forwarded-For": "8.8.8.8"}).json()["ip"] == "8.8.8.8"


def test_a_caller_on_a_unix_socket_has_the_address_of_the_service(
    source: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOIP_IPWHOIS_URL", source.url)
    monkeypatch.setenv("GEOIP_SOURCES", "ipwhois")
    path = str(tmp_path / "socket")
    server = uvicorn.Server(uvicorn.Config(create_app(load_settings()), uds=path, log_config=None, loop="asyncio"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        with httpx.Client(transport=httpx.HTTPTransport(uds=path, verify=False), base_url="http://geoip") as client:
            assert client.get("/", headers={"X-Forwarded-For": "8.8.8.8"}).json()["ip"] == OWN
    finally:
        server.should_exit = True
        thread.join(10)


# The hint about proxies


def test_a_private_peer_that_is_not_trusted_is_named_once(
    running: Running, source: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    server = running(GEOIP_IPWHOIS_URL=source.url)
    server.get("/")
    server.get("/?ip=8.8.8.8", {"X-Forwarded-For": "8.8.8.8"})  # the caller does not matter
    server.get("/", {"X-Forwarded-For": "8.8.8.8", "Accept": "text/html"})
    assert not caplog.records
    for _ in range(3):
        assert server.get("/", {"X-Forwarded-For": "8.8.8.8"}).json()["ip"] == OWN
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("geoip", "WARNING")
    for part in ("127.0.0.1", "GEOIP_TRUSTED_PROXIES", "X-Forwarded-For"):
        assert part in record.getMessage()
    assert "8.8.8.8" not in record.getMessage()


@pytest.mark.parametrize(
    "header", [("X-Forwarded-For", "8.8.8.8"), ("X-Forwarded-For", "junk"), ("X-Forwarded-For", "")]
)
def test_a_trusted_proxy_needs_no_hint(
    header: tuple[str, str], running: Running, source: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    server = running(GEOIP_IPWHOIS_URL=source.url, GEOIP_TRUSTED_PROXIES="127.0.0.1")
    server.get("/", [header])
    assert not caplog.records


# Problems


def problem(server: Server, target: str, method: str = "GET", headers: Headers = ()) -> tuple[int, str]:
    """Status and code of a response that is a problem in all its parts."""
    response = server.client.request(method, target, headers=dict(headers))
    check_problem(response)
    return response.status_code, response.json()["code"]


def check_problem(response: httpx.Response) -> None:
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    body = response.json()
    assert body["type"] == "about:blank"
    assert body["status"] == response.status_code
    assert body["title"]
    assert body["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "ip=",
        "ip=example.com",
        "ip=1.1.1.1/32",
        "ip=fe80::1%25eth0",
        "ip=" + "x" * 10_000,
        "ip=1.1.1.1&ip=8.8.8.8",
        "ip=8.8.8.8&ip=8.8.8.8",
        "ip=010.8.8.8",
        "ip=0x08.8.8.8",
        "ip=134744072",
        "ip=8.8.8.8%00",
        "ip=%F0%9F%92%A9",
        "ip=%FF",
        "ip=%3Cscript%3E",
        "ip=8.8.8.8:80",
        "ip=[2001:4860:4860::8888]",
    ],
)
def test_anything_but_one_address_is_invalid_and_not_echoed(query: str, service: Server, source: Upstream) -> None:
    before = len(source.requests)
    assert problem(service, f"/?{query}") == (422, "invalid-address")
    text = service.get(f"/?{query}").text
    assert "script" not in text
    assert "xxx" not in text
    assert len(source.requests) == before


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "::1", "100.64.0.1", "224.0.0.1", "fec0::1", "::ffff:10.0.0.1", "192.0.0.8", "2002:a00:1::1"],
)
def test_no_source_is_asked_about_a_reserved_address(address: str, service: Server, source: Upstream) -> None:
    before = len(source.requests)
    assert problem(service, f"/?ip={address}") == (404, "reserved-address")
    assert len(source.requests) == before


@pytest.mark.parametrize("path", ["/nowhere", "/healthz/", "/docs/", "/redoc", "/index.html", "/8.8.8.8"])
def test_any_other_path_is_not_found_and_redirects_nowhere(path: str, service: Server) -> None:
    assert problem(service, path) == (404, "not-found")


@pytest.mark.parametrize("path", ["/", "/healthz", "/docs", "/openapi.json"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_any_other_method_is_not_allowed(method: str, path: str, service: Server) -> None:
    assert problem(service, path, method) == (405, "method-not-allowed")
    assert service.client.request(method, path).headers["Allow"] == "GET, HEAD"


class Broken(Source):
    """A source that raises what its operator names: GEOIP_BROKEN_KEY is the name of an exception."""

    name = "broken"
    settings_model = HttpSettings
    exceptions: Mapping[str, Exception] = {
        "bug": TypeError("key=sesame"),
        "no-memory": MemoryError(),
        "no-thread": RuntimeError("can't start new thread"),
    }

    def __init__(self, settings: HttpSettings, _: Client) -> None:
        self._exception = self.exceptions[settings.secret]

    async def ask(self, _: IPAddress | None) -> Answer:
        raise self._exception


def test_a_bug_is_a_problem_too(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    server = running((Broken,), GEOIP_SOURCES="broken", GEOIP_BROKEN_KEY="bug")
    for target in ("/?ip=8.8.8.8", "/"):
        response = server.get(target, {"Connection": "close"})  # uvicorn closes it after a bug
        check_problem(response)
        assert (response.status_code, response.json()["code"]) == (500, "internal-error")
        assert "sesame" not in response.text
    assert "Traceback" in caplog.text  # for the operator


@pytest.mark.parametrize("exception", ["no-memory", "no-thread"])
def test_a_source_that_the_machine_cannot_ask_is_a_source_that_failed(
    exception: str, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    server = running((Broken, Mmdb), GEOIP_SOURCES="broken,mmdb", GEOIP_BROKEN_KEY=exception)
    assert server.get("/?ip=8.8.8.8").json()["source"] == "mmdb"
    alone = running((Broken,), GEOIP_SOURCES="broken", GEOIP_BROKEN_KEY=exception)
    assert problem(alone, "/?ip=8.8.8.8") == (502, "upstream-failed")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_problems_of_sources_are_told_apart(running: Running, upstream: Upstreams) -> None:
    for behaviour, found in (
        (answering({"success": False, "message": "Reserved range", "ip": "8.8.8.8"}), (404, "unknown-address")),
        (answering({}, 500), (502, "upstream-failed")),
        (answering({}, 429, {"Retry-After": "17"}), (503, "quota-exhausted")),
    ):
        server = running(GEOIP_IPWHOIS_URL=upstream(behaviour).url)
        assert problem(server, "/?ip=8.8.8.8") == found
    assert server.get("/?ip=8.8.8.8").headers["Retry-After"] in {"16", "17"}


def test_an_address_that_was_unknown_a_moment_ago_is_a_hit_and_a_problem(running: Running, upstream: Upstreams) -> None:
    source = upstream(answering({"success": False, "message": "Reserved range", "ip": "8.8.8.8"}))
    server = running(GEOIP_IPWHOIS_URL=source.url)
    for _ in range(2):
        assert problem(server, "/?ip=8.8.8.8") == (404, "unknown-address")
    assert server.get("/?ip=8.8.8.8").headers["Cache-Status"].startswith("geoip; hit; ttl=")
    assert len(source.requests) == 1


def test_a_wrong_key_names_the_variable_and_never_the_key(running: Running, upstream: Upstreams) -> None:
    message = "Access restricted. Check credits balance or enter the correct API key sesame."
    source = upstream(answering({"code": 403, "messages": message}, 403))
    server = running(GEOIP_SOURCES="ipify", GEOIP_IPIFY_KEY="sesame", GEOIP_IPIFY_URL=source.url)
    response = server.get("/?ip=8.8.8.8")
    assert (response.status_code, response.json()["code"]) == (502, "upstream-refused")
    assert "ipify" in response.json()["detail"]
    assert "GEOIP_IPIFY_KEY" in response.json()["detail"]
    assert "sesame" not in response.text


# Other origins


def test_every_origin_may_read_answers_and_problems(service: Server) -> None:
    for path in ("/?ip=8.8.8.8", "/?ip=10.0.0.1", "/nowhere"):
        for headers in ({}, {"Origin": "https://example.org"}):
            response = service.get(path, headers)
            assert response.headers.get_list("Access-Control-Allow-Origin") == ["*"]


PREFLIGHT = {"Origin": "https://example.org", "Access-Control-Request-Method": "GET"}


@pytest.mark.parametrize("path", ["/", "/?ip=8.8.8.8", "/healthz", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_preflight_is_answered_as_one(method: str, path: str, service: Server) -> None:
    headers = PREFLIGHT | {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "x-custom"}
    response = service.client.options(path, headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert {"GET", "HEAD"} <= set(response.headers["Access-Control-Allow-Methods"].split(", "))
    assert "*" in response.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Access-Control-Request-Private-Network": "true"},
        {"Access-Control-Request-Method": "POST"},
        {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "x-custom"},
        {"Access-Control-Request-Method": ""},
        {"Access-Control-Request-Method": "get"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/?ip=8.8.8.8", "/docs"])
def test_a_preflight_that_is_refused_is_a_problem(path: str, headers: dict[str, str], service: Server) -> None:
    assert problem(service, path, "OPTIONS", PREFLIGHT | headers) == (400, "bad-request")


# The schema


def test_the_schema_describes_every_field_and_every_problem(service: Server) -> None:
    schema = service.get("/openapi.json").json()
    assert list(schema["paths"]) == ["/"]
    operation = schema["paths"]["/"]["get"]
    assert set(operation["responses"]) == {"200", "400", "404", "422", "500", "502", "503", "504"}
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/html"}
    assert set(operation["responses"]["200"]["headers"]) == {"Cache-Control", "Cache-Status"}
    address = operation["parameters"][0]["schema"]
    assert (address["type"], address["anyOf"]) == ("string", [{"format": "ipv4"}, {"format": "ipv6"}])
    codes = set()
    for status, response in operation["responses"].items():
        if status != "200":
            assert list(response["content"]) == ["application/problem+json"]
            content = response["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
            codes |= set(re.findall("`([a-z]+-[a-z]+)`: ", response["description"]))
    assert codes == {
        "bad-request",
        "invalid-address",
        "reserved-address",
        "unknown-address",
        "quota-exhausted",
        "upstream-refused",
        "upstream-failed",
        "upstream-timeout",
        "internal-error",
    }
    answer = schema["components"]["schemas"]["Answer"]
    assert list(answer["properties"]) == answer["required"] == list(ANSWER)
    for name, field in answer["properties"].items():
        assert field["description"], name
        assert field["examples"], name
    for name, bound in (("latitude", 90), ("longitude", 180)):
        number = answer["properties"][name]["anyOf"][0]
        assert number == {"type": "number", "minimum": -bound, "maximum": bound}
        assert "Degrees" in answer["properties"][name]["description"]
    assert {"ProblemDetails", "SourceProblem"} <= set(schema["components"]["schemas"])
    assert "HTTPValidationError" not in json.dumps(schema)


def test_the_documentation_is_there(service: Server) -> None:
    response = service.get("/docs")
    assert response.status_code == 200
    assert "openapi.json" in response.text


# The page


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        "application/json;q=0.5, text/html;q=0.6",
        "text/*, application/json;q=0.9",
        "*/*;q=0.1, TEXT/HTML",
        "text/html, nonsense",
    ],
)
def test_a_client_that_prefers_html_gets_the_page(accept: str, service: Server, source: Upstream) -> None:
    asked_before = len(source.requests)
    for target in ("/", "/?ip=8.8.8.8", "/?ip=junk"):
        response = service.get(target, {"Accept": accept})
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.headers["Vary"] == "Accept"
        assert response.text.startswith("<!DOCTYPE html>")
    assert len(source.requests) == asked_before


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "text/html;q=0.5, application/json",
        "text/html;q=0.5, */*",
        "text/html, application/json",
        "text/html;q=0",
        "text/html;q=0, */*;q=0.1",
        "image/png",
        "",
        ";;;",
        "text",
        "text/html/5",
        "text/html;q=nonsense, application/json",
        ", ".join(["text/html"] * 100),  # longer than any client's
        'text/html;a="' + ";" * 10_000,
    ],
)
def test_everybody_else_gets_json(accept: str, service: Server, source: Upstream) -> None:
    response = service.get("/?ip=8.8.8.8", {"Accept": accept})
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Vary"] == "Accept"


def test_the_page_may_do_what_is_in_it_and_nothing_else(service: Server) -> None:
    response = service.get("/", {"Accept": "text/html"})
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
        assert response.text.count(f"<{element}") == 1
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert len(response.content) < 60_000


class Elements(html.parser.HTMLParser):
    """Collects what is in script and style, as a browser reads it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: dict[str, str] = {}
        self._open = ""

    def handle_starttag(self, tag: str, _: object) -> None:
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in {"script", "style"}:
            self.found[self._open] = self.found.get(self._open, "") + data

    def handle_endtag(self, _: str) -> None:
        self._open = ""


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_the_hashes_are_those_of_what_a_browser_gets(line_end: str, tmp_path: Path, serve: Callable[..., Any]) -> None:
    """Git for Windows checks files out with CRLF; browsers turn that into LF before they hash."""
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    page = tmp_path / "app" / "page.html"
    page.write_bytes(page.read_text("utf-8").replace("\n", line_end).encode())
    service = serve(PYTHONPATH=tmp_path)
    response = service.get("/", Accept="text/html")
    elements = Elements()
    elements.feed(response.content.decode().replace("\r\n", "\n").replace("\r", "\n"))
    assert set(elements.found) == {"script", "style"}
    for element, content in elements.found.items():
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in response.headers["Content-Security-Policy"]


# Offline


def test_without_a_network_the_sample_answers(running: Running) -> None:
    server = running(GEOIP_SOURCES="ipwhois,mmdb", GEOIP_IPWHOIS_URL=f"http://127.0.0.1:{free_port()}")
    for address in ("8.8.8.8", "1.1.1.1", "2001:4860:4860::8888"):
        answer = server.get(f"/?ip={address}").json()
        assert (answer["ip"], answer["source"]) == (address, "mmdb")
        assert answer["isp"]
        assert answer["latitude"] is not None


def test_an_address_that_the_files_do_not_know_is_unknown(running: Running) -> None:
    assert problem(running(GEOIP_SOURCES="mmdb"), "/?ip=1.2.3.4") == (404, "unknown-address")


def test_a_caller_who_cannot_be_placed_offline_is_told_how_to_ask(running: Running, upstream: Upstreams) -> None:
    server = running(GEOIP_SOURCES="ipwhois,mmdb", GEOIP_IPWHOIS_URL=upstream(reset).url)
    response = server.get("/")
    assert response.status_code == 502
    assert "/?ip=8.8.8.8" in response.json()["detail"]
    assert response.json()["sources"] == [
        {"source": "ipwhois", "code": "upstream-failed"},
        {"source": "mmdb", "code": "unknown-address"},
    ]
    response = running(GEOIP_SOURCES="mmdb").get("/")
    assert (response.status_code, response.json()["code"]) == (404, "unknown-address")
    assert "/?ip=8.8.8.8" in response.json()["detail"]
