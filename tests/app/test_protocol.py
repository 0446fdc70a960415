"""What one client may hold of the service: nobody else is to notice."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection

import pytest
import uvicorn

from app.api import create_app
from app.protocol import MAX_FIELDS, MAX_HEAD, MAX_PIPELINED, Protocol
from app.settings import Settings
from tests.conftest import Service
from tests.upstream import Upstream, answering, ipwhois_answer

ASK = b"GET /healthz HTTP/1.1\r\nHost: geoip\r\n\r\n"

Upstreams = Callable[..., Upstream]


class Impatient(Protocol):
    max_connections = 8
    patience = 0.3


@pytest.fixture
def impatient(upstream: Upstreams) -> Iterator[int]:
    """The port of a service that waits for a third of a second, and takes eight connections."""
    slow = upstream(answering(ipwhois_answer("8.8.8.8"), after=1))
    app = create_app(Settings(_env_file=None, sources="ipwhois", ipwhois_url=slow.url))  # type: ignore[arg-type, call-arg]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=Impatient, ws="none", log_config=None))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def everything(client: socket.socket) -> bytes:
    """All that is received until the other side hangs up."""
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def refused(received: bytes) -> bool:
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 400 Bad Request\r\n"):
        return False
    assert b"\r\nconnection: close" in head
    assert b"\r\ndate: " in head
    assert b"\r\ncontent-type: application/problem+json\r\n" in head
    assert json.loads(body)["code"] == "bad-request"
    return True


# What is asked for


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        "GET /?ip=münchen.de HTTP/1.1\r\nHost: geoip\r\n\r\n".encode(),
        b"GET /?ip=" + b"1" * (MAX_HEAD + 8192) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nCookie: " + b"1" * (MAX_HEAD + 8192),
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_FIELDS + 1) + b"\r\n",
        b"POST /?ip=8.8.8.8 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: " + b"1" * (MAX_HEAD + 8192),
        b"GET /?ip=8.8.8.8 HTTP/1.1\r\n\r\n" * (MAX_PIPELINED + 200),
    ],
    ids=["no HTTP", "UTF-8", "long URL", "long field", "many fields", "long trailer", "many at once"],
)
def test_too_much_is_a_problem(request_: bytes, impatient: int) -> None:
    with connect(impatient) as client, connect(impatient) as other:
        client.sendall(request_)
        other.sendall(ASK)
        assert other.recv(100).startswith(b"HTTP/1.1 204")
        assert refused(everything(client))


def test_a_body_that_nobody_asked_for_is_passed_over(impatient: int) -> None:
    with closing(HTTPConnection("127.0.0.1", impatient, timeout=5)) as client:
        for _ in range(2):
            client.request("POST", "/healthz", b"1" * 1_000_000)
            response = client.getresponse()
            assert (response.status, json.loads(response.read())["code"]) == (405, "method-not-allowed")


def test_as_much_as_a_browser_may_send_is_answered(impatient: int) -> None:
    fields = b"".join(b"Field-%d: %b\r\n" % (number, b"x" * 140) for number in range(MAX_FIELDS))
    with connect(impatient) as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\n" + fields + b"\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 204")
        client.sendall(ASK * MAX_PIPELINED)
        received = b""
        while received.count(b"HTTP/1.1 204") < MAX_PIPELINED:
            part = client.recv(65536)
            assert part
            received += part


def test_what_asks_for_a_web_socket_gets_an_answer(impatient: int, caplog: pytest.LogCaptureFixture) -> None:
    with connect(impatient) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 204")
    assert "ebSocket" not in caplog.text


# How long it takes


@pytest.mark.parametrize(
    "begun",
    [b"", ASK[:-2], ASK + ASK[:10], b"POST /healthz HTTP/1.1\r\nContent-Length: 100\r\n\r\n1"],
    ids=["nothing", "half a head", "half a second head", "half a body"],
)
def test_a_request_that_does_not_arrive_is_given_up(begun: bytes, impatient: int) -> None:
    with connect(impatient) as client:
        started = time.monotonic()
        client.sendall(begun)
        everything(client)
        assert 0.25 < time.monotonic() - started < 3


def test_a_request_that_trickles_in_is_given_up(impatient: int) -> None:
    with connect(impatient) as client:
        started = time.monotonic()
        client.sendall(ASK[:-2])
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 5:
                client.sendall(b"a: b\r\n")
                time.sleep(0.1)
        assert 0.25 < time.monotonic() - started < 3


def test_whoever_waits_for_a_slow_source_is_answered(impatient: int) -> None:
    with connect(impatient) as client:
        # The last one has begun to arrive, but is not read while the first is answered.
        client.sendall(b"GET /?ip=8.8.8.8 HTTP/1.1\r\n\r\n" + ASK + ASK[:10])
        received = client.recv(65536)
        assert received.startswith(b"HTTP/1.1 200")


def ask_and_take_nothing(client: socket.socket) -> None:
    """Ask for 8 MB of pages, which is more than a system keeps for a client, but not for too many of them at once."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(10):
        client.sendall(b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n" * (MAX_PIPELINED // 2))
        time.sleep(0.2)


def test_whoever_takes_no_answers_is_given_up(impatient: int) -> None:
    with connect(impatient) as client, pytest.raises(ConnectionError):
        ask_and_take_nothing(client)


# How many there are


def test_one_connection_too_many_is_closed_and_the_others_are_not(impatient: int) -> None:
    clients = [connect(impatient) for _ in range(Impatient.max_connections)]
    with connect(impatient) as refused_one:
        assert everything(refused_one) == b""
    for client in clients:
        with client:
            client.sendall(ASK)
            assert client.recv(100).startswith(b"HTTP/1.1 204")
    time.sleep(0.1)
    with connect(impatient) as later:
        later.sendall(ASK)
        assert later.recv(100).startswith(b"HTTP/1.1 204")


# The end


def test_whoever_takes_no_answers_does_not_hold_up_the_end(serve: Callable[..., Service]) -> None:
    service = serve()
    port = int(service.url.rpartition(":")[2])
    with connect(port) as client:
        with suppress(ConnectionError):  # a machine so busy that too many wait
            ask_and_take_nothing(client)
        service.process.terminate()
        assert service.process.wait(2) == 0
    assert "Traceback" not in service.log.read_text()
