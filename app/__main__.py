"""The command line: `python -m app` serves, `python -m app healthcheck` asks the running service how it is."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from app import __version__

if TYPE_CHECKING:
    from app.settings import Settings

DESCRIPTORS = 4096
"""Open files: a thousand clients, two thousand that wait to be accepted, upstreams."""

logger = logging.getLogger("geoip")


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Exit status: 0, 1 where the service cannot start or is not well, 2 for a wrong setting."""
    # Our handler is needed twice. From the first moment, before pydantic is imported and uvicorn installs its own: the
    # first process of a container is not ended by a signal that nobody handles. And when all is answered and uvicorn
    # raises the signal again: a name lookup that hangs would hold up any other end, since it is a thread that nobody
    # can stop.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    from app.settings import load_settings

    parser = argparse.ArgumentParser(prog="geoip", description="A geo-IP API. Its settings are environment variables.")
    parser.add_argument("command", nargs="?", choices=["serve", "healthcheck"], default="serve", help="default: serve")
    parser.add_argument("--version", action="version", version=__version__)
    command = parser.parse_args(arguments).command
    try:
        settings = load_settings()
    except ValueError as error:
        return _fail(error, 1 if command == "healthcheck" else 2)
    return healthcheck(settings) if command == "healthcheck" else serve(settings)


def healthcheck(settings: Settings) -> int:
    """0 if the service on this machine answers within half a second, else 1. The web framework is not imported."""
    from http.client import HTTPConnection, HTTPException

    host = settings.bind
    if host.is_unspecified:
        host = type(host)("::1" if isinstance(host, IPv6Address) else "127.0.0.1")
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, 0.5)  # in all: a socket's timeout would be for each part of an answer
    try:
        connection = HTTPConnection(str(host), settings.port)
        connection.request("GET", "/healthz")
        return 0 if connection.getresponse().status == 204 else 1
    except (OSError, HTTPException):
        return 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then answer what is under way."""
    from app.log import configure_logging

    configure_logging(settings)

    # To learn that no model here is one of Pydantic's first version, FastAPI imports all of that: an eighth of a start.
    # Where it cannot, it takes that for a no.
    sys.modules["pydantic.v1"] = None  # type: ignore[assignment]  # None is how an import is made to fail
    from app.api import create_app  # not before: a wrong setting is told at once, and healthcheck needs none of it

    try:
        app = create_app(settings)
    except ValueError as error:
        return _fail(error, 2)
    try:
        listener = _listen(settings)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        return _fail(f"cannot listen on {settings.bind} port {settings.port}: {reason}", 1)

    import uvicorn

    from app.protocol import Protocol

    debug = settings.log_level == "debug"
    config = uvicorn.Config(
        app,
        http=Protocol,
        loop="asyncio",
        ws="none",
        log_config=None,
        log_level="debug" if debug else "warning",
        access_log=debug and settings.log_format == "text",
        proxy_headers=False,  # X-Forwarded-For is read by the application, for the proxies that were named
        server_header=False,
        timeout_graceful_shutdown=settings.timeout + 0.5,  # type: ignore[arg-type]  # asyncio.wait_for takes a float
    )
    logger.info("geoip %s on %s, asking %s", __version__, _url(settings), ", ".join(settings.sources))
    gc.freeze()  # what is there by now stays: to look through it again and again cost a hit a tenth of its time
    uvicorn.Server(config).run(sockets=[listener])
    return 0  # pragma: no cover (uvicorn raises the signal again that ended it, and that ends in _leave)


def _listen(settings: Settings) -> socket.socket:
    """A listening socket, and descriptors for whom it lets in; on `::` it takes IPv4 as well."""
    # Many systems give a process 1,024 until it asks for more. With none left, asyncio logs a traceback for every place
    # in the backlog, again and again.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):  # the hard limit is lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    family = socket.AF_INET6 if isinstance(settings.bind, IPv6Address) else socket.AF_INET
    listener = socket.create_server(
        (str(settings.bind), settings.port),
        family=family,
        backlog=2048,
        dualstack_ipv6=family == socket.AF_INET6 and settings.bind.is_unspecified and socket.has_dualstack_ipv6(),
    )
    # Connections inherit it. asyncio sets it on sockets of its own making alone, and the server writes head and body of
    # an answer separately: without it the body waits for the client's delayed ACK, 40 ms on a kept connection.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(settings: Settings) -> str:
    """Where a browser on this machine finds the service."""
    if settings.bind.is_unspecified:
        return f"http://localhost:{settings.port}"
    return (
        f"http://[{settings.bind}]:{settings.port}"
        if settings.bind.version == 6
        else f"http://{settings.bind}:{settings.port}"
    )


def _fail(reason: object, status: int) -> int:
    print("geoip:", *str(reason).splitlines(), file=sys.stderr)  # one line, whatever a path has in it
    return status


def _too_late(*_: object) -> None:
    raise TimeoutError


def _leave(*_: object) -> None:
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
