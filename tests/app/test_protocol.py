"""HTTP on the wire: which requests are refused, and how much one client may hold before it disturbs others."""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPResponse

import pytest

from app.protocol import MAX_FIELDS, MAX_HEAD, MAX_PIPELINED, Protocol
from tests.app.conftest import Server, serving
from tests.conftest import Service
from tests.upstream import Request, Upstream, answering, ipwhois, ipwhois_answer

ASK = b"GET /healthz HTTP/1.1\r\nHost: geoip\r\n\r\n"
OWN = "9.9.9.9"


class Impatient(Protocol):
    max_connections = 8
    timeout = 0.3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A service behind a trusted proxy, with the limits that everybody has."""
    with Upstream(ipwhois) as source, serving(GEOIP_IPWHOIS_URL=source.url, GEOIP_TRUSTED_PROXIES="127.0.0.1") as made:
        yield made


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    """A service that waits for a third of a second, takes eight connections, and caches nothing; its source is slow."""
    slow = answering(ipwhois_answer("8.8.8.8"), after=1)
    with Upstream(slow) as source, serving(protocol=Impatient, GEOIP_CACHE_TTL=0, GEOIP_IPWHOIS_URL=source.url) as made:
        yield made


def connect(server: Server | Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def send(client: socket.socket, segments: Sequence[bytes]) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for segment in segments:
        client.sendall(segment)
        if len(segments) > 1:
            time.sleep(0.002)  # else the system may join them


def everything(client: socket.socket) -> bytes:
    """All that is received until the other side hangs up."""
    received = b""
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            received += part
    return received


def check_refused(received: bytes) -> None:
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n"), received
    for field in (b"connection: close", b"content-type: application/problem+json", b"cache-control: no-store"):
        assert b"\r\n" + field in head
    assert b"\r\ndate: " in head
    assert b"\r\ncontent-length: %d" % len(body) in head
    assert json.loads(body)["code"] == "bad-request"


def answers(server: Server, segments: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Status and body of every answer to requests of which the last one closes the connection."""
    with connect(server) as client:
        send(client, segments)
        received = everything(client)
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        found.append((int(head.split()[1]), rest[:length]))
        received = rest[length:]
    return found


# Trailers (RFC 9112, 7.1.2)


LAST = ASK[:-2] + b"Connection: close\r\n\r\n"


def chunked(*fields: str, trailers: Sequence[str]) -> bytes:
    """A GET with a body of two chunks, and a trailer section."""
    head = ["GET / HTTP/1.1", *fields, "Transfer-Encoding: chunked"]
    return "\r\n".join([*head, "", "3", "abc", "2", "de", "0", *trailers, "", ""]).encode()


def cut(request: bytes, places: Sequence[bytes]) -> list[bytes]:
    """A request cut before each of these places, from the left."""
    segments = []
    for place in places:
        before, found, after = request.rpartition(place)
        assert found
        segments.append(before)
        request = found + after
    return [*segments, request]


CUTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "one segment": lambda request: [request],
    "before the body": lambda request: cut(request, [b"3\r\nabc"]),
    "before the trailers": lambda request: cut(request, [b"0\r\n"]),
    "within a name": lambda request: cut(request, [b"0\r\n", request.rstrip()[-12:]]),
    "every byte": lambda request: [bytes([byte]) for byte in request],
}


@pytest.mark.parametrize("segments", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(
    ("headers", "trailers", "address"),
    [
        (["X-Forwarded-For: 1.1.1.1"], ["X-Forwarded-For: 8.8.8.8"], "1.1.1.1"),
        (["X-Forwarded-For: 1.1.1.1"], ["x-forwarded-for: 8.8.8.8", "X-FORWARDED-FOR: 8.8.4.4"], "1.1.1.1"),
        ([], ["X-Forwarded-For: 8.8.8.8"], OWN),
        (["Trailer: X-Forwarded-For"], ["X-Forwarded-For: 2001:4860:4860::8888"], OWN),
        (["X-Forwarded-For: 1.1.1.1"], ["Accept: text/html"], "1.1.1.1"),
        (["X-Forwarded-For: 1.1.1.1"], ["Host: two", "Host: three"], "1.1.1.1"),
        (["X-Forwarded-For: 1.1.1.1"], ["Authorization: x", "Forwarded: for=8.8.8.8", "TE: trailers"], "1.1.1.1"),
    ],
)
def test_a_trailer_is_not_a_header(
    headers: list[str], trailers: list[str], address: str, segments: Callable[[bytes], list[bytes]], server: Server
) -> None:
    request = chunked("Host: geoip", *headers, trailers=trailers)
    (status, body), after = answers(server, [*segments(request), LAST])
    assert (status, json.loads(body)["ip"]) == (200, address)
    assert after == (204, b"")


@pytest.mark.parametrize("segments", CUTS.values(), ids=CUTS)
def test_a_host_in_the_trailers_is_not_a_host(segments: Callable[[bytes], list[bytes]], server: Server) -> None:
    request = chunked(trailers=["Host: geoip"])
    with connect(server) as client:
        with suppress(ConnectionError):  # the service may hang up before it has read all
            send(client, segments(request))
        check_refused(everything(client))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_trailer_is_not_a_header_of_the_next_request(size: int, server: Server) -> None:
    fields = ["Host: geoip", "X-Forwarded-For: 1.1.1.1"]
    requests = (
        chunked(*fields, trailers=["X-Forwarded-For: 8.8.8.8", "Accept: text/html"])
        + b"GET / HTTP/1.1\r\nHost: geoip\r\n\r\n"
        + chunked("Host: geoip", trailers=["X-Forwarded-For: 8.8.8.8"])
        + b"GET / HTTP/1.1\r\nHost: geoip\r\nX-Forwarded-For: 8.8.4.4\r\nConnection: close\r\n\r\n"
    )
    segments = [requests[start : start + size] for start in range(0, len(requests), size)]
    found = [(status, json.loads(body)["ip"]) for status, body in answers(server, segments)]
    assert found == [(200, "1.1.1.1"), (200, OWN), (200, OWN), (200, "8.8.4.4")]


def test_trailers_count_towards_the_limits(server: Server) -> None:
    few, many = ([f"a: {number}" for number in range(count)] for count in (MAX_FIELDS - 2, MAX_FIELDS - 1))
    assert [status for status, _ in answers(server, [chunked("Host: geoip", trailers=few), LAST])] == [200, 204]
    for trailers in (many, ["a: " + "1" * (MAX_HEAD + 8192)]):
        # The answer, which is made of the header section, and the refusal may both be sent.
        with connect(server) as client:
            client.sendall(chunked("Host: geoip", trailers=trailers))
            received = everything(client)
        check_refused(received[received.index(b"HTTP/1.1 400") :])


# Host (RFC 9112, 3.2)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["Host: geoip", "Host: geoip"],
        ["Host: geoip", "host: elsewhere"],
        ["Host: geoip", "Host:"],
        *(
            [f"Host: {host}"]
            for host in [
                "two words", "a/b", "me@geoip", "http://geoip", "geoip:http", "geoip:80:80", "::1", "[::1", "[::1]x",
                "[]", "[geoip]", "geoip?", "geoip#", "<geoip>", "\x80", "ge\toip", "geoip\\", '"geoip"', "2001:db8::1",
            ]
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["/healthz", "/?ip=8.8.8.8", "/nowhere"])
def test_a_request_without_one_valid_host_is_refused(fields: list[str], target: str, server: Server) -> None:
    with connect(server) as client:
        client.sendall("\r\n".join([f"GET {target} HTTP/1.1", *fields, "", ""]).encode("latin-1"))
        check_refused(everything(client))


@pytest.mark.parametrize(
    "host",
    [
        "geoip", "geoip:8080", "geoip:", "", ":8080", "GEOIP.Example.", "127.0.0.1", "127.0.0.1:80", "[::1]",
        "[::1]:8080", "[::ffff:127.0.0.1]:8080", "[2001:DB8::1]:", "xn--mnchen-3ya.example", "under_score", "a%20b",
        "a~b!$&'()*+,;=",
    ],
)  # fmt: skip
def test_a_valid_host_is_answered(host: str, server: Server) -> None:
    request = f"GET /healthz HTTP/1.1\r\nHost:{host} \r\nConnection: close\r\n\r\n".encode()
    assert answers(server, [request]) == [(204, b"")]


def test_http_1_0_has_no_host_or_one(server: Server) -> None:
    assert answers(server, [b"GET /healthz HTTP/1.0\r\n\r\n"]) == [(204, b"")]
    assert answers(server, [b"GET /healthz HTTP/1.0\r\nHost: geoip\r\n\r\n"]) == [(204, b"")]
    for fields in (b"Host: a\r\nHost: b\r\n", b"Host: a b\r\n"):
        with connect(server) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n" + fields + b"\r\n")
            check_refused(everything(client))


# Requests


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /?ip=münchen.de HTTP/1.1\r\nHost: geoip\r\n\r\n".encode(),
        b"GET /?ip=" + b"1" * (MAX_HEAD + 8192) + b" HTTP/1.1\r\nHost: geoip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: geoip\r\nCookie: " + b"1" * (MAX_HEAD + 8192),
        b"GET / HTTP/1.1\r\nHost: geoip\r\n" + b"a: b\r\n" * MAX_FIELDS + b"\r\n",
        b"GET /?ip=8.8.8.8 HTTP/1.1\r\nHost: geoip\r\n\r\n" * (MAX_PIPELINED + 200),
        b"GET / HTTP/1.1\r\nHost: geoip\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/0.9\r\nHost: geoip\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nHost: geoip\r\n\r\n",
        b"\r\n" * MAX_HEAD,
    ],
    ids=[
        *["no HTTP", "TLS", "HTTP/2", "UTF-8", "long URL", "long field", "many fields", "many at once", "two lengths"],
        *["version 0.9", "version 2.0", "empty lines"],
    ],
)
def test_a_request_that_is_malformed_or_too_large_is_a_problem(request_: bytes, impatient: Server) -> None:
    with connect(impatient) as client, connect(impatient) as other:
        client.sendall(request_)
        other.sendall(ASK)
        assert other.recv(100).startswith(b"HTTP/1.1 204")
        check_refused(everything(client))


def test_a_body_that_nobody_asked_for_is_ignored(impatient: Server) -> None:
    with closing(HTTPConnection("127.0.0.1", impatient.port, timeout=5)) as client:
        for _ in range(2):
            client.request("POST", "/healthz", b"1" * 1_000_000)
            response = client.getresponse()
            assert (response.status, json.loads(response.read())["code"]) == (405, "method-not-allowed")


def test_as_much_as_a_browser_may_send_is_answered(impatient: Server) -> None:
    fields = b"".join(b"Field-%d: %b\r\n" % (number, b"x" * 140) for number in range(MAX_FIELDS - 1))
    with connect(impatient) as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: geoip\r\n" + fields + b"\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 204")
        client.sendall(ASK * MAX_PIPELINED)
        received = b""
        while received.count(b"HTTP/1.1 204") < MAX_PIPELINED:
            part = client.recv(65536)
            assert part
            received += part


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_upgrade_is_not_made(protocol: bytes, impatient: Server) -> None:
    with connect(impatient) as client:
        client.sendall(ASK[:-2] + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 204")


UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: geoip\r\nContent-Length: %d\r\n" % len(ASK), ASK, 405),
        (b"GET /healthz HTTP/1.1\r\nHost: geoip\r\nTransfer-Encoding: chunked\r\n", b"1\r\na\r\n0\r\n\r\n", 204),
        (b"GET /?ip=8.8.8.8 HTTP/1.1\r\nHost: geoip\r\nContent-Length: 5\r\n", b"hello", 200),
    ],
    ids=["like a request", "chunks", "before a slow answer"],
)
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_the_body_of_a_request_for_an_upgrade_is_not_another_request(
    head: bytes, body: bytes, status: int, pause: float, impatient: Server
) -> None:
    """The parser reads it as one: a proxy would get one answer too many, and hand it to somebody else."""
    with connect(impatient) as client:
        client.sendall(head + UPGRADE + b"\r\n" + (b"" if pause else body))
        time.sleep(pause)
        with suppress(ConnectionError):
            client.sendall(body if pause else b"")
        received = everything(client)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert received.count(b"HTTP/1.1") == 1
    assert b"\r\nconnection: close\r\n" in received


@pytest.mark.parametrize("length", [b"", b"Content-Length: 0\r\n"])
def test_a_connection_is_kept_after_a_request_for_an_upgrade(length: bytes, impatient: Server) -> None:
    """Java's client asks for HTTP/2 with its first request, and then goes on with HTTP/1.1."""
    with connect(impatient) as client:
        for fields in (length + UPGRADE, b""):
            client.sendall(ASK[:-2] + fields + b"\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 204")


# How long it takes


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        ASK[:-2],
        ASK + ASK[:10],
        b"POST /healthz HTTP/1.1\r\nHost: geoip\r\nContent-Length: 100\r\n\r\n1",
        b"POST /healthz HTTP/1.1\r\nHost: geoip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b",
    ],
    ids=["nothing", "half a head", "half a second head", "half a body", "half a trailer"],
)
def test_a_request_that_does_not_arrive_is_given_up(begun: bytes, impatient: Server) -> None:
    with connect(impatient) as client:
        started = time.monotonic()
        client.sendall(begun)
        everything(client)
        assert 0.25 < time.monotonic() - started < 3


@pytest.mark.parametrize("sent", [b"\r\n", b"\r\n\r\n", b"G"])
def test_a_connection_is_not_kept_by_bytes_that_are_not_a_request(sent: bytes, impatient: Server) -> None:
    with connect(impatient) as client:
        client.sendall(ASK)
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
        started = time.monotonic()
        client.sendall(sent)
        everything(client)
        assert 0.25 < time.monotonic() - started < 3


def test_an_empty_line_before_a_request_is_ignored(impatient: Server) -> None:
    with connect(impatient) as client:
        for _ in range(3):
            client.sendall(b"\r\n" + ASK)
            assert client.recv(1000).startswith(b"HTTP/1.1 204")


def test_a_request_that_trickles_in_is_given_up(impatient: Server) -> None:
    with connect(impatient) as client:
        started = time.monotonic()
        client.sendall(ASK[:-2])
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 5:
                client.sendall(b"a: b\r\n")
                time.sleep(0.1)
        assert 0.25 < time.monotonic() - started < 3


def test_a_client_that_waits_for_a_slow_source_is_answered(impatient: Server) -> None:
    with connect(impatient) as client:
        # The last one has begun to arrive, but is not read while the first is answered.
        client.sendall(b"GET /?ip=8.8.8.8 HTTP/1.1\r\nHost: geoip\r\n\r\n" + ASK + ASK[:10])
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def ask_and_take_nothing(client: socket.socket) -> None:
    """Ask for 8 MB of pages, which is more than a system keeps for a client, but not for too many of them at once."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(10):
        client.sendall(b"GET / HTTP/1.1\r\nHost: geoip\r\nAccept: text/html\r\n\r\n" * (MAX_PIPELINED // 2))
        time.sleep(0.2)


def test_a_client_that_takes_no_answers_is_given_up(impatient: Server) -> None:
    with connect(impatient) as client, pytest.raises(ConnectionError):
        ask_and_take_nothing(client)


def test_a_client_that_takes_no_answers_does_not_hold_up_the_end(serve: Callable[..., Service]) -> None:
    service = serve()
    with connect(service) as client:
        with suppress(ConnectionError):  # on a busy machine too many requests may wait, which is refused
            ask_and_take_nothing(client)
        service.process.terminate()
        assert service.process.wait(5) == 0
    assert "Traceback" not in service.log.read_text()


# How many there are


class Crowded(Protocol):
    max_connections = 8


def test_one_connection_too_many_ends_the_one_that_was_idle_for_longest(running: Callable[..., Server]) -> None:
    server = running(protocol=Crowded)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(Crowded.max_connections)]
        for client in [*clients[1:], clients[0]]:  # so that the second client is idle for longest
            client.sendall(ASK)
            assert client.recv(100).startswith(b"HTTP/1.1 204")
        with connect(server) as newcomer:
            newcomer.sendall(ASK)
            assert newcomer.recv(100).startswith(b"HTTP/1.1 204")
            assert everything(clients.pop(1)) == b""
            for client in clients:
                client.sendall(ASK)
                assert client.recv(100).startswith(b"HTTP/1.1 204")


def test_a_request_under_way_is_not_ended_for_a_newcomer(
    running: Callable[..., Server], upstream: Callable[..., Upstream]
) -> None:
    may_answer = threading.Event()

    def answer_later(connection: socket.socket, request: Request) -> None:
        may_answer.wait(10)
        ipwhois(connection, request)

    source = upstream(answer_later)
    server = running(protocol=Crowded, GEOIP_IPWHOIS_URL=source.url, GEOIP_TIMEOUT=20)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(Crowded.max_connections)]
        for number, client in enumerate(clients, 1):
            client.sendall(b"GET /?ip=8.8.8.%d HTTP/1.1\r\nHost: geoip\r\n\r\n" % number)
        source.wait(len(clients))
        with connect(server) as newcomer:
            assert everything(newcomer) == b""
        may_answer.set()
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 200")


# Responses


DATA_SEGMENTS_RECEIVED = slice(152, 156)
"""Place of tcpi_data_segs_in in Linux' struct tcp_info (linux/tcp.h)."""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the segments of a connection")
@pytest.mark.parametrize("target", ["/healthz", "/?ip=8.8.8.8", "/openapi.json"])
def test_head_and_body_arrive_together(target: str, server: Server) -> None:
    with connect(server) as client:
        for _ in range(3):
            client.sendall(b"GET %b HTTP/1.1\r\nHost: geoip\r\n\r\n" % target.encode())
            response = HTTPResponse(client)
            response.begin()
            response.read()
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    assert struct.unpack("I", info[DATA_SEGMENTS_RECEIVED]) == (3,)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", ["/healthz", "/?ip=8.8.8.8", "/?ip=nonsense"])
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_an_answer_is_whole_whether_or_not_it_has_a_body(
    method: str, target: str, connection: str, server: Server
) -> None:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=5)) as client:
        for _ in range(2):  # on one connection, or on a new one
            client.request(method, target, headers={"Connection": connection})
            response = client.getresponse()
            length = int(response.headers.get("Content-Length", 0))
            assert len(response.read()) == (0 if method == "HEAD" else length)
