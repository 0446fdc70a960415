"""Fixtures of all tests: the service as a process, and its upstream."""

import itertools
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.upstream import Behaviour, Upstream, ipwhois

ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    """Let tests interrupt what they start, even in a background job of a script, which ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Service:
    """`python -m app`, listening."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def get(self, target: str = "/", **headers: str) -> httpx.Response:
        return httpx.get(self.url + target, headers=headers, timeout=15, trust_env=False, verify=False)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def lines(self) -> list[str]:
        """The lines of its log so far."""
        return self.log.read_text().splitlines()


# These ports are below those that the kernel hands out (32768 and up on Linux, 49152 elsewhere), so that no upstream
# gets one before the service listens on it, and above 10080, the last that Chromium refuses to open. Each of pytest's
# workers has 500 of its own, in a random order, since a second run may be under way.
_first = 10_500 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 44 * 500
_ports = itertools.cycle(random.sample(range(_first, _first + 500), 500))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody else will be given."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", next(_ports))) as listener:
            port: int = listener.getsockname()[1]
            return port


def environment(**settings: object) -> dict[str, str]:
    """The environment of a process that must not know of the developer's own settings."""
    own = ("GEOIP_", "SSL_")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(own) and "_proxy" not in name.lower()
    }
    return kept | {"PYTHONUNBUFFERED": "1"} | {name: str(value) for name, value in settings.items()}


def end(process: subprocess.Popen[str]) -> None:
    """End a process as an orchestrator does: by SIGTERM, and by SIGKILL if it does not end."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)


@pytest.fixture(scope="session", autouse=True)
def _plenty_of_files() -> None:
    """Let this process hold the other ends of many connections: macOS gives it 256 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4000 if hard == resource.RLIM_INFINITY else min(4000, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start the service with these variables; it is stopped after the test.

    `through` is the command that starts it, such as `env`; `code` is run in place of `python -m app`.
    """
    with ExitStack() as stack:

        def start(*, through: Sequence[str] = (), code: str = "", **settings: object) -> Service:
            port = free_port()
            log = tmp_path / f"{port}.log"
            with log.open("w") as output:
                process = subprocess.Popen(
                    [*through, sys.executable, *(["-c", code] if code else ["-m", "app"])],
                    env=environment(
                        **{"GEOIP_BIND": "127.0.0.1", "GEOIP_SOURCES": "ipwhois", "PYTHONPATH": ROOT, "PORT": port}
                        | settings
                    ),
                    cwd=tmp_path,
                    text=True,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            stack.callback(end, process)
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                except OSError:
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.05)
                else:
                    break
            return Service(f"http://127.0.0.1:{port}", process, log)

        yield start


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """Start an upstream with this behaviour, by default that of ipwho.is."""
    with ExitStack() as stack:

        def start(behaviour: Behaviour = ipwhois, **options: object) -> Upstream:
            return stack.enter_context(Upstream(behaviour, **options))  # type: ignore[arg-type]

        yield start
