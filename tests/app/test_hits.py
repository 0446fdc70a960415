"""Hits are answered without the route, and nobody can tell: neither by the bytes nor by their order."""

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from app.api import Hits, create_app
from app.lookup import Entry, Lookup
from app.settings import Settings
from app.sources import Answer

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0
BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def made() -> list[tuple[FastAPI, Lookup]]:
    """Two applications, one without the layer, and their lookups. They are made once: that takes longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", {})
        layered, bare = (create_app(Settings(_env_file=None, sources="mmdb")) for _ in range(2))  # type: ignore[arg-type, call-arg]
    pairs = []
    for app in (layered, bare):
        (hits,) = (middleware for middleware in app.user_middleware if middleware.cls is Hits)  # type: ignore[comparison-overlap]
        lookup = hits.kwargs["lookup"]
        assert isinstance(lookup, Lookup)
        pairs.append((app, lookup))
    bare.user_middleware = [middleware for middleware in bare.user_middleware if middleware.cls is not Hits]  # type: ignore[comparison-overlap]
    return pairs


@pytest.fixture
def apps(made: list[tuple[FastAPI, Lookup]]) -> tuple[FastAPI, FastAPI]:
    """The two, which know the same addresses and nothing of an earlier test."""
    known = [("8.8.8.8", 100.0), ("2001:4860:4860::8888", 100.0), ("9.9.9.9", 0.5), ("1.1.1.1", -1.0), ("", 100.0)]
    for _, lookup in made:
        lookup._clock = lambda: NOW
        lookup._entries.clear()
        for address, seconds in known:
            answer = Answer(ip=address or "5.5.5.5", isp="É", latitude=0.0, longitude=-1.5, source="mmdb")
            lookup._entries[address] = Entry(answer.model_dump_json().encode(), "mmdb", "", NOW + seconds)
        lookup._entries["7.7.7.7"] = Entry(None, "", "nobody knows it", NOW + 100)
    (layered, _), (bare, _) = made
    return layered, bare


async def messages(app: FastAPI, method: str, target: str, headers: list[tuple[bytes, bytes]]) -> list[Message]:
    """What an application sends, to the byte."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"geoip"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append({"more_body": False} | dict(message) if message["type"] == "http.response.body" else message)

    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"origin", b"https://example.org")],
        [(b"accept", b"*/*")],
        [(b"accept", BROWSER)],
        [(b"accept", b"application/json"), (b"accept", b"text/html;q=0.1")],
        [(b"accept", b"\xff")],
    ],
)
@pytest.mark.parametrize(
    "target",
    [
        "/?ip=8.8.8.8",
        "/?ip=2001:4860:4860::8888",
        "/?ip=2001%3A4860%3A4860%3A%3A8888",
        "/?ip=2001%3a4860%3A4860::8888",
        "/?ip=9.9.9.9",  # its last second
        "/?ip=1.1.1.1",  # expired
        "/?ip=7.7.7.7",  # unknown
        "/?ip=::ffff:8.8.8.8",
        "/?ip=",
        "/?ip=8.8.8.8&ip=8.8.8.8",
        "/?ip=8.8.8.8&ip=9.9.9.9",
        "/?ip=8.8.8.8&x=y",
        "/?x=y&ip=8.8.8.8",
        "/?ip=8.8.8.8+",
        "/?ip=%38.8.8.8",
        "/?IP=8.8.8.8",
        "/healthz?ip=8.8.8.8",
        "/nowhere?ip=8.8.8.8",
    ],
)
async def test_the_layer_answers_as_the_route_does(
    method: str, target: str, headers: list[tuple[bytes, bytes]], apps: tuple[FastAPI, FastAPI]
) -> None:
    layered, bare = apps
    assert await messages(layered, method, target, headers) == await messages(bare, method, target, headers)


@pytest.mark.parametrize("target", ["/?ip=8.8.8.8", "/?ip=2001:4860:4860::8888", "/?ip=2001%3A4860%3A4860%3A%3A8888"])
async def test_the_route_is_not_asked_about_a_hit(
    target: str, apps: tuple[FastAPI, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.lookup.Lookup.find", None)  # a route that asks would fail
    start, _ = await messages(apps[0], "GET", target, [])
    assert start["status"] == 200
    assert (b"cache-status", b"geoip; hit; ttl=100") in start["headers"]


async def test_a_hit_has_a_line_in_the_log_like_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.environ", {})
    caplog.set_level("INFO", "geoip")
    settings = Settings(_env_file=None, sources="mmdb", log_format="json", log_addresses=True)  # type: ignore[arg-type, call-arg]
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://geoip") as service:
        for _ in range(2):
            await service.get("/?ip=8.8.8.8")
    miss, hit = (record.__dict__["fields"] for record in caplog.records if record.getMessage() == "request")
    assert hit["cache_status"].startswith("geoip; hit")
    assert {"address": "8.8.8.8", "source": "mmdb", "upstream_ms": None}.items() <= hit.items()
    assert hit.keys() == miss.keys()
