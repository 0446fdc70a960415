"""Three replicas of the image behind nginx (and one behind HAProxy), with one store.

They have a network of their own. Its loopback has public addresses, so that clients have some.
"""

import asyncio
import itertools
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest
import redis
import yaml

from app.address import is_global
from tests.conftest import free_port
from tests.deploy.conftest import DEPLOY, NO_IPV6, UID, Network, docker, wait_for
from tests.upstream import Behaviour, Upstream, answering, ipwhois, ipwhois_answer, silent

PORTS = (8081, 8082, 8083)
NGINX, HAPROXY, HAPROXY_WITH_PORT = 8080, 8070, 8071
CLIENTS = [f"9.9.8.{number}" for number in range(1, 51)]
CLIENT_6 = "2620:fe::9"
MANIFEST = yaml.safe_load((DEPLOY / "kubernetes/deployment.yaml").read_text())["spec"]["template"]["spec"]

# HAProxy replaces the header by the client's address. At its second port it adds the client's port.
HAPROXY_CFG = f"""
defaults
    mode http
    timeout connect 1s
    timeout client 15s
    timeout server 15s
frontend plain
    bind 127.0.0.1:{HAPROXY}
    bind [::1]:{HAPROXY}
    http-request set-header X-Forwarded-For %[src]
    default_backend geoip
frontend with-port
    bind 127.0.0.1:{HAPROXY_WITH_PORT}
    bind [::1]:{HAPROXY_WITH_PORT}
    http-request set-header X-Forwarded-For %[src]:%[src_port] if {{ src 0.0.0.0/0 }}
    http-request set-header X-Forwarded-For [%[src]]:%[src_port] unless {{ src 0.0.0.0/0 }}
    default_backend geoip
backend geoip
    server geoip 127.0.0.1:{PORTS[0]}
"""

Answers = list[tuple[str, httpx.Response]]


@dataclass
class Fleet:
    """The replicas, the proxies in front of them, the store behind them, and their upstream."""

    image: str
    holder: str
    network: Network
    directory: Path
    upstream: Upstream
    store: subprocess.Popen[bytes] | None = None
    replicas: dict[int, str] = field(default_factory=dict)

    def start_store(self) -> None:
        command = shutil.which("valkey-server") or "redis-server"
        arguments = ["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.store = self.popen([command, *arguments])
        self.network.inside(lambda: wait_for(store_answers))

    def kill_store(self) -> None:
        assert self.store
        self.store.kill()
        self.store.wait(10)

    def popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a server in the network, as an unprivileged user."""
        with (self.directory / "servers.log").open("ab") as log:
            return self.network.inside(
                lambda: subprocess.Popen(
                    command, cwd=self.directory, user=UID, group=UID, extra_groups=[], stdout=log, stderr=log
                )
            )

    def start_replica(self, port: int, **settings: object) -> str:
        """Start a replica as the manifests do, and wait until it is ready."""
        name = f"{self.holder}-{port}-{uuid.uuid4().hex[:8]}"
        settings = {
            "PORT": port,
            "GEOIP_SOURCES": "ipwhois",
            "GEOIP_IPWHOIS_URL": self.upstream.url,
            "GEOIP_CACHE_URL": "redis://127.0.0.1:6379/0",
            "GEOIP_TRUSTED_PROXIES": "127.0.0.1,::1",
            "GEOIP_LOG_FORMAT": "json",
        } | settings
        docker(
            *["run", "--detach", "--name", name, "--network", f"container:{self.holder}"],
            *["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--no-healthcheck"],
            *itertools.chain.from_iterable(("--env", f"{name}={value}") for name, value in settings.items()),
            self.image,
        )
        self.replicas[port] = name
        self.network.inside(lambda: wait_for(lambda: is_well(port)))
        return name

    def remove_replica(self, port: int) -> None:
        name = self.replicas.pop(port)
        docker("stop", "--time", "10", name)
        docker("rm", name)

    def get(
        self, client: str, target: str, port: int = 8080, headers: Sequence[tuple[str, str]] = ()
    ) -> httpx.Response:
        """Send one request from a client's address."""
        host = "[::1]" if ":" in client else "127.0.0.1"

        def ask() -> httpx.Response:
            transport = httpx.HTTPTransport(local_address=client, verify=False)
            with httpx.Client(transport=transport, timeout=15) as session:
                return session.get(f"http://{host}:{port}{target}", headers=list(headers))

        return self.network.inside(ask)

    def send(self, client: str, port: int, *parts: bytes) -> list[dict[str, object]]:
        """Send bytes from a client's address, in as many segments as there are parts.

        Return the JSON of every answer. The last request has to close the connection.
        """
        server = ("::1" if ":" in client else "127.0.0.1", port)

        def exchange() -> bytes:
            with socket.create_connection(server, timeout=15, source_address=(client, 0)) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for part in parts:
                    connection.sendall(part)
                    time.sleep(0.05)
                with connection.makefile("rb") as answers:
                    return answers.read()

        answers = []
        received = self.network.inside(exchange)
        while received:
            head, _, received = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            [length] = re.findall(rb"^content-length: (\d+)\r?$", head, re.MULTILINE | re.IGNORECASE)
            answers.append(json.loads(received[: int(length)]))
            received = received[int(length) :]
        return answers

    def load(self, targets: Iterable[str]) -> Answers:
        """Let 50 clients, each with its own address, ask for these together. Return the answers."""
        left = iter(targets)

        async def ask_on(client: str) -> Answers:
            transport = httpx.AsyncHTTPTransport(local_address=client, verify=False)
            async with httpx.AsyncClient(transport=transport, timeout=15) as session:
                return [(target, await session.get(f"http://127.0.0.1:8080{target}")) for target in left]

        async def ask() -> list[Answers]:
            return await asyncio.gather(*map(ask_on, CLIENTS))

        return list(itertools.chain.from_iterable(self.network.inside(lambda: asyncio.run(ask()))))

    def load_while(self, work: Callable[[], None]) -> Answers:
        """Return the answers to 50 clients while `work` runs, and for a second before and after it."""
        addresses = global_addresses(1000)
        done = False

        def targets() -> Iterator[str]:
            while not done:
                yield f"/?ip={next(addresses)}"

        with ThreadPoolExecutor(1) as thread:
            answers = thread.submit(self.load, targets())
            try:
                time.sleep(1)
                work()
                time.sleep(1)
            finally:
                done = True
            return answers.result()


def is_well(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5, trust_env=False).status_code == 204
    except httpx.HTTPError:
        return False


def store_answers() -> bool:
    try:
        with redis.Redis(socket_timeout=1) as store:
            return bool(store.ping())
    except redis.RedisError:
        return False


def global_addresses(number: int) -> Iterator[str]:
    """Repeat this many random addresses for ever."""
    drawn = (IPv4Address(random.getrandbits(32)) for _ in itertools.count())
    return itertools.cycle([str(ip) for ip in itertools.islice((ip for ip in drawn if is_global(ip)), number)])


def asked(upstream: Upstream) -> list[str]:
    """Return the addresses that the upstream was asked about. An empty one means the asking service's own."""
    return [request.target.strip("/") for request in upstream.requests]


def assert_all_answered(answers: Answers) -> None:
    wrong = [
        (target, response.status_code, response.text) for target, response in answers if response.status_code != 200
    ]
    assert not wrong, (len(wrong), wrong[:5])
    assert all(response.json()["ip"] == target.removeprefix("/?ip=") for target, response in answers)


@pytest.fixture(scope="module")
def fleet(image: str) -> Iterator[Fleet]:
    if os.geteuid():
        pytest.fail("these tests make a network of their own, which needs root: sudo make test-deploy")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)
        os.chown(directory, UID, UID)
        # This container only holds the network that the others share.
        holder = f"geoip-test-{uuid.uuid4().hex[:8]}"
        docker("run", "--detach", "--network=none", "--name", holder, "--env=PORT=9", "--no-healthcheck", image)
        stack.callback(docker, "rm", "--force", holder)
        network = Network(holder)
        addresses = f"route add local 9.9.8.0/24 dev lo\naddress add {CLIENT_6}/128 dev lo\n"
        network.inside(lambda: subprocess.run(["ip", "-batch", "-"], input=addresses, text=True, check=True))
        upstream = network.inside(lambda: stack.enter_context(Upstream(ipwhois)))
        fleet = Fleet(image, holder, network, directory, upstream)
        fleet.start_store()
        stack.callback(fleet.kill_store)
        stack.callback(lambda: [docker("rm", "--force", name) for name in fleet.replicas.values()])
        for port in PORTS:
            fleet.start_replica(port)

        conf = (DEPLOY / "nginx.conf").read_text()
        conf, number = re.subn(
            r"server geoip:8080 resolve (.*);", "".join(rf"server 127.0.0.1:{port} \1;" for port in PORTS), conf
        )
        assert number == 1
        (directory / "nginx.conf").write_text(conf.replace("/tmp/", f"{directory}/"))
        nginx = fleet.popen(["nginx", "-e", "stderr", "-c", str(directory / "nginx.conf")])
        stack.callback(nginx.wait, 10)
        stack.callback(nginx.terminate)  # SIGKILL would leave its worker behind
        (directory / "haproxy.cfg").write_text(HAPROXY_CFG)
        haproxy = fleet.popen(["haproxy", "-db", "-f", str(directory / "haproxy.cfg")])
        stack.callback(haproxy.wait, 10)
        stack.callback(haproxy.terminate)
        for port in (NGINX, HAPROXY, HAPROXY_WITH_PORT):
            network.inside(lambda port=port: wait_for(lambda: is_well(port)))  # type: ignore[misc]
        fleet.load(
            f"/?ip={address}" for address in itertools.islice(global_addresses(50), 150)
        )  # the first lookups import modules
        yield fleet


def test_an_address_is_asked_once_for_the_fleet(fleet: Fleet) -> None:
    addresses = list(itertools.islice(global_addresses(200), 200))
    # Ten rounds, each in its own order. Two replicas seldom get the same new address at the same moment. Then both ask.
    targets = [f"/?ip={address}" for _ in range(10) for address in random.sample(addresses, 200)]
    before = len(fleet.upstream.requests)
    answers = fleet.load(targets)
    assert len(answers) == 2000
    assert_all_answered(answers)
    requests = asked(fleet.upstream)[before:]
    assert {f"/?ip={address}" for address in requests} == set(targets)
    assert 200 <= len(requests) <= 220


def request(*fields: str, body: bytes = b"") -> bytes:
    """A request about the caller."""
    return "\r\n".join(["GET / HTTP/1.1", "Host: geoip.example", *fields, "", ""]).encode() + body


def with_trailer(*fields: str, trailer: Sequence[str], last: bool = True) -> bytes:
    """A request with a chunked body and fields after it."""
    chunks = "\r\n".join(["3", "abc", "0", *trailer, "", ""]).encode()
    return request(*fields, "Transfer-Encoding: chunked", *["Connection: close"] * last, body=chunks)


FORGED = {
    "nothing": [request("Connection: close")],
    "one header": [request("X-Forwarded-For: 1.1.1.1", "Connection: close")],
    "a header of IPv6": [request("X-Forwarded-For: 2606:4700:4700::1111", "Connection: close")],
    "a proxy's address": [request("X-Forwarded-For: 1.1.1.1, 127.0.0.1", "Connection: close")],
    "two headers": [request("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 8.8.8.8, ::1", "Connection: close")],
    "an empty element": [request("X-Forwarded-For: 1.1.1.1,", "Connection: close")],
    "no address": [request("X-Forwarded-For: unknown", "Connection: close")],
    "IPv4 with a port": [request("X-Forwarded-For: 1.1.1.1:443", "Connection: close")],
    "IPv6 with a port": [request("X-Forwarded-For: [2606:4700:4700::1111]:443", "Connection: close")],
    "Forwarded": [request("Forwarded: for=1.1.1.1, for=127.0.0.1", "Connection: close")],
    "Forwarded, IPv6 with a port": [request('Forwarded: for="[2606:4700:4700::1111]:443"', "Connection: close")],
    "a trailer": [with_trailer(trailer=["X-Forwarded-For: 1.1.1.1"])],
    "a trailer that is announced": [with_trailer("Trailer: X-Forwarded-For", trailer=["X-Forwarded-For: 1.1.1.1"])],
    "a trailer of two": [with_trailer(trailer=["X-Forwarded-For: 1.1.1.1", "x-forwarded-for: 8.8.8.8"])],
    "a trailer beside a header": [with_trailer("X-Forwarded-For: 8.8.8.8", trailer=["X-Forwarded-For: 1.1.1.1"])],
    "a trailer in segments": [
        with_trailer(trailer=["X-Forwarded-For: 1.1.1.1"])[start:end]
        for start, end in [(0, -40), (-40, -30), (-30, -12), (-12, None)]
    ],
    "a trailer of the first of two": [
        with_trailer(trailer=["X-Forwarded-For: 1.1.1.1"], last=False) + request("Connection: close")
    ],
    "other fields in a trailer": [
        with_trailer("Accept: application/json", trailer=["Accept: text/html", "Host: other.example"])
    ],
}


@pytest.mark.parametrize("client", ["9.9.8.77", CLIENT_6])
@pytest.mark.parametrize("proxy", [NGINX, HAPROXY], ids=["nginx", "haproxy"])
@pytest.mark.parametrize("parts", FORGED.values(), ids=FORGED)
def test_the_client_is_the_one_that_the_proxy_sees(parts: list[bytes], proxy: int, client: str, fleet: Fleet) -> None:
    before = len(fleet.upstream.requests)
    answers = fleet.send(client, proxy, *parts)
    assert {answer["ip"] for answer in answers} == {client}
    assert len(answers) == b"".join(parts).count(b"GET / ")
    assert set(asked(fleet.upstream)[before:]) <= {client}


@pytest.mark.parametrize("client", ["9.9.8.77", CLIENT_6])
def test_a_proxy_may_add_the_clients_port(client: str, fleet: Fleet) -> None:
    assert fleet.send(client, HAPROXY_WITH_PORT, request("Connection: close"))[0]["ip"] == client


def test_a_client_that_is_not_a_proxy_speaks_for_nobody(fleet: Fleet) -> None:
    response = fleet.get("9.9.8.78", "/", port=PORTS[0], headers=[("X-Forwarded-For", "1.1.1.1")])
    assert response.json()["ip"] == "9.9.8.78"


def test_nginx_tells_no_version(fleet: Fleet) -> None:
    assert fleet.get("9.9.8.1", "/healthz").headers["Server"] == "nginx"
    refused = fleet.get("9.9.8.1", f"/{'x' * 40_000}")
    assert refused.status_code == 414
    assert not re.search(r"\d\.\d+\.\d", refused.text + str(refused.headers))


def test_a_store_that_is_killed_and_restarted_fails_no_request(fleet: Fleet) -> None:
    def kill_and_restart() -> None:
        fleet.kill_store()
        time.sleep(1)
        fleet.start_store()

    assert_all_answered(fleet.load_while(kill_and_restart))
    # The replicas share answers again. On a busy machine the store may miss its 50 ms: then the next address is tried.
    addresses = global_addresses(20)
    wait_for(lambda: is_asked_once(fleet, next(addresses)), 10)


def is_asked_once(fleet: Fleet, address: str) -> bool:
    for port in PORTS:
        assert fleet.get("9.9.8.1", f"/?ip={address}", port=port).status_code == 200
    return asked(fleet.upstream).count(address) == 1


def test_a_replica_that_is_replaced_fails_no_request(fleet: Fleet) -> None:
    def replace() -> None:
        fleet.remove_replica(PORTS[1])
        fleet.start_replica(PORTS[1])

    assert_all_answered(fleet.load_while(replace))
    assert is_used(fleet, PORTS[1])


def is_used(fleet: Fleet, port: int) -> bool:
    """Return whether nginx asks a replica, as its log shows."""
    before = logged(fleet.replicas[port])
    for _ in PORTS:
        fleet.get("9.9.8.1", "/?ip=9.9.9.9")
    return logged(fleet.replicas[port]) > before


def logged(container: str) -> int:
    return len([line for line in log(container) if line.get("path") == "/"])


def log(container: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in docker("logs", container, both=True).splitlines()]


@pytest.mark.parametrize(
    ("behaviour", "status"), [(answering(ipwhois_answer("8.8.4.4"), after=1.5), 200), (silent, 504)]
)
def test_it_leaves_within_the_grace_of_the_manifests(behaviour: Behaviour, status: int, fleet: Fleet) -> None:
    grace = MANIFEST["terminationGracePeriodSeconds"]
    grace -= MANIFEST["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    with ExitStack() as stack:
        slow = fleet.network.inside(lambda: stack.enter_context(Upstream(behaviour)))
        name = fleet.start_replica(8090, GEOIP_IPWHOIS_URL=slow.url, GEOIP_CACHE_URL="")
        stack.callback(fleet.remove_replica, 8090)
        with ThreadPoolExecutor(1) as thread:
            under_way = thread.submit(fleet.get, "9.9.8.1", "/?ip=8.8.4.4", 8090)
            wait_for(lambda: slow.requests)
            started = time.monotonic()
            docker("stop", "--time", str(grace), name)
            took = time.monotonic() - started
            assert under_way.result().status_code == status
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
        assert took < grace


def test_memory_and_start_are_what_the_manifests_plan_for(fleet: Fleet) -> None:
    container = MANIFEST["containers"][0]
    usage = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *fleet.replicas.values())
    memory = [float(amount) for amount in re.findall(r"^([\d.]+)MiB", usage, re.MULTILINE)]
    assert len(memory) == len(fleet.replicas)
    start = max(seconds_to_start(name) for name in fleet.replicas.values())
    # The figures of deploy/kubernetes/deployment.yaml: pytest -s shows them.
    print(f"memory after the load: {', '.join(f'{amount:.0f} MiB' for amount in memory)}; start: {start:.1f} s")  # noqa: T201
    assert max(memory) <= mebibytes(container["resources"]["requests"]["memory"])
    probe = container["startupProbe"]
    assert start < probe["periodSeconds"] * probe["failureThreshold"]


def seconds_to_start(container: str) -> float:
    """Return the seconds from a container's start to its first line of log, which it writes before it listens."""
    started = datetime.fromisoformat(docker("inspect", "--format", "{{.State.StartedAt}}", container)[:26] + "Z")
    return (datetime.fromisoformat(str(log(container)[0]["time"])) - started).total_seconds()


def mebibytes(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([MG])i", quantity).groups()  # type: ignore[union-attr]
    return float(number) * (1024 if unit == "G" else 1)


def test_a_pod_starts_on_a_node_without_ipv6(image: str, tmp_path: Path) -> None:
    variables = {variable["name"]: variable.get("value") for variable in MANIFEST["containers"][0]["env"]}
    (tmp_path / "no-ipv6.json").write_text(json.dumps(NO_IPV6))
    name, port = f"geoip-test-{uuid.uuid4().hex[:8]}", free_port()
    docker(
        *["run", "--detach", "--name", name, "--publish", f"127.0.0.1:{port}:8080", "--no-healthcheck"],
        *["--security-opt", f"seccomp={tmp_path / 'no-ipv6.json'}"],
        *["--env", f"GEOIP_BIND={variables['GEOIP_BIND']}", image],
    )
    try:
        wait_for(lambda: is_well(port), 10)
    finally:
        docker("rm", "--force", name)
