"""Fixtures of the images' tests: every image that is built, in a container under the flags that it is made for."""

import json
import socket
import subprocess
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, free_port

IMAGES: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "docker/images.toml").read_text())
"""The images in the order of the lesson, and what to expect of each."""

# The least that the service promises to run with: no writable path, few processes and little memory.
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=64", "--memory=96m")


def docker(*arguments: object, timeout: float = 60) -> str:
    """The output of a docker command."""
    command = ["docker", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout.strip()


@cache
def built() -> tuple[str, ...]:
    """The images that are built, in the order of the lesson."""
    tags = docker("image", "ls", "--format", "{{.Tag}}", "geoip").split()
    names = tuple(name for name in IMAGES if name in tags)
    if not names:
        raise pytest.UsageError("no image is built: make images")
    return names


@cache
def config(tag: str) -> dict[str, Any]:
    """The configuration of an image: its entry point, user, labels and so on."""
    found: dict[str, Any] = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", tag))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test every image, or every one that is frozen or is not."""
    kinds = {"image": (False, True), "frozen_image": (True,), "python_image": (False,)}
    for fixture in kinds.keys() & set(metafunc.fixturenames):
        names = [name for name in built() if IMAGES[name]["frozen"] in kinds[fixture]]
        metafunc.parametrize(fixture, names, scope="session")


@dataclass
class Container:
    """A container on the host's network, so that it and the tests share loopback."""

    name: str
    url: str

    def get(self, target: str = "/", **headers: str) -> httpx.Response:
        return httpx.get(self.url + target, headers=headers, timeout=15, trust_env=False)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(docker("container", "inspect", "--format", "{{json .State}}", self.name))
        return state

    @property
    def log(self) -> str:
        command = ["docker", "logs", self.name]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30).stdout

    def healthcheck(self, *options: str) -> int:
        """Run the image's own health check in the container, and return its exit status."""
        image = docker("container", "inspect", "--format", "{{.Config.Image}}", self.name)
        kind, *command = config(image)["Healthcheck"]["Test"]
        assert kind == "CMD"  # without a shell
        return subprocess.run(["docker", "exec", *options, self.name, *command], timeout=60).returncode

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit status, for which it waits 20 seconds at most."""
        docker("kill", "--signal=TERM", self.name)
        return int(docker("wait", self.name, timeout=20))


@pytest.fixture
def container() -> Iterator[Callable[..., Container]]:
    """Start `geoip:IMAGE` with these options and settings; it is removed after the test."""
    with ExitStack() as stack:

        def start(image: str, *options: str, limit: float = 20, **settings: object) -> Container:
            name = f"geoip-test-{uuid.uuid4().hex}"
            port = free_port()
            settings = {"GEOIP_BIND": "127.0.0.1", "GEOIP_SOURCES": "ipwhois", "PORT": port} | settings
            variables = [f"--env={name}={value}" for name, value in settings.items()]
            stack.callback(subprocess.run, ["docker", "rm", "--force", name], capture_output=True, timeout=30)
            docker(
                "run", "--detach", "--name", name, "--network=host", *HARDENED, *variables, *options, f"geoip:{image}"
            )
            container = Container(name, f"http://127.0.0.1:{port}")
            deadline = time.monotonic() + limit
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                except OSError:
                    assert container.state["Running"] and time.monotonic() < deadline, container.log
                    time.sleep(0.05)
                else:
                    return container

        yield start
