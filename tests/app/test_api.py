"""The web API as a client sees it: answers, which address is meant, problems, and the schema."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import respx

from app.sources import SAMPLE
from tests.upstream import ipwhois_answer

pytestmark = pytest.mark.anyio

Client = Callable[..., httpx.AsyncClient]

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


@pytest.fixture
def ipwhois(respx_mock: respx.MockRouter) -> respx.Route:
    """ipwho.is, which knows every address and finds the service itself at 9.9.9.9."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=ipwhois_answer(request.url.path.strip("/") or "9.9.9.9"))

    return respx_mock.get(url__startswith="https://ipwho.is/").mock(side_effect=answer)


async def asked(ipwhois: respx.Route) -> str:
    """The one address that the upstream was asked about; empty for the service's own."""
    assert ipwhois.call_count == 1
    path: str = ipwhois.calls.last.request.url.path
    return path.strip("/")


# Answers


async def test_an_address_that_is_asked_for_is_answered(client: Client, ipwhois: respx.Route) -> None:
    response = await client().get("/?ip=8.8.8.8")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == ANSWER
    assert list(response.json()) == list(ANSWER)


async def test_an_answer_to_an_address_may_be_kept_by_anybody(client: Client, ipwhois: respx.Route) -> None:
    response = await client(cache_ttl=600).get("/?ip=8.8.8.8")
    kind, _, seconds = response.headers["Cache-Control"].partition("=")
    assert kind == "public, max-age"
    assert 598 <= int(seconds) <= 600
    assert response.headers["Cache-Status"] == "geoip; fwd=uri-miss; stored"
    assert "Accept" in response.headers["Vary"]


async def test_an_answer_about_the_caller_is_kept_by_nobody(client: Client, ipwhois: respx.Route) -> None:
    response = await client("1.1.1.1").get("/")
    assert response.json()["ip"] == "1.1.1.1"
    assert response.headers["Cache-Control"] == "private, no-store"


async def test_the_second_answer_comes_from_the_cache(client: Client, ipwhois: respx.Route) -> None:
    with_cache = client()
    first = await with_cache.get("/?ip=8.8.8.8")
    second = await with_cache.get("/?ip=::ffff:8.8.8.8")
    assert second.content == first.content
    assert second.headers["Cache-Status"].startswith("geoip; hit; ttl=")
    assert await asked(ipwhois) == "8.8.8.8"


async def test_a_browser_gets_the_page_for_an_address_that_is_in_the_cache_too(
    client: Client, ipwhois: respx.Route
) -> None:
    with_cache = client()
    await with_cache.get("/?ip=8.8.8.8")
    page = await with_cache.get("/?ip=8.8.8.8", headers={"Accept": "text/html"})
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/", "/?ip=8.8.8.8", "/?ip=10.0.0.1", "/healthz", "/docs", "/openapi.json", "/nowhere"]
)
async def test_head_has_the_status_and_headers_of_get(path: str, client: Client, ipwhois: respx.Route) -> None:
    service = client()
    get, head = await service.get(path), await service.head(path)
    assert head.status_code == get.status_code
    same = {"cache-status", "cache-control"}  # a miss and then a hit
    assert {k: v for k, v in head.headers.items() if k not in same} == {
        k: v for k, v in get.headers.items() if k not in same
    }


async def test_healthz_asks_nobody(client: Client, ipwhois: respx.Route) -> None:
    response = await client().get("/healthz")
    assert (response.status_code, response.content) == (204, b"")
    assert not ipwhois.called


# Which address


@pytest.mark.parametrize(
    "peer",
    ["127.0.0.1", "10.1.2.3", "172.17.0.1", "100.64.0.1", "::1", "fe80::1%eth0", "fd00::1", "224.0.0.1", None, ""],
)
async def test_a_caller_from_a_private_network_has_the_address_of_the_service(
    peer: str | None, client: Client, ipwhois: respx.Route
) -> None:
    response = await client(peer).get("/")
    assert response.json()["ip"] == "9.9.9.9"
    assert await asked(ipwhois) == ""


@pytest.mark.parametrize(
    ("peer", "address"),
    [("1.1.1.1", "1.1.1.1"), ("::ffff:1.1.1.1", "1.1.1.1"), ("2001:4860:4860::8888", "2001:4860:4860::8888")],
)
async def test_a_caller_on_the_internet_is_asked_about(
    peer: str, address: str, client: Client, ipwhois: respx.Route
) -> None:
    assert (await client(peer).get("/")).json()["ip"] == address
    assert await asked(ipwhois) == address


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP"])
async def test_a_header_from_anyone_is_ignored(header: str, client: Client, ipwhois: respx.Route) -> None:
    response = await client("1.1.1.1").get("/", headers={header: "8.8.8.8"})
    assert response.json()["ip"] == "1.1.1.1"


@pytest.mark.parametrize("peer", ["127.0.0.1", "1.1.1.1"])
async def test_a_header_from_a_peer_that_is_not_a_trusted_proxy_is_ignored(
    peer: str, client: Client, ipwhois: respx.Route
) -> None:
    service = client(peer, trusted_proxies="10.0.0.0/8")
    answer = (await service.get("/", headers={"X-Forwarded-For": "8.8.8.8"})).json()
    assert answer["ip"] == ("1.1.1.1" if peer == "1.1.1.1" else "9.9.9.9")


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (["8.8.8.8"], "8.8.8.8"),
        (["1.1.1.1, 8.8.8.8"], "8.8.8.8"),
        (["1.1.1.1, 8.8.8.8, 10.0.0.7"], "8.8.8.8"),
        (["1.1.1.1", "8.8.8.8"], "8.8.8.8"),
        (["1.1.1.1, 8.8.8.8", "10.0.0.7", "10.0.0.8"], "8.8.8.8"),
        (["8.8.8.8:4711"], "8.8.8.8"),
        (["[2001:4860:4860::8888]:4711"], "2001:4860:4860::8888"),
        (["::ffff:8.8.8.8"], "8.8.8.8"),
        (["8.8.8.8, unknown"], "9.9.9.9"),
        (["8.8.8.8, fe80::1%eth0"], "9.9.9.9"),
        (["8.8.8.8, 192.168.0.1"], "9.9.9.9"),
        (["10.0.0.7"], "9.9.9.9"),
        ([""], "9.9.9.9"),
        (["8.8.8.8, " + "x" * 5000], "9.9.9.9"),
    ],
)
async def test_from_a_trusted_proxy_the_rightmost_address_that_is_none_wins(
    forwarded: list[str], address: str, client: Client, ipwhois: respx.Route
) -> None:
    service = client("10.0.0.1", trusted_proxies="10.0.0.0/8")
    answer = (await service.get("/", headers=[("X-Forwarded-For", value) for value in forwarded])).json()
    assert answer["ip"] == address


async def test_a_hop_that_is_no_address_leaves_the_peer(client: Client, ipwhois: respx.Route) -> None:
    service = client("1.1.1.1", trusted_proxies="1.1.1.1")
    answer = (await service.get("/", headers={"X-Forwarded-For": "8.8.8.8, junk"})).json()
    assert answer["ip"] == "1.1.1.1"


async def test_a_trusted_ipv4_proxy_is_trusted_on_a_dual_stack_socket_as_well(
    client: Client, ipwhois: respx.Route
) -> None:
    service = client("::ffff:10.0.0.1", trusted_proxies="10.0.0.0/8")
    answer = (await service.get("/", headers={"X-Forwarded-For": "8.8.8.8"})).json()
    assert answer["ip"] == "8.8.8.8"


# Problems


async def problem(client: httpx.AsyncClient, target: str, method: str = "GET") -> tuple[int, str]:
    """Status and code of a problem that is one in every respect."""
    response = await client.request(method, target)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    body = response.json()
    assert body["type"] == "about:blank"
    assert body["status"] == response.status_code
    assert body["title"]
    assert body["detail"]
    return response.status_code, body["code"]


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
    ],
)
async def test_what_is_not_one_address_is_invalid_and_not_echoed(
    query: str, client: Client, ipwhois: respx.Route
) -> None:
    service = client()
    assert await problem(service, f"/?{query}") == (422, "invalid-address")
    text = (await service.get(f"/?{query}")).text
    assert "script" not in text
    assert "xxx" not in text
    assert not ipwhois.called


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "::1", "100.64.0.1", "224.0.0.1", "fec0::1", "::ffff:10.0.0.1", "192.0.0.8", "2002:a00:1::1"],
)
async def test_a_reserved_address_is_known_to_be_nobodys(address: str, client: Client, ipwhois: respx.Route) -> None:
    assert await problem(client(), f"/?ip={address}") == (404, "reserved-address")
    assert not ipwhois.called


@pytest.mark.parametrize("path", ["/nowhere", "/healthz/", "/docs/", "/redoc", "/index.html"])
async def test_any_other_path_is_not_found_and_redirects_nowhere(path: str, client: Client) -> None:
    assert await problem(client(), path) == (404, "not-found")


@pytest.mark.parametrize("path", ["/", "/healthz", "/docs", "/openapi.json"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_any_other_method_is_not_allowed(method: str, path: str, client: Client) -> None:
    service = client()
    assert await problem(service, path, method) == (405, "method-not-allowed")
    assert (await service.request(method, path)).headers["Allow"] == "GET, HEAD"


async def test_a_bug_is_a_problem_too(client: Client, respx_mock: respx.MockRouter) -> None:
    respx_mock.get("https://ipwho.is/8.8.8.8").mock(side_effect=RuntimeError("no network today: key=sesame"))
    service = client()
    service._transport.raise_app_exceptions = False  # type: ignore[attr-defined]  # as a server would answer
    assert await problem(service, "/?ip=8.8.8.8") == (500, "internal-error")
    assert "sesame" not in (await service.get("/?ip=8.8.8.8")).text


async def test_problems_of_sources_are_told_apart(client: Client, respx_mock: respx.MockRouter) -> None:
    upstream = respx_mock.get("https://ipwho.is/8.8.8.8")
    upstream.respond(json={"success": False, "message": "Reserved range", "ip": "8.8.8.8"})
    assert await problem(client(), "/?ip=8.8.8.8") == (404, "unknown-address")
    upstream.respond(500)
    assert await problem(client(), "/?ip=8.8.8.8") == (502, "upstream-failed")
    upstream.respond(429, headers={"Retry-After": "17"})
    service = client()
    assert await problem(service, "/?ip=8.8.8.8") == (503, "quota-exhausted")
    assert (await service.get("/?ip=8.8.8.8")).headers["Retry-After"] in {"16", "17"}


async def test_a_wrong_key_names_the_variable_and_never_the_key(client: Client, respx_mock: respx.MockRouter) -> None:
    message = "Access restricted. Check credits balance or enter the correct API key."
    respx_mock.get(host="geo.ipify.org").respond(403, json={"code": 403, "messages": message})
    response = await client(sources="ipify", ipify_key="sesame").get("/?ip=8.8.8.8")
    assert (response.status_code, response.json()["code"]) == (502, "upstream-refused")
    assert "ipify" in response.json()["detail"]
    assert "GEOIP_IPIFY_KEY" in response.json()["detail"]
    assert "sesame" not in response.text


# Other origins


async def test_every_origin_may_read_answers_and_problems(client: Client, ipwhois: respx.Route) -> None:
    service = client()
    for path in ("/?ip=8.8.8.8", "/?ip=10.0.0.1", "/nowhere"):
        for headers in ({}, {"Origin": "https://example.org"}):
            response = await service.get(path, headers=headers)
            assert response.headers.get_list("Access-Control-Allow-Origin") == ["*"]


async def test_a_preflight_is_answered_as_one(client: Client) -> None:
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "GET"}
    response = await client().options("/", headers=headers)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "GET" in response.headers["Access-Control-Allow-Methods"]


# The schema


async def test_the_schema_describes_every_field_and_every_problem(client: Client) -> None:
    schema = (await client().get("/openapi.json")).json()
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
            for code, example in content["examples"].items():
                assert (example["value"]["code"], str(example["value"]["status"])) == (code, status)
                codes.add(code)
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


async def test_the_documentation_is_there(client: Client) -> None:
    response = await client().get("/docs")
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
async def test_who_prefers_html_gets_the_page(accept: str, client: Client, ipwhois: respx.Route) -> None:
    for target in ("/", "/?ip=8.8.8.8", "/?ip=junk"):
        response = await client().get(target, headers={"Accept": accept})
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.headers["Vary"] == "Accept, Origin"
        assert response.text.startswith("<!DOCTYPE html>")
    assert not ipwhois.called


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
        ", ".join(["text/html"] * 100),  # as long as nobody's is
        'text/html;a="' + ";" * 500_000,
    ],
)
async def test_everybody_else_gets_json(accept: str, client: Client, ipwhois: respx.Route) -> None:
    response = await client().get("/?ip=8.8.8.8", headers={"Accept": accept})
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Vary"] == "Accept, Origin"


async def test_the_page_may_do_what_is_in_it_and_nothing_else(client: Client) -> None:
    response = await client().get("/", headers={"Accept": "text/html"})
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


# Offline


async def test_without_a_network_the_sample_answers(client: Client, respx_mock: respx.MockRouter) -> None:
    respx_mock.get(url__startswith="https://ipwho.is/").mock(side_effect=httpx.ConnectError("no network"))
    service = client(sources="ipwhois,mmdb")
    for address in ("8.8.8.8", "1.1.1.1", "2001:4860:4860::8888"):
        answer = (await service.get(f"/?ip={address}")).json()
        assert (answer["ip"], answer["source"]) == (address, "mmdb")
        assert answer["isp"]
        assert answer["latitude"] is not None


async def test_an_address_that_the_files_do_not_know_is_unknown(client: Client) -> None:
    response = await client(sources="mmdb").get("/?ip=1.2.3.4")
    assert (response.status_code, response.json()["code"]) == (404, "unknown-address")


async def test_a_damaged_file_is_a_source_that_fails(client: Client, tmp_path: Path, ipwhois: respx.Route) -> None:
    contents = SAMPLE.read_bytes()
    damaged = tmp_path / "city.mmdb"
    damaged.write_bytes(contents.replace(b"\x4aGoogle LLC", b"\x4aGoogle LL\xff"))  # not UTF-8
    answer = (await client(sources="mmdb,ipwhois", mmdb_city=damaged).get("/?ip=8.8.8.8")).json()
    assert answer["source"] == "ipwhois"
    response = await client(sources="mmdb", mmdb_city=damaged).get("/?ip=8.8.8.8")
    assert (response.status_code, response.json()["code"]) == (502, "upstream-failed")


async def test_a_caller_who_cannot_be_placed_offline_is_told_how_to_ask(
    client: Client, respx_mock: respx.MockRouter
) -> None:
    respx_mock.get("https://ipwho.is/").mock(side_effect=httpx.ConnectError("no network"))
    response = await client("192.168.0.1", sources="ipwhois,mmdb").get("/")
    assert response.status_code == 502
    assert "/?ip=8.8.8.8" in response.json()["detail"]
    assert response.json()["sources"] == [
        {"source": "ipwhois", "code": "upstream-failed"},
        {"source": "mmdb", "code": "unknown-address"},
    ]
    response = await client("192.168.0.1", sources="mmdb").get("/")
    assert (response.status_code, response.json()["code"]) == (404, "unknown-address")
    assert "/?ip=8.8.8.8" in response.json()["detail"]
