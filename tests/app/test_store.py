"""The cache that replicas share: what they tell each other, and what happens without it."""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import fakeredis
import httpx
import pytest
import redis
import trustme
from redis.asyncio import SSLConnection

from app.store import Known, Store
from tests.conftest import Service, free_port
from tests.upstream import Upstream, answering, http_answer, silent

pytestmark = pytest.mark.anyio

Client = Callable[..., httpx.AsyncClient]
Upstreams = Callable[..., Upstream]


@pytest.fixture
def store() -> Iterator[redis.Redis]:
    """A Redis on loopback, as the tests see it."""
    with running_store() as client:
        yield client


@contextmanager
def running_store(tls: ssl.SSLContext | None = None, **options: object) -> Iterator[redis.Redis]:
    """A Redis on loopback, on TLS if there is a context for it, and a client with these options."""
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


@pytest.fixture
def replica(client: Client, store: redis.Redis) -> Callable[..., httpx.AsyncClient]:
    """One of several replicas with that store."""

    def make(upstream: Upstream, **settings: object) -> httpx.AsyncClient:
        port = store.connection_pool.connection_kwargs["port"]
        # More patient than the service is by itself: nothing of that is tested with it, and the machine may be busy.
        return client(store=Store(f"redis://127.0.0.1:{port}/0", patience=10), ipwhois_url=upstream.url, **settings)

    return make


async def test_an_address_is_asked_once_for_all_replicas(replica: Client, upstream: Upstreams) -> None:
    source = upstream()
    first, second = replica(source), replica(source)
    asked = await first.get("/?ip=8.8.8.8")
    shared = await second.get("/?ip=8.8.8.8")
    own = await second.get("/?ip=8.8.8.8")
    assert asked.content == shared.content == own.content
    assert asked.headers["Cache-Status"] == "geoip; fwd=uri-miss; stored"
    assert shared.headers["Cache-Status"].startswith("geoip; hit; ttl=")
    assert shared.headers["Cache-Control"].startswith("public, max-age=3")
    assert len(source.requests) == 1


async def test_what_nobody_knows_is_asked_once_for_all_replicas(
    replica: Client, upstream: Upstreams, store: redis.Redis
) -> None:
    source = upstream(answering({"success": False, "message": "Reserved range", "ip": "8.8.8.8"}))
    for service in (replica(source), replica(source)):
        assert (await service.get("/?ip=8.8.8.8")).json()["code"] == "unknown-address"
    assert len(source.requests) == 1
    assert 50 < int(store.ttl("geoip:8.8.8.8")) <= 60


async def test_each_replica_finds_its_own_address(replica: Client, upstream: Upstreams, store: redis.Redis) -> None:
    source = upstream()
    for service in (replica(source), replica(source)):
        assert (await service.get("/")).json()["ip"] == "9.9.9.9"
    assert len(source.requests) == 2
    assert store.keys() == []


async def test_a_source_that_refuses_one_replica_is_left_alone_by_all(replica: Client, upstream: Upstreams) -> None:
    source = upstream(answering({}, 429, {"Retry-After": "40"}))
    first, second = replica(source), replica(source)
    await first.get("/?ip=8.8.8.8")
    response = await second.get("/?ip=1.1.1.1")
    assert (response.status_code, response.json()["code"]) == (503, "quota-exhausted")
    assert 35 < int(response.headers["Retry-After"]) <= 40
    assert len(source.requests) == 1


async def test_a_wrong_key_is_found_out_once_for_all_replicas(replica: Client, upstream: Upstreams) -> None:
    source = upstream(answering({}, 403))
    first, second = replica(source), replica(source)
    await first.get("/?ip=8.8.8.8")
    response = await second.get("/?ip=1.1.1.1")
    assert (response.status_code, response.json()["code"]) == (502, "upstream-refused")
    assert "Retry-After" not in response.headers
    assert len(source.requests) == 1


async def test_an_expired_answer_of_another_replica_is_better_than_an_error(
    replica: Client, upstream: Upstreams, store: redis.Redis
) -> None:
    await replica(upstream()).get("/?ip=8.8.8.8")
    stored = json.loads(store.get("geoip:8.8.8.8") or "")
    assert stored["v"] == 1
    store.set("geoip:8.8.8.8", json.dumps(stored | {"expires": time.time() - 120}))
    response = await replica(upstream(answering({}, 500))).get("/?ip=8.8.8.8")
    assert response.status_code == 200
    assert response.headers["Cache-Status"] in {f"geoip; hit; ttl=-{seconds}" for seconds in (120, 121, 122)}
    assert response.headers["Cache-Control"] == "private, no-store"


async def test_answers_are_kept_for_as_long_as_they_are_of_use(
    replica: Client, upstream: Upstreams, store: redis.Redis
) -> None:
    await replica(upstream(), cache_ttl=600).get("/?ip=8.8.8.8")
    assert 86_400 + 590 < int(store.ttl("geoip:8.8.8.8")) <= 86_400 + 600


GOOD = {
    "v": 1,
    "answer": {"ip": "8.8.8.8", "isp": "Stored", "source": "ipwhois"},
    "unknown": "",
    "expires": time.time() + 3000,
}


async def test_an_entry_that_another_version_could_have_written_is_read(
    replica: Client, upstream: Upstreams, store: redis.Redis
) -> None:
    store.set("geoip:8.8.8.8", json.dumps(GOOD | {"new_field": 1}))
    assert (await replica(upstream()).get("/?ip=8.8.8.8")).json()["isp"] == "Stored"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"v": 1}',
        json.dumps(GOOD | {"v": 2}).encode(),
        json.dumps(GOOD | {"expires": "soon"}).encode(),
        json.dumps(GOOD | {"expires": float("nan")}).encode(),
        json.dumps(GOOD | {"answer": {"ip": "8.8.8.8", "latitude": 91, "source": "x"}}).encode(),
        json.dumps(GOOD | {"answer": {"ip": "1.1.1.1", "isp": "Another's", "source": "x"}}).encode(),
    ],
)
async def test_rubbish_in_the_store_is_no_answer_and_complained_of_once(
    rubbish: bytes, replica: Client, upstream: Upstreams, store: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    store.set("geoip:8.8.8.8", rubbish)
    store.set("geoip:pause:ipwhois", rubbish)
    response = await replica(upstream()).get("/?ip=8.8.8.8")
    assert response.json()["isp"] == "Google LLC"
    assert response.headers["Cache-Status"] == "geoip; fwd=uri-miss; stored"
    assert caplog.messages == ["going on without the shared cache: what it holds is not ours"]


async def test_what_another_replica_stored_is_kept_no_longer_than_ones_own(
    replica: Client, upstream: Upstreams, store: redis.Redis
) -> None:
    store.set("geoip:8.8.8.8", json.dumps(GOOD | {"expires": time.time() + 1e9}))
    unknown = {"answer": None, "unknown": "nobody knows it", "expires": time.time() + 1e9}
    store.set("geoip:1.1.1.1", json.dumps(GOOD | unknown))
    pause = {"v": 1, "code": "quota-exhausted", "detail": "too many", "until": time.time() + 1e9}
    store.set("geoip:pause:ipwhois", json.dumps(pause))
    service = replica(upstream(), cache_ttl=600)
    kept = (await service.get("/?ip=8.8.8.8")).headers["Cache-Control"].removeprefix("public, max-age=")
    assert 590 < int(kept) <= 600
    assert (await service.get("/?ip=1.1.1.1")).json()["detail"] == "nobody knows it"
    assert 3590 < int((await service.get("/?ip=9.9.9.9")).headers["Retry-After"]) <= 3600


async def test_a_value_of_another_type_is_no_answer(replica: Client, upstream: Upstreams, store: redis.Redis) -> None:
    store.rpush("geoip:8.8.8.8", "a list")
    assert (await replica(upstream()).get("/?ip=8.8.8.8")).json()["isp"] == "Google LLC"


async def in_time(answer: Awaitable[httpx.Response]) -> dict[str, object]:
    started = time.monotonic()
    body: dict[str, object] = (await answer).json()
    assert time.monotonic() - started < 1
    return body


async def test_a_store_that_says_nothing_is_done_without_and_complained_of_once(
    client: Client, upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    stalled = upstream(silent)
    service = client(cache_url=stalled.url.replace("http://", "redis://user:sesame@"), ipwhois_url=upstream().url)
    await service.get("/?ip=9.9.9.9")  # imports what the first lookup needs
    for number in range(3):
        assert (await in_time(service.get(f"/?ip=8.8.8.{number}")))["isp"] == "Google LLC"
        await asyncio.sleep(0.5)
    assert caplog.messages == ["going on without the shared cache: it does not answer (TimeoutError)"]
    assert "sesame" not in caplog.text


NOTHING = b"*2\r\n$-1\r\n$-1\r\n"


@pytest.mark.parametrize(
    ("to_get", "to_set", "complaint"),
    [
        (
            NOTHING,
            b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
            "refuses a command (OutOfMemoryError)",
        ),
        (NOTHING, b"-READONLY You can't write against a read only replica.\r\n", "refuses a command (ReadOnlyError)"),
        (b"-ERR unknown command\r\n", b"+OK\r\n", "refuses a command (ResponseError)"),
        (http_answer({}), http_answer({}), "does not answer (InvalidResponse)"),
        (b"$x\r\n", b"$x\r\n", "does not answer (ValueError)"),
        (b":12\r\n", b"+OK\r\n", "does not answer what it is asked"),
        (b"*1\r\n$-1\r\n", b"+OK\r\n", "does not answer what it is asked"),
    ],
)
async def test_a_store_that_answers_nonsense_is_done_without_and_complained_of_once(
    to_get: bytes, to_set: bytes, complaint: str, client: Client, upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(65536):
            writer.write(to_set if b"SET\r\n" in command else to_get if b"MGET" in command else b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        shared = Store(f"redis://127.0.0.1:{port}", patience=10)
        service = client(store=shared, ipwhois_url=upstream().url)
        for number in range(5):
            assert (await service.get(f"/?ip=8.8.8.{number}")).json()["isp"] == "Google LLC"
        await shared.aclose()
    assert caplog.messages == [f"going on without the shared cache: it {complaint}"]


@pytest.mark.parametrize("options", ["sesame=1", "ssl_cert_reqs=sesame", "max_connections=sesame"])
async def test_a_url_with_a_wrong_option_is_refused_without_being_shown(options: str) -> None:
    with pytest.raises(ValueError, match=r"^GEOIP_CACHE_URL: an option in it") as caught:
        Store(f"rediss://127.0.0.1:1/0?{options}")
    assert "sesame" not in str(caught.value)


async def test_a_store_that_is_gone_is_done_without(
    client: Client, upstream: Upstreams, caplog: pytest.LogCaptureFixture
) -> None:
    source = upstream()
    service = client(cache_url=f"redis://127.0.0.1:{free_port()}/0", ipwhois_url=source.url)
    assert (await in_time(service.get("/?ip=8.8.8.8")))["isp"] == "Google LLC"
    assert (await in_time(service.get("/?ip=8.8.8.8")))["isp"] == "Google LLC"
    assert len(source.requests) == 1
    assert caplog.messages == ["going on without the shared cache: it does not answer (ConnectionError)"]


async def test_the_store_of_the_settings_is_used_and_left_in_good_order(
    running: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]], store: redis.Redis, upstream: Upstreams
) -> None:
    url = f"redis://127.0.0.1:{store.connection_pool.connection_kwargs['port']}/0"
    async with running(sources="ipwhois", cache_url=url, ipwhois_url=upstream().url) as service:
        for number in range(20):  # in case the machine is so busy that the store has no answer in time
            await service.get(f"/?ip=8.8.8.{number}")
            await asyncio.sleep(0.1)
            if store.keys("geoip:8.8.8.*"):
                break
    assert store.keys("geoip:8.8.8.*")


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_store_on_tls_is_used_where_its_certificate_is_trusted(
    trusted: bool, serve: Callable[..., Service], upstream: Upstreams, one_ca: str, tmp_path: Path
) -> None:
    authority, bundle = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with running_store(context, ssl=True, ssl_ca_certs=str(bundle)) as store:
        url = f"rediss://127.0.0.1:{store.connection_pool.connection_kwargs['port']}/0"
        # As a process: OpenSSL reads the variable itself.
        service = serve(
            GEOIP_CACHE_URL=url, GEOIP_IPWHOIS_URL=upstream().url, SSL_CERT_FILE=bundle if trusted else one_ca
        )
        for number in range(20 if trusted else 3):  # in case the machine is so busy that it has no answer in time
            assert service.get(f"/?ip=8.8.8.{number}").json()["isp"] == "Google LLC"
            if store.keys("geoip:8.8.8.*"):
                break
            await asyncio.sleep(0.1)
        assert bool(store.keys()) == trusted
    if not trusted:
        assert service.log.read_text().count("going on without the shared cache: it does not answer (") == 1


async def test_the_ca_bundle_is_read_once_for_all_connections_on_tls() -> None:
    pool = Store("rediss://127.0.0.1:1/0")._redis.connection_pool
    first, second = (pool.make_connection() for _ in range(2))  # type: ignore[no-untyped-call]
    assert isinstance(first, SSLConnection)
    assert isinstance(second, SSLConnection)
    assert first.ssl_context.get() is second.ssl_context.get()


@pytest.mark.parametrize("off", ["cache_ttl", "cache_size"])
async def test_with_the_cache_off_nothing_is_shared(
    off: str, replica: Client, upstream: Upstreams, store: redis.Redis
) -> None:
    source = upstream()
    service = replica(source, **{off: 0})
    for _ in range(2):
        response = await service.get("/?ip=8.8.8.8")
        assert response.headers["Cache-Status"] == "geoip; fwd=uri-miss"
    assert len(source.requests) == 2
    source.behaviour = answering({}, 429)
    assert (await service.get("/?ip=8.8.8.8")).status_code == 503
    assert store.keys() == []


async def test_a_moment_without_a_processor_loses_no_answer(store: redis.Redis) -> None:
    shared = Store(f"redis://127.0.0.1:{store.connection_pool.connection_kwargs['port']}/0", patience=0.2)
    await shared.put("8.8.8.8", Known(None, "nobody knows it", 60))
    asking = asyncio.ensure_future(shared.get("8.8.8.8", []))
    for _ in range(10):
        await asyncio.sleep(0)  # it is sent
    time.sleep(0.5)  # noqa: ASYNC251 (that is the point)
    known, _ = await asking
    await shared.aclose()
    assert known
    assert known.unknown == "nobody knows it"


def accepted(upstream: Upstream, expected: int) -> int:
    """The number of its connections; they are taken by a thread, which may be late."""
    deadline = time.monotonic() + 5
    while upstream.accepted < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return upstream.accepted


async def test_one_command_alone_asks_whether_the_store_is_back(
    upstream: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.AWAY", 0.2)
    stalled = upstream(silent)
    shared = Store(stalled.url.replace("http:", "redis:"))
    for _ in range(2):
        await shared.get("8.8.8.8", [])
    await asyncio.sleep(0.3)
    await asyncio.gather(*(shared.get(f"8.8.8.{number}", []) for number in range(20)))
    await shared.aclose()
    assert accepted(stalled, 3) == 3


async def test_commands_that_fail_together_are_one_failure(upstream: Upstreams) -> None:
    stalled = upstream(silent)
    shared = Store(stalled.url.replace("http:", "redis:"))
    await asyncio.gather(*(shared.get(f"8.8.8.{number}", []) for number in range(5)))
    await shared.get("9.9.9.9", [])
    await shared.aclose()
    assert accepted(stalled, 6) == 6


async def test_it_is_connected_to_the_store_before_the_first_request(
    running: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]], upstream: Upstreams
) -> None:
    stalled = upstream(silent)
    started = time.monotonic()
    async with running(sources="ipwhois", cache_url=stalled.url.replace("http:", "redis:")):
        assert stalled.accepted == 1
        # One that says nothing does not hold up the start for long.
        assert time.monotonic() - started < 5
