"""Fixtures of the tests that run the service inside their own process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest
import trustme

from app.api import Hits, create_app
from app.settings import Settings
from app.store import Store


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["with hits", "without hits"])
def client(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[..., httpx.AsyncClient]:
    """A client of an application with these settings, which it sees at the address `peer`.

    What answers hits before the route is asked changes nothing: every test runs with and without it.
    """
    monkeypatch.setattr("os.environ", {})

    def make(peer: str | None = "127.0.0.1", store: Store | None = None, **settings: object) -> httpx.AsyncClient:
        made = Settings(_env_file=None, **{"sources": "ipwhois"} | settings)  # type: ignore[arg-type, call-arg]
        app = create_app(made, store)
        if request.param == "without hits":
            app.user_middleware = [middleware for middleware in app.user_middleware if middleware.cls is not Hits]  # type: ignore[comparison-overlap]
        address = (peer, 12345)
        transport = httpx.ASGITransport(app, client=address)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://geoip")

    return make


@pytest.fixture(scope="session")
def one_ca(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CA bundle of one: to read the public ones takes a tenth of a second, for each application."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def running(
    monkeypatch: pytest.MonkeyPatch, one_ca: str
) -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """A client of an application with these settings, which is started and stopped."""
    monkeypatch.setattr("os.environ", {"SSL_CERT_FILE": one_ca})

    @asynccontextmanager
    async def run(**settings: object) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(Settings(_env_file=None, **settings))  # type: ignore[arg-type, call-arg]
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
            client.base_url = httpx.URL("http://geoip")
            yield client

    return run
