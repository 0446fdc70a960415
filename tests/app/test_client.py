"""The client: proxies, which httpx's own client would find by itself."""

from collections.abc import Callable

import pytest

from app.client import Client, ClientError
from tests.upstream import Upstream

pytestmark = pytest.mark.anyio

Upstreams = Callable[..., Upstream]


@pytest.fixture
def proxy(upstream: Upstreams, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """A proxy for everything, and no other network."""
    proxy = upstream()
    monkeypatch.setattr("os.environ", {"HTTP_PROXY": proxy.url, "NO_PROXY": "127.0.0.1"})
    return proxy


async def asked(url: str) -> int:
    client = Client()
    try:
        return (await client.get(url, {}, {})).status
    finally:
        await client.aclose()


async def test_a_proxy_of_the_environment_is_asked_for_the_whole_url(proxy: Upstream) -> None:
    assert await asked("http://upstream.example/8.8.8.8") == 200
    assert [request.target for request in proxy.requests] == ["http://upstream.example/8.8.8.8"]


async def test_a_proxy_without_a_scheme_is_an_http_proxy(proxy: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"HTTP_PROXY": proxy.url.removeprefix("http://")})
    assert await asked("http://upstream.example/8.8.8.8") == 200


async def test_who_needs_no_proxy_is_asked_directly(proxy: Upstream, upstream: Upstreams) -> None:
    direct = upstream()
    assert await asked(f"{direct.url}/8.8.8.8") == 200
    assert (len(direct.requests), len(proxy.requests)) == (1, 0)


async def test_a_proxy_that_is_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"ALL_PROXY": "http://127.0.0.1:9"})
    with pytest.raises(ClientError):
        await asked("http://upstream.example/8.8.8.8")
