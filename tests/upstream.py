"""An upstream that the tests run on loopback: real sockets, and every fault that a provider may have."""

import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from app.address import IPAddress


@dataclass(frozen=True)
class Request:
    """A request that the upstream got."""

    target: str
    headers: dict[str, str]


Behaviour = Callable[[socket.socket, Request], None]
"""Answers, or fails to answer, one request on a connection that is closed afterwards."""


@dataclass
class Upstream:
    """A server, by default on loopback, with a behaviour; `requests` holds what it was asked."""

    behaviour: Behaviour
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    open: int = 0
    """Connections that neither side has closed."""
    accepted: int = 0
    """Connections since the start."""
    host: str = "127.0.0.1"

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server((self.host, 0), family=family, backlog=1024)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        host = f"[{self.host}]" if family == socket.AF_INET6 else self.host
        self.url = f"{'https' if self.tls else 'http'}://{host}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with suppress(OSError):  # it wakes the thread on Linux; macOS refuses it, and wakes the thread at the close
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def wait(self, requests: int = 1) -> None:
        """Return when so many requests have come."""
        deadline = time.monotonic() + 10
        while len(self.requests) < requests:
            assert time.monotonic() < deadline, f"{len(self.requests)} requests came"
            time.sleep(0.01)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._count(1)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _count(self, change: int) -> None:
        with self._lock:
            self.open += change

    def _answer(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(30)
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            start, *lines = head.decode("latin1").split("\r\n\r\n")[0].split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            request = Request(start.split(" ")[1], headers)
            self.requests.append(request)
            self.behaviour(connection, request)
        except OSError:
            pass  # the service hung up: some behaviours wait for that
        finally:
            connection.close()
            self._count(-1)


def answering(
    body: bytes | object,
    status: int = 200,
    headers: dict[str, str] | None = None,
    *,
    after: float = 0,
) -> Behaviour:
    """Answer with a body, JSON unless it is bytes, after some seconds."""

    def answer(connection: socket.socket, _: Request) -> None:
        time.sleep(after)
        connection.sendall(http_answer(body, status, headers))

    return answer


def http_answer(body: bytes | object, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of an HTTP answer that ends its connection."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (fields | (headers or {})).items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + content


def ipwhois(connection: socket.socket, request: Request) -> None:
    """Answer as ipwho.is does, about any address; 9.9.9.9 is the caller's."""
    connection.sendall(http_answer(ipwhois_answer(request.target.strip("/") or "9.9.9.9")))


def ipwhois_answer(ip: str | IPAddress, **other: object) -> dict[str, object]:
    """The answer of ipwho.is about an address."""
    return {
        "ip": str(ip),
        "success": True,
        "type": "IPv4",
        "country": "United States",
        "country_code": "US",
        "region": "California",
        "city": "Mountain View",
        "latitude": 37.3860517,
        "longitude": -122.0838511,
        "postal": "94039",
        "connection": {"asn": 15169, "org": "Google LLC", "isp": "Google LLC", "domain": "google.com"},
        "timezone": {"id": "America/Los_Angeles", "utc": "-07:00"},
    } | other


def silent(connection: socket.socket, _: Request) -> None:
    """Take the request and say nothing until the other side gives up."""
    connection.recv(1)


def sending(*parts: bytes, then: Behaviour | None = None, pause: float = 0) -> Behaviour:
    """Send bytes, HTTP or not, with a pause of some seconds between the parts; then close, unless told otherwise."""

    def send(connection: socket.socket, request: Request) -> None:
        for part in parts:
            connection.sendall(part)
            if pause and select.select([connection], [], [], pause)[0]:
                return  # the service hung up
        if then:
            then(connection, request)

    return send


def reset(connection: socket.socket, _: Request) -> None:
    """Break the connection the hard way (RST)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
