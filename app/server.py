"""The server: a socket, uvicorn, and the application."""

import errno
import gc
import logging
import math
import os
import resource
import socket
import sys

import uvicorn

from app import __version__
from app.api import create_app
from app.log import configure_logging
from app.protocol import Protocol
from app.settings import Settings, load_settings

BACKLOG = 100
"""Connections that wait to be accepted. asyncio accepts up to that many in one go, even beyond the limit."""

DESCRIPTORS = 4096
"""Open files that the service asks the system for: many give a process 1,024."""

RESERVED = 400
"""Descriptors that are not for clients: the backlog, up to 64 upstreams for each source, the store, files."""

logger = logging.getLogger("geoip")


def serve() -> int:
    """Serve until SIGTERM or SIGINT. Return 2 for a wrong setting, 1 for a port in use."""
    try:
        settings = load_settings()
        configure_logging(settings)
        app = create_app(settings)
    except ValueError as error:
        return _fail(error, 2)
    try:
        listener = listen(settings)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        return _fail(f"cannot listen on {settings.bind} port {settings.port}: {reason}", 1)
    descriptors = _raise_descriptors()
    Protocol.max_connections = min(Protocol.max_connections, descriptors - min(RESERVED, descriptors // 2))
    is_verbose = settings.log_level == "debug"
    config = uvicorn.Config(
        app,
        http=Protocol,
        loop="asyncio",
        ws="none",
        backlog=min(BACKLOG, descriptors // 8),  # so that one go leaves some
        log_config=None,
        log_level="debug" if is_verbose else "warning",
        access_log=is_verbose and settings.log_format == "text",
        proxy_headers=False,  # the application reads X-Forwarded-For, for the proxies of the settings
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.timeout) + 1,
    )
    logger.info("geoip %s on %s, asking %s", __version__, _url(settings), ", ".join(settings.sources))
    gc.freeze()  # the collector leaves out what the start made: a tenth of a hit's time
    gc.enable()  # app/__main__.py turns it off for the start
    uvicorn.Server(config).run(sockets=[listener])
    return 0  # pragma: no cover (uvicorn ends by raising the signal again)


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket. On `::` it takes IPv4 as well; without IPv6, `::` means `0.0.0.0`."""
    try:
        listener = _listen(str(settings.bind), settings.port)
    except OSError as error:
        if str(settings.bind) != "::" or error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise
        logger.warning("this host has no IPv6: GEOIP_BIND=:: is taken as 0.0.0.0")
        listener = _listen("0.0.0.0", settings.port)  # noqa: S104 (as the setting asks)
    # Connections inherit it: otherwise a body waits 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    is_dual = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=is_dual)


def _raise_descriptors() -> int:
    """Raise the limit of open files as far as it goes, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _url(settings: Settings) -> str:
    """Return the URL of the service for a browser on this machine."""
    if settings.bind.is_unspecified:
        return f"http://localhost:{settings.port}"
    return f"http://{f'[{settings.bind}]' if settings.bind.version == 6 else settings.bind}:{settings.port}"


def _fail(reason: object, status: int) -> int:
    print("geoip:", *str(reason).splitlines(), file=sys.stderr)  # one line, whatever a path has in it
    return status
