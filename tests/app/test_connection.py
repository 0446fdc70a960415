"""The connections of the HTTP client, by what a server or a proxy may do on them."""

import asyncio
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from app.client import Client
from app.connection import KEEP_ALIVE, ClientError, Connection, Response
from tests.upstream import Behaviour, Request, Upstream, answering, http_answer, reset, sending

Upstreams = Callable[..., Upstream]

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
ESTABLISHED_WITH_A_LENGTH = b"HTTP/1.1 200 Connection established\r\nContent-Length: 0\r\n\r\n"
FLOOD = 25 * 2**20
FORGED = http_answer({"forged": True}, headers={"Connection": "keep-alive"})


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


def keeping(more: bytes = b"", then: Callable[[socket.socket], object] = lambda _: None) -> Behaviour:
    """Answer requests on one connection; send more with each answer, and do something after it."""

    def answer(connection: socket.socket, _: Request) -> None:
        request = b"the first"
        while request:
            connection.sendall(http_answer({}, headers={"Connection": "keep-alive"}) + more)
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


def send_forged(connection: socket.socket) -> None:
    time.sleep(0.05)
    connection.sendall(FORGED)


@pytest.mark.parametrize("source", [keeping(FORGED), keeping(then=send_forged)], ids=["with an answer", "after it"])
def test_nothing_that_was_not_asked_for_is_taken_for_the_next_answer(
    source: Behaviour, upstream: Upstreams, ask: Callable[..., list[Response]]
) -> None:
    server = upstream(source)
    assert [answer.body for answer in ask(server.url, times=2, pause=0.3)] == [b"{}", b"{}"]
    assert server.accepted == 2


@pytest.mark.slow
def test_a_connection_is_not_used_again_after_its_time(upstream: Upstreams, ask: Callable[..., list[Response]]) -> None:
    source = upstream(keeping())
    ask(source.url, times=2, pause=KEEP_ALIVE + 0.2)
    assert source.accepted == 2


def test_a_server_that_goes_on_sending_is_cut_off(upstream: Upstreams, ask: Callable[..., list[Response]]) -> None:
    sent: list[int] = []

    def flood(connection: socket.socket) -> None:
        time.sleep(0.05)  # so that it is not read with the answer
        with suppress(ConnectionError):
            while sum(sent) < FLOOD:
                sent.append(connection.send(bytes(65536)))

    source = upstream(keeping(then=flood))
    ask(source.url, times=2, pause=2)
    assert 0 < sum(sent) < FLOOD


def test_a_request_on_a_connection_that_the_server_has_closed_fails_at_once() -> None:
    async def ask() -> Response:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connection = await Connection.open("127.0.0.1", listener.getsockname()[1], None)
            listener.accept()[0].close()
            await asyncio.sleep(0.1)
            return await asyncio.wait_for(connection.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 5)

    with pytest.raises(ConnectionAbortedError):
        asyncio.run(ask())


# Answers

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n"
WHOLE = {
    "a length": http_answer({}),
    "chunks": CHUNKED + b"\r\n",
    "the end of the connection": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n{}",
    "interim answers before it": INTERIM + http_answer({}),
    "a trailer field": CHUNKED + b"Link: x\r\n\r\n",
}


@pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
def test_an_answer_has_one_of_these_ends(
    answer: bytes, in_pieces: bool, upstream: Upstreams, ask: Callable[..., list[Response]]
) -> None:
    pieces = [bytes([byte]) for byte in answer] if in_pieces else [answer]
    (response,) = ask(upstream(sending(*pieces, pause=0.001)).url)
    assert (response.status, response.body) == (200, b"{}")
    assert "link" not in response.headers


@pytest.mark.parametrize(
    "answer", [INTERIM, INTERIM[:40], CHUNKED, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}"]
)
def test_an_answer_that_lacks_its_end_is_none(
    answer: bytes, upstream: Upstreams, ask: Callable[..., list[Response]]
) -> None:
    with pytest.raises(ClientError, match="before its answer was complete"):
        ask(upstream(sending(answer)).url)


def test_an_answer_that_is_broken_off_is_none(upstream: Upstreams, ask: Callable[..., list[Response]]) -> None:
    with pytest.raises(ClientError, match="ConnectionResetError"):
        ask(upstream(sending(WHOLE["the end of the connection"], then=reset, pause=0.1)).url)


# TLS


def tunnel(answer: bytes = ESTABLISHED, later: bytes = b"") -> Behaviour:
    """Pass everything on as a proxy does for CONNECT, after its own answer, and bytes that come a little later."""

    def relay(connection: socket.socket, request: Request) -> None:
        host, _, port = request.target.partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as other:
            connection.sendall(answer)
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


@pytest.mark.parametrize("answer", [ESTABLISHED, ESTABLISHED_WITH_A_LENGTH], ids=["", "with a length"])
@pytest.mark.parametrize("has_tls", [False, True], ids=["http proxy", "https proxy"])
def test_an_answer_comes_through_a_proxy_and_tls(
    has_tls: bool,
    answer: bytes,
    upstream: Upstreams,
    ask: Callable[..., list[Response]],
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    proxy, source = upstream(tunnel(answer), tls=tls if has_tls else None), upstream(keeping(), tls=tls)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert [response.body for response in ask(source.url, times=2)] == [b"{}", b"{}"]
    assert (proxy.accepted, source.accepted) == (1, 1)


@pytest.mark.parametrize(
    "proxy",
    [tunnel(ESTABLISHED + FORGED), tunnel(ESTABLISHED_WITH_A_LENGTH + FORGED), tunnel(later=FORGED)],
    ids=["with the proxy's answer", "behind its length", "during the handshake"],
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
        assert re.search("SSL|before TLS", str(error))
