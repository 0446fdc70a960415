"""The health check. It imports and reads next to nothing, since it runs every few seconds."""

import os
import socket
import time

TIME_LIMIT = 0.5
"""Seconds for all of it."""


def healthcheck() -> int:
    """Ask the service for /healthz at each address where it may listen. Return 0 if one answers, else 1.

    It reads `PORT` and `GEOIP_BIND` from the environment, and nothing else.
    """
    deadline = time.monotonic() + TIME_LIMIT
    settings = {name.upper(): value for name, value in os.environ.items() if value}  # as the service reads them
    bind = settings.get("GEOIP_BIND", "0.0.0.0")  # noqa: S104 (the default of the service)
    if ":" in bind and not bind.strip("0:"):  # another way to write it
        bind = "::"
    # On :: it listens on IPv6 and IPv4, and on a host without IPv6 on IPv4 alone.
    hosts = {"0.0.0.0": ["127.0.0.1"], "::": ["::1", "127.0.0.1"]}.get(bind, [bind])  # noqa: S104 (only compared)
    port = settings.get("PORT", "8080")
    return 0 if any(_is_well(host, port, deadline) for host in hosts) else 1


def _is_well(host: str, port: str, deadline: float) -> bool:
    try:
        with socket.create_connection((host, int(port)), _time_left(deadline)) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            head = b""
            while b"\r\n" not in head:
                connection.settimeout(_time_left(deadline))
                part = connection.recv(1024)
                if not part:
                    return False
                head += part
    except (OSError, ValueError):
        return False
    return head.startswith(b"HTTP/1.1 204 ")


def _time_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
