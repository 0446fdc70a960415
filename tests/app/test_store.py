"""The cache that replicas share: what it holds, and what happens without it."""

import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fakeredis
import pytest
import redis
import trustme

from app.answer import MAX_STALE
from app.store import Store
from tests.app.conftest import Server
from tests.conftest import Service, free_port
from tests.upstream import Request, Upstream, answering, http_answer, ipwhois, silent

Running = Callable[..., Server]
Upstreams = Callable[..., Upstream]
Replica = Callable[..., Server]

LONG_TIMEOUT = "socket_timeout=10&socket_connect_timeout=10"
"""Options of a store's URL for tests that are not about its timeout: the machine may be busy."""


@pytest.fixture
def store() -> Iterator[redis.Redis]:
    """A client of a Redis on loopback."""
    with running_store() as client:
        yield client


@contextmanager
def running_store(tls: ssl.SSLContext | None = None, **options: object) -> Iterator[redis.Redis]:
    """Start a Redis on loopback, with TLS if there is a context for it; a client of it, with these options."""
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0), server_type="valkey")
    server.block_on_close = False
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    host, port = server.server_address[:2]
    with redis.Redis(host=str(host), port=port, **options) as client:  # type: ignore[arg-type]
        yield client
    server.shutdown()
    server.server_close()
    thread.join(5)


def url_of(store: redis.Redis, scheme: str = "redis") -> str:
    return f"{scheme}://127.0.0.1:{store.connection_pool.connection_kwargs['port']}/0"


@pytest.fixture
def replica(running: Running, store: redis.Redis) -> Replica:
    """One of several replicas with that store."""

    def make(upstream: Upstream, **variables: object) -> Server:
        url = f"{url_of(store)}?{LONG_TIMEOUT}"
        return running(GEOIP_CACHE_URL=url, GEOIP_IPWHOIS_URL=upstream.url, **variables)

    return make


def stored(store: redis.Redis, address: str = "8.8.8.8") -> bytes:
    """Return the entry of an address, for which the service itself does not wait."""
    deadline = time.monotonic() + 5
    while not (value := store.get(f"geoip:{address}")):
        assert time.monotonic() < deadline, "nothing is stored"
        time.sleep(0.005)
    assert isinstance(value, bytes)
    return value


def test_an_address_is_asked_once_for_all_replicas(replica: Replica, upstream: Upstreams, store: redis.Redis) -> None:
    source = upstream()
    first, second = replica(source), replica(source)
    asked = first.get("/?ip=8.8.8.8")
    assert stored(store) == asked.content
    shared, own = second.get("/?ip=8.8.8.8"), second.get("/?ip=8.8.8.8")
    assert asked.content == shared.content == own.content
    assert asked.headers["Cache-Status"] == "geoip; fwd=uri-miss; stored"
    assert shared.headers["Cache-Status"].startswith("geoip; hit; ttl=")
    assert shared.headers["Cache-Control"].startswith("public, max-age=3")
    assert len(source.requests) == 1


def test_only_answers_are_stored(replica: Replica, upstream: Upstreams, store: redis.Redis) -> None:
    moody = upstream(answering({"success": False, "message": "Reserved range", "ip": "8.8.8.8"}))
    service = replica(moody)
    assert service.get("/?ip=8.8.8.8").json()["code"] == "unknown-address"
    moody.behaviour = answering({}, 429, {"Retry-After": "40"})
    assert service.get("/?ip=8.8.4.4").json()["code"] == "quota-exhausted"
    assert store.keys() == []


def test_each_replica_finds_its_own_address(replica: Replica, upstream: Upstreams, store: redis.Redis) -> None:
    source = upstream()
    for service in (replica(source), replica(source)):
        assert service.get("/").json()["ip"] == "9.9.9.9"
    assert len(source.requests) == 2
    assert store.keys() == []


def test_answers_are_kept_for_a_day_after_their_expiry(
    replica: Replica, upstream: Upstreams, store: redis.Redis
) -> None:
    replica(upstream(), GEOIP_CACHE_TTL=600).get("/?ip=8.8.8.8")
    stored(store)
    assert MAX_STALE + 590 < int(store.ttl("geoip:8.8.8.8")) <= MAX_STALE + 600


STORED = {"ip": "8.8.8.8", "isp": "Stored", "source": "elsewhere"}


def test_an_expired_answer_of_another_replica_is_better_than_an_error(
    replica: Replica, upstream: Upstreams, store: redis.Redis
) -> None:
    store.set("geoip:8.8.8.8", json.dumps(STORED), ex=MAX_STALE - 120)
    moody = upstream(answering({}, 500))
    service = replica(moody)
    response = service.get("/?ip=8.8.8.8")
    assert (response.status_code, response.json()["isp"]) == (200, "Stored")
    assert response.headers["Cache-Status"] in {f"geoip; hit; ttl=-{seconds}" for seconds in (120, 121, 122)}
    assert response.headers["Cache-Control"] == "private, no-store"


def test_an_older_answer_of_another_replica_does_not_replace_ones_own(
    replica: Replica, upstream: Upstreams, store: redis.Redis
) -> None:
    once = iter([ipwhois])

    def fail_then(connection: socket.socket, request: Request) -> None:
        next(once, answering({}, 500))(connection, request)

    service = replica(upstream(fail_then), GEOIP_CACHE_TTL=1)
    assert service.get("/?ip=8.8.8.8").json()["isp"] == "Google LLC"
    time.sleep(1.1)
    store.set("geoip:8.8.8.8", json.dumps(STORED), ex=MAX_STALE - 120)
    response = service.get("/?ip=8.8.8.8")
    assert (response.status_code, response.json()["isp"]) == (200, "Google LLC")


def test_an_expired_answer_of_another_replica_is_renewed(
    replica: Replica, upstream: Upstreams, store: redis.Redis
) -> None:
    store.set("geoip:8.8.8.8", json.dumps(STORED), ex=MAX_STALE - 120)
    assert replica(upstream()).get("/?ip=8.8.8.8").json()["isp"] == "Google LLC"


def test_an_answer_that_another_version_could_have_stored_is_read(
    replica: Replica, upstream: Upstreams, store: redis.Redis
) -> None:
    store.set("geoip:8.8.8.8", json.dumps(STORED | {"new_field": 1}), ex=MAX_STALE + 100)
    answer = replica(upstream()).get("/?ip=8.8.8.8").json()
    assert (answer["isp"], answer["source"]) == ("Stored", "elsewhere")
    assert "new_field" not in answer


def test_what_another_replica_stored_is_kept_no_longer_than_ones_own(
    replica: Replica, upstream: Upstreams, store: redis.Redis
) -> None:
    store.set("geoip:8.8.8.8", json.dumps(STORED), ex=10_000_000)
    response = replica(upstream(), GEOIP_CACHE_TTL=600).get("/?ip=8.8.8.8")
    assert response.json()["isp"] == "Stored"
    assert 590 < int(response.headers["Cache-Control"].removeprefix("public, max-age=")) <= 600


def test_an_answer_without_an_expiry_is_asked_for_anew(
    replica: Replica, upstream: Upstreams, store: redis.Redis
) -> None:
    store.set("geoip:8.8.8.8", json.dumps(STORED))
    assert replica(upstream()).get("/?ip=8.8.8.8").json()["isp"] == "Google LLC"


def test_half_a_place_in_the_store_is_none(replica: Replica, upstream: Upstreams, store: redis.Redis) -> None:
    store.set("geoip:8.8.8.8", json.dumps(STORED | {"latitude": 5}), ex=MAX_STALE + 100)
    answer = replica(upstream()).get("/?ip=8.8.8.8").json()
    assert (answer["isp"], answer["latitude"], answer["longitude"]) == ("Stored", None, None)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        json.dumps(STORED | {"latitude": 91}).encode(),
        json.dumps(STORED | {"isp": 5}).encode(),
        json.dumps(STORED | {"ip": "1.1.1.1"}).encode(),
        json.dumps(STORED | {"isp": None}).encode(),
        json.dumps(STORED | {"isp": " ", "city": "Berlin", "latitude": 5}).encode(),
        json.dumps(STORED | {"isp": None, "latitude": 0, "longitude": 0, "country_code": "ZZ"}).encode(),
        json.dumps(STORED | {"source": 5}).encode(),
    ],
)
def test_rubbish_in_the_store_is_not_an_answer_and_complained_of(
    rubbish: bytes, replica: Replica, upstream: Upstreams, store: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        about = rubbish.replace(b"8.8.8.8", b"8.8.8.%d" % number)
        store.set(f"geoip:8.8.8.{number}", about, ex=MAX_STALE + 100)
    service = replica(upstream())
    for number in range(3):
        response = service.get(f"/?ip=8.8.8.{number}")
        assert response.json()["isp"] == "Google LLC"
        assert response.headers["Cache-Status"] == "geoip; fwd=uri-miss; stored"
    (complaint,) = set(caplog.messages)
    assert complaint.startswith("the shared cache is not used (")


def test_a_value_of_another_type_is_not_an_answer(replica: Replica, upstream: Upstreams, store: redis.Redis) -> None:
    store.rpush("geoip:8.8.8.8", "a list")
    assert replica(upstream()).get("/?ip=8.8.8.8").json()["isp"] == "Google LLC"


@pytest.mark.parametrize("off", ["GEOIP_CACHE_TTL", "GEOIP_CACHE_SIZE"])
def test_with_the_cache_off_nothing_is_shared(
    off: str, replica: Replica, upstream: Upstreams, store: redis.Redis
) -> None:
    source = upstream()
    service = replica(source, **{off: 0})
    for _ in range(2):
        assert service.get("/?ip=8.8.8.8").headers["Cache-Status"] == "geoip; fwd=uri-miss"
    assert len(source.requests) == 2
    assert store.keys() == []


# Without the store


def in_time(service: Server, target: str) -> object:
    started = time.monotonic()
    isp: object = service.get(target).json()["isp"]
    assert time.monotonic() - started < 5  # without a timeout it would wait for ever
    return isp


def test_a_store_that_says_nothing_is_done_without_and_complained_of(
    running: Running, upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    stalled = upstream(silent)
    url = stalled.url.replace("http://", "redis://user:sesame@")
    service = running(GEOIP_CACHE_URL=url, GEOIP_IPWHOIS_URL=upstream().url)
    assert stalled.accepted == 1  # it is connected before the first request
    for number in range(3):
        assert in_time(service, f"/?ip=8.8.8.{number}") == "Google LLC"
    assert set(caplog.messages) == {
        "the shared cache is not used (TimeoutError): check that the server of GEOIP_CACHE_URL runs"
    }
    assert "sesame" not in caplog.text


def test_a_store_that_is_gone_is_done_without(
    running: Running, upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    source = upstream()
    service = running(GEOIP_CACHE_URL=f"redis://127.0.0.1:{free_port()}/0", GEOIP_IPWHOIS_URL=source.url)
    for _ in range(2):
        assert in_time(service, "/?ip=8.8.8.8") == "Google LLC"
    assert len(source.requests) == 1
    assert set(caplog.messages) == {
        "the shared cache is not used (ConnectionError): check that the server of GEOIP_CACHE_URL runs"
    }


NOTHING = b"$-1\r\n:-2\r\n"


@pytest.mark.parametrize(
    ("to_get", "to_set"),
    [
        (NOTHING, b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
        (NOTHING, b"-READONLY You can't write against a read only replica.\r\n"),
        (b"-ERR unknown command\r\n-ERR unknown command\r\n", b"+OK\r\n"),
        (http_answer({}), http_answer({})),
        (b"$x\r\n", b"$x\r\n"),
        (b":12\r\n:12\r\n", b"+OK\r\n"),
        (b"*1\r\n$-1\r\n$-1\r\n", b"+OK\r\n"),
        (b"$2\r\n{}\r\n$1\r\nx\r\n", b"+OK\r\n"),
    ],
)
def test_a_store_that_answers_nonsense_is_done_without_and_complained_of(
    to_get: bytes, to_set: bytes, running: Running, upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(command: bytes) -> bytes:
        return to_set if b"SET\r\n" in command else to_get if b"PTTL" in command else b"+OK\r\n"

    with babbling(reply) as port:
        url = f"redis://127.0.0.1:{port}/0?socket_timeout=1&socket_connect_timeout=1"
        service = running(GEOIP_CACHE_URL=url, GEOIP_IPWHOIS_URL=upstream().url)
        for number in range(5):
            assert service.get(f"/?ip=8.8.8.{number}").json()["isp"] == "Google LLC"
        wait_for(lambda: bool(caplog.messages))
    assert all(complaint.startswith("the shared cache is not used (") for complaint in caplog.messages)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def babbling(reply: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answer commands on a port of loopback."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while command := self.request.recv(65536):
                    self.request.sendall(reply(command))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.block_on_close = False
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(5)


@pytest.mark.parametrize("options", ["sesame=1", "ssl_cert_reqs=sesame", "max_connections=sesame", "db=sesame"])
def test_a_url_with_a_wrong_option_is_refused_without_being_shown(options: str) -> None:
    with pytest.raises(
        ValueError, match=r"^GEOIP_CACHE_URL: an option after the question mark is wrong: correct it, or leave it out$"
    ) as caught:
        Store(f"rediss://127.0.0.1:1/0?{options}")
    assert "sesame" not in str(caught.value)


# As a process: OpenSSL reads SSL_CERT_FILE itself.


@pytest.mark.parametrize("trusted", [True, False])
def test_a_store_on_tls_is_used_if_its_certificate_is_trusted(
    trusted: bool, serve: Callable[..., Service], upstream: Upstreams, tmp_path: Path
) -> None:
    authority, bundle, other = trustme.CA(), tmp_path / "ca.pem", tmp_path / "other.pem"
    authority.cert_pem.write_to_path(bundle)
    trustme.CA().cert_pem.write_to_path(other)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with running_store(context, ssl=True, ssl_ca_certs=str(bundle)) as store:
        url = f"{url_of(store, 'rediss')}?{LONG_TIMEOUT}"
        settings = {"GEOIP_CACHE_URL": url, "GEOIP_IPWHOIS_URL": upstream().url}
        service = serve(**settings, SSL_CERT_FILE=bundle if trusted else other)
        assert service.get("/?ip=8.8.8.8").json()["isp"] == "Google LLC"
        if trusted:
            assert stored(store)
        else:
            service.get("/?ip=8.8.4.4")
            assert store.keys() == []
            assert service.log.read_text().count("the shared cache is not used (") == 1


def test_a_moment_without_a_processor_loses_no_answer(
    running: Running, upstream: Upstreams, store: redis.Redis
) -> None:
    store.set("geoip:8.8.8.8", json.dumps(STORED), ex=MAX_STALE + 100)
    service = running(GEOIP_CACHE_URL=f"{url_of(store)}?socket_timeout=5", GEOIP_IPWHOIS_URL=upstream().url)
    assert service.get("/?ip=8.8.8.8").json()["isp"] == "Stored"
