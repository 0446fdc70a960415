"""Hits are answered without the route, and no client can tell: neither by the bytes nor by their order."""

import re
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.app.conftest import Server, serving
from tests.app.test_log import requests
from tests.upstream import Request, Upstream, answering, http_answer, ipwhois, ipwhois_answer

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
UNKNOWN = "7.7.7.7"


def knowing(connection: socket.socket, request: Request) -> None:
    """Answer as ipwho.is does, which does not know one of the addresses."""
    if request.target == f"/{UNKNOWN}":
        connection.sendall(http_answer({"success": False, "message": "Reserved range"}))
    else:
        connection.sendall(http_answer(ipwhois_answer(request.target.strip("/"), city="Zürich")))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A service that has been asked about some addresses."""
    with Upstream(knowing) as source, serving(GEOIP_IPWHOIS_URL=source.url) as made:
        for address in ("8.8.8.8", "2001:4860:4860::8888", UNKNOWN):
            made.get(f"/?ip={address}")
        yield made


def raw(server: Server, method: str, target: str, fields: list[str]) -> bytes:
    """All bytes of an answer but its date."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        lines = [f"{method} {target} HTTP/1.1", "Host: geoip", "Connection: close", *fields, "", ""]
        client.sendall("\r\n".join(lines).encode("latin-1"))
        received = b""
        while part := client.recv(65536):
            received += part
    answer, dates = re.subn(rb"\r\ndate: [^\r]*", b"", received)
    assert dates == 1, received
    return answer


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["Origin: https://example.org"],
        ["Accept: */*"],
        [f"Accept: {BROWSER}"],
        ["Accept: application/json", "Accept: text/html;q=0.1"],
        ["Accept: application/json;q=0.1", "Accept: text/html"],
        ["Accept: \xff"],
        ["Origin: https://example.org", "Access-Control-Request-Method: GET"],
    ],
)
@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "2001%3A4860%3A4860%3A%3A8888", UNKNOWN])
def test_a_hit_is_answered_as_the_route_does(method: str, fields: list[str], address: str, server: Server) -> None:
    for _ in range(3):  # the seconds that are left may change between two requests
        hit = raw(server, method, f"/?ip={address}", fields)
        by_route = raw(server, method, f"/?ip={address}&x=y", fields)  # a form that only the route takes
        by_name = raw(server, method, f"/?x=y&ip={address}", fields)
        if hit == by_route == by_name:
            break
    assert hit == by_route == by_name


@pytest.mark.parametrize("target", ["/?ip=8.8.8.8", "/?ip=2001:4860:4860::8888", "/?ip=2001%3A4860%3A4860%3A%3A8888"])
def test_the_route_is_not_asked_about_a_hit(target: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.lookup.Lookup.find", None)  # a route that asks would fail
    response = server.get(target)
    assert response.status_code == 200
    assert response.headers["Cache-Status"].startswith("geoip; hit; ttl=")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/?ip=::ffff:8.8.8.8", 200),
        ("/?ip=2001%3a4860%3A4860::8888", 200),
        ("/?ip=%38.8.8.8", 200),
        ("/?ip=2001:4860:4860:0::8888", 200),
        ("/?ip=", 422),
        ("/?ip=8.8.8.8&ip=8.8.8.8", 422),
        ("/?ip=8.8.8.8+", 422),
        ("/?ip=8.8.8.8%20", 422),
        ("/?ip=8.8.8.8\xff", 422),
        ("/healthz?ip=8.8.8.8", 204),
        ("/nowhere?ip=8.8.8.8", 404),
    ],
)
def test_anything_unusual_is_for_the_route(target: str, status: int, server: Server) -> None:
    assert raw(server, "GET", target.replace("\xff", "%FF"), []).startswith(b"HTTP/1.1 %d " % status)


def test_the_own_address_is_not_a_hit_of_an_empty_one(
    running: Callable[..., Server], upstream: Callable[..., Upstream]
) -> None:
    server = running(GEOIP_IPWHOIS_URL=upstream(ipwhois).url)
    assert server.get("/").json()["ip"] == "9.9.9.9"
    assert server.get("/?ip=").status_code == 422


def test_nobody_may_keep_an_answer_in_its_last_second(
    running: Callable[..., Server], upstream: Callable[..., Upstream]
) -> None:
    source = upstream(answering(ipwhois_answer("8.8.8.8")))
    server = running(GEOIP_IPWHOIS_URL=source.url, GEOIP_CACHE_TTL=1)
    for _ in range(3):
        assert server.get("/?ip=8.8.8.8").headers["Cache-Control"] == "private, no-store"


def test_a_hit_has_a_line_in_the_log_like_any_other(
    running: Callable[..., Server], upstream: Callable[..., Upstream], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "geoip")
    server = running(GEOIP_IPWHOIS_URL=upstream(ipwhois).url, GEOIP_LOG_FORMAT="json", GEOIP_LOG_ADDRESSES=1)
    for _ in range(2):
        server.get("/?ip=8.8.8.8")
    miss, hit = requests(caplog, 2)
    assert miss["cache_status"] == "geoip; fwd=uri-miss; stored"
    assert hit["cache_status"].startswith("geoip; hit")
    assert {"address": "8.8.8.8", "source": "ipwhois", "status": 200}.items() <= hit.items()
    assert hit.keys() == miss.keys()
