"""Every image answers as the app does outside a container, and needs no rights and no writable path."""

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trustme

from tests.conftest import ROOT, Service, environment, free_port
from tests.images.conftest import HARDENED, Container, config, docker
from tests.upstream import Behaviour, Request, Upstream, answering, http_answer, ipwhois, ipwhois_answer

Start = Callable[..., Container]


def moody(connection: socket.socket, request: Request) -> None:
    """An upstream that behaves differently for each address."""
    ip = request.target.strip("/")
    answers: dict[str, bytes] = {
        "1.0.0.1": http_answer({"ip": ip, "success": False, "message": "not found"}),
        "1.0.0.2": http_answer(b"<!doctype html>", headers={"Content-Type": "text/html"}),
        "1.0.0.3": http_answer(json.dumps(ipwhois_answer(ip)).encode("utf-16")),
        "1.0.0.4": http_answer(json.dumps(ipwhois_answer(ip, city="Zürich"), ensure_ascii=False).encode()),
        "1.0.0.5": http_answer({}, 403),
        "1.0.0.6": http_answer({}, 429, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}),
    }
    if ip in answers:
        connection.sendall(answers[ip])
    else:
        ipwhois(connection, request)


REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/", {}),
    ("GET", "/", {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}),
    ("GET", "/?ip=8.8.8.8", {}),
    ("GET", "/?ip=2001:4860:4860::8888", {}),
    ("GET", "/?ip=::ffff:8.8.4.4", {"Origin": "https://example.org"}),
    ("HEAD", "/?ip=9.9.9.10", {}),
    ("GET", "/?ip=1.0.0.1", {}),
    ("GET", "/?ip=1.0.0.2", {}),
    ("GET", "/?ip=1.0.0.3", {}),
    ("GET", "/?ip=1.0.0.4", {}),
    ("GET", "/?ip=10.0.0.1", {}),
    ("GET", "/?ip=ff02::1", {}),
    ("GET", "/?ip=", {}),
    ("GET", "/?ip=b%C3%BCcher.example", {}),
    ("GET", "/?ip=8.8.8.8&ip=8.8.8.8", {}),
    ("POST", "/", {}),
    ("OPTIONS", "/", {"Origin": "https://example.org", "Access-Control-Request-Method": "GET"}),
    ("GET", "/nowhere", {}),
    ("GET", "/healthz", {}),
    ("GET", "/openapi.json", {}),
    ("GET", "/docs", {}),
    ("GET", "/?ip=1.0.0.5", {}),
    ("GET", "/?ip=1.0.0.6", {}),
]


def answers(url: str) -> list[tuple[str, str, int, list[tuple[str, str]], bytes]]:
    """The answer of a service to each request, without the time of day."""
    said = []
    with httpx.Client(base_url=url, timeout=15, trust_env=False) as client:
        for method, target, headers in REQUESTS:
            response = client.request(method, target, headers=headers)
            fields = sorted((name, value) for name, value in response.headers.items() if name != "date")
            said.append((method, target, response.status_code, fields, response.content))
    return said


@pytest.mark.parametrize("source", ["ipwhois", "mmdb"])
def test_answers_as_the_unfrozen_app_does(
    image: str, source: str, container: Start, serve: Callable[..., Service], upstream: Callable[..., Upstream]
) -> None:
    settings = {"GEOIP_SOURCES": source, "GEOIP_IPWHOIS_URL": upstream(moody).url}
    expected = answers(serve(**settings).url)
    assert {status for _, _, status, _, _ in expected} >= {200, 204, 404, 405, 422}
    assert answers(container(image, **settings).url) == expected


def test_a_wrong_setting_ends_the_start_with_the_line_of_the_unfrozen_app(image: str) -> None:
    unfrozen = [sys.executable, "-m", "app"]
    expected = subprocess.run(
        unfrozen, env=environment(PORT="abc"), cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    frozen = ["docker", "run", "--rm", *HARDENED, "--env=PORT=abc", f"geoip:{image}"]
    result = subprocess.run(frozen, capture_output=True, text=True, timeout=30)
    assert "PORT" in expected.stderr
    assert (result.returncode, result.stdout, result.stderr) == (2, "", expected.stderr)


def test_runs_as_an_unprivileged_user(image: str, container: Start) -> None:
    status = Path(f"/proc/{container(image).state['Pid']}/status").read_text()
    assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", status, re.MULTILINE)
    assert re.search(r"^Gid:\t65532\t65532\t65532\t65532$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)


def test_becomes_healthy_and_says_when_it_is_not(image: str, container: Start) -> None:
    service = container(image)
    deadline = time.monotonic() + 40
    while service.state["Health"]["Status"] != "healthy":
        assert time.monotonic() < deadline, service.state["Health"]
        time.sleep(0.2)
    assert service.healthcheck(f"--env=PORT={free_port()}") == 1


def test_the_health_check_needs_little_time_and_memory(image: str, container: Start) -> None:
    port = container(image).url.rpartition(":")[2]
    little = ["--cpus=0.1", "--memory=24m", "--memory-swap=24m"]
    variables = [f"--env=PORT={port}", "--env=GEOIP_BIND=127.0.0.1"]
    docker("run", "--rm", "--network=host", *HARDENED, *little, *variables, f"geoip:{image}", "healthcheck")


@pytest.mark.parametrize("segments", ["one segment", "several"])
def test_a_trailer_field_is_not_a_header(
    segments: str, image: str, container: Start, upstream: Callable[..., Upstream]
) -> None:
    service = container(image, GEOIP_IPWHOIS_URL=upstream().url, GEOIP_TRUSTED_PROXIES="127.0.0.1")
    request = (
        b"GET / HTTP/1.1\r\nHost: geoip\r\nX-Forwarded-For: 1.1.1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\n",
        b"X-Forwarded-For: 8.8.8.8\r\nAccept: text/html\r\nHost: other\r\n\r\n",
    )
    with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=10) as client:
        for part in [b"".join(request)] if segments == "one segment" else request:
            client.sendall(part)
            time.sleep(0.05)
        received = client.recv(65536)
        while b"}" not in received:
            received += client.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["ip"] == "1.1.1.1"


def test_without_any_network_it_is_well_and_answers(image: str) -> None:
    name = f"geoip-test-{uuid.uuid4().hex}"
    try:
        docker("run", "--detach", "--name", name, "--network=none", *HARDENED, f"geoip:{image}")
        check = ["docker", "exec", name, *config(f"geoip:{image}")["Entrypoint"], "healthcheck"]
        deadline = time.monotonic() + 40
        while subprocess.run(check, capture_output=True, timeout=20).returncode:
            assert time.monotonic() < deadline, docker("logs", name)
        # With its default sources: the first cannot be reached, the sample in the image answers.
        ask = "wget -q -O - 'http://127.0.0.1:8080/?ip=8.8.8.8'"
        answer = json.loads(docker("run", "--rm", f"--network=container:{name}", "python:3.13-alpine", "sh", "-c", ask))
        assert (answer["isp"], answer["source"]) == ("Google LLC", "mmdb")
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=30)


def test_listens_on_ipv6(image: str, container: Start) -> None:
    service = container(image, GEOIP_BIND="::")
    assert httpx.get(service.url.replace("127.0.0.1", "[::1]") + "/healthz", trust_env=False).status_code == 204


def test_a_request_under_way_is_answered_before_the_end(
    image: str, container: Start, upstream: Callable[..., Upstream]
) -> None:
    slow = upstream(answering(ipwhois_answer("8.8.8.8"), after=1))
    service = container(image, GEOIP_IPWHOIS_URL=slow.url)
    with ThreadPoolExecutor() as executor:
        answer = executor.submit(service.get, "/?ip=8.8.8.8")
        slow.wait()
        assert service.terminate() == 0
        assert answer.result().status_code == 200


def test_ends_at_once_when_idle(image: str, container: Start) -> None:
    service = container(image, GEOIP_TIMEOUT=60)  # for so long it would wait for a request under way
    assert service.get("/healthz").status_code == 204
    assert service.terminate() == 0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    """The authority's certificate, as a file that a container's user can read."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    path.chmod(0o644)
    return path


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """TLS on loopback that the authority vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def secure(tls: ssl.SSLContext, upstream: Callable[..., Upstream]) -> Callable[[Behaviour], Upstream]:
    """Start an upstream on HTTPS that the authority vouches for."""
    return lambda behaviour: upstream(behaviour, tls=tls)


def test_trusts_the_authorities_that_it_is_given_and_no_others(
    image: str,
    container: Start,
    secure: Callable[[Behaviour], Upstream],
    bundle: Path,
) -> None:
    url = secure(ipwhois).url
    given = container(
        image, f"--volume={bundle}:/authority.pem:ro", SSL_CERT_FILE="/authority.pem", GEOIP_IPWHOIS_URL=url
    )
    assert given.get("/?ip=8.8.8.8").json()["source"] == "ipwhois"
    refused = container(image, GEOIP_IPWHOIS_URL=url).get("/?ip=8.8.8.8")
    assert (refused.status_code, refused.json()["code"]) == (502, "upstream-failed")


def test_the_certificates_of_the_image_are_read(image: str, container: Start) -> None:
    # The refusal above proves nothing by itself: an empty bundle refuses, too.
    bundle = docker("image", "inspect", "--format", '{{join .Config.Env "\\n"}}', f"geoip:{image}")
    assert "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" in bundle.splitlines()
    name = docker("create", f"geoip:{image}")
    try:
        archive = subprocess.run(
            ["docker", "cp", f"{name}:/etc/ssl/certs/ca-certificates.crt", "-"],
            capture_output=True,
            timeout=30,
            check=True,
        ).stdout
    finally:
        docker("rm", name)
    assert archive.count(b"BEGIN CERTIFICATE") > 100


def test_an_international_host_name_is_looked_up(
    image: str, container: Start, upstream: Callable[..., Upstream]
) -> None:
    url = upstream().url.replace("127.0.0.1", "bücher.example")
    service = container(image, "--add-host=xn--bcher-kva.example:127.0.0.1", GEOIP_IPWHOIS_URL=url)
    assert service.get("/?ip=8.8.8.8").status_code == 200


def test_endless_headers_do_not_use_up_its_memory(image: str, container: Start) -> None:
    service = container(image)
    port = int(service.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, pytest.raises(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(3000):  # of 10 kB
            client.sendall(b"a: b\r\n" * 1700)
    assert service.get("/healthz").status_code == 204


class SharedCache:
    """As much of Valkey as the service needs, in RESP 2 (https://valkey.io/topics/protocol/)."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.entries: dict[bytes, bytes] = {}
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'rediss' if tls else 'redis'}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # the service gives up after 50 ms, on a busy machine in the middle of a handshake
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as commands:
                while header := commands.readline():
                    words = [commands.read(int(commands.readline()[1:]) + 2)[:-2] for _ in range(int(header[1:]))]
                    connection.sendall(self._reply(words))

    def _reply(self, words: list[bytes]) -> bytes:
        match words:
            case [b"SET", key, value, *_]:
                self.entries[key] = value
            case [b"GET", key]:
                stored = self.entries.get(key)
                return b"$-1\r\n" if stored is None else b"$%d\r\n%b\r\n" % (len(stored), stored)
            case [b"PTTL", key]:
                return b":86410000\r\n" if key in self.entries else b":-2\r\n"
        return b"+OK\r\n"


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_replicas_share_a_cache(
    image: str,
    scheme: str,
    container: Start,
    upstream: Callable[..., Upstream],
    tls: ssl.SSLContext,
    bundle: Path,
) -> None:
    shared = SharedCache(tls if scheme == "rediss" else None)
    try:
        asked = upstream()
        settings = {"GEOIP_CACHE_URL": shared.url, "GEOIP_IPWHOIS_URL": asked.url, "SSL_CERT_FILE": "/authority.pem"}
        first, second = (container(image, f"--volume={bundle}:/authority.pem:ro", **settings) for _ in range(2))
        # On a busy machine the cache may miss its 50 ms: then the next address is tried.
        for number in range(1, 20):
            answer = first.get(f"/?ip=8.8.8.{number}")
            before = len(asked.requests)
            if second.get(f"/?ip=8.8.8.{number}").content == answer.content and len(asked.requests) == before:
                break
        else:
            pytest.fail(f"the second replica asked again each time; the cache holds {shared.entries}")
    finally:
        shared.close()


def test_imports_nothing_that_is_not_compiled(
    python_image: str, container: Start, upstream: Callable[..., Upstream]
) -> None:
    service = container(python_image, PYTHONVERBOSE="1", GEOIP_IPWHOIS_URL=upstream().url)
    for target in ("/", "/?ip=8.8.8.8", "/docs", "/openapi.json", "/nowhere"):
        service.get(target)
        service.get(target, Accept="text/html")
    assert re.search(r"code object from '.*app/__pycache__/api[.].*pyc'", service.log)
    assert re.findall(r"code object from '?.*[.]py'?$", service.log, re.MULTILINE) == []


def test_works_as_any_other_user(image: str, container: Start) -> None:
    # As OpenShift runs it: a user that no file knows, in the group root.
    assert container(image, "--user=1000680000:0").get("/healthz").status_code == 204


def test_an_empty_variable_for_the_certificates_counts_as_unset(
    image: str, container: Start, secure: Callable[[Behaviour], Upstream]
) -> None:
    # The image's own certificates refuse it: without any certificates the error would be another one.
    service = container(image, SSL_CERT_FILE="", GEOIP_IPWHOIS_URL=secure(ipwhois).url)
    assert service.get("/?ip=8.8.8.8").json()["code"] == "upstream-failed"
    assert "CERTIFICATE_VERIFY_FAILED" in service.log
