"""The running process: where it listens, how many it takes, what it trusts and logs, and how it ends."""

import errno
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import trustme

from app.server import listen
from app.settings import load_settings
from tests.conftest import ROOT, Service, environment, free_port
from tests.upstream import Upstream, answering, ipwhois, ipwhois_answer, silent

Serve = Callable[..., Service]
Upstreams = Callable[..., Upstream]


def ended(tmp_path: Path, *, code: str = "", **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a service that cannot start, to its end."""
    return subprocess.run(
        [sys.executable, *(["-c", code] if code else ["-m", "app"])],
        env=environment(**{"PYTHONPATH": ROOT, "PORT": free_port(), "GEOIP_BIND": "127.0.0.1"} | settings),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )


def check_refused(process: subprocess.CompletedProcess[str], line: str) -> None:
    """Check that it said why, in one line, and ended with the status of a wrong setting."""
    assert (process.returncode, process.stdout) == (2, ""), process.stderr
    assert process.stderr.startswith(f"geoip: {line}"), process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    assert "sesame" not in process.stderr


# Start


def test_it_serves_and_says_where(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=upstream().url)
    answer = service.get("/?ip=8.8.8.8")
    assert answer.json()["isp"] == "Google LLC"
    assert "server" not in answer.headers  # it would tell an attacker which software this is
    (line,) = service.lines()
    assert service.url in line
    assert "ipwhois" in line


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"PORT": "abc"}, "PORT: "),
        ({"GEOIP_SOURCES": "ipify"}, "GEOIP_IPIFY_KEY: "),
        ({"GEOIP_MMDB_CITY": "city.mmdb"}, "city.mmdb: No such file or directory"),
        ({"GEOIP_MMDB_CITY": "rubbish.mmdb"}, "rubbish.mmdb: not a MaxMind DB file"),
        ({"SSL_CERT_FILE": "/no/ca.pem"}, "SSL_CERT_FILE: /no/ca.pem cannot be read: No such file or directory"),
        ({"SSL_CERT_FILE": "empty"}, "SSL_CERT_FILE: empty holds no certificate"),
        ({"HTTPS_PROXY": "socks5://me:sesame@127.0.0.1:9"}, "HTTPS_PROXY: "),
        ({"https_proxy": "nonsense://me:sesame@127.0.0.1:9"}, "HTTPS_PROXY: "),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line_and_status_2(
    setting: dict[str, str], line: str, tmp_path: Path
) -> None:
    (tmp_path / "rubbish.mmdb").write_bytes(b"rubbish")
    (tmp_path / "empty").touch()
    check_refused(ended(tmp_path, **{"GEOIP_SOURCES": "ipwhois,mmdb"} | setting), line)


def test_a_path_with_a_line_break_is_still_one_line(tmp_path: Path) -> None:
    process = ended(tmp_path, GEOIP_SOURCES="mmdb", GEOIP_MMDB_CITY="a\nb.mmdb")
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1


def test_a_port_in_use_is_one_line_and_status_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = ended(tmp_path, PORT=port)
    assert process.returncode == 1
    assert process.stderr == f"geoip: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


def test_an_address_of_another_machine_is_one_line_and_status_1(tmp_path: Path) -> None:
    process = ended(tmp_path, GEOIP_BIND="192.0.2.1", PORT=8080)
    assert process.returncode == 1
    assert process.stderr == f"geoip: cannot listen on 192.0.2.1 port 8080: {os.strerror(errno.EADDRNOTAVAIL)}\n"


def test_without_a_shared_cache_its_client_is_not_imported(serve: Serve, upstream: Upstreams) -> None:
    service = serve(PYTHONVERBOSE=1, GEOIP_IPWHOIS_URL=upstream().url)
    assert service.get("/?ip=8.8.8.8").status_code == 200
    imported = set(re.findall(r"^import '(\w+)'", service.log.read_text(), re.MULTILINE))
    assert imported & {"fastapi", "redis"} == {"fastapi"}


def test_with_its_default_sources_and_no_network_the_database_answers(serve: Serve) -> None:
    # An empty variable counts as unset.
    service = serve(GEOIP_SOURCES="", GEOIP_IPWHOIS_URL=f"http://127.0.0.1:{free_port()}")
    answer = service.get("/?ip=8.8.8.8").json()
    assert (answer["source"], answer["isp"]) == ("mmdb", "Google LLC")


# The socket


def test_bound_to_all_ipv6_addresses_it_takes_ipv4_as_well(serve: Serve) -> None:
    service = serve(GEOIP_BIND="::")
    for host in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{host}:{service.port}/healthz", trust_env=False, verify=False).status_code == 204
    assert f"http://localhost:{service.port}," in service.lines()[0]


@contextmanager
def bound(monkeypatch: pytest.MonkeyPatch, bind: str) -> Iterator[socket.socket]:
    monkeypatch.setenv("GEOIP_BIND", bind)
    monkeypatch.setenv("PORT", str(free_port()))
    with listen(load_settings()) as listener:
        yield listener


def test_bound_to_one_ipv6_address_it_does_not_take_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound(monkeypatch, "::1") as listener:
        assert listener.getsockname()[0] == "::1"
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


@pytest.mark.parametrize("bind", ["127.0.0.1", "::"])
def test_a_connection_does_not_wait_for_the_acknowledgement_of_a_head(
    bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bound(monkeypatch, bind) as listener:
        client = socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=5)
        connection, _ = listener.accept()
        with client, connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("reason", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_all_addresses_are_those_of_ipv4(
    reason: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel without IPv6 makes no such socket; with IPv6 switched off by sysctl it does not bind one."""

    class Socket(socket.socket):
        def __init__(self, family: int = -1, *rest: int, **options: int) -> None:
            if family == socket.AF_INET6 and reason == errno.EAFNOSUPPORT:
                raise OSError(reason, os.strerror(reason))
            super().__init__(family, *rest, **options)

        def bind(self, address: tuple[object, ...]) -> None:  # type: ignore[override]
            if self.family == socket.AF_INET6:
                raise OSError(reason, os.strerror(reason))
            super().bind(address)

    monkeypatch.setattr("socket.socket", Socket)
    with bound(monkeypatch, "::") as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "IPv6" in record.getMessage()
    with pytest.raises(OSError, match=os.strerror(reason)), bound(monkeypatch, "::1"):
        pass  # an address that was asked for is not replaced by another one


def has_network_namespaces() -> bool:
    """Tell whether a network of one's own can be made here, which takes root or user namespaces."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    command = ["unshare", "--map-root-user", "--net", "ip", "link", "set", "lo", "up"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


own_network = pytest.mark.skipif(not has_network_namespaces(), reason="no network namespaces")

IN_A_NETWORK = """
ip link set lo up && eval "$SETUP" || exit 3
"$PYTHON" -m app & server=$!
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  "$PYTHON" -m app healthcheck && break
  sleep 0.2
done
"$PYTHON" -m app healthcheck; echo "healthy: $?"
eval "$ASK"
kill "$server"; wait "$server"
"""


def in_a_network(setup: str, ask: str, tmp_path: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Serve on a machine with a network of its own, and ask from there."""
    return subprocess.run(
        ["unshare", "--map-root-user", "--net", "sh", "-c", IN_A_NETWORK],
        env=environment(
            **{"PYTHONPATH": ROOT, "PYTHON": sys.executable, "SETUP": setup, "ASK": ask, "PORT": 8080} | settings
        ),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


FETCH = (
    '"$PYTHON" -c "import sys, urllib.request as r; print(r.urlopen(r.Request(sys.argv[1],'
    " headers={'X-Forwarded-For': '8.8.8.8'})).read().decode())\" "
)


@own_network
def test_with_ipv6_switched_off_it_is_healthy_on_ipv4(tmp_path: Path) -> None:
    process = in_a_network(
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
        FETCH + "http://127.0.0.1:8080/?ip=8.8.8.8",
        tmp_path,
        GEOIP_SOURCES="mmdb",
        GEOIP_BIND="::",
    )
    assert process.returncode == 0, process.stderr
    assert "healthy: 0\n" in process.stdout
    assert '"isp":"Google LLC"' in process.stdout
    assert "Traceback" not in process.stderr


@own_network
@pytest.mark.parametrize("address", ["1.1.1.1", "2001:4860:4860::8888"])
def test_a_caller_on_the_internet_is_its_own_address_and_no_hint(address: str, tmp_path: Path) -> None:
    url = f"http://{f'[{address}]' if ':' in address else address}:8080/"
    process = in_a_network(
        f"ip address add {address}{'/128 nodad' if ':' in address else '/32'} dev lo",
        FETCH + url,
        tmp_path,
        GEOIP_SOURCES="mmdb",
        GEOIP_BIND="::",
    )
    assert process.returncode == 0, process.stderr
    assert f'"ip":"{address}"' in process.stdout, process.stderr
    assert "GEOIP_TRUSTED_PROXIES" not in process.stderr


# How many it takes


@pytest.mark.parametrize(("soft", "hard", "clients"), [(256, 4096, 500), (1024, 1024, 1500)])
def test_idle_clients_shut_nobody_out(soft: int, hard: int, clients: int, serve: Serve) -> None:
    service = serve(through=["sh", "-c", f'ulimit -S -n {soft} && ulimit -H -n {hard} && exec "$@"', "sh"])
    with ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=5))

        for number in range(clients):
            client = connect()
            if number % 50 == 0:  # so that the backlog is never full, which makes a client wait for a second
                check_answered(client)
        started = time.monotonic()
        assert service.get("/healthz").status_code == 204
        assert time.monotonic() - started < 5  # a silent client is cut off after 10 seconds at the earliest
        for _ in range(100):
            check_answered(connect())
    assert service.get("/healthz").status_code == 204
    assert service.log.stat().st_size < 2000, service.log.read_text()[:4000]


@pytest.mark.parametrize("limit", [64, 128, 256])
def test_clients_that_come_all_at_once_do_not_take_the_last_files(limit: int, serve: Serve) -> None:
    service = serve(through=["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh"])
    with ExitStack() as stack:
        for _ in range(500):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", service.port))
        assert service.get("/healthz").status_code == 204
    assert service.log.stat().st_size < 2000, service.log.read_text()[:4000]


def test_950_clients_at_once_are_answered_although_a_process_is_given_256_files(serve: Serve) -> None:
    service = serve(through=["sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh"])
    with ExitStack() as stack:
        clients = []
        for number in range(950):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=5)))
            if number % 50 == 0:  # so that the backlog is never full
                assert service.get("/healthz").status_code == 204
        for client in clients:
            check_answered(client)


def test_a_limit_of_files_that_need_not_be_raised_is_left_as_it_is(serve: Serve) -> None:
    """macOS refuses to set the limit to infinity, even if it was infinite before."""
    code = (
        "import resource, sys\n"
        "def refuse(*_): raise ValueError('current limit exceeds maximum limit')\n"
        "resource.RLIM_INFINITY = 2**63 - 1\n"
        "resource.getrlimit = lambda _: (2**63 - 1, 2**63 - 1)\n"
        "resource.setrlimit = refuse\n"
        "from app.__main__ import main; sys.exit(main())"
    )
    assert serve(code=code).get("/healthz").status_code == 204


def check_answered(client: socket.socket) -> None:
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: geoip\r\n\r\n")
    assert client.recv(100).startswith(b"HTTP/1.1 204")


def test_no_thread_to_be_had_is_a_source_that_failed(serve: Serve) -> None:
    code = (
        "import sys, threading\n"
        'def start(self): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = start\n"
        "from app.__main__ import main; sys.exit(main())"
    )
    service = serve(code=code, GEOIP_SOURCES="ipwhois,mmdb", GEOIP_IPWHOIS_URL="http://upstream.example")
    for _ in range(2):
        assert service.get("/?ip=8.8.8.8").json()["source"] == "mmdb"
    assert service.get().json()["sources"] == [
        {"source": "ipwhois", "code": "upstream-failed"},
        {"source": "mmdb", "code": "unknown-address"},
    ]
    assert "Traceback" not in service.log.read_text()


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_it_ends_at_once_with_status_0(number: signal.Signals, serve: Serve) -> None:
    service = serve(GEOIP_TIMEOUT=60)  # for so long it would wait for a request under way
    with httpx.Client(trust_env=False, verify=False) as kept_alive:
        assert kept_alive.get(service.url + "/healthz").status_code == 204
        service.process.send_signal(number)
        assert service.process.wait(10) == 0
    assert "Traceback" not in service.log.read_text()


def test_a_request_under_way_is_answered_before_the_end(serve: Serve, upstream: Upstreams) -> None:
    slow = upstream(answering(ipwhois_answer("8.8.8.8"), after=1))
    service = serve(GEOIP_IPWHOIS_URL=slow.url)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.get, "/?ip=8.8.8.8")
        slow.wait()
        service.process.terminate()
        assert service.process.wait(5) == 0
        assert answer.result(5).json()["isp"] == "Google LLC"
    assert "Traceback" not in service.log.read_text()


def test_a_silent_upstream_delays_the_end_by_no_more_than_the_time_limit(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=(stalled := upstream(silent)).url, GEOIP_TIMEOUT=1)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.get, "/?ip=8.8.8.8")
        stalled.wait()
        service.process.terminate()
        assert service.process.wait(8) == 0
        assert answer.result(5).json()["code"] == "upstream-timeout"


def test_a_name_lookup_that_hangs_does_not_delay_the_end(serve: Serve) -> None:
    code = (
        "import socket, sys, time\n"
        "def hang(*_, **__): print('hanging', flush=True); time.sleep(30)\n"
        "socket.getaddrinfo = hang\n"
        "from app.__main__ import main; sys.exit(main())"
    )
    service = serve(code=code, GEOIP_TIMEOUT=1, GEOIP_IPWHOIS_URL="http://upstream.example")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.get, "/?ip=8.8.8.8")
        deadline = time.monotonic() + 10
        while "hanging" not in service.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        service.process.terminate()
        assert service.process.wait(10) == 0
        assert answer.result(5).json()["code"] == "upstream-timeout"


# Certificates


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Path]:
    """A throwaway certificate authority, and its certificate as a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority, tmp_path / "ca.pem"


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_an_upstream_with_a_trusted_certificate_is_asked_and_any_other_is_not(
    serve: Serve, upstream: Upstreams, authority: tuple[trustme.CA, Path]
) -> None:
    trusted = upstream(tls=server_context(authority[0], "127.0.0.1"))
    misnamed = upstream(tls=server_context(authority[0], "example.org"))
    cases: list[tuple[dict[str, object], Upstream, str | None]] = [
        ({"SSL_CERT_FILE": authority[1]}, trusted, None),
        ({"SSL_CERT_FILE": ""}, trusted, "upstream-failed"),  # counts as unset: the public authorities
        ({"SSL_CERT_FILE": authority[1]}, misnamed, "upstream-failed"),
    ]
    for certificates, server, code in cases:
        service = serve(GEOIP_IPWHOIS_URL=server.url, **certificates)
        answer = service.get("/?ip=8.8.8.8").json()
        assert answer.get("code") == code, service.log.read_text()
        if code:
            assert "CERTIFICATE_VERIFY_FAILED" in service.log.read_text()
        assert "Traceback" not in service.log.read_text()
    assert len(trusted.requests) == 1
    assert not misnamed.requests


# Keys and logs


@pytest.mark.parametrize("level", ["info", "debug"])
def test_the_key_reaches_the_upstream_and_no_log(level: str, serve: Serve, upstream: Upstreams) -> None:
    body = {
        "ip": "8.8.8.8",
        "location": {"country": "US", "city": "Mountain View", "lat": 37.40599, "lng": -122.078514},
        "isp": "Google LLC",
    }
    ipify = upstream(answering(body, headers={"Location": "/?apiKey=sesame-1"}))
    ipinfo = upstream(answering({"error": {"title": "Unknown token", "message": "sesame-2"}}, 403))
    service = serve(
        GEOIP_SOURCES="ipinfo,ipify",
        GEOIP_IPIFY_KEY="sesame-1",
        GEOIP_IPIFY_URL=ipify.url,
        GEOIP_IPINFO_KEY="sesame-2",
        GEOIP_IPINFO_URL=ipinfo.url,
        GEOIP_LOG_LEVEL=level,
    )
    answer = service.get("/?ip=8.8.8.8").json()
    assert (answer["isp"], answer["latitude"], answer["longitude"]) == ("Google LLC", 37.40599, -122.078514)
    assert "apiKey=sesame-1" in ipify.requests[0].target
    assert ipinfo.requests[0].headers["authorization"] == "Bearer sesame-2"
    assert "sesame" not in service.log.read_text()
    assert ("8.8.8.8" in service.log.read_text()) == (level == "debug")


def test_the_collector_works_while_it_serves(tmp_path: Path) -> None:
    code = (
        "import gc, runpy, sys, uvicorn\n"
        "uvicorn.Server.run = lambda *_, **__: print(gc.isenabled(), gc.get_freeze_count() > 0)\n"
        "sys.argv = ['app']; runpy.run_module('app', run_name='__main__')"
    )
    assert ended(tmp_path, code=code).stdout == "True True\n"


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/St_Johns", "EST5EDT", "XYZ-13:45", "nowhere", ""])
def test_times_in_the_log_are_utc_and_say_so(zone: str, tmp_path: Path) -> None:
    code = (
        "import logging; from app.log import configure_logging; from app.settings import load_settings\n"
        "configure_logging(load_settings()); logging.getLogger('geoip').info('now')"
    )
    process = ended(tmp_path, code=code, TZ=zone)
    written = datetime.fromisoformat(process.stderr.split()[0])
    assert written.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - written) < timedelta(seconds=20)


def test_malformed_requests_are_one_line_however_many(serve: Serve) -> None:
    service = serve(GEOIP_LOG_LEVEL="info")
    junk = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"junk\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 5000]
    for sent in junk * 10:
        with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
            client.sendall(sent)
            assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert service.get("/healthz").status_code == 204
    levels = [line.split()[1] for line in service.lines()]
    assert levels == ["INFO", "WARNING"]


def test_a_forwarded_address_is_believed_of_a_named_proxy_alone(serve: Serve, upstream: Upstreams) -> None:
    source = upstream(ipwhois)
    behind = serve(GEOIP_IPWHOIS_URL=source.url, GEOIP_TRUSTED_PROXIES="127.0.0.0/8")
    exposed = serve(GEOIP_IPWHOIS_URL=source.url)
    assert behind.get(**{"X-Forwarded-For": "1.1.1.1, 8.8.8.8"}).json()["ip"] == "8.8.8.8"
    assert exposed.get(**{"X-Forwarded-For": "1.1.1.1, 8.8.8.8"}).json()["ip"] == "9.9.9.9"
