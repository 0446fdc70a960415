"""The connections of the HTTP client, by what a server or a proxy may do on them."""

import asyncio
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from app.client import Client, ClientError, Response
from app.stream import MAX_UNREAD
from tests.upstream import Behaviour, Request, Upstream, answering, http_answer

Upstreams = Callable[..., Upstream]

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
FORGED = http_answer({"forged": True})


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A CA whose certificate is in `ca.pem`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """The server's side of TLS, as 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[Response]]:
    """Ask a URL that many times with one client, with a pause between, and return the answers."""

    async def asked(url: str, times: int, pause: float) -> list[Response]:
        bundle = tmp_path / "ca.pem"
        client = Client(str(bundle) if bundle.exists() else None)
        try:
            answers = [await client.get(url, {})]
            for _ in range(times - 1):
                await asyncio.sleep(pause)
                answers.append(await client.get(url, {}))
            return answers
        finally:
            client.close()

    return lambda url, times=1, pause=0.1: asyncio.run(asyncio.wait_for(asked(url, times, pause), 10))


def keeping(then: Callable[[socket.socket], object] = lambda _: None) -> Behaviour:
    """Answer requests on one connection, and do something after each."""

    def answer(connection: socket.socket, _: Request) -> None:
        request = b"the first"
        while request:
            connection.sendall(http_answer({}, headers={"Connection": "keep-alive"}))
            then(connection)
            request = connection.recv(65536)

    return answer


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that answers no connection, since its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        answered: list[socket.socket] = [listener]
        while answered:
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
            answered = select.select([], [connection], [], 0.2)[1]
        yield port


def test_the_next_address_of_a_host_is_tried_soon(
    upstream: Upstreams, ask: Callable[..., list[Response]], deaf: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = upstream(answering({}))
    ports = [deaf, int(source.url.rpartition(":")[2])]
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    started = time.monotonic()
    assert ask("http://upstream.example")[0].status == 200
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("pause", [0, 0.05], ids=["with an answer", "after an answer"])
def test_nothing_that_was_not_asked_for_is_taken_for_the_next_answer(
    pause: float, upstream: Upstreams, ask: Callable[..., list[Response]]
) -> None:
    def send_more(connection: socket.socket) -> None:
        time.sleep(pause)
        connection.sendall(FORGED)

    source = upstream(keeping(send_more))
    assert [answer.body for answer in ask(source.url, times=2, pause=0.3)] == [b"{}", b"{}"]
    assert source.accepted == 2


def test_a_server_that_goes_on_sending_is_cut_off(upstream: Upstreams, ask: Callable[..., list[Response]]) -> None:
    sent: list[int] = []

    def flood(connection: socket.socket) -> None:
        time.sleep(0.05)  # so that it is not read with the answer
        with suppress(ConnectionError):
            while sum(sent) < 100 * MAX_UNREAD:
                sent.append(connection.send(bytes(65536)))

    source = upstream(keeping(flood))
    ask(source.url, times=2, pause=2)
    assert 0 < sum(sent) < 100 * MAX_UNREAD


# TLS


def tunnel(at_once: bytes = b"", later: bytes = b"") -> Behaviour:
    """Pass everything on as a proxy does for CONNECT. These bytes come with its own answer, or soon after."""

    def relay(connection: socket.socket, request: Request) -> None:
        host, _, port = request.target.partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as other:
            connection.sendall(ESTABLISHED + at_once)
            if later:
                time.sleep(0.3)
                connection.sendall(later)
            ends = {connection: other, other: connection}
            while True:
                for end in select.select(ends, [], [], 10)[0]:
                    data = end.recv(65536)
                    while isinstance(end, ssl.SSLSocket) and end.pending():
                        data += end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)

    return relay


@pytest.mark.parametrize("has_tls", [False, True], ids=["http proxy", "https proxy"])
def test_an_answer_comes_through_a_proxy_and_tls(
    has_tls: bool,
    upstream: Upstreams,
    ask: Callable[..., list[Response]],
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    proxy, source = upstream(tunnel(), tls=tls if has_tls else None), upstream(keeping(), tls=tls)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert [answer.body for answer in ask(source.url, times=2)] == [b"{}", b"{}"]
    assert (proxy.accepted, source.accepted) == (1, 1)


@pytest.mark.parametrize(
    "proxy", [tunnel(FORGED), tunnel(later=FORGED)], ids=["with the proxy's answer", "during the handshake"]
)
def test_nothing_that_came_before_tls_is_taken_for_an_answer(
    proxy: Behaviour,
    upstream: Upstreams,
    ask: Callable[..., list[Response]],
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = upstream(answering({}), tls=tls)
    monkeypatch.setenv("HTTPS_PROXY", upstream(proxy).url)
    try:
        assert ask(source.url)[0].body == b"{}"
    except ClientError as error:
        assert "SSL" in str(error)
