"""Fixtures of the tests that run the service as its users do: Docker Compose, and servers of Debian's packages."""

import ctypes
import errno
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.conftest import ROOT, free_port
from tests.upstream import Request, Upstream, http_answer, ipwhois

DEPLOY = ROOT / "deploy"
UID = 65532
NO_IPV6 = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": errno.EAFNOSUPPORT,
            "args": [{"index": 0, "value": socket.AF_INET6, "op": "SCMP_CMP_EQ"}],
        }
    ],
}
"""A seccomp profile of a kernel without IPv6."""
Result = TypeVar("Result")


def ipify_or_ipwhois(connection: socket.socket, request: Request) -> None:
    """Answer about 1.1.1.1 as geo.ipify.org does, if its path is asked for; else answer as ipwho.is does."""
    if not request.target.startswith("/api/v2/"):
        return ipwhois(connection, request)
    location = {"country": "AU", "region": "Queensland", "city": "South Brisbane", "lat": -27.4748, "lng": 153.017}
    return connection.sendall(http_answer({"ip": "1.1.1.1", "location": location, "isp": "Cloudflare, Inc."}))


def docker(*arguments: str, timeout: float = 120, both: bool = False) -> str:
    """Return what a docker command prints (to stderr too, if `both`). AssertionError, with its output, if it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return (done.stdout + done.stderr * both).strip()


def image_is_here(name: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True, timeout=60).returncode == 0


@pytest.fixture(scope="session")
def image() -> str:
    """The image that is deployed."""
    name = os.environ.get("IMAGE", "geoip:scratch")
    if not image_is_here(name):
        pytest.fail(f"there is no image {name}: make image-scratch")
    return name


@pytest.fixture(scope="session")
def images(image: str) -> dict[str, str]:
    """The variables of compose.yaml that name images. Stand-ins replace those that cannot be pulled."""
    names = {"IMAGE": image}
    compose = (DEPLOY / "compose.yaml").read_text()
    for server in ("nginx", "valkey"):
        [name] = re.findall(rf"^ +image: \${{{server.upper()}_IMAGE:-(\S+)}}$", compose, re.MULTILINE)
        if not image_is_here(name):
            pulled = subprocess.run(["docker", "pull", "--quiet", name], capture_output=True, timeout=180)
            if pulled.returncode:
                name = f"geoip-stand-in:{server}"
                recipe = str(ROOT / "tests/deploy/stand-ins.Dockerfile")
                docker("build", "--target", server, "--tag", name, "--file", recipe, str(DEPLOY), timeout=300)
        names[f"{server.upper()}_IMAGE"] = name
    return names


@dataclass
class Compose:
    """A copy of deploy/, as a project of its own, with an upstream on this machine."""

    directory: Path
    environment: dict[str, str]
    url: str
    upstream: Upstream
    settings: dict[str, str]
    """The lines of .env."""

    def run(self, *arguments: str, **variables: str) -> str:
        """Return what a command of Docker Compose prints."""
        done = self.shell(f"docker compose {' '.join(arguments)}", **variables)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def shell(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the directory of compose.yaml, as a reader does."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )

    def containers(self, service: str) -> list[str]:
        return self.run("ps", "--quiet", service).split()

    @contextmanager
    def set(self, **settings: str) -> Iterator[None]:
        """Add these settings to the usual ones in .env."""
        self._write(self.settings | settings)
        yield
        self._write(self.settings)

    def _write(self, settings: dict[str, str]) -> None:
        (self.directory / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


@pytest.fixture(scope="module")
def compose(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """A project that is ready to be started. It is taken down after the tests of a module."""
    directory = tmp_path_factory.mktemp("compose") / "deploy"
    shutil.copytree(DEPLOY, directory, ignore=shutil.ignore_patterns(".env", "*.key"))
    host = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    with Upstream(ipify_or_ipwhois, host=host) as upstream:
        url = f"http://upstream:{upstream.url.rpartition(':')[2]}"
        (directory / "upstream.yaml").write_text(f'services: {{ geoip: {{ extra_hosts: ["upstream:{host}"] }} }}\n')
        port = free_port()
        environment = {
            name: value for name, value in os.environ.items() if not re.match("(?i)GEOIP_|.*_proxy$", name)
        } | images
        environment |= {
            "COMPOSE_FILE": "compose.yaml:upstream.yaml",
            "COMPOSE_PROJECT_NAME": f"geoip-test-{port}",
            "LISTEN": f"127.0.0.1:{port}",
            # A project of the developer's may be running with the default network.
            "SUBNET": "172.30.89.0/24",
            "SUBNET_REST": "172.30.89.128/25",
            "PROXY_ADDRESS": "172.30.89.10",
        }
        settings = {"GEOIP_IPWHOIS_URL": url, "GEOIP_IPIFY_URL": url}
        project = Compose(directory, environment, f"http://127.0.0.1:{port}", upstream, settings)
        try:
            with project.set():
                yield project
        finally:
            project.run("down", "--volumes", "--timeout", "5")


class Network:
    """A network namespace that has loopback alone, with public addresses on it."""

    def __init__(self, container: str) -> None:
        pid = docker("inspect", "--format", "{{.State.Pid}}", container)
        self._path = Path(f"/proc/{pid}/ns/net")

    def inside(self, work: Callable[[], Result]) -> Result:
        """Do something in that network: its sockets, threads and processes belong there."""
        with ThreadPoolExecutor(1, initializer=self._enter) as thread:
            return thread.submit(work).result()

    def _enter(self) -> None:
        with self._path.open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s"
        time.sleep(0.02)
