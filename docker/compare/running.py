"""A running container: how soon it answers, and what it holds in memory."""

import re
import socket
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple
from uuid import uuid4

from engine import ToolError, docker

# The service's own limits; and the sample of places that ships with the app, which needs no network.
OPTIONS = "--read-only --cap-drop=ALL --security-opt=no-new-privileges --no-healthcheck --env=GEOIP_SOURCES=mmdb"
REQUESTS = 1000
START_LIMIT = 60.0  # seconds
UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class Sample(NamedTuple):
    start: float  # seconds from the start of the process to its first answer
    memory: int  # bytes, as `docker stats` says, after REQUESTS requests


def sample(image: str) -> Sample:
    """Start the image, ask it, and remove the container. ToolError if it does not start, or does not answer."""
    name = f"geoip-compare-{uuid4().hex[:12]}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        docker("run", "--detach", f"--name={name}", f"--publish=127.0.0.1:{port}:8080", *OPTIONS.split(), image)
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            start = _first_answer(name, connection)
            for _ in range(REQUESTS):
                _ask(connection)
        used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name).partition(" / ")[0]
        return Sample(start, _bytes(used))
    except (OSError, HTTPException) as error:
        raise ToolError(f"it stopped answering: {error or type(error).__name__}") from None
    finally:
        with suppress(ToolError):
            docker("rm", "--force", "--volumes", name)


def _first_answer(name: str, connection: HTTPConnection) -> float:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        for _ in range(50):
            try:
                _ask(connection)
            except (OSError, HTTPException):
                connection.close()
                time.sleep(0.005)
            else:
                answered = datetime.now(UTC)
                # Nine digits of a second: Python 3.11 reads six.
                begun = re.sub(r"([.]\d{6})\d+", r"\1", docker("inspect", "--format", "{{.State.StartedAt}}", name))
                return (answered - datetime.fromisoformat(begun)).total_seconds()
        if docker("inspect", "--format", "{{.State.Running}}", name) != "true":
            raise ToolError(f"it ended: {docker('logs', '--tail=1', name)}")
    raise ToolError(f"it does not answer within {START_LIMIT:.0f} s")


def _ask(connection: HTTPConnection) -> None:
    connection.request("GET", "/?ip=8.8.8.8")
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise HTTPException(f"status {answer.status}: {body[:200].decode(errors='replace')}")


def _bytes(text: str) -> int:
    """12.5MiB, as `docker stats` writes it."""
    number, unit = text.rstrip("KMGiBkb"), text.lstrip("0123456789. ").upper()
    if unit not in UNITS:
        raise ToolError(f"`docker stats` gives no memory figures: {text!r}")
    return round(float(number) * UNITS[unit])
