"""A running container: how soon it answers, what it holds in memory, and what can be run in it."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

import docker
from docker.errors import DockerException
from docker.models.containers import Container
from docker.models.images import Image

from engine import LABEL, remove_container, uninterrupted

PORT = "8080/tcp"
# The sample of places that ships with the app: answers that need no network.
SETTINGS = {"GEOIP_SOURCES": "mmdb"}
ADDRESS = "8.8.8.8"
REQUESTS = 1000
CONNECTIONS = 20
START_LIMIT = 60.0  # seconds
REQUEST_LIMIT = 10.0

SHELLS = {name: [name, "-c", ":"] for name in ("sh", "bash", "ash", "dash", "zsh")} | {"busybox": ["busybox", "true"]}
PACKAGE_MANAGERS = {name: [name, "--version"] for name in ("apk", "apt", "apt-get", "dpkg", "rpm", "pip", "uv")}
NOT_FOUND = (126, 127)  # the exit statuses of what could not be run


class RunError(Exception):
    """Why an image does not run, in one line."""


class Sample(NamedTuple):
    start: float
    """Seconds from the start of the process to the first answer."""
    memory: int
    """Bytes that the container's processes hold after the requests, without files that the kernel can drop."""


@contextmanager
def container(engine: docker.DockerClient, image: Image, run: str) -> Iterator[Container]:
    """A container of the image on loopback, without rights, removed afterwards."""
    with uninterrupted():
        created = engine.containers.create(
            image,
            environment=SETTINGS,
            labels={LABEL: run},
            ports={PORT: ("127.0.0.1", 0)},
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=64,
            mem_limit="256m",
            # Its processes would be measured as well.
            healthcheck={"test": ["NONE"]},
        )
    try:
        created.start()
        yield created
    finally:
        with uninterrupted():
            remove_container(created)


def measure(running: Container) -> Sample:
    """Wait for the first answer, ask a thousand times more, look at the memory. RunError if it does not answer."""
    start = _first_answer(running)
    port = _port(running)
    try:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in pool.map(_ask_often, [port] * CONNECTIONS):
                pass
    except (OSError, HTTPException) as error:
        raise RunError(f"it stopped answering: {error or type(error).__name__}") from None
    return Sample(start, _memory(running))


def found(running: Container, programs: dict[str, list[str]]) -> list[str]:
    """The programs that can be run in the container, by trying each."""
    return [name for name, command in programs.items() if running.exec_run(command).exit_code not in NOT_FOUND]


def _first_answer(running: Container) -> float:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        running.reload()
        if running.status != "running":
            break
        connection = HTTPConnection("127.0.0.1", _port(running), timeout=REQUEST_LIMIT)
        for _ in range(50):
            try:
                _ask(connection)
            except (OSError, HTTPException):
                connection.close()
                time.sleep(0.005)
            else:
                answered = datetime.now(UTC)
                connection.close()
                return (answered - datetime.fromisoformat(running.attrs["State"]["StartedAt"])).total_seconds()
    log = running.logs(tail=1).decode(errors="replace").strip()
    raise RunError(log or f"no answer within {START_LIMIT:.0f} s")


def _ask_often(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=REQUEST_LIMIT)
    with closing(connection):
        for _ in range(REQUESTS // CONNECTIONS):
            _ask(connection)


def _ask(connection: HTTPConnection) -> None:
    connection.request("GET", f"/?ip={ADDRESS}")
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200 or json.loads(body)["ip"] != ADDRESS:
        raise HTTPException(f"status {answer.status}: {body[:200].decode(errors='replace')}")


def _port(running: Container) -> int:
    bindings = running.ports.get(PORT)
    if not bindings:
        raise RunError("its port is not published")
    return int(bindings[0]["HostPort"])


def _memory(running: Container) -> int:
    try:
        figures: Any = running.stats(stream=False, one_shot=True)
        memory = figures["memory_stats"]["stats"]
    except (DockerException, KeyError) as error:
        raise RunError(f"the engine gives no memory figures: {error}") from None
    # cgroup v2, or v1.
    return int(memory["anon"] if "anon" in memory else memory["total_rss"])
