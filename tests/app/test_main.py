"""The command line and the running process: start, health, signals, certificates, logs."""

import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import trustme

from tests.conftest import ROOT, Service, environment, free_port
from tests.upstream import Upstream, answering, ipwhois_answer, silent

Serve = Callable[..., Service]
Upstreams = Callable[..., Upstream]


def run(*arguments: str, cwd: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=environment(PYTHONPATH=ROOT, **settings),
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )


# Start


def test_it_serves_and_says_where(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=upstream().url)
    assert service.get("/?ip=8.8.8.8").json()["isp"] == "Google LLC"
    assert service.url in service.log.read_text()


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"PORT": "abc"}, "geoip: PORT: "),
        ({"GEOIP_TRUSTED_PROXIES": "10.0.0.1/8"}, "geoip: GEOIP_TRUSTED_PROXIES: "),
        ({"GEOIP_SOURCES": "nobody"}, "geoip: GEOIP_SOURCES: "),
        ({"GEOIP_SOURCES": "ipify"}, "geoip: GEOIP_IPIFY_KEY: "),
        ({"GEOIP_IPIFY_KEY": "se same"}, "geoip: GEOIP_IPIFY_KEY: "),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line_and_status_2(
    setting: dict[str, str], line: str, tmp_path: Path
) -> None:
    process = run(cwd=tmp_path, **setting)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith(line)
    assert process.stderr.count("\n") == 1
    assert "se same" not in process.stderr


def test_a_database_that_is_none_ends_the_start_with_one_line_and_status_2(tmp_path: Path) -> None:
    for content, reason in ((None, "No such file or directory"), (b"rubbish", "not a MaxMind DB file")):
        if content:
            (tmp_path / "city.mmdb").write_bytes(content)
        process = run(cwd=tmp_path, GEOIP_MMDB_CITY="city.mmdb")
        assert process.returncode == 2
        assert process.stderr.startswith(f"geoip: city.mmdb: {reason}")
        assert process.stderr.count("\n") == 1


def test_a_port_in_use_is_one_line_and_status_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = run(cwd=tmp_path, PORT=port, GEOIP_BIND="127.0.0.1")
    assert process.returncode == 1
    assert process.stderr == f"geoip: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    process = run("dance", cwd=tmp_path)
    assert process.returncode == 2
    assert "dance" in process.stderr


def test_bound_to_all_ipv6_addresses_it_takes_ipv4_as_well(serve: Serve) -> None:
    service = serve(GEOIP_BIND="::")
    port = service.url.rpartition(":")[2]
    for host in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{host}:{port}/healthz", trust_env=False).status_code == 204


def test_it_takes_more_clients_than_a_process_is_given_files(serve: Serve) -> None:
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        service = serve()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (given, most))
    address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(address, timeout=5))
        assert service.get("/healthz").status_code == 204
    assert "Traceback" not in service.log.read_text()


# Health


def test_healthcheck_is_0_while_it_serves_and_1_when_it_does_not(serve: Serve, tmp_path: Path) -> None:
    service = serve()
    port = service.url.rpartition(":")[2]
    assert run("healthcheck", cwd=tmp_path, PORT=port).returncode == 0
    service.process.terminate()
    service.process.wait(5)
    assert run("healthcheck", cwd=tmp_path, PORT=port).returncode == 1


@pytest.mark.parametrize("bind", ["::", "::1", "127.0.0.1", "127.0.0.2"])
def test_healthcheck_finds_the_service_where_it_listens(bind: str, serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server((bind, port), family=socket.AF_INET6 if ":" in bind else socket.AF_INET) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert run("healthcheck", cwd=tmp_path, PORT=port, GEOIP_BIND=bind).returncode == 0
        thread.join(5)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 500 Oh\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"junk", b"HTTP/1.1 204 bit by bit", None]
)
def test_healthcheck_is_1_within_a_second_for_what_is_not_the_service(answer: bytes | None, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def behave() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                if answer is None:
                    connection.recv(1000)  # silent until it gives up
                    return
                with suppress(ConnectionError):
                    for part in answer.partition(b" bit by bit"):
                        connection.sendall(part)
                        time.sleep(0.4 if b"bit" in answer else 0)

        thread = threading.Thread(target=behave)
        thread.start()
        code = (
            "import http.client, sys, time, app.settings; from app.__main__ import main; start = time.monotonic();"
            "status = main(['healthcheck']); sys.exit(status if time.monotonic() - start < 1 else 99)"
        )
        process = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(PYTHONPATH=ROOT, PORT=listener.getsockname()[1]),
            cwd=tmp_path,
            timeout=20,
            check=False,
        )
        thread.join(5)
    assert process.returncode == 1


def test_healthcheck_does_without_the_web_framework(tmp_path: Path) -> None:
    code = (
        "import sys; from app.__main__ import main; main(['healthcheck']);"
        "print(*{'fastapi', 'starlette', 'uvicorn', 'httpx'} & set(sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=ROOT, PORT=free_port()),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert process.stdout.strip() == ""


def test_without_a_shared_cache_its_client_is_not_imported(serve: Serve, upstream: Upstreams) -> None:
    service = serve(PYTHONVERBOSE=1, GEOIP_IPWHOIS_URL=upstream().url)
    assert service.get("/?ip=8.8.8.8").status_code == 200
    imported = set(re.findall(r"^import '(\w+)'", service.log.read_text(), re.MULTILINE))
    assert imported & {"fastapi", "redis"} == {"fastapi"}


def test_with_its_default_sources_and_no_network_the_database_answers(serve: Serve) -> None:
    # Empty is as good as unset.
    service = serve(GEOIP_SOURCES="", GEOIP_IPWHOIS_URL=f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    answer = service.get("/?ip=8.8.8.8").json()
    assert time.monotonic() - started < 3
    assert (answer["source"], answer["isp"]) == ("mmdb", "Google LLC")


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_it_ends_within_a_second_with_status_0(number: signal.Signals, serve: Serve) -> None:
    service = serve()
    with httpx.Client(trust_env=False) as kept_alive:
        assert kept_alive.get(service.url + "/healthz").status_code == 204
        started = time.monotonic()
        service.process.send_signal(number)
        assert service.process.wait(5) == 0
        assert time.monotonic() - started < 1
    assert "Traceback" not in service.log.read_text()


def test_a_signal_during_the_start_ends_it_with_status_0(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "class Orchestrator:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'pydantic': os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Orchestrator())\n"
        "from app.__main__ import main; main(); print('too late')"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=ROOT, PORT=free_port(), GEOIP_BIND="127.0.0.1"),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


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


def test_a_silent_upstream_delays_the_end_by_no_more_than_the_budget(serve: Serve, upstream: Upstreams) -> None:
    service = serve(GEOIP_IPWHOIS_URL=(stalled := upstream(silent)).url, GEOIP_TIMEOUT=1)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.get, "/?ip=8.8.8.8")
        stalled.wait()
        started = time.monotonic()
        service.process.terminate()
        assert service.process.wait(8) == 0
        assert time.monotonic() - started < 2
        assert answer.result(5).json()["code"] == "upstream-timeout"


def test_a_name_lookup_that_hangs_does_not_delay_the_end(tmp_path: Path) -> None:
    code = (
        "import socket, sys, time\n"
        "def hang(*_, **__): print('hanging', flush=True); time.sleep(30)\n"
        "socket.getaddrinfo = hang\n"
        "from app.__main__ import main; sys.exit(main())"
    )
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=ROOT, PORT=port, GEOIP_TIMEOUT=1, GEOIP_SOURCES="ipwhois"),
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        with ThreadPoolExecutor() as pool, httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=15) as client:
            answer = pool.submit(client.get, f"http://127.0.0.1:{port}/?ip=8.8.8.8")
            assert process.stdout is not None
            assert process.stdout.readline() == "hanging\n"
            started = time.monotonic()
            process.terminate()
            assert process.wait(10) == 0
            assert time.monotonic() - started < 2
            assert answer.result(5).json()["code"] == "upstream-timeout"
    finally:
        process.kill()
        process.communicate()


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
        ({}, trusted, "upstream-failed"),
        ({"SSL_CERT_FILE": authority[1]}, misnamed, "upstream-failed"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, trusted, "upstream-failed"),
    ]
    for certificates, server, code in cases:
        service = serve(GEOIP_IPWHOIS_URL=server.url, **certificates)
        assert service.get("/?ip=8.8.8.8").json().get("code") == code, service.log.read_text()
        assert "Traceback" not in service.log.read_text()
    assert len(trusted.requests) == 1
    assert not misnamed.requests


# Proxies, keys and logs


def test_a_forwarded_address_is_believed_of_a_named_proxy_alone(serve: Serve, upstream: Upstreams) -> None:
    source = upstream()
    behind = serve(GEOIP_IPWHOIS_URL=source.url, GEOIP_TRUSTED_PROXIES="127.0.0.0/8")
    exposed = serve(GEOIP_IPWHOIS_URL=source.url)
    assert behind.get(**{"X-Forwarded-For": "1.1.1.1, 8.8.8.8"}).json()["ip"] == "8.8.8.8"
    assert exposed.get(**{"X-Forwarded-For": "1.1.1.1, 8.8.8.8"}).json()["ip"] == "9.9.9.9"


@pytest.mark.parametrize("level", ["info", "debug"])
def test_the_key_reaches_the_upstream_and_no_log(level: str, serve: Serve, upstream: Upstreams) -> None:
    body = {
        "ip": "8.8.8.8",
        "location": {"country": "US", "city": "Mountain View", "lat": 37.40599, "lng": -122.078514},
        "isp": "Google LLC",
    }
    ipify = upstream(answering(body))
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
