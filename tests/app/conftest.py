"""Fixtures of the tests that run the service inside their own process."""

from collections.abc import Callable

import httpx
import pytest

from app.api import create_app
from app.settings import Settings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Callable[..., httpx.AsyncClient]:
    """A client of an application with these settings, which it sees at the address `peer`."""
    monkeypatch.setattr("os.environ", {})

    def make(peer: str | None = "127.0.0.1", **settings: object) -> httpx.AsyncClient:
        app = create_app(Settings(_env_file=None, **{"sources": "ipwhois"} | settings))  # type: ignore[arg-type, call-arg]
        address = (peer, 12345)
        transport = httpx.ASGITransport(app, client=address)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://geoip")

    return make
