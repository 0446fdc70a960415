"""Fixtures of the tests that run the service inside their own process, behind real sockets."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import pytest
import uvicorn

from app.api import create_app
from app.protocol import Protocol
from app.server import listen
from app.settings import load_settings
from app.sources import SOURCES
from app.sources.source import Source
from tests.conftest import free_port

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass
class Server:
    """The application, served from a thread of the test's own process."""

    port: int
    client: httpx.Client

    def get(self, target: str = "/", headers: Headers = ()) -> httpx.Response:
        return self.client.get(target, headers=headers if isinstance(headers, Mapping) else list(headers))


@contextmanager
def serving(
    sources: Sequence[type[Source]] = SOURCES,
    *,
    protocol: type[Protocol] = Protocol,
    **variables: object,
) -> Iterator[Server]:
    """Serve with these environment variables; .env is not read. The settings' default source is ipwhois alone."""
    port = free_port()
    defaults = {"GEOIP_BIND": "127.0.0.1", "PORT": port, "GEOIP_SOURCES": "ipwhois"}
    settings = load_settings(sources, {name: str(value) for name, value in (defaults | variables).items()})
    app = create_app(settings, sources)
    config = uvicorn.Config(
        app,
        http=protocol,
        loop="asyncio",
        ws="none",
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    with listen(settings) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.002)
        # verify=False, since reading the CA bundle takes longer than most tests.
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False, timeout=15, headers={"Accept": "*/*"}
        ) as client:
            yield Server(port, client)
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive(), "the service does not end"


@pytest.fixture
def running() -> Iterator[Callable[..., Server]]:
    """Serve with these environment variables until the test is over; see `serving`."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(serving(*arguments, **options))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("GEOIP_", "SSL_")) or name.lower().endswith("_proxy") or name == "PORT":
                patch.delenv(name)
        yield


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
