"""The client: its connections, and proxies, which httpx's own client would find by itself."""

import asyncio
import select
import socket
import time
from collections.abc import Callable

import pytest

from app.client import Client, ClientError
from tests.upstream import Request, Upstream, http_answer

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


def hanging_up(connection: socket.socket, _: Request) -> None:
    """Answer on one connection until nothing was asked for 1.5 s."""
    time.sleep(0.05)
    while True:
        connection.sendall(http_answer({}, headers={"Connection": "keep-alive"}))
        if not select.select([connection], [], [], 1.5)[0]:
            break
        if not connection.recv(65536):
            return
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)  # until the client closes it as well


async def test_connections_that_the_upstream_gave_up_are_closed_while_another_is_in_use(upstream: Upstreams) -> None:
    source = upstream(hanging_up)
    client = Client()
    try:
        await asyncio.gather(*(client.get(source.url, {}, {}) for _ in range(5)))
        assert source.open == 5
        for _ in range(25):
            await asyncio.sleep(0.1)
            await client.get(source.url, {}, {})
        assert (source.open, source.accepted) == (1, 5)
        await asyncio.sleep(2.5)  # the last one is given up as well
        await client.get(source.url, {}, {})
        assert (source.open, source.accepted) == (1, 6)
    finally:
        await client.aclose()
